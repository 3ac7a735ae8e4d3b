"""What each primitive of JAX does with soft values: one table.

Twin: ``pyro_concrete.soft_index``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from numpyro_concrete.soft_index.algebra import (
    Joint,
    Table,
    concrete,
    enumerate_operands,
    finish,
    pick,
    rebuilt,
    run,
    simplified,
    typed,
)
from numpyro_concrete.soft_index.lookup import RULES as LOOKUPS
from numpyro_concrete.soft_index.lookup import shapes_of
from numpyro_concrete.soft_index.value import (
    Known,
    Pieces,
    SoftIndex,
    SoftNumber,
    bounded,
    fresh,
    is_soft,
    named,
    refusal,
)
from numpyro_concrete.soft_index.writing import RULES as WRITES
from numpyro_concrete.soft_index.writing import write_slice

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
LINEAR = "dot_general conv_general_dilated reduce_window_sum fft"
SUMS, PRODUCTS = ("reduce_sum", "cumsum"), ("reduce_prod", "cumprod")
ALONG_AXES = """
    reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax
    argmin cumsum cumprod cummax cummin cumlogsumexp sort
"""


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
    if name not in ("gather", "scatter", "scatter-add", "scatter_add"):
        values = [joined(x) if isinstance(x, Pieces) else x for x in values]
    rule = RULES.get(name)
    if any(isinstance(x, SoftNumber) for x in values):
        rule = _number
    elif rule is None and all(x.certain for x in values if isinstance(x, SoftIndex)):
        plain = [x.materialise() if is_soft(x) else x for x in values]
        return primitive.bind(*plain, **params)
    if rule is None:
        raise TypeError(refusal(named(*values), name))
    return rule(primitive, list(values), params)


def bound(primitive: Any, params: dict[str, Any]) -> Callable:
    """Return a primitive as a function; NumPy's, if it is known and all operands are.

    NumPy has nothing to compile, which counts where the program runs without jit.
    """

    def function(*x: Any) -> Any:
        if all(isinstance(y, np.ndarray) for y in x):
            if primitive.name == "convert_element_type":
                return x[0].astype(params["new_dtype"])
            if primitive.name in _NUMPY:
                return _NUMPY[primitive.name](*x)
        return primitive.bind(*x, **params)

    return function


def _numpy_select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    return np.select([which == i for i in range(len(cases))], cases)


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
    table, joint = enumerate_operands(bound(primitive, params), values, shape)
    if primitive.multiple_results:
        return [finish(t, joint, shape) for t in table]
    return finish(table, joint, shape)


def _convert(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    (soft,) = values
    # A cast to float still is an integer: where(z > 0, z, 0.5) keeps its one draw.
    table = run(bound(primitive, params), soft.table)
    return simplified(table, soft.factors, soft.weights, soft.extent)


def _select(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    which, *cases = values
    shape = typed(cases[0]).shape
    if not is_soft(which):
        known = concrete(which)
        if known is not None and known.size and (known == known.flat[0]).all():
            return cases[int(known.flat[0])]
        if not _one_draw(cases, shape):
            return _moved_together(lambda *x: primitive.bind(which, *x), cases)
    elif not any(map(is_soft, cases)) and _inexact(cases[0]):
        return _mixture(which, cases)
    return _elementwise(primitive, values, params)


def _mixture(which: SoftIndex, cases: Sequence[Any]) -> Array:
    """Weigh plain branches by the probability that each is chosen."""
    joint = _joint_of(which)
    shares = [_share(which.table == i, joint, which.extent) for i in range(len(cases))]
    terms, restores = zip(*(bounded(jnp.asarray(x)) for x in cases), strict=True)
    total = sum(w * x for w, x in zip(shares, terms, strict=True))
    shape, dtype = typed(cases[0]).shape, typed(cases[0]).dtype
    return jnp.broadcast_to(restores[0](total), shape).astype(dtype)


def _joint_of(soft: SoftIndex) -> Joint:
    joint = Joint(soft.extent)
    joint.add(soft)
    return joint


def _share(true: Table, joint: Joint, shape: Sequence[int]) -> Array:
    """Return the probability of the values where a table is true."""
    dtype = jnp.result_type(*joint.weights)
    return finish(true.astype(dtype), joint, shape)


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
    if _inexact(arrays[0]) or not _one_draw(arrays, shape):
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

    return _moved_together(function, pieces.parts)


def _moved_together(function: Callable, operands: Sequence[Any]) -> Any:
    """Apply a function that only moves elements to several operands."""
    softs = [x for x in operands if is_soft(x)]
    if _inexact(operands[0]) and len(softs) < len(operands):
        return function(*(x.number() if is_soft(x) else x for x in operands))
    whole = _one_array(function, operands)
    return pick(function, operands) if whole is None else whole


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


# --- along axes -----------------------------------------------------------------------


def _along(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    name = primitive.name
    if len(values) > 1:
        raise TypeError(refusal(named(*values), name))
    (soft,) = values
    axes = next(params[k] for k in ("axes", "axis", "dimension") if k in params)
    axes = tuple(axes) if isinstance(axes, Sequence) else (axes,)
    if _same_draws(soft, axes) and not (name in SUMS and _inexact(soft)):
        out = _each_draw(primitive, soft, axes, params)
        return [out] if primitive.multiple_results else out
    if name in SUMS or name in PRODUCTS:
        # Draws at different places are independent: the mean of their product is the
        # product of their means.
        return _linear(primitive, values, params)
    if name in ("reduce_and", "reduce_or") and soft.table.dtype == bool:
        return _all_or_any(soft, axes, name == "reduce_and")
    raise TypeError(refusal(soft.site, name))


def _same_draws(soft: SoftIndex, axes: Sequence[int]) -> bool:
    """Whether each factor is one draw along these axes, so that values can reduce."""
    return all(w.shape[1 + a] == 1 for w in soft.weights for a in axes)


def _each_draw(
    primitive: Any, soft: SoftIndex, axes: Sequence[int], params: dict[str, Any]
) -> Any:
    lead = soft.table.shape[: len(soft.factors)]
    sizes = list(soft.table.shape[len(lead) :])
    for a in axes:
        sizes[a] = soft.extent[a]
    broadcast = np.broadcast_to if soft.known else jnp.broadcast_to
    flat = broadcast(soft.table, (*lead, *sizes)).reshape(math.prod(lead), *sizes)
    out = run(jax.vmap(lambda x: _only(primitive.bind(x, **params))), flat)
    out = out.reshape(lead + out.shape[1:])
    drops = out.ndim - len(lead) < len(sizes)
    shape = [n for a, n in enumerate(soft.extent) if not (drops and a in axes)]

    def dropped(x: Table, offset: int) -> Table:
        if not drops:
            return x
        at = [0 if a in axes else slice(None) for a in range(len(sizes))]
        x = x[(slice(None),) * offset + tuple(at)]
        return np.asarray(x) if isinstance(x, np.generic) else x

    result = rebuilt(
        soft,
        out,
        [dropped(w, 1) for w in soft.weights],
        [dropped(f.ids.array, 0) for f in soft.factors],
        shape,
    )
    return finish(out, _joint_of(result), shape)


def _only(x: Any) -> Any:
    return x[0] if isinstance(x, list | tuple) else x


def _all_or_any(soft: SoftIndex, axes: Sequence[int], every: bool) -> SoftIndex:
    """Return the truth over positions, whose draws count as independent."""
    joint = _joint_of(soft)
    true = soft.table if every else run(jnp.logical_not, soft.table)
    each = _share(true, joint, soft.extent)
    held_ = each.prod(tuple(axes))
    weights = jnp.stack([1 - held_, held_] if every else [held_, 1 - held_])
    table = np.array([False, True]).reshape((2,) + (1,) * held_.ndim)
    factor = fresh(soft.site, held_.shape)
    return SoftIndex(Known(table), (weights,), (factor,), held_.shape)


def _linear(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    """Let a linear operation see the mean: plain if it is one of floats."""
    if any(_inexact(x) for x in values):
        dtype = jnp.result_type(*(typed(x).dtype for x in values if _inexact(x)))
        means = [x.number().astype(dtype) if is_soft(x) else x for x in values]
        return primitive.bind(*means, **params)
    return _number(primitive, values, params)


# --- numbers with a guard -------------------------------------------------------------

_KEPT = """
    add sub mul neg integer_pow cumsum cumprod reduce_prod broadcast_in_dim reshape
    squeeze expand_dims transpose rev slice dynamic_slice concatenate pad select_n copy
    split tile stack unstack
