"""Every model of the zoo, unmodified, under relax: see `zoo`.

At one-hot weights the relaxed program scores as the discrete one does, between them it
trains: finite, without a warning, with gradients through the likelihood.
"""

import functools

import example_models
import numpy as np
import pytest
from asserts import assert_exact
from backends import get_backend

T = 0.5


# XLA compiles each model for seconds, so that most of NumPyro's are marked slow: these
# have every mechanism.
QUICK = {
    "joint_mixture",
    "truncated_poisson",
    "masked_step_scan",
    "enumerated_beside",
    "switch_branch",
    "cond_branch",
}


def _case(host, entry):
    slow = host == "numpyro" and entry.name not in QUICK
    marks = [pytest.mark.slow] if slow else []
    return pytest.param((host, entry), id=f"{host}-{entry.name}", marks=marks)


@pytest.fixture(
    params=[_case(h, e) for e in example_models.ENTRIES.values() for h in e.hosts]
)
def case(request):
    return request.param


@pytest.fixture
def backend(case):
    return get_backend(case[0])


@pytest.fixture
def entry(case):
    return case[1]


@pytest.fixture(autouse=True)
def _double_precision(backend):
    with backend.double_precision():
        yield


class Program:
    """A model of the zoo, relaxed, with what its traces say of its sites."""

    def __init__(self, backend, entry):
        self.backend, self.entry = backend, entry
        self.model = example_models.model(backend.name, entry.name)
        self.args = backend.arguments(entry.data())
        self.relaxed = backend.package.relax(self.model, T, **entry.options)
        self.discrete_sites = backend.inspect(self.model, *self.args)
        self.relaxed_sites = backend.inspect(self.relaxed, *self.args)
        suffix = "_relaxed"
        names = [n for n in self.relaxed_sites if n.endswith(suffix)]
        self.sites = [n.removesuffix(suffix) for n in names]
        scored = (n for n, s in self.discrete_sites.items() if backend.is_scored(s))
        self.others = [n for n in scored if n not in self.sites]

    def draw(self, seed):
        """Values of the latent sites, from the prior."""
        sites = self.backend.trace(self.model, *self.args, seed=seed)
        return {n: s["value"] for n, s in sites.items() if self.backend.is_latent(s)}

    def points(self, values):
        """The same values for the relaxed program: hard points in log space."""
        found = {n: v for n, v in values.items() if n not in self.sites}
        for name in self.sites:
            site = self.relaxed_sites[name + "_relaxed"]
            found[name + "_relaxed"] = self._point(site, values[name])
        return found

    def _point(self, site, value):
        xp = self.backend.xp
        if self.backend.is_bit(site):
            return (2.0 * value - 1) * 1e4
        values = self.backend.relaxation.messages.record_of(site).values
        one_hot = values is None
        hit = value == 1 if one_hot else value[..., None] == xp.asarray(values)
        return xp.where(hit, 0.0, -1e4)

    def scores(self, fn, values):
        return self.backend.log_prob(fn, *self.args, values=values)


def gradients(program, drawn, logits, noise, without=None):
    """Gradients of the likelihood, or of all other sites, in a guide's logits."""
    backend = program.backend
    names = [n + "_relaxed" for n in program.sites]
    rest = {n: v for n, v in drawn.items() if n not in program.sites}
    observed = [n for n in program.others if n not in rest]

    def score(*logits):
        points = dict(rest)
        for name, a, g in zip(names, logits, noise, strict=True):
            y = (a + g) / T
            bit = backend.is_bit(program.relaxed_sites[name])
            points[name] = y if bit else backend.log_softmax(y)
        scores = program.scores(program.relaxed, points)
        chosen = observed if without is None else set(scores) - {without}
        return sum(scores[n] for n in chosen)

    return backend.gradients(score, *logits)


@functools.cache
def _program(backend, name):
    return Program(backend, example_models.ENTRIES[name])


@pytest.fixture
def program(backend, entry):
    return _program(backend, entry.name)


def test_no_discrete_latent_is_left(backend, entry, program):
    assert program.sites
    for name, site in program.relaxed_sites.items():
        left = backend.is_discrete_latent(site)
        assert left == (name in entry.enumerated), name


# What is drawn from the prior, on a GPU by another generator, may leave out more.
@pytest.mark.slow_on("numpyro")
@pytest.mark.filterwarnings("ignore:.*leaves out more than 1% of the probability")
def test_vertices_score_as_in_the_discrete_program_and_gradients_pass(backend, program):
    rng = np.random.default_rng(0)
    names = [n + "_relaxed" for n in program.sites]
    shapes = [np.shape(program.relaxed_sites[n]["value"]) for n in names]
    noise = [backend.array(rng.gumbel(size=s)) for s in shapes]
    logits = [backend.array(rng.normal(size=s)) for s in shapes]

    def examine(seed, *logits):
        drawn = program.draw(seed)
        discrete = program.scores(program.model, drawn)
        relaxed = program.scores(program.relaxed, program.points(drawn))
        return discrete, relaxed, drawn, gradients(program, drawn, logits, noise)

    examine = backend.jitted(examine)
    for seed in (1, 2):
        discrete, relaxed, drawn, found = examine(seed, *logits)
        for name in program.others:
            assert_exact(backend.numpy(relaxed[name]), backend.numpy(discrete[name]))
    for i, name in enumerate(names):
        if not np.abs(backend.numpy(found[i])).max() > 1e-12:
            # No datum depends on this site alone: the sites below it do.
            below = functools.partial(gradients, program, without=name)
            found = backend.jitted(below)(drawn, logits, noise)
        gradient = backend.numpy(found[i])
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 1e-12, name


@pytest.mark.slow_on("numpyro")
def test_a_step_of_svi_is_finite_and_warns_of_nothing(backend, entry, program):
    guides = example_models.guides(backend.name)
    guide = guides.mean_field(program.model, program.args, options=entry.options)
    losses, params = backend.two_steps(
        "TraceEnum" if entry.enumerated else "Trace",
        program.relaxed,
        backend.package.relax(guide, 2 / 3, **entry.options),
        *program.args,
        max_plate_nesting=entry.plates,
    )
    assert np.isfinite(losses).all()
    for value in params.values():
        assert np.isfinite(backend.numpy(value)).all()
