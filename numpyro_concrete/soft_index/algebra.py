"""How soft values combine: along common factors, by products, position by position.

Counterpart: ``pyro_concrete.soft_index``.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from numpyro_concrete.soft_index import internals
from numpyro_concrete.soft_index.draws import (
    Factor,
    Known,
    derived,
    fresh,
    require_apart,
    share_a_draw,
)
from numpyro_concrete.soft_index.expectation import contract, mixed
from numpyro_concrete.soft_index.value import (
    SoftIndex,
    SoftReal,
    Values,
    is_soft,
    named,
    tokens,
)

# Known arrays stay known up to this size.
LIMIT = 2**16
# Joint supports of known values are merged where equal from this size on.
MERGED = 64
# Equal values are added by a product with a matrix up to this size of it.
LARGEST_MATRIX = 2**20
# Draws at several positions are listed jointly up to this number of values.
LISTED = 128
# Joint supports never grow past this size.
STATES = 2**16

Table = Any  # of NumPy if it is known while tracing, else of JAX


def words(text: str) -> frozenset[str]:
    """Return the words of a text, such as names of primitives."""
    return frozenset(text.split())


def typed(x: Any) -> internals.ShapedArray:
    """Return the shape and type of an operand, soft or plain."""
    return x.aval() if is_soft(x) else internals.typeof(x)


def concrete(x: Any) -> np.ndarray | None:
    """Return a plain operand that is known while tracing, and not large, or None."""
    if is_soft(x) or isinstance(x, internals.Tracer):
        return None
    aval = internals.typeof(x)
    if aval.size > LIMIT or jnp.issubdtype(aval.dtype, jax.dtypes.extended):
        return None
    return np.asarray(x, aval.dtype)


def uniform(x: np.ndarray) -> np.ndarray:
    """Return a known array with axes of size one where it is the same all along."""
    for axis in range(x.ndim if x.size > 1 else 0):
        first = x.take([0], axis)
        if (x == first).all():
            x = first
    return x


def run(function: Callable, *tables: Table) -> Any:
    """Apply a function of JAX; what is known on the way in is known on the way out."""
    if not all(isinstance(x, np.ndarray) for x in tables):
        return function(*tables)
    with internals.set_current_trace(internals.eval_trace):
        return jax.tree.map(np.asarray, function(*tables))


# --- operands of one operation --------------------------------------------------------


class Joint:
    """The factors of several operands: each draw once.

    Args:
        shape: Shape with which the operands broadcast.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.factors: list[Factor] = []
        self.weights: list[Array] = []
        self._operands: list[tuple[SoftIndex, list[int]]] = []

    def add(self, soft: SoftIndex) -> list[int]:
        """Take an operand in, and return where its factors stand."""
        where: list[int] = []
        before = len(self.factors)
        for factor, weights in zip(soft.factors, soft.weights, strict=True):
            same = (
                i
                for i in range(before)
                if i not in where
                and self.weights[i].shape[0] == weights.shape[0]
                and self.factors[i].same(factor, self.shape)
            )
            i = next(same, len(self.factors))
            if i == len(self.factors):
                self.factors.append(factor)
                self.weights.append(weights)
            where.append(i)
        self._operands.append((soft, where))
        return where

    def sizes(self) -> tuple[int, ...]:
        """Return the number of values of each factor."""
        return tuple(w.shape[0] for w in self.weights)

    def overlaps(self) -> bool:
        """Tell whether two factors are the same draw at some positions only."""
        tokens = [f.token for f in self.factors]
        if len(set(tokens)) == len(tokens):
            return False
        pairs = itertools.combinations(self.factors, 2)
        return any(
            (np.broadcast_to(x.ids.array, self.shape) == y.ids.array).any()
            for x, y in pairs
            if x.token == y.token
        )

    def check(self) -> None:
        """Raise a TypeError if the joint values are not known or too many to list."""
        if any(factor.is_derived for factor in self.factors):
            require_apart(self._draws(), self.shape)
        states = math.prod(self.sizes())
        if states > STATES:
            names = " and ".join(dict.fromkeys(f.site for f in self.factors))
            raise TypeError(
                f"an operation on the relaxed sites {names!r} has {states} joint "
                f"values, more than {STATES}. Leave one of them out with "
                "infer={'relax': False} or enumerate it with "
                "infer={'enumerate': 'parallel'}, or combine fewer of them in one "
                "integer"
            )

    def _draws(self) -> list[Factor]:
        """The factors, each at the positions where some operand depends on it."""
        matters = [np.zeros((1,) * len(self.shape), bool) for _ in self.factors]
        for soft, where in self._operands:
            for i, factor in zip(where, soft.draws(), strict=True):
                matters[i] = np.asarray(matters[i] | (factor.ids.array >= 0))
        return [f.where(m) for f, m in zip(self.factors, matters, strict=True)]

    def spread(self, table: Table, where: Sequence[int]) -> Table:
        """Return the values of an operand with an axis for every factor."""
        n = len(where)
        order = sorted(range(n), key=lambda i: where[i])
        if order != list(range(n)):
            table = table.transpose(*order, *range(n, table.ndim))
        axes = [1] * len(self.factors)
        for size, i in zip(table.shape[:n], sorted(where), strict=True):
            axes[i] = size
        return table.reshape(*axes, *table.shape[n:])


