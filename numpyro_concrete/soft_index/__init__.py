"""Soft integers: what a relaxed model or guide receives in the place of integers.

A relaxed site gives probabilities of the values that it could have. To the model they
are an integer array: it indexes with them, compares them, computes with them. Each
operation is applied to every value: integers stay soft, floats are averaged. What would
round the value raises an error that names the site and says what to do instead. At
one-hot probabilities every result equals the discrete program's.

At the bottom are ``registry``, where rules for the primitives of JAX register, and
``draws``, which knows which values share a draw. Above them are the values (``value``,
``tables``, ``sharing``), how they combine (``merging``, ``algebra``), and the rules by
family (``elementwise``, ``shapes``, ``joining``, ``axes``, ``lookup``, ``writing``,
``averages``, ``loops``). ``rules`` chooses among them, ``trace`` and ``interpreter``
run a model with them, and ``parameters`` scores a distribution with soft parameters.

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
