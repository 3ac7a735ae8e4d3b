"""Operations along axes: sums, products, extremes, orders.

Along axes where a value is one draw, the operation is applied to each of its values.
Draws at different places are independent.

Counterpart: ``pyro_concrete.soft_index.reductions``.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax import Array

from numpyro_concrete.soft_index.algebra import (
    Joint,
    finish,
    listed_jointly,
    placed,
    tables_of,
)
from numpyro_concrete.soft_index.counts import extreme, running_total, total
from numpyro_concrete.soft_index.draws import are_independent_along
from numpyro_concrete.soft_index.registry import (
    Operand,
    Params,
    Primitive,
    Result,
    as_list,
    as_result,
    rule,
)
from numpyro_concrete.soft_index.tables import (
    Table,
    apply_to_tables,
    broadcast_table,
    is_inexact,
    typed,
)
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    SoftIndex,
    Values,
    average_of,
    exact,
    named,
    refusal,
)

_SUMS = ("reduce_sum", "cumsum")
_PRODUCTS = ("reduce_prod", "cumprod")
_LARGEST = ("reduce_or", "reduce_max", "cummax")
_SMALLEST = ("reduce_and", "reduce_min", "cummin")
_CUMULATIVE_EXTREMES = ("cummax", "cummin")


@rule("""
    reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor
    argmax argmin cumsum cumprod cummax cummin cumlogsumexp sort
""")
def _along_axes(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    name = primitive.name
    axes = _axes_of(params)
    softs = [x for x in operands if isinstance(x, SoftIndex)]
    if all(_is_one_draw_along(x, axes) for x in softs):
        return _apply_to_draws(primitive, operands, axes, params)
    if name not in _SUMS:
        jointly = listed_jointly(operands)
        if jointly is not None:
            return _apply_to_draws(primitive, jointly, axes, params)
    if len(operands) > 1:
        raise TypeError(refusal(named(*operands), name))
    return _of_independent_draws(primitive, operands[0], axes, params)


def _axes_of(params: Params) -> tuple[int, ...]:
    names = ("axes", "axis", "dimension")
    axes = next(params[name] for name in names if name in params)
    if isinstance(axes, Sequence):
        return tuple(axes)
    return (axes,)


def _is_one_draw_along(soft: SoftIndex, axes: Sequence[int]) -> bool:
    """Whether each factor is one draw along these axes, so that values can reduce."""
    return all(w.shape[1 + axis] == 1 for w in soft.weights for axis in axes)


# --- independent draws ----------------------------------------------------------------


def _of_independent_draws(
    primitive: Primitive, soft: SoftIndex, axes: Sequence[int], params: Params
) -> Result:
    name = primitive.name
    if name in _SUMS:
        return _sum(primitive, soft, axes, params)
    if _is_product_of_means(name, soft, axes):
        # The mean of a product of independent draws is the product of their means.
        mean = _apply_to_mean(primitive, soft, params)
        return average_of(mean, [soft], soft.table.dtype, None)
    is_cumulative = name in _CUMULATIVE_EXTREMES
    is_reverse = is_cumulative and params["reverse"]
    if name in _LARGEST + _SMALLEST and not is_reverse:
        return extreme(soft, axes, name in _LARGEST, is_cumulative)
    raise TypeError(refusal(soft.site, name))


def _is_product_of_means(name: str, soft: SoftIndex, axes: Sequence[int]) -> bool:
    if name not in _PRODUCTS or is_inexact(soft):
        return False
    return are_independent_along(soft.factors, axes, soft.extent)


def _sum(
    primitive: Primitive, soft: SoftIndex, axes: Sequence[int], params: Params
) -> AbstractAverage:
    """Return the sum of draws by its mean; its values are computed when needed."""
    dtype = soft.table.dtype

    def compute_values() -> Operand:
        jointly = listed_jointly([soft])
        if jointly is not None:
            return exact(_apply_to_draws(primitive, jointly, axes, params))
        if primitive.name == "reduce_sum":
            return total(soft, axes, dtype)
        return running_total(soft, axes[0], params["reverse"], dtype)

    mean = _apply_to_mean(primitive, soft, params)
    return average_of(mean, [soft], dtype, Values(compute_values))


def _apply_to_mean(primitive: Primitive, soft: SoftIndex, params: Params) -> Array:
    if primitive.name == "reduce_sum":
        return soft.number().sum(_axes_of(params))
    return primitive.bind(soft.number(), **params)


# --- the values of a draw -------------------------------------------------------------


def _apply_to_draws(
    primitive: Primitive, operands: list[Operand], axes: Sequence[int], params: Params
) -> Result:
    """Apply a primitive to each joint value of operands, one draw along the axes."""
    shape = typed(operands[0]).shape
    tables, joint = tables_of(operands, shape)
    sizes = joint.sizes()
    flat_tables = _flatten_states(tables, joint, axes)
    result = apply_to_tables(
        jax.vmap(lambda *x: primitive.bind(*x, **params)), *flat_tables
    )
    tables = [x.reshape(sizes + x.shape[1:]) for x in as_list(primitive, result)]
    drops_axes = tables[0].ndim - len(sizes) < len(shape)
    if drops_axes:
        shape = tuple(n for axis, n in enumerate(shape) if axis not in axes)
        draws = placed(joint, shape, lambda x, lead: _drop_axes(x, lead, axes))
    else:
        draws = placed(joint, shape, lambda x, _: x)
    return as_result(primitive, [finish(x, draws, shape) for x in tables])


def _flatten_states(
    tables: Sequence[Table], joint: Joint, axes: Sequence[int]
) -> list[Table]:
    """Return the joint values along one axis, in full along the axes of an operation.

    Args:
        tables: Values of each operand, with an axis for every factor.
        joint: The factors, and the shape with which the operands broadcast.
        axes: Axes of that shape.
    """
    sizes = joint.sizes()
    full_shape = list(np.broadcast_shapes(*(t.shape for t in tables)))
    for axis in axes:
        full_shape[len(sizes) + axis] = joint.shape[axis]
    position_shape = full_shape[len(sizes) :]
    return [
        broadcast_table(t, full_shape).reshape(math.prod(sizes), *position_shape)
        for t in tables
    ]


def _drop_axes(array: Table, lead: int, axes: Sequence[int]) -> Table:
    """Return an array without axes, on which it has size one, behind leading ones."""
    index: list[slice | int] = [slice(None)] * array.ndim
    for axis in axes:
        index[lead + axis] = 0
    dropped = array[tuple(index)]
    # NumPy makes scalars of arrays without axes.
    if isinstance(dropped, np.generic):
        return np.asarray(dropped)
    return dropped
