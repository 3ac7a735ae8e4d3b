"""Precision of the inputs, and temperatures as numbers or arrays.

Counterpart: ``pyro_concrete.ops.precision``.
"""

import math

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

Temperature = ArrayLike

# A product of matrices in float32. What JAX does by default on GPUs and TPUs rounds the
# factors to 11 or 8 bits: good for the weights of a network, too few for a density.
FULL_PRECISION = lax.Precision.HIGHEST


def promote_half(x: ArrayLike) -> Array:
    """Return half precision in float32, everything else unchanged."""
    x = jnp.asarray(x)
    if x.dtype in (jnp.float16, jnp.bfloat16):
        return x.astype(jnp.float32)
    return x


def with_class_dim(temperature: Temperature) -> ArrayLike:
    """Return the temperature with a class axis where it has a batch shape."""
    if jnp.ndim(temperature):
        return jnp.expand_dims(promote_half(temperature), -1)
    return temperature


def log_temperature(temperature: Temperature) -> Array | float:
    """Return the log of a temperature, array or number."""
    if isinstance(temperature, float | int):
        return math.log(temperature)
    return jnp.log(promote_half(temperature))
