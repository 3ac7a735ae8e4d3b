"""Reading at soft indices: gather and dynamic slices.

The source is the array that is read. An operation that reads one is first described by
a :class:`Reading`. A plain source is read at every joint value of the indices; a soft
source is read by its probabilities, one plain array for each value of its support.

Counterpart: ``pyro_concrete.soft_index.lookup``.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from numpyro_concrete.soft_index.algebra import (
    Joint,
    averaged,
    enumerate_operands,
    finish,
    joint_weights,
    listed_jointly,
    placed,
    ranked,
    rebuilt,
    simplified,
)
from numpyro_concrete.soft_index.averages import mean_of_average
from numpyro_concrete.soft_index.draws import Known, fresh
from numpyro_concrete.soft_index.expectation import bounded, mixed
from numpyro_concrete.soft_index.joining import join_pieces, with_exact_pieces
from numpyro_concrete.soft_index.merging import on_support, values_of
from numpyro_concrete.soft_index.registry import (
    Operand,
    Params,
    Primitive,
    Result,
    Shape,
    rule,
)
from numpyro_concrete.soft_index.shapes import move_elements
from numpyro_concrete.soft_index.single import on_each_value
from numpyro_concrete.soft_index.tables import (
    Table,
    apply_to_tables,
    as_table,
    held,
    is_inexact,
    known_array,
    typed,
    without_repeats,
)
from numpyro_concrete.soft_index.value import (
    Pieces,
    SoftIndex,
    is_soft,
    named,
    refusal,
    tokens,
)

_CLIP = lax.GatherScatterMode.CLIP
_FILL = lax.GatherScatterMode.FILL_OR_DROP


@dataclasses.dataclass(frozen=True)
class Reading:
    """How an operation reads a source at indices.

    Args:
        name: Name of the operation, for errors.
        read: Reads a source at indices `batch + (n,)`.
        read_rows: Reads a source at indices `(K, n)`: `(K,) + window`. None if the
            source has a batch of its own.
        window: Axes of the result that come from the source; the others are the batch.
        shape: Shape of the result.
    """

    name: str
    read: Callable[[Operand, Table], Table]
    read_rows: Callable[[Operand, Table], Table] | None
    window: tuple[int, ...]
    shape: Shape

    @property
    def batch_axes(self) -> tuple[int, ...]:
        """Axes of the result that come from the indices."""
        return tuple(a for a in range(len(self.shape)) if a not in self.window)

    @property
    def batch(self) -> Shape:
        """The part of the result's shape that comes from the indices."""
        return tuple(self.shape[a] for a in self.batch_axes)

    # In the result, axes of batch and window are interleaved. What belongs to one gets
    # axes of size one for the other, and so broadcasts.

    def place_batch(self, array: Table, lead: int) -> Table:
        """Return an array over the batch with axes of size one for the window."""
        sizes = self._with_ones(array.shape[lead:], self.batch_axes)
        return array.reshape(array.shape[:lead] + sizes)

    def place_draws(self, joint: Joint) -> Joint:
        """Return the draws of the indices on the axes of the result."""
        return placed(joint, self.shape, self.place_batch)

    def place_window(self, sizes: Sequence[int]) -> Shape:
        """Return the sizes of a window with ones for the batch."""
        return self._with_ones(sizes, sorted(self.window))

    def _with_ones(self, sizes: Sequence[int], axes: Sequence[int]) -> Shape:
        shape = [1] * len(self.shape)
        for size, axis in zip(sizes, axes, strict=True):
            shape[axis] = size
        return tuple(shape)


# --- the primitives -------------------------------------------------------------------


@rule("gather")
def _gather(primitive: Primitive, operands: list[Operand], params: Params) -> Result:
    jointly = _listed_if_draws_are_shared(operands)
    if jointly is not None:
        return on_each_value(primitive, jointly, params)
    source, indices = operands
    if not is_soft(indices) and not _fills_at_run_time(source, indices, params):
        return _gather_at_plain_indices(primitive, source, indices, params)
    components = index_components(indices)
    if not is_soft(source):
        return read_at(source, components, _gather_reading(primitive, operands, params))
    if not _may_be_out_of_range(source, components, params):
        params = {**params, "mode": _CLIP}
        return read_at(source, components, _gather_reading(primitive, operands, params))
    fill_value = _fill_value(source, params)
    # Out of range, each probability of the source is zero. The rest is the fill's.
    params = {**params, "fill_value": 0}
    reading = _gather_reading(primitive, operands, params)
    return _read_soft_source(source, components, reading, fill_value)


