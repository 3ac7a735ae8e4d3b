"""The log-survival function as tables of polynomials, and the KL at equal logits.

The function is smooth in u and in log r. So it is stored, at every point of a lattice
over u, as a polynomial in the distance from the point, whose coefficients are Chebyshev
series in log r. A backend evaluates the series at its own r and the polynomials at its
own u, and so differentiates in both.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from concrete_core.kl.log_survival import log_small_rate_slope, log_survival
from concrete_core.special import harmonic_number

# The tables hold ratios r of temperatures from 1 / MAX_RATIO to MAX_RATIO.
MAX_RATIO = 4.0

# The lattice: u = SPACING * j with FIRST_POINT <= j <= LAST_POINT.
SPACING = 0.4
FIRST_POINT = -100
LAST_POINT = 220

# A polynomial reaches one spacing to each side of its point.
NUM_COEFFICIENTS = 10
# Even, so that no Chebyshev node is at r = 1, where `floor_series` divides 0 by 0.
_NUM_TERMS = 44


def lattice() -> NDArray:
    """Return the points u of the lattice."""
    return SPACING * np.arange(FIRST_POINT, LAST_POINT + 1)


@lru_cache
def polynomials_at_equal_temperatures() -> NDArray:
    """Return the polynomials at r = 1, of shape (points, coefficients)."""
    return _polynomials(1.0)


@lru_cache
def polynomial_series() -> NDArray:
    """Return the Chebyshev series of the polynomials, (terms, points, coefficients).

    A series is of the polynomial divided by softplus(u + log(r Gamma(1 + r))) / r at
    its point u, which takes the growth out.
    """
    scaled = [_polynomials(r) / _growth(r) for r in _chebyshev_ratios()]
    return _series_through(np.array(scaled))


@lru_cache
def floor_series(num_classes: int) -> NDArray:
    """Return the Chebyshev series of KL(r) / (log r)^2 at equal logits.

    The variable is log r / log MAX_RATIO. The KL at equal logits and its slope are zero
    at r = 1, so the quotient is smooth there.

    Args:
        num_classes: Number of classes n >= 2.

    Example:
        >>> floor_series(2).shape
        (44,)
    """
    n = num_classes
    survival = _survival_at_chebyshev_ratios()
    # With S a sum of n independent powers E^r, Frullani's integral gives
    # E log(S / n) = int (exp(-s) - E exp(-s S / n)) ds / s, here over u = log(s / n).
    exponential = np.exp(-np.exp(survival.log_rates + math.log(n)))
    survival_of_sum = np.exp(n * survival.values)
    mean_log = survival.spacing * (exponential - survival_of_sum).sum(-1)
    log_r = math.log(MAX_RATIO) * _chebyshev_points()
    digamma = harmonic_number(n - 1) - np.euler_gamma
    constant = np.euler_gamma * n * np.expm1(log_r) - (n - 1) * log_r
    floor = constant + n * (mean_log + math.log(n) - digamma)
    return _series_through(floor / log_r**2)


class _Survival(NamedTuple):
    """The log-survival function on a grid over u, with a row for each ratio."""

    log_rates: NDArray
    spacing: float
    values: NDArray


@lru_cache
def _survival_at_chebyshev_ratios() -> _Survival:
    log_rates = np.arange(-60, 36 * MAX_RATIO, 0.3)
    values = np.array([log_survival(log_rates, r) for r in _chebyshev_ratios()])
    return _Survival(log_rates, log_rates[1] - log_rates[0], values)


def _polynomials(ratio: float) -> NDArray:
    # Each interpolates the function at the Chebyshev nodes around its point.
    angles = np.pi * (np.arange(NUM_COEFFICIENTS) + 0.5) / NUM_COEFFICIENTS
    distances = SPACING * np.cos(angles)
    log_rates = lattice()[:, None] + distances
    values = log_survival(log_rates.ravel(), ratio).reshape(log_rates.shape)
    # Solved for values of one size: far left they would be lost to rounding.
    growth = _growth(ratio)
    vandermonde = np.vander(distances, increasing=True)
    return (values / growth) @ np.linalg.inv(vandermonde).T * growth


def _growth(ratio: float) -> NDArray:
    """Softplus(u + log(r Gamma(1 + r))) / r at the lattice, as a column."""
    return np.logaddexp(0, lattice() + log_small_rate_slope(ratio))[:, None] / ratio


def _chebyshev_points() -> NDArray:
    """The Chebyshev nodes of the interval [-1, 1]."""
    return np.cos(np.pi * (np.arange(_NUM_TERMS) + 0.5) / _NUM_TERMS)


def _chebyshev_ratios() -> NDArray:
    return MAX_RATIO ** _chebyshev_points()


def _series_through(values: NDArray) -> NDArray:
    """The Chebyshev series through values at the nodes, along the first axis."""
    # The Chebyshev polynomials are orthogonal over their nodes, so a coefficient is a
    # mean; that of the constant counts half.
    basis = chebyshev.chebvander(_chebyshev_points(), _NUM_TERMS - 1)
    basis[:, 0] /= 2
    return np.tensordot(basis.T, values, 1) * 2 / _NUM_TERMS
