"""What torch's functions do with soft values: indexing.

A lookup at a soft index is one at every value of its support. Where a table is looked
up by one soft array alone, that is one product of probabilities with the table's rows.

Counterpart: ``numpyro_concrete.soft_index.lookup``.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_concrete.ops.precision import known_finite
from pyro_concrete.soft_index.abstract import (
    AbstractSoft,
    Call,
    Results,
    are_independent,
    is_soft,
    rule,
    site_names,
    soft_leaves,
    tensor_leaves,
)
from pyro_concrete.soft_index.algebra import (
    Draw,
    aligned_states,
    finite,
    restored,
    union,
)
from pyro_concrete.soft_index.averages import deferred
from pyro_concrete.soft_index.elements import Elements
from pyro_concrete.soft_index.joining import common_support
from pyro_concrete.soft_index.joint import apply_to_all_values
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.shapes import move_elements
from pyro_concrete.soft_index.states import (
    average_over_draws,
    check_size,
    soft_integer,
    with_possible_values,
)
from pyro_concrete.soft_index.trees import Argument, joint_shape, map_leaves
from pyro_concrete.soft_index.value import (
    SoftIndex,
    SoftNumber,
    plain,
    soft_real,
)

_WHOLE = slice(None)

# --- lookups ------------------------------------------------------------------------


@rule("getitem")
def _getitem(call: Call) -> Results:
    x, index = call.args
    if not soft_leaves(index):
        return move_elements(lambda y: y[index], x)
    if not isinstance(index, tuple):
        index = (index,)
    index = map_leaves(_as_index, index)
    if not isinstance(x, AbstractSoft):
        try:
            return lookup(x, index)
        except IndexError:
            # What is out of range may have probability zero.
            return lookup(x, map_leaves(with_possible_values, index))
    if not are_independent((x, index)):
        return apply_to_all_values(call._replace(args=(x, index)))
    if isinstance(x, SoftIndex):
        return _lookup_of_soft(x, index)
    values = None
    if x.values is not None:
        values = deferred(
            lambda: _lookup_of_soft(x.exact(), index), x, *tensor_leaves(index)
        )
    average = plain(lookup(x.number, index))
    if isinstance(x, SoftNumber):
        return SoftNumber(average, x.dtype, site_names(call.args), values)
    return soft_real(average, site_names(call.args), values, x.are_whole)


def _as_index(x: Argument) -> Argument:
    """Return an index that is a soft integer with its support."""
    if not isinstance(x, AbstractSoft):
        return x
    if x.is_floating_point():
        raise IndexError(
            f"site {x.site!r}: tensors used as indices must be integers; "
            "index with z.long()"
        )
    if x.dtype is torch.bool:
        raise TypeError(refusal(x.site, "indexing with it as a mask"))
    return x.exact()


def _lookup_of_soft(x: SoftIndex, index: tuple) -> SoftIndex:
    """An element that is picked by a soft index: its probabilities are looked up."""
    support, probabilities = common_support(x)
    ellipsis = () if any(i is Ellipsis for i in index) else (Ellipsis,)
    table = probabilities.movedim(0, -1)
    picked = plain(lookup(table, (*index, *ellipsis, _WHOLE))).movedim(-1, 0)
    elements = _elements_of_picked(x, (*index, *ellipsis), picked)
    return SoftIndex(support, (Draw(picked, site_names((x, index)), elements),))


def _elements_of_picked(x: SoftIndex, index: tuple, picked: Tensor) -> Elements:
    """Return new elements, made of those of the index and of all that it may pick."""

    def of_each_value(numbers: Tensor) -> tuple[Tensor, list[Draw]]:
        table = numbers.to(x.device).expand(x.shape)
        terms, draws, _ = _lookup_of_each_value(*_basic(table, index))
        return terms.flatten(0, len(draws) - 1), draws

    def picks(origins: Tensor) -> Tensor:
        return torch.cat([of_each_value(row)[0].cpu() for row in origins])

    _, draws_of_index = of_each_value(torch.zeros((), dtype=torch.int64))
    parts = [draw.elements for draw in draws_of_index]
    parts += [draw.elements.with_origins(picks) for draw in x.draws]
    return Elements.merged(picked, parts)


def lookup(table: Tensor, index: tuple) -> Tensor:
    """Look up a plain table at soft and plain indices."""
    view, arrays = _basic(table, index)
    if len(arrays) == 1 and table.is_floating_point():
        ((dim, soft),) = arrays.items()
        if isinstance(soft, SoftIndex) and _has_one_support(soft):
            mixed = _lookup_by_rows(view, dim, soft)
            find = functools.partial(_lookup_of_each_value, view, arrays)
            values = deferred(lambda: SoftIndex(*find()), view, soft)
            return soft_real(mixed, soft.site, values)
    terms, draws, shape = _lookup_of_each_value(view, arrays)
    if not terms.is_floating_point():
        return soft_integer(terms, draws, shape)
    return average_over_draws(terms, draws, shape)


def _has_one_support(x: SoftIndex) -> bool | Tensor:
    """Tell whether all positions have the same values, of one draw.

    Under torch.jit.trace sizes are tensors, and so is what compares them.
    """
    return len(x.draws) == 1 and x.states.numel() == len(x.states)


def _lookup_of_each_value(
    view: Tensor, arrays: dict[int, Tensor]
) -> tuple[Tensor, list[Draw], Sequence[int]]:
    """Look up a table at every joint value of the indices."""
    draws = union(x.draws for x in soft_leaves([*arrays.values()]))
    check_size(draws)
    shape = joint_shape(*(x.shape for x in arrays.values()))
    picks = tuple(_aligned(x, draws, len(shape)) for x in arrays.values())
    count = len(draws)
    rank = len(shape)
    row_rank = view.dim() - len(arrays)
    terms = view.movedim([*arrays], [*range(len(arrays))])[picks]
    row_shape = terms.shape[terms.dim() - row_rank :]
    terms = terms.expand(*terms.shape[:count], *shape, *row_shape)
    lead = _leading(arrays)

    def placed(draw: Draw) -> Draw:
        def move(numbers: Tensor) -> Tensor:
            numbers = numbers.reshape((1,) * (rank - numbers.dim()) + numbers.shape)
            return _to(numbers[(..., *(None,) * row_rank)], 0, rank, lead)

        probabilities = draw.positions(rank)[(..., *(None,) * row_rank)]
        elements = draw.elements.moved(move)
        return Draw(_to(probabilities, 1, rank, lead), draw.site, elements)

    terms = _to(terms, count, rank, lead)
    return terms, [placed(d) for d in draws], terms.shape[count:]


def _aligned(x: Tensor, draws: Sequence[Draw], rank: int) -> Tensor:
    """Return an index at every joint value of draws."""
    if isinstance(x, SoftIndex):
        return aligned_states(x.states, x.draws, draws, rank)
    return x


def _lookup_by_rows(table: Tensor, dim: int, soft: SoftIndex) -> Tensor:
    """Look up the rows of the support once, and mix them: one matrix product."""
    (draw,) = soft.draws
    rows = table
    if dim:
        rows = table.movedim(dim, 0)
    if not soft.values_are_indices or len(rows) != len(soft.states):
        rows = rows[soft.states.flatten()]
    probabilities = _probabilities_last(soft, draw)
    dtype = rows.dtype
    if probabilities.dtype is not dtype:
        dtype = torch.promote_types(probabilities.dtype, dtype)
        probabilities = probabilities.to(dtype)
    if rows.dim() > 2:
        mixed = _mixed(probabilities, rows.flatten(1), dtype)
        mixed = mixed.unflatten(-1, rows.shape[1:])
    else:
        mixed = _mixed(probabilities, rows, dtype)
    return _to(mixed, 0, soft.dim(), dim).to(table.dtype)


def _mixed(probabilities: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Average rows; those of probability zero do not count."""
    if known_finite(rows):
        return probabilities @ rows.to(dtype)
    undefined = rows.isnan()
    mixed = restored(probabilities @ finite(rows, dtype).masked_fill(undefined, 0.0))
    return mixed.masked_fill(probabilities @ undefined.to(dtype) > 0, math.nan)


