"""Puts random programs together, part by part.

Each part is run at every joint value of the sites as soon as it is chosen: that shows
whether it is valid, and the shape, type and range of its result.
"""

import contextlib
import re

import numpy as np

from random_programs.discrete import Discrete, Invalid
from random_programs.families import FAMILIES, LIKELIHOODS, OBSERVING
from random_programs.hosts import PartError
from random_programs.operations import OPERATIONS
from random_programs.program import (
    Observation,
    Program,
    Site,
    Statement,
    names_read,
)

MOST_STATEMENTS = 7
MOST_TRIES = 60
_SLOT = re.compile(r"\{(\w+)\}")
# Other slots depend on the variables in these.
_FIRST_SLOTS = "vif"


def generate(host, random):
    """Return a random program.

    Args:
        host: The backend that it is for.
        random: Decides every part of it.
    """
    writer = Writer(host, random)
    with host.quiet():
        while not writer.program.sites:
            writer.attempt(writer.add_site)
        statements = random.randint(1, MOST_STATEMENTS)
        for _ in range(MOST_TRIES):
            if len(writer.program.statements) == statements:
                break
            adds_site = random.randint(1, 12) == 1
            writer.attempt(writer.add_site if adds_site else writer.add_statement)
        for _ in range(6):
            if writer.attempt(writer.add_observation):
                break
    return writer.program


