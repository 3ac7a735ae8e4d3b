"""Draws: the weights of a finite support, and sums over them.

A soft value depends on one or more draws. Each has weights over its support, on a
leading axis, for every position of the value. What is computed for all of the support
is summed with these weights; at one-hot weights the sum is the term that was drawn,
infinite or not.

Twin: ``numpyro_concrete.soft_index.algebra``.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from pyro_concrete.ops.precision import known_finite


@dataclass(frozen=True, eq=False, slots=True)
class Draw:
    """Weights over a support, for every position of the values that depend on it.

    Attributes:
        weights: Weights in [0, 1], shape (support, *positions): the positions line up
            from the right, and those of size one stand for all.
        site: Name of the relaxed site, for errors.
    """

    weights: Tensor
    site: str

    def positions(self, rank: int) -> Tensor:
        """Return the weights with this number of dimensions after the support."""
        missing = rank + 1 - self.weights.dim()
        if missing == 0:
            return self.weights
        shape = self.weights.shape
        return self.weights.reshape(shape[:1] + (1,) * missing + shape[1:])


def same(a: Draw, b: Draw) -> bool:
    """Tell whether two draws are one: the same weights, in the same places of memory.

    Views keep this, so a value that was reshaped lines up with another that was
    reshaped alike. Copies lose it, and are then combined as independent draws: right
    at one-hot weights, and another relaxation between them.
    """
    return a is b or _place(a.weights) == _place(b.weights)


def union(groups: Iterable[Sequence[Draw]]) -> tuple[Draw, ...]:
    """Return the distinct draws of several values, in order of appearance."""
    found: list[Draw] = []
    for group in groups:
        for draw in group:
            if not any(same(draw, x) for x in found):
                found.append(draw)
    return tuple(found)


def lined_up(
    values: Shaped[Tensor, "..."],
    own: Sequence[Draw],
    draws: Sequence[Draw],
    rank: int,
) -> Tensor:
    """Return values over their own draws as values over more draws, of a higher rank.

    Shapes:
        values: (*own supports, *positions).
        result: (*supports, *positions), with a size of one for each draw that is not
            among its own.
    """
    if len(own) == len(draws) == 1 and values.dim() == rank + 1:
        return values
    n = len(own)
    at = [next((i for i, x in enumerate(own) if same(x, d)), None) for d in draws]
    order = [i for i in at if i is not None]
    values = values.permute(*order, *range(n, values.dim()))
    supports = [1 if i is None else len(own[i].weights) for i in at]
    positions = values.shape[n:]
    return values.reshape(*supports, *(1,) * (rank - len(positions)), *positions)


def total(
    terms: Shaped[Tensor, "..."], draws: Sequence[Draw], *, bounded: bool = True
) -> Tensor:
    """Sum terms with the weights of their draws.

    Infinite terms count as `bound`, so that the sum and its gradient are finite where
    an infinite term has a weight between zero and one; where its weight is one, the
    sum is infinite again.

    Shapes:
        terms: (*supports, *positions).
        result: positions.

    Args:
        terms: One term for each joint value of the draws.
        draws: The draws, in the order of the leading axes.
        bounded: Whether terms can be infinite.
    """
    rank = terms.dim() - len(draws)
    dtype = terms.dtype
    bounded = bounded and not known_finite(terms)
    result = finite(terms, draws[0].weights.dtype) if bounded else terms
    for i in reversed(range(len(draws))):
        result = (draws[i].positions(rank) * result).sum(i)
    return (restored(result) if bounded else result).to(dtype)


def finite(terms: Tensor, dtype: torch.dtype) -> Tensor:
    """Replace infinite terms by the bound of a precision."""
    limit = bound(torch.promote_types(terms.dtype, dtype))
    return terms.nan_to_num(nan=math.nan, posinf=limit, neginf=-limit)


def restored(result: Tensor) -> Tensor:
    """Make sums infinite that are the bound itself."""
    limit = bound(result.dtype)
    return torch.where(result.abs() == limit, result.sign() * math.inf, result)


def bound(dtype: torch.dtype) -> float:
    """Return what stands for infinity: a number that no table holds by chance."""
    return -math.log(torch.finfo(dtype).tiny)


def one_draw(draws: Sequence[Draw]) -> Draw:
    """Return the joint draw of several."""
    if len(draws) == 1:
        return draws[0]
    rank = max(d.weights.dim() for d in draws) - 1
    weights = draws[0].positions(rank)
    for draw in draws[1:]:
        weights = (weights.unsqueeze(1) * draw.positions(rank)).flatten(0, 1)
    return Draw(weights, " and ".join(dict.fromkeys(d.site for d in draws)))


def merged(values: Shaped[Tensor, " states"], draw: Draw) -> tuple[Tensor, Draw]:
    """Return the distinct values of a draw's support, and the draw of these."""
    distinct, at = values.unique(return_inverse=True)
    return distinct, Draw(_added(draw.weights, at, len(distinct)), draw.site)


def _added(weights: Tensor, at: Tensor, size: int) -> Tensor:
    empty = weights.new_zeros((size, *weights.shape[1:]))
    return empty.index_add(0, at, weights)


def _place(weights: Tensor) -> tuple:
    """Where weights lie in memory: equal for equal views of the same weights."""
    sizes = weights.shape[1:]
    strides = [
        0 if n == 1 else s for n, s in zip(sizes, weights.stride()[1:], strict=True)
    ]
    # Positions line up from the right: leading ones that repeat are no difference.
    while strides and strides[0] == 0:
        strides.pop(0)
    offset, first = weights.storage_offset(), weights.stride(0)
    return weights.untyped_storage().data_ptr(), offset, first, *strides
