"""One factor in the place of several: values merged where equal, elements moved.

Counterpart: ``pyro_concrete.soft_index.algebra``.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from numpyro_concrete.soft_index.draws import Factor, Known, derived, fresh
from numpyro_concrete.soft_index.expectation import contract, mixed
from numpyro_concrete.soft_index.registry import Operand
from numpyro_concrete.soft_index.tables import (
    Table,
    apply_to_tables,
    broadcast_table,
    held,
    known_array,
    typed,
)
from numpyro_concrete.soft_index.value import SoftIndex, is_soft, named, tokens

# Joint supports of known values are merged where equal from this size on.
MERGE_FROM = 64
# Equal values are added by a product with a matrix up to this size of it.
LARGEST_MATRIX = 2**20


def flat_weights(soft: SoftIndex) -> Array:
    """Return the weights of the joint values, `(K_1 * ... * K_m,) + shape`."""
    n = len(soft.factors)
    total = jnp.ones((), jnp.result_type(*soft.weights))
    for i, w in enumerate(soft.weights):
        axes = (1,) * i + w.shape[:1] + (1,) * (n - i - 1)
        total = total * w.reshape(axes + w.shape[1:])
    return total.reshape((math.prod(total.shape[:n]), *total.shape[n:]))


def flat_table(soft: SoftIndex) -> Table:
    """Return the joint values along one axis."""
    n = len(soft.factors)
    sizes = tuple(w.shape[0] for w in soft.weights)
    table = broadcast_table(soft.table, sizes + soft.table.shape[n:])
    return table.reshape((math.prod(sizes), *table.shape[n:]))


def on_support(soft: SoftIndex, support: np.ndarray) -> Array:
    """Return the weight of each value of a support that holds all of its values."""
    if not soft.compact:
        return _probabilities(soft, support)
    values = soft.table.reshape(soft.table.shape[: len(soft.factors)])
    values = flat_table(SoftIndex(Known(values), soft.weights, soft.factors, ()))
    weights = flat_weights(soft)
    if np.array_equal(values, support):
        return weights
    if len(support) * len(values) > LARGEST_MATRIX:
        value_numbers = np.searchsorted(support, values)
        return jax.ops.segment_sum(weights, value_numbers, len(support))
    rows = (support[:, None] == values).astype(weights.dtype)
    return mixed(rows.T, weights)


def _probabilities(soft: SoftIndex, support: np.ndarray) -> Array:
    """Return the probability of each value, where values depend on the position."""
    dtype = jnp.result_type(*soft.weights)

    def probability(value: Array) -> Array:
        hit = (soft.table == value).astype(dtype)
        return contract(hit, soft.weights, soft.extent, dtype)

    return jax.vmap(probability)(jnp.asarray(support))


def merged(soft: SoftIndex, support: np.ndarray | None = None) -> SoftIndex:
    """Return a known value as one factor whose values differ from each other."""
    if support is None:
        support = np.unique(soft.table)
    weights = on_support(soft, support)
    table = support.reshape((-1,) + (1,) * len(soft.extent))
    factor = derived(named(soft), weights.shape[1:], soft.draws())
    return SoftIndex(Known(table), (weights,), (factor,), soft.extent)


def values_of(x: Operand) -> np.ndarray | None:
    """Return the few values that an operand can have, or None if they are not known."""
    if isinstance(x, SoftIndex):
        return _values_of_soft(x)
    constant = known_array(x)
    if constant is None:
        return None
    return _few_values(constant)


def _values_of_soft(soft: SoftIndex) -> np.ndarray | None:
    if soft.compact:
        return np.unique(soft.table)
    if soft.known:
        return _few_values(soft.table)
    if soft.possible is None:
        return None
    return soft.possible.array


def _few_values(table: np.ndarray) -> np.ndarray | None:
    values = np.unique(table)
    if len(values) > MERGE_FROM:
        return None
    return values


def pick(function: Callable, operands: Sequence[Operand]) -> SoftIndex:
    """Apply a function that only moves elements to operands of different draws.

    Each position of the result is one position of one operand, with its weights: one
    factor, which nothing else knows.
    """
    shapes = [typed(x).shape for x in operands]
    dtype = jnp.result_type(*(w for x in operands if is_soft(x) for w in x.weights))
    support = common_values(operands)
    if support is None:
        table, weights = _listed_values(function, operands, dtype)
    else:
        table = support
        weights = [weights_on(x, support, dtype) for x in operands]
    full = [
        jnp.broadcast_to(w, (len(w), *s)) for w, s in zip(weights, shapes, strict=True)
    ]
    moved = jax.vmap(function)(*full)
    shape = moved.shape[1:]
    if support is not None:
        table = support.reshape((-1,) + (1,) * len(shape))
    factor = _moved_draws(function, operands, shape)
    return SoftIndex(held(table), (moved,), (factor,), shape)


def _listed_values(
    function: Callable, operands: Sequence[Operand], dtype: DTypeLike
) -> tuple[Array, list[Array]]:
    """Values of each position, moved by a function, and the weights of each operand."""
    pairs = [_listed(x, dtype) for x in operands]
    size = max(len(weights) for _, weights in pairs)
    shapes = [typed(x).shape for x in operands]
    tables = [_padded(t, size, s) for (t, _), s in zip(pairs, shapes, strict=True)]
    weights = [_padded(w, size) for _, w in pairs]
    return jax.vmap(function)(*tables), weights


def _moved_draws(
    function: Callable, operands: Sequence[Operand], shape: Sequence[int]
) -> Factor:
    """The draws behind the elements that a function moves, position by position."""
    sources = _sources(function, operands)
    if sources is None:
        return fresh(named(*operands), shape, tokens(*operands))
    factors: list[Factor] = []
    moves: list[Callable] = []
    first = 0
    for operand in operands:
        size = math.prod(typed(operand).shape)
        is_own = (sources >= first) & (sources < first + size)
        numbers = np.where(is_own, sources - first, -1)
        first += size
        for factor in operand.draws() if is_soft(operand) else ():
            factors.append(factor)
            moves.append(partial(_at_sources, numbers, operand.extent))
    return derived(named(*operands), shape, factors, moves)


def _at_sources(
    sources: np.ndarray, extent: tuple[int, ...], ids: np.ndarray
) -> np.ndarray:
    """Ids of draws `(n,) + extent` at the positions that elements come from."""
    flat = np.broadcast_to(ids, (len(ids), *extent)).reshape(len(ids), -1)
    return np.where(sources < 0, -1, flat[:, sources])


def _sources(function: Callable, operands: Sequence[Operand]) -> np.ndarray | None:
    """Which element of the operands, one after the other, stands at each position.

    None if that is known at run time only.
    """
    numbers = []
    first = 0
    for operand in operands:
        shape = typed(operand).shape
        size = math.prod(shape)
        numbers.append(np.arange(first, first + size, dtype=np.int32).reshape(shape))
        first += size
    try:
        return apply_to_tables(function, *numbers)
    except jax.errors.JAXTypeError:
        return None


def common_values(operands: Sequence[Operand]) -> np.ndarray | None:
    """Return the values that operands can have together, or None if there are many."""
    supports = [values_of(x) for x in operands]
    constants = [support for support in supports if support is not None]
    if len(constants) < len(supports):
        return None
    return np.unique(np.concatenate(constants))


def weights_on(x: Operand, support: np.ndarray, dtype: DTypeLike) -> Array:
    """Return the weight of each value of a support, also of a known plain operand."""
    if is_soft(x):
        return on_support(x, support).astype(dtype)
    constant = np.asarray(known_array(x))
    values = support.reshape((-1,) + (1,) * constant.ndim)
    return jnp.asarray(values == constant, dtype)


def _listed(x: Operand, dtype: DTypeLike) -> tuple[Table, Array]:
    if is_soft(x):
        table = flat_table(x)
        full = table.shape[:1] + x.extent
        return jnp.broadcast_to(table, full), flat_weights(x).astype(dtype)
    x = jnp.asarray(x)[None]
    return x, jnp.ones(x.shape, dtype)


def _padded(x: Table, size: int, shape: Sequence[int] | None = None) -> Array:
    if shape is not None:
        x = jnp.broadcast_to(x, (len(x), *shape))
        # Any value does where the weight is zero; one of the support is never wrong.
        padding = jnp.broadcast_to(x[:1], (size - len(x), *x.shape[1:]))
        return jnp.concatenate([x, padding])
    widths = [(0, size - len(x), 0)] + [(0, 0, 0)] * (x.ndim - 1)
    return lax.pad(x, jnp.zeros((), x.dtype), widths)
