"""Sums of soft integers from different draws, whose values are computed when needed.

Terms that share draws are added for each joint value, so that `n - z` is never negative
where `z` is at most `n`. What is left is independent, and is convolved.

Counterpart: none; in Pyro they are among the rules.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from numpyro_concrete.soft_index.algebra import enumerate_operands, simplified, typed
from numpyro_concrete.soft_index.counts import sum_of
from numpyro_concrete.soft_index.registry import apply_primitive
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
    total, *others = [_joint_sum(group, shape) for group in _groups(softs)]
    for other in others:
        total = _independent_sum(total, other)
    for sign, x in plain:
        total = exact(
            apply_primitive(lax.add_p if sign > 0 else lax.sub_p, [total, x], {})
        )
    return total


def _groups(terms: Sequence[Term]) -> list[list[Term]]:
    """Terms that share draws, directly or through others."""
    groups: list[tuple[set[int], list[Term]]] = []
    for term in terms:
        own = {f.token for f in term[1].factors}
        together = [g for g in groups if not own.isdisjoint(g[0])]
        groups = [g for g in groups if own.isdisjoint(g[0])]
        merged = [t for _, members in together for t in members]
        groups.append((own.union(*(g[0] for g in together)), [*merged, term]))
    return [members for _, members in groups]


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
