"""What torch's functions do with soft values: elementwise functions.

An elementwise function is applied to every value of the support. Integer results stay
soft, and float results are averages that know their values. A function that is linear
needs no more than the averages, and leaves the values for later.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_concrete.ops.precision import can_be_read, is_plain, known_finite
from pyro_concrete.soft_index.algebra import (
    LARGEST_SUPPORT,
    Draw,
    joint_name,
    lined_up,
    merged,
    number_of_states,
    total,
    union,
)
from pyro_concrete.soft_index.refusals import LostJointError, refusal
from pyro_concrete.soft_index.trees import joint_shape, leaves
from pyro_concrete.soft_index.value import (
    AbstractSoft,
    AbstractSoftInteger,
    Call,
    SoftIndex,
    SoftNumber,
    SoftReal,
    are_independent,
    average,
    blank,
    is_soft,
    of_averages,
    plain,
    rule,
    sites,
    soft_real,
    softs,
    tensors,
)

# More joint values than this are merged where they are equal, for a sum, ...
_MERGE_FROM = 64
# ... and for other functions, as what is merged forgets which elements it was made of;
_MERGE_OTHERS_FROM = 2**10
# but so many numbers are always merged, ...
_MERGE_NUMBERS_FROM = 2**16
# ... and more joint values than this are too many.
_LIMIT = LARGEST_SUPPORT**2


def names(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


# --- what needs no value ------------------------------------------------------------


@rule("""
    size ndimension numel nelement len stride is_complex is_signed get_device
    element_size is_contiguous .requires_grad .is_cuda .is_leaf .layout .grad_fn
    .is_sparse .is_nested .is_mps .is_meta .is_cpu .is_quantized .itemsize .grad
    dim is_floating_point .shape .dtype .device .ndim .is_sparse_csr .is_mkldnn
    .is_mtia .is_vulkan .is_xla .is_xpu .is_ipu .is_maia .names .output_nr .nbytes
    is_inference is_neg is_conj has_names storage_offset dim_order is_same_size
    is_pinned is_shared is_nonzero_free .name ._version .retains_grad
""")
def _metadata(call: Call) -> Any:
    if torch._C._get_tracing_state():
        # A tracer would record the soft value as a constant, and read it.
        return call.func(*map(blank, call.args), **call.kwargs)
    with torch._C.DisableTorchFunctionSubclass():
        return call.func(*call.args, **call.kwargs)


@rule("backward grad requires_grad_ retain_grad register_hook")
def _differentiated(call: Call) -> Any:
    result = call.on(plain)
    return call.args[0] if call.name == "requires_grad_" else result


@rule("multinomial bernoulli poisson binomial normal _standard_gamma _sample_dirichlet")
def _sampled(call: Call) -> Tensor:
    """Draw from a distribution of averages, as of a site that relax does not see."""
    if softs_of_integers(call.operands):
        raise TypeError(refusal(call.sites, f"{call.name} with it"))
    return call.on(plain)


@rule("repr")
def _shown(call: Call) -> str:
    return repr(call.args[0])


@rule("format")
def _formatted(call: Call) -> str:
    return format(*call.args)


@rule("""
    zeros_like ones_like empty_like full_like rand_like randn_like randint_like
    new_zeros new_ones new_empty new_full new_tensor
""")
def _made(call: Call) -> Any:
    if softs((call.args[1:], call.kwargs)):
        raise TypeError(refusal(call.sites, f"{call.name} of it"))
    return stand_in(call)


@rule("result_type is_tensor can_cast promote_types is_same_size")
def stand_in(call: Call) -> Any:
    """Run a function that reads no value on plain tensors of the same kind."""
    return call.on(blank)


# --- elementwise --------------------------------------------------------------------

# Of integers these give integers, whatever the type that holds them.
_CLOSED = names("""
    add sub rsub subtract mul multiply neg negative positive abs absolute square sign
    sgn clamp clamp_min clamp_max clip minimum maximum remainder fmod radd rmul rmod
    floor_divide rfloordiv floor ceil round trunc fix where masked_fill relu fmin fmax
