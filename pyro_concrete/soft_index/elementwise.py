"""What torch's functions do with soft values: elementwise functions.

An elementwise function is applied to every value of the support. Integer results stay
soft, and float results are averages that know their values. A function that is linear
needs no more than the averages, and leaves the values for later.

`SoftIndex` holds values and their probabilities. `SoftNumber` stands for an integer and
`SoftReal` for a float: both hold a mean, and compute the values when something needs
them.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_concrete.ops.precision import is_plain, known_finite
from pyro_concrete.soft_index.abstract import (
    AbstractSoft,
    AbstractSoftInteger,
    Call,
    are_independent,
    rule,
    soft_leaves,
    tensor_leaves,
)
from pyro_concrete.soft_index.algebra import (
    Draw,
    aligned_states,
    number_of_states,
    union,
)
from pyro_concrete.soft_index.averages import (
    apply_linear,
    apply_without_values,
    are_whole,
    is_integral,
    numeric_leaves,
    result_dtype,
)
from pyro_concrete.soft_index.function_names import (
    CLOSED,
    COMPARING,
    DIVISION,
    LINEAR,
    OF_NETWORKS,
    SCALING,
    SINGULAR,
)
from pyro_concrete.soft_index.refusals import SharedDrawsError
from pyro_concrete.soft_index.states import (
    MERGE_FROM,
    MERGE_NUMBERS_FROM,
    MERGE_OTHERS_FROM,
    MOST_JOINT_STATES,
    average_over_draws,
    soft_integer,
    with_possible_values,
    with_supports_or_none,
)
from pyro_concrete.soft_index.trees import Argument, joint_shape
from pyro_concrete.soft_index.value import (
    SoftIndex,
    SoftNumber,
    SoftReal,
    average,
    plain,
    soft_real,
)


# A new name also goes into each set of `function_names` whose comment is true of it. If
# it is in none, it is applied to values, or to averages where values are not known.
# Operators have no underscores here: `rand` is `__rand__`.
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
    except SharedDrawsError as error:
        return _without_joint(call, error)


def _elementwise(call: Call) -> Tensor:
    operands = soft_leaves(call.operands)
    if all(type(x) is SoftIndex for x in operands):
        return _on_values(call, operands)
    if call.name in OF_NETWORKS and _are_averages_of_one_site(operands):
        # The same as `apply_without_values`, and faster: networks do it in every step.
        return soft_real(_on_plain(call), operands[0].site)
    if _compares_with_itself(call) and not _is_nan_somewhere(call.args[0]):
        return call.run(plain)
    if _has_average_without_values(operands):
        return apply_without_values(call)
    if _is_linear(call, operands):
        return apply_linear(call, lambda: _on_supports(call).exact())
    return _on_supports(call)


def _compares_with_itself(call: Call) -> bool:
    """Whether a call tells which values are NaN."""
    return call.name in ("eq", "ne") and call.args[0] is call.args[1]


def _is_nan_somewhere(x: AbstractSoft) -> bool:
    """Whether an average is known to be NaN: then one of the values is."""
    number = plain(x)
    return is_plain() and bool(number.isnan().any())


def _has_average_without_values(operands: Sequence[AbstractSoft]) -> bool:
    return any(isinstance(x, SoftReal) and x.values is None for x in operands)


def _on_supports(call: Call) -> Any:
    """Apply a function to the supports of all operands, or to averages."""
    exact_call = with_supports_or_none(call)
    if exact_call is None:
        return apply_without_values(call)
    return _on_values(exact_call, soft_leaves(exact_call.operands))


def _without_joint(call: Call, error: SharedDrawsError) -> Any:
    """Apply a function to averages where these are enough, or raise the error.

    A product of independent values has the product of the means. A comparison of reals
    is refused where it is used, as validation does not use it.
    """
    operands = soft_leaves(call.operands)

    def lost() -> SoftIndex:
        raise SharedDrawsError(error.site)

    is_product = call.name in SCALING and are_independent(operands)
    if _is_linear(call, operands) or is_product:
        return apply_linear(call, lost)
    of_integers = any(isinstance(x, AbstractSoftInteger) for x in operands)
    if call.name in COMPARING and not of_integers:
        # Unlike `plain`, `average` accepts comparisons of averages, too.
        result = call.run(average)
        return SoftNumber(result, result.dtype, call.sites, lost)
    raise error


def _are_averages_of_one_site(operands: Sequence[AbstractSoft]) -> bool:
    """Tell whether all operands are reals without values, of the same sites."""
    site = operands[0].site
    return all(
        type(x) is SoftReal and x.values is None and x.site == site for x in operands
    )


def _on_plain(call: Call) -> Tensor:
    if call.kwargs:
        return call.run(plain)
    return call.func(*(x.number if type(x) is SoftReal else x for x in call.args))


def _is_linear(call: Call, operands: Sequence[AbstractSoft]) -> bool:
    if call.name in LINEAR:
        return True
    if call.name in SCALING:
        return len(operands) == 1
    alone = len(operands) == 1 and isinstance(call.args[0], AbstractSoft)
    return alone and call.name in DIVISION and not call.kwargs.get("rounding_mode")


def _on_values(call: Call, operands: Sequence[SoftIndex]) -> Tensor:
    draws = union(x.draws for x in operands)
    if number_of_states(draws) > MOST_JOINT_STATES:
        return apply_without_values(call)
    arrays = tensor_leaves(call.operands)
    shape = joint_shape(*(x.shape for x in arrays))
    rank = len(shape)

    def aligned(x: Argument) -> Argument:
        if type(x) is not SoftIndex:
            return x
        return aligned_states(x.states, x.draws, draws, rank)

    values = _states(call, aligned, draws)
    if _type_depends_on_ranks(arrays):
        values = values.to(result_dtype(call))
    if _holds_integers(call, values):
        return soft_integer(values, draws, shape, _merging_threshold(call, values))
    if call.name not in CLOSED:
        return average_over_draws(values, draws, shape)
    return average_over_draws(values, draws, shape, functools.partial(are_whole, call))


def _states(
    call: Call, aligned: Callable[[Argument], Argument], draws: Sequence[Draw]
) -> Tensor:
    """Apply a function to every joint value of the draws."""
    try:
        values = call.run(aligned)
    except RuntimeError as error:
        if "ZeroDivisionError" not in str(error):
            raise
        # An integer division by a zero that may have probability zero.
        call = call.with_arguments(with_possible_values)
        values = call.run(aligned)
    if values.requires_grad and (call.name in SINGULAR or not known_finite(values)):
        call = call.with_arguments(aligned)
        return _without_undefined_gradients(call, values, draws)
    return values


def _merging_threshold(call: Call, values: Tensor) -> int:
    """Return the number of joint values from which on equal ones are merged."""
    if call.name in LINEAR or values.numel() > MERGE_NUMBERS_FROM:
        return MERGE_FROM
    return MERGE_OTHERS_FROM


def _holds_integers(call: Call, result: Tensor) -> bool:
    """Whether the discrete program's result is integers, in whatever type."""
    if not result.is_floating_point():
        return True
    return call.name in CLOSED and all(map(is_integral, numeric_leaves(call.operands)))


def _type_depends_on_ranks(arrays: Sequence[Tensor]) -> bool:
    """Whether dimensions in front of a scalar could change the type of a result."""
    dtype = arrays[0].dtype
    mixed = any(x.dtype is not dtype for x in arrays)
    return mixed and any(not x.dim() for x in arrays)


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
        trailing = (1,) * (n - 1 - i)
        shape = (*impossible.shape[:1], *trailing, *impossible.shape[1:])
        undefined = undefined | impossible.reshape(shape)
    if is_plain() and not bool(undefined.any()):
        return values
    values = values.expand(undefined.shape)
    states = undefined.flatten(0, n - 1)
    # For each position, the first joint value at which the function is finite.
    first_defined = (~states).to(torch.uint8).argmax(0, keepdim=True)

    def at_defined(x: Argument) -> Argument:
        supported = isinstance(x, Tensor) and x.dim() == values.dim()
        if not supported:
            return x
        x = x.expand(torch.broadcast_shapes(x.shape, values.shape))
        defined = x.flatten(0, n - 1).gather(0, first_defined)
        return torch.where(undefined, defined.reshape((1,) * n + defined.shape[1:]), x)

    return torch.where(undefined, values.detach(), call.run(at_defined))
