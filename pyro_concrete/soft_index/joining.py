"""Soft and plain tensors put together: stacked, concatenated, chosen by a mask.

Each element of the result is an element of one of the tensors, and keeps its values,
its probabilities and its identity. The draws of the tensors take the same dimensions;
where one has fewer values than another, the rest has probability zero.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_concrete.soft_index.algebra import (
    Draw,
    joint_name,
    merge_equal_values,
    one_draw,
)
from pyro_concrete.soft_index.elements import Elements
from pyro_concrete.soft_index.trees import joint_shape, over_support
from pyro_concrete.soft_index.value import SoftIndex, blank

# Tensors keep several draws up to this many joint values.
_MOST_JOINT_VALUES = 64


def join_tensors(
    func: Callable, parts: Sequence[Any], shape: Sequence[Any] | None = None
) -> SoftIndex:
    """Let a function place the elements of several tensors, soft and plain.

    Args:
        func: What takes the tensors, and chooses among their elements.
        parts: Values with their supports, plain tensors and numbers.
        shape: Shape that all of them are expanded to.
    """
    joined = _JoinedTensors(parts, shape)
    place = over_support(func)
    draws = [
        Draw(
            place(*joined.probabilities(axis)), joined.site, joined.elements(func, axis)
        )
        for axis in range(len(joined.supports))
    ]
    states = joined.common_states()
    if states is None:
        states = place(*joined.states()).unflatten(0, joined.supports)
    return SoftIndex(states.to(func(*map(blank, parts)).dtype), draws)


class _JoinedTensors:
    """Several tensors over draws that take the same leading dimensions."""

    def __init__(self, parts: Sequence[Any], shape: Sequence[Any] | None) -> None:
        soft_parts = [x for x in parts if isinstance(x, SoftIndex)]
        self._like = soft_parts[0].draws[0].probabilities
        device = soft_parts[0].device
        self._parts = [
            x if isinstance(x, SoftIndex) else torch.as_tensor(x, device=device)
            for x in parts
        ]
        self.supports = _supports(soft_parts)
        if len(self.supports) > 1 and math.prod(self.supports) > _MOST_JOINT_VALUES:
            self._parts = [_over_one_draw(x) for x in self._parts]
            soft_parts = [x for x in self._parts if isinstance(x, SoftIndex)]
            self.supports = _supports(soft_parts)
        self._shapes = [x.shape if shape is None else shape for x in self._parts]
        draws = [*itertools.chain.from_iterable(x.draws for x in soft_parts)]
        self.site = joint_name(draws)
        self.sites = frozenset().union(*(d.elements.sites for d in draws))

    def probabilities(self, axis: int) -> list[Tensor]:
        """Return the probabilities of each tensor's draw, as many for all."""
        size = self.supports[axis]
        everywhere = []
        for x, shape in zip(self._parts, self._shapes, strict=True):
            if isinstance(x, SoftIndex) and axis < len(x.draws):
                probabilities = x.draws[axis].positions(len(shape))
            else:
                probabilities = self._like.new_ones((1, *(1,) * len(shape)))
            probabilities = probabilities.expand(-1, *shape)
            if len(probabilities) < size:
                rest = probabilities.new_zeros((size - len(probabilities), *shape))
                probabilities = torch.cat([probabilities, rest])
            everywhere.append(probabilities)
        return everywhere

    def elements(self, func: Callable, axis: int) -> Elements:
        """Return the elements that a function chooses among those of each tensor."""
        certain = Elements.of_a_constant()
        parts = [
            x.draws[axis].elements
            if isinstance(x, SoftIndex) and axis < len(x.draws)
            else certain
            for x in self._parts
        ]
        return Elements.placed(func, parts, self._shapes, self.sites)

    def common_states(self) -> Tensor | None:
        """Return the states where they are the same for all tensors and positions."""
        if len(self.supports) > 1:
            return None
        longest = None
        for x in self._parts:
            if not isinstance(x, SoftIndex) or x.states.numel() != len(x.states):
                return None
            states = x.states.flatten()
            if longest is None or len(states) > len(longest):
                longest, states = states, longest
            same_type = states is None or states.dtype is longest.dtype
            if not same_type:
                return None
            if states is not None and not torch.equal(states, longest[: len(states)]):
                return None
        return longest

    def states(self) -> list[Tensor]:
        """Return the values of each tensor for every joint value, flat."""
        everywhere = []
        for x, shape in zip(self._parts, self._shapes, strict=True):
            rank = len(shape)
            if isinstance(x, SoftIndex):
                own = len(x.draws)
                supports, positions = x.states.shape[:own], x.states.shape[own:]
                missing = len(self.supports) - own
                states = x.states.reshape(
                    *supports, *(1,) * (missing + rank - len(positions)), *positions
                )
                for axis, size in enumerate(self.supports[:own]):
                    # What stands in for missing values has probability zero.
                    places = torch.arange(size, device=x.device).clamp(
                        max=supports[axis] - 1
                    )
                    states = states.index_select(axis, places)
            else:
                states = x
            states = states.expand(*self.supports, *shape)
            everywhere.append(states.flatten(0, len(self.supports) - 1))
        return everywhere


def _supports(soft_parts: Sequence[SoftIndex]) -> list[int]:
    """The largest support of the draws on each dimension."""
    sizes = [[len(d.probabilities) for d in x.draws] for x in soft_parts]
    return [max(column) for column in itertools.zip_longest(*sizes, fillvalue=1)]


def _over_one_draw(x: Any) -> Any:
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
    distinct, at = states.unique(return_inverse=True)
    probabilities = draw.positions(x.dim()).expand(-1, *shape)
    empty = probabilities.new_zeros((len(distinct), *shape))
    added = empty.scatter_add(0, at.expand(probabilities.shape), probabilities)
    return distinct, added.expand(-1, *x.shape)
