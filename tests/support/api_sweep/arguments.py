"""The soft arguments of the sweep, and all values that they can have.

There are a scalar `s`, vectors `z` and `u` of two elements and a two-by-two matrix `m`.
Their elements are independent draws, each with a small support, so that every result is
known by enumeration.
"""

import functools
import itertools
from collections.abc import Mapping

import numpy as np

SHAPES = {"s": (), "z": (2,), "u": (2,), "m": (2, 2)}
SIZES = {"s": 3, "z": 3, "u": 2, "m": 2}
# `u` is 1 or 2, so that it divides; the others begin at 0.
FIRST = {"s": 0, "z": 0, "u": 1, "m": 0}
# Soft values by their type: a Pyro program has integers in a float type, too.
KINDS = ("integers", "floats", "booleans")

Probabilities = Mapping[str, np.ndarray]


def support_size(kind, name):
    return 2 if kind == "booleans" else SIZES[name]


def support(kind, name):
    first = 0 if kind == "booleans" else FIRST[name]
    return first + np.arange(support_size(kind, name))


@functools.cache
def elements(kind, names):
    """The argument, the position and the support of every element of some arguments."""
    return [
        (name, position, support(kind, name))
        for name in names
        for position in np.ndindex(SHAPES[name])
    ]


@functools.cache
def assignments(kind, names):
    """Every joint value of some arguments, as indices into the elements' supports."""
    ranges = (range(len(values)) for _, _, values in elements(kind, names))
    return [*itertools.product(*ranges)]


def values_at(kind, names, assignment):
    """Some arguments at a joint value, as arrays of NumPy."""
    arrays = {name: np.zeros(SHAPES[name], int) for name in names}
    parts = zip(elements(kind, names), assignment, strict=True)
    for (name, position, values), index in parts:
        arrays[name][position] = values[index]
    return arrays


def probability(kind, names, assignment, probabilities):
    """The probability of a joint value, of independent elements."""
    parts = zip(elements(kind, names), assignment, strict=True)
    return np.prod(
        [probabilities[name][(*at, index)] for (name, at, _), index in parts]
    )


def inside(rng, kind):
    """Uneven probabilities of every element, none of them small."""
    found = {}
    for name, shape in SHAPES.items():
        size = support_size(kind, name)
        found[name] = 0.8 * rng.dirichlet(np.ones(size), shape) + 0.2 / size
    return found


def corner(rng, kind):
    """Indices of a joint value of all arguments, and its one-hot probabilities."""
    indices, one_hot = {}, {}
    for name, shape in SHAPES.items():
        size = support_size(kind, name)
        indices[name] = rng.integers(size, size=shape)
        one_hot[name] = np.eye(size)[indices[name]]
    return indices, one_hot
