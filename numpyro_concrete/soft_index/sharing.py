"""Whether values share draws, so that they do not combine as independent ones.

Counterpart: ``pyro_concrete.soft_index.elements``.
"""

import itertools
from collections.abc import Sequence

from numpyro_concrete.soft_index.draws import (
    Factor,
    SharedDrawsError,
    may_share_a_draw,
    share_a_draw,
    shared_draws_message,
)
from numpyro_concrete.soft_index.registry import Operand
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    Pieces,
    SoftIndex,
    SoftReal,
    exact,
    is_soft,
    named,
    tokens,
)


def share_draws(first: SoftIndex, second: SoftIndex, shape: Sequence[int]) -> bool:
    """Tell whether two values are made of one draw that is no factor of both.

    Args:
        first: A value.
        second: Another one.
        shape: Shape with which they broadcast.
    """
    if not any(factor.is_derived for factor in (*first.factors, *second.factors)):
        return False
    pairs = itertools.product(first.draws(), second.draws())
    return any(share_a_draw(f, g, shape) for f, g in pairs)


def require_no_shared_draws(operands: Sequence[Operand]) -> None:
    """Refuse to combine the means of values that share draws.

    The mean of a product, say, is the product of the means only where the factors are
    independent. Two floats of which neither has known values are functions of means
    anyway.

    Args:
        operands: Operands whose joint values are not known.

    Raises:
        SharedDrawsError: If two of them share a draw; it names the sites.
    """
    softs = [x for x in operands if is_soft(x)]
    for first, second in itertools.combinations(softs, 2):
        if first is second or tokens(first).isdisjoint(tokens(second)):
            continue
        floats = isinstance(first, SoftReal) and isinstance(second, SoftReal)
        if floats and not (_has_values(first) or _has_values(second)):
            continue
        if _may_share_draws(first, second):
            raise SharedDrawsError(shared_draws_message(named(first, second)))


def _has_values(soft: Operand) -> bool:
    try:
        exact(soft)
    except TypeError:
        return False
    return not isinstance(soft, AbstractAverage) or soft.values is not None


def _may_share_draws(first: Operand, second: Operand) -> bool:
    factors = _factors_behind(first)
    second_factors = _factors_behind(second)
    if factors is None or second_factors is None:
        return True
    return any(may_share_a_draw(f, g) for f in factors for g in second_factors)


def _factors_behind(soft: Operand) -> list[Factor] | None:
    """The factors of all that a value was computed from; None if it is not known."""
    factors: dict[Factor, None] = {}
    pending = [soft]
    visited: set[int] = set()
    while pending:
        value = pending.pop()
        if id(value) in visited:
            continue
        visited.add(id(value))
        if isinstance(value, SoftIndex):
            factors |= dict.fromkeys(value.draws())
        elif isinstance(value, Pieces):
            pending += value.parts
        elif isinstance(value, AbstractAverage) and value.tokens:
            if value.values is None or not value.values.operands:
                return None
            pending += value.values.operands
    return [*factors]
