"""Writing at soft indices: scatter, updates of slices.

Counterpart: ``pyro_concrete.soft_index.lookup``, which does both.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from numpyro_concrete.soft_index.algebra import (
    common_values,
    concrete,
    finish,
    flat_weights,
    listed_jointly,
    pick,
    placed,
    typed,
    weights_on,
)
from numpyro_concrete.soft_index.joining import in_one, moved_together
from numpyro_concrete.soft_index.lookup import (
    components,
    joint_indices,
    stacked,
)
from numpyro_concrete.soft_index.registry import rule
from numpyro_concrete.soft_index.single import on_each_value
from numpyro_concrete.soft_index.value import (
    Known,
    SoftIndex,
    Values,
    average_of,
    exact,
    fresh,
    is_soft,
    named,
    refusal,
    tokens,
)


def write_slice(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    """Write a plain slice at a soft place: the whole operation at each place."""
    operand, update, *starts = values
    if is_soft(operand) or is_soft(update):
        raise TypeError(refusal(named(*values), primitive.name))
    tables, joint = joint_indices(starts, ())
    sizes = joint.sizes()
    index = stacked(tables, sizes).reshape(math.prod(sizes), len(tables))

    def write(i: Array) -> Array:
        starts_ = [i[a] for a in range(len(tables))]
        return primitive.bind(operand, update, *starts_, **params)

    shape = typed(operand).shape
    table = jax.vmap(write)(jnp.asarray(index)).reshape(sizes + shape)
    spaced = placed(
        joint, shape, lambda x, lead: x.reshape(x.shape[:lead] + (1,) * len(shape))
    )
    return finish(table, spaced, shape)


@rule("dynamic_update_slice")
def _update_slice(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    operand, update, *starts = values
    if any(map(is_soft, starts)):
        return write_slice(primitive, values, params)
    return moved_together(
        lambda *x: primitive.bind(*x, *starts, **params), [operand, update]
    )


@rule("scatter scatter-add scatter_add")
def _scatter(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    def each_value() -> Any:
        jointly = listed_jointly(in_one(values))
        if jointly is None:
            raise TypeError(refusal(named(*values), primitive.name))
        return exact(on_each_value(primitive, jointly, params))

    return write(primitive, values, params, Values(each_value))


def write(
    primitive: Any, values: list[Any], params: dict[str, Any], behind: Values
) -> Any:
    """Set or add values at some places.

    Args:
        primitive: The primitive of JAX.
        values: The operand, the indices and the updates, of which some are soft.
        params: Its parameters.
        behind: Computes the values of the result, for where its mean is not enough.

    Raises:
        TypeError: If the result has no relaxation; it names the site.
    """
    operand, indices, updates = values
    adds = primitive.name != "scatter"
    floats = jnp.issubdtype(typed(operand).dtype, jnp.inexact)
    if not is_soft(indices):
        if not adds and not floats:
            return pick(lambda x, u: _set(x, indices, u, params), [operand, updates])
        return _as_numbers(primitive, values, params, behind)
    places = Places(indices, typed(operand).shape, params)
    if adds:
        total = places.add(_mean(operand, places), _mean(updates, places))
        return _average(total, values, behind)
    if not places.distinct:
        raise TypeError(
            refusal(named(*values), "writing at several places that may coincide")
        )
    if floats:
        result = places.set(_mean(operand, places), _mean(updates, places))
        return _average(result, values, behind)
    support = common_values([operand, updates])
    if support is None:
        raise TypeError(refusal(named(*values), primitive.name))
    full = [
        jnp.broadcast_to(
            weights_on(x, support, places.dtype), (len(support), *typed(x).shape)
        )
        for x in (operand, updates)
    ]
    weights = jax.vmap(places.set)(*full)
    shape = typed(operand).shape
    table = support.reshape((-1,) + (1,) * len(shape))
    factor = fresh(named(*values), shape, tokens(*values))
    return SoftIndex(Known(table), (weights,), (factor,), shape)


def _average(mean: Array, values: Sequence[Any], behind: Values) -> Any:
    dtype = typed(values[0]).dtype
    if jnp.issubdtype(dtype, jnp.inexact):
        mean = mean.astype(dtype)
    return average_of(mean, values, dtype, behind)


def _mean(x: Any, places: "Places") -> Array:
    x = x.number() if is_soft(x) else jnp.asarray(x)
    return x.astype(jnp.result_type(x.dtype, places.dtype))


def _as_numbers(
    primitive: Any, values: list[Any], params: dict[str, Any], behind: Values
) -> Any:
    """Write soft values at plain places as numbers."""
    operand, indices, updates = values
    softs = [x for x in (operand, updates) if is_soft(x)]
    dtype = jnp.result_type(*(x.number() for x in softs))
    if jnp.issubdtype(typed(operand).dtype, jnp.inexact):
        dtype = typed(operand).dtype
    new = [(x.number() if is_soft(x) else jnp.asarray(x)).astype(dtype)
           for x in (operand, updates)]  # fmt: skip
    scatter = lax.scatter_add if primitive.name != "scatter" else lax.scatter
    kept = {k: params[k] for k in ("indices_are_sorted", "unique_indices", "mode")}
    dims = params["dimension_numbers"]
    result = scatter(new[0], indices, new[1], dims, **kept)
    return _average(result, values, behind)


def _set(x: Array, indices: Any, updates: Array, params: dict[str, Any]) -> Array:
    kept = {k: params[k] for k in ("indices_are_sorted", "unique_indices", "mode")}
    dims = params["dimension_numbers"]
    return lax.scatter(x, jnp.asarray(indices), updates, dims, **kept)


class Places:
    """Soft places to write at: every joint value of the indices, with its weight."""

    def __init__(
        self, indices: Any, shape: Sequence[int], params: dict[str, Any]
    ) -> None:
        self.dims = params["dimension_numbers"]
        self.mode = params["mode"]
        self.shape = tuple(shape)
        parts = components(indices)
        self.batch = typed(indices).shape[:-1]
        tables, joint = joint_indices(parts, self.batch)
        sizes = joint.sizes()
        full = stacked(tables, sizes + self.batch)
        states = math.prod(sizes)
        self.index = jnp.asarray(full.reshape(states, *self.batch, len(parts)))
        soft = SoftIndex(
            Known(np.zeros(())), tuple(joint.weights), tuple(joint.factors), joint.shape
        )
        weights = flat_weights(soft)
        self.weights = jnp.broadcast_to(weights, (states, *self.batch))
        self.dtype = self.weights.dtype
        self.distinct = self._distinct(parts)

    def _distinct(self, parts: Sequence[Any]) -> bool:
        """Whether no two places coincide, whatever the soft indices are."""
        batched = self.dims.scatter_indices_batching_dims
        apart = [concrete(x) for x in parts]
        grids = [np.broadcast_to(x, self.batch) for x in apart if x is not None]
        grids += [g for a, g in enumerate(np.indices(self.batch)) if a in batched]
        if math.prod(self.batch) <= 1:
            return True
        if not grids:
            return False
        rows = np.stack([g.reshape(-1) for g in grids], -1)
        return len(np.unique(rows, axis=0)) == len(rows)

    def add(self, operand: Array, updates: Array) -> Array:
        """Add to each place its update times its weight."""
        window = self.dims.update_window_dims
        left = iter(self.batch)
        spaced = [1 if a in window else next(left) for a in range(updates.ndim)]
        weights = self.weights.reshape(-1, *spaced)
        dims = self.dims._replace(
            update_window_dims=tuple(a + 1 for a in window),
            scatter_indices_batching_dims=tuple(
                a + 1 for a in self.dims.scatter_indices_batching_dims
            ),
        )
        return lax.scatter_add(
            operand, self.index, weights * updates, dims, mode=self.mode
        )

    def set(self, operand: Array, updates: Array) -> Array:
        """Replace at each place, as far as its weight goes."""
        zeros = jnp.zeros(self.shape, self.dtype)
        hit = self.add(zeros, jnp.ones(updates.shape, self.dtype))
        # What is replaced for sure may have been infinite.
        old = jnp.where(hit == 1, 0, operand) * (1 - hit)
        return old + self.add(zeros.astype(operand.dtype), updates)
