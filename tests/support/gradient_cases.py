"""Estimators of ELBO gradients, each with its exact expectation on every fixture.

A new estimator is a line in `ESTIMATORS`: `test_estimators_exact.py` then measures it,
in both hosts, on each fixture that it fits, and the benchmark
`estimators_against_exact` prints it beside the others.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gradient_fixtures import FIXTURES, MEAN_OF_A_BIT, Fixture
from reference import elbo

# Of model and guide: the pair that the paper uses for two values.
TEMPERATURES = (1 / 2, 2 / 3)
# Four sites have a grid of four dimensions. See `noise_grid` for what a step costs.
_GRIDS = {"net": {"step": 1.0, "width": 14.0}}
_GRID = {"step": 0.7, "width": 18.0}


@dataclass(frozen=True)
class Estimator:
    """What estimates the gradient of an ELBO, and what it is in the mean.

    Attributes:
        name: What the table calls it.
        objective: Gives the name of the ELBO for a fixture.
        programs: From backend, model and guide: what the ELBO is given.
        expected: Exact expectation on a fixture.
        unbiased: Whether that is the gradient of the discrete ELBO, on every fixture.
        fits: Tells the fixtures that it can be used on.
    """

    name: str
    objective: Callable[[Fixture], str]
    programs: Callable
    expected: Callable[[Fixture], elbo.Arrays]
    unbiased: bool = False
    fits: Callable[[Fixture], bool] = lambda fixture: True


def _discrete(fixture):
    return elbo.discrete_gradient(fixture.program, fixture.params)


def _score_function(fixture):
    return "TraceEnum" if fixture.enumerated else "TraceGraph"


def _knows_kl(fixture):
    # TraceMeanField_ELBO wants the sites of model and guide in one order, and neither
    # host has it with enumeration.
    return fixture.name != "net" and not fixture.enumerated


def _relaxing(temperatures=TEMPERATURES, family=None, arguments=(), **settings):
    """Relax model and guide, with an estimator of ours where one is named."""

    def programs(backend, *pair):
        relax, chosen = backend.package.relax, dict(settings)
        if family is not None:
            chosen["estimator"] = getattr(backend.package, family)(*arguments)
        pairs = zip(pair, temperatures, strict=True)
        return [relax(fn, t, **chosen) for fn, t in pairs]

    return programs


def relaxed(name, scoring, mean_field=False):
    """Return the relaxed objective: soft values, and densities or masses of them."""
    score = "analytic" if mean_field and scoring == "discrete" else scoring

    def expected(fixture):
        grid = _GRIDS.get(fixture.name, _GRID)
        return elbo.relaxed_gradient(
            fixture.program, fixture.params, TEMPERATURES, score, **grid
        )

    return _pathwise(name, _relaxing(scoring=scoring), expected, mean_field)


def _pathwise(name, programs, expected, mean_field):
    if mean_field:
        kind = lambda fixture: "TraceMeanField"  # noqa: E731
        return Estimator(name, kind, programs, expected, fits=_knows_kl)
    kind = lambda fixture: "TraceEnum" if fixture.enumerated else "Trace"  # noqa: E731
    return Estimator(name, kind, programs, expected)


def hard(name, family, jacobian, t, *arguments, mean_field=False, **settings):
    """Return an estimator of hard samples that are scored by their mass."""
    score = "analytic" if mean_field else "discrete"

    def expected(fixture):
        return elbo.hard_gradient(fixture.program, fixture.params, t, score, jacobian)

    programs = _relaxing((t, t), family, arguments, **settings)
    return _pathwise(name, programs, expected, mean_field)


def hard_under_densities(name, family):
    """Return straight-through with the densities of the soft points behind it."""

    def expected(fixture):
        return elbo.straight_through_gradient(
            fixture.program, fixture.params, TEMPERATURES
        )

    programs = _relaxing(family=family, scoring="concrete")
    return _pathwise(name, programs, expected, mean_field=False)


def objective(name, family, fits=lambda fixture: not fixture.enumerated):
    """Return an unbiased objective of the discrete programs, an ELBO by its name."""
    kind = lambda fixture: family  # noqa: E731
    return Estimator(name, kind, lambda _, *pair: pair, _discrete, True, fits)


ESTIMATORS = {
    e.name: e
    for e in (
        Estimator(
            "score_function", _score_function, lambda _, *pair: pair, _discrete, True
        ),
        relaxed("relaxed", "concrete"),
        relaxed("relaxed_and_kl", "concrete", mean_field=True),
        relaxed("relaxed_masses", "discrete"),
        relaxed("relaxed_masses_and_kl", "discrete", mean_field=True),
        hard_under_densities("straight_through", "StraightThrough"),
        hard(
            "straight_through_masses",
            "StraightThrough",
            elbo.straight_through_jacobian,
            2 / 3,
            scoring="discrete",
        ),
        hard(
            "straight_through_cold",
            "StraightThrough",
            elbo.straight_through_jacobian,
            0.3,
            scoring="discrete",
        ),
        hard("gumbel_rao", "GumbelRao", elbo.straight_through_jacobian, 2 / 3, 10),
        hard("gumbel_rao_cold", "GumbelRao", elbo.straight_through_jacobian, 0.3, 10),
        hard("reinmax", "ReinMax", elbo.reinmax_jacobian, 1.0),
        hard("reinmax_warm", "ReinMax", elbo.reinmax_jacobian, 1.3),
        hard("reinmax_and_kl", "ReinMax", elbo.reinmax_jacobian, 1.0, mean_field=True),
        hard("zgr", "ZGR", elbo.zgr_jacobian, 2 / 3),
        objective("leave_one_out", "RLOO"),
        objective("local_expectations", "LocalExpectations"),
        objective("disarm", "DisARM", lambda fixture: fixture.bits),
        objective("rebar", "REBAR"),
    )
}
PAIRS = [(f, e) for f in FIXTURES for e, x in ESTIMATORS.items() if x.fits(FIXTURES[f])]


# --- numbers in one order


def flat(gradients, axes=0):
    """Arrays by name as one array, after their first so many axes."""
    arrays = [np.asarray(gradients[name]) for name in sorted(gradients)]
    return np.concatenate([x.reshape(*x.shape[:axes], -1) for x in arrays], -1)


@functools.cache
def exact(fixture):
    """The gradient of the discrete ELBO."""
    return flat(_discrete(FIXTURES[fixture]))


@functools.cache
def expected(fixture, estimator):
    """The exact expectation of an estimator on a fixture."""
    return flat(ESTIMATORS[estimator].expected(FIXTURES[fixture]))


# --- measured


@dataclass(frozen=True)
class Measured:
    """Gradients from a backend, each the mean of `particles` draws.

    Attributes:
        batches: Shape (batches, numbers among the parameters).
        particles: Number of draws to a batch.
    """

    batches: np.ndarray
    particles: int

    @property
    def mean(self):
        return self.batches.mean(0)

    @property
    def stderr(self):
        """Standard errors of the mean."""
        return self.batches.std(0, ddof=1) / math.sqrt(len(self.batches))

    @property
    def variance(self):
        """The total variance of the gradient of one draw."""
        return self.particles * self.batches.var(0, ddof=1).sum()

    def along(self, direction):
        """The same of one number, the component in a direction."""
        unit = direction / np.linalg.norm(direction)
        return Measured(self.batches @ unit[:, None], self.particles)


def slopes_of_a_mean(backend, t, batches=200, particles=10_000):
    """Measure the relaxed slope of the mean of a bit: see `MEAN_OF_A_BIT`."""
    pair = _relaxing((t, t))(backend, *MEAN_OF_A_BIT.programs(backend))
    kind = backend.objective("Trace", particles, 0)
    sampler = backend.gradient_sampler(kind, *pair, MEAN_OF_A_BIT.params)
    return Measured(flat(sampler(batches, seed=2), 1), particles)


def exact_slope_of_a_mean(t):
    """The relaxed slope of the mean of a bit, by quadrature."""
    program, params = MEAN_OF_A_BIT.program, MEAN_OF_A_BIT.params
    grid = {"step": 0.5 * min(t, 1), "width": 40}
    return elbo.relaxed_gradient(program, params, (t, t), "concrete", **grid)["a"]


def measured(backend, fixture, estimator, precision=None, batches=100, particles=5000):
    """Measure an estimator on a fixture.

    Args:
        backend: Who computes it.
        fixture: Name of a fixture.
        estimator: Name of an estimator.
        precision: Relative standard error, in the direction of the expected gradient,
            for which a first look decides on a number of batches.
        batches: Number of batches, at least.
        particles: Number of draws to a batch.
    """
    chosen, known = ESTIMATORS[estimator], FIXTURES[fixture]
    pair = chosen.programs(backend, *known.programs(backend))
    kind = backend.objective(chosen.objective(known), particles, known.plates)
    sampler = backend.gradient_sampler(kind, *pair, known.params)
    if precision is not None:
        target = expected(fixture, estimator)
        look = Measured(flat(sampler(50, seed=0), 1), particles).along(target)
        ratio = float(look.stderr[0] / np.linalg.norm(target) / precision)
        # The first look knows the spread to a tenth, and four of these are safe.
        batches = max(batches, math.ceil(50 * (1.4 * ratio) ** 2))
    return Measured(flat(sampler(batches, seed=1), 1), particles)
