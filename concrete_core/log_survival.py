"""Constants for KLs at unequal temperatures: the log-survival function of two Gumbels.

With unit exponentials E and E', s = e^u and r > 0, what the KL needs of a class is

    psi(u; r) = log P(E' > s E^r) = log E exp(-s E^r).

At r = 1 it is -log(1 + s). At other r it has no closed form, but it is smooth in u and
in log r. So it is tabulated by NumPy once a process, at points of a lattice, as
polynomials in u about the point, whose coefficients are Chebyshev series in log r. A
host evaluates the series at its own r, and so differentiates in u and in r.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

# Ratios r of the temperatures that the tables hold: from 1 / MAX_RATIO to MAX_RATIO.
MAX_RATIO = 4.0
# The trapezoid rule over u is exact to about exp(-pi^2 / SPACING): the integrand is
# analytic and bounded for |Im u| < pi/2. Polynomials reach one spacing to each side.
SPACING = 0.4
FIRST, LAST = -100, 220  # the lattice, in spacings
NUM_COEFFICIENTS = 10  # of a polynomial
_NUM_TERMS = 44  # of a Chebyshev series; even, so that no node is at r = 1

# Far to the right the integrand falls off like e^(-u/r) and only large r count, which
# turn slowly: every fourth point will do. A smooth cut hands over from all points.
_COARSE, _CUT, _WIDTH = 4, 16.0, 3.0
_END = 80.0


class Nodes(NamedTuple):
    """Points of the lattice, in spacings from its first, and weights over u there."""

    index: NDArray
    weights: NDArray


def lattice() -> NDArray:
    """The points u."""
    return SPACING * np.arange(FIRST, LAST + 1)


@lru_cache
def nodes(num_classes: int) -> Nodes:
    """Quadrature over u = log(s / n); s^2 is below rounding left of the first node."""
    u = lattice()
    share = 0.5 * np.array([math.erfc((x - _CUT) / _WIDTH) for x in u])
    coarse = np.arange(FIRST, LAST + 1) % _COARSE == 0
    weights = SPACING * (share + _COARSE * coarse * (1 - share))
    weights *= (u >= -18 - math.log(num_classes)) & (u <= _END)
    (index,) = np.nonzero(weights > 1e-14)
    return Nodes(index, weights[index])


@lru_cache
def series() -> NDArray:
    """Chebyshev series of the polynomials, (terms, points, coefficients).

    They are to be multiplied by softplus(u + log(r Gamma(1 + r))) / r at their point u.
    """
    values = [_polynomials(r) / _scale(r) for r in MAX_RATIO ** _chebyshev_nodes()]
    return _chebyshev_series(np.array(values))


@lru_cache
def equal() -> NDArray:
    """The polynomials at r = 1, (points, coefficients)."""
    return _polynomials(1.0)


@lru_cache
def floor_series(num_classes: int) -> NDArray:
    """Chebyshev series of KL(r) / (log r)^2 at equal logits, in log r / log MAX_RATIO.

    The KL at equal logits is zero at r = 1, and so is its slope.
    """
    n = num_classes
    u, log_survival = _log_survival()
    # E log(S / n) = int (exp(-s) - E exp(-s S / n)) ds / s, S a sum of n powers E^r
    integrand = np.exp(-np.exp(u + math.log(n))) - np.exp(n * log_survival)
    mean_log = (u[1] - u[0]) * integrand.sum(-1)
    log_r = math.log(MAX_RATIO) * _chebyshev_nodes()
    digamma = math.fsum(1 / j for j in range(1, n)) - np.euler_gamma
    constant = np.euler_gamma * n * np.expm1(log_r) - (n - 1) * log_r
    floor = constant + n * (mean_log + math.log(n) - digamma)
    return _chebyshev_series(floor / log_r**2)


@lru_cache
def _log_survival() -> tuple[NDArray, NDArray]:
    """Even steps in u, and psi there, a row for each Chebyshev node."""
    u = np.arange(-60, 36 * MAX_RATIO, 0.3)
    return u, np.array([_psi(u, r) for r in MAX_RATIO ** _chebyshev_nodes()])


def _polynomials(r: float) -> NDArray:
    # Each interpolates psi at the Chebyshev nodes around its point.
    count = NUM_COEFFICIENTS
    local = SPACING * np.cos(np.pi * (np.arange(count) + 0.5) / count)
    u = lattice()[:, None] + local
    values = _psi(u.ravel(), r).reshape(u.shape) / _scale(r)
    vander = np.vander(local, increasing=True)
    return values @ np.linalg.inv(vander).T * _scale(r)


def _scale(r: float) -> NDArray:
    return np.logaddexp(0, lattice() + _shift(r))[:, None] / r


def _chebyshev_nodes() -> NDArray:
    return np.cos(np.pi * (np.arange(_NUM_TERMS) + 0.5) / _NUM_TERMS)


def _chebyshev_series(values: NDArray) -> NDArray:
    """Series through the values at the Chebyshev nodes, along the first axis."""
    basis = chebyshev.chebvander(_chebyshev_nodes(), _NUM_TERMS - 1)
    basis[:, 0] /= 2
    return np.tensordot(basis.T, values, 1) * 2 / _NUM_TERMS


def _shift(r: float) -> float:
    return math.log(r) + math.lgamma(1 + r)


def _psi(u: NDArray, r: float) -> NDArray:
    """Return psi to rounding, relative to min(e^u, 1)."""
    if r == 1:
        return -np.logaddexp(0, u)
    low = u <= 0
    values = np.empty_like(u)
    values[low], values[~low] = _psi_left(u[low], r), _psi_right(u[~low], r)
    return values


def _psi_left(u: NDArray, r: float) -> NDArray:
    # E (1 - exp(-s E^r)) does not cancel.
    z, step = _line(r, 3.8)
    weight = step * np.exp(z - np.exp(z))
    return np.log1p(np.expm1(-np.exp(u[:, None] + r * z)) @ weight)


def _psi_right(u: NDArray, r: float) -> NDArray:
    # With E = s^(-1/r) Y the power s^(-1/r) comes out of the integral.
    z, step = _line(r, 3.8 / r)
    weight = step * np.exp(z - np.exp(r * z))
    return np.log(np.exp(-np.exp(z - u[:, None] / r)) @ weight) - u / r


def _line(r: float, high: float) -> tuple[NDArray, float]:
    """Points z = log E for a trapezoid rule, and their spacing."""
    step = 0.25 * min(1, 1 / r)
    return np.arange(-34, high, step), step
