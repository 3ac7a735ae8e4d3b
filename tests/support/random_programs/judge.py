"""Compares a relaxed program with the discrete one: exact, unsupported, or open."""

from dataclasses import dataclass, field

import numpy as np

from random_programs.discrete import Discrete, Invalid
from random_programs.hosts import PartError, combination
from random_programs.program import Part, Program
from random_programs.promises import Promise, promises_of

# Errors that torch raises through C++ are RuntimeErrors.
REFUSALS = (TypeError, NotImplementedError, ValueError, IndexError, RuntimeError)
# Relative and absolute tolerance. That of double precision is wider than in other exact
# tests, as rounding grows along the operations of a random program.
SINGLE, DOUBLE = 2e-5, 1e-8
# Log-probabilities of the classes that a corner leaves out, which are zero beside 0.
CORNER_LOG = -1e4
# Inside, each class has at least this share of an even probability.
EVEN_SHARE = 0.3
# A result depends on an element if its means differ by more than the first number, and
# has a gradient if that is larger than the second.
SMALLEST_EFFECT, SMALLEST_GRADIENT = 1e-6, 1e-12


@dataclass(frozen=True)
class Failure:
    """What is wrong with a relaxed program.

    Attributes:
        kind: What kind of thing, the same for all programs.
        target: The variable.
    """

    kind: str
    target: str
    expected: object = ""
    got: object = ""

    def __str__(self):
        expected, got = short(self.expected), short(self.got)
        return f"{self.kind}: {self.target} is {got}, and should be {expected}"


def short(x):
    if isinstance(x, np.ndarray):
        x = np.array2string(x, precision=5, separator=", ")
    return " ".join(str(x).split())[:160]


@dataclass
class Verdict:
    """The outcome of a program.

    Attributes:
        program: What is left of it without unsupported parts.
        unsupported: Parts that raised an error of ours, with the error.
        failure: What is wrong, or None.
    """

    program: Program
    unsupported: list[tuple[Part, Exception]] = field(default_factory=list)
    failure: Failure | None = None


def judge(host, program, seed=0):
    """Return the verdict on a program without the parts that are unsupported.

    The program runs, the first unsupported part is left out, and so on, until it runs
    through. A program whose sites have one value each has nothing to compare.

    Raises:
        Invalid: If the discrete program does not run.
    """
    verdict = Verdict(program)
    while any(len(site.family.values) > 1 for site in verdict.program.sites):
        try:
            verdict.failure = _failure(host, verdict.program, seed)
            break
        except PartError as stopped:
            if not names_a_site(stopped.error, program):
                verdict.failure = Failure(
                    kind="opaque error",
                    target=stopped.part.target,
                    expected="a result, or an error that names the site",
                    got=stopped,
                )
                break
            verdict.unsupported.append((stopped.part, stopped.error))
            verdict.program = verdict.program.without(stopped.part)
    return verdict


def names_a_site(error, program):
    """Whether an error is one of ours."""
    text = str(error)
    named = any(f"{site.target}'" in text for site in program.sites)
    named = named or any(f"{site.target} and" in text for site in program.sites)
    return isinstance(error, REFUSALS) and named and "site" in text


def _failure(host, program, seed):
    with host.quiet():
        try:
            discrete = Discrete(host, program)
        except PartError as error:
            raise Invalid from error
        comparison = Comparison(host, discrete, np.random.default_rng(seed))
        return comparison.at_corners() or comparison.inside()


