"""What torch's functions do with soft values: shapes, types and selection.

Shape functions move values, probabilities and elements alike. Where several tensors are
put together, each element of the result keeps what it had.

Counterpart: ``numpyro_concrete.soft_index.shapes``.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_concrete.internals import Shape, untraced
from pyro_concrete.soft_index.abstract import (
    AbstractSoft,
    Call,
    Move,
    Results,
    is_soft,
    rule,
    site_names,
    soft_leaves,
)
from pyro_concrete.soft_index.algebra import Draw
from pyro_concrete.soft_index.averages import deferred, is_whole
from pyro_concrete.soft_index.metadata import stand_in
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.trees import Argument, joint_shape, over_support
from pyro_concrete.soft_index.value import (
    AverageOfValues,
    SoftIndex,
    SoftNumber,
    SoftReal,
    blank,
    soft_real,
)


@rule("""
    expand broadcast_to squeeze transpose swapaxes swapdims
    permute movedim moveaxis flatten ravel unflatten t adjoint narrow select unbind
    split chunk tensor_split split_with_sizes hsplit vsplit dsplit tile repeat
    repeat_interleave flip fliplr flipud roll rot90 diagonal linalg_diagonal unfold
    view_as reshape_as expand_as .T .mT .H .mH
    unsafe_chunk unsafe_split narrow_copy matrix_H permute_copy squeeze_copy
    unsqueeze_copy expand_copy view_copy t_copy transpose_copy select_copy slice_copy
    squeeze_multiple sum_to_size_free resolve_conj resolve_neg positive_copy
