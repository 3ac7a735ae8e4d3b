"""What torch's functions do with soft values: indexing, and writing by index.

A lookup at a soft index is one at every value of its support. Where a table is looked
up by one soft array alone, that is one product of its weights with the table's rows.

Twin: ``numpyro_concrete.soft_index.lookup``.
"""

from typing import Any

import torch
from torch import Tensor

from pyro_concrete.soft_index.algebra import (
    Draw,
    finite,
    known_finite,
    lined_up,
    restored,
    total,
    union,
)
from pyro_concrete.soft_index.rules import check_size, soft_integer
from pyro_concrete.soft_index.shapes import common_support, moved
from pyro_concrete.soft_index.value import (
    AbstractSoft,
    Call,
    SoftIndex,
    SoftNumber,
    is_soft,
    joint_shape,
    plain,
    refusal,
    rule,
    sites,
    softs,
)

_WHOLE = slice(None)

# --- lookups ------------------------------------------------------------------------


@rule("getitem")
def _getitem(call: Call) -> Any:
    x, index = call.args
    if not softs(index):
        return moved(lambda y: y[index], x)
    _check_index(index)
    index = index if isinstance(index, tuple) else (index,)
    if isinstance(x, SoftNumber):
        return SoftNumber(lookup(x.number, index), x.dtype, x.site)
    if isinstance(x, SoftIndex):
        # The weights of an element that is picked by a soft index are soft lookups.
        support, (weights,) = common_support([x])
        table = weights.expand(-1, *x.shape).movedim(0, -1)
        whole = () if any(i is Ellipsis for i in index) else (Ellipsis,)
        picked = lookup(table, (*index, *whole, slice(None))).movedim(-1, 0)
        return SoftIndex(support, (Draw(picked, sites(call.args)),))
    return lookup(x, index)


def _check_index(index: Any) -> None:
    for x in softs(index):
        if isinstance(x, SoftNumber):
            raise TypeError(refusal(x.site, "indexing with it"))
        if x.dtype is torch.bool:
            raise TypeError(refusal(x.site, "indexing with it as a mask"))
        if x.is_floating_point():
            raise IndexError(
                f"site {x.site!r}: tensors used as indices must be integers; "
                "index with z.long()"
            )


def lookup(table: Tensor, index: tuple) -> Tensor:
    """Look up a plain table at soft and plain indices."""
    view, arrays = _basic(table, index)
    if len(arrays) == 1 and table.is_floating_point():
        ((dim, soft),) = arrays.items()
        if len(soft.draws) == 1 and soft.states.numel() == len(soft.states):
            return _lookup_by_rows(view, dim, soft)
    found = softs([*arrays.values()])
    draws = union(x.draws for x in found)
    check_size(draws)
    shape = joint_shape(*(x.shape for x in arrays.values()))
    picks = tuple(
        lined_up(x.states, x.draws, draws, len(shape)) if is_soft(x) else x
        for x in arrays.values()
    )
    m, rank, rest = len(draws), len(shape), view.dim() - len(arrays)
    terms = view.movedim([*arrays], [*range(len(arrays))])[picks]
    terms = terms.expand(*terms.shape[:m], *shape, *terms.shape[terms.dim() - rest :])
    lead = _leading(arrays)
    placed = [
        Draw(_to(d.positions(rank)[(..., *(None,) * rest)], 1, rank, lead), d.site)
        for d in draws
    ]
    terms = _to(terms, m, rank, lead)
    summed = total if terms.is_floating_point() else soft_integer
    return summed(terms, placed)


def _lookup_by_rows(table: Tensor, dim: int, soft: SoftIndex) -> Tensor:
    """Look up the rows of the support once, and mix them: one matrix product."""
    (draw,) = soft.draws
    rows = table.movedim(dim, 0) if dim else table
    if not soft.known_range or len(rows) != len(soft.states):
        rows = rows[soft.states.flatten()]
    weights = _weights_last(soft, draw)
    bounded = not known_finite(rows)
    flat = (finite(rows, weights.dtype) if bounded else rows).to(weights.dtype)
    mixed = weights @ (flat.flatten(1) if flat.dim() > 2 else flat)
    mixed = restored(mixed) if bounded else mixed
    if rows.dim() > 2:
        mixed = mixed.unflatten(-1, rows.shape[1:])
    return _to(mixed, 0, soft.dim(), dim).to(table.dtype)


def _weights_last(soft: SoftIndex, draw: Draw) -> Tensor:
    if soft.known_simplex is not None:
        return soft.known_simplex
    weights = draw.positions(soft.dim())
    if weights.shape[1:] != soft.shape:
        weights = weights.expand(-1, *soft.shape)
    return weights.movedim(0, -1) if soft.dim() else weights


def _basic(table: Tensor, index: tuple) -> tuple[Tensor, dict[int, Any]]:
    """Return the view of an index's slices and numbers, and its arrays by dimension."""
    view: list[Any] = []
    arrays: dict[int, Any] = {}
    for item in _without_ellipsis(table, index):
        dim = sum(x is None or isinstance(x, slice) for x in view)
        if isinstance(item, list):
            item = torch.as_tensor(item, device=table.device)
        if not isinstance(item, Tensor) or (item.dim() == 0 and not is_soft(item)):
            view.append(item)
            continue
        mask = item.dtype is torch.bool
        for i, array in enumerate(item.nonzero(as_tuple=True) if mask else (item,)):
            arrays[dim + i] = array
            view.append(_WHOLE)
    whole = all(isinstance(x, slice) and x == _WHOLE for x in view)
    return table if whole else table[tuple(view)], arrays