class Comparison:
    """The relaxed program beside the discrete one."""

    def __init__(self, host, discrete, rng):
        self.host, self.discrete, self.rng = host, discrete, rng
        self.program = discrete.program
        self.run = host.runner(self.program)
        self.promises = promises_of(discrete)
        text = self.program.text(host.name)
        # A function of booleans has single precision in JAX.
        dtypes = {variable.dtype for variable in discrete.variables.values()}
        is_single = "float32" in text or "float32" in dtypes
        self.tolerance = SINGLE if is_single else DOUBLE
        # Whoever cuts the gradient does not expect one.
        self.has_gradients = "detach" not in text and "stop_gradient" not in text

    # --- corners

    def at_corners(self):
        count = len(self.discrete.assignments)
        for state in self.rng.permutation(count)[: self.host.corners]:
            failure = self.at_corner(int(state))
            if failure:
                return failure
        return None

    def at_corner(self, state):
        point = self.corner(self.discrete.assignments[state])
        results = self.run(point)
        for name, variable in self.discrete.variables.items():
            kind = variable.shape, variable.dtype
            # One-hot samples are integers, and points of the simplex are reals.
            if (
                self.promises[name] is not Promise.ONE_HOT
                and results.kinds[name] != kind
            ):
                return Failure("shape or type", name, kind, results.kinds[name])
            expected, found = variable.states[state], results.means[name]
            is_one_hot = self.promises[name] is Promise.ONE_HOT
            if is_one_hot and self.host.simplifies_exponentials:
                found = np.where(np.isfinite(expected), found, expected)
            if not self.is_close(found, expected):
                return Failure("corner", name, expected, found)
        if "y" in results.means:
            expected = self.discrete.scores[state]
            found = results.means["y"]
            if not np.allclose(found, expected, SINGLE, SINGLE, equal_nan=True):
                return Failure("log-probability at a corner", "y", expected, found)
        return None

    def corner(self, assignment):
        logs = {}
        for name, index in self.discrete.indices_at(assignment).items():
            family = self.program.site(name).family
            classes = np.arange(len(family.values))
            logs[name] = np.where(classes == index[..., None], 0.0, CORNER_LOG)
            if family.is_binary:
                logs[name] = np.where(index == 1, -CORNER_LOG, CORNER_LOG)
        return self.point(logs)

    def point(self, logs):
        """Values of the relaxed sites; sites of one class have none."""
        return {
            f"{name}_relaxed": x
            for name, x in logs.items()
            if len(self.program.site(name).family.values) > 1
        }

    # --- inside

    def inside(self):
        probabilities, logs = {}, {}
        for site in self.program.sites:
            size = len(site.family.values)
            p = self.rng.dirichlet(np.ones(size), site.shape)
            p = (1 - EVEN_SHARE) * p + EVEN_SHARE / size
            probabilities[site.target], logs[site.target] = p, np.log(p)
            if site.family.is_binary:
                logs[site.target] = np.log(p[..., 1] / p[..., 0])
        weights = self.weights(probabilities)
        results = self.run(self.point(logs), with_gradients=True)
        means, gradients = results.means, results.gradients
        for name, variable in self.discrete.variables.items():
            promise = self.promises[name]
            if promise.is_exact:
                expected = np.tensordot(weights, variable.reals, 1)
                if not self.is_close(means[name], expected):
                    return Failure(promise.value, name, expected, means[name])
                failure = self.missing_gradient(
                    name, variable.reals, weights, gradients[name]
                )
                if failure:
                    return failure
        if "y" in means:
            return self.score_inside(weights, means["y"], gradients["y"])
        return None

    def score_inside(self, weights, mean, gradient):
        scores, observation = self.discrete.scores, self.program.observation
        is_finite = np.isfinite(scores).all()
        if np.isnan(mean):
            return Failure("log-probability inside", "y", "a number", mean)
        if is_finite and observation.observes_variable:
            promise = self.promises[observation.arguments["a"]]
            expected = weights @ scores
            if promise is Promise.WHOLE and not self.is_close(mean, expected):
                return Failure("log-probability of a soft value", "y", expected, mean)
        if not is_finite:
            return None
        return self.missing_gradient("y", scores, weights, gradient)

    def weights(self, probabilities):
        """The probability of every joint value, of independent elements."""
        found = []
        for assignment in self.discrete.assignments:
            pairs = zip(self.discrete.elements, assignment, strict=True)
            found.append(
                np.prod([probabilities[e.site][(*e.position, i)] for e, i in pairs])
            )
        return np.array(found)

    def missing_gradient(self, name, states, weights, gradient):
        """Return the failure at an element that a result has no gradient in, or None.

        The gradient has to be finite, and not zero in the elements that the result
        depends on; its value is not compared.
        """
        if gradient is None or not self.has_gradients:
            return None
        flat = states.reshape(len(states), -1)
        totals = flat @ combination(flat.shape[1])
        assignments = np.array(self.discrete.assignments)
        for column, element in enumerate(self.discrete.elements):
            values = [assignments[:, column] == i for i in range(element.size)]
            means = [np.average(totals[at], weights=weights[at]) for at in values]
            if np.ptp(means) < SMALLEST_EFFECT:
                continue
            found = gradient[f"{element.site}_relaxed"][element.position]
            is_nonzero = np.any(np.abs(found) > SMALLEST_GRADIENT)
            if not is_nonzero or not np.isfinite(found).all():
                where = f"one in {element.site}{list(element.position)}"
                return Failure("gradient", name, where, found)
        return None

    def is_close(self, found, expected):
        found, expected = np.asarray(found, float), np.asarray(expected, float)
        if found.shape != expected.shape:
            return False
        tolerance = self.tolerance
        return np.allclose(found, expected, tolerance, tolerance, equal_nan=True)