def ranked(soft: SoftIndex, rank: int) -> SoftIndex:
    """Return a scalar operand with as many axes as the others have."""
    missing = rank - len(soft.extent)
    if not missing:
        return soft
    extent = (1,) * missing + soft.extent

    def insert(x: Table, axes: int) -> Table:
        return x.reshape(x.shape[:axes] + (1,) * missing + x.shape[axes:])

    return rebuilt(
        soft,
        insert(soft.table, len(soft.factors)),
        [insert(w, 1) for w in soft.weights],
        [insert(f.ids.array, 0) for f in soft.factors],
        extent,
    )


def is_one_draw(soft: SoftIndex) -> bool:
    """Tell whether each factor is one draw at all positions."""
    return all(w.size == len(w) for w in soft.weights)


def listed_jointly(operands: Sequence[Any]) -> list[Any] | None:
    """Return operands as functions of all draws of all positions, each a factor.

    None if there are more than a few joint values. Draws keep their identity, so that
    anything can be computed for each joint value.
    """
    softs = [x for x in operands if isinstance(x, SoftIndex)]
    sizes: dict[tuple[int, int], int] = {}
    derived_draws: dict[tuple[int, int], Factor] = {}
    for x in softs:
        for f, w in zip(x.factors, x.weights, strict=True):
            keys = [(f.token, i) for i in f.ids.array.flat]
            sizes |= dict.fromkeys(keys, len(w))
            if math.prod(sizes.values()) > LISTED:
                return None
            derived_draws |= {key: f.at(np.asarray(key[1])) for key in keys}
    if any(f.is_derived for f in derived_draws.values()):
        pairs = itertools.combinations(derived_draws.values(), 2)
        if any(share_a_draw(*pair, ()) for pair in pairs):
            return None
    return [_listed_jointly(x) if isinstance(x, SoftIndex) else x for x in operands]


def _listed_jointly(soft: SoftIndex) -> SoftIndex:
    rank = len(soft.extent)
    ones = (1,) * rank
    factors: dict[tuple[int, int], Factor] = {}
    weights: list[Array] = []
    places = []  # for each factor, which of the new ones stands at each position
    for f, w in zip(soft.factors, soft.weights, strict=True):
        at = np.zeros(f.ids.array.shape, int)
        full = jnp.broadcast_to(w, (len(w), *f.ids.array.shape))
        for index in np.ndindex(at.shape):
            draw = f.ids.array[index]
            if (f.token, draw) not in factors:
                factors[f.token, draw] = f.at(np.asarray(draw).reshape(ones))
                weights.append(full[(slice(None), *index)].reshape(-1, *ones))
            at[index] = [*factors].index((f.token, draw))
        places.append(at)
    sizes = tuple(map(len, weights))
    table = _table_of_joint(soft, places, sizes)
    possible = None if isinstance(table, np.ndarray) else soft.possible
    return SoftIndex(
        held(table), tuple(weights), tuple(factors.values()), soft.extent, possible
    )


