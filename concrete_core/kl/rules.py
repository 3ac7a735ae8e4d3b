"""Nodes and weights of the two quadratures, and the series of d coth(d/2) - 2."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from concrete_core.kl.tables import FIRST_POINT, LAST_POINT, SPACING, lattice

# d coth(d/2) - 2 = sum_k c_k d^(2k) for |d| < 2 pi, with c_k = 2 B_(2k) / (2k)! and
# Bernoulli's numbers B.
COTH_SERIES = (
    1 / 6,
    -1 / 360,
    1 / 15120,
    -1 / 604800,
    1 / 23950080,
    -691 / 653837184000,
    1 / 37362124800,
    -3617 / 5335311421440000,
)

# Far to the right the integrand falls off like e^(-u/r), so only large r count, for
# which it varies slowly: every fourth point will do there. A smooth cutoff at _CUTOFF
# hands over from all points to every fourth one.
_STRIDE = 4
_CUTOFF = 16.0
_CUTOFF_WIDTH = 3.0
_RIGHT_END = 80.0
# The integrand starts like s^2, which is below rounding for log s below this.
_LEFT_END = -18.0
_SMALLEST_WEIGHT = 1e-14

# A class whose relative log-probability is below this one adds nothing where the
# integrand counts.
LOWEST_LOG = -100.0
# A polynomial reaches one spacing to each side, so relative log-probabilities are
# rounded to panels of double spacings.
PANEL_WIDTH = 2 * SPACING

# Midpoint rule over a logistic variable L > 0. The integrand is analytic for
# |Im L| < pi / max(1, r) and falls off like e^-L.
_LOGISTIC_SPACING = 0.2
_LOGISTIC_END = 30.0


class LatticeRule(NamedTuple):
    """Points of the lattice, counted from its first, and their weights."""

    index: NDArray
    weights: NDArray


class Panels(NamedTuple):
    """Panels of the classes' relative log-probabilities, as shifts on the lattice."""

    first: int  # in panels
    points: NDArray  # that a node is shifted to by a panel, (panels, nodes)


class LogisticRule(NamedTuple):
    """Values of a logistic variable, and their weights, which sum to one."""

    noise: NDArray
    weights: NDArray


@lru_cache
def lattice_rule(num_classes: int) -> LatticeRule:
    """Return the trapezoid rule for the integral over u = log(s / n).

    The integrand is analytic and bounded for |Im u| < pi/2, where the real part of s is
    positive, so that the rule is exact to about exp(-pi^2 / SPACING).

    Args:
        num_classes: Number of classes n >= 2.

    Example:
        >>> rule = lattice_rule(2)
        >>> rule.index.shape == rule.weights.shape
        True
    """
    u = lattice()
    of_all_points = 0.5 * np.array(
        [math.erfc((point - _CUTOFF) / _CUTOFF_WIDTH) for point in u]
    )
    is_coarse = np.arange(FIRST_POINT, LAST_POINT + 1) % _STRIDE == 0
    weights = SPACING * (of_all_points + _STRIDE * is_coarse * (1 - of_all_points))
    weights *= (u >= _LEFT_END - math.log(num_classes)) & (u <= _RIGHT_END)
    (index,) = np.nonzero(weights > _SMALLEST_WEIGHT)
    return LatticeRule(index, weights[index])


@lru_cache
def panels(num_classes: int) -> Panels:
    """Return all panels from `LOWEST_LOG` to log n, the largest log(n c_k).

    Args:
        num_classes: Number of classes n >= 2.

    Example:
        >>> num_panels, num_nodes = panels(2).points.shape
        >>> num_panels
        127
    """
    first = math.floor(LOWEST_LOG / PANEL_WIDTH)
    last = math.ceil(math.log(num_classes) / PANEL_WIDTH)
    shifts = 2 * np.arange(first, last + 1)[:, None]
    # Left of the lattice the log-survival function is zero to rounding, as it is at the
    # first point.
    points = np.maximum(lattice_rule(num_classes).index + shifts, 0)
    return Panels(first, points)


@lru_cache
def logistic_rule() -> LogisticRule:
    """Return the midpoint rule for means of even functions of a logistic variable.

    Example:
        >>> rule = logistic_rule()
        >>> round(float(rule.weights @ rule.noise**2), 6)  # pi^2 / 3
        3.289868
    """
    noise = np.arange(_LOGISTIC_SPACING / 2, _LOGISTIC_END, _LOGISTIC_SPACING)
    density = np.exp(-noise) / (1 + np.exp(-noise)) ** 2
    return LogisticRule(noise, 2 * _LOGISTIC_SPACING * density)
