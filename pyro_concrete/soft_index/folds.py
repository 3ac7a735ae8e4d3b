"""Elements along dimensions, combined into one.

Elements of the same draws are combined for each value of the draws at once. Elements of
different draws are combined in pairs, by an elementwise function.

Counterpart: ``numpyro_concrete.soft_index.sums``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_concrete.internals import Shape
from pyro_concrete.soft_index.abstract import Dims
from pyro_concrete.soft_index.algebra import LARGEST_SUPPORT, Draw, number_of_states
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.value import SoftIndex

# Floats have no equal sums: of these many joint values their sums are not listed.
_MOST_SUMS_OF_FLOATS = 2**12


def dimensions(dim: Dims, rank: int) -> list[int]:
    """Return the dimensions that an argument names.

    Args:
        dim: A dimension, several, or None for all.
        rank: Number of dimensions of the tensor.
    """
    if dim is None or (not isinstance(dim, int) and not dim):
        return [*range(rank)]
    dims = [dim] if isinstance(dim, int) else dim
    return sorted(d % max(rank, 1) for d in dims if rank)


def reduce_at_once(
    reduce: Callable[[Tensor, list[int]], Tensor],
    x: SoftIndex,
    dim: Dims,
    keepdim: bool = False,
) -> SoftIndex | None:
    """Reduce dimensions for each value of the draws, or return None.

    That is possible where all elements along the dimensions have the same draws.

    Args:
        reduce: Function of a tensor and its dimensions, which keeps none of them.
        x: Soft value.
        dim: A dimension, several, or None for all.
        keepdim: Whether the dimensions stay, with size one.
    """
    rank = x.dim()
    dims = dimensions(dim, rank)
    if not dims or any(_number_of_elements(x, d) > 1 for d in dims):
        return None
    axes = [len(x.draws) + d for d in dims]
    states = reduce(_states_along(x, dims), axes)
    if not keepdim:
        shape = [n for d, n in enumerate(x.shape) if d not in dims]
        draws = [_without_dimensions(draw, dims, rank) for draw in x.draws]
        return SoftIndex(states, draws, shape)
    for axis in axes:
        states = states.unsqueeze(axis)
    return SoftIndex(states, x.draws, _with_size_one(x.shape, dims))


def _with_size_one(shape: Shape, dims: Sequence[int]) -> list[int]:
    return [1 if d in dims else n for d, n in enumerate(shape)]


def accumulate_at_once(
    accumulate: Callable[[Tensor, int], Tensor], x: SoftIndex, dim: int
) -> SoftIndex | None:
    """Accumulate along a dimension for each value of the draws, or return None."""
    dims = dimensions(dim, x.dim())
    if not dims or _number_of_elements(x, dims[0]) > 1:
        return None
    states = accumulate(_states_along(x, dims), len(x.draws) + dims[0])
    return SoftIndex(states, x.draws, x.shape)


def _states_along(x: SoftIndex, dims: Sequence[int]) -> Tensor:
    """Return the states of all positions along dimensions."""
    sizes = [*x.states.shape]
    for d in dims:
        sizes[len(x.draws) + d] = x.shape[d]
    return x.states.expand(sizes)


def _without_dimensions(draw: Draw, dims: Sequence[int], rank: int) -> Draw:
    def move(numbers: Tensor) -> Tensor:
        numbers = numbers.reshape((1,) * (rank - numbers.dim()) + numbers.shape)
        return numbers.squeeze(tuple(dims))

    probabilities = draw.positions(rank).squeeze(tuple(1 + d for d in dims))
    return Draw(probabilities, draw.site, draw.elements.moved(move))


def fold(
    function: Callable[[Tensor, Tensor], Any],
    x: Tensor,
    dim: Dims,
    keepdim: bool = False,
) -> Any:
    """Combine the elements along dimensions in pairs, by an elementwise function.

    Args:
        function: An associative and commutative function of two soft values.
        x: Soft value.
        dim: A dimension, several, or None for all.
        keepdim: Whether they stay, with size one.
    """
    dims = dimensions(dim, x.dim())
    shape = _with_size_one(x.shape, dims)
    x = _with_last(x, dims)
    leftovers = []
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        if x.shape[-1] % 2:
            leftovers.append(x[..., -1])
        x = function(x[..., :half], x[..., half : 2 * half])
    result = x[..., 0]
    for leftover in leftovers:
        result = function(result, leftover)
    if not keepdim:
        return result
    return result.reshape(shape)


def _with_last(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Move dimensions to the end, as one."""
    if len(dims) == 1 and dims[0] == x.dim() - 1:
        return x
    leading = [d for d in range(x.dim()) if d not in dims]
    sizes = [x.shape[d] for d in leading]
    length = math.prod(x.shape[d] for d in dims)
    if leading and dims:
        x = x.permute(*leading, *dims)
    return x.reshape(*sizes, length)


def accumulate(function: Callable[[Tensor, Tensor], Any], x: Tensor, dim: int) -> Any:
    """Combine each element along a dimension with all those before it."""
    if not x.dim() or not x.shape[dim]:
        return x
    results = [x.select(dim, 0)]
    for i in range(1, x.shape[dim]):
        results.append(function(results[-1], x.select(dim, i)))
    return torch.stack(results, dim)


def check_number_of_sums(x: SoftIndex, dim: Dims) -> None:
    """Raise an error for a sum that has more values than are listed."""
    dims = dimensions(dim, x.dim())
    elements = math.prod(_number_of_elements(x, d) for d in dims)
    if elements == 1:
        return
    states = x.states
    if states.is_floating_point() and bool((states != states.round()).any()):
        size = max(2, number_of_states(x.draws)) ** elements
        too_many = size > _MOST_SUMS_OF_FLOATS
    else:
        too_many = _span(states) * elements >= LARGEST_SUPPORT
    if too_many:
        operation = f"a function of a sum of more than {LARGEST_SUPPORT} values"
        raise TypeError(refusal(x.site, operation))


def _span(states: Tensor) -> int:
    if not states.numel():
        return 0
    return int(states.max()) - int(states.min())


def _number_of_elements(x: SoftIndex, dim: int) -> int:
    """Return the number of draws along a dimension."""
    return max(draw.positions(x.dim()).shape[1 + dim] for draw in x.draws)
