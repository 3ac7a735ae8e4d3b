"""Draws and what is made of them: which values are the same, and which share a draw.

A soft value holds one factor for each independent draw behind it. Where the joint
values of several draws become one factor, that factor remembers the draws, so that
values which share one are never combined as if they were independent.

Counterpart: ``pyro_concrete.soft_index.elements``.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

# More comparisons of ids than this take too long: draws of one array then count as
# shared if they are at whatever positions.
_MOST_COMPARISONS = 2**24
# Larger tables of origins are not kept: only the arrays of the draws are.
_LARGEST_ORIGIN = 2**20

_tokens = itertools.count()


@jax.tree_util.register_static
class Known:
    """A NumPy array that is known while JAX traces: hashable, and no leaf of a tree."""

    __slots__ = ("_hash", "array")

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self._hash: int | None = None

    def __hash__(self) -> int:
        if self._hash is None:
            array = self.array
            self._hash = hash((array.shape, array.dtype.str, array.tobytes()))
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Known):
            return False
        if self.array is other.array:
            return True
        same_type = self.array.dtype == other.array.dtype
        return same_type and np.array_equal(self.array, other.array, equal_nan=True)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Draws of one array, of which the draws of a derived factor are made.

    Shapes:
        ids: `(n, P)`, with n the most draws that one draw is made of and P the number
            of draws of the derived factor.

    Args:
        token: Token of the array of draws.
        size: Number of draws in it.
        ids: For each id of the derived factor, which of these draws it is made of; -1
            stands for none.
    """

    token: int
    size: int
    ids: Known


@dataclasses.dataclass(frozen=True)
class LoopElement:
    """What stands for the draws of one step in the body of a loop.

    The body is traced once, for all steps. So the draws that it reads from a sequence,
    or that it carries, have a token of their own inside of the loop.

    Args:
        token: The token inside of the loop.
        sequence: The draws of all steps, along the first axis of its ids; None for
            values that the loop carries from step to step.
        recurring: Tokens inside of the loop whose draws may be these in other steps.
    """

    token: int
    sequence: "Factor | None" = None
    recurring: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Factor:
    """Which draw stands at each position: the identity of one array of probabilities.

    A factor without origins, ancestors and parents is of an array of independent draws.
    Others are derived: made of draws that other factors hold too.

    For z of three draws the ids are [0, 1, 2], and for z[0] they are 0, of the same
    token. `z + z[0]` has both factors, which at the first position are one draw. If the
    joint values of z.sum() are merged, they are one factor with a token of its own, id
    0, and an origin: the token of z with the ids [[0], [1], [2]].

    Args:
        site: Name of the sample site, for errors; several are joined by " and ".
        token: Names the array of draws that the factor comes from.
        size: Number of draws in that array; all ids are smaller.
        ids: Which of those draws, for each position; its shape broadcasts to the value.
            Where a value does not depend on them, -1 may stand.
        origins: The draws that each one is made of, as a sum is of its terms.
        ancestors: Tokens of further arrays of draws that these may be made of, at
            positions that are not known.
        parents: Tokens of arrays of which a loop takes another element in each step.
            Unlike ancestors, they do not count against the draws that the loop carries
            from other steps: these are independent of the step's element, and depend
            only on the array as a whole.
        elements: The draws inside of a loop that it is or is made of.
    """

    site: str
    token: int
    size: int
    ids: Known
    origins: tuple[Origin, ...] = ()
    ancestors: frozenset[int] = frozenset()
    parents: frozenset[int] = frozenset()
    elements: frozenset[LoopElement] = frozenset()

    @property
    def is_derived(self) -> bool:
        """Whether other factors may hold draws that these are made of."""
        return bool(self.origins or self.ancestors or self.parents)

    @property
    def roots(self) -> frozenset[int]:
        """Tokens of the draws that these are made of or, if there are none, their own.

        Parents are left out.
        """
        if self.origins:
            return self.ancestors.union(origin.token for origin in self.origins)
        return self.ancestors | {self.token}

    @property
    def tokens(self) -> frozenset[int]:
        """Tokens of all draws that these depend on, and their own."""
        return self.roots | self.parents | {self.token}

    def at(self, ids: np.ndarray) -> "Factor":
        """Return the same draws at other positions."""
        return dataclasses.replace(self, ids=Known(ids))

    def where(self, matters: np.ndarray) -> "Factor":
        """Return the same draws, left out at positions where they do not matter."""
        return self.at(np.where(matters, self.ids.array, -1))

    def same(self, other: "Factor", shape: Sequence[int]) -> bool:
        """Tell whether two factors are the same draw at every position."""
        if self.token != other.token:
            return False
        if self.ids == other.ids:
            return True
        ids = np.broadcast_to(self.ids.array, shape)
        return np.array_equal(ids, np.broadcast_to(other.ids.array, shape))

    def draws(self) -> list[Origin]:
        """Return the independent draws at each position, with ids `(n,) + ids.shape`.

        Those of a factor without origins are its own.

        Those of ancestors and parents, of which the positions are not known, are left
        out.
        """
        ids = self.ids.array
        if not self.origins:
            return [Origin(self.token, self.size, Known(ids[None]))]
        return [
            dataclasses.replace(
                origin, ids=Known(np.where(ids < 0, -1, origin.ids.array[:, ids]))
            )
            for origin in self.origins
        ]


