"""What each primitive of JAX does with soft values: one table.

Counterpart: ``pyro_concrete.soft_index``.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from numpyro_concrete.soft_index.algebra import (
    MERGED,
    Joint,
    Table,
    common_values,
    concrete,
    enumerate_operands,
    finish,
    is_one_draw,
    listed_jointly,
    pick,
    rebuilt,
    run,
    typed,
    words,
)
from numpyro_concrete.soft_index.averages import with_averages
from numpyro_concrete.soft_index.axes import RULES as ALONG_AXES
from numpyro_concrete.soft_index.expectation import bounded, contract
from numpyro_concrete.soft_index.lookup import RULES as LOOKUPS
from numpyro_concrete.soft_index.lookup import shapes_of
from numpyro_concrete.soft_index.sharing import share_draws
from numpyro_concrete.soft_index.single import on_each_draw, on_each_value
from numpyro_concrete.soft_index.sums import sum_of_draws
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    Known,
    Pieces,
    SoftIndex,
    SoftReal,
    Values,
    average_of,
    exact,
    is_soft,
    named,
    refusal,
    tokens,
)
from numpyro_concrete.soft_index.writing import write, write_slice

ELEMENTWISE = """
    abs acos acosh add and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil
    clamp clz copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1
    floor ge gt igamma igammac imag integer_pow is_finite le le_to lgamma log log1p
    log2 logistic lt lt_to max min mul mulhi ne neg nextafter not one_minus_square
    optimization_barrier or polygamma population_count pow real reduce_precision
    regularized_incomplete_beta rem round rsqrt shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square sub tan tanh xor zeta
"""
SHAPES = "reshape squeeze expand_dims transpose rev slice split unstack"
JOINS = "concatenate stack pad dynamic_update_slice tile"
# Indices of several axes, the second operand, come in pieces.
_BY_PARTS = words("gather scatter scatter-add scatter_add")
LINEAR = "dot_general conv_general_dilated reduce_window_sum fft"


def apply(primitive: Any, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Return what a primitive gives for soft operands.

    Args:
        primitive: The primitive of JAX.
        values: Its operands, of which some are soft.
        params: Its parameters.

    Raises:
        TypeError: If the operation has no relaxation; it names the site.
    """
    name = primitive.name
    by_parts = 1 if name in _BY_PARTS else None
    values = [
        joined(x) if isinstance(x, Pieces) and i != by_parts else x
        for i, x in enumerate(values)
    ]
    if not any(map(is_soft, values)):
        return primitive.bind(*values, **params)
    if any(isinstance(x, AbstractAverage) for x in values):
        return with_averages(apply, primitive, values, params)
    softs = [x for x in values if isinstance(x, SoftIndex)]
    if name not in RULES and all(x.certain for x in softs):
        plain = [x.materialise() if is_soft(x) else x for x in values]
        return primitive.bind(*plain, **params)
    try:
        rule = RULES.get(name, _refused)
        return rule(primitive, values, params)
    except TypeError:
        if not all(map(is_one_draw, softs)) or len(softs) < sum(map(is_soft, values)):
            values = listed_jointly(_in_one(values))
        if values is None:
            raise
        return on_each_value(primitive, values, params)


def _refused(primitive: Any, values: list[Any], _: dict[str, Any]) -> Any:
    raise TypeError(refusal(named(*values), primitive.name))


def bound(primitive: Any, params: dict[str, Any]) -> Callable:
    """Return a primitive as a function; NumPy's, if it is known and all operands are.

    NumPy has nothing to compile, which counts where the program runs without jit.
    """

    def function(*x: Any) -> Any:
        if all(isinstance(y, np.ndarray) for y in x):
            if primitive.name == "convert_element_type":
                return x[0].astype(params["new_dtype"])
            if primitive.name in _NUMPY:
                with np.errstate(all="ignore"):
                    return _NUMPY[primitive.name](*x)
        return primitive.bind(*x, **params)

    return function


def _numpy_select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    default = np.zeros((), cases[0].dtype)
    return np.select([which == i for i in range(len(cases))], cases, default)


