"""The discrete program at every joint value of its sites: the oracle."""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from random_programs.program import Observation

LARGEST_SIZE = 24
LARGEST_NUMBER = 1e4


class Invalid(Exception):
    """A program that the discrete backend cannot run, or that is too large."""


@dataclass(frozen=True)
class Variable:
    """What is known of a variable.

    Attributes:
        states: Its value at every joint value of the sites, along the first axis.
    """

    name: str
    dtype: str
    states: np.ndarray

    @property
    def shape(self):
        return self.states.shape[1:]

    @property
    def is_boolean(self):
        return self.dtype == "bool"

    @property
    def is_integer(self):
        return self.dtype.startswith("int")

    @property
    def is_real(self):
        return self.dtype.startswith("float")

    @property
    def is_finite(self):
        return bool(np.isfinite(self.states).all())

    @property
    def is_whole(self):
        return self.is_finite and bool((self.states == np.round(self.reals)).all())

    @property
    def reals(self):
        return self.states.astype(float)


@dataclass(frozen=True)
class Element:
    """One element of a site."""

    site: str
    position: tuple[int, ...]
    size: int


def elements_of(program):
    return [
        Element(site.target, position, len(site.family.values))
        for site in program.sites
        for position in np.ndindex(site.shape)
    ]


class Discrete:
    """A program that is run at every joint value of its sites.

    Attributes:
        assignments: The joint values, as indices into the supports of the elements.
        variables: By name.
        scores: Log-probability of the observation at each joint value, if there is one.
    """

    def __init__(self, host, program):
        self.host, self.program = host, program
        self.elements = elements_of(program)
        if math.prod(e.size for e in self.elements) > host.largest_support:
            raise Invalid
        sizes = (range(e.size) for e in self.elements)
        self.assignments = [*itertools.product(*sizes)]
        self.variables = {}
        self.scores = None
        self._dtypes = {}
        self._environments = [self._environment(a) for a in self.assignments]
        for part in program.parts:
            self._run(part)

    def plus(self, part):
        """The program with one more statement or observation, which alone is run."""
        extended = object.__new__(Discrete)
        extended.__dict__.update(self.__dict__)
        extended.program = self.program.plus(part)
        extended.variables = dict(self.variables)
        extended._run(part)
        return extended

    def indices_at(self, assignment):
        """A joint value as one array of indices for each site."""
        found = {site.target: np.zeros(site.shape, int) for site in self.program.sites}
        for element, index in zip(self.elements, assignment, strict=True):
            found[element.site][element.position] = index
        return found

    def _run(self, part):
        results = []
        with self.host.seeded():
            for names in self._environments:
                self.host.execute(part, names)
                results.append(names.get(part.target))
        if isinstance(part, Observation):
            self.scores = np.array([names["score"] for names in self._environments])
            if not np.isfinite(self.scores).any():
                raise Invalid
        else:
            self.variables[part.target] = self._checked(part.target, results)

    def _environment(self, assignment):
        """The names of a program whose sites take their values from an assignment."""
        host, indices = self.host, self.indices_at(assignment)
        names = dict(host.names)

        def sample(name, fn, obs=None):
            if obs is not None:
                names["score"] = float(fn.log_prob(obs).sum())
                return obs
            family = self.program.site(name).family
            values = np.array(family.values)
            if family.is_one_hot:
                values = np.eye(len(values))
            if name not in self._dtypes:
                draw = host.backend.sample(fn, 0)
                self._dtypes[name] = host.backend.dtype(draw)
            return host.backend.array(values[indices[name]], self._dtypes[name])

        names["sample"] = sample
        return names

    def _checked(self, name, results):
        """A variable, if its values are arrays of one kind, and not too large."""
        if not all(hasattr(x, "shape") and hasattr(x, "dtype") for x in results):
            raise Invalid
        if len({self.host.kind(x) for x in results}) > 1:
            raise Invalid
        variable = Variable(
            name=name,
            dtype=self.host.backend.dtype(results[0]),
            states=np.stack([self.host.numpy(x) for x in results]),
        )
        finite = variable.reals[np.isfinite(variable.reals)]
        size = math.prod(variable.shape)
        if not 0 < size <= LARGEST_SIZE or len(variable.shape) > 3 or not finite.size:
            raise Invalid
        if np.abs(finite).max() > LARGEST_NUMBER:
            raise Invalid
        return variable