class SharedDrawsError(TypeError):
    """Values that share a draw meet where their joint values are no longer known."""


def shared_draws_message(site: str) -> str:
    """Return the message for operands that share draws of a site.

    Args:
        site: Names of the relaxed sites.
    """
    return (
        f"site {site!r} is relaxed: two operands depend, or may depend, on the same "
        "draw of it, and their joint values are not known. Combine them in fewer "
        "steps, use indices that are known while tracing, take the mean of one of them "
        "with numpyro_concrete.soft_index.plain(value), or leave the site out with "
        "infer={'relax': False}"
    )


def new_token() -> int:
    """Return a token that no draw has.

    Later ones are greater, by which a loop tells draws made inside of it from others.
    """
    return next(_tokens)


def positions(shape: tuple[int, ...]) -> Known:
    """Return the number of each position of an array."""
    return Known(np.arange(math.prod(shape)).reshape(shape))


def fresh(
    site: str, shape: Sequence[int], ancestors: frozenset[int] = frozenset()
) -> Factor:
    """Return the factor of new draws, one at each position.

    Args:
        site: Names of the sites.
        shape: Shape of the draws.
        ancestors: Tokens of the draws that they may be made of.
    """
    return Factor(
        site=site,
        token=new_token(),
        size=math.prod(shape),
        ids=positions(tuple(shape)),
        ancestors=ancestors,
    )


def derived(
    site: str,
    shape: Sequence[int],
    factors: Sequence[Factor],
    moves: Sequence[Callable[[np.ndarray], np.ndarray | None]] | None = None,
) -> Factor:
    """Return the factor of draws that are made of others.

    Args:
        site: Names of the sites.
        shape: Shape of the new draws.
        factors: The draws that they are made of.
        moves: For each factor a function from ids `(n,) + positions` of its draws to
            those at each new position, `(m,) + shape`, where -1 stands for none; it
            returns None if they are not known. Without functions positions broadcast.
    """
    shape = tuple(shape)
    sources: dict[int, list[Origin]] = {}
    ancestors: set[int] = set()
    for factor, move in zip(factors, moves or [_unmoved] * len(factors), strict=True):
        ancestors |= factor.ancestors
        for draws in factor.draws():
            ids = move(draws.ids.array)
            if ids is None or len(ids) * math.prod(shape) > _LARGEST_ORIGIN:
                ancestors.add(draws.token)
                continue
            ids = np.broadcast_to(ids, (len(ids), *shape)).reshape(len(ids), -1)
            moved = dataclasses.replace(draws, ids=Known(ids))
            sources.setdefault(draws.token, []).append(moved)
    return Factor(
        site=site,
        token=new_token(),
        size=math.prod(shape),
        ids=positions(shape),
        origins=tuple(
            _together(origins)
            for token, origins in sources.items()
            if token not in ancestors
        ),
        ancestors=frozenset(ancestors),
        parents=frozenset().union(*(factor.parents for factor in factors)),
        elements=frozenset().union(*(factor.elements for factor in factors)),
    )


def _unmoved(ids: np.ndarray) -> np.ndarray:
    return ids


def _together(origins: Sequence[Origin]) -> Origin:
    """Draws of one array that one factor is made of in several ways."""
    ids = np.concatenate([origin.ids.array for origin in origins])
    return dataclasses.replace(origins[0], ids=Known(_distinct_in_columns(ids)))


