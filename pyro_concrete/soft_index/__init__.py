"""SoftIndex: an integer that is a convex combination of integers.

A relaxed site gives the program weights over the values that it could have. To the
program they are an integer tensor: it indexes with them, compares them, computes with
them. Each operation is applied to every value: integers stay soft, floats are weighted
sums. What would round the value raises an error that names the site and the ways out.
At a vertex every result equals the discrete program's.

Counterpart: ``numpyro_concrete.soft_index``.
"""

from pyro_concrete.soft_index import lookup as _lookup  # noqa: F401 (registers rules)
from pyro_concrete.soft_index import reductions as _reductions  # noqa: F401
from pyro_concrete.soft_index import rules as _rules  # noqa: F401
from pyro_concrete.soft_index import shapes as _shapes  # noqa: F401
from pyro_concrete.soft_index import writing as _writing  # noqa: F401
from pyro_concrete.soft_index.value import (
    SoftIndex,
    SoftNumber,
    SoftReal,
    is_soft,
    plain,
    refusal,
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
