"""What each primitive does with averages, which know the values behind them.

A linear primitive is applied to the mean, and leaves the values for later. Any other is
applied to the values, where they are known. Networks see the mean.

Counterpart: ``pyro_concrete.soft_index.averages``.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from numpyro_concrete.ops.precision import FULL_PRECISION
from numpyro_concrete.soft_index.algebra import listed_jointly
from numpyro_concrete.soft_index.draws import SharedDrawsError
from numpyro_concrete.soft_index.registry import (
    Operand,
    Params,
    Primitive,
    Result,
    apply_primitive,
    interpret,
    rule,
)
from numpyro_concrete.soft_index.sharing import require_no_shared_draws
from numpyro_concrete.soft_index.single import on_each_value
from numpyro_concrete.soft_index.sums import sum_of_draws
from numpyro_concrete.soft_index.tables import is_inexact, number_of, typed, words
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    SoftIndex,
    SoftReal,
    Unknown,
    Values,
    average_of,
    exact,
    is_soft,
    named,
    refusal,
    tokens,
)

# These are linear in all their operands, ...
_LINEAR = words("""
    add sub add_any neg copy copy_p broadcast_in_dim reshape squeeze expand_dims
    transpose rev slice split unstack concatenate stack pad tile reduce_sum cumsum
    pvary pcast
""")
# ... and these where the operands at these positions are plain.
_PLAIN_POSITIONS = {
    "div": slice(1, 2),
    "select_n": slice(1),
    "gather": slice(1, 2),
    "dynamic_slice": slice(1, None),
    "dynamic_update_slice": slice(2, None),
}
NETWORKS = "dot_general conv_general_dilated reduce_window_sum fft"
_NETWORKS = words(NETWORKS)
_COMPARISONS = words("eq ne lt le gt ge eq_to lt_to le_to is_finite sign")
_ROUNDING = words("floor ceil round rem nextafter")
_PRODUCTS_OF_INTEGERS = words("mul integer_pow cumprod reduce_prod")
# What validation does with the results of comparisons.
_OF_COMPARISONS = words("""
    and or not reduce_and reduce_or broadcast_in_dim reshape squeeze expand_dims
    transpose convert_element_type
""")


def with_averages(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    """Return what a primitive gives for operands of which some are averages.

    Args:
        primitive: The primitive of JAX.
        operands: Its operands.
        params: Its parameters.

    Raises:
        TypeError: If it would round, compare or branch on a mean; it names the site.
    """
    name = primitive.name
    if _looks_for_nan(name, operands):
        return primitive.bind(operands[0].average, operands[1].average, **params)
    if any(isinstance(x, Unknown) for x in operands):
        return _combine_comparisons(primitive, operands, params)
    if name in _NETWORKS:
        return _apply_network(primitive, operands, params)
    if name in ("add", "sub") and not is_inexact(operands[0]):
        return sum_of_draws(primitive, operands, typed(operands[0]).shape)
    if _is_linear(name, operands, params):
        return _apply_linear(primitive, operands, params)
    return _apply_to_exact_values(primitive, operands, params)


def _looks_for_nan(name: str, operands: Sequence[Operand]) -> bool:
    """Whether it is x == x, with which the backend's validation looks for NaN."""
    if name not in ("eq", "ne") or operands[0] is not operands[1]:
        return False
    return operands[0].values is None