""")
def _placed(call: Call) -> Results:
    x, *options = call.args
    if soft_leaves((options, call.kwargs)) and not call.name.endswith("_as"):
        raise TypeError(refusal(call.sites, f"{call.name} by it"))
    if not isinstance(x, AbstractSoft):
        return stand_in(call)
    if call.name in ("squeeze", "flip", "roll") and not x.dim():
        return x  # a scalar's last dimension is none, to torch; vmap refuses it
    if call.name == "view_copy" and any(isinstance(y, torch.dtype) for y in options):
        raise TypeError(refusal(x.site, "view_copy with a type"))
    options = _known_sizes(options)
    return move_elements(lambda y: call.func(y, *options, **call.kwargs), x)


@rule("atleast_1d atleast_2d atleast_3d")
def _with_dimensions(call: Call) -> Results:
    (x, *more_tensors) = call.args
    if more_tensors or isinstance(x, tuple | list):
        return tuple(map(call.func, (x, *more_tensors) if more_tensors else x))
    return move_elements(call.func, x)


def _known_sizes(x: Argument) -> Argument:
    """Make the sizes that a tracer has recorded numbers: vmap would mistake them."""
    if isinstance(x, tuple | list):
        return [_known_sizes(y) for y in x]
    if isinstance(x, AbstractSoft) or not isinstance(x, Tensor) or x.dim():
        return blank(x)
    with untraced():
        return x.item()


@rule("unsqueeze")
def _unsqueezed(call: Call) -> Results:
    x, dim = call.arguments("input", "dim")
    if not isinstance(x, SoftIndex) or is_soft(dim):
        return _placed(call)
    # From the right it is the same dimension with a support in front: no need of vmap.
    if dim >= 0:
        dim -= x.dim() + 1
    if not -x.dim() - 1 <= dim < 0:
        raise IndexError(f"unsqueeze: no place for a dimension among {x.dim()}")
    shape = blank(x).unsqueeze(dim).shape

    def move(y: Tensor) -> Tensor:
        return y.reshape((1,) * (x.dim() - y.dim()) + y.shape).unsqueeze(dim)

    draws = [
        Draw(d.positions(x.dim()).unsqueeze(dim), d.site, d.elements.moved(move))
        for d in x.draws
    ]
    return SoftIndex(x.states.unsqueeze(dim), draws, shape)


@rule("reshape view")
def _reshaped(call: Call) -> Results:
    x, *sizes = call.args
    if sizes and isinstance(sizes[0], tuple | list):
        sizes = [*sizes[0]]
    # The states are the same at all positions, and the sizes numbers.
    plainly = isinstance(x, SoftIndex) and x.states.numel() == len(x.states)
    plainly = plainly and len(x.draws) == 1 and not call.kwargs
    if not plainly or not all(isinstance(n, int) for n in sizes) or not sizes:
        return _placed(call)
    # The same with a support in front: no need of vmap.
    (draw,) = x.draws
    probabilities = draw.positions(x.dim()).expand(-1, *x.shape)
    sizes = blank(x).reshape(sizes).shape
    probabilities = probabilities.reshape(len(probabilities), *sizes)
    elements = draw.elements.moved(lambda y: y.expand(x.shape).reshape(sizes))
    return SoftIndex(x.states.flatten(), [Draw(probabilities, draw.site, elements)])


def move_elements(move: Move, x: Argument) -> Argument:
    """Move the elements of a soft value as those of a plain one."""
    if not isinstance(x, SoftIndex):
        return _moved_average(move, x)
    move_states = over_support(move)
    draws = [_moved_draw(move, move_states, draw, x.shape) for draw in x.draws]
    supports = [len(d.probabilities) for d in x.draws]
    if x.states.numel() == math.prod(supports):
        values = x.states.reshape(supports)
        return _each(lambda *several: SoftIndex(values, several), *draws)
    states = x.states.expand(*supports, *x.shape).flatten(0, len(supports) - 1)

    def rebuilt(y: Tensor, *several: Draw) -> SoftIndex:
        return SoftIndex(y.unflatten(0, supports), several)

    return _each(rebuilt, move_states(states), *draws)


def _moved_draw(
    move: Move, move_states: Callable, draw: Draw, shape: Shape
) -> Draw | tuple[Draw, ...]:
    probabilities = move_states(draw.positions(len(shape)).expand(-1, *shape))
    if isinstance(probabilities, Tensor):
        elements = draw.elements.moved(lambda y: move(y.expand(shape)))
        return Draw(probabilities, draw.site, elements)
    return tuple(
        Draw(w, draw.site, draw.elements.moved(lambda y, i=i: move(y.expand(shape))[i]))
        for i, w in enumerate(probabilities)
    )


def _moved_average(move: Move, x: AverageOfValues) -> Results:
    moved_number = move(x.number)
    if isinstance(moved_number, Tensor):
        return _like(x, moved_number, lambda y: move_elements(move, y))
    return tuple(
        _like(x, piece, lambda y, i=i: move_elements(move, y)[i])
        for i, piece in enumerate(moved_number)
    )


def _like(
    x: AverageOfValues, number: Tensor, transform: Callable[[SoftIndex], SoftIndex]
) -> Tensor:
    """Return a value of the same kind, with another average and other values."""
    values = None
    if x.values is not None:
        values = deferred(lambda: transform(x.exact()), x)
    if isinstance(x, SoftReal):
        return soft_real(number, x.site, values, x.are_whole)
    return SoftNumber(number, x.dtype, x.site, values)


def _each(func: Callable, *parts: Any) -> Any:
    """Apply a function to tensors, or to each of them where there are several."""
    if isinstance(parts[0], tuple | list):
        return tuple(func(*several) for several in zip(*parts, strict=True))
    return func(*parts)


@rule("iter")
def _iter(call: Call) -> Results:
    return iter(call.args[0].unbind(0))


@rule("broadcast_tensors")
def _broadcast_tensors(call: Call) -> Results:
    (arrays,) = call.args if isinstance(call.args[0], tuple | list) else (call.args,)
    shape = joint_shape(*(x.shape for x in arrays))
    return tuple(x if x.shape == shape else x.expand(shape) for x in arrays)


@rule("meshgrid")
def _meshgrid(call: Call) -> Results:
    arrays = call.args[0] if isinstance(call.args[0], tuple | list) else call.args
    positions = [torch.arange(x.numel()) for x in arrays]
    grid = torch.meshgrid(*positions, indexing=call.kwargs.get("indexing") or "ij")
    return tuple(x.reshape(-1)[i] for x, i in zip(arrays, grid, strict=True))


@rule("pad")
def _pad(call: Call) -> Results:
    x, pad, mode, value = call.arguments(
        "input", "pad", "mode", "value", mode="constant", value=None
    )
    return _padded(x, pad, mode, value)


@rule("constant_pad_nd")
def _constant_pad(call: Call) -> Results:
    x, pad, value = call.arguments("input", "pad", "value", value=0)
    return _padded(x, pad, "constant", value)


def _padded(x: Tensor, pad: Sequence[int], mode: str, value: Argument) -> Tensor:
    if is_soft(value) or not is_soft(x):
        raise TypeError(refusal(site_names((x, pad, value)), "padding with it"))
    # Where each element comes from; the first place is that of the padding.
    sources = torch.arange(1, x.numel() + 1, device=x.device).reshape(x.shape)
    padding = torch.full((1,), value or 0, dtype=x.dtype, device=x.device)
    sources = torch.nn.functional.pad(sources, pad, mode=mode)
    return torch.cat([padding, x.reshape(-1)])[sources]


@rule("clone contiguous alias positive_ .real")
def _copied(call: Call) -> Results:
    x = call.args[0]
    if isinstance(x, SoftIndex):
        copy = SoftIndex(x.states, x.draws, x.shape)
        copy.values_are_indices = x.values_are_indices
        copy.known_mean = x.known_mean
        copy.known_simplex = x.known_simplex
        return copy
    return _like(x, x.number.clone(), lambda y: y)


# --- types and devices --------------------------------------------------------------


@rule("detach cpu cuda .data")
def _everywhere(call: Call) -> Results:
    x, *options = call.args

    def move(y: Tensor) -> Tensor:
        return call.func(y, *options, **call.kwargs)

    def moved_exact(y: SoftIndex) -> SoftIndex:
        draws = [d.with_probabilities(move(d.probabilities)) for d in y.draws]
        return SoftIndex(move(y.states), draws, y.shape)

    if isinstance(x, SoftIndex):
        return moved_exact(x)
    return _like(x, move(x.number), moved_exact)


@rule("to type type_as float double half bfloat16 long int short char byte bool")
def _cast(call: Call) -> Tensor | str:
    x, *options = call.args
    if not isinstance(x, AbstractSoft):
        return stand_in(call)
    options = [blank(y) for y in options]
    if call.name == "type" and not options and not call.kwargs:
        return blank(x).type()

    def move(y: Tensor) -> Tensor:
        return call.func(y, *options, **call.kwargs)

    if isinstance(x, SoftIndex):
        return _cast_values(move, x)
    dtype = move(blank(x).flatten()[:0]).dtype
    if _is_rounded_by_cast(x, dtype):
        if x.values is None:
            raise TypeError(refusal(x.site, f"a cast to {dtype} of an average"))
        return _cast_values(move, x.exact())
    return _cast_average(move, x, dtype)


def _is_rounded_by_cast(x: AverageOfValues, dtype: torch.dtype) -> bool:
    """Tell whether a cast to a type is no function of the average."""
    if torch.bool in (x.dtype, dtype):
        return True
    return isinstance(x, SoftReal) and not dtype.is_floating_point


def _cast_average(move: Move, x: AverageOfValues, dtype: torch.dtype) -> Tensor:
    values = None
    if x.values is not None:
        values = deferred(lambda: _cast_values(move, x.exact()), x)
    if not dtype.is_floating_point:
        return SoftNumber(x.number, dtype, x.site, values)
    are_values_whole = functools.partial(is_whole, x)
    return soft_real(move(x.number).to(dtype), x.site, values, are_values_whole)


def _cast_values(move: Move, x: SoftIndex) -> SoftIndex:
    values = move(x.states)
    if values.device == x.states.device:
        cast = SoftIndex(values, x.draws, x.shape)
        cast.values_are_indices = (
            x.values_are_indices and values.dtype is not torch.bool
        )
        cast.known_simplex = x.known_simplex
        return cast
    draws = [d.with_probabilities(d.probabilities.to(values.device)) for d in x.draws]
    return SoftIndex(values, draws, x.shape)
