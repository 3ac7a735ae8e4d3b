"""Functions that only move the elements of one value: its draws keep their identity.

Counterpart: ``pyro_concrete.soft_index.shapes``.
"""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from numpyro_concrete.soft_index.algebra import rebuilt
from numpyro_concrete.soft_index.draws import fresh
from numpyro_concrete.soft_index.registry import (
    Operand,
    Params,
    Primitive,
    Result,
    Shape,
    rule,
)
from numpyro_concrete.soft_index.tables import (
    Table,
    apply_to_tables,
    broadcast_table,
    held,
)
from numpyro_concrete.soft_index.value import SoftIndex, is_soft, named, refusal

SHAPES = "reshape squeeze expand_dims transpose rev slice split unstack"


@rule(SHAPES)
def _change_shape(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    soft, *sizes_or_starts = operands
    if any(map(is_soft, sizes_or_starts)):
        raise TypeError(refusal(named(*sizes_or_starts), primitive.name))
    return move_elements(soft, lambda x: primitive.bind(x, *sizes_or_starts, **params))


@rule("broadcast_in_dim")
def _broadcast(_: Primitive, operands: list[Operand], params: Params) -> SoftIndex:
    (soft,) = operands
    shape = params["shape"]

    # Axes along which a value repeats have size one in its arrays.
    def place_axes(array: Table, lead: int) -> Table:
        sizes = [1] * len(shape)
        for size, axis in zip(
            array.shape[lead:], params["broadcast_dimensions"], strict=True
        ):
            sizes[axis] = size
        return array.reshape((*array.shape[:lead], *sizes))

    return rearrange(soft, place_axes, shape)


def rearrange(
    soft: SoftIndex, arrange: Callable[[Table, int], Table], extent: Sequence[int]
) -> SoftIndex:
    """Return the same draws with their axes rearranged.

    Args:
        soft: The value.
        arrange: Takes an array and the number of its leading axes, and returns it with
            the axes behind those rearranged.
        extent: Shape of the result.
    """
    return rebuilt(
        soft,
        table=arrange(soft.table, len(soft.factors)),
        weights=[arrange(w, 1) for w in soft.weights],
        ids=[arrange(factor.ids.array, 0) for factor in soft.factors],
        extent=extent,
    )


def move_elements(soft: SoftIndex, function: Callable, is_known: bool = True) -> Result:
    """Apply a function that only moves elements to one value.

    Args:
        soft: The value.
        function: What it does to an array of the value's shape; one array or several.
        is_known: Whether the function is known while tracing, so that draws keep their
            identity.
    """
    elements = np.arange(math.prod(soft.extent)).reshape(soft.extent)
    result = jax.eval_shape(function, elements)
    if not isinstance(result, list | tuple):
        return _move_value(soft, function, result.shape, is_known)
    return [
        _move_value(soft, lambda x, i=i: function(x)[i], part.shape, is_known)
        for i, part in enumerate(result)
    ]


def _move_value(
    soft: SoftIndex, function: Callable, shape: Shape, is_known: bool
) -> SoftIndex:
    """Apply a function that moves elements and returns one array of a given shape."""

    def move(array: Table, lead: int) -> Table:
        return _move_array(function, array, lead, soft.extent, len(shape))

    if is_known:
        return rearrange(soft, move, shape)
    # Nothing can tell which draw stands where: to other values, these are new ones.
    weights = tuple(move(w, 1) for w in soft.weights)
    factors = tuple(
        fresh(factor.site, w.shape[1:], factor.tokens)
        for factor, w in zip(soft.factors, weights, strict=True)
    )
    table = move(soft.table, len(soft.factors))
    return SoftIndex(held(table), weights, factors, shape)


def _move_array(
    function: Callable, array: Table, lead: int, shape: Shape, rank: int
) -> Table:
    """Apply a function that only moves elements behind leading axes.

    Args:
        function: Takes an array of a value's shape.
        array: Has leading axes, and others that broadcast to the value's shape.
        lead: Number of leading axes.
        shape: The value's shape.
        rank: Number of axes of the function's result.
    """
    leading = array.shape[:lead]
    if math.prod(array.shape[lead:]) == 1:
        return array.reshape(leading + (1,) * rank)
    rows = broadcast_table(array, (*leading, *shape))
    moved = apply_to_tables(
        jax.vmap(function), rows.reshape(math.prod(leading), *shape)
    )
    return moved.reshape(leading + moved.shape[1:])