""")
# These are linear in all soft arguments, ...
_LINEAR = names("add sub rsub subtract radd neg negative positive")
# ... and these in one, where it is the only soft one.
_SCALING = names("mul multiply rmul")
_DIVISION = names("div divide true_divide")
# What is no function of an average.
_COMPARING = names("""
    eq ne lt le gt ge not_equal less less_equal greater greater_equal isclose
    logical_not logical_and logical_or logical_xor isnan isinf isfinite isposinf
    isneginf bitwise_not bitwise_and bitwise_or bitwise_xor invert and or xor rand ror
    rxor signbit
""")
# What networks compute of averages.
_OF_NETWORKS = names("""
    add sub rsub radd mul rmul div truediv true_divide neg tanh sigmoid relu exp log
    softplus gelu silu elu leaky_relu log_sigmoid logsigmoid square pow clamp
""")
# What compares its argument with a bound, and so is none of the average of counts.
_BENDING = names("""
    clamp clamp_min clamp_max clip minimum maximum fmin fmax relu relu6 abs absolute
    hardtanh threshold
""")
_CHECKS = names("isnan isinf isfinite isposinf isneginf")
_ROUNDING = names("""
    floor ceil round trunc fix sign sgn remainder fmod rmod floor_divide rfloordiv
    heaviside frac gcd lcm bitwise_left_shift bitwise_right_shift lshift rshift
    rlshift rrshift
""")

# These have an infinite slope at some value where they are finite or not.
_SINGULAR = names("""
    sqrt rsqrt pow rpow float_power div divide true_divide rdiv reciprocal log log2
    log10 log1p asin acos arcsin arccos acosh arccosh atanh arctanh logit xlogy xlog1py
    special_xlogy special_xlog1py special_logit special_log1p erfinv special_erfinv
    special_ndtri hypot atan2 arctan2 lgamma digamma special_entr
""")


@rule("""
    add sub rsub subtract mul multiply div divide true_divide floor_divide remainder
    radd rmul rdiv rfloordiv rmod rpow rand ror rxor
    fmod pow float_power neg negative positive abs absolute square sqrt rsqrt reciprocal
    sign sgn clamp clamp_min clamp_max clip minimum maximum fmin fmax floor ceil round
    trunc fix frac exp exp2 expm1 log log2 log10 log1p lgamma digamma gammaln sigmoid
    tanh sin cos tan sinh cosh asin acos atan atan2 arctan2 erf erfc relu softplus xlogy
    asinh acosh atanh arcsin arccos arctan arcsinh arccosh arctanh logit i0 polygamma
    special_xlogy xlog1py special_xlog1py logaddexp logaddexp2 hypot ldexp lerp addcmul
    addcdiv rad2deg deg2rad copysign nextafter heaviside gcd lcm signbit
    eq ne lt le gt ge not_equal less less_equal greater greater_equal isclose
    isnan isinf isfinite isposinf isneginf logical_not logical_and logical_or
    logical_xor bitwise_not bitwise_and bitwise_or bitwise_xor invert and or xor
    bitwise_left_shift bitwise_right_shift lshift rshift rlshift rrshift
    mvlgamma special_gammaln nan_to_num sinc erfinv special_multigammaln
    special_digamma special_psi special_entr special_erf special_erfc special_erfcx
    special_erfinv special_exp2 special_expit special_expm1 special_i0 special_i0e
    special_i1 special_i1e special_log1p special_log_ndtr special_logit special_ndtr
    special_ndtri special_polygamma special_round special_sinc special_zeta
    special_gammainc special_gammaincc igamma igammac square_ special_bessel_j0
    special_bessel_j1 special_bessel_y0 special_bessel_y1
    elu selu celu gelu silu mish leaky_relu relu6 log_sigmoid logsigmoid softsign
    hardtanh hardsigmoid hardswish hardshrink softshrink tanhshrink threshold
