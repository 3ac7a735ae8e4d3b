"""Calls on soft integers, compared with the same calls at every value of theirs."""

import contextlib
import io
import itertools
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from api_sweep.arguments import (
    SHAPES,
    assignments,
    corner,
    elements,
    inside,
    probability,
)
from api_sweep.calls import calls, code_of, names_in

EXACT, UNSUPPORTED, OPEN = "exact", "unsupported", "open"
# Errors that torch raises through C++ are RuntimeErrors.
REFUSALS = (TypeError, NotImplementedError, ValueError, IndexError, RuntimeError)
CORNERS = 3


@dataclass(frozen=True)
class Function:
    """A public function, and its name, such as `torch.add`."""

    name: str
    function: Callable


@dataclass(frozen=True)
class Leaf:
    """One array or number of a result."""

    number: np.ndarray
    # The shape and type of an array, or the name of a Python type.
    kind: object

    @property
    def is_python_number(self):
        return isinstance(self.kind, str)


@dataclass(frozen=True)
class Verdict:
    """What a call does to soft integers: exact, unsupported or open, and why."""

    word: str
    reason: str = ""


@dataclass
class Case:
    """A call of a function with arguments of one kind.

    Attributes:
        results: Leaves of the result at every joint value of the arguments.
    """

    function: Function
    call: str
    kind: str
    results: list = field(default_factory=list)

    @property
    def arguments(self):
        return tuple(name for name in SHAPES if name in names_in(self.call))

    @property
    def assignments(self):
        return assignments(self.kind, self.arguments)

    @property
    def has_fixed_kinds(self):
        """Whether the result has one shape and type at all values."""
        return len({str([x.kind for x in leaves]) for leaves in self.results}) == 1

    def run(self, host, soft):
        """Call the function with these soft arguments."""
        names = host.constants() | {name: soft[name] for name in self.arguments}
        return eval(code_of(self.call), {**names, "f": self.function.function})

    def __str__(self):
        return f"{self.function.name}({self.call})"


class NotAnArray(Exception):
    """A function returns what is neither an array nor a number."""


def operators():
    """Python's operators, those in place left out, and what reads a number."""
    names = [n for n in dir(operator) if not n.startswith("_")]
    in_place = {n for n in names if n.startswith("i") and n[1:] in names}
    in_place |= {"iand", "ior", "iconcat"}
    found = [getattr(operator, n) for n in names if n not in in_place]
    readers = [bool, int, float, round, divmod, len, abs, list, min, max, sum, hash]
    return [
        *(Function(f"operator.{f.__name__}", f) for f in found),
        *(Function(f.__name__, f) for f in readers),
    ]


@contextlib.contextmanager
def quiet():
    """Hide warnings and what functions print."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# --- results --------------------------------------------------------------------------


def leaves_of(host, result):
    """The arrays and numbers of a result, or NotAnArray."""
    if isinstance(result, dict):
        result = [*result.values()]
    if isinstance(result, tuple | list):
        return [*itertools.chain(*(leaves_of(host, x) for x in result))]
    if host.is_array(result) or isinstance(result, bool | int | float):
        return [result]
    raise NotAnArray(type(result).__name__)


def kind_of(host, leaf):
    """The shape and type of an array, or the name of a number's type."""
    if host.is_array(leaf):
        return tuple(leaf.shape), host.dtype(leaf)
    return type(leaf).__name__


def leaves_and_kinds(host, case, arguments):
    """What a case gives: leaves, and what each of them is."""
    leaves = leaves_of(host, case.run(host, arguments))
    kinds = [kind_of(host, leaf) for leaf in leaves]
    return leaves, kinds


def cases_of(host, function, kind):
    """The first calls of the catalog that a function accepts."""
    found = []
    with quiet():
        for call in calls(host.spelling):
            case = Case(function, call, kind)
            if case.arguments and host.accepts(case):
                found.append(case)
            if len(found) == host.calls_per_function:
                break
    return found


