"""The logarithm of E exp(-s E^r), for a unit exponential variable E.

The KL of two Concretes whose temperatures have the ratio r needs this function of
u = log s for every class. As a unit exponential E' exceeds x with probability e^-x,

    log_survival(u, r) = log E exp(-s E^r) = log P(E' > s E^r),

the log-probability that E' survives s E^r. It is -log(1 + s) at r = 1 and has no closed
form elsewhere. With z = log E it is an integral over the real line,

    E exp(-s E^r) = integral of exp(-e^(u + r z)) exp(z - e^z) dz,

of an analytic integrand that vanishes at both ends, for which the trapezoid rule
converges exponentially.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# The integrand falls off like e^z on the left: e^-34 is below rounding. On the right it
# falls off like exp(-e^z), and exp(-e^3.8) is.
_LEFT_END = -34.0
_RIGHT_END = 3.8
# Spacing of the trapezoid rule, for the narrower of the two exponentials.
_SPACING = 0.25


class _Line(NamedTuple):
    """Equidistant points on the real line, and their spacing."""

    points: NDArray
    spacing: float


def log_survival(log_rates: NDArray, ratio: float) -> NDArray:
    """Return log E exp(-s E^r) to rounding, relative to min(s, 1).

    Args:
        log_rates: Numbers u = log s, in one dimension.
        ratio: The power r > 0.

    Example:
        >>> log_survival(np.array([0.0]), 1.0).round(4).tolist()  # -log 2
        [-0.6931]
    """
    if ratio == 1:
        return -np.logaddexp(0, log_rates)
    is_left = log_rates <= 0
    values = np.empty_like(log_rates)
    values[is_left] = _log_survival_left(log_rates[is_left], ratio)
    values[~is_left] = _log_survival_right(log_rates[~is_left], ratio)
    return values


def _log_survival_left(log_rates: NDArray, ratio: float) -> NDArray:
    # For small s the result is close to zero. Integrating exp(-s E^r) - 1, which has
    # one sign, keeps the digits that subtracting from one would lose.
    line = _line(ratio, _RIGHT_END)
    z = line.points
    density = line.spacing * np.exp(z - np.exp(z))
    minus_death = np.expm1(-np.exp(log_rates[:, None] + ratio * z)) @ density
    return np.log1p(minus_death)


def _log_survival_right(log_rates: NDArray, ratio: float) -> NDArray:
    # For large s the result falls like -u/r. Substituting E = s^(-1/r) Y takes the
    # power out of the integral:
    #     E exp(-s E^r) = s^(-1/r) int exp(-Y^r - s^(-1/r) Y) dY.
    line = _line(ratio, _RIGHT_END / ratio)
    z = line.points  # log Y
    weights = line.spacing * np.exp(z - np.exp(ratio * z))
    integral = np.exp(-np.exp(z - log_rates[:, None] / ratio)) @ weights
    return np.log(integral) - log_rates / ratio


def _line(ratio: float, right_end: float) -> _Line:
    spacing = _SPACING * min(1, 1 / ratio)
    return _Line(np.arange(_LEFT_END, right_end, spacing), spacing)


def log_small_rate_slope(ratio: float) -> float:
    """Return log(r Gamma(1 + r)).

    For small s, E exp(-s E^r) is 1 - s Gamma(1 + r). So softplus(u + this) / r equals
    minus the log-survival function to first order on the left, and on the right both
    grow like u / r: the quotient of the two is bounded and smooth.

    Args:
        ratio: The power r > 0.

    Example:
        >>> log_small_rate_slope(1.0)
        0.0
    """
    return math.log(ratio) + math.lgamma(1 + ratio)
