"""Reading at soft indices: gather, dynamic slices.

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
    Joint,
    Table,
    averaged,
    concrete,
    enumerate_operands,
    finish,
    flat_weights,
    held,
    listed_jointly,
    on_support,
    placed,
    ranked,
    rebuilt,
    run,
    simplified,
    typed,
    uniform,
    values_of,
)
from numpyro_concrete.soft_index.expectation import bounded, mixed
from numpyro_concrete.soft_index.joining import in_one, joined
from numpyro_concrete.soft_index.registry import rule
from numpyro_concrete.soft_index.shapes import shapes_of
from numpyro_concrete.soft_index.single import on_each_value
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    Known,
    Pieces,
    SoftIndex,
    fresh,
    is_soft,
    named,
    refusal,
    tokens,
)

# --- reading --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Reading:
    """How an operation reads a table at indices.

    Args:
        at: Reads at indices `batch + (n,)`.
        rows: Reads at indices `(K, n)`: `(K,) + window`; None if they have a batch.
        window: Axes of the result that come from the table; the others are the batch.
        shape: Shape of the result.
    """

    at: Callable
    rows: Callable | None
    window: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def batch(self) -> tuple[int, ...]:
        """The part of the result's shape that comes from the indices."""
        return tuple(n for a, n in enumerate(self.shape) if a not in self.window)

    def spaced(self, x: Table, lead: int) -> Table:
        """Return an array over the batch with axes of size one for the window."""
        return x.reshape(x.shape[:lead] + self._spaced(x.shape[lead:]))

    def _spaced(self, sizes: Sequence[int]) -> tuple[int, ...]:
        left = iter(sizes)
        return tuple(
            1 if a in self.window else next(left) for a in range(len(self.shape))
        )


