"""What torch's functions do with soft values: elementwise and linear functions.

An elementwise function is applied to every value of the support. A linear function
sees the mean. A function without a rule is refused.

Twin: ``numpyro_concrete.soft_index.rules``.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_concrete.soft_index.algebra import (
    Draw,
    lined_up,
    merged,
    one_draw,
    total,
    union,
)
from pyro_concrete.soft_index.value import (
    AbstractSoft,
    Call,
    SoftIndex,
    SoftNumber,
    blank,
    numbers,
    plain,
    refusal,
    rule,
    sites,
    softs,
    tensors,
)

# More joint values than this are merged where they are equal, ...
_MERGE_FROM = 64
# ... and more than this are refused.
_LIMIT = 2**16


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# --- what needs no value ------------------------------------------------------------


@rule("""
    size ndimension numel nelement len stride is_complex is_signed get_device
    element_size is_contiguous .requires_grad .is_cuda .is_leaf .layout .grad_fn
    .is_sparse .is_nested .is_mps .is_meta .is_cpu .is_quantized .itemsize .grad
""")
def _metadata(call: Call) -> Any:
    if torch._C._get_tracing_state():
        # A tracer would record the soft value as a constant, and read it.
        return call.func(*map(blank, call.args), **call.kwargs)
    with torch._C.DisableTorchFunctionSubclass():
        return call.func(*call.args, **call.kwargs)


@rule("""
    zeros_like ones_like empty_like full_like rand_like randn_like
    new_zeros new_ones new_empty new_full new_tensor
""")
def _made(call: Call) -> Any:
    if softs((call.args[1:], call.kwargs)):
        raise TypeError(refusal(call.sites, f"{call.name} of it"))
    return stand_in(call)


@rule("result_type is_tensor can_cast")
def stand_in(call: Call) -> Any:
    """Run a function that reads no value on plain tensors of the same kind."""
    return call.on(blank)


# --- elementwise --------------------------------------------------------------------

# Of integers these give integers, whatever the type that holds them.
_CLOSED = _names("""
    add sub rsub subtract mul multiply neg negative positive abs absolute square sign
    sgn clamp clamp_min clamp_max clip minimum maximum remainder fmod
    floor_divide floor ceil round trunc fix where masked_fill relu
""")


@rule("""
    add sub rsub subtract mul multiply div divide true_divide floor_divide remainder
    fmod pow float_power neg negative positive abs absolute square sqrt rsqrt reciprocal
    sign sgn clamp clamp_min clamp_max clip minimum maximum fmin fmax floor ceil round
    trunc fix exp exp2 expm1 log log2 log10 log1p lgamma digamma gammaln sigmoid logit
    tanh sin cos tan sinh cosh asin acos atan atan2 erf erfc relu softplus xlogy
    special_xlogy xlog1py special_xlog1py logaddexp hypot ldexp lerp addcmul addcdiv
    eq ne lt le gt ge not_equal less less_equal greater greater_equal isclose
    isnan isinf isfinite isposinf isneginf logical_not logical_and logical_or
    logical_xor bitwise_not bitwise_and bitwise_or bitwise_xor invert and or xor
    mvlgamma special_gammaln nan_to_num sinc erfinv
    elu selu celu gelu silu mish leaky_relu relu6 log_sigmoid softsign
    hardtanh hardsigmoid hardswish hardshrink softshrink tanhshrink
""")
def elementwise(call: Call) -> Any:
    """Apply a function to every joint value of its soft operands."""
    found = softs(call.operands)
    if any(isinstance(x, SoftNumber) for x in found):
        return _on_numbers(call)
    draws = union(x.draws for x in found)
    rank = max(x.dim() for x in tensors(call.operands))

    def lifted(x: Any) -> Any:
        if not isinstance(x, SoftIndex):
            return x
        return lined_up(x.states, x.draws, draws, rank)

    check_size(draws)
    result = call.on(lifted)
    if _holds_integers(call, result):
        return soft_integer(result, draws)
    return total(result, draws)


def _holds_integers(call: Call, result: Tensor) -> bool:
    """Whether the discrete program's result is integers, in whatever type."""
    if not result.is_floating_point():
        return True
    return call.name in _CLOSED and all(map(integral, numbers(call.operands)))