_NUMPY: dict[str, Callable] = {
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


# --- elementwise ----------------------------------------------------------------------


def _elementwise(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    shape = np.broadcast_shapes(*(typed(x).shape for x in values))
    if primitive.name in ("add", "sub") and _is_crowded_sum(values):
        return sum_of_draws(apply, primitive, values, shape)
    function = finite_slopes(primitive, bound(primitive, params))
    table, joint = enumerate_operands(function, values, shape)
    if primitive.multiple_results:
        return [finish(t, joint, shape) for t in table]
    return finish(table, joint, shape)


def _is_crowded_sum(values: Sequence[Any]) -> bool:
    """Whether different draws have so many joint values that their sum is a count."""
    x, y = values
    if not (is_soft(x) and is_soft(y)) or _inexact(x):
        return False
    if share_draws(x, y, np.broadcast_shapes(x.extent, y.extent)):
        return True  # their sum has a mean, though its values are not known
    if not {f.token for f in x.factors}.isdisjoint(f.token for f in y.factors):
        return False
    sizes = [len(w) for soft in values for w in soft.weights]
    return x.known and y.known and math.prod(sizes) > MERGED


# The slopes of these are infinite at values where they may be finite, or NaN.
_STEEP = words("""
    div log log1p sqrt rsqrt cbrt pow integer_pow acos acosh asin atanh atan2
    lgamma digamma erf_inv rem igamma igammac zeta polygamma
""")


def finite_slopes(primitive: Any, function: Callable) -> Callable:
    """Return an elementwise function whose slopes are zero where they are not finite.

    A value of probability zero has no part in a gradient, and zero times an infinite
    slope would be NaN.
    """
    if primitive.name not in _STEEP:
        return function

    def steep(*x: Any) -> Any:
        traced = [i for i, y in enumerate(x) if isinstance(y, jax.Array)]
        if not any(_inexact(x[i]) for i in traced):
            return function(*x)
        return _with_finite_slopes(function, x)

    return steep


def _with_finite_slopes(function: Callable, operands: Sequence[Any]) -> Array:
    floats = [i for i, x in enumerate(operands) if _inexact(x)]

    def of_floats(*x: Array) -> Array:
        full = list(operands)
        for i, y in zip(floats, x, strict=True):
            full[i] = y
        return function(*full)

    sloped = jax.custom_jvp(of_floats)

    @sloped.defjvp
    def slopes(primals: Any, tangents: Any) -> Any:
        total = jnp.zeros_like(of_floats(*primals))
        for i, tangent in enumerate(tangents):
            ones = [jnp.ones_like(p) if i == j else jnp.zeros_like(p)
                    for j, p in enumerate(primals)]  # fmt: skip
            slope = jax.jvp(of_floats, primals, tuple(ones))[1]
            total += jnp.where(jnp.isfinite(slope), slope, 0) * tangent
        return of_floats(*primals), total

    return sloped(*(jnp.asarray(operands[i]) for i in floats))


def _convert(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    (soft,) = values
    table = run(bound(primitive, params), soft.table)
    joint = _joint_of(soft)
    joint.factors, joint.weights = list(soft.factors), list(soft.weights)
    return finish(table, joint, soft.extent)


def _select(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    which, *cases = values
    shape = typed(cases[0]).shape
    if len(cases) == 1:
        return cases[0]
    if not is_soft(which):
        known = concrete(which)
        if known is not None and known.size and (known == known.flat[0]).all():
            return cases[int(known.flat[0])]
        if not _one_draw(cases, shape):
            return _moved_together(lambda *x: primitive.bind(which, *x), cases)
    elif not any(map(is_soft, cases)) and _inexact(cases[0]):
        return _mixture(primitive, which, cases)
    result = _elementwise(primitive, values, params)
    if isinstance(result, SoftIndex) and not result.known:
        support = common_values(cases)
        possible = None if support is None else Known(support)
        return dataclasses.replace(result, possible=possible)
    return result


def _mixture(primitive: Any, which: SoftIndex, cases: Sequence[Any]) -> SoftReal:
    """Weigh plain branches by the probability that each is chosen."""
    shape, dtype = typed(cases[0]).shape, typed(cases[0]).dtype
    probs = jnp.result_type(*which.weights)
    shares = [
        contract(run(lambda t, i=i: t == i, which.table).astype(probs),
                 which.weights, which.extent, probs)
        for i in range(len(cases))
    ]  # fmt: skip
    pairs = [bounded(jnp.asarray(x), *shares) for x in cases]
    mean = sum(w * x for w, (x, _) in zip(shares, pairs, strict=True))
    mean = jnp.broadcast_to(pairs[0][1](mean), shape).astype(dtype)
    values = Values(lambda: exact(_elementwise(primitive, [which, *cases], {})))
    return average_of(mean, [which], dtype, values)


def _joint_of(soft: SoftIndex) -> Joint:
    joint = Joint(soft.extent)
    joint.add(soft)
    return joint


def _one_draw(operands: Sequence[Any], shape: Sequence[int]) -> bool:
    """Whether all soft operands have the same factors."""
    joint = Joint(shape)
    softs = [x for x in operands if is_soft(x)]
    counts = {len(joint.add(x)) for x in softs}
    return counts == {len(joint.factors)}


def _inexact(x: Any) -> bool:
    return jnp.issubdtype(typed(x).dtype, jnp.inexact)


# --- shapes ---------------------------------------------------------------------------


def _reshaped(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    soft, *rest = values
    if any(map(is_soft, rest)):
        raise TypeError(refusal(named(*rest), primitive.name))
    return shapes_of(soft, lambda x: primitive.bind(x, *rest, **params))


def _broadcast(_: Any, values: list[Any], params: dict[str, Any]) -> Any:
    (soft,) = values
    shape, axes = params["shape"], params["broadcast_dimensions"]

    def place(x: Table, lead: int) -> Table:
        sizes = [1] * len(shape)
        for size, axis in zip(x.shape[lead:], axes, strict=True):
            sizes[axis] = size
        return x.reshape((*x.shape[:lead], *sizes))

    return rebuilt(
        soft,
        place(soft.table, len(soft.factors)),
        [place(w, 1) for w in soft.weights],
        [place(f.ids.array, 0) for f in soft.factors],
        shape,
    )


def _join(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    arrays, starts = values, []
    if primitive.name == "dynamic_update_slice":
        arrays, starts = values[:2], values[2:]
        if any(map(is_soft, starts)):
            return write_slice(primitive, values, params)

    def function(*x: Table) -> Any:
        return primitive.bind(*x, *starts, **params)

    axis = params.get("dimension")
    last = len(typed(arrays[0]).shape) - 1
    if primitive.name == "concatenate" and axis == last and not _inexact(arrays[0]):
        return Pieces(tuple(arrays), last)
    if primitive.name == "concatenate" and _are_rows(arrays, axis):
        return _beside(arrays, axis)
    if primitive.name == "stack":
        return _stacked(function, arrays, params["axis"])
    return _moved_together(function, arrays)


def _stacked(function: Callable, arrays: Sequence[Any], axis: int) -> Any:
    """Put arrays beside each other: functions of one draw stay functions of it."""
    shape = typed(arrays[0]).shape
    if not _one_draw(arrays, shape):
        return _moved_together(function, arrays)
    axis = axis % (len(shape) + 1)
    return _beside([_slot(x, axis) for x in arrays], axis)


def _are_rows(arrays: Sequence[Any], axis: int) -> bool:
    """Whether arrays that are joined are functions of one draw, as where JAX stacks.

    JAX 0.10.0 stacks arrays by joining them, each with an axis of size one.
    """
    shape = typed(arrays[0]).shape
    if _inexact(arrays[0]) or any(typed(x).shape[axis] != 1 for x in arrays):
        return False
    return _one_draw(arrays, shape)


def _beside(rows: Sequence[Any], axis: int) -> Any:
    """Join functions of one draw along an axis on which each of them has size one."""
    shape = typed(rows[0]).shape
    which = np.arange(len(rows), dtype=np.int32)
    which = which.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    full = (*shape[:axis], len(rows), *shape[axis + 1 :])
    table, joint = enumerate_operands(lax.select_n, [which, *rows], full)
    return finish(table, joint, full)


def _slot(x: Any, axis: int) -> Any:
    """An array with an axis of size one."""
    if not is_soft(x):
        known = concrete(x)
        return (
            np.expand_dims(known, axis)
            if known is not None
            else jnp.expand_dims(x, axis)
        )

    def insert(table: Table, lead: int) -> Table:
        at = lead + axis
        return table.reshape((*table.shape[:at], 1, *table.shape[at:]))

    return rebuilt(
        x,
        insert(x.table, len(x.factors)),
        [insert(w, 1) for w in x.weights],
        [insert(f.ids.array, 0) for f in x.factors],
        (*x.extent[:axis], 1, *x.extent[axis:]),
    )


def joined(pieces: Pieces) -> Any:
    """Return joined arrays as one value."""
    if _are_rows(pieces.parts, pieces.axis):
        return _beside(pieces.parts, pieces.axis)

    def function(*x: Table) -> Any:
        return lax.concatenate(x, pieces.axis)

    if any(isinstance(x, AbstractAverage) for x in pieces.parts):
        dtype = pieces.aval().dtype
        values = Values(lambda: _moved_together(function, [*map(exact, pieces.parts)]))
        means = [x.number() if is_soft(x) else jnp.asarray(x) for x in pieces.parts]
        floats = jnp.result_type(*(m for m in means if _inexact(m)))
        mean = function(*(m.astype(floats) for m in means))
        return average_of(mean, pieces.parts, dtype, values)
    return _moved_together(function, pieces.parts)


def _moved_together(function: Callable, operands: Sequence[Any]) -> Any:
    """Apply a function that only moves elements to several operands."""
    whole = _one_array(function, operands)
    if whole is not None:
        return whole
    own = [tokens(x) for x in operands if is_soft(x)]
    if len(own) == 1 or sum(map(len, own)) > len(frozenset().union(*own)):
        jointly = listed_jointly(operands)
        if jointly is not None:
            return on_each_draw(function, jointly)[0]
    return pick(function, operands)


def _one_array(function: Callable, operands: Sequence[Any]) -> SoftIndex | None:
    """Return parts of one array of draws, put together again, as such; or None."""
    first = operands[0]
    for x in operands:
        if not isinstance(x, SoftIndex) or not x.compact or len(x.factors) != 1:
            return None
        if x.factors[0].token != first.factors[0].token or not np.array_equal(
            x.table.reshape(-1), first.table.reshape(-1)
        ):
            return None
    full = [jnp.broadcast_to(x.weights[0], x.weights[0].shape[:1] + x.extent)
            for x in operands]  # fmt: skip
    weights = jax.vmap(function)(*full)
    ids = [np.broadcast_to(x.factors[0].ids.array, x.extent) for x in operands]
    table = first.table.reshape((-1,) + (1,) * (weights.ndim - 1))
    ids = run(function, *ids)
    return rebuilt(first, table, [weights], [ids], weights.shape[1:])


# --- means ----------------------------------------------------------------------------


def _linear(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    """Let a network see the mean: plain if it is one of floats."""
    if sum(map(is_soft, values)) > 1:
        averages = [_average(x) if is_soft(x) else x for x in values]
        return with_averages(apply, primitive, averages, params)
    if any(_inexact(x) for x in values):
        dtype = jnp.result_type(*(typed(x).dtype for x in values if _inexact(x)))
        means = [x.number().astype(dtype) if is_soft(x) else x for x in values]
        return primitive.bind(*means, **params)
    averages = [_average(x) if is_soft(x) else x for x in values]
    return with_averages(apply, primitive, averages, params)


def _average(soft: SoftIndex) -> Any:
    values = Values(lambda: soft)
    return average_of(soft.number(), [soft], soft.table.dtype, values)


# --- reading and writing --------------------------------------------------------------


def _look_up(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    """Read at indices; where they share draws with what they read, for each value."""
    operand, *indices = values
    if not tokens(operand).isdisjoint(tokens(*indices)):
        jointly = listed_jointly(_in_one(values))
        if jointly is not None:
            return on_each_value(primitive, jointly, params)
    return LOOKUPS[primitive.name](primitive, values, params)


def _scatter(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    def each_value() -> Any:
        jointly = listed_jointly(_in_one(values))
        if jointly is None:
            raise TypeError(refusal(named(*values), primitive.name))
        return exact(on_each_value(primitive, jointly, params))

    return write(primitive, values, params, Values(each_value))


def _in_one(values: Sequence[Any]) -> list[Any]:
    return [exact(joined(x)) if isinstance(x, Pieces) else x for x in values]


def _shown(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    """Print the mean."""
    return primitive.bind(*(x.number() if is_soft(x) else x for x in values), **params)


def _weights_changed(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    """Apply to the weights what changes no value, such as a stop of the gradient."""
    (soft,) = values
    weights = tuple(primitive.bind(w, **params) for w in soft.weights)
    held = soft.values
    if not soft.known:
        held = primitive.bind(soft.values, **params)
    return SoftIndex(held, weights, soft.factors, soft.extent)


RULES: dict[str, Callable] = {
    **dict.fromkeys(ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(SHAPES.split(), _reshaped),
    **dict.fromkeys(JOINS.split(), _join),
    **dict.fromkeys(LINEAR.split(), _linear),
    **dict.fromkeys(["pvary", "pcast", "stop_gradient"], _weights_changed),
    **dict.fromkeys(["debug_callback", "debug_print"], _shown),
    **ALONG_AXES,
    "convert_element_type": _convert,
    "select_n": _select,
    "broadcast_in_dim": _broadcast,
    **dict.fromkeys(LOOKUPS, _look_up),
    **dict.fromkeys(["scatter", "scatter-add", "scatter_add"], _scatter),
}
FOLDED = words(ELEMENTWISE + SHAPES) | words("""
    convert_element_type select_n broadcast_in_dim concatenate stack iota
    reduce_and reduce_or reduce_max reduce_min reduce_sum reduce_prod
""")  # fmt: skip
