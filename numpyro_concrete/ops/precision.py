"""What the maths shares: precision, and temperatures as numbers or arrays.

Counterpart: ``pyro_concrete.ops.precision``.
"""

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

Temperature = ArrayLike


def wide(x: ArrayLike) -> Array:
    """Return half precision in float32, everything else as it is."""
    x = jnp.asarray(x)
    half = x.dtype in (jnp.float16, jnp.bfloat16)
    return x.astype(jnp.float32) if half else x


def per_class(temperature: Temperature) -> ArrayLike:
    """The temperature with a class axis where it has a batch shape."""
    if jnp.ndim(temperature):
        return jnp.expand_dims(wide(temperature), -1)
    return temperature


def log(temperature: Temperature) -> Array | float:
    """The log of a temperature, array or number."""
    if isinstance(temperature, float | int):
        return math.log(temperature)
    return jnp.log(wide(temperature))