@rule("max min")
def _larger_or_smaller(call: Call) -> Any:
    if len(call.args) != 2 or not isinstance(call.args[1], Tensor):
        raise TypeError(refusal(call.sites, f"{call.name} over positions"))
    return elementwise(call._replace(name=call.name + "imum"))


def integral(x: Any) -> bool:
    """Tell whether an operand holds integers, whatever its type."""
    if isinstance(x, AbstractSoft):
        return True
    return not x.is_floating_point() if isinstance(x, Tensor) else isinstance(x, int)


def soft_integer(values: Tensor, draws: Sequence[Draw]) -> SoftIndex:
    """Return a soft integer; where its support has grown, equal values become one."""
    states = math.prod(len(d.weights) for d in draws)
    if len(draws) > 1 and states > _MERGE_FROM and values.numel() == states:
        distinct, draw = merged(values.flatten(), one_draw(draws))
        return SoftIndex(distinct, (draw,))
    return SoftIndex(values, draws)


def check_size(draws: Sequence[Draw]) -> None:
    """Refuse an operation whose joint support would not fit."""
    states = math.prod(len(d.weights) for d in draws)
    if states > _LIMIT:
        site = " and ".join(dict.fromkeys(d.site for d in draws))
        raise TypeError(refusal(site, f"an operation on {states} joint values"))


# --- numbers: integers of which only the mean is known -----------------------------

_ROUNDING = _names("""
    eq ne lt le gt ge less less_equal greater greater_equal isclose
    logical_not logical_and logical_or logical_xor
    bitwise_not bitwise_and bitwise_or bitwise_xor invert and or xor
    floor ceil round trunc fix sign sgn remainder fmod floor_divide
""")


def _on_numbers(call: Call) -> Any:
    """Let arithmetic see means, and refuse what would round them."""
    if call.name in ("eq", "ne") and call.args[0] is call.args[1]:
        return call.on(plain)  # a check for NaN
    if call.name in _ROUNDING:
        raise TypeError(refusal(call.sites, call.name))
    result = call.on(plain)
    if call.name in _CLOSED:
        return number(result, call.operands)
    return result


def number(result: Tensor, operands: Any) -> Tensor:
    """Guard a result that would be integers in the discrete program."""
    if not all(integral(x) for x in numbers(operands)):
        return result
    types = [x.dtype for x in tensors(operands)]
    dtype = functools.reduce(torch.promote_types, types)
    dtype = torch.int64 if dtype is torch.bool else dtype
    return SoftNumber(result, dtype, sites(operands))


@rule("""
    sum nansum prod cumsum cumprod diff trace matmul mm bmm mv dot vdot inner
    outer ger kron tensordot einsum addmm addmv addbmm baddbmm chain_matmul multi_dot
    diag diag_embed diagflat
""")
def _linear(call: Call) -> Any:
    return number(_of_means(call), call.operands)


@rule("""
    mean linear bilinear conv1d conv2d conv3d dropout copy_
    binary_cross_entropy binary_cross_entropy_with_logits
""")
def _linear_in_reals(call: Call) -> Any:
    target = call.args[0]
    if call.name == "copy_" and not target.is_floating_point():
        raise TypeError(refusal(call.sites, "writing it to integers"))
    return _of_means(call)


def _of_means(call: Call) -> Tensor:
    dtype = plain(softs(call.operands)[0]).dtype

    def in_reals(x: Any) -> Any:
        x = plain(x)
        whole = isinstance(x, Tensor) and not x.is_floating_point()
        return x.to(dtype) if whole else x

    return call.on(in_reals)


@rule("all any _is_all_true")
def _all_or_any(call: Call) -> Any:
    x, *rest = call.args
    if isinstance(x, SoftNumber):
        raise TypeError(refusal(x.site, call.name))
    states = x.states.bool().flatten(0, len(x.draws) - 1)
    if bool((states == states[:1]).all()):
        return call.func(states[0].expand(x.shape), *rest, **call.kwargs)
    true = plain(x.bool().to(x.draws[0].weights.dtype))
    if call.name == "any":
        false = (1 - true).prod(*rest, **call.kwargs)
        weights = torch.stack([false, 1 - false])
    else:
        true = true.prod(*rest, **call.kwargs)
        weights = torch.stack([1 - true, true])
    return SoftIndex(bits(x.device), (Draw(weights, x.site),))


def bits(device: torch.device) -> Tensor:
    """Return the values of a boolean."""
    return torch.tensor([False, True], device=device)
