"""SoftIndex: an integer that is a convex combination of integers.

A relaxed site gives the program probabilities of the values that it could have. To the
program they are an integer tensor: it indexes with them, compares them, computes with
them. Each operation is applied to every value: integers stay soft, floats are weighted
sums. What would round the value raises an error that names the site and the ways out.
At a vertex every result equals the discrete program's.

Counterpart: ``numpyro_concrete.soft_index``.
"""

from pyro_concrete.soft_index import (  # noqa: F401 (registers rules)
    averages,
    counting,
    elementwise,
    lookup,
    losses,
    metadata,
    order,
    products,
    reductions,
    selection,
    shapes,
    writing,
)
from pyro_concrete.soft_index.abstract import is_soft
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.value import (
    SoftIndex,
    SoftNumber,
    SoftReal,
    plain,
    soft_index,
)

__all__ = [
    "SoftIndex",
    "SoftNumber",
    "SoftReal",
    "is_soft",
    "plain",
    "refusal",
    "soft_index",
]