def _table_of_joint(
    soft: SoftIndex, places: Sequence[np.ndarray], sizes: tuple[int, ...]
) -> Table:
    """The values for each joint value of the factors that stand at each position."""
    n, rank = len(soft.factors), len(soft.extent)
    own = _broadcast(soft.table, (*map(len, soft.weights), *soft.table.shape[n:]))
    joint = np.indices(sizes, sparse=False).reshape(len(sizes), -1)
    shape = np.broadcast_shapes(*(p.shape for p in places), own.shape[n:])
    # Which value each factor has, for each joint value and position.
    index = [joint[np.broadcast_to(p, shape)] for p in places]
    index = [np.moveaxis(i, -1, 0) for i in index]
    grid = np.indices(shape)
    where = [g if own.shape[n + a] > 1 else 0 for a, g in enumerate(grid)]
    table = own[(*index, *where)]
    return table.reshape(*sizes, *shape) if rank or sizes else table


def rebuilt(
    soft: SoftIndex,
    table: Table,
    weights: Sequence[Array],
    ids: Sequence[np.ndarray],
    extent: Sequence[int],
) -> SoftIndex:
    """Return a value of the same draws, in another shape."""
    factors = tuple(f.at(x) for f, x in zip(soft.factors, ids, strict=True))
    possible = None if isinstance(table, np.ndarray) else soft.possible
    return SoftIndex(held(table), tuple(weights), factors, tuple(extent), possible)


def held(table: Table) -> Known | Array:
    """Return values as a soft value holds them."""
    return Known(table) if isinstance(table, np.ndarray) else table


def tables_of(
    operands: Sequence[Any], shape: Sequence[int]
) -> tuple[list[Table], Joint]:
    """Return the joint values of operands, and their draws.

    Args:
        operands: Soft and plain operands.
        shape: Shape with which they broadcast.
    """
    joint = Joint(shape)
    rank = len(joint.shape)
    softs = [ranked(x, rank) if is_soft(x) else x for x in operands]
    where = [joint.add(x) if is_soft(x) else [] for x in softs]
    if joint.overlaps():
        apart = listed_jointly(softs)
        if apart is not None:
            return tables_of(apart, shape)
    joint.check()
    tables = []
    for x, axes in zip(softs, where, strict=True):
        if is_soft(x):
            table = x.table
        else:
            known = concrete(x)
            table = jnp.asarray(x) if known is None else uniform(known)
            table = table.reshape((1,) * (rank - table.ndim) + table.shape)
        tables.append(joint.spread(table, axes))
    return tables, joint


def enumerate_operands(
    function: Callable, operands: Sequence[Any], shape: Sequence[int]
) -> tuple[Table, Joint]:
    """Apply an elementwise function to every joint value of its operands."""
    tables, joint = tables_of(operands, shape)
    full = np.broadcast_shapes(*(t.shape for t in tables))
    tables = [_broadcast(t, full) for t in tables]
    return run(function, *tables), joint


def placed(joint: Joint, shape: Sequence[int], place: Callable) -> Joint:
    """Return the draws of a joint value on the axes of a result.

    Args:
        joint: The draws.
        shape: Shape of the result.
        place: Reshapes an array behind its leading axes.
    """
    result = Joint(shape)
    result.weights = [place(w, 1) for w in joint.weights]
    result.factors = [f.at(place(f.ids.array, 0)) for f in joint.factors]
    return result


def _broadcast(table: Table, shape: Sequence[int]) -> Table:
    known = isinstance(table, np.ndarray)
    return (np if known else jnp).broadcast_to(table, tuple(shape))


