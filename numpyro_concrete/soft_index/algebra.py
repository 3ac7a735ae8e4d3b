"""How soft values combine: along common factors, by products, position by position.

A soft value (`SoftIndex`) is a *table* of its values, one axis for each of its factors
and then those of its shape, its *extent*; and, for each factor, the *weights* of the
factor's values at every position. A factor is an array of independent draws: its
*token* names the array, and its *ids* say which of the draws each position holds; -1
stands for none. Two operands that hold one draw combine along its axis, others along
axes of their own. Tables are arrays of NumPy as long as they are known while tracing,
and so are ids always.

Counterpart: ``pyro_concrete.soft_index``.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_concrete import internals
from numpyro_concrete.soft_index.draws import (
    Factor,
    Known,
    derived,
    require_apart,
    share_a_draw,
)
from numpyro_concrete.soft_index.expectation import contract
from numpyro_concrete.soft_index.merging import MERGE_FROM, flat_weights, merged
from numpyro_concrete.soft_index.registry import Operand
from numpyro_concrete.soft_index.tables import (
    LARGEST_KNOWN_ARRAY,
    Table,
    apply_to_tables,
    broadcast_table,
    held,
    known_array,
    without_repeats,
)
from numpyro_concrete.soft_index.value import (
    SoftIndex,
    SoftReal,
    Values,
    is_soft,
    named,
)

# Draws at several positions are listed jointly up to this number of values, those of
# seven binary draws. What follows is evaluated for each of them.
MOST_LISTED_VALUES = 128
# Joint supports never grow past this size.
MOST_JOINT_VALUES = 2**16


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
        """Take an operand in, and return the axis of each of its factors."""
        axes: list[int] = []
        count = len(self.factors)
        for factor, weights in zip(soft.factors, soft.weights, strict=True):
            # A factor of an earlier operand that is the same draw at every position.
            # Factors of one operand differ from each other.
            equal_factors = (
                i
                for i in range(count)
                if i not in axes
                and self.weights[i].shape[0] == weights.shape[0]
                and self.factors[i].same(factor, self.shape)
            )
            i = next(equal_factors, len(self.factors))
            if i == len(self.factors):
                self.factors.append(factor)
                self.weights.append(weights)
            axes.append(i)
        self._operands.append((soft, axes))
        return axes

    def sizes(self) -> tuple[int, ...]:
        """Return the number of values of each factor."""
        return tuple(w.shape[0] for w in self.weights)

    def overlaps(self) -> bool:
        """Tell whether two factors are the same draw at some positions only.

        So it is with z and z[0], at the first position. At the others they are
        independent, and so `add` has kept two axes.
        """
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
        """Raise a TypeError if the joint values are not known or too many to list.

        They are not known if two derived factors are made of a common draw.
        """
        if any(factor.is_derived for factor in self.factors):
            require_apart(self._draws(), self.shape)
        states = math.prod(self.sizes())
        if states > MOST_JOINT_VALUES:
            names = " and ".join(dict.fromkeys(f.site for f in self.factors))
            raise TypeError(
                f"an operation on the relaxed sites {names!r} has {states} joint "
                f"values, more than {MOST_JOINT_VALUES}. Leave one of them out with "
                "infer={'relax': False} or enumerate it with "
                "infer={'enumerate': 'parallel'}, or combine fewer of them in one "
                "integer"
            )

    def _draws(self) -> list[Factor]:
        """The factors, each at the positions where some operand depends on it."""
        matters = [np.zeros((1,) * len(self.shape), bool) for _ in self.factors]
        for soft, axes in self._operands:
            for i, factor in zip(axes, soft.draws(), strict=True):
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
    """Return an operand with leading axes of size one, up to this number of axes."""
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


def joint_weights(joint: Joint) -> Array:
    """Return the weights of the joint values of some draws, along one leading axis."""
    no_values = Known(np.zeros(()))
    draws = SoftIndex(
        no_values, tuple(joint.weights), tuple(joint.factors), joint.shape
    )
    return flat_weights(draws)


def listed_jointly(operands: Sequence[Operand]) -> list[Operand] | None:
    """Return operands as functions of all draws of all positions, each a factor.

    For z of two draws of three values, the table has shape (3, 3, 2) instead of (3, 1):
    the value at each position for both draws.

    None if there are more than a few joint values, or if some draws are made of others.
    Draws keep their identity, so that anything can be computed for each joint value.
    """
    softs = [x for x in operands if isinstance(x, SoftIndex)]
    factors = [factor for soft in softs for factor in soft.factors]
    if not _have_few_joint_values(softs) or _have_shared_draws(factors):
        return None
    return [_listed_jointly(x) if isinstance(x, SoftIndex) else x for x in operands]


def _have_few_joint_values(softs: Sequence[SoftIndex]) -> bool:
    """Whether all draws of all positions have few joint values."""
    sizes: dict[tuple[int, int], int] = {}
    for soft in softs:
        for factor, w in zip(soft.factors, soft.weights, strict=True):
            keys = ((factor.token, i) for i in factor.ids.array.flat)
            sizes |= dict.fromkeys(keys, len(w))
            if math.prod(sizes.values()) > MOST_LISTED_VALUES:
                return False
    return True


def _have_shared_draws(factors: Sequence[Factor]) -> bool:
    """Whether two of all the draws of all positions are made of one draw."""
    if not any(factor.is_derived for factor in factors):
        return False
    draws = {
        (factor.token, i): factor.at(np.asarray(i))
        for factor in factors
        for i in factor.ids.array.flat
    }
    pairs = itertools.combinations(draws.values(), 2)
    return any(share_a_draw(first, second, ()) for first, second in pairs)


def _listed_jointly(soft: SoftIndex) -> SoftIndex:
    scalar_shape = (1,) * len(soft.extent)
    factors: dict[tuple[int, int], Factor] = {}
    weights: list[Array] = []
    # For each factor, which of the new ones stands at each position.
    numbers_by_factor = []
    for factor, w in zip(soft.factors, soft.weights, strict=True):
        numbers = np.zeros(factor.ids.array.shape, int)
        full = jnp.broadcast_to(w, (len(w), *numbers.shape))
        for index in np.ndindex(numbers.shape):
            draw = factor.ids.array[index]
            key = (factor.token, draw)
            if key not in factors:
                factors[key] = factor.at(np.asarray(draw).reshape(scalar_shape))
                weights.append(full[(slice(None), *index)].reshape(-1, *scalar_shape))
            numbers[index] = [*factors].index(key)
        numbers_by_factor.append(numbers)
    sizes = tuple(map(len, weights))
    table = _table_of_joint(soft, numbers_by_factor, sizes)
    possible = _possible_values(soft, table)
    return SoftIndex(
        held(table), tuple(weights), tuple(factors.values()), soft.extent, possible
    )


def _possible_values(soft: SoftIndex, table: Table) -> Known | None:
    """Return what is known of the values in a table that comes from a soft value's."""
    if isinstance(table, np.ndarray):
        return None
    return soft.possible