""")
def elementwise(call: Call) -> Any:
    """Apply a function to every joint value of its soft operands."""
    try:
        return _elementwise(call)
    except LostJointError as error:
        return _without_joint(call, error)


def _elementwise(call: Call) -> Any:
    operands = softs(call.operands)
    if all(type(x) is SoftIndex for x in operands):
        return _on_values(call, operands)
    if call.name in _OF_NETWORKS and _is_of_averages(operands):
        # The work of a network in every step, and so done without a detour.
        return soft_real(_on_plain(call), operands[0].site)
    if call.name in ("eq", "ne") and call.args[0] is call.args[1]:
        return call.on(plain)  # a check for NaN, as validation does
    if any(isinstance(x, SoftReal) and x.values is None for x in operands):
        return _on_averages(call)
    if _is_linear(call, operands):
        return linear(call, lambda: elementwise(call.with_arguments(exact)).exact())
    try:
        known = call.with_arguments(exact)
    except LostJointError:
        raise
    except TypeError:
        return _on_averages(call)
    return _on_values(known, softs(known.operands))


def _without_joint(call: Call, error: LostJointError) -> Any:
    """Apply a function to averages where these are enough, or raise the error.

    A product of independent values has the product of the means. A comparison of reals
    is refused where it is used, as validation does not use it.
    """
    operands = softs(call.operands)

    def lost() -> SoftIndex:
        raise LostJointError(error.site)

    is_product = call.name in _SCALING and are_independent(operands)
    if _is_linear(call, operands) or is_product:
        return linear(call, lost)
    of_integers = any(isinstance(x, AbstractSoftInteger) for x in operands)
    if call.name in _COMPARING and not of_integers:
        result = call.on(average)
        return SoftNumber(result, result.dtype, call.sites, lost)
    raise error


def _is_of_averages(operands: Sequence[Any]) -> bool:
    """Whether all operands are reals without values, of the same sites."""
    site = operands[0].site
    return all(
        type(x) is SoftReal and x.values is None and x.site == site for x in operands
    )


def _on_plain(call: Call) -> Tensor:
    args = [x.number if type(x) is SoftReal else x for x in call.args]
    return call.func(*args) if not call.kwargs else call.on(plain)


def exact(x: Any) -> Any:
    """Return a soft value with its support, anything else as it is."""
    return x.exact() if isinstance(x, AbstractSoft) else x


def _is_linear(call: Call, operands: Sequence[Any]) -> bool:
    if call.name in _LINEAR:
        return True
    if call.name in _SCALING:
        return len(operands) == 1
    alone = len(operands) == 1 and isinstance(call.args[0], AbstractSoft)
    return alone and call.name in _DIVISION and not call.kwargs.get("rounding_mode")


def _on_values(call: Call, operands: Sequence[SoftIndex]) -> Any:
    draws = union(x.draws for x in operands)
    if number_of_states(draws) > _LIMIT:
        return _on_averages(call)
    arrays = tensors(call.operands)
    shape = joint_shape(*(x.shape for x in arrays))
    rank = len(shape)

    def lifted(x: Any) -> Any:
        if type(x) is not SoftIndex:
            return x
        return lined_up(x.states, x.draws, draws, rank)

    try:
        values = call.on(lifted)
    except RuntimeError as error:
        if "ZeroDivisionError" not in str(error):
            raise
        call = call.with_arguments(possible)
        values = call.on(lifted)
    if values.requires_grad and (call.name in _SINGULAR or not known_finite(values)):
        values = _without_undefined_gradients(
            call.with_arguments(lifted), values, draws
        )
    if _type_depends_on_ranks(arrays):
        values = values.to(result_dtype(call))
    if _holds_integers(call, values):
        is_sum = call.name in _LINEAR or values.numel() > _MERGE_NUMBERS_FROM
        most = _MERGE_FROM if is_sum else _MERGE_OTHERS_FROM
        return soft_integer(values, draws, shape, most)
    whole = functools.partial(_are_whole, call) if call.name in _CLOSED else None
    return averaged(values, draws, shape, whole)


def possible(x: Any) -> Any:
    """Return a soft value whose values of probability zero are other, possible ones."""
    if type(x) is not SoftIndex:
        return x
    states = x.states
    count = len(x.draws)
    for i, draw in enumerate(x.draws):
        weights = draw.positions(x.dim()).detach()
        probable = weights.argmax(0, keepdim=True)
        others = (1,) * (count - 1 - i)
        size = len(weights)
        between = (1,) * i
        shape = torch.broadcast_shapes(
            states.shape, (*between, size, *others, *weights.shape[1:])
        )
        states = states.expand(shape)
        at = probable.reshape(*between, 1, *others, *probable.shape[1:])
        at = at.expand(*shape[:i], 1, *shape[i + 1 :])
        impossible = (weights == 0).reshape(*between, size, *others, *weights.shape[1:])
        states = torch.where(impossible, states.gather(i, at), states)
    return SoftIndex(states, x.draws, x.shape)


def largest_value(x: SoftIndex) -> int:
    """Return the largest value that some element can have."""
    if not x.numel():
        return -1
    has_mass = torch.ones((), dtype=torch.bool, device=x.device)
    count = len(x.draws)
    for i, draw in enumerate(x.draws):
        mass = draw.positions(x.dim()).detach() > 0
        after = (1,) * (count - 1 - i)
        has_mass = has_mass & mass.reshape(len(mass), *after, *mass.shape[1:])
    states, has_mass = torch.broadcast_tensors(x.states, has_mass)
    return int(states[has_mass].max())


def averaged(
    values: Tensor,
    draws: Sequence[Draw],
    shape: Sequence[Any],
    whole: Callable[[], bool] | None = None,
) -> SoftReal:
    """Return the average of floats that are known for every value of the draws."""
    average = total(values, draws)
    average = average if average.shape == shape else average.expand(shape)
    site = joint_name(draws)
    real = soft_real(average, site, lambda: soft_integer(values, draws, shape))
    real.whole = real.whole if whole is None else whole
    return real


def _are_whole(call: Call) -> bool:
    return _hold_whole_numbers(call.operands)


def is_whole(x: Any) -> bool:
    """Tell whether an operand holds whole numbers that are no parameters."""
    if isinstance(x, SoftReal):
        return x.whole()
    if integral(x):
        return True
    if not isinstance(x, Tensor):
        return x.is_integer()
    return not x.requires_grad and can_be_read(x) and bool((x == x.round()).all())


def _holds_integers(call: Call, result: Tensor) -> bool:
    """Whether the discrete program's result is integers, in whatever type."""
    if not result.is_floating_point():
        return True
    return call.name in _CLOSED and all(map(integral, numbers(call.operands)))