def finish(table: Table, joint: Joint, shape: Sequence[int]) -> Any:
    """Return the result: an average if it is made of floats, else soft.

    Args:
        table: Values of the result, with an axis for every factor.
        joint: The factors.
        shape: Shape of the result.
    """
    factors, weights = joint.factors, joint.weights
    if len(factors) > 1:
        table, factors, weights = untangled(table, factors, weights, shape)
    if jnp.issubdtype(table.dtype, jnp.inexact):
        return averaged(table, factors, weights, shape)
    return simplified(table, factors, weights, shape)


def untangled(
    table: Table,
    factors: Sequence[Factor],
    weights: Sequence[Array],
    shape: Sequence[int],
) -> tuple[Table, list[Factor], list[Array]]:
    """Make one factor of two that are the same draw at some positions only.

    Such are the factors of `z[:, None] == z`, on its diagonal.
    """
    factors, weights = list(factors), list(weights)
    for i, j in itertools.combinations(range(len(factors)), 2):
        if factors[i].token != factors[j].token:
            continue
        ids = [np.broadcast_to(factors[k].ids.array, shape) for k in (i, j)]
        same = ids[0] == ids[1]
        if not same.any():
            continue
        n = len(factors)
        order = [i, j, *(k for k in range(n) if k not in (i, j))]
        table = _broadcast(table, (*map(len, weights), *table.shape[n:]))
        table = table.transpose(*order, *range(n, table.ndim))
        table = table.reshape(math.prod(table.shape[:2]), *table.shape[2:])
        both = _weights_of_both(weights[i], weights[j], same)
        site = named(SoftIndex(held(table), (), (factors[i], factors[j]), ()))
        factor = derived(site, shape, [factors[i], factors[j]])
        factors = [factor, *(factors[k] for k in order[2:])]
        require_apart(_draws_behind(table, factors), shape)
        weights = [both, *(weights[k] for k in order[2:])]
        return untangled(table, factors, weights, shape)
    return table, factors, weights


def _draws_behind(table: Table, factors: Sequence[Factor]) -> list[Factor]:
    extent = table.shape[len(factors) :]
    return SoftIndex(held(table), (), tuple(factors), extent).draws()


def _weights_of_both(first: Array, second: Array, same: np.ndarray) -> Array:
    """Weights of the joint values of two draws, which are one at some positions."""
    apart = first[:, None] * second[None]
    equal = np.eye(len(first), len(second)).reshape(
        len(first), len(second), *(1,) * same.ndim
    )
    both = jnp.where(same, first[:, None] * equal.astype(first.dtype), apart)
    return both.reshape(len(first) * len(second), *same.shape)


def averaged(
    table: Table,
    factors: Sequence[Factor],
    weights: Sequence[Array],
    shape: Sequence[int],
    mean: Array | None = None,
) -> Any:
    """Return the average of floats that are known for every value of the draws.

    Args:
        table: The values, with an axis for every factor.
        factors: The draws.
        weights: Their weights.
        shape: Shape of the result.
        mean: The average, if it is known.
    """
    known = isinstance(table, np.ndarray)
    if known or not factors:
        exact = simplified(table, factors, weights, shape)
        if not isinstance(exact, SoftIndex) or exact.certain:
            return exact
    if mean is None:
        mean = contract(table, weights, shape, table.dtype)
    sites = " and ".join(dict.fromkeys(f.site for f in factors))
    draws = frozenset().union(*(f.tokens for f in factors))
    values = Values(lambda: simplified(table, factors, weights, shape))
    soft = SoftIndex(held(table), tuple(weights), tuple(factors), tuple(shape))
    values.operands = (soft,)
    return SoftReal(mean, table.dtype, sites, draws, values)


def simplified(
    table: Table,
    factors: Sequence[Factor],
    weights: Sequence[Array],
    shape: Sequence[int],
) -> Any:
    """Return a soft value without the factors on which it does not depend."""
    factors, weights = list(factors), list(weights)
    if isinstance(table, np.ndarray):
        for i in reversed(range(len(factors))):
            if (table == table.take([0], i)).all():
                table = np.asarray(table.take(0, i))
                del factors[i], weights[i]
    if not factors:
        return constant(table, shape)
    soft = SoftIndex(held(table), tuple(weights), tuple(factors), tuple(shape))
    # Draws that stand at all positions keep their identity a little longer.
    largest = LISTED if is_one_draw(soft) else MERGED
    crowded = math.prod(table.shape[: len(factors)]) > largest
    if crowded and len(factors) > 1 and soft.compact and (table == table).all():
        return merged(soft)
    return soft