def _apply_to_exact_values(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    """Apply a primitive to the values behind means; to means if they are not known."""
    try:
        values = [exact(x, primitive.name) for x in operands]
        return apply_primitive(primitive, values, params)
    except SharedDrawsError:
        raise
    except TypeError:
        require_no_shared_draws(operands)
        return _apply_to_means(primitive, operands, params)


# --- linear operations ----------------------------------------------------------------


def _is_linear(name: str, operands: Sequence[Operand], params: Params) -> bool:
    """Whether the mean of the result is the result for the means."""
    if name in _LINEAR:
        return True
    if name == "mul":
        return _are_independent(*operands)
    if name == "convert_element_type":
        return _keeps_numbers(operands[0], params["new_dtype"])
    if name == "select_n" and isinstance(operands[0], SoftIndex):
        which, *cases = operands
        return tokens(which).isdisjoint(tokens(*cases))
    if name not in _PLAIN_POSITIONS or (name == "div" and not is_inexact(operands[0])):
        return False
    return not any(map(is_soft, operands[_PLAIN_POSITIONS[name]]))


def _are_independent(first: Operand, second: Operand) -> bool:
    if not (is_soft(first) and is_soft(second)):
        return True
    return tokens(first).isdisjoint(tokens(second))


def _keeps_numbers(x: Operand, dtype: DTypeLike) -> bool:
    """Whether a conversion rounds nothing: to floats, or from integers to integers."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return True
    return not is_inexact(x) and jnp.issubdtype(dtype, jnp.integer)


def _apply_linear(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    """Apply a linear primitive to the means, and leave the values for later."""

    def compute_values() -> Result:
        result = apply_primitive(primitive, [exact(x) for x in operands], params)
        if primitive.multiple_results:
            return [exact(x) for x in result]
        return exact(result)

    dtype = _result_dtype(primitive, operands, params)
    if jnp.issubdtype(dtype, jnp.inexact):
        means = _apply_to_float_means(primitive, operands, params)
    else:
        means = _apply_to_integer_means(primitive, operands, params)
    if not primitive.multiple_results:
        return average_of(means, operands, dtype, Values(compute_values))
    return [
        average_of(mean, operands, dtype, Values(lambda i=i: compute_values()[i]))
        for i, mean in enumerate(means)
    ]


def _result_dtype(
    primitive: Primitive, operands: list[Operand], params: Params
) -> DTypeLike:
    if primitive.name == "convert_element_type":
        return params["new_dtype"]
    if primitive.name == "select_n":
        return typed(operands[1]).dtype
    return typed(operands[0]).dtype


def _apply_to_float_means(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    """Return the mean of a result of floats, of which the operands may be choices."""
    means = [_mean_unless_choice(x) for x in operands]
    if not any(map(is_soft, means)):
        return primitive.bind(*means, **params)
    return mean_of_average(apply_primitive(primitive, means, params))


def mean_of_average(x: Operand) -> Operand:
    """Return the mean of an average; others as they are.

    Args:
        x: An operand.
    """
    if isinstance(x, AbstractAverage):
        return x.average
    return x


def _mean_unless_choice(x: Operand) -> Operand:
    """Return the mean of an average or a float; integers, which choose, stay soft."""
    if isinstance(x, AbstractAverage):
        return x.average
    if isinstance(x, SoftIndex) and is_inexact(x):
        return x.number()
    return x


def _apply_to_integer_means(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    """Apply a function of integers to their means, which are floats."""
    name = primitive.name
    if name == "convert_element_type":
        return operands[0].average
    means = [x.number() for x in operands if is_soft(x)]
    dtype = jnp.result_type(*means)
    numbers = [jnp.asarray(number_of(x), dtype) for x in operands]
    plain_positions = _PLAIN_POSITIONS.get(name, slice(0))
    numbers[plain_positions] = operands[plain_positions]
    # Two primitives for integers have parameters that do not fit floats.
    if name == "reduce_sum":
        return numbers[0].sum(params["axes"])
    if name == "gather":
        return _gather_floats(numbers[0], numbers[1], params)
    return primitive.bind(*numbers, **params)


def _gather_floats(table: Array, indices: Array, params: Params) -> Array:
    names = ("dimension_numbers", "slice_sizes", "mode")
    return lax.gather(table, indices, **{name: params[name] for name in names})


# --- networks -------------------------------------------------------------------------


@rule(NETWORKS)
def _network(primitive: Primitive, operands: list[Operand], params: Params) -> Result:
    """Let a network see the mean: plain if it is one of floats."""
    if primitive.name == "dot_general" and _of_truths(operands, params):
        numbers = params["dimension_numbers"]
        return interpret(lambda *x: _multiply_truths(*x, numbers), *operands)
    float_types = [typed(x).dtype for x in operands if is_inexact(x)]
    if float_types and sum(map(is_soft, operands)) == 1:
        dtype = jnp.result_type(*float_types)
        means = [x.number().astype(dtype) if is_soft(x) else x for x in operands]
        return primitive.bind(*means, **params)
    averages = [_as_average(x) if is_soft(x) else x for x in operands]
    return with_averages(primitive, averages, params)


def _of_truths(operands: list[Operand], params: Params) -> bool:
    """Whether the result of a product of matrices is true or false, and not a count."""
    dtypes = [typed(x).dtype for x in operands]
    dtypes.append(params["preferred_element_type"] or jnp.bool_)
    return all(dtype == jnp.bool_ for dtype in dtypes)


def _multiply_truths(
    first: Array, second: Array, dimension_numbers: lax.DotDimensionNumbers
) -> Array:
    """Return whether both factors are true anywhere along the contracted dimensions."""
    (contracted, batched) = dimension_numbers
    num_contracted, num_batched = len(contracted[0]), len(batched[0])
    factors = []
    for x, ends, starts in zip((first, second), contracted, batched, strict=True):
        free = [d for d in range(x.ndim) if d not in (*ends, *starts)]
        factors.append(x.transpose(*starts, *free, *ends))
    first, second = factors
    num_free = [x.ndim - num_contracted - num_batched for x in factors]
    first = jnp.expand_dims(
        first, [num_batched + num_free[0] + i for i in range(num_free[1])]
    )
    second = jnp.expand_dims(second, [num_batched + i for i in range(num_free[0])])
    together = first & second
    return together.any([together.ndim - 1 - i for i in range(num_contracted)])


def _as_average(soft: SoftIndex) -> AbstractAverage:
    values = Values(lambda: soft)
    return average_of(soft.number(), [soft], soft.table.dtype, values)


def _apply_network(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    """Multiply means; where the factors share draws, each joint value of these.

    The mean of a product of such factors is not the product of their means.
    """
    jointly = _listed_if_draws_are_shared(operands)
    if jointly is not None:
        return on_each_value(primitive, jointly, params)
    return _apply_to_means(primitive, operands, params)


def _listed_if_draws_are_shared(operands: Sequence[Operand]) -> list[Operand] | None:
    softs = [x for x in operands if is_soft(x)]
    if len(softs) < 2 or _are_independent(softs[0], softs[1]):
        return None
    try:
        return listed_jointly([exact(x) for x in operands])
    except TypeError:
        return None


# --- where the values are not known ---------------------------------------------------


def _apply_to_means(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    """Let a function of floats see the means, and refuse what would round them."""
    name = primitive.name
    if any(_is_integer_average(x) for x in operands):
        return _multiply_integer_means(primitive, operands, params)
    if name in _COMPARISONS:
        return _unknown(primitive, operands, params)
    if name in _ROUNDING:
        raise TypeError(refusal(named(*operands), name))
    means = [mean_of_average(x) for x in operands]
    if any(map(is_soft, means)):
        return apply_primitive(primitive, means, params)
    return _apply_to_plain_means(primitive, operands, means, params)


def _apply_to_plain_means(
    primitive: Primitive, operands: list[Operand], means: list[Array], params: Params
) -> Result:
    name = primitive.name
    result = primitive.bind(*means, **params)
    if not all(map(is_inexact, jax.tree.leaves(result))):
        raise TypeError(refusal(named(*operands), name))
    if name in _NETWORKS or primitive.multiple_results:
        return result
    # A function of means: what it depends on no longer matters to its products.
    return SoftReal(result, result.dtype, named(*operands))


def _is_integer_average(x: Operand) -> bool:
    return isinstance(x, AbstractAverage) and not is_inexact(x)


def _multiply_integer_means(
    primitive: Primitive, operands: list[Operand], params: Params
) -> AbstractAverage:
    """Return a product of integers of different draws, whose mean is that of theirs."""
    dtype = typed(operands[0]).dtype
    if primitive.name == "dot_general" and not any(map(is_inexact, operands)):
        require_no_shared_draws(operands)
        mean = _multiply_matrices(*operands, params["dimension_numbers"])
        dtype = params["preferred_element_type"] or dtype
    elif primitive.name in _PRODUCTS_OF_INTEGERS:
        mean = _apply_to_integer_means(primitive, operands, params)
    else:
        raise TypeError(refusal(named(*operands), primitive.name))
    return average_of(mean, operands, dtype, None)


def _multiply_matrices(
    first: Operand, second: Operand, dimension_numbers: lax.DotDimensionNumbers
) -> Array:
    numbers = [number_of(first), number_of(second)]
    dtype = jnp.result_type(*(x.dtype for x in numbers if is_inexact(x)))
    first_mean, second_mean = (x.astype(dtype) for x in numbers)
    return lax.dot_general(
        first_mean, second_mean, dimension_numbers, precision=FULL_PRECISION
    )


# --- comparisons of means -------------------------------------------------------------


def _unknown(primitive: Primitive, operands: list[Operand], params: Params) -> Unknown:
    """Return the result of a comparison of means, which is refused where it is used."""
    shapes = [jax.ShapeDtypeStruct(typed(x).shape, typed(x).dtype) for x in operands]
    result = jax.eval_shape(lambda *x: primitive.bind(*x, **params), *shapes)
    zeros = jnp.zeros(result.shape, result.dtype)
    return Unknown(zeros, result.dtype, named(*operands), tokens(*operands))


def _combine_comparisons(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Unknown:
    dtype = jnp.dtype(params.get("new_dtype", bool))
    if primitive.name not in _OF_COMPARISONS or dtype != jnp.bool_:
        operation = "using what a comparison of it says"
        raise TypeError(refusal(named(*operands), operation))
    return _unknown(primitive, operands, params)