def numbers(tree: Any) -> list[Any]:
    """Return the tensors and Python's numbers among arguments."""
    return [x for x in leaves(tree) if isinstance(x, Tensor | int | float)]


def integral(x: Any) -> bool:
    """Tell whether an operand holds integers, whatever its type."""
    if isinstance(x, AbstractSoftInteger):
        return True
    return not x.is_floating_point() if isinstance(x, Tensor) else isinstance(x, int)


def _type_depends_on_ranks(arrays: Sequence[Tensor]) -> bool:
    """Whether dimensions in front of a scalar could change the type of a result."""
    dtype = arrays[0].dtype
    mixed = any(x.dtype is not dtype for x in arrays)
    return mixed and any(not x.dim() for x in arrays)


def result_dtype(call: Call) -> torch.dtype:
    """Return the type of the discrete program's result."""

    def of_one_element(x: Any) -> Any:
        is_number = isinstance(x, Tensor) and not x.dim() and not is_soft(x)
        if not isinstance(x, Tensor) or is_number:
            return x
        return torch.ones((1,) * x.dim(), dtype=x.dtype, device=x.device)

    return call.on(of_one_element).dtype


def _without_undefined_gradients(
    call: Call, values: Tensor, draws: Sequence[Draw]
) -> Tensor:
    """Keep NaN of a value of probability zero out of the gradient of the others.

    Zero times the infinite slope of a function at a value is NaN. The function is
    applied to another value there, and its result is put in without a gradient.
    """
    n = len(draws)
    undefined = ~values.detach().isfinite()
    for i, draw in enumerate(draws):
        impossible = draw.positions(values.dim() - n).detach() == 0
        after = (1,) * (n - 1 - i)
        shape = (*impossible.shape[:1], *after, *impossible.shape[1:])
        undefined = undefined | impossible.reshape(shape)
    if is_plain() and not bool(undefined.any()):
        return values
    values = values.expand(undefined.shape)
    states = undefined.flatten(0, n - 1)
    # For each position, the first joint value at which the function is finite.
    place = (~states).to(torch.uint8).argmax(0, keepdim=True)

    def at_defined(x: Any) -> Any:
        supported = isinstance(x, Tensor) and x.dim() == values.dim()
        if not supported:
            return x
        x = x.expand(torch.broadcast_shapes(x.shape, values.shape))
        defined = x.flatten(0, n - 1).gather(0, place)
        return torch.where(undefined, defined.reshape((1,) * n + defined.shape[1:]), x)

    return torch.where(undefined, values.detach(), call.on(at_defined))


