"""Functions that only move the elements of one value.

Counterpart: ``pyro_concrete.soft_index.shapes``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_concrete.soft_index.algebra import (
    Table,
    held,
    rebuilt,
    run,
)
from numpyro_concrete.soft_index.registry import rule
from numpyro_concrete.soft_index.value import (
    SoftIndex,
    fresh,
    is_soft,
    named,
    refusal,
)

SHAPES = "reshape squeeze expand_dims transpose rev slice split unstack"


def shapes_of(soft: SoftIndex, function: Callable, known: bool = True) -> Any:
    """Apply a function that only moves elements to one value.

    Args:
        soft: The value.
        function: What it does to an array of the value's shape; one array or several.
        known: Whether the function is known while tracing, so that draws keep their
            identity.
    """
    rows = range(math.prod(soft.extent))
    places = np.array(rows, int).reshape(soft.extent)
    shapes = jax.eval_shape(function, places)
    several = isinstance(shapes, list | tuple)
    shapes = list(shapes) if several else [shapes]
    parts = [_part(soft, function, i if several else None, s.shape, known)
             for i, s in enumerate(shapes)]  # fmt: skip
    return parts if several else parts[0]


def _part(
    soft: SoftIndex,
    function: Callable,
    i: int | None,
    shape: tuple[int, ...],
    known: bool,
) -> SoftIndex:
    def one(x: Table) -> Array:
        return function(x) if i is None else function(x)[i]

    def move(x: Table, lead: int) -> Table:
        return moved(one, x, lead, soft.extent, len(shape))

    table = move(soft.table, len(soft.factors))
    weights = [move(w, 1) for w in soft.weights]
    if known:
        ids = [move(f.ids.array, 0) for f in soft.factors]
        return rebuilt(soft, table, weights, ids, shape)
    factors = [fresh(f.site, w.shape[1:], f.tokens)
               for f, w in zip(soft.factors, weights, strict=True)]  # fmt: skip
    return SoftIndex(held(table), tuple(weights), tuple(factors), shape)


def moved(
    function: Callable, x: Table, lead: int, shape: Sequence[int], rank: int
) -> Table:
    """Apply a function that only moves elements behind leading axes."""
    if math.prod(x.shape[lead:]) == 1:
        return x.reshape(x.shape[:lead] + (1,) * rank)
    broadcast = np.broadcast_to if isinstance(x, np.ndarray) else jnp.broadcast_to
    head = x.shape[:lead]
    flat = broadcast(x, (*head, *shape)).reshape(math.prod(head), *shape)
    out = run(jax.vmap(function), flat)
    return out.reshape(head + out.shape[1:])


@rule(SHAPES)
def _reshaped(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    soft, *rest = values
    if any(map(is_soft, rest)):
        raise TypeError(refusal(named(*rest), primitive.name))
    return shapes_of(soft, lambda x: primitive.bind(x, *rest, **params))


@rule("broadcast_in_dim")
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
