"""Validation of the parameters: the temperature, and probabilities or logits.

Counterpart: ``numpyro_concrete.distributions.parameters``.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from concrete_core import parameter_errors
from pyro_concrete import ops
from pyro_concrete.distributions.constraints import Size
from pyro_concrete.ops.precision import Temperature, can_be_read


def as_temperature(temperature: Any) -> Any:
    """Return a temperature with NumPy's arrays and scalars as torch has them.

    Args:
        temperature: Temperature as it was given.

    Example:
        >>> as_temperature(np.array([0.5, 1.0]))
        tensor([0.5000, 1.0000])
    """
    # A union of types would be a break for torch.compile.
    if isinstance(temperature, (np.ndarray, np.generic)):
        return torch.as_tensor(temperature, dtype=torch.get_default_dtype())
    return temperature


def check_temperature(temperature: Temperature, site: str = "") -> None:
    """Raise a ValueError if a temperature is known not to be positive.

    Tensors pass where it would cost a wait to know their values: on other devices than
    the CPU, and under a compiler or a transform.

    Args:
        temperature: The temperature to check.
        site: Name of the sample site, for the message.

    Raises:
        ValueError: If a number is zero, negative, infinite or NaN.

    Example:
        >>> check_temperature(0.5)
    """
    if not isinstance(temperature, Tensor):
        smallest = largest = temperature
    elif not temperature.numel() or not can_be_read(temperature):
        return
    elif temperature.dim():
        smallest = temperature.detach().min().item()
        largest = temperature.detach().max().item()
    else:
        smallest = largest = temperature.detach().item()
    if not (smallest > 0 and math.isfinite(largest)):
        raise parameter_errors.temperature_error(temperature, site)


def batch_shape_with(temperature: Temperature, batch_shape: Size) -> Size:
    """Return the batch shape that a temperature and a parameter have together.

    Args:
        temperature: Scalar, or broadcastable to the batch shape.
        batch_shape: Batch shape of the probabilities or logits.

    Raises:
        ValueError: If they do not broadcast.
    """
    if not isinstance(temperature, Tensor) or not temperature.dim():
        return batch_shape
    try:
        return torch.broadcast_shapes(temperature.shape, batch_shape)
    except RuntimeError:
        error = parameter_errors.broadcast_error(temperature.shape, batch_shape)
        raise error from None


def as_logits(
    name: str,
    probs: Tensor | None,
    logits: Tensor | None,
    class_dims: int,
    validate: bool,
) -> Tensor:
    """Return the logits of a distribution that has `probs` or `logits`.

    Args:
        name: The distribution, for messages.
        probs: Class probabilities >= 0, or probabilities of one in [0, 1].
        logits: Unnormalized log-probabilities, or log-odds of one.
        class_dims: 1 if classes lie on the last dim, 0 for a two-valued variable.
        validate: Whether to look at the values of `probs`.

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
        return logits
    raise parameter_errors.one_parameter_error()


def _as_float(parameter: Any) -> Tensor:
    if not isinstance(parameter, Tensor):
        parameter = torch.as_tensor(parameter)
    if parameter.is_floating_point():
        return parameter
    return parameter.to(torch.get_default_dtype())


def _require_two_classes(name: str, parameter: Tensor, class_dims: int) -> None:
    if class_dims and (not parameter.dim() or parameter.shape[-1] < 2):
        raise parameter_errors.num_classes_error(name, parameter.shape, "dim")


def _require_probs(name: str, probs: Tensor, class_dims: int) -> None:
    upper = math.inf if class_dims else 1.0
    if not ((probs >= 0) & (probs <= upper)).all():
        raise parameter_errors.probs_error(name, upper)
