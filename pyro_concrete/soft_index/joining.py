"""Soft and plain tensors put together: stacked, concatenated, chosen by a mask.

Each element of the result is an element of one of the tensors, and keeps its values,
its probabilities and its identity. The draws of the tensors take the same dimensions;
where one has fewer values than another, the rest has probability zero.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_concrete.internals import Shape
from pyro_concrete.soft_index.algebra import (
    Draw,
    joint_name,
    merge_equal_values,
    one_draw,
)
from pyro_concrete.soft_index.elements import Elements
from pyro_concrete.soft_index.trees import Argument, joint_shape, over_support
from pyro_concrete.soft_index.value import SoftIndex, blank

# Tensors keep several draws up to this many joint values.
_MOST_JOINT_VALUES = 64


def join_tensors(
    func: Callable, parts: Sequence[Argument], shape: Shape | None = None
) -> SoftIndex:
    """Let a function place the elements of several tensors, soft and plain.

    Args:
        func: What takes the tensors, and chooses among their elements.
        parts: Values with their supports, plain tensors and numbers.
        shape: Shape that all of them are expanded to.
    """
    joined = _JoinedTensors(parts, shape)
    choose = over_support(func)
    draws = [
        Draw(
            choose(*joined.probabilities(axis)),
            joined.site,
            joined.elements(func, axis),
        )
        for axis in range(len(joined.supports))
    ]
    states = joined.common_states()
    if states is None:
        states = choose(*joined.states()).unflatten(0, joined.supports)
    return SoftIndex(states.to(func(*map(blank, parts)).dtype), draws)


class _JoinedTensors:
    """Several tensors over draws that take the same leading dimensions."""

    def __init__(self, parts: Sequence[Argument], shape: Shape | None) -> None:
        soft_parts = _soft_indices(parts)
        self._like = soft_parts[0].draws[0].probabilities
        self._parts = [_as_tensor(x, soft_parts[0].device) for x in parts]
        self.supports = _supports(soft_parts)
        if len(self.supports) > 1 and math.prod(self.supports) > _MOST_JOINT_VALUES:
            self._parts = [_over_one_draw(x) for x in self._parts]
            soft_parts = _soft_indices(self._parts)
            self.supports = _supports(soft_parts)
        self._shapes = _shapes(self._parts, shape)
        draws = [draw for x in soft_parts for draw in x.draws]
        self.site = joint_name(draws)
        self.site_numbers = frozenset().union(
            *(draw.elements.site_numbers for draw in draws)
        )

    def _draw(self, x: Argument, axis: int) -> Draw | None:
        """Return the draw of a tensor on a leading dimension, or None."""
        if isinstance(x, SoftIndex) and axis < len(x.draws):
            return x.draws[axis]
        return None

    def probabilities(self, axis: int) -> list[Tensor]:
        """Return the probabilities of each tensor's draw, as many for all."""
        size = self.supports[axis]
        of_each = []
        for x, shape in zip(self._parts, self._shapes, strict=True):
            draw = self._draw(x, axis)
            if draw is None:
                probabilities = self._like.new_ones((1, *(1,) * len(shape)))
            else:
                probabilities = draw.positions(len(shape))
            probabilities = probabilities.expand(-1, *shape)
            if len(probabilities) < size:
                missing = size - len(probabilities)
                impossible = probabilities.new_zeros((missing, *shape))
                probabilities = torch.cat([probabilities, impossible])
            of_each.append(probabilities)
        return of_each

    def elements(self, func: Callable, axis: int) -> Elements:
        """Return the elements that a function chooses among those of each tensor."""
        of_each = []
        for x in self._parts:
            draw = self._draw(x, axis)
            if draw is None:
                of_each.append(Elements.of_a_constant())
            else:
                of_each.append(draw.elements)
        return Elements.placed(func, of_each, self._shapes, self.site_numbers)

    def common_states(self) -> Tensor | None:
        """Return the states where they are the same for all tensors and positions."""
        if len(self.supports) > 1:
            return None
        supports = []
        for x in self._parts:
            if not isinstance(x, SoftIndex) or x.states.numel() != len(x.states):
                return None
            supports.append(x.states.flatten())
        longest = max(supports, key=len)
        for states in supports:
            if states.dtype is not longest.dtype:
                return None
            if not torch.equal(states, longest[: len(states)]):
                return None
        return longest

    def states(self) -> list[Tensor]:
        """Return the values of each tensor for every joint value, flat."""
        everywhere = []
        for x, shape in zip(self._parts, self._shapes, strict=True):
            rank = len(shape)
            if isinstance(x, SoftIndex):
                draw_count = len(x.draws)
                supports, positions = (
                    x.states.shape[:draw_count],
                    x.states.shape[draw_count:],
                )
                missing = len(self.supports) - draw_count
                states = x.states.reshape(
                    *supports, *(1,) * (missing + rank - len(positions)), *positions
                )
                for axis, size in enumerate(self.supports[:draw_count]):
                    # What stands in for missing values has probability zero.
                    rows = torch.arange(size, device=x.device).clamp(
                        max=supports[axis] - 1
                    )
                    states = states.index_select(axis, rows)
            else:
                states = x
            states = states.expand(*self.supports, *shape)
            everywhere.append(states.flatten(0, len(self.supports) - 1))
        return everywhere


def _shapes(parts: Sequence[Tensor], shape: Shape | None) -> list[tuple[int, ...]]:
    if shape is None:
        return [tuple(x.shape) for x in parts]
    return [tuple(shape)] * len(parts)


def _soft_indices(parts: Sequence[Argument]) -> list[SoftIndex]:
    return [x for x in parts if isinstance(x, SoftIndex)]


def _as_tensor(x: Argument, device: torch.device) -> Tensor:
    return x if isinstance(x, SoftIndex) else torch.as_tensor(x, device=device)


def _supports(soft_parts: Sequence[SoftIndex]) -> list[int]:
    """The largest support of the draws on each dimension."""
    sizes = [[len(d.probabilities) for d in x.draws] for x in soft_parts]
    return [max(column) for column in itertools.zip_longest(*sizes, fillvalue=1)]


def _over_one_draw(x: Argument) -> Argument:
    if not isinstance(x, SoftIndex) or len(x.draws) == 1:
        return x
    distinct, draw = merge_equal_values(x.states, x.draws)
    return SoftIndex(distinct, (draw,), x.shape)


def common_support(x: SoftIndex) -> tuple[Tensor, Tensor]:
    """Return the values at any position, and their probabilities at each.

    Shapes:
        values: (values,).
        probabilities: (values, *shape).
    """
    states = x.states.flatten(0, len(x.draws) - 1)
    draw = one_draw(x.draws)
    if states.numel() == len(states):
        probabilities = draw.positions(x.dim())
        return states.flatten(), probabilities.expand(-1, *x.shape)
    shape = joint_shape(states.shape[1:], draw.positions(x.dim()).shape[1:])
    distinct, indices = states.unique(return_inverse=True)
    probabilities = draw.positions(x.dim()).expand(-1, *shape)
    empty = probabilities.new_zeros((len(distinct), *shape))
    added = empty.scatter_add(0, indices.expand(probabilities.shape), probabilities)
    return distinct, added.expand(-1, *x.shape)
