"""Checks of the parameters: the temperature, and probabilities or logits.

Counterpart: ``numpyro_concrete.distributions.parameters``.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_concrete import ops
from pyro_concrete.distributions.constraints import Size
from pyro_concrete.ops.precision import can_be_read


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


def check_temperature(temperature: Tensor | float, site: str = "") -> None:
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
    if isinstance(temperature, Tensor):
        if not temperature.numel() or not can_be_read(temperature):
            return
        values = temperature.detach()
        low = values.min().item() if values.dim() else values.item()
        high = values.max().item() if values.dim() else low
    else:
        low = high = temperature
    if not (low > 0 and math.isfinite(high)):
        at = f" at site {site!r}" if site else ""
        raise ValueError(
            f"temperature{at} must be positive and finite, but is {temperature!r}; "
            "2/3 is a good first choice"
        )


def batch_shape_with(temperature: Tensor | float, batch_shape: Size) -> Size:
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
        raise ValueError(
            f"temperature of shape {tuple(temperature.shape)} does not broadcast with "
            f"the batch shape {tuple(batch_shape)}"
        ) from None


def as_logits(
    name: str,
    probs: Tensor | None,
    logits: Tensor | None,
    class_dims: int,
    validate: bool,
) -> Tensor:
    """Return the logits that `probs` or `logits` stand for, with their shape checked.

    Args:
        name: The distribution, for messages.
        probs: Class weights >= 0, or probabilities of one in [0, 1].
        logits: Unnormalised log-probabilities, or log-odds of one.
        class_dims: 1 if classes lie on the last dim, 0 for a two-valued variable.
        validate: Whether to look at the values of `probs`.

    Raises:
        ValueError: If neither or both are given, values are out of range, or there are
            fewer than two classes.
    """
    if (probs is None) == (logits is None):
        raise ValueError("give exactly one of probs and logits")
    given = logits if probs is None else probs
    given = given if isinstance(given, Tensor) else torch.as_tensor(given)
    if not given.is_floating_point():
        given = given.to(torch.get_default_dtype())
    if class_dims and (not given.dim() or given.shape[-1] < 2):
        raise ValueError(
            f"a {name} needs two classes or more along the last dim of its parameter, "
            f"whose shape is {tuple(given.shape)}"
        )
    if probs is None:
        return given
    if validate:
        upper = math.inf if class_dims else 1.0
        if not ((given >= 0) & (given <= upper)).all():
            raise ValueError(f"{name} got probs outside [0, {upper:g}]")
    return ops.categorical_logits(given) if class_dims else ops.bernoulli_logits(given)