def constant(table: Table, shape: Sequence[int]) -> Any:
    """Return a value that is no draw: plain, or in short if it is large and known."""
    if not isinstance(table, np.ndarray):
        return jnp.broadcast_to(table, tuple(shape))
    if math.prod(shape) > max(LIMIT, table.size):
        return SoftIndex(Known(table), (), (), tuple(shape))
    with internals.set_current_trace(internals.eval_trace):
        return jnp.asarray(np.broadcast_to(table, tuple(shape)))


# --- one factor in the place of several -----------------------------------------------


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
    table = _broadcast(soft.table, sizes + soft.table.shape[n:])
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
        places = np.searchsorted(support, values)
        return jax.ops.segment_sum(weights, places, len(support))
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


def values_of(x: Any) -> np.ndarray | None:
    """Return the few values that an operand can have, or None if they are not known."""
    if isinstance(x, SoftIndex) and not x.known:
        return None if x.possible is None else x.possible.array
    if is_soft(x):
        values = np.unique(x.table)
        return values if x.compact or len(values) <= MERGED else None
    known = concrete(x)
    if known is None:
        return None
    values = np.unique(known)
    return values if len(values) <= MERGED else None


def pick(function: Callable, operands: Sequence[Any]) -> SoftIndex:
    """Apply a function that only moves elements to operands of different draws.

    Each position of the result is one position of one operand, with its weights: one
    factor, which nothing else knows.
    """
    shapes = [typed(x).shape for x in operands]
    dtype = jnp.result_type(*(w for x in operands if is_soft(x) for w in x.weights))
    support = common_values(operands)
    if support is None:
        pairs = [_listed(x, dtype) for x in operands]
        size = max(len(weights) for _, weights in pairs)
        tables = [_padded(t, size, s) for (t, _), s in zip(pairs, shapes, strict=True)]
        table = jax.vmap(function)(*tables)
        weights = [_padded(w, size) for _, w in pairs]
    else:
        table = None
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


def _moved_draws(
    function: Callable, operands: Sequence[Any], shape: Sequence[int]
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
        inside = (sources >= first) & (sources < first + size)
        numbers = np.where(inside, sources - first, -1)
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


def _sources(function: Callable, operands: Sequence[Any]) -> np.ndarray | None:
    """Which element of the operands, one after the other, stands at each position.

    None if that is known at run time only.
    """
    numbers, first = [], 0
    for operand in operands:
        shape = typed(operand).shape
        size = math.prod(shape)
        numbers.append(np.arange(first, first + size, dtype=np.int32).reshape(shape))
        first += size
    try:
        return run(function, *numbers)
    except jax.errors.JAXTypeError:
        return None


def common_values(operands: Sequence[Any]) -> np.ndarray | None:
    """Return the values that operands can have together, or None if there are many."""
    supports = [values_of(x) for x in operands]
    known = [s for s in supports if s is not None]
    return np.unique(np.concatenate(known)) if len(known) == len(supports) else None


def weights_on(x: Any, support: np.ndarray, dtype: Any) -> Array:
    """Return the weight of each value of a support, also of a known plain operand."""
    if is_soft(x):
        return on_support(x, support).astype(dtype)
    known = np.asarray(concrete(x))
    return jnp.asarray(support.reshape((-1,) + (1,) * known.ndim) == known, dtype)


def _listed(x: Any, dtype: Any) -> tuple[Table, Array]:
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
        more = jnp.broadcast_to(x[:1], (size - len(x), *x.shape[1:]))
        return jnp.concatenate([x, more])
    widths = [(0, size - len(x), 0)] + [(0, 0, 0)] * (x.ndim - 1)
    return lax.pad(x, jnp.zeros((), x.dtype), widths)
