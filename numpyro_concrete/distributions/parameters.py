"""Validation of the parameters: the temperature, and probabilities or logits.

Counterpart: ``pyro_concrete.distributions.parameters``.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from numpyro.util import not_jax_tracer

from concrete_core import parameter_errors
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
    # By NumPy: under jit, JAX would trace what is known.
    values = np.asarray(temperature)
    if not ((values > 0) & np.isfinite(values)).all():
        raise parameter_errors.temperature_error(temperature, site)


def batch_shape_with(temperature: ArrayLike, batch_shape: Size) -> Size:
    """Return the batch shape that a temperature and a parameter have together.

    Args:
        temperature: Scalar, or broadcastable to the batch shape.
        batch_shape: Batch shape of the probabilities or logits.

    Raises:
        ValueError: If they do not broadcast.
    """
    temperature_shape = jnp.shape(temperature)
    try:
        return jnp.broadcast_shapes(temperature_shape, batch_shape)
    except ValueError:
        error = parameter_errors.broadcast_error(temperature_shape, batch_shape)
        raise error from None


def as_logits(
    name: str,
    probs: ArrayLike | None,
    logits: ArrayLike | None,
    class_dims: int,
    validate: bool,
) -> Array:
    """Return the logits of a distribution that has `probs` or `logits`.

    Args:
        name: The distribution, for messages.
        probs: Class probabilities >= 0, or probabilities of one in [0, 1].
        logits: Unnormalized log-probabilities, or log-odds of one.
        class_dims: 1 if classes lie on the last axis, 0 for a two-valued variable.
        validate: Whether to look at values that are known.

    Raises:
        ValueError: If neither or both are given, values are out of range, or there are
            fewer than two classes.
    """
    if logits is None and probs is not None:
        probs = _as_float(probs)
        _require_two_classes(name, probs, class_dims)
        if validate:
            _require_probs(name, probs, class_dims)
        if class_dims:
            return ops.categorical_logits(probs)
        return ops.bernoulli_logits(probs)
    if probs is None and logits is not None:
        logits = _as_float(logits)
        _require_two_classes(name, logits, class_dims)
        if validate:
            _require_finite(name, logits)
        return logits
    raise parameter_errors.one_parameter_error()


def _as_float(parameter: ArrayLike) -> Array:
    parameter = jnp.asarray(parameter)
    if jnp.issubdtype(parameter.dtype, jnp.floating):
        return parameter
    return parameter.astype(jnp.result_type(float))


def _require_two_classes(name: str, parameter: Array, class_dims: int) -> None:
    if class_dims and (not parameter.ndim or parameter.shape[-1] < 2):
        raise parameter_errors.num_classes_error(name, parameter.shape, "axis")


# Both look at values that are known, by NumPy: under jit, JAX would trace them.


def _require_probs(name: str, probs: Array, class_dims: int) -> None:
    if not not_jax_tracer(probs):
        return
    upper = math.inf if class_dims else 1.0
    values = np.asarray(probs)
    if not ((values >= 0) & (values <= upper)).all():
        raise parameter_errors.probs_error(name, upper)


def _require_finite(name: str, logits: Array) -> None:
    if not_jax_tracer(logits) and not np.isfinite(np.asarray(logits)).all():
        raise ValueError(f"{name} got logits that are not finite")
