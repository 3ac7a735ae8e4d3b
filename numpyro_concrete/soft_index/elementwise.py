"""Elementwise functions: applied to every joint value of their operands.

Counterpart: ``pyro_concrete.soft_index.elementwise``.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_concrete.soft_index.algebra import Joint, enumerate_operands, finish
from numpyro_concrete.soft_index.draws import Known
from numpyro_concrete.soft_index.expectation import bounded, contract
from numpyro_concrete.soft_index.joining import have_same_draws, move_together
from numpyro_concrete.soft_index.merging import MERGE_FROM, common_values
from numpyro_concrete.soft_index.registry import (
    Operand,
    Params,
    Primitive,
    Result,
    rule,
)
from numpyro_concrete.soft_index.sharing import share_draws
from numpyro_concrete.soft_index.sums import sum_of_draws
from numpyro_concrete.soft_index.tables import (
    Table,
    apply_to_tables,
    is_inexact,
    known_array,
    typed,
    words,
)
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    SoftIndex,
    Values,
    average_of,
    exact,
    is_soft,
)

ELEMENTWISE = """
    abs acos acosh add and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil
    clamp clz copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1
    floor ge gt igamma igammac imag integer_pow is_finite le le_to lgamma log log1p
    log2 logistic lt lt_to max min mul mulhi ne neg nextafter not one_minus_square
    optimization_barrier or polygamma population_count pow real reduce_precision
    regularized_incomplete_beta rem round rsqrt shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square sub tan tanh xor zeta
"""


@rule(ELEMENTWISE)
def _apply_to_values(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    shape = np.broadcast_shapes(*(typed(x).shape for x in operands))
    if primitive.name in ("add", "sub") and _is_crowded_sum(*operands):
        return sum_of_draws(primitive, operands, shape)
    function = with_finite_slopes(primitive, as_function(primitive, params))
    table, joint = enumerate_operands(function, operands, shape)
    if primitive.multiple_results:
        return [finish(t, joint, shape) for t in table]
    return finish(table, joint, shape)


def _is_crowded_sum(first: Operand, second: Operand) -> bool:
    """Whether different draws have so many joint values that their sum is a count."""
    if not (is_soft(first) and is_soft(second)) or is_inexact(first):
        return False
    if share_draws(first, second, np.broadcast_shapes(first.extent, second.extent)):
        return True  # their sum has a mean, though its values are not known
    tokens = {factor.token for factor in first.factors}
    if not tokens.isdisjoint(factor.token for factor in second.factors):
        return False
    sizes = map(len, [*first.weights, *second.weights])
    return first.known and second.known and math.prod(sizes) > MERGE_FROM


@rule("convert_element_type")
def _convert_type(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    (soft,) = operands
    joint = Joint(soft.extent)
    joint.factors = list(soft.factors)
    joint.weights = list(soft.weights)
    table = apply_to_tables(as_function(primitive, params), soft.table)
    return finish(table, joint, soft.extent)


# --- functions of arrays --------------------------------------------------------------


def as_function(primitive: Primitive, params: Params) -> Callable:
    """Return a primitive as a function; NumPy's, if it is known and all operands are.

    NumPy has nothing to compile, which counts where the program runs without jit.

    Args:
        primitive: The primitive of JAX.
        params: Its parameters.
    """

    def function(*arrays: Table) -> Table:
        if all(isinstance(x, np.ndarray) for x in arrays):
            if primitive.name == "convert_element_type":
                return arrays[0].astype(params["new_dtype"])
            if primitive.name in _NUMPY_FUNCTIONS:
                with np.errstate(all="ignore"):
                    return _NUMPY_FUNCTIONS[primitive.name](*arrays)
        return primitive.bind(*arrays, **params)

    return function


def _numpy_select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    default = np.zeros((), cases[0].dtype)
    return np.select([which == i for i in range(len(cases))], cases, default)


_NUMPY_FUNCTIONS: dict[str, Callable] = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "select_n": _numpy_select,
}

# The slopes of these are infinite at values where they may be finite, or NaN.
_STEEP = words("""
    div log log1p sqrt rsqrt cbrt pow integer_pow acos acosh asin atanh atan2
    lgamma digamma erf_inv rem igamma igammac zeta polygamma