@rule("dynamic_slice")
def _dynamic_slice(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    jointly = _listed_if_draws_are_shared(operands)
    if jointly is not None:
        return on_each_value(primitive, jointly, params)
    source, *starts = operands
    if any(map(is_soft, starts)):
        return read_at(source, starts, _slice_reading(params["slice_sizes"]))
    return move_elements(
        source,
        lambda x: primitive.bind(x, *starts, **params),
        is_known=all(known_array(start) is not None for start in starts),
    )


def _listed_if_draws_are_shared(operands: Sequence[Operand]) -> list[Operand] | None:
    """Return operands listed jointly, where indices share draws with what they read."""
    source, *indices = operands
    if tokens(source).isdisjoint(tokens(*indices)):
        return None
    return listed_jointly(with_exact_pieces(operands))


def _gather_reading(
    primitive: Primitive, operands: Sequence[Operand], params: Params
) -> Reading:
    shapes = [jax.ShapeDtypeStruct(typed(x).shape, typed(x).dtype) for x in operands]

    def read(source: Operand, index: Table) -> Table:
        return primitive.bind(source, index, **params)

    dims = params["dimension_numbers"]
    # The same operation, for indices with one batch axis.
    row_dims = dims._replace(offset_dims=tuple(range(1, 1 + len(dims.offset_dims))))
    row_params = {
        name: params[name]
        for name in ("slice_sizes", "mode", "fill_value")
        if name in params
    }

    def read_rows(source: Operand, index: Table) -> Table:
        return lax.gather(source, index, row_dims, **row_params)

    return Reading(
        name=primitive.name,
        read=read,
        read_rows=None if dims.operand_batching_dims else read_rows,
        window=tuple(map(int, dims.offset_dims)),
        shape=jax.eval_shape(read, *shapes).shape,
    )


def _slice_reading(sizes: Sequence[int]) -> Reading:
    rank = len(sizes)

    def read(source: Operand, index: Table) -> Table:
        return lax.dynamic_slice(source, [index[i] for i in range(rank)], sizes)

    dims = lax.GatherDimensionNumbers(
        offset_dims=tuple(range(1, rank + 1)),
        collapsed_slice_dims=(),
        start_index_map=tuple(range(rank)),
    )

    def read_rows(source: Operand, index: Table) -> Table:
        return lax.gather(source, index, dims, slice_sizes=sizes, mode=_CLIP)

    return Reading(
        name="dynamic_slice",
        read=read,
        read_rows=read_rows,
        window=tuple(range(rank)),
        shape=tuple(sizes),
    )


# --- plain indices, and what is out of range ------------------------------------------


def _fills_at_run_time(source: SoftIndex, indices: Operand, params: Params) -> bool:
    """Whether a fill value of the program's own may be read at unknown plain indices.

    JAX's default fill value, which `jnp.take` has, is the extreme integer or NaN. In
    the support of every such lookup it would cost more than it helps: no program can
    use that value. So the lookup is clipped instead.
    """
    if params["mode"] != _FILL or known_array(indices) is not None:
        return False
    fill_value = _fill_value(source, params)
    return not np.array_equal(fill_value, _default_fill_value(source), equal_nan=True)


def _gather_at_plain_indices(
    primitive: Primitive, source: SoftIndex, indices: Operand, params: Params
) -> Result:
    index = as_table(indices)
    is_known = isinstance(index, np.ndarray)
    fills = params["mode"] == _FILL
    read_params = dict(params)
    if fills:
        read_params["mode"] = _CLIP
    result = move_elements(
        source, lambda x: primitive.bind(x, index, **read_params), is_known
    )
    if fills and is_known:
        return _fill_out_of_range(primitive, result, source, index, params)
    return result


def _fill_out_of_range(
    primitive: Primitive,
    result: Result,
    source: SoftIndex,
    index: np.ndarray,
    params: Params,
) -> Result:
    """Put the fill value into what was read, where known indices are out of range."""
    # Of zeros with a fill value of one, the primitive reads where that is.
    zeros = np.zeros(source.extent, np.int8)
    fill_params = {**params, "fill_value": 1}
    is_out = apply_to_tables(lambda i: primitive.bind(zeros, i, **fill_params), index)
    if not is_out.any():
        return result
    fill_value = np.asarray(_fill_value(source, params), source.table.dtype)

    def fill(is_out: Table, values: Table) -> Array:
        return jnp.where(is_out == 1, fill_value, values)

    values, joint = enumerate_operands(fill, [is_out, result], is_out.shape)
    return finish(values, joint, is_out.shape)


def _fill_value(source: SoftIndex, params: Params) -> float | int:
    """Return what the program reads out of range."""
    if params["fill_value"] is not None:
        return params["fill_value"]
    return _default_fill_value(source)


def _default_fill_value(source: SoftIndex) -> float | int:
    """Return what JAX reads out of range by default: the extreme integer, or NaN."""
    dtype = source.table.dtype
    if jnp.issubdtype(dtype, jnp.inexact):
        return np.nan
    if jnp.issubdtype(dtype, jnp.bool_):
        return True
    if jnp.issubdtype(dtype, jnp.unsignedinteger):
        return jnp.iinfo(dtype).max
    return jnp.iinfo(dtype).min


def _may_be_out_of_range(
    source: Operand, components: Sequence[Operand], params: Params
) -> bool:
    """Whether indices can be where a source of soft integers is to be filled.

    Indices whose values are known only at run time can.
    """
    if not isinstance(source, SoftIndex) or params["mode"] != _FILL:
        return False
    axes = params["dimension_numbers"].start_index_map
    for axis, component in zip(axes, components, strict=True):
        values = values_of(component)
        largest = source.extent[axis] - params["slice_sizes"][axis]
        if values is None or ((values < 0) | (values > largest)).any():
            return True
    return False


# --- indices --------------------------------------------------------------------------


def index_components(indices: Operand) -> list[Operand]:
    """Return an array of indices as one array for each axis that it addresses.

    Args:
        indices: The array, soft or plain, whose last axis is that of the components;
            or pieces of it.
    """
    if isinstance(indices, Pieces):
        if indices.axis == len(indices.aval().shape) - 1:
            return [c for piece in indices.parts for c in index_components(piece)]
        indices = join_pieces(indices)
    size = typed(indices).shape[-1]
    if is_soft(indices):
        return [_soft_component(indices, i) for i in range(size)]
    array = as_table(indices)
    return [array[..., i] for i in range(size)]


def _soft_component(soft: SoftIndex, i: int) -> Operand:
    def take(array: Table) -> Table:
        return array[..., i if array.shape[-1] > 1 else 0]

    shape = soft.extent[:-1]
    if not soft.factors:  # repeated along axes, which no lookup has to know
        return SoftIndex(held(take(soft.table)), (), (), shape)
    component = rebuilt(
        soft,
        table=take(soft.table),
        weights=[take(w) for w in soft.weights],
        ids=[take(factor.ids.array) for factor in soft.factors],
        extent=shape,
    )
    return simplified(component.table, component.factors, component.weights, shape)


def joint_indices(
    components: Sequence[Operand], batch: Sequence[int]
) -> tuple[list[Table], Joint]:
    """Return the joint values of the indices of several axes, and their draws.

    Args:
        components: The indices of each axis, soft or plain.
        batch: Shape with which they broadcast.
    """
    joint = Joint(batch)
    rank = len(joint.shape)
    tables_and_axes: list[tuple[Table, list[int]]] = []
    for component in components:
        if is_soft(component):
            soft = ranked(component, rank)
            tables_and_axes.append((soft.table, joint.add(soft)))
        else:
            tables_and_axes.append((_plain_table(component, rank), []))
    joint.check()
    return [joint.spread(table, axes) for table, axes in tables_and_axes], joint


def _plain_table(x: Operand, rank: int) -> Table:
    """Return plain indices as a table of this rank, known if they are."""
    table = known_array(x)
    table = jnp.asarray(x) if table is None else without_repeats(table)
    return table.reshape((1,) * (rank - table.ndim) + table.shape)


def stack_components(tables: Sequence[Table], shape: Sequence[int]) -> Table:
    """Return indices `shape + (n,)`, known while tracing if all of them are.

    Args:
        tables: The indices of each of `n` axes.
        shape: Shape with which they broadcast.
    """
    are_known = all(isinstance(t, np.ndarray) for t in tables)
    xp = np if are_known else jnp
    dtype = jnp.result_type(*(t.dtype for t in tables))
    return xp.stack(
        [xp.broadcast_to(t, tuple(shape)).astype(dtype) for t in tables], -1
    )


# --- reading --------------------------------------------------------------------------


def read_at(source: Operand, components: Sequence[Operand], reading: Reading) -> Result:
    """Return what is in an array at soft indices.

    Args:
        source: The array to read, plain or soft.
        components: Indices of each axis, soft or plain, of the shape of the batch.
        reading: How to read.
    """
    if is_soft(source):
        return _read_soft_source(source, components, reading)
    tables, joint = joint_indices(components, reading.batch)
    sizes = joint.sizes()
    lead = len(sizes)
    are_constant = all(math.prod(t.shape[lead:]) == 1 for t in tables)
    if joint.factors and are_constant and reading.read_rows is not None:
        # Indices that are the same at every position: one row for each joint value.
        index = stack_components([t.reshape(t.shape[:lead]) for t in tables], sizes)
        rows = _read(reading.read_rows, source, index.reshape(-1, len(tables)))
        return _weigh_rows(rows, joint, reading)
    # What is the same all along an axis is read once.
    batch = reading.batch
    if reading.read_rows is not None:
        batch = np.broadcast_shapes(*(t.shape[lead:] for t in tables))
    index = stack_components(tables, sizes + batch)
    index = index.reshape(math.prod(sizes), *batch, len(tables))
    values = _read(jax.vmap(reading.read, (None, 0)), source, index)
    values = values.reshape(sizes + values.shape[1:])
    return finish(values, reading.place_draws(joint), reading.shape)


def _weigh_rows(rows: Table, joint: Joint, reading: Reading) -> Result:
    """Return the result for the rows that each joint value of the indices reads."""
    values = rows.reshape(joint.sizes() + reading.place_window(rows.shape[1:]))
    if not is_inexact(rows):
        return finish(values, reading.place_draws(joint), reading.shape)
    mean = _average_rows(rows, joint, reading)
    draws = reading.place_draws(joint)
    return averaged(values, draws.factors, draws.weights, reading.shape, mean)


def _read(
    function: Callable[[Operand, Table], Table], source: Operand, index: Table
) -> Table:
    """Read a source; what is read in known integers at known indices is known."""
    known_source = known_array(source)
    if known_source is None or is_inexact(known_source):
        return function(source, jnp.asarray(index))
    return apply_to_tables(lambda i: function(known_source, i), index)


def _average_rows(rows: Table, joint: Joint, reading: Reading) -> Array:
    """Return the weighted sum of a few rows, by one matrix product."""
    weights = joint_weights(joint)
    finite_rows, restore_infinities = bounded(rows, weights)
    mean = restore_infinities(mixed(weights, finite_rows)).astype(rows.dtype)
    # The batch comes first: its axes, then the window's, go where the result has them.
    order = [*reading.batch_axes, *reading.window]
    mean = mean.transpose(*(order.index(a) for a in range(len(order))))
    return jnp.broadcast_to(mean, reading.shape)


def _read_soft_source(
    source: SoftIndex,
    components: Sequence[Operand],
    reading: Reading,
    fill_value: float | int | None = None,
) -> SoftIndex:
    """Return what is in a source of soft integers: its weights are read like floats.

    With a fill value, what the weights lack is the probability to be out of range.
    """
    support = values_of(source)
    sites = named(source, *components)
    if support is None:
        operation = f"{reading.name} in values that are known only at run time"
        raise TypeError(refusal(sites, operation))

    def read_weights(weights: Array) -> Array:
        return mean_of_average(read_at(weights, components, reading))

    weights = on_support(source, support)
    weights = jnp.broadcast_to(weights, weights.shape[:1] + source.extent)
    weights = jax.vmap(read_weights)(weights)
    if fill_value is not None:
        support = np.append(support, np.asarray(fill_value, support.dtype))
        weights = jnp.concatenate([weights, 1 - weights.sum(0, keepdims=True)])
    values = support.reshape((-1,) + (1,) * len(reading.shape))
    # Which draws are read depends on the indices, so that to other values the result is
    # a new draw, which may be made of any of them.
    factor = fresh(sites, reading.shape, tokens(source, *components))
    return SoftIndex(Known(values), (weights,), (factor,), reading.shape)