def _distinct_in_columns(ids: np.ndarray) -> np.ndarray:
    """Ids `(n, P)` in which no column has an id twice, in as few rows as that takes."""
    if len(ids) == 1:
        return ids
    ids = np.sort(ids, axis=0)
    repeats = ids[1:] == ids[:-1]
    ids[1:][repeats] = -1
    rows = ids[(ids >= 0).any(axis=1)]
    return rows if len(rows) else ids[:1]


# --- draws in common ------------------------------------------------------------------


def share_a_draw(first: Factor, second: Factor, shape: Sequence[int]) -> bool:
    """Tell whether two factors are made of one draw at some position.

    Positions where they are the same draw do not count.

    Args:
        first: A factor.
        second: Another one.
        shape: Shape with which they broadcast.
    """
    if not (first.is_derived or second.is_derived):
        return False
    ids = first.ids.array
    second_ids = second.ids.array
    apart = (ids >= 0) & (second_ids >= 0)
    if first.token == second.token:
        apart = apart & (ids != second_ids)
    if not apart.any():
        return False
    if _meet_somewhere(first, second) or _meet_somewhere(second, first):
        return True
    return any(
        _coincide(origin.ids.array, second_origin.ids.array, np.asarray(apart), shape)
        for origin in first.draws()
        for second_origin in second.draws()
        if origin.token == second_origin.token
    )


def _meet_somewhere(first: Factor, second: Factor) -> bool:
    """Whether draws at positions that are not known may be draws of another factor.

    Ancestors count against whatever the other factor depends on. Parents count only
    where it is made of the whole array, and not where it has the same parents.
    """
    if not first.ancestors.isdisjoint(second.tokens):
        return True
    return not first.parents.isdisjoint(second.roots)


def _coincide(
    first: np.ndarray, second: np.ndarray, apart: np.ndarray, shape: Sequence[int]
) -> bool:
    """Whether ids `(n,) + shape` and `(m,) + shape` meet where draws are apart."""
    if len(first) * len(second) * math.prod(shape) > _MOST_COMPARISONS:
        common = np.intersect1d(first, second)
        return bool((common >= 0).any())
    if len(first) > len(second):
        first, second = second, first
    return any(bool(((second == row) & (row >= 0) & apart).any()) for row in first)


def may_share_a_draw(first: Factor, second: Factor) -> bool:
    """Tell whether two factors have or are made of one draw, at whatever positions."""
    if _meet_somewhere(first, second) or _meet_somewhere(second, first):
        return True
    return any(
        bool((np.intersect1d(origin.ids.array, second_origin.ids.array) >= 0).any())
        for origin in first.draws()
        for second_origin in second.draws()
        if origin.token == second_origin.token
    )


def require_apart(factors: Sequence[Factor], shape: Sequence[int]) -> None:
    """Raise an error if two factors are made of one draw.

    Args:
        factors: Factors that count as independent.
        shape: Shape with which they broadcast.

    Raises:
        SharedDrawsError: If they are not; it names the sites.
    """
    if not any(factor.is_derived for factor in factors):
        return
    for first, second in itertools.combinations(factors, 2):
        if share_a_draw(first, second, shape):
            names = [*first.site.split(" and "), *second.site.split(" and ")]
            sites = dict.fromkeys(names)
            raise SharedDrawsError(shared_draws_message(" and ".join(sites)))


def are_independent_along(
    factors: Sequence[Factor], axes: Sequence[int], shape: Sequence[int]
) -> bool:
    """Tell whether no draw stands at two places along some axes.

    Args:
        factors: Factors that are independent of each other at every position.
        axes: The axes.
        shape: Shape with which they broadcast.
    """
    length = math.prod(shape[axis] for axis in axes)
    # Of ancestors it is not known at which places they stand.
    if length > 1 and any(factor.ancestors for factor in factors):
        return False
    by_token: dict[int, list[np.ndarray]] = {}
    for factor in factors:
        for draws in factor.draws():
            ids = draws.ids.array
            full = np.broadcast_to(ids, (len(ids), *shape))
            lines = np.moveaxis(
                full, [1 + a for a in axes], range(1, 1 + len(axes))
            ).reshape(len(ids) * length, -1)
            by_token.setdefault(draws.token, []).append(lines)
    for lines in by_token.values():
        ids = np.sort(np.concatenate(lines), axis=0)
        repeats = (ids[1:] == ids[:-1]) & np.greater_equal(ids[1:], 0)
        if repeats.any():
            return False
    return True
