"""SoftIndex: an integer that is a convex combination of integers.

A relaxed site gives the program probabilities of the values that it could have. To the
program they are an integer tensor: it indexes with them, compares them, computes with
them. Each operation is applied to every value: integers stay soft, floats are averaged.
What would round the value raises an error that names the site and the alternatives. At
one-hot probabilities every result equals the discrete program's.

Modules build on those before them. ``trees``, ``refusals``, ``elements`` and
``algebra`` hold draws and their identity; ``abstract`` and ``value`` the classes and
the registry of rules; ``averages``, ``states``, ``joining``, ``folds`` and ``joint``
what rules share. The others hold the rules for families of torch's functions.

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