def _table_of_joint(
    soft: SoftIndex, places: Sequence[np.ndarray], sizes: tuple[int, ...]
) -> Table:
    """The values for each joint value of the factors that stand at each position."""
    n = len(soft.factors)
    rank = len(soft.extent)
    factor_sizes = map(len, soft.weights)
    full_table = broadcast_table(soft.table, (*factor_sizes, *soft.table.shape[n:]))
    joint = np.indices(sizes, sparse=False).reshape(len(sizes), -1)
    shape = np.broadcast_shapes(*(p.shape for p in places), full_table.shape[n:])
    # Which value each factor has, for each joint value and position.
    index = [joint[np.broadcast_to(p, shape)] for p in places]
    index = [np.moveaxis(i, -1, 0) for i in index]
    grid = np.indices(shape)
    indices_in_positions = [
        _along(g, full_table.shape[n + axis]) for axis, g in enumerate(grid)
    ]
    table = full_table[(*index, *indices_in_positions)]
    if not rank and not sizes:
        return table
    return table.reshape(*sizes, *shape)


def _along(coordinates: np.ndarray, size: int) -> np.ndarray | int:
    """Return coordinates along an axis; zero along one of size one."""
    if size > 1:
        return coordinates
    return 0


def rebuilt(
    soft: SoftIndex,
    table: Table,
    weights: Sequence[Array],
    ids: Sequence[np.ndarray],
    extent: Sequence[int],
) -> SoftIndex:
    """Return a value of the same draws, in another shape."""
    factors = tuple(f.at(x) for f, x in zip(soft.factors, ids, strict=True))
    possible = _possible_values(soft, table)
    return SoftIndex(held(table), tuple(weights), factors, tuple(extent), possible)


def tables_of(
    operands: Sequence[Operand], shape: Sequence[int]
) -> tuple[list[Table], Joint]:
    """Return the joint values of operands, and their draws.

    Args:
        operands: Soft and plain operands.
        shape: Shape with which they broadcast.
    """
    joint = Joint(shape)
    rank = len(joint.shape)
    softs = [ranked(x, rank) if is_soft(x) else x for x in operands]
    axes_by_operand = [joint.add(x) if is_soft(x) else [] for x in softs]
    if joint.overlaps():
        # With a factor for each draw, no two factors overlap.
        apart = listed_jointly(softs)
        if apart is not None:
            return tables_of(apart, shape)
    joint.check()
    tables = []
    for x, axes in zip(softs, axes_by_operand, strict=True):
        table = x.table if is_soft(x) else _plain_table(x, rank)
        tables.append(joint.spread(table, axes))
    return tables, joint


