"""Checks of the parameters: the temperature, and probabilities or logits.

Counterpart: ``pyro_concrete.distributions.parameters``.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from numpyro.util import not_jax_tracer

from numpyro_concrete import ops
from numpyro_concrete.distributions.constraints import Size


def check_temperature(temperature: ArrayLike, site: str = "") -> None:
    """Raise a ValueError if a temperature is known not to be positive.

    Traced arrays pass. What is known is checked under `jit` as well, and whatever
    `validate_args` says.

    Args:
        temperature: The temperature to check.
        site: Name of the sample site, for the message.

    Raises:
        ValueError: If a number is zero, negative, infinite or NaN.

    Example:
        >>> check_temperature(0.5)
    """
    if not not_jax_tracer(temperature):
        return
    # Under jit, JAX would trace what is known.
    known = np.asarray(temperature)
    if not ((known > 0) & np.isfinite(known)).all():
        at = f" at site {site!r}" if site else ""
        raise ValueError(
            f"temperature{at} must be positive and finite, but is {temperature!r}; "
            "2/3 is a good first choice"
        )


def batch_shape_with(temperature: ArrayLike, batch_shape: Size) -> Size:
    """Return the batch shape that a temperature and a parameter have together.

    Args:
        temperature: Scalar, or broadcastable to the batch shape.
        batch_shape: Batch shape of the probabilities or logits.

    Raises:
        ValueError: If they do not broadcast.
    """
    try:
        return jnp.broadcast_shapes(jnp.shape(temperature), batch_shape)
    except ValueError:
        raise ValueError(
            f"temperature of shape {jnp.shape(temperature)} does not broadcast with "
            f"the batch shape {batch_shape}"
        ) from None


def as_logits(
    name: str,
    probs: ArrayLike | None,
    logits: ArrayLike | None,
    class_dims: int,
    validate: bool,
) -> Array:
    """Return the logits that `probs` or `logits` stand for, with their shape checked.

    Args:
        name: The distribution, for messages.
        probs: Class weights >= 0, or probabilities of one in [0, 1].
        logits: Unnormalised log-probabilities, or log-odds of one.
        class_dims: 1 if classes lie on the last axis, 0 for a two-valued variable.
        validate: Whether to look at values that are known.

    Raises:
        ValueError: If neither or both are given, values are out of range, or there are
            fewer than two classes.
    """
    if (probs is None) == (logits is None):
        raise ValueError("give exactly one of probs and logits")
    given = jnp.asarray(logits if probs is None else probs)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        given = given.astype(jnp.result_type(float))
    if class_dims and (not given.ndim or given.shape[-1] < 2):
        raise ValueError(
            f"a {name} needs two classes or more along the last axis of its parameter, "
            f"whose shape is {given.shape}"
        )
    # Under jit, JAX would trace what is known.
    known = np.asarray(given) if validate and not_jax_tracer(given) else None
    if probs is None:
        if known is not None and not np.isfinite(known).all():
            raise ValueError(f"{name} got logits that are not finite")
        return given
    upper = math.inf if class_dims else 1.0
    if known is not None and not ((known >= 0) & (known <= upper)).all():
        raise ValueError(f"{name} got probs outside [0, {upper:g}]")
    return ops.categorical_logits(given) if class_dims else ops.bernoulli_logits(given)
