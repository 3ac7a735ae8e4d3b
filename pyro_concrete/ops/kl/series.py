"""Series that keep their digits near zero, and constants as tensors.

Counterpart: ``numpyro_concrete.ops.kl.series``.
"""

import math

import torch
from numpy.typing import NDArray
from torch import Tensor

from concrete_core.kl.rules import COTH_SERIES
from concrete_core.kl.tables import MAX_RATIO


def constant(values: NDArray, like: Tensor) -> Tensor:
    """Return an array as a tensor with the dtype and the device of another."""
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)


def chebyshev_polynomials(log_ratio: Tensor, count: int) -> Tensor:
    """Return Chebyshev polynomials of log r / log MAX_RATIO, along a new last dim."""
    x = log_ratio / math.log(MAX_RATIO)
    # T_(j+1)(x) = 2 x T_j(x) - T_(j-1)(x)
    polynomials = [torch.ones_like(x), x]
    while len(polynomials) < count:
        polynomials.append(2 * x * polynomials[-1] - polynomials[-2])
    return torch.stack(polynomials, -1)


def coth_kl(difference: Tensor) -> Tensor:
    """Return d coth(d/2) - 2, by its series in d^2 where |d| < 1."""
    is_small = difference.abs() < 1
    square = torch.where(is_small, difference, 0.0).square()
    series = torch.zeros_like(square)
    for coefficient in reversed(COTH_SERIES):
        series = (series + coefficient) * square
    # One in place of small numbers keeps the gradient of the other branch finite.
    d = torch.where(is_small, 1.0, difference)
    return torch.where(is_small, series, d / torch.tanh(d / 2) - 2)


def exp_minus_linear(x: Tensor) -> Tensor:
    """Return e^x - 1 - x to rounding, by its Taylor series where |x| < 0.1."""
    is_small = x.abs() < 0.1
    small_x = torch.where(is_small, x, 0.0)
    series = torch.zeros_like(small_x)
    for j in range(11, 1, -1):
        series = series * small_x + 1 / math.factorial(j)
    large_x = torch.where(is_small, 0.0, x)
    return torch.where(is_small, small_x.square() * series, large_x.expm1() - large_x)
