"""Precision of the inputs, and temperatures as numbers or tensors.

Counterpart: ``numpyro_concrete.ops.precision``.
"""

import math

import torch
from torch import Tensor

from pyro_concrete.internals import has_transforms

Temperature = Tensor | float


def promote_half(x: Tensor) -> Tensor:
    """Return half precision in float32, everything else unchanged."""
    if x.dtype in (torch.float16, torch.bfloat16):
        return x.float()
    return x


def with_class_dim(temperature: Temperature) -> Temperature:
    """Return the temperature with a class dim where it has a batch shape."""
    if not isinstance(temperature, Tensor):
        return temperature
    temperature = promote_half(temperature)
    if not temperature.dim():
        return temperature
    return temperature.unsqueeze(-1)


def log_temperature(temperature: Temperature) -> Tensor | float:
    """Return the log of a temperature, tensor or number."""
    if isinstance(temperature, Tensor):
        return promote_half(temperature).log()
    return math.log(temperature)


def known_finite(x: Tensor) -> bool:
    """Tell whether all numbers are finite, where that can be known at little cost."""
    return can_be_read(x) and math.isfinite(x.detach().sum().item())


def read_number(x: Tensor | float) -> Tensor | float:
    """Return a scalar as a number, where that costs little."""
    if not isinstance(x, Tensor):
        return float(x)
    if x.dim() or not can_be_read(x):
        return x
    return x.item()


def is_traced() -> bool:
    """Tell whether a compiler or a tracer records the operations."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_plain() -> bool:
    """Tell whether only autograd records the operations: no tracer, no transform."""
    return not (is_traced() or has_transforms())


def can_be_read(x: Tensor) -> bool:
    """Tell whether values can be read at no cost: no device waits, nothing records."""
    return x.device.type == "cpu" and is_plain()
