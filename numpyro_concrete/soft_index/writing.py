"""Writing at soft indices: scatter, and updates of slices.

Counterpart: ``pyro_concrete.soft_index.writing``.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from numpyro_concrete.soft_index.algebra import (
    finish,
    joint_weights,
    listed_jointly,
    placed,
)
from numpyro_concrete.soft_index.draws import Known, fresh
from numpyro_concrete.soft_index.joining import move_together, with_exact_pieces
from numpyro_concrete.soft_index.lookup import (
    index_components,
    joint_indices,
    stack_components,
)
from numpyro_concrete.soft_index.merging import common_values, pick, weights_on
from numpyro_concrete.soft_index.registry import (
    Operand,
    Params,
    Primitive,
    Result,
    rule,
)
from numpyro_concrete.soft_index.single import on_each_value
from numpyro_concrete.soft_index.tables import (
    Table,
    is_inexact,
    known_array,
    number_of,
    typed,
)
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    SoftIndex,
    Values,
    average_of,
    exact,
    is_soft,
    named,
    refusal,
    tokens,
)

# --- slices ---------------------------------------------------------------------------


@rule("dynamic_update_slice")
def _update_slice(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    operand, update, *starts = operands
    if not any(map(is_soft, starts)):
        return move_together(
            lambda x, y: primitive.bind(x, y, *starts, **params), [operand, update]
        )
    if is_soft(operand) or is_soft(update):
        raise TypeError(refusal(named(*operands), primitive.name))

    def write(index: Array) -> Array:
        values_of_starts = [index[i] for i in range(len(starts))]
        return primitive.bind(operand, update, *values_of_starts, **params)

    # The whole operation, for each joint value of the starts.
    tables, joint = joint_indices(starts, ())
    sizes = joint.sizes()
    index = stack_components(tables, sizes).reshape(math.prod(sizes), len(tables))
    shape = typed(operand).shape
    values = jax.vmap(write)(jnp.asarray(index)).reshape(sizes + shape)

    def add_axes(array: Table, lead: int) -> Table:
        return array.reshape(array.shape[:lead] + (1,) * len(shape))

    return finish(values, placed(joint, shape, add_axes), shape)


# --- scatter --------------------------------------------------------------------------


@rule("scatter scatter-add scatter_add")
def _scatter(primitive: Primitive, operands: list[Operand], params: Params) -> Result:
    """Set or add values at some targets.

    Floats and sums are means: the operand and the updates, weighted with the
    probabilities of the targets. Integers that are set get new probabilities.
    """

    def write_each_value() -> Operand:
        jointly = listed_jointly(with_exact_pieces(operands))
        if jointly is None:
            raise TypeError(refusal(named(*operands), primitive.name))
        return exact(on_each_value(primitive, jointly, params))

    values = Values(write_each_value)
    operand, indices, updates = operands
    is_sum = primitive.name != "scatter"
    if not is_soft(indices):
        if is_sum or is_inexact(operand):
            return _write_means(primitive, operands, params, values)
        return pick(lambda x, y: _set(x, indices, y, params), [operand, updates])
    targets = SoftPlaces(indices, typed(operand).shape, params)
    if is_sum:
        total = targets.add(_mean(operand, targets), _mean(updates, targets))
        return _average_like_operand(total, operands, values)
    if not targets.are_distinct:
        operation = "writing at several places that may coincide"
        raise TypeError(refusal(named(*operands), operation))
    if is_inexact(operand):
        mean = targets.set(_mean(operand, targets), _mean(updates, targets))
        return _average_like_operand(mean, operands, values)
    return _set_integers(primitive, operands, targets)


def _write_means(
    primitive: Primitive, operands: list[Operand], params: Params, values: Values
) -> AbstractAverage:
    """Write soft values at plain places: their means."""
    operand, indices, updates = operands
    dtype = typed(operand).dtype
    if not is_inexact(operand):
        dtype = jnp.result_type(
            *(number_of(x) for x in (operand, updates) if is_soft(x))
        )
    write = lax.scatter if primitive.name == "scatter" else lax.scatter_add
    mean = write(
        number_of(operand).astype(dtype),
        indices,
        number_of(updates).astype(dtype),
        params["dimension_numbers"],
        **_index_options(params),
    )
    return _average_like_operand(mean, operands, values)


def _set(x: Array, indices: Operand, updates: Array, params: Params) -> Array:
    dims = params["dimension_numbers"]
    index = jnp.asarray(indices)
    return lax.scatter(x, index, updates, dims, **_index_options(params))


def _index_options(params: Params) -> Params:
    names = ("indices_are_sorted", "unique_indices", "mode")
    return {name: params[name] for name in names}


def _set_integers(
    primitive: Primitive, operands: list[Operand], targets: "SoftPlaces"
) -> SoftIndex:
    """Set integers at soft places: the probability of each value, like a float."""
    operand, _, updates = operands
    sites = named(*operands)
    support = common_values([operand, updates])
    if support is None:
        raise TypeError(refusal(sites, primitive.name))

    def probabilities(x: Operand) -> Array:
        weights = weights_on(x, support, targets.dtype)
        return jnp.broadcast_to(weights, (len(support), *typed(x).shape))

    weights = jax.vmap(targets.set)(probabilities(operand), probabilities(updates))
    shape = typed(operand).shape
    table = support.reshape((-1,) + (1,) * len(shape))
    factor = fresh(sites, shape, tokens(*operands))
    return SoftIndex(Known(table), (weights,), (factor,), shape)


def _average_like_operand(
    mean: Array, operands: Sequence[Operand], values: Values
) -> AbstractAverage:
    dtype = typed(operands[0]).dtype
    if jnp.issubdtype(dtype, jnp.inexact):
        mean = mean.astype(dtype)
    return average_of(mean, operands, dtype, values)


def _mean(x: Operand, targets: "SoftPlaces") -> Array:
    number = number_of(x)
    return number.astype(jnp.result_type(number.dtype, targets.dtype))


class SoftPlaces:
    """Soft places to write at: every joint value of the indices, with its weight.

    Args:
        indices: Where to write, soft.
        shape: Shape of the array that is written to.
        params: Parameters of the primitive.

    Attributes:
        index: The joint values of the indices, `(K,) + batch + (n,)`.
        weights: Their weights, `(K,) + batch`.
        dtype: Type of the weights.
        are_distinct: Whether no two places coincide, whatever the soft indices are.
    """

    def __init__(self, indices: Operand, shape: Sequence[int], params: Params) -> None:
        self.dims = params["dimension_numbers"]
        self.mode = params["mode"]
        self.shape = tuple(shape)
        self.batch = typed(indices).shape[:-1]
        components = index_components(indices)
        tables, joint = joint_indices(components, self.batch)
        states = math.prod(joint.sizes())
        index = stack_components(tables, joint.sizes() + self.batch)
        index = index.reshape(states, *self.batch, len(components))
        self.index = jnp.asarray(index)
        self.weights = jnp.broadcast_to(joint_weights(joint), (states, *self.batch))
        self.dtype = self.weights.dtype
        self.are_distinct = self._are_distinct(components)

    def _are_distinct(self, components: Sequence[Operand]) -> bool:
        if math.prod(self.batch) <= 1:
            return True
        # Places are apart where they differ in an index that is known, or in an axis
        # that is one of the batch in the array too.
        arrays = [x for x in map(known_array, components) if x is not None]
        coordinates = [np.broadcast_to(x, self.batch) for x in arrays]
        positions = np.indices(self.batch)
        coordinates += [positions[a] for a in self._batching_axes]
        if not coordinates:
            return False
        rows = np.stack([x.reshape(-1) for x in coordinates], -1)
        return len(np.unique(rows, axis=0)) == len(rows)

    @property
    def _batching_axes(self) -> tuple[int, ...]:
        return self.dims.scatter_indices_batching_dims

    def add(self, operand: Array, updates: Array) -> Array:
        """Return an array with each update, times the weight of its place, added.

        Args:
            operand: The array.
            updates: What to add at each place.
        """
        window = self.dims.update_window_dims
        batch_axes = [a for a in range(updates.ndim) if a not in window]
        sizes = [1] * updates.ndim
        for axis, size in zip(batch_axes, self.batch, strict=True):
            sizes[axis] = size
        # The joint values are one more axis of the batch, the first.
        dims = self.dims._replace(
            update_window_dims=tuple(a + 1 for a in window),
            scatter_indices_batching_dims=tuple(a + 1 for a in self._batching_axes),
        )
        weighted_updates = self.weights.reshape(-1, *sizes) * updates
        return lax.scatter_add(
            operand, self.index, weighted_updates, dims, mode=self.mode
        )

    def set(self, operand: Array, updates: Array) -> Array:
        """Return an array with each place replaced, as far as its weight goes.

        Args:
            operand: The array.
            updates: What to write at each place.
        """
        zeros = jnp.zeros(self.shape, self.dtype)
        replaced_weight = self.add(zeros, jnp.ones(updates.shape, self.dtype))
        # What is replaced for sure may have been infinite.
        remaining = jnp.where(replaced_weight == 1, 0, operand) * (1 - replaced_weight)
        return remaining + self.add(zeros.astype(operand.dtype), updates)
