"""The sequences that a loop takes apart, step by step, and those that it makes.

Inside of a loop, an element of a sequence has a token of its own, and knows which draws
it stands for in which step. A result that is made of elements gets these draws back.

Counterpart: none; Python's loops run as they are in torch.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_concrete.soft_index.draws import (
    Factor,
    Known,
    LoopElement,
    Origin,
    are_independent_along,
    may_share_a_draw,
    new_token,
    positions,
)
from numpyro_concrete.soft_index.registry import Operand
from numpyro_concrete.soft_index.tables import Table
from numpyro_concrete.soft_index.value import AbstractAverage, SoftIndex, is_soft

# Larger tables of origins are not kept: only the arrays of the draws are.
_LARGEST_ORIGIN = 2**20


# --- into a loop ----------------------------------------------------------------------


def split_time(xs: Sequence[Operand]) -> list[Operand]:
    """Return sequences whose steps `lax.scan` can take apart.

    Args:
        xs: Sequences, soft or plain, with the time axis first.
    """
    softs = [x for x in xs if isinstance(x, SoftIndex)]
    elements = _elements({factor: None for x in softs for factor in x.factors})
    return [_split(x, elements) if isinstance(x, SoftIndex) else x for x in xs]


def _elements(factors: Iterable[Factor]) -> dict[Factor, Factor]:
    """What the factors of sequences are inside of a loop."""
    elements: dict[Factor, Factor] = {}
    tokens: dict[Factor, int] = {}
    for factor in factors:
        if _is_constant(factor):
            elements[factor] = factor.at(factor.ids.array[0])
        else:
            tokens[factor] = new_token()
    return elements | {factor: _element(factor, tokens) for factor in tokens}


def _element(sequence: Factor, tokens: dict[Factor, int]) -> Factor:
    """What a sequence is inside of a loop, given the tokens of all of them there."""
    related = [f for f in tokens if f != sequence and may_share_a_draw(f, sequence)]
    recurring = {tokens[f] for f in related}
    shape = sequence.ids.array.shape
    if not are_independent_along([sequence], [0], shape):
        recurring.add(tokens[sequence])
    element = LoopElement(tokens[sequence], sequence, frozenset(recurring))
    return Factor(
        site=sequence.site,
        token=tokens[sequence],
        size=math.prod(shape[1:]),
        ids=positions(shape[1:]),
        ancestors=frozenset(tokens[f] for f in related if _coincide(f, sequence)),
        parents=sequence.tokens,
        elements=frozenset([element]),
    )


def _is_constant(factor: Factor) -> bool:
    """Whether the same draws stand at every step."""
    ids = factor.ids.array
    return bool((ids == ids[:1]).all()) and len(ids) > 0


def _coincide(first: Factor, second: Factor) -> bool:
    """Whether two sequences may have a draw in common at one step."""
    if first.ancestors or first.parents or second.ancestors or second.parents:
        return True
    pairs = [
        (origin.ids.array, second_origin.ids.array)
        for origin in first.draws()
        for second_origin in second.draws()
        if origin.token == second_origin.token
    ]
    return any(
        bool((np.intersect1d(ids[:, step], second_ids[:, step]) >= 0).any())
        for ids, second_ids in pairs
        for step in range(ids.shape[1])
    )


def _split(soft: SoftIndex, elements: dict[Factor, Factor]) -> SoftIndex:
    factors = tuple(elements[factor] for factor in soft.factors)
    count = len(soft.factors)
    time = soft.extent[0]

    def time_first(x: Table, lead: int) -> Array:
        x = jnp.broadcast_to(x, (*x.shape[:lead], time, *x.shape[lead + 1 :]))
        return jnp.moveaxis(x, lead, 0)

    weights = tuple(time_first(w, 1) for w in soft.weights)
    if soft.known and soft.table.shape[count] == 1:
        values = Known(soft.table.squeeze(count))
    else:
        values = time_first(jnp.asarray(soft.table), count)
    return SoftIndex(values, weights, factors, soft.extent[1:])


# --- out of a loop --------------------------------------------------------------------


def join_time(ys: Sequence[Operand], time: int, first_token: int) -> list[Operand]:
    """Return the sequences that `lax.scan` made of the soft results of its steps.

    Args:
        ys: Soft results with the time axis first in all their arrays, or plain arrays.
        time: Number of steps.
        first_token: Draws with a smaller token were there before the loop.
    """
    results = Outside(time, first_token)
    return [_join(y, results) if is_soft(y) else y for y in ys]


def _join(
    soft: SoftIndex | AbstractAverage, outside: "Outside"
) -> SoftIndex | AbstractAverage:
    if isinstance(soft, AbstractAverage):
        return soft
    count = len(soft.factors)
    if soft.known:
        shape = soft.table.shape
        values = Known(soft.table.reshape((*shape[:count], 1, *shape[count:])))
    else:
        values = jnp.moveaxis(soft.table, 0, count)
    factors = tuple(outside.factor(factor) for factor in soft.factors)
    weights = tuple(jnp.moveaxis(w, 0, 1) for w in soft.weights)
    return SoftIndex(values, weights, factors, (outside.time, *soft.extent))


class Outside:
    """What the draws inside of a loop are after it, with an axis for its steps.

    Args:
        time: Number of steps.
        first_token: Draws with a smaller token were there before the loop.
    """

    def __init__(self, time: int, first_token: int) -> None:
        self.time = time
        self.first_token = first_token
        self._tokens: dict[int, int] = {}

    def factor(self, factor: Factor) -> Factor:
        """Return the factor of a result of all steps.

        Args:
            factor: That of a result of one step.
        """
        ids = factor.ids.array[None]
        if factor.token < self.first_token:
            return factor.at(ids)
        elements = {element.token: element for element in factor.elements}
        element = elements.get(factor.token)
        if element is not None and element.sequence is not None:
            sequence = element.sequence
            of_steps = sequence.ids.array.reshape(self.time, -1)
            return sequence.at(of_steps[:, factor.ids.array])
        return self._made_inside(factor, elements)

    def _made_inside(self, factor: Factor, elements: dict[int, LoopElement]) -> Factor:
        """The factor of draws that each step makes, of others or anew."""
        ancestors: set[int] = set()
        for token in factor.ancestors:
            ancestors |= self._tokens_of(token, factor, elements)
        if factor.token in elements:
            ancestors |= self._tokens_of(factor.token, factor, elements)
        origins: list[Origin] = []
        for origin in factor.origins:
            moved = self._origins_of(origin, elements)
            if moved is None:
                ancestors |= self._tokens_of(origin.token, factor, elements)
            else:
                origins += moved
        steps = np.arange(self.time).reshape((-1,) + (1,) * factor.ids.array.ndim)
        parents = {token for token in factor.parents if token < self.first_token}
        elements_before = {e for e in factor.elements if e.token < self.first_token}
        return Factor(
            site=factor.site,
            token=self._renamed(factor.token),
            size=self.time * factor.size,
            ids=Known(steps * factor.size + factor.ids.array),
            origins=tuple(o for o in origins if o.token not in ancestors),
            ancestors=frozenset(ancestors),
            # What the loop carries may depend on the draws of any step.
            parents=frozenset(parents | {self.first_token}),
            elements=frozenset(elements_before),
        )

    def _renamed(self, token: int) -> int:
        return self._tokens.setdefault(token, new_token())

    def _tokens_of(
        self, token: int, factor: Factor, elements: dict[int, LoopElement]
    ) -> frozenset[int]:
        """Tokens outside of the loop of what has a token inside of it."""
        if token < self.first_token:
            return frozenset([token])
        element = elements.get(token)
        if element is None:
            return frozenset([self._renamed(token)])
        if element.sequence is not None:
            return element.sequence.tokens
        return factor.parents | {self.first_token}

    def _origins_of(
        self, origin: Origin, elements: dict[int, LoopElement]
    ) -> list[Origin] | None:
        """Origins for the draws of all steps; None if their positions are not known."""
        ids = origin.ids.array
        element = elements.get(origin.token)
        if self.time * ids.size > _LARGEST_ORIGIN:
            return None
        if origin.token < self.first_token:
            return [dataclasses.replace(origin, ids=Known(np.tile(ids, self.time)))]
        if element is None:
            steps = np.arange(self.time)[:, None] * origin.size
            of_steps = np.where(ids[:, None] < 0, -1, ids[:, None] + steps)
            return [
                Origin(
                    token=self._renamed(origin.token),
                    size=self.time * origin.size,
                    ids=Known(of_steps.reshape(len(ids), -1)),
                )
            ]
        if element.sequence is None or element.sequence.ancestors:
            return None
        return [self._of_sequence(ids, draws) for draws in element.sequence.draws()]

    def _of_sequence(self, ids: np.ndarray, draws: Origin) -> Origin:
        """Origins of what is made of elements of a sequence.

        Args:
            ids: Which elements each draw of a step is made of, `(n, P)`.
            draws: The draws of the sequence, `(m,) + (time,) + positions`.
        """
        of_steps = draws.ids.array.reshape(len(draws.ids.array), self.time, -1)
        moved = np.where(ids < 0, -1, of_steps[:, :, ids])  # (m, time, n, P)
        moved = np.moveaxis(moved, 2, 1)
        moved = moved.reshape(-1, self.time * ids.shape[1])
        return dataclasses.replace(draws, ids=Known(moved))