# --- what soft integers give ----------------------------------------------------------


def judge(host, cases, kind, seed=7):
    """The verdict on each of several cases of one kind."""
    rng = np.random.default_rng(seed)
    with quiet():
        host.run_on_plain_values(cases, kind)
        results_at = host.soft_results(cases, kind)
        corners = [corner(rng, kind) for _ in range(CORNERS)]
        at_corners = [(x, results_at(probabilities)) for x, probabilities in corners]
        middle = inside(rng, kind)
        at_middle = results_at(middle)

        def verdict(number):
            case = cases[number]
            found = [judge_corner(case, r[number], x) for x, r in at_corners]
            found.append(judge_inside(case, at_middle[number], middle))
            return worst(found)

        verdicts = [*map(verdict, range(len(cases)))]
        if host.compiles:
            # A compiler may simplify 0 / 0 or 0 * NaN: the functions alone decide.
            doubtful = [n for n, x in enumerate(verdicts) if x.word == OPEN]
            host.run_on_plain_values([cases[n] for n in doubtful], kind, compiled=False)
            for n in doubtful:
                verdicts[n] = verdict(n)
    return verdicts


def worst(verdicts):
    order = (OPEN, UNSUPPORTED, EXACT)
    return min(verdicts, key=lambda verdict: order.index(verdict.word))


def judge_corner(case, result, indices):
    if isinstance(result, Exception):
        return judge_error(result)
    if not case.has_fixed_kinds:
        return Verdict(OPEN, "a result of one shape, which depends on the value")
    at = tuple(int(indices[n][p]) for n, p, _ in elements(case.kind, case.arguments))
    expected = case.results[case.assignments.index(at)]
    return compare(result, expected, "at a corner")


def judge_inside(case, result, probabilities):
    if isinstance(result, Exception):
        return judge_error(result)
    if not case.has_fixed_kinds:
        return Verdict(OPEN, "a result of one shape, which depends on the value")
    weights = [
        probability(case.kind, case.arguments, a, probabilities)
        for a in case.assignments
    ]
    expected = []
    for several in zip(*case.results, strict=True):
        states = np.stack([leaf.number for leaf in several]).astype(float)
        if several[0].is_python_number and np.ptp(states):
            return Verdict(OPEN, "a Python number, of a soft value")
        mean = np.tensordot(weights, states, 1) if np.isfinite(states).all() else None
        expected.append(Leaf(mean, several[0].kind))
    return compare(result, expected, "inside")


def judge_error(error):
    text = str(error)
    named = any(f"{name}'" in text or f"'{name} and" in text for name in SHAPES)
    if isinstance(error, REFUSALS) and named and "site" in text:
        return Verdict(UNSUPPORTED)
    first = (text.splitlines() or [""])[0]
    return Verdict(OPEN, f"{type(error).__name__}: {first[:90]}")


def compare(result, expected, where):
    """Compare the leaves of a result with what they should be."""
    if len(result) != len(expected):
        return Verdict(OPEN, f"{len(result)} results {where} for {len(expected)}")
    for leaf, right in zip(result, expected, strict=True):
        if leaf.kind != right.kind:
            return Verdict(OPEN, f"{leaf.kind} {where} for {right.kind}")
        if right.number is not None and not close(leaf.number, right):
            found = np.round(leaf.number.astype(float), 4).tolist()
            wanted = np.round(right.number.astype(float), 4).tolist()
            return Verdict(OPEN, f"{found} {where} for {wanted}")
    return Verdict(EXACT)


TOLERANCES = {"float16": 1e-2, "bfloat16": 5e-2, "float32": 2e-5}


def close(number, right):
    dtype = "" if right.is_python_number else right.kind[1]
    tolerance = TOLERANCES.get(dtype, 1e-9)
    number, wanted = number.astype(float), right.number.astype(float)
    if number.shape != wanted.shape:
        return False
    return np.allclose(number, wanted, tolerance, tolerance, equal_nan=True)