""")


def with_finite_slopes(primitive: Primitive, function: Callable) -> Callable:
    """Return an elementwise function whose slopes are zero where they are not finite.

    A value of probability zero has no part in a gradient, and zero times an infinite
    slope would be NaN.

    Args:
        primitive: The primitive of JAX.
        function: What it does to arrays.
    """
    if primitive.name not in _STEEP:
        return function

    def function_of_arrays(*arrays: Table) -> Table:
        if any(isinstance(x, jax.Array) and is_inexact(x) for x in arrays):
            return _apply_with_finite_slopes(function, arrays)
        return function(*arrays)

    return function_of_arrays


def _apply_with_finite_slopes(function: Callable, operands: Sequence[Table]) -> Array:
    float_positions = [i for i, x in enumerate(operands) if is_inexact(x)]

    def function_of_floats(*floats: Array) -> Array:
        arrays = list(operands)
        for i, x in zip(float_positions, floats, strict=True):
            arrays[i] = x
        return function(*arrays)

    sloped_function = jax.custom_jvp(function_of_floats)

    @sloped_function.defjvp
    def push_forward(
        primals: tuple[Array, ...], tangents: tuple[Array, ...]
    ) -> tuple[Array, Array]:
        value = function_of_floats(*primals)
        value_tangent = jnp.zeros_like(value)
        # The function is elementwise: its partial slope is its derivative along ones.
        for i, tangent in enumerate(tangents):
            direction = [jnp.zeros_like(p) for p in primals]
            direction[i] = jnp.ones_like(primals[i])
            slope = jax.jvp(function_of_floats, primals, tuple(direction))[1]
            value_tangent += jnp.where(jnp.isfinite(slope), slope, 0) * tangent
        return value, value_tangent

    return sloped_function(*(jnp.asarray(operands[i]) for i in float_positions))


# --- choices --------------------------------------------------------------------------


@rule("select_n")
def _select(primitive: Primitive, operands: list[Operand], params: Params) -> Result:
    which, *cases = operands
    if len(cases) == 1:
        return cases[0]
    if not is_soft(which):
        index = known_array(which)
        if index is not None and index.size and (index == index.flat[0]).all():
            return cases[int(index.flat[0])]
        if not have_same_draws(cases, typed(cases[0]).shape):
            return move_together(lambda *x: primitive.bind(which, *x), cases)
    elif is_inexact(cases[0]) and not any(map(is_soft, cases)):
        return _mix_cases(primitive, which, cases)
    result = _apply_to_values(primitive, operands, params)
    return _with_possible_values(result, cases)


def _with_possible_values(result: Result, cases: Sequence[Operand]) -> Result:
    """Note in a choice whose values are not known that they are those of the cases."""
    if not isinstance(result, SoftIndex) or result.known:
        return result
    support = common_values(cases)
    if support is None:
        return result
    return dataclasses.replace(result, possible=Known(support))


def _mix_cases(
    primitive: Primitive, which: SoftIndex, cases: Sequence[Operand]
) -> AbstractAverage:
    """Average plain cases with the probabilities that each is chosen."""
    probability_dtype = jnp.result_type(*which.weights)

    def probability(case: int) -> Array:
        is_chosen = apply_to_tables(lambda table: table == case, which.table)
        return contract(
            is_chosen.astype(probability_dtype),
            which.weights,
            which.extent,
            probability_dtype,
        )

    probabilities = [probability(case) for case in range(len(cases))]
    finite_cases = [bounded(jnp.asarray(x), *probabilities) for x in cases]
    terms = [
        p * finite for p, (finite, _) in zip(probabilities, finite_cases, strict=True)
    ]
    mean = functools.reduce(operator.add, terms)
    _, restore_infinities = finite_cases[0]
    case = typed(cases[0])
    mean = jnp.broadcast_to(restore_infinities(mean), case.shape).astype(case.dtype)
    operands = [which, *cases]
    values = Values(lambda: exact(_apply_to_values(primitive, operands, {})))
    return average_of(mean, [which], case.dtype, values)
