"""What torch's functions do with soft values: writing by index, in place, and counting.

What is written into a plain tensor of floats is an average from there on. A plain
tensor of integers has no place for a soft value.

Counterpart: ``numpyro_concrete.soft_index.writing``.
"""

import functools
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from pyro_concrete.soft_index.abstract import (
    AbstractSoft,
    Call,
    Results,
    are_independent,
    is_soft,
    rule,
    site_names,
    soft_leaves,
)
from pyro_concrete.soft_index.averages import averages_in_reals, is_whole
from pyro_concrete.soft_index.elementwise import elementwise
from pyro_concrete.soft_index.joint import apply_jointly, shares_a_draw
from pyro_concrete.soft_index.refusals import SharedDrawsError, refusal
from pyro_concrete.soft_index.trees import Argument, Tree
from pyro_concrete.soft_index.value import (
    SoftIndex,
    SoftReal,
    exact_or_none,
    plain,
    soft_real,
)

# Writing compares each place with each index: no more comparisons than these.
_MOST_COMPARISONS = 2**24


# --- by index -----------------------------------------------------------------------


@rule("scatter scatter_")
def _scatter(call: Call) -> Tensor:
    if call.kwargs.get("reduce") is not None:
        raise TypeError(refusal(call.sites, "scatter with a reduction"))
    x, dim, index, source = _scatter_arguments(call)
    return _in_place(call, x, _scattered(x, dim, index, source))