class Writer:
    """A program that grows by random parts."""

    def __init__(self, host, random):
        self.host, self.random = host, random
        self.discrete = None

    @property
    def program(self):
        return self.discrete.program if self.discrete else Program()

    @property
    def variables(self):
        return self.discrete.variables if self.discrete else {}

    def attempt(self, add):
        """Try to add a part; return whether it could be added."""
        with contextlib.suppress(Invalid, PartError):
            add()
            return True
        return False

    def add_site(self):
        family = self.pick(FAMILIES)
        arguments, shape = self.site_arguments(family)
        wrapper, rows = "", None
        if shape:
            mask = array(self.numbers().integers(2, size=shape).astype(bool))
            event = f".to_event({len(shape)})"
            wrapper = self.pick(["", event, f".mask({mask})", "plate"])
        if wrapper == "plate":
            wrapper, rows = "", shape[-1]
        target = f"z{len(self.program.sites)}"
        site = Site(target, family, arguments, shape, wrapper, rows)
        self.discrete = Discrete(self.host, self.program.plus(site))

    def site_arguments(self, family):
        """The source of a family's slots, and the shape that the site has by them."""
        slots = _SLOT.findall(family.source)
        if slots == ["f"]:
            name = self.variable_of(lambda x: x.is_real and len(x.shape) < 3)
            return {"f": name}, self.variables[name].shape
        if "i" in slots:
            name = self.slot_i({})
            table = self.table(self.variables[name], (3,))
            return {"i": name, "t3": table}, self.variables[name].shape
        shape = self.pick(self.host.shapes)
        rng, arguments = self.numbers(), {}
        for slot in slots:
            classes = slot.removeprefix("p")
            if classes:
                n = int(classes)
                probs = 0.7 * rng.dirichlet(np.ones(n), shape) + 0.3 / n
            else:
                probs = rng.uniform(0.2, 0.8, shape)
            arguments[slot] = array(np.round(probs, 3))
        return arguments, shape

    def add_statement(self):
        operation = self.pick(OPERATIONS)
        slots = _SLOT.findall(operation.spelled(self.host.name))
        arguments = {}
        for slot in sorted(slots, key=lambda slot: slot not in _FIRST_SLOTS):
            if slot not in arguments:
                arguments[slot] = getattr(self, f"slot_{slot}")(arguments)
        target = f"v{len(self.program.parts)}"
        self.discrete = self.discrete.plus(Statement(target, operation, arguments))

    def add_observation(self):
        reals = self.of_one_hot_sites()
        name = self.variable_of(lambda x: x.name not in reals)
        shape = self.variables[name].shape
        event = f".to_event({len(shape)})" if shape else ""
        observes_variable = self.chance(20)
        if observes_variable:
            fn = self.pick(OBSERVING)
            source = f'sample("y", {fn}.expand({list(shape)}){event}, obs={{a}})'
        else:
            fn, number = self.pick(LIKELIHOODS)
            data = array(np.full(shape, number))
            source = f'sample("y", {fn}{event}, obs={data})'
            if len(shape) == 1 and self.chance(50):
                data = array(np.full(2 * shape[0], number))
                source = (
                    f'with plate("data", {2 * shape[0]}, {shape[0]}) as rows:\n'
                    f'    sample("y", {fn}, obs={data}[rows])'
                )
        observation = Observation(source, {"a": name}, observes_variable)
        self.discrete = self.discrete.plus(observation)

    def of_one_hot_sites(self):
        """Names of what is computed of one-hot sites: reals, inside of the simplex."""
        found = set()
        for part in self.program.parts:
            is_one_hot = isinstance(part, Site) and part.family.is_one_hot
            if is_one_hot or names_read(part) & found:
                found.add(part.target)
        return found

    # --- choices

    def pick(self, options):
        if not options:
            raise Invalid
        return options[self.random.randint(0, len(options) - 1)]

    def chance(self, percent):
        return self.random.randint(1, 100) <= percent

    def numbers(self):
        """A generator of NumPy for arrays of constants."""
        return np.random.default_rng(self.random.randint(0, 2**32 - 1))

    def variable_of(self, is_suitable):
        """The name of a variable of a sort; the latest ones are the likeliest."""
        names = [*self.variables]
        names += 2 * names[-2:]
        return self.pick([n for n in names if is_suitable(self.variables[n])])

    # --- the source of each slot, see operations.py

    def slot_v(self, arguments):
        return self.variable_of(lambda x: True)

    slot_w = slot_v

    def slot_b(self, arguments):
        return self.variable_of(lambda x: x.is_boolean)

    def slot_i(self, arguments):
        reals = self.of_one_hot_sites()

        def is_index(x):
            is_small = x.is_integer and np.abs(x.states).max() < 12
            return is_small and x.name not in reals

        return self.variable_of(is_index)

    def slot_f(self, arguments):
        return self.variable_of(lambda x: x.is_real)

    def slot_x(self, arguments):
        if self.chance(40):
            return self.slot_v(arguments)
        shape = self.variables[arguments["v"]].shape if "v" in arguments else ()
        rng = self.numbers()
        scalars = ["0", "1", "2", "-1", "1.0", "2.0", "0.5", "-1.5", "array(1.0)"]
        scalars += ['array(2, "int64")', 'array(2.0, "float32")', "array(0.7)"]
        arrays = [
            array(rng.integers(0, 4, shape)),
            array(rng.integers(0, 3, shape).astype(float)),
            array(reals(rng, shape)),
            array(reals(rng, shape), "float32"),
        ]
        return self.pick(scalars + arrays)

    slot_y = slot_x

    def slot_k(self, arguments):
        return self.pick("1122340")

    def slot_r(self, arguments):
        return self.pick(["0.5", "1.5", "2.0", "0.9", "-0.5", "1.0", "3.0"])

    def slot_d(self, arguments):
        name = arguments.get("v") or arguments["f"]
        return str(self.pick(range(-1, len(self.variables[name].shape))))

    def slot_t(self, arguments):
        index = self.variables[arguments["i"]] if "i" in arguments else None
        return self.table(index, self.pick([(), (), (2,), (3,)]))

    def slot_q(self, arguments):
        rows = number_of_rows(self.variables[arguments["i"]])
        return array(self.numbers().integers(0, 4, rows))

    def slot_n(self, arguments):
        return str(number_of_rows(self.variables[arguments["i"]]))

    def slot_m(self, arguments):
        shape = self.variables[arguments["v"]].shape
        return array(self.numbers().integers(2, size=shape).astype(bool))

    def slot_o(self, arguments):
        size = self.first_axis(arguments["v"])
        return array(self.numbers().integers(0, size, 2))

    def slot_R(self, arguments):
        self.first_axis(arguments["v"])
        columns = self.variables[arguments["v"]].shape[-1]
        return array(reals(self.numbers(), (columns, 2)))

    def first_axis(self, name):
        shape = self.variables[name].shape
        if not shape:
            raise Invalid
        return shape[0]

    def table(self, index, row_shape):
        rows = number_of_rows(index) if index else 8
        size = (rows + self.pick([0, 0, 1]), *row_shape)
        dtype = self.pick(["float64", "float64", "float32"])
        return array(reals(self.numbers(), size), dtype)


def number_of_rows(index):
    """The rows that a table needs, of which indices below zero count from the end."""
    return int(max(index.states.max() + 1, -index.states.min(), 2))


def reals(rng, shape):
    # Plus zero, for there is a negative one.
    return np.round(rng.normal(size=shape), 2) + 0.0


def array(x, dtype=None):
    """The source of an array."""
    x = np.asarray(x)
    dtype = dtype or {"i": "int64", "b": "bool", "f": "float64"}[x.dtype.kind]
    suffix = "" if dtype == "float64" else f', "{dtype}"'
    return f"array({x.tolist()}{suffix})"