def _without_ellipsis(table: Tensor, index: tuple) -> list[Any]:
    def consumed(item: Any) -> int:
        if item is None or item is Ellipsis:
            return 0
        mask = isinstance(item, Tensor) and item.dtype is torch.bool
        return item.dim() if mask else 1

    missing = table.dim() - sum(map(consumed, index))
    at = next((i for i, x in enumerate(index) if x is Ellipsis), len(index))
    return [*index[:at], *(_WHOLE,) * missing, *index[at + 1 :]]


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
def _index_select(call: Call) -> Any:
    x, dim, index = call.arguments("input", "dim", "index")
    return x[(slice(None),) * (dim % x.dim()) + (index,)]


@rule("embedding")
def _embedding(call: Call) -> Any:
    first, second = call.args[:2]  # torch.embedding and functional.embedding differ
    return second[first] if isinstance(first, AbstractSoft) else first[second]


@rule("take")
def _take(call: Call) -> Any:
    x, index = call.arguments("input", "index")
    return x.reshape(-1)[index]


@rule("gather take_along_dim")
def _gather(call: Call) -> Any:
    along = call.name == "take_along_dim"
    names = ("input", "indices", "dim") if along else ("input", "dim", "index")
    given = dict(zip(names, call.arguments(*names), strict=True))
    x, dim, index = given.pop("input"), given["dim"], given[names[2 - along]]
    if not isinstance(index, AbstractSoft):
        return moved(lambda y: call.func(y, **given), x)
    _check_index(index)
    # The same as an index with an arange for each of the other dimensions.
    dim = dim % x.dim()
    sizes = list(index.shape)
    if along:
        others = (*x.shape[:dim], 1, *x.shape[dim + 1 :])
        sizes = joint_shape(index.shape, torch.Size(others))
        x = x.expand(*sizes[:dim], x.shape[dim], *sizes[dim + 1 :])
    picks: list[Any] = [
        torch.arange(n, device=x.device).reshape(-1, *(1,) * (len(sizes) - i - 1))
        for i, n in enumerate(sizes)
    ]
    picks[dim] = index
    return x[tuple(picks)]


@rule("one_hot")
def _one_hot(call: Call) -> Any:
    x, size = call.arguments("input", "num_classes", num_classes=-1)
    _check_index(x)
    size = int(x.states.max()) + 1 if size == -1 else size
    return (x.unsqueeze(-1) == torch.arange(size, device=x.device)).long()


# --- writing ------------------------------------------------------------------------


@rule("scatter scatter_")
def _scatter(call: Call) -> Any:
    x, dim, index, value = (*call.args, *call.kwargs.values())
    dim = dim % x.dim()
    if not isinstance(index, SoftIndex) or index.shape[dim] != 1:
        raise TypeError(refusal(sites(call.args), "scatter of several values by slice"))
    _check_index(index)
    size = x.shape[dim]
    slots = torch.arange(size, device=x.device)
    slots = slots.reshape(-1, *(1,) * (x.dim() - dim - 1))
    result = torch.where(index == slots, value, x)
    return _written(x, result) if call.name.endswith("_") else result


@rule("scatter_add scatter_add_ index_add index_add_")
def _scatter_add(call: Call) -> Any:
    one_dim = call.name.startswith("index")
    x, dim, index, source = call.arguments(
        "input", "dim", "index", "source" if one_dim else "src"
    )
    _check_index(index)
    dim = dim % x.dim()
    if one_dim:
        index = index.reshape(-1, *(1,) * (x.dim() - dim - 1))
    # Each slot gets the source where the index is the slot.
    slots = torch.arange(x.shape[dim], device=x.device)
    shares = (index.unsqueeze(-1) == slots) * source.unsqueeze(-1)
    result = x + shares.sum(dim).movedim(-1, dim)
    return _written(x, result) if call.name.endswith("_") else result


@rule("bincount")
def _bincount(call: Call) -> Any:
    x, weights, size = call.arguments(
        "input", "weights", "minlength", weights=None, minlength=0
    )
    _check_index(x)
    hits = torch.arange(
        max(size, int(x.states.max()) + 1), device=x.device
    ) == x.unsqueeze(-1)
    return (hits if weights is None else hits * weights.unsqueeze(-1)).sum(0)


@rule("setitem")
def _setitem(call: Call) -> Any:
    x, index, value = call.args
    mask = isinstance(index, SoftIndex) and index.dtype is torch.bool
    if mask and not isinstance(x, AbstractSoft):
        index = index[(..., *(None,) * (x.dim() - index.dim()))]
        _written(x, torch.where(index, value, x))
    elif softs(index):
        raise TypeError(refusal(sites(call.args), "writing at an index that is soft"))
    elif isinstance(x, AbstractSoft) or not x.is_floating_point():
        raise TypeError(
            refusal(sites(call.args), "writing it into an array of integers")
        )
    else:
        x[index] = plain(value)


def _written(x: Tensor, result: Tensor) -> Tensor:
    if isinstance(result, AbstractSoft) and not x.is_floating_point():
        raise TypeError(refusal(result.site, "writing it into an array of integers"))
    return x.copy_(result)