def _scattered(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    if not x.dim():
        return source.reshape(()) + torch.zeros_like(x)
    if not index.dim():
        index = index.reshape(1)
        if not source.dim():
            source = source.reshape(1)
    dim = dim % x.dim()
    if source.dim():
        source = source[_corner(index)]
    if _has_one_row(index, x, dim):
        return torch.where(index == _slots(x, dim), source, x)
    source = source.expand(index.shape)
    written = apply_jointly(Call("scatter", torch.scatter, (x, dim, index, source), {}))
    if isinstance(written, Tensor):
        return written
    return _written_at(x, _places_along(x, dim, index), source)


def _has_one_row(index: Tensor, x: Tensor, dim: int) -> bool | Tensor:
    """Tell whether an index names one element for each row of a tensor."""
    sizes = [n for d, n in enumerate(x.shape) if d != dim]
    index_sizes = [n for d, n in enumerate(index.shape) if d != dim]
    return index.shape[dim] == 1 and sizes == index_sizes


def _scatter_arguments(call: Call) -> tuple[Tensor, int, Tensor, Tensor]:
    names = ("input", "dim", "index", "src")
    arguments = dict(zip(names, call.args, strict=False)) | call.kwargs
    source = arguments.get("src", arguments.get("value", arguments.get("source")))
    x = arguments["input"]
    if not isinstance(source, Tensor):
        source = torch.as_tensor(source, dtype=x.dtype, device=x.device)
    return x, arguments["dim"], arguments["index"], source


def _slots(x: Tensor, dim: int) -> Tensor:
    slots = torch.arange(x.shape[dim], device=x.device)
    return slots.reshape(-1, *(1,) * (x.dim() - dim - 1))


def _corner(index: Tensor) -> tuple[slice, ...]:
    """The part of a source that an index of smaller shape reads."""
    return tuple(slice(0, n) for n in index.shape)


def _places_along(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return the place in the flat tensor of what an index along a dimension names."""
    positions = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    return positions[_corner_but(index, dim)].gather(dim, index)


def _corner_but(index: Tensor, dim: int) -> tuple[slice, ...]:
    corner = [slice(0, n) for n in index.shape]
    corner[dim] = slice(None)
    return tuple(corner)


def _written_at(
    x: Tensor, places: Tensor, values: Argument, *, accumulate: bool = False
) -> Tensor:
    """Return averages of a tensor into which values are written at soft places.

    Of two values at one place the later one is kept, as if they were written in order.

    Shapes:
        places: (*written,), numbers of elements of the flat tensor.
        values: broadcasts to places.
    """
    site = site_names((x, places, values))
    if not x.is_floating_point():
        raise TypeError(refusal(site, "writing into integers at a soft index"))
    if places.numel() * x.numel() > _MOST_COMPARISONS:
        raise TypeError(refusal(site, f"writing at {places.numel()} soft indices"))
    if not are_independent((x, places, values)) or shares_a_draw(places):
        raise TypeError(refusal(site, "writing so many values that share a draw"))
    values = torch.broadcast_to(torch.as_tensor(values, device=x.device), places.shape)
    slots = torch.arange(x.numel(), device=x.device)
    hits = plain((places.reshape(-1, 1) == slots).to(x.dtype)).to(x.dtype)
    flat = plain(x).reshape(-1)
    values = plain(values).to(x.dtype).reshape(-1, 1)
    if accumulate:
        return soft_real((flat + (hits * values).sum(0)).reshape(x.shape), site)
    missed = (1 - hits).flip(0).cumprod(0).flip(0)  # by this and all later writes
    missed_later = torch.cat([missed[1:], torch.ones_like(missed[:1])])
    shares_kept = hits * missed_later
    written = torch.where(shares_kept == 0, 0.0, shares_kept * values).sum(0)
    if len(hits):
        flat = torch.where(missed[0] == 0, 0.0, flat * missed[0])
    written = written + flat
    return soft_real(written.reshape(x.shape), site)


@rule("scatter_add scatter_add_ index_add index_add_")
def _scatter_add(call: Call) -> Results:
    x, dim, index, source = _scatter_arguments(call)
    dim = dim % max(x.dim(), 1)
    if call.name.startswith("index"):
        source = source * call.kwargs.get("alpha", 1)
        index = index.reshape(-1, *(1,) * (x.dim() - dim - 1))
    else:
        source = source[_corner(index)]
    if not x.dim():
        return _in_place(call, x, x + source.sum())
    # Each slot gets the source where the index is the slot.
    slots = torch.arange(x.shape[dim], device=x.device)
    terms = (index.unsqueeze(-1) == slots) * source.unsqueeze(-1)
    added = terms.sum(dim).movedim(-1, dim)
    missing = [n - m for n, m in zip(x.shape, added.shape, strict=True)]
    if any(missing):
        pairs = [(0, n) for n in reversed(missing)]
        added = torch.nn.functional.pad(added, [n for pair in pairs for n in pair])
    return _in_place(call, x, x + added)


@rule("index_fill index_fill_ index_copy index_copy_")
def _index_fill(call: Call) -> Results:
    x, dim, index, source = _scatter_arguments(call)
    dim = dim % x.dim()
    index = index.reshape(-1, *(1,) * (x.dim() - dim - 1))
    shape = (*x.shape[:dim], len(index), *x.shape[dim + 1 :])
    source = source.to(x.dtype).expand(shape)
    return _in_place(call, x, x.scatter(dim, index.expand(shape), source))


@rule("index_put index_put_ _index_put_impl_")
def _index_put(call: Call) -> Results:
    x, index, values, accumulate = call.arguments(
        "input", "indices", "values", "accumulate", accumulate=False
    )
    return _in_place(call, x, _put(x, tuple(index), values, accumulate=accumulate))


def _put(
    x: Tensor, index: Tree, values: Argument, *, accumulate: bool = False
) -> Tensor:
    if isinstance(index, tuple) and len(index) == 1:
        (index,) = index
    is_mask = is_soft(index) and index.dtype is torch.bool
    if is_mask and not accumulate:
        mask = index[(..., *(None,) * (x.dim() - index.dim()))]
        return torch.where(mask, torch.as_tensor(values, device=x.device), x)
    positions = torch.arange(x.numel(), device=x.device).reshape(x.shape)[index]
    if soft_leaves(index):
        values = torch.as_tensor(values, dtype=x.dtype, device=x.device)
        if not isinstance(index, tuple):
            index = (index,)
        operands = x, index, values, accumulate
        written = apply_jointly(Call("index_put", torch.index_put, operands, {}))
        if isinstance(written, Tensor):
            return written
        return _written_at(x, positions, values, accumulate=accumulate)
    if accumulate:
        values = x.reshape(-1)[positions] + values
    return _replaced(x, positions, values)


def _replaced(x: Tensor, places: Tensor, values: Argument) -> Tensor:
    """Return a tensor with other elements at known places."""
    values = torch.as_tensor(values, device=x.device).expand(places.shape).reshape(-1)
    sources = torch.arange(x.numel(), device=x.device)
    count = torch.arange(places.numel(), device=x.device)
    sources[places.reshape(-1)] = x.numel() + count
    every = torch.cat([x.reshape(-1), values.to(x.dtype)])
    return every[sources].reshape(x.shape)


@rule("setitem")
def _setitem(call: Call) -> None:
    x, index, value = call.args
    if not is_soft(x) and not soft_leaves(index) and x.is_floating_point():
        x[index] = plain(value)
        return
    _written(x, _put(x, index, value))


# --- in place -----------------------------------------------------------------------


def _in_place(call: Call, x: Tensor, result: Tensor) -> Tensor:
    if call.name.endswith("_"):
        return _written(x, result)
    return result


def _written(x: Tensor, result: Tensor) -> Tensor:
    """Put a result in the place of a value."""
    if not isinstance(x, AbstractSoft):
        return _written_into_plain(x, result)
    if isinstance(x, SoftReal):
        values = _values_from_now_on(result)
        x.number.copy_(plain(result))
        x.values = values
        x.are_whole = functools.partial(is_whole, result)
    else:
        exact = exact_or_none(result)
        if not isinstance(x, SoftIndex) or exact is None:
            raise TypeError(refusal(x.site, "writing into it"))
        x.become(cast("SoftIndex", exact.to(x.dtype).expand(x.shape)))
    x.writes += 1
    return x


def _written_into_plain(x: Tensor, result: Tensor) -> Tensor:
    if isinstance(result, AbstractSoft) and not x.is_floating_point():
        raise TypeError(refusal(result.site, "writing it into a tensor of integers"))
    return x.copy_(plain(result))


def _values_from_now_on(result: Tensor) -> Callable[[], SoftIndex] | None:
    """Return a function for the values of a result, which depend on no later write."""
    if not isinstance(result, AbstractSoft):
        return None
    try:
        exact = result.exact()
    except SharedDrawsError as error:
        site = error.site

        def lost() -> SoftIndex:
            raise SharedDrawsError(site)

        return lost
    except TypeError:
        return None
    return lambda: exact


@rule("copy_")
def _copied(call: Call) -> Results:
    target = call.args[0]
    if is_soft(target) or not target.is_floating_point():
        raise TypeError(refusal(call.sites, "writing it to integers"))
    return call.run(averages_in_reals(call))


@rule("_in_place")
def _any_in_place(call: Call) -> Results:
    """Replace a value by the result of a function that has a rule."""
    function = getattr(Tensor, call.name, None) or getattr(torch, call.name, None)
    if function is None:
        raise TypeError(refusal(call.sites, f"{call.name}_"))
    return _written(call.args[0], function(*call.args, **call.kwargs))


# The functions behind Python's operators that write in place.
_OPERATORS = {
    "iadd": "add",
    "isub": "sub",
    "imul": "mul",
    "idiv": "div",
    "itruediv": "div",
    "ifloordiv": "floor_divide",
    "imod": "remainder",
    "ipow": "pow",
    "iand": "bitwise_and",
    "ior": "bitwise_or",
    "ixor": "bitwise_xor",
}


@rule(" ".join(_OPERATORS))
def _operator_in_place(call: Call) -> Results:
    x = call.args[0]
    name = _OPERATORS[call.name]
    result = elementwise(Call(name, getattr(torch, name), call.args, call.kwargs))
    _written(x, result)
    if is_soft(x) or not isinstance(result, SoftReal):
        return x
    return soft_real(x, result.site, result.values, result.are_whole)
