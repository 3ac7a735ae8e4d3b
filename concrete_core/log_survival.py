"""Constants for KLs at unequal temperatures: the log-survival function of two Gumbels.

With unit exponentials E and E', s = e^u and a ratio of temperatures r > 0, the KL needs
of each class

    psi(u; r) = log P(E' > s E^r) = log E exp(-s E^r).

At r = 1 it is -log(1 + s). At other r it has no closed form, but it is smooth in u and
in log r. So NumPy tabulates it once per process, at the points of a lattice, as
polynomials in u about each point whose coefficients are Chebyshev series in log r. A
backend evaluates the series at its own r, and can differentiate in u and in r.
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
# First and last point of the lattice, in spacings.
FIRST = -100
LAST = 220
NUM_COEFFICIENTS = 10  # of a polynomial
_NUM_TERMS = 44  # of a Chebyshev series; even, so that no node is at r = 1

# Far to the right the integrand decays like e^(-u/r), so that only large r matter, for
# which it varies slowly: every fourth point is enough there. A smooth cutoff passes
# from all points to those.
_COARSE_STRIDE = 4
_CUTOFF = 16.0
_CUTOFF_WIDTH = 3.0
_LAST_NODE = 80.0


class Nodes(NamedTuple):
    """Nodes of a quadrature over u.

    Attributes:
        index: Points of the lattice, counted from its first.
        weights: Their weights.
    """

    index: NDArray
    weights: NDArray


def lattice() -> NDArray:
    """Return the points u of the lattice."""
    return SPACING * np.arange(FIRST, LAST + 1)


@lru_cache
def nodes(num_classes: int) -> Nodes:
    """Return a quadrature over u = log(s / n).

    Left of the first node s^2 is below rounding.

    Args:
        num_classes: Number of classes n, >= 2.
    """
    u = lattice()
    # The weight of the fine quadrature falls from one to zero at the cutoff.
    fine = 0.5 * np.array([math.erfc((x - _CUTOFF) / _CUTOFF_WIDTH) for x in u])
    is_coarse_point = np.arange(FIRST, LAST + 1) % _COARSE_STRIDE == 0
    weights = SPACING * (fine + _COARSE_STRIDE * is_coarse_point * (1 - fine))
    weights *= (u >= -18 - math.log(num_classes)) & (u <= _LAST_NODE)
    (index,) = np.nonzero(weights > 1e-14)
    return Nodes(index, weights[index])


@lru_cache
def series() -> NDArray:
    """Return Chebyshev series of the polynomials: (terms, points, coefficients).

    Multiply them by softplus(u + log(r Gamma(1 + r))) / r at their point u.
    """
    values = [_polynomials(r) / _scale(r) for r in MAX_RATIO ** _chebyshev_nodes()]
    return _chebyshev_series(np.array(values))


@lru_cache
def equal() -> NDArray:
    """Return the polynomials at r = 1: (points, coefficients)."""
    return _polynomials(1.0)


@lru_cache
def floor_series(num_classes: int) -> NDArray:
    """Return a Chebyshev series of KL(r) / (log r)^2 at equal logits.

    Its variable is log r / log MAX_RATIO. The division leaves a smooth function, for
    the KL at equal logits is zero at r = 1, and so is its slope.

    Args:
        num_classes: Number of classes n, >= 2.
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
    """Evenly spaced u, and psi there in a row for each Chebyshev node."""
    u = np.arange(-60, 36 * MAX_RATIO, 0.3)
    return u, np.array([_psi(u, r) for r in MAX_RATIO ** _chebyshev_nodes()])


def _polynomials(r: float) -> NDArray:
    """Polynomials that interpolate psi at the Chebyshev nodes around each point."""
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
    """The function psi, with an error of rounding relative to min(e^u, 1)."""
    if r == 1:
        return -np.logaddexp(0, u)
    is_left = u <= 0
    values = np.empty_like(u)
    values[is_left] = _psi_left(u[is_left], r)
    values[~is_left] = _psi_right(u[~is_left], r)
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