def soft_integer(
    values: Tensor,
    draws: Sequence[Draw],
    shape: Sequence[Any],
    most: int = _MERGE_FROM,
) -> SoftIndex:
    """Return a soft value; where its support has grown, equal values become one."""
    states = number_of_states(draws)
    if len(draws) > 1 and states > most and not values.requires_grad:
        distinct, draw = merged(values, draws)
        if len(distinct) < min(states, LARGEST_SUPPORT + 1):
            return SoftIndex(distinct, (draw,), shape)
    return SoftIndex(values, draws, shape)


def check_size(draws: Sequence[Draw]) -> None:
    """Refuse an operation whose joint support would not fit."""
    states = number_of_states(draws)
    if states > _LIMIT:
        operation = f"an operation on {states} joint values"
        raise TypeError(refusal(joint_name(draws), operation))


# --- averages -----------------------------------------------------------------------


def linear(call: Call, values: Callable[[], SoftIndex]) -> Any:
    """Apply a linear function to averages; the values are computed when needed."""
    result = call.on(plain)
    values = later(values, *tensors(call.operands))
    if all(map(integral, numbers(call.operands))):
        return number(result, call.operands, values)
    if softs_of_integers(call.operands):
        result = result.to(result_dtype(call))
    if call.name in _DIVISION:
        return soft_real(result, call.sites, values)
    return soft_real(result, call.sites, values, functools.partial(_are_whole, call))


def later(
    values: Callable[[], SoftIndex], *operands: Tensor
) -> Callable[[], SoftIndex]:
    """Return a function that computes values, unless what they depend on has changed.

    Args:
        values: Computes them from the operands.
        operands: Tensors, soft and plain.
    """
    marks = [(x, _number_of_writes(x)) for x in operands]

    def unless_changed() -> SoftIndex:
        if any(_number_of_writes(x) != mark for x, mark in marks):
            operation = "a function of a tensor that was changed in place"
            raise RuntimeError(refusal(sites(operands), operation))
        return values()

    return unless_changed


def _number_of_writes(x: Tensor) -> int:
    if isinstance(x, AbstractSoft):
        return x.writes
    return 0 if x.is_inference() else x._version


def softs_of_integers(operands: Any) -> list[Any]:
    """Return the soft values whose type is not a floating one."""
    return [x for x in softs(operands) if not x.dtype.is_floating_point]


def number(
    result: Tensor, operands: Any, values: Callable[[], SoftIndex] | None = None
) -> Tensor:
    """Return an average that stands for integers in the discrete program."""
    types = [x.dtype for x in tensors(operands)]
    dtype = functools.reduce(torch.promote_types, types)
    dtype = torch.int64 if dtype is torch.bool else dtype
    if dtype.is_floating_point:
        whole = functools.partial(_hold_whole_numbers, operands)
        return soft_real(result.to(dtype), sites(operands), values, whole)
    return SoftNumber(result, dtype, sites(operands), values)


def _hold_whole_numbers(operands: Any) -> bool:
    return all(map(is_whole, numbers(operands)))


def _on_averages(call: Call) -> Any:
    """Let arithmetic see averages, and refuse what would round them."""
    if call.name in _CHECKS:
        return call.on(plain)  # of the averages, for what is not finite
    of_integers = any(isinstance(x, AbstractSoftInteger) for x in softs(call.operands))
    needs_values = call.name in _ROUNDING or (of_integers and call.name in _COMPARING)
    if needs_values and not _of_truths(call):
        raise TypeError(refusal(call.sites, call.name))
    if call.name in _BENDING and any(map(is_whole, softs(call.operands))):
        raise TypeError(refusal(call.sites, f"{call.name} of so many values"))
    if call.name in _CLOSED and all(map(integral, numbers(call.operands))):
        return number(call.on(plain), call.operands)
    return of_averages(call)


def _of_truths(call: Call) -> bool:
    """Whether a function combines comparisons of averages, as validation does.

    Their result is refused where it is used.
    """
    operands = tensors(call.operands)
    return all(x.dtype is torch.bool for x in operands) and all(
        isinstance(x, SoftNumber) for x in softs(operands)
    )
