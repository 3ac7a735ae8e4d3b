"""Series that keep their digits near zero, and constants as arrays.

Counterpart: ``pyro_concrete.ops.kl.series``.
"""

import math

import jax.numpy as jnp
from jax import Array
from numpy.typing import NDArray

from concrete_core.kl.rules import COTH_SERIES
from concrete_core.kl.tables import MAX_RATIO


def constant(values: NDArray, like: Array) -> Array:
    """Return an array with the dtype of another."""
    return jnp.asarray(values, like.dtype)


def chebyshev_polynomials(log_ratio: Array, count: int) -> Array:
    """Return Chebyshev polynomials of log r / log MAX_RATIO, along a new last axis."""
    x = log_ratio / math.log(MAX_RATIO)
    # T_(j+1)(x) = 2 x T_j(x) - T_(j-1)(x)
    polynomials = [jnp.ones_like(x), x]
    while len(polynomials) < count:
        polynomials.append(2 * x * polynomials[-1] - polynomials[-2])
    return jnp.stack(polynomials, -1)


def coth_kl(difference: Array) -> Array:
    """Return d coth(d/2) - 2, by its series in d^2 where |d| < 1."""
    is_small = jnp.abs(difference) < 1
    square = jnp.square(jnp.where(is_small, difference, 0.0))
    series = jnp.zeros_like(square)
    for coefficient in reversed(COTH_SERIES):
        series = (series + coefficient) * square
    # One in place of small numbers keeps the gradient of the other branch finite.
    d = jnp.where(is_small, 1.0, difference)
    return jnp.where(is_small, series, d / jnp.tanh(d / 2) - 2)


def exp_minus_linear(x: Array) -> Array:
    """Return e^x - 1 - x to rounding, by its Taylor series where |x| < 0.1."""
    is_small = jnp.abs(x) < 0.1
    small_x = jnp.where(is_small, x, 0.0)
    series = jnp.zeros_like(small_x)
    for j in range(11, 1, -1):
        series = series * small_x + 1 / math.factorial(j)
    large_x = jnp.where(is_small, 0.0, x)
    return jnp.where(
        is_small, jnp.square(small_x) * series, jnp.expm1(large_x) - large_x
    )
