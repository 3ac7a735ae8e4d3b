"""Sums of soft integers from different draws, whose values are computed when needed.

Terms that share draws are added for each joint value, so that `n - z` is never negative
where `z` is at most `n`. What is left is independent, and is convolved.

Counterpart: ``pyro_concrete.soft_index.folds``.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from numpyro_concrete.soft_index.algebra import enumerate_operands, simplified
from numpyro_concrete.soft_index.counts import sum_of
from numpyro_concrete.soft_index.draws import share_a_draw
from numpyro_concrete.soft_index.registry import (
    Operand,
    Primitive,
    apply_primitive,
)
from numpyro_concrete.soft_index.sharing import share_draws
from numpyro_concrete.soft_index.tables import Table, number_of, typed
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    SoftIndex,
    Term,
    Values,
    average_of,
    exact,
    named,
    refusal,
)

# A sum of more terms is a draw of its own.
_LARGEST_SUM = 64


def sum_of_draws(
    primitive: Primitive, operands: Sequence[Operand], shape: Sequence[int]
) -> AbstractAverage:
    """Return the sum or difference of two integers as a count.

    Args:
        primitive: `add` or `sub`.
        operands: Its operands.
        shape: Shape of the result.
    """
    first, second = operands
    sign = {"add": 1, "sub": -1}[primitive.name]
    terms = _terms(first, 1) + _terms(second, sign)
    if len(terms) > _LARGEST_SUM:
        terms = [Term(1, first), Term(sign, second)]

    def compute_values() -> Operand:
        exact_terms = [Term(term.sign, exact(term.operand)) for term in terms]
        return _total(exact_terms, shape)

    mean = jnp.broadcast_to(number_of(first) + sign * number_of(second), tuple(shape))
    dtype = typed(first).dtype
    return average_of(mean, operands, dtype, Values(compute_values, terms))


def _terms(x: Operand, sign: int) -> list[Term]:
    if isinstance(x, AbstractAverage) and x.values is not None and x.values.terms:
        return [Term(sign * term.sign, term.operand) for term in x.values.terms]
    return [Term(sign, x)]


def _total(terms: Sequence[Term], shape: Sequence[int]) -> Operand:
    soft_terms = [t for t in terms if isinstance(t.operand, SoftIndex)]
    plain_terms = [t for t in terms if not isinstance(t.operand, SoftIndex)]
    soft_terms = [_without_shared_bounds(t, soft_terms, shape) for t in soft_terms]
    groups = _groups_with_shared_draws(soft_terms, shape)
    total, *summands = [_joint_sum(group, shape) for group in groups]
    for summand in summands:
        total = _independent_sum(total, summand)
    for term in plain_terms:
        primitive = {1: lax.add_p, -1: lax.sub_p}[term.sign]
        total = exact(apply_primitive(primitive, [total, term.operand], {}))
    return total


def _without_shared_bounds(
    term: Term, terms: Sequence[Term], shape: Sequence[int]
) -> Term:
    """Return a term without its bounds, if its joint values with them are not known.

    The bounds of a count that depends on others keep `count - value` at zero or above.
    Without them only values of probability zero at the draws of a program are less.
    """
    soft = term.operand
    if soft.unbounded is None:
        return term
    bounds = [f for f in soft.factors if f not in soft.unbounded.factors]
    operands = [t.operand for t in terms if t.operand is not soft]
    factors = [factor for x in operands for factor in x.factors]
    if any(share_a_draw(f, g, shape) for f in bounds for g in factors):
        return Term(term.sign, soft.unbounded)
    return term


def _groups_with_shared_draws(
    terms: Sequence[Term], shape: Sequence[int]
) -> list[list[Term]]:
    """Return groups of terms that share draws, directly or through others."""
    groups: list[list[Term]] = []
    for term in terms:
        members: list[Term] = []
        unrelated_groups: list[list[Term]] = []
        for group in groups:
            if any(_share_draws(term, t, shape) for t in group):
                members += group
            else:
                unrelated_groups.append(group)
        groups = [*unrelated_groups, [*members, term]]
    return groups


def _share_draws(first: Term, second: Term, shape: Sequence[int]) -> bool:
    """Whether two terms have draws of one array, or draws that are made of one."""
    tokens = {factor.token for factor in first.operand.factors}
    if not tokens.isdisjoint(factor.token for factor in second.operand.factors):
        return True
    return share_draws(first.operand, second.operand, shape)


def _joint_sum(terms: Sequence[Term], shape: Sequence[int]) -> Operand:
    signs = [term.sign for term in terms]
    if signs == [1]:
        return terms[0].operand

    def add(first: Table, *tables: Table) -> Table:
        total = _signed(signs[0], first)
        for sign, table in zip(signs[1:], tables, strict=True):
            total = total + _signed(sign, table)
        return total

    table, joint = enumerate_operands(add, [term.operand for term in terms], shape)
    return simplified(table, joint.factors, joint.weights, shape)


def _signed(sign: int, table: Table) -> Table:
    if sign < 0:
        return -table
    return table


def _independent_sum(first: Operand, second: Operand) -> Operand:
    if not (isinstance(first, SoftIndex) and isinstance(second, SoftIndex)):
        return exact(apply_primitive(lax.add_p, [first, second], {}))
    total = sum_of(first, second)
    if total is None:
        raise TypeError(refusal(named(first, second), "the values of a sum of it"))
    return total
