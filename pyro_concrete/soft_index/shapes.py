"""What torch's functions do with soft values: shapes, types, selection and writing.

Shape functions move values and weights alike. Where several arrays are put together,
each element of the result keeps the weights that it had.

Twin: ``numpyro_concrete.soft_index.shapes``.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_concrete.soft_index.algebra import Draw, one_draw, total, union
from pyro_concrete.soft_index.rules import bits, elementwise, integral, number, stand_in
from pyro_concrete.soft_index.value import (
    AbstractSoft,
    Call,
    SoftIndex,
    SoftNumber,
    blank,
    is_soft,
    joint_shape,
    plain,
    refusal,
    rule,
    sites,
    softs,
    tensors,
)

# --- shapes and types ---------------------------------------------------------------


@rule("""
    expand broadcast_to squeeze transpose swapaxes swapdims
    permute movedim moveaxis flatten ravel unflatten t adjoint narrow select unbind
    split chunk tensor_split split_with_sizes hsplit vsplit tile repeat
    repeat_interleave flip fliplr flipud roll rot90 diagonal unfold
    atleast_1d atleast_2d atleast_3d view_as reshape_as expand_as .T .mT .H .mH
""")
def _placed(call: Call) -> Any:
    x, *rest = call.args
    if softs((rest, call.kwargs)) and not call.name.endswith("_as"):
        raise TypeError(refusal(call.sites, f"{call.name} by it"))
    if not isinstance(x, AbstractSoft):
        return stand_in(call)
    if call.name in ("squeeze", "flip") and not x.dim():
        return x  # a scalar's last dimension is none, to torch; vmap refuses it
    rest = _known_sizes(rest)
    return moved(lambda y: call.func(y, *rest, **call.kwargs), x)


def _known_sizes(x: Any) -> Any:
    """Make the sizes that a tracer has recorded numbers: vmap would mistake them."""
    if isinstance(x, tuple | list):
        return [_known_sizes(y) for y in x]
    if isinstance(x, AbstractSoft) or not isinstance(x, Tensor) or x.dim():
        return blank(x)
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # ty: ignore[missing-attribute]
    try:
        return x.item()
    finally:
        torch._C._set_tracing_state(state)  # ty: ignore[missing-attribute]


@rule("unsqueeze")
def _unsqueezed(call: Call) -> Any:
    x, dim = call.arguments("input", "dim")
    if not isinstance(x, SoftIndex) or is_soft(dim):
        return _placed(call)
    # From the right it is the same dimension with a support in front: no need of vmap.
    dim = dim if dim < 0 else dim - x.dim() - 1
    if not -x.dim() - 1 <= dim < 0:
        raise IndexError(f"unsqueeze: no place for a dimension among {x.dim()}")
    draws = [Draw(d.positions(x.dim()).unsqueeze(dim), d.site) for d in x.draws]
    return SoftIndex(x.states.unsqueeze(dim), draws)


@rule("reshape view")
def _reshaped(call: Call) -> Any:
    x, *sizes = call.args
    sizes = [*sizes[0]] if sizes and isinstance(sizes[0], tuple | list) else sizes
    # The states are the same at all positions, and the sizes numbers.
    plainly = isinstance(x, SoftIndex) and x.states.numel() == len(x.states)
    plainly = plainly and len(x.draws) == 1 and not call.kwargs
    if not plainly or not all(isinstance(n, int) for n in sizes):
        return _placed(call)
    # The same with a support in front: no need of vmap.
    (draw,) = x.draws
    weights = draw.positions(x.dim()).expand(-1, *x.shape)
    weights = weights.reshape(len(weights), *sizes)
    return SoftIndex(x.states.flatten(), [Draw(weights, draw.site)])


def moved(move: Callable, x: Any) -> Any:
    """Move the elements of a soft value as those of a plain one."""
    if isinstance(x, SoftNumber):
        return _each(lambda y: SoftNumber(y, x.dtype, x.site), move(x.number))
    many = torch.vmap(move)
    draws = []
    for draw in x.draws:
        full = draw.positions(x.dim()).expand(-1, *x.shape)
        draws.append(_each(functools.partial(Draw, site=draw.site), many(full)))
    supports = [len(d.weights) for d in x.draws]
    if x.states.numel() == math.prod(supports):
        values = x.states.reshape(supports)
        return _each(lambda *several: SoftIndex(values, several), *draws)
    states = x.states.expand(*supports, *x.shape).flatten(0, len(supports) - 1)

    def rebuilt(y: Tensor, *several: Draw) -> SoftIndex:
        return SoftIndex(y.unflatten(0, supports), several)

    return _each(rebuilt, many(states), *draws)


def _each(func: Callable, *parts: Any) -> Any:
    """Apply a function to tensors, or to each of them where there are several."""
    if isinstance(parts[0], tuple | list):
        return tuple(func(*several) for several in zip(*parts, strict=True))
    return func(*parts)


@rule("iter")
def _iter(call: Call) -> Any:
    return iter(call.args[0].unbind(0))


@rule("broadcast_tensors")
def _broadcast_tensors(call: Call) -> Any:
    shape = joint_shape(*(x.shape for x in call.args))
    return tuple(x.expand(shape) for x in call.args)


@rule("pad")
def _pad(call: Call) -> Any:
    x, pad, mode, value = call.arguments(
        "input", "pad", "mode", "value", mode="constant", value=None
    )
    # Where each element comes from; the first place is that of the padding.
    at = torch.arange(1, x.numel() + 1, device=x.device).reshape(x.shape)
    padding = torch.full((1,), value or 0, dtype=x.dtype, device=x.device)
    places = call.func(at, pad, mode=mode)
    return torch.cat([padding, x.reshape(-1)])[places]


@rule("clone contiguous requires_grad_ alias")
def _unchanged(call: Call) -> Any:
    return call.args[0]


@rule("detach cpu cuda .data")
def _everywhere(call: Call) -> Any:
    x, *rest = call.args
    move = functools.partial(_with_rest, call.func, rest, call.kwargs)
    if isinstance(x, SoftNumber):
        return SoftNumber(move(x.number), x.dtype, x.site)
    return SoftIndex(move(x.states), [Draw(move(d.weights), d.site) for d in x.draws])


@rule("to type type_as float double half bfloat16 long int short char byte bool")
def _cast(call: Call) -> Any:
    x, *rest = call.args
    if not isinstance(x, AbstractSoft):
        return stand_in(call)
    rest = [blank(y) for y in rest]
    move = functools.partial(_with_rest, call.func, rest, call.kwargs)
    if isinstance(x, SoftIndex):
        values = move(x.states)
        draws = [Draw(d.weights.to(values.device), d.site) for d in x.draws]
        return SoftIndex(values, draws)
    dtype = move(blank(x)).dtype
    if dtype is torch.bool:
        raise TypeError(refusal(x.site, "a cast to bool"))
    mean = x.number.to(dtype) if dtype.is_floating_point else x.number
    return SoftNumber(mean, dtype, x.site)


def _with_rest(func: Callable, rest: Sequence[Any], kwargs: dict, x: Tensor) -> Any:
    return func(x, *rest, **kwargs)


# --- selection ----------------------------------------------------------------------


@rule("where")
def _where(call: Call) -> Any:
    condition, *branches = call.args
    if len(branches) != 2:
        raise TypeError(refusal(call.sites, "where with one argument"))
    if isinstance(condition, SoftNumber):
        raise TypeError(refusal(condition.site, "a condition on it"))
    whole = all(map(integral, branches))
    if isinstance(condition, SoftIndex):
        if not softs(branches) and not whole:
            condition = _two_valued(condition)
        return elementwise(call._replace(args=(condition, *branches)))
    if not whole:
        return call.func(condition, *plain(branches), **call.kwargs)
    numbers = any(isinstance(x, SoftNumber) for x in branches)
    if numbers or len(union(x.draws for x in softs(branches))) == 1:
        return elementwise(call)
    shape = joint_shape(*(x.shape for x in tensors(call.args)))
    # The condition takes part, so that the result has its shape.
    return _chosen(lambda *xs: torch.where(condition, *xs), branches, shape)


def _two_valued(condition: SoftIndex) -> SoftIndex:
    """Return a boolean as a draw of two values."""
    dtype = condition.draws[0].weights.dtype
    true = total(condition.states.to(dtype), condition.draws, bounded=False)
    weights = torch.stack([1 - true, true])
    return SoftIndex(bits(condition.device), (Draw(weights, condition.site),))


@rule("masked_fill")
def _masked_fill(call: Call) -> Any:
    x, mask, value = call.args
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    return torch.where(mask, value, x)


@rule("triu tril")
def _triangle(call: Call) -> Any:
    x, *rest = call.args
    ones = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device)
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    return torch.where(call.func(ones, *rest, **call.kwargs), x, zero)


@rule("stack cat concat concatenate hstack vstack column_stack dstack")
def _concatenated(call: Call) -> Any:
    parts = call.args[0]
    if all(map(integral, parts)) and not any(isinstance(x, SoftNumber) for x in parts):
        return _chosen(lambda *xs: call.func(xs, *call.args[1:], **call.kwargs), parts)
    return number(call.on(plain), parts)  # plain if one of them is of floats


def _chosen(
    func: Callable, parts: Sequence[Any], shape: Sequence[int] | None = None
) -> SoftIndex:
    """Let a function place the elements of several integer arrays, soft and plain.

    Each element of the result is an element of one of them: so are its weights.
    """
    device = next(x.device for x in parts if isinstance(x, AbstractSoft))
    arrays = [torch.as_tensor(x, device=device) for x in parts]
    support, weights = common_support(arrays)
    shapes = [x.shape if shape is None else shape for x in arrays]
    full = [
        w.reshape(len(w), *(1,) * (len(s) - w.dim() + 1), *w.shape[1:]).expand(-1, *s)
        for w, s in zip(weights, shapes, strict=True)
    ]
    return SoftIndex(support, (Draw(torch.vmap(func)(*full), sites(parts)),))


def common_support(arrays: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the values of several integer arrays, and the weights of each on these."""
    draws = [one_draw(x.draws) if isinstance(x, SoftIndex) else None for x in arrays]
    values = [
        x.states.flatten(0, len(x.draws) - 1) if isinstance(x, SoftIndex) else x[None]
        for x in arrays
    ]
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in values))
    real = next(d.weights.dtype for d in draws if d is not None)
    support = torch.cat([x.flatten().to(dtype) for x in values]).unique()
    weights = []
    for x, draw, array in zip(values, draws, arrays, strict=True):
        # One-hot over the common support, with the array's own support next.
        shape = (len(support), *(1,) * x.dim())
        hit = (x == support.reshape(shape)).to(real)
        if draw is not None:
            hit = hit * draw.positions(array.dim())
        weights.append(hit.sum(1))
    return support, weights
