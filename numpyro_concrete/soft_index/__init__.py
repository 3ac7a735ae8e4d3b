"""SoftIndex: an integer that is a convex combination of integers.

A relaxed site gives the program weights over the values that it could have. To the
program they are an integer array: it indexes with them, compares them, computes with
them. Each operation is applied to every value: integers stay soft, floats are weighted
sums. What would round the value raises an error that names the site and the ways out.
At a vertex every result equals the discrete program's.

Counterpart: ``pyro_concrete.soft_index``.
"""

from numpyro_concrete.soft_index.interpreter import Interpreter, plain
from numpyro_concrete.soft_index.value import (
    SoftIndex,
    SoftNumber,
    SoftReal,
    is_soft,
    refusal,
    soft_index,
)

__all__ = [
    "Interpreter",
    "SoftIndex",
    "SoftNumber",
    "SoftReal",
    "is_soft",
    "plain",
    "refusal",
    "soft_index",
]
