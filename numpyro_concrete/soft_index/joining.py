"""Arrays that are joined: concatenated, stacked, padded, and put together from pieces.

Functions of one draw stay functions of it. Operands of different draws become one
factor, of which each position has the probabilities of one position of one operand.

Counterpart: ``pyro_concrete.soft_index.joining``.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from numpyro_concrete.soft_index.algebra import (
    Joint,
    enumerate_operands,
    finish,
    listed_jointly,
    rebuilt,
)
from numpyro_concrete.soft_index.merging import pick
from numpyro_concrete.soft_index.registry import (
    Operand,
    Params,
    Primitive,
    Result,
    Shape,
    rule,
)
from numpyro_concrete.soft_index.shapes import rearrange
from numpyro_concrete.soft_index.single import on_each_draw
from numpyro_concrete.soft_index.tables import (
    Table,
    apply_to_tables,
    is_inexact,
    known_array,
    number_of,
    typed,
)
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    Pieces,
    SoftIndex,
    Values,
    average_of,
    exact,
    is_soft,
    tokens,
)


@rule("concatenate")
def _concatenate(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    axis = params["dimension"]
    last_axis = len(typed(operands[0]).shape) - 1
    if axis == last_axis and not is_inexact(operands[0]):
        # These may be indices of several axes, which a lookup wants one by one.
        return Pieces(tuple(operands), last_axis)
    if _are_rows(operands, axis):
        return _join_rows(operands, axis)
    return move_together(lambda *x: primitive.bind(*x, **params), operands)


@rule("stack")
def _stack(primitive: Primitive, operands: list[Operand], params: Params) -> Result:
    """Put arrays beside each other: functions of one draw stay functions of it."""
    shape = typed(operands[0]).shape
    if not have_same_draws(operands, shape):
        return move_together(lambda *x: primitive.bind(*x, **params), operands)
    axis = params["axis"] % (len(shape) + 1)
    return _join_rows([_insert_axis(x, axis) for x in operands], axis)


@rule("pad tile")
def _pad(primitive: Primitive, operands: list[Operand], params: Params) -> Result:
    return move_together(lambda *x: primitive.bind(*x, **params), operands)


def have_same_draws(operands: Sequence[Operand], shape: Shape) -> bool:
    """Tell whether all soft operands have the same factors.

    Args:
        operands: Soft and plain operands.
        shape: Shape with which they broadcast.
    """
    joint = Joint(shape)
    counts = {len(joint.add(x)) for x in operands if is_soft(x)}
    return counts == {len(joint.factors)}


# --- rows -----------------------------------------------------------------------------


def _are_rows(arrays: Sequence[Operand], axis: int) -> bool:
    """Whether arrays that are joined are functions of one draw, as where JAX stacks.

    JAX 0.10.0 stacks arrays by joining them, each with an axis of size one.
    """
    if is_inexact(arrays[0]) or any(typed(x).shape[axis] != 1 for x in arrays):
        return False
    return have_same_draws(arrays, typed(arrays[0]).shape)


def _join_rows(rows: Sequence[Operand], axis: int) -> Result:
    """Join functions of one draw along an axis on which each of them has size one."""
    shape = typed(rows[0]).shape
    index_shape = [-1 if a == axis else 1 for a in range(len(shape))]
    index = np.arange(len(rows), dtype=np.int32).reshape(index_shape)
    joined_shape = (*shape[:axis], len(rows), *shape[axis + 1 :])
    table, joint = enumerate_operands(lax.select_n, [index, *rows], joined_shape)
    return finish(table, joint, joined_shape)


def _insert_axis(x: Operand, axis: int) -> Operand:
    """Return an array with one more axis, of size one."""
    if not is_soft(x):
        array = known_array(x)
        if array is None:
            return jnp.expand_dims(x, axis)
        return np.expand_dims(array, axis)

    def insert(array: Table, lead: int) -> Table:
        position = lead + axis
        return array.reshape((*array.shape[:position], 1, *array.shape[position:]))

    return rearrange(x, insert, (*x.extent[:axis], 1, *x.extent[axis:]))


# --- pieces ---------------------------------------------------------------------------


def join_pieces(x: Operand) -> Operand:
    """Return an operand that is in pieces as one value; others as they are."""
    if not isinstance(x, Pieces):
        return x
    if _are_rows(x.parts, x.axis):
        return _join_rows(x.parts, x.axis)

    def concatenate(*arrays: Table) -> Table:
        return lax.concatenate(arrays, x.axis)

    if not any(isinstance(part, AbstractAverage) for part in x.parts):
        return move_together(concatenate, x.parts)
    values = Values(lambda: move_together(concatenate, [*map(exact, x.parts)]))
    means = [number_of(part) for part in x.parts]
    dtype = jnp.result_type(*(mean for mean in means if is_inexact(mean)))
    joined_mean = concatenate(*(mean.astype(dtype) for mean in means))
    return average_of(joined_mean, x.parts, x.aval().dtype, values)


def with_exact_pieces(operands: Sequence[Operand]) -> list[Operand]:
    """Return operands with those that are in pieces joined, and known exactly."""
    return [exact(join_pieces(x)) if isinstance(x, Pieces) else x for x in operands]


# --- several operands -----------------------------------------------------------------


def move_together(function: Callable, operands: Sequence[Operand]) -> Result:
    """Apply a function that only moves elements to several operands.

    Args:
        function: Takes as many arrays as there are operands.
        operands: Soft and plain operands.
    """
    array = _rejoin_parts(function, operands)
    if array is not None:
        return array
    draws = [tokens(x) for x in operands if is_soft(x)]
    have_common_draws = sum(map(len, draws)) > len(frozenset().union(*draws))
    if len(draws) == 1 or have_common_draws:
        jointly = listed_jointly(operands)
        if jointly is not None:
            return on_each_draw(function, jointly)[0]
    return pick(function, operands)


def _rejoin_parts(function: Callable, operands: Sequence[Operand]) -> SoftIndex | None:
    """Join parts of one array of draws to such an array again; None for others."""
    first = operands[0]
    if not all(_is_part_of_array(x, first) for x in operands):
        return None
    probabilities = [
        jnp.broadcast_to(x.weights[0], x.weights[0].shape[:1] + x.extent)
        for x in operands
    ]
    weights = jax.vmap(function)(*probabilities)
    ids = [np.broadcast_to(x.factors[0].ids.array, x.extent) for x in operands]
    table = first.table.reshape((-1,) + (1,) * (weights.ndim - 1))
    return rebuilt(
        first, table, [weights], [apply_to_tables(function, *ids)], weights.shape[1:]
    )


def _is_part_of_array(x: Operand, first: Operand) -> bool:
    """Whether an operand is a part of the array of draws that another is a part of."""
    if not isinstance(x, SoftIndex) or not x.compact or len(x.factors) != 1:
        return False
    if x.factors[0].token != first.factors[0].token:
        return False
    return np.array_equal(x.table.reshape(-1), first.table.reshape(-1))
