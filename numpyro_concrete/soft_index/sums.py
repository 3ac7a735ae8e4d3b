"""Sums of soft integers from different draws, whose values are computed when needed.

Terms that share draws are added for each joint value, so that `n - z` is never negative
where `z` is at most `n`. What is left is independent, and is convolved.

Counterpart: none; in Pyro they are among the rules.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from numpyro_concrete.soft_index.algebra import enumerate_operands, simplified
from numpyro_concrete.soft_index.counts import sum_of
from numpyro_concrete.soft_index.draws import share_a_draw
from numpyro_concrete.soft_index.registry import apply_primitive
from numpyro_concrete.soft_index.sharing import share_draws
from numpyro_concrete.soft_index.tables import typed
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    SoftIndex,
    Values,
    average_of,
    exact,
    is_soft,
    named,
    refusal,
)

Term = tuple[int, Any]
# A sum of more terms is a draw of its own.
_LARGEST_SUM = 64


def sum_of_draws(primitive: Any, values: Sequence[Any], shape: Sequence[int]) -> Any:
    """Return the sum or difference of two integers as a count.

    Args:
        primitive: `add` or `sub`.
        values: Its operands.
        shape: Shape of the result.
    """
    first, second = values
    sign = 1 if primitive.name == "add" else -1
    terms = _terms(first, 1) + _terms(second, sign)
    if len(terms) > _LARGEST_SUM:
        terms = [(1, first), (sign, second)]

    def compute() -> Any:
        return _total([(s, exact(x)) for s, x in terms], shape)

    mean = jnp.broadcast_to(_number(first) + sign * _number(second), tuple(shape))
    dtype = typed(first).dtype
    return average_of(mean, values, dtype, Values(compute, terms))


def _number(x: Any) -> Array:
    return x.number() if is_soft(x) else jnp.asarray(x)


def _terms(x: Any, sign: int) -> list[Term]:
    if isinstance(x, AbstractAverage) and x.values is not None and x.values.terms:
        return [(sign * s, y) for s, y in x.values.terms]
    return [(sign, x)]


def _total(terms: Sequence[Term], shape: Sequence[int]) -> Any:
    softs = [t for t in terms if isinstance(t[1], SoftIndex)]
    plain = [t for t in terms if not isinstance(t[1], SoftIndex)]
    softs = [_without_shared_bounds(t, softs, shape) for t in softs]
    total, *summands = [_joint_sum(group, shape) for group in _groups(softs, shape)]
    for summand in summands:
        total = _independent_sum(total, summand)
    for sign, x in plain:
        primitive = lax.add_p if sign > 0 else lax.sub_p
        total = exact(apply_primitive(primitive, [total, x], {}))
    return total


def _without_shared_bounds(
    term: Term, terms: Sequence[Term], shape: Sequence[int]
) -> Term:
    """A term without its bounds, if the joint values with them are no longer known.

    The bounds of a count that depends on others keep `count - value` at zero or above.
    Without them only values of probability zero at the draws of a program are less.
    """
    sign, soft = term
    if soft.unbounded is None:
        return term
    bounds = [f for f in soft.factors if f not in soft.unbounded.factors]
    factors = [f for _, x in terms if x is not soft for f in x.factors]
    if any(share_a_draw(f, g, shape) for f in bounds for g in factors):
        return sign, soft.unbounded
    return term


def _groups(terms: Sequence[Term], shape: Sequence[int]) -> list[list[Term]]:
    """Terms that share draws, directly or through others."""
    groups: list[list[Term]] = []
    for term in terms:
        related = [any(_share_draws(term, t, shape) for t in g) for g in groups]
        members = [
            g for g, is_related in zip(groups, related, strict=True) if is_related
        ]
        groups = [
            g for g, is_related in zip(groups, related, strict=True) if not is_related
        ]
        groups.append([*itertools.chain(*members), term])
    return groups


def _share_draws(first: Term, second: Term, shape: Sequence[int]) -> bool:
    """Whether two terms have draws of one array, or draws that are made of one."""
    factors = {factor.token for factor in first[1].factors}
    common = not factors.isdisjoint(factor.token for factor in second[1].factors)
    return common or share_draws(first[1], second[1], shape)


def _joint_sum(terms: Sequence[Term], shape: Sequence[int]) -> Any:
    signs = [s for s, _ in terms]
    if signs == [1]:
        return terms[0][1]

    def added(*x: Any) -> Any:
        total = x[0] if signs[0] > 0 else -x[0]
        for s, y in zip(signs[1:], x[1:], strict=True):
            total = total + y if s > 0 else total - y
        return total

    table, joint = enumerate_operands(added, [x for _, x in terms], shape)
    return simplified(table, joint.factors, joint.weights, shape)


def _independent_sum(x: Any, y: Any) -> Any:
    if not (isinstance(x, SoftIndex) and isinstance(y, SoftIndex)):
        return exact(apply_primitive(lax.add_p, [x, y], {}))
    result = sum_of(x, y)
    if result is None:
        raise TypeError(refusal(named(x, y), "the values of a sum of it"))
    return result
