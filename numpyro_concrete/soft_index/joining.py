"""Arrays that are joined: concatenated, stacked, padded.

Counterpart: ``pyro_concrete.soft_index.joining``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from numpyro_concrete.soft_index.algebra import (
    Joint,
    Table,
    concrete,
    enumerate_operands,
    finish,
    listed_jointly,
    pick,
    rebuilt,
    run,
    typed,
)
from numpyro_concrete.soft_index.registry import rule
from numpyro_concrete.soft_index.single import on_each_draw
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


def is_inexact(x: Any) -> bool:
    """Tell whether an operand is of floats."""
    return jnp.issubdtype(typed(x).dtype, jnp.inexact)


def have_one_draw(operands: Sequence[Any], shape: Sequence[int]) -> bool:
    """Whether all soft operands have the same factors."""
    joint = Joint(shape)
    softs = [x for x in operands if is_soft(x)]
    counts = {len(joint.add(x)) for x in softs}
    return counts == {len(joint.factors)}


@rule("concatenate stack pad tile")
def _join(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    arrays = values

    def function(*x: Table) -> Any:
        return primitive.bind(*x, **params)

    axis = params.get("dimension")
    last = len(typed(arrays[0]).shape) - 1
    if primitive.name == "concatenate" and axis == last and not is_inexact(arrays[0]):
        return Pieces(tuple(arrays), last)
    if primitive.name == "concatenate" and _are_rows(arrays, axis):
        return _beside(arrays, axis)
    if primitive.name == "stack":
        return _stacked(function, arrays, params["axis"])
    return moved_together(function, arrays)


def _stacked(function: Callable, arrays: Sequence[Any], axis: int) -> Any:
    """Put arrays beside each other: functions of one draw stay functions of it."""
    shape = typed(arrays[0]).shape
    if not have_one_draw(arrays, shape):
        return moved_together(function, arrays)
    axis = axis % (len(shape) + 1)
    return _beside([_slot(x, axis) for x in arrays], axis)


def _are_rows(arrays: Sequence[Any], axis: int) -> bool:
    """Whether arrays that are joined are functions of one draw, as where JAX stacks.

    JAX 0.10.0 stacks arrays by joining them, each with an axis of size one.
    """
    shape = typed(arrays[0]).shape
    if is_inexact(arrays[0]) or any(typed(x).shape[axis] != 1 for x in arrays):
        return False
    return have_one_draw(arrays, shape)


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
        values = Values(lambda: moved_together(function, [*map(exact, pieces.parts)]))
        means = [x.number() if is_soft(x) else jnp.asarray(x) for x in pieces.parts]
        floats = jnp.result_type(*(m for m in means if is_inexact(m)))
        mean = function(*(m.astype(floats) for m in means))
        return average_of(mean, pieces.parts, dtype, values)
    return moved_together(function, pieces.parts)


def in_one(values: Sequence[Any]) -> list[Any]:
    """Return operands with pieces joined."""
    return [exact(joined(x)) if isinstance(x, Pieces) else x for x in values]


def moved_together(function: Callable, operands: Sequence[Any]) -> Any:
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