"""
# The pick of a select and the indices of a lookup stay what they are.
_FIXED = {"select_n": slice(1), "gather": slice(1, 2), "dynamic_slice": slice(1, None)}


def _number(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    """Let arithmetic see the number, and refuse what would round it."""
    name, site = primitive.name, named(*values)
    if name == "convert_element_type":
        return _cast(values[0], params["new_dtype"])
    if name in ("eq", "ne") and values[0] is values[1]:
        # x == x asks for NaN, as the host's validation does.
        return primitive.bind(values[0].value, values[1].value, **params)
    linear = {"dot_general": _dot, "reduce_sum": _sum, "gather": _gather}
    fixed = _FIXED.get(name, slice(0))
    kept = name in linear or name in _KEPT.split()
    if not kept or any(map(is_soft, values[fixed])):
        raise TypeError(refusal(site, name))
    means = [x.number() if is_soft(x) else x for x in values]
    dtype = jnp.result_type(
        *(m for m, x in zip(means, values, strict=True) if is_soft(x))
    )
    numbers = [jnp.asarray(m, dtype) for m in means]
    numbers[fixed] = values[fixed]
    result = linear.get(name, _as_it_is)(primitive, numbers, params)
    if primitive.multiple_results:
        return [SoftNumber(x, site) for x in result]
    return SoftNumber(result, site)


def _cast(number: SoftNumber, dtype: Any) -> Any:
    if jnp.issubdtype(dtype, jnp.floating):
        return number.value.astype(dtype)
    if jnp.issubdtype(dtype, jnp.integer):
        return number
    raise TypeError(refusal(number.site, f"a cast to {jnp.dtype(dtype)}"))


def _as_it_is(
    primitive: Any, numbers: Sequence[Array], params: dict[str, Any]
) -> Array:
    return primitive.bind(*numbers, **params)


def _dot(_: Any, numbers: Sequence[Array], params: dict[str, Any]) -> Array:
    return lax.dot_general(numbers[0], numbers[1], params["dimension_numbers"])


def _sum(_: Any, numbers: Sequence[Array], params: dict[str, Any]) -> Array:
    return numbers[0].sum(params["axes"])


def _gather(_: Any, numbers: Sequence[Array], params: dict[str, Any]) -> Array:
    kept = ("dimension_numbers", "slice_sizes", "mode")
    return lax.gather(numbers[0], numbers[1], **{k: params[k] for k in kept})


RULES: dict[str, Callable] = {
    **dict.fromkeys(ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(SHAPES.split(), _reshaped),
    **dict.fromkeys(JOINS.split(), _join),
    **dict.fromkeys(LINEAR.split(), _linear),
    **dict.fromkeys(ALONG_AXES.split(), _along),
    "convert_element_type": _convert,
    "select_n": _select,
    "broadcast_in_dim": _broadcast,
    **LOOKUPS,
    **WRITES,
}
FOLDED = frozenset(
    [*ELEMENTWISE.split(), *SHAPES.split(), "convert_element_type", "select_n",
     "broadcast_in_dim", "concatenate", "stack", "iota", "reduce_and", "reduce_or",
     "reduce_max", "reduce_min", "reduce_sum", "reduce_prod"]
)  # fmt: skip
