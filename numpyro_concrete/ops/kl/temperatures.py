"""The ratio of two temperatures, and the KL of two Concretes at equal logits.

Counterpart: ``pyro_concrete.ops.kl.temperatures``.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from concrete_core.kl import tables
from concrete_core.kl.tables import MAX_RATIO
from numpyro_concrete.ops.kl.series import chebyshev_polynomials, constant
from numpyro_concrete.ops.precision import FULL_PRECISION, Temperature


class TableRatio(NamedTuple):
    """A ratio of temperatures, replaced by one where the tables do not reach it."""

    values: Array
    is_in_table: Array


def temperature_ratio(
    temperature_p: Temperature | None, temperature_q: Temperature | None, like: Array
) -> Array | None:
    """Return t_q / t_p, or None for one temperature, whatever its value is."""
    if (temperature_p is None) != (temperature_q is None):
        raise ValueError("temperature_p and temperature_q: give both, or neither")
    if temperature_p is temperature_q:
        return None
    ratio = temperature_q / temperature_p  # ty: ignore[unsupported-operator]
    if not isinstance(ratio, Array) and np.all(np.equal(ratio, 1)):
        return None  # two numbers, known also under jit
    return jnp.asarray(ratio, like.dtype)


def ratio_in_table(ratio: Array) -> TableRatio:
    """Return a ratio with the information whether the tables reach it."""
    # A ratio of two rounded temperatures may miss its end by a rounding error.
    end = MAX_RATIO * (1 + 4 * jnp.finfo(ratio.dtype).eps)
    is_in_table = (ratio <= end) & (ratio >= 1 / end)
    return TableRatio(jnp.where(is_in_table, ratio, 1.0), is_in_table)


def floor_kl(ratio: Array, num_classes: int) -> Array:
    """Return the KL at equal logits, D_n(r); it and its slope are zero at r = 1."""
    log_ratio = jnp.log(ratio)
    series = constant(tables.floor_series(num_classes), ratio)
    polynomials = chebyshev_polynomials(log_ratio, len(series))
    return jnp.square(log_ratio) * jnp.matmul(
        polynomials, series, precision=FULL_PRECISION
    )