def _plain_table(operand: Operand, rank: int) -> Table:
    """A plain operand as a table, known if it is, with as many axes as others."""
    constant = known_array(operand)
    if constant is not None:
        return _with_leading_axes(without_repeats(constant), rank)
    return _with_leading_axes(jnp.asarray(operand), rank)


def _with_leading_axes(table: Table, rank: int) -> Table:
    return table.reshape((1,) * (rank - table.ndim) + table.shape)


def enumerate_operands(
    function: Callable, operands: Sequence[Operand], shape: Sequence[int]
) -> tuple[Table, Joint]:
    """Apply an elementwise function to every joint value of its operands."""
    tables, joint = tables_of(operands, shape)
    full = np.broadcast_shapes(*(t.shape for t in tables))
    tables = [broadcast_table(t, full) for t in tables]
    return apply_to_tables(function, *tables), joint


def placed(joint: Joint, shape: Sequence[int], place: Callable) -> Joint:
    """Return the draws of a joint value on the axes of a result.

    Args:
        joint: The draws.
        shape: Shape of the result.
        place: Function of an array and a number of leading axes, which moves the axes
            after these to those of the result.
    """
    result = Joint(shape)
    result.weights = [place(w, 1) for w in joint.weights]
    result.factors = [f.at(place(f.ids.array, 0)) for f in joint.factors]
    return result


def finish(table: Table, joint: Joint, shape: Sequence[int]) -> Operand:
    """Return the result: an average if it is made of floats, else soft.

    Args:
        table: Values of the result, with an axis for every factor.
        joint: The factors.
        shape: Shape of the result.
    """
    factors = joint.factors
    weights = joint.weights
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
    factors = list(factors)
    weights = list(weights)
    for i, j in itertools.combinations(range(len(factors)), 2):
        if factors[i].token != factors[j].token:
            continue
        ids = [np.broadcast_to(factors[k].ids.array, shape) for k in (i, j)]
        is_same_draw = ids[0] == ids[1]
        if not is_same_draw.any():
            continue
        n = len(factors)
        order = [i, j, *(k for k in range(n) if k not in (i, j))]
        table = broadcast_table(table, (*map(len, weights), *table.shape[n:]))
        table = table.transpose(*order, *range(n, table.ndim))
        table = table.reshape(math.prod(table.shape[:2]), *table.shape[2:])
        joint = _weights_of_both(weights[i], weights[j], is_same_draw)
        site = named(SoftIndex(held(table), (), (factors[i], factors[j]), ()))
        factor = derived(site, shape, [factors[i], factors[j]])
        factors = [factor, *(factors[k] for k in order[2:])]
        require_apart(_draws_behind(table, factors), shape)
        weights = [joint, *(weights[k] for k in order[2:])]
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
    weights = jnp.where(same, first[:, None] * equal.astype(first.dtype), apart)
    return weights.reshape(len(first) * len(second), *same.shape)


def averaged(
    table: Table,
    factors: Sequence[Factor],
    weights: Sequence[Array],
    shape: Sequence[int],
    mean: Array | None = None,
) -> Operand:
    """Return the average of floats that are known for every value of the draws.

    Args:
        table: The values, with an axis for every factor.
        factors: The draws.
        weights: Their weights.
        shape: Shape of the result.
        mean: The average, if it is known.
    """
    is_known = isinstance(table, np.ndarray)
    if is_known or not factors:
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
) -> Operand:
    """Return a soft value without the factors on which it does not depend."""
    factors = list(factors)
    weights = list(weights)
    if isinstance(table, np.ndarray):
        for i in reversed(range(len(factors))):
            if (table == table.take([0], i)).all():
                table = np.asarray(table.take(0, i))
                del factors[i], weights[i]
    if not factors:
        return constant(table, shape)
    soft = SoftIndex(held(table), tuple(weights), tuple(factors), tuple(shape))
    # Merged, equal values become one, but joint values with other draws are lost. Where
    # each factor is one draw at all positions, they are worth keeping a little longer.
    # NaN, which is not equal to itself, cannot be merged.
    largest = MOST_LISTED_VALUES if is_one_draw(soft) else MERGE_FROM
    crowded = math.prod(table.shape[: len(factors)]) > largest
    if crowded and len(factors) > 1 and soft.compact and (table == table).all():
        return merged(soft)
    return soft


def constant(table: Table, shape: Sequence[int]) -> Operand:
    """Return a value that is no draw as a plain array.

    If that is large, and its table known and smaller, a soft value without factors
    stands for it.
    """
    if not isinstance(table, np.ndarray):
        return jnp.broadcast_to(table, tuple(shape))
    if math.prod(shape) > max(LARGEST_KNOWN_ARRAY, table.size):
        return SoftIndex(Known(table), (), (), tuple(shape))
    with internals.set_current_trace(internals.eval_trace):
        return jnp.asarray(np.broadcast_to(table, tuple(shape)))