@rule("gather")
def _gather(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    jointly = _in_common(values)
    if jointly is not None:
        return on_each_value(primitive, jointly, params)
    operand, indices = values
    if not is_soft(indices):
        known = concrete(indices)
        index = indices if known is None else known

        # Only where indices are known, can some be known to be out of range.
        fills = params["mode"] == lax.GatherScatterMode.FILL_OR_DROP
        clipped = {**params, "mode": lax.GatherScatterMode.CLIP} if fills else params

        def function(x: Table) -> Array:
            return primitive.bind(x, index, **clipped)

        result = shapes_of(operand, function, known is not None)
        if not fills or known is None:
            return result
        return _filled(primitive, result, operand, known, params)
    parts = components(indices)
    fill = _fill_of(operand, parts, params)
    if fill is not None:
        params = {**params, "fill_value": 0}
    elif is_soft(operand):
        params = {**params, "mode": lax.GatherScatterMode.CLIP}
    out = jax.eval_shape(
        lambda x, i: primitive.bind(x, i, **params),
        *(jax.ShapeDtypeStruct(typed(x).shape, typed(x).dtype) for x in values),
    )
    dims = params["dimension_numbers"]
    window = len(dims.offset_dims)
    kept = {k: params[k] for k in ("slice_sizes", "mode", "fill_value") if k in params}
    flat = dims._replace(offset_dims=tuple(range(1, 1 + window)))
    reading = Reading(
        lambda x, i: primitive.bind(x, i, **params),
        None
        if dims.operand_batching_dims
        else lambda x, i: lax.gather(x, i, flat, **kept),
        tuple(map(int, dims.offset_dims)),
        out.shape,
    )
    if fill is not None:
        return _read_soft(operand, parts, reading, primitive.name, fill)
    return read(operand, parts, reading, primitive.name)


def _in_common(values: Sequence[Any]) -> list[Any] | None:
    """Operands listed jointly, where indices share draws with what they read."""
    operand, *indices = values
    if tokens(operand).isdisjoint(tokens(*indices)):
        return None
    return listed_jointly(in_one(values))


def _filled(
    primitive: Any, result: Any, operand: Any, index: Table, params: dict[str, Any]
) -> Any:
    """What was read at known indices, with the fill value where they are too large."""
    places = np.zeros(operand.extent, np.int8)
    missed = run(lambda i: primitive.bind(places, i, **{**params, "fill_value": 1}),
                 index)  # fmt: skip
    if not missed.any():
        return result
    fill = np.asarray(_fill_value(operand, params), operand.table.dtype)

    def choose(at: Table, x: Table) -> Array:
        return jnp.where(at == 1, fill, x)

    table, joint = enumerate_operands(choose, [missed, result], missed.shape)
    return finish(table, joint, missed.shape)


def _fill_value(operand: Any, params: dict[str, Any]) -> Any:
    if params["fill_value"] is not None:
        return params["fill_value"]
    dtype = operand.table.dtype
    if jnp.issubdtype(dtype, jnp.inexact):
        return np.nan
    if jnp.issubdtype(dtype, jnp.bool_):
        return True
    info = jnp.iinfo(dtype)
    return info.min if info.min else info.max


def _fill_of(operand: Any, parts: Sequence[Any], params: dict[str, Any]) -> Any:
    """The value of a soft table out of range, if soft indices can be there; or None."""
    if not isinstance(operand, SoftIndex):
        return None
    if params["mode"] != lax.GatherScatterMode.FILL_OR_DROP:
        return None
    axes = params["dimension_numbers"].start_index_map
    for axis, part in zip(axes, parts, strict=True):
        values = values_of(part)
        largest = operand.extent[axis] - params["slice_sizes"][axis]
        if values is not None and ((values < 0) | (values > largest)).any():
            return _fill_value(operand, params)
    return None


@rule("dynamic_slice")
def _dynamic_slice(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    jointly = _in_common(values)
    if jointly is not None:
        return on_each_value(primitive, jointly, params)
    operand, *starts = values
    if not any(map(is_soft, starts)):
        known = all(concrete(s) is not None for s in starts)
        return shapes_of(operand, lambda x: primitive.bind(x, *starts, **params), known)
    sizes = params["slice_sizes"]

    def at(x: Table, index: Table) -> Array:
        return lax.dynamic_slice(x, [index[i] for i in range(len(sizes))], sizes)

    n = len(sizes)
    dims = lax.GatherDimensionNumbers(tuple(range(1, n + 1)), (), tuple(range(n)))

    def rows(x: Table, index: Table) -> Array:
        clip = lax.GatherScatterMode.CLIP
        return lax.gather(x, index, dims, slice_sizes=sizes, mode=clip)

    reading = Reading(at, rows, tuple(range(n)), tuple(sizes))
    return read(operand, starts, reading, primitive.name)


def components(indices: Any) -> list[Any]:
    """Return an array of indices as one array for each axis that it addresses."""
    if isinstance(indices, Pieces) and indices.axis == len(indices.aval().shape) - 1:
        return [c for part in indices.parts for c in components(part)]
    if isinstance(indices, Pieces):
        indices = joined(indices)
    n = typed(indices).shape[-1]
    known = concrete(indices)
    if known is not None:
        return [known[..., i] for i in range(n)]
    if not is_soft(indices):
        return [indices[..., i] for i in range(n)]
    return [_component(indices, i) for i in range(n)]


def _component(soft: SoftIndex, i: int) -> Any:
    def at(x: Table) -> Table:
        return x[..., i if x.shape[-1] > 1 else 0]

    table, weights, extent = at(soft.table), map(at, soft.weights), soft.extent[:-1]
    if not soft.factors:  # repeated along axes, which no lookup has to know
        return SoftIndex(held(table), (), (), extent)
    ids = [at(f.ids.array) for f in soft.factors]
    part = rebuilt(soft, table, [*weights], ids, extent)
    return simplified(part.table, part.factors, part.weights, extent)


def _table_of(x: Any, joint: Joint, where: Sequence[int]) -> Table:
    if is_soft(x):
        return joint.spread(x.table, where)
    known = concrete(x)
    table = jnp.asarray(x) if known is None else uniform(known)
    missing = len(joint.shape) - table.ndim
    return joint.spread(table.reshape((1,) * missing + table.shape), [])


def joint_indices(
    parts: Sequence[Any], batch: Sequence[int]
) -> tuple[list[Table], Joint]:
    """Return the joint values of the indices of several axes."""
    joint = Joint(batch)
    parts = [ranked(x, len(batch)) if is_soft(x) else x for x in parts]
    where = [joint.add(x) if is_soft(x) else [] for x in parts]
    joint.check()
    tables = [_table_of(x, joint, w) for x, w in zip(parts, where, strict=True)]
    return tables, joint


def stacked(tables: Sequence[Table], shape: Sequence[int]) -> Table:
    """Return indices `shape + (n,)`, known if all of them are."""
    known = all(isinstance(t, np.ndarray) for t in tables)
    xp = np if known else jnp
    dtype = jnp.result_type(*(t.dtype for t in tables))
    full = [xp.broadcast_to(t, tuple(shape)).astype(dtype) for t in tables]
    return xp.stack(full, -1)


def read(operand: Any, parts: Sequence[Any], reading: Reading, name: str) -> Any:
    """Return what is found at soft indices.

    Args:
        operand: The table, plain or soft.
        parts: Indices of each axis, of the shape of the batch.
        reading: How to read.
        name: Name of the operation, for errors.
    """
    if is_soft(operand):
        return _read_soft(operand, parts, reading, name)
    tables, joint = joint_indices(parts, reading.batch)
    sizes = joint.sizes()
    lead = len(sizes)
    constant = all(math.prod(t.shape[lead:]) == 1 for t in tables)
    if constant and reading.rows is not None:
        index = stacked([t.reshape(t.shape[:lead]) for t in tables], sizes)
        index = index.reshape(-1, len(tables))
        rows = _read(reading.rows, operand, index)
        table = rows.reshape(sizes + _window_only(rows.shape[1:], reading))
        if jnp.issubdtype(rows.dtype, jnp.inexact):
            mean = _weighted_rows(rows, joint, reading)
            spaced = placed(joint, reading.shape, reading.spaced)
            return averaged(table, spaced.factors, spaced.weights, reading.shape, mean)
    else:
        # Read once what is the same all along an axis.
        batch = reading.batch
        if reading.rows is not None:
            batch = np.broadcast_shapes(*(t.shape[lead:] for t in tables))
        index = stacked(tables, sizes + batch)
        index = index.reshape(math.prod(sizes), *batch, len(tables))
        table = _read(jax.vmap(reading.at, (None, 0)), operand, index)
        table = table.reshape(sizes + table.shape[1:])
    spaced = placed(joint, reading.shape, reading.spaced)
    return finish(table, spaced, reading.shape)


def _read(function: Callable, operand: Any, index: Table) -> Table:
    known = concrete(operand)
    if known is None or jnp.issubdtype(known.dtype, jnp.inexact):
        return function(operand, jnp.asarray(index))
    return run(lambda i: function(known, i), index)


def _window_only(window: Sequence[int], reading: Reading) -> tuple[int, ...]:
    left = iter(window)
    rank = len(reading.shape)
    return tuple(next(left) if a in reading.window else 1 for a in range(rank))


def _weighted_rows(rows: Array, joint: Joint, reading: Reading) -> Array:
    """Return the weighted sum of a few rows, by one matrix product."""
    soft = SoftIndex(
        Known(np.zeros(())), tuple(joint.weights), tuple(joint.factors), joint.shape
    )
    weights = flat_weights(soft)
    finite, restore = bounded(rows, weights)
    total = restore(mixed(weights, finite)).astype(rows.dtype)
    # The batch comes first: its axes, then the window's, go where the result has them.
    rank = len(reading.shape)
    order = [a for a in range(rank) if a not in reading.window] + list(reading.window)
    total = total.transpose(*np.argsort(np.array(order, int))) if rank else total
    return jnp.broadcast_to(total, reading.shape)


def _read_soft(
    operand: SoftIndex,
    parts: Sequence[Any],
    reading: Reading,
    name: str,
    fill: Any = None,
) -> SoftIndex:
    """Return what is found in soft integers: their weights, read like floats.

    With a fill value, what the weights lack is the probability to be out of range.
    """
    support = values_of(operand)
    site = named(operand, *parts)
    if support is None:
        operation = f"{name} in values that are known only at run time"
        raise TypeError(refusal(site, operation))
    weights = on_support(operand, support)
    weights = jnp.broadcast_to(weights, weights.shape[:1] + operand.extent)
    weights = jax.vmap(lambda w: _mean(read(w, parts, reading, name)))(weights)
    if fill is not None:
        support = np.append(support, np.asarray(fill, support.dtype))
        weights = jnp.concatenate([weights, 1 - weights.sum(0, keepdims=True)])
    table = support.reshape((-1,) + (1,) * len(reading.shape))
    factor = fresh(site, reading.shape, tokens(operand, *parts))
    return SoftIndex(Known(table), (weights,), (factor,), reading.shape)


def _mean(x: Any) -> Any:
    return x.average if isinstance(x, AbstractAverage) else x
