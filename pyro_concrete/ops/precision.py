"""What the maths shares: precision, and temperatures as numbers or tensors.

Counterpart: ``numpyro_concrete.ops.precision``.
"""

import math

import torch
from torch import Tensor

Temperature = Tensor | float


def wide(x: Tensor) -> Tensor:
    """Return half precision in float32, everything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def per_class(temperature: Temperature) -> Temperature:
    """The temperature with a class dim where it has a batch shape."""
    if isinstance(temperature, Tensor):
        temperature = wide(temperature)
        return temperature.unsqueeze(-1) if temperature.dim() else temperature
    return temperature


def log(temperature: Temperature) -> Tensor | float:
    """The log of a temperature, tensor or number."""
    if isinstance(temperature, Tensor):
        return wide(temperature).log()
    return math.log(temperature)


def known_finite(x: Tensor) -> bool:
    """Tell whether numbers are finite, where that costs little to know."""
    return can_be_read(x) and math.isfinite(x.detach().sum().item())


def known_number(x: Tensor | float) -> Tensor | float:
    """Return a scalar as a number, where that costs little."""
    if not isinstance(x, Tensor):
        return float(x)
    return x if x.dim() or not can_be_read(x) else x.item()


def is_traced() -> bool:
    """Tell whether a compiler or a tracer looks on."""
    # torch has no public name for either its tracer or, below, its transforms.
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def is_plain() -> bool:
    """Tell whether nothing but autograd looks on: no tracer and no transform."""
    return not (is_traced() or torch._C._are_functorch_transforms_active())


def can_be_read(x: Tensor) -> bool:
    """Whether numbers can be read at no cost: no device waits, no transform records."""
    return x.device.type == "cpu" and is_plain()
