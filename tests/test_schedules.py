"""Temperatures that follow a schedule: one count of steps, saved and restored."""

import gc
import math

import numpy as np
import pytest
from asserts import assert_exact

DATA = np.random.default_rng(8).normal(size=6)
LOCS = np.array([-1.0, 0.0, 1.0])


def mixture(backend):
    """A mixture and a guide of it."""
    dist, log_softmax = backend.dist, backend.log_softmax

    def model(data):
        with backend.plate("rows", len(DATA)):
            z = backend.site("z", dist.Categorical(logits=backend.array(np.zeros(3))))
            loc = backend.array(LOCS)[z]
            backend.site("x", dist.Normal(loc, 1.0), obs=data)

    def guide(data):
        logits = backend.param("logits", backend.array(np.zeros((len(DATA), 3))))
        with backend.plate("rows", len(DATA)):
            backend.site("z", dist.Categorical(logits=log_softmax(logits)))

    return model, guide


def temperature(backend, program, params=None):
    """The temperature of the relaxed site in a run with these parameters."""
    data = backend.array(DATA)
    site = backend.trace(backend.with_params(program, params or {}), data)["z_relaxed"]
    return float(backend.numpy(site["fn"].temperature))


SCHEDULES = {
    "constant": (lambda s: s.Constant(0.7), lambda step: 0.7),
    "linear": (
        lambda s: s.Linear(1.0, 0.2, num_steps=8, hold=2),
        lambda step: 1.0 - 0.1 * min(max(step - 2, 0), 8),
    ),
    "exponential": (
        lambda s: s.Exponential(1.0, 0.25, num_steps=8, hold=1),
        lambda step: max(0.25, math.exp(-math.log(4) / 8 * max(step - 1, 0))),
    ),
    "steps": (
        lambda s: s.PiecewiseConstant({0: 1.0, 3: 0.5, 6: 0.1}),
        lambda step: 1.0 if step < 3 else 0.5 if step < 6 else 0.1,
    ),
    "function": (lambda _: lambda step: 1 / (1 + step), lambda step: 1 / (1 + step)),
}
schedules = pytest.mark.parametrize("name", SCHEDULES)


@schedules
def test_values(backend, name):
    make, expected = SCHEDULES[name]
    schedule = make(backend.package.schedules)
    for step in (0, 1, 2, 3, 5, 6, 9, 12, 10_000):
        found = backend.numpy(schedule(backend.array(float(step))))
        np.testing.assert_allclose(found, expected(step), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: s.Constant(0.0), "value must be positive"),
        (lambda s: s.Linear(1.0, -1.0, num_steps=3), "end must be positive"),
        (lambda s: s.Linear(1.0, 0.5, num_steps=0), "num_steps must be positive"),
        (lambda s: s.Exponential(float("nan"), 0.5, num_steps=3), "start must be"),
        (lambda s: s.PiecewiseConstant({1: 0.5}), "a temperature for step 0"),
        (lambda s: s.Learned(-0.5), "start must be positive"),
    ],
)
def test_numbers_out_of_range_are_refused(backend, make, message):
    with pytest.raises(ValueError, match=message):
        make(backend.package.schedules)


@schedules
def test_model_and_guide_follow_one_count(backend, name):
    make, expected = SCHEDULES[name]
    package, schedule = backend.package, make(backend.package.schedules)
    programs = [package.relax(p, schedule) for p in mixture(backend)]
    _, params = backend.train(
        "Trace", *programs, backend.array(DATA), steps=5, counted=True
    )
    for program in programs:
        found = temperature(backend, program, params)
        np.testing.assert_allclose(found, expected(5), rtol=1e-6)


def test_each_site_follows_its_own_schedule(backend):
    package = backend.package
    model, guide = mixture(backend)
    schedule = package.schedules.Linear(1.0, 0.5, num_steps=10)
    marked = package.config_relax(model, temperature=schedule)
    programs = package.relax(marked, 0.3), package.relax(guide, {"z": schedule})
    _, params = backend.train(
        "Trace", *programs, backend.array(DATA), steps=4, counted=True
    )
    for program in programs:
        found = temperature(backend, program, params)
        np.testing.assert_allclose(found, 0.8, rtol=1e-6)


def test_a_count_that_nobody_moves_is_an_error(backend):
    schedule = backend.package.schedules.Linear(1.0, 0.5, num_steps=10)
    programs = [backend.package.relax(p, schedule) for p in mixture(backend)]
    gc.collect()  # in Pyro any living optimizer that counts is enough
    with pytest.raises(ValueError, match=r"schedules\.count_steps\(optim\)"):
        backend.train("Trace", *programs, backend.array(DATA), steps=2)


def test_count_steps_takes_optimizers_alone(backend):
    with pytest.raises(TypeError, match="optimizer"):
        backend.package.schedules.count_steps("adam")


def test_a_temperature_that_turns_negative_is_refused_by_site(backend):
    program, _ = mixture(backend)
    relaxed = backend.package.relax(program, lambda step: -1.0)
    with pytest.raises(ValueError, match="temperature at site 'z'"):
        temperature(backend, relaxed)


def test_a_learned_temperature_moves_and_is_shared_by_name(backend):
    learned = backend.package.schedules.Learned
    model, guide = mixture(backend)
    relax = backend.package.relax
    model = relax(model, learned(0.5, "prior"), scoring="concrete")
    programs = model, relax(guide, learned(0.7), scoring="concrete")
    _, params = backend.train("Trace", *programs, backend.array(DATA), steps=5)
    prior, own = (float(backend.numpy(params[x])) for x in ("prior", "temperature"))
    assert prior > 0
    assert own > 0
    assert prior != 0.5
    assert own != 0.7
    assert_exact(temperature(backend, programs[0], params), prior)
    assert_exact(temperature(backend, programs[1], params), own)


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_run_that_is_resumed_ends_like_an_unbroken_one(backend, stop):
    schedule = backend.package.schedules.Exponential(1.0, 0.1, num_steps=8)
    programs = [backend.package.relax(p, schedule) for p in mixture(backend)]
    whole = backend.train_in_parts(*programs, backend.array(DATA), parts=(7,))
    parts = backend.train_in_parts(
        *programs, backend.array(DATA), parts=(stop, 7 - stop)
    )
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value)
    assert float(whole["temperature_step"].reshape(())) == 7


def test_a_schedule_compiles_once(backend):
    """Ten thousand steps of a jitted update, or of a traced ELBO in Pyro."""
    runs = []
    model, guide = mixture(backend)

    def counting(data):
        runs.append(1)
        return model(data)

    schedule = backend.package.schedules.Linear(1.0, 0.5, num_steps=10_000)
    programs = backend.package.relax(counting, schedule), guide
    programs = programs[0], backend.package.relax(guide, schedule)
    params, before = backend.train_compiled(
        *programs, backend.array(DATA), runs=runs, steps=10_000
    )
    assert len(runs) == before
    np.testing.assert_allclose(temperature(backend, programs[1], params), 0.5, 1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: s.Constant(float("inf")), "value must be positive and finite"),
        (lambda s: s.Linear(1.0, 0.5, num_steps=3, hold=-1), "hold must be at least 0"),
        (lambda s: s.Exponential(1.0, 0.5, 3, hold=-1), "hold must be at least 0"),
        (
            lambda s: s.PiecewiseConstant({0: float("inf")}),
            r"values\[0\] must be positive and",
        ),
    ],
)
def test_numbers_that_no_temperature_can_be_are_refused(backend, make, message):
    with pytest.raises(ValueError, match=message):
        make(backend.package.schedules)