def _probabilities_last(soft: SoftIndex, draw: Draw) -> Tensor:
    if soft.known_simplex is not None:
        return soft.known_simplex
    probabilities = draw.positions(soft.dim())
    if probabilities.shape[1:] != soft.shape:
        probabilities = probabilities.expand(-1, *soft.shape)
    if not soft.dim():
        return probabilities
    return probabilities.movedim(0, -1)


def _basic(table: Tensor, index: tuple) -> tuple[Tensor, dict[int, Tensor]]:
    """Return the view of an index's slices and numbers, and its arrays by dimension."""
    view: list[Argument] = []
    arrays: dict[int, Tensor] = {}
    for item in _without_ellipsis(table, index):
        dim = sum(x is None or isinstance(x, slice) for x in view)
        index_arrays = _index_arrays(item, table.device)
        if not index_arrays:
            view.append(item)
        for i, array in enumerate(index_arrays):
            arrays[dim + i] = array
            view.append(_WHOLE)
    if any(not isinstance(x, slice) or x != _WHOLE for x in view):
        table = table[tuple(view)]
    return table, arrays


def _index_arrays(item: Argument, device: torch.device) -> tuple[Tensor, ...]:
    """Return the arrays of an item of an index: none of a number, several of a mask."""
    if isinstance(item, list):
        item = torch.as_tensor(item, device=device)
    if not isinstance(item, Tensor) or (item.dim() == 0 and not is_soft(item)):
        return ()
    if item.dtype is torch.bool:
        return item.nonzero(as_tuple=True)
    return (item,)


def _without_ellipsis(table: Tensor, index: tuple) -> list[Argument]:
    """Return an index with a slice for each dimension that it leaves out."""
    missing = table.dim() - sum(map(_number_of_dimensions, index))
    position = next((i for i, x in enumerate(index) if x is Ellipsis), len(index))
    return [*index[:position], *(_WHOLE,) * missing, *index[position + 1 :]]


def _number_of_dimensions(item: Argument) -> int:
    """Return how many dimensions of a table an item of an index takes."""
    if item is None or item is Ellipsis:
        return 0
    if isinstance(item, Tensor) and item.dtype is torch.bool:
        return item.dim()
    return 1


def _leading(arrays: dict[int, Tensor]) -> int:
    """Where the dimensions of the index arrays go in the result.

    As in torch: in place of the arrays where these are next to each other, first
    where not. A scalar counts as a number: its dimension is gone before.
    """
    scalars = [dim for dim, x in arrays.items() if not x.dim()]
    dims = [d - sum(s < d for s in scalars) for d, x in arrays.items() if x.dim()]
    if not dims or dims != [*range(dims[0], dims[0] + len(dims))]:
        return 0
    return dims[0]


def _to(x: Tensor, start: int, count: int, lead: int) -> Tensor:
    """Move `count` dimensions from `start` on to the right by `lead`."""
    if not lead or not count:
        return x
    dims = range(start, start + count)
    return x.movedim([*dims], [d + lead for d in dims])


@rule("index_select")
def _index_select(call: Call) -> Results:
    x, dim, index = call.arguments("input", "dim", "index")
    if not x.dim():
        return x.reshape(1)[index.reshape(-1)].reshape(())
    if not index.dim():
        index = index.reshape(1)
    return x[(_WHOLE,) * (dim % x.dim()) + (index,)]


@rule("embedding")
def _embedding(call: Call) -> Results:
    first, second = call.args[:2]  # torch.embedding and functional.embedding differ
    if isinstance(first, AbstractSoft):
        return second[first]
    return first[second]


@rule("take")
def _take(call: Call) -> Results:
    x, index = call.arguments("input", "index")
    return x.reshape(-1)[index]


@rule("gather take_along_dim")
def _gather(call: Call) -> Results:
    if call.name == "gather":
        x, dim, index = call.arguments("input", "dim", "index")
    else:
        x, index, dim = call.arguments("input", "indices", "dim", dim=None)
        if dim is None:
            return x.reshape(-1)[index.reshape(-1)]
    if not is_soft(index):
        options = {"dim": dim, "index": index}
        if call.name == "take_along_dim":
            options = {"dim": dim, "indices": index}
        return move_elements(lambda y: call.func(y, **options), x)
    if not x.dim() or not index.dim():
        return x.reshape(-1).gather(0, index.reshape(1)).reshape(index.shape)
    # The same as an index with an arange for each of the other dimensions.
    dim = dim % x.dim()
    sizes = list(index.shape)
    if call.name == "take_along_dim":
        target_shape = (*x.shape[:dim], 1, *x.shape[dim + 1 :])
        sizes = joint_shape(index.shape, torch.Size(target_shape))
        x = x.expand(*sizes[:dim], x.shape[dim], *sizes[dim + 1 :])
    picks: list[Argument] = [
        torch.arange(n, device=x.device).reshape(-1, *(1,) * (len(sizes) - i - 1))
        for i, n in enumerate(sizes)
    ]
    picks[dim] = index
    return x[tuple(picks)]


@rule("one_hot")
def _one_hot(call: Call) -> Results:
    x, size = call.arguments("input", "num_classes", num_classes=-1)
    x = _as_index(x)
    if size == -1:
        raise TypeError(refusal(x.site, "one_hot without a number of classes"))
    return (x.unsqueeze(-1) == torch.arange(size, device=x.device)).long()
