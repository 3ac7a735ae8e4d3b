"""RelaxedWarmup: which loss it is at a step, and where training with it ends."""

import math

import numpy as np
import pytest
from asserts import assert_exact
from scipy.special import log_softmax
from scipy.stats import norm

LOCS, X = np.array([-1.0, 0.5, 2.0]), 0.7


@pytest.fixture(autouse=True)
def _double_precision(backend):
    with backend.double_precision():
        yield


@pytest.fixture
def programs(backend):
    """A model of one integer, and a guide of it with logits `a`."""
    dist = backend.dist
    if backend.name == "pyro":
        backend.pyro.clear_param_store()

    def model():
        z = backend.site("z", dist.Categorical(logits=backend.array(np.zeros(3))))
        loc = backend.array(LOCS)[z]
        backend.site("x", dist.Normal(loc, backend.array(0.8)), obs=backend.array(X))

    def guide():
        logits = backend.param("a", backend.array(np.zeros(3)))
        backend.site("z", dist.Categorical(logits=logits))

    return model, guide


def best_elbo():
    """The evidence, which the guide of one site can reach."""
    terms = log_softmax(np.zeros(3)) + norm.logpdf(X, LOCS, 0.8)
    return np.log(np.exp(terms).sum())


@pytest.mark.parametrize("step", [0, 2, 3, 10])
def test_the_loss_changes_at_the_step(backend, programs, step):
    package = backend.package
    relaxed = [package.relax(p, 0.5, scoring="discrete") for p in programs]
    is_warming_up = step < 3
    warmup = package.RelaxedWarmup(3, package.RLOO(4), backend.elbo("Trace", 2))
    params = {"a": np.array([0.1, -0.3, 0.2])}
    counted = at_step(backend, params, step)
    loss, grads = backend.evaluated(warmup, *relaxed)(counted, 0)
    part = backend.elbo("Trace", 2) if is_warming_up else package.RLOO(4)
    of_part = relaxed if is_warming_up else programs
    expected_loss, expected_grads = backend.evaluated(part, *of_part)(params, 0)
    assert_exact(loss, expected_loss)
    assert_exact(grads["a"], expected_grads["a"])


def at_step(backend, params, step):
    """Parameters with the count of steps that an optimizer adds to them."""
    count = float(step) if backend.name == "pyro" else [float(step)]
    return params | {backend.package.schedules.STEP_PARAM: np.array(count)}


@pytest.mark.parametrize("auto", [False, True], ids=["own guide", "AutoConcrete"])
@pytest.mark.parametrize("step", [0, 5])
def test_sites_without_a_temperature_are_annealed(backend, programs, auto, step):
    package = backend.package
    warmup = package.RelaxedWarmup(8, package.RLOO(4))
    params = {"z_auto_logits" if auto else "a": np.array([0.1, -0.3, 0.2])}

    def evaluate(elbo, params, *temperature):
        relaxed = [package.relax(p, *temperature) for p in programs]
        if auto:
            relaxed[1] = package.AutoConcrete(relaxed[0])
        return backend.evaluated(elbo, *relaxed)(params, 0)

    loss, grads = evaluate(warmup, at_step(backend, params, step))
    of_step = 0.5 * 0.2 ** (step / 8)
    expected = evaluate(backend.elbo("Trace", 1), params, of_step)
    assert_exact(loss, expected[0])
    for name in params:
        assert_exact(grads[name], expected[1][name])
    # Outside of a warmup, as in an evaluation, the temperature is constant.
    loss, _ = evaluate(backend.elbo("Trace", 1), params)
    assert_exact(loss, evaluate(backend.elbo("Trace", 1), params, 0.2)[0])


def test_a_temperature_that_is_given_is_kept_in_a_warmup(backend, programs):
    package = backend.package
    relaxed = [package.relax(p, 0.3) for p in programs]
    params = {"a": np.array([0.1, -0.3, 0.2])}
    warmup = backend.evaluated(package.RelaxedWarmup(8), *relaxed)
    loss, _ = warmup(at_step(backend, params, 4), 0)
    expected, _ = backend.evaluated(backend.elbo("Trace", 1), *relaxed)(params, 0)
    assert_exact(loss, expected)


def test_learned_temperatures_start_as_outside_of_a_warmup(backend, programs):
    package = backend.package
    relaxed = package.relax(programs[0], scoring="concrete")
    guide = package.AutoConcrete(relaxed, learn_temperatures=True)
    warmup = package.RelaxedWarmup(8)
    # With a rate of zero, no step moves them.
    _, params = backend.train(warmup, relaxed, guide, steps=2, lr=0.0, counted=True)
    names = {"pyro": "AutoConcrete.learned_temperatures.z"}
    found = params[names.get(backend.name, "z_auto_temperature")]
    assert_exact(found, 0.2)


def test_the_end_is_chosen_anew_for_other_programs(backend):
    """Local expectations of one bit have no variance, and twelve bits are too many."""
    package, dist = backend.package, backend.dist
    one = backend.array(1.0)
    warmup = package.RelaxedWarmup(0)

    def variance(num_bits):
        def model():
            bits = dist.Bernoulli(probs=0.3 * one).expand([num_bits]).to_event(1)
            z = backend.site("z", bits)
            backend.site("x", dist.Normal(z.sum(-1), one), obs=2 * one)

        def guide():
            bits = dist.Bernoulli(logits=backend.param("a")).to_event(1)
            backend.site("z", bits)

        params = at_step(backend, {"a": np.zeros(num_bits)}, 0)
        relaxed = [package.relax(x) for x in (model, guide)]
        evaluate = backend.evaluated(warmup, *relaxed)
        return np.var([evaluate(params, seed)[1]["a"] for seed in range(4)], 0).max()

    assert variance(12) > 1e-3
    assert variance(1) < 1e-12


def test_enumerated_sites_stay_enumerated_at_the_end(backend, programs):
    """A site that the guide lacks, beside a relaxed one."""
    package, dist = backend.package, backend.dist
    table = backend.array([[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]])

    def model():
        z = backend.site("z", dist.Categorical(logits=backend.array(np.zeros(3))))
        bit = dist.Categorical(probs=table[z])
        y = backend.site("y", bit, infer={"enumerate": "parallel"})
        loc = backend.array(LOCS)[z] + y
        backend.site("x", dist.Normal(loc, backend.array(0.8)), obs=backend.array(X))

    enumerate_ = backend.elbo("TraceEnum", 1, max_plate_nesting=0)
    warmup = package.RelaxedWarmup(2, relaxed=enumerate_)
    relaxed = [package.relax(x, sites=["z"]) for x in (model, programs[1])]
    params = {"a": np.array([0.1, -0.3, 0.2])}
    loss, grads = backend.evaluated(warmup, *relaxed)(at_step(backend, params, 2), 0)
    hardened = [package.harden(x) for x in relaxed]
    expected = backend.evaluated(enumerate_, *hardened)(params, 0)
    assert_exact(loss, expected[0])
    assert_exact(grads["a"], expected[1]["a"])


@pytest.mark.parametrize("num_bits", [9, 10])
def test_local_expectations_end_the_training_where_they_are_cheap(backend, num_bits):
    """Bits that share a likelihood take a run each, and one for the draw."""
    package, dist = backend.package, backend.dist
    one = backend.array(1.0)
    runs = []

    def model():
        runs.append(0)
        bits = dist.Bernoulli(probs=0.3 * one).expand([num_bits]).to_event(1)
        z = backend.site("z", bits)
        backend.site("x", dist.Normal(z.sum(-1), one), obs=2 * one)

    def guide():
        bits = dist.Bernoulli(logits=backend.param("a")).to_event(1)
        backend.site("z", bits)

    params = {"a": np.linspace(-1.0, 1.0, num_bits)}
    relaxed = [package.relax(p) for p in (model, guide)]
    warmup = backend.evaluated(package.RelaxedWarmup(0), *relaxed)
    _, grads = warmup(at_step(backend, params, 5), 0)
    if backend.name == "pyro" and num_bits == 10:
        # The run that counts took random numbers, and there are eight more.
        runs.clear()
        warmup(at_step(backend, params, 5), 0)
        assert len(runs) == 1 + 8
        return
    objective = package.LocalExpectations() if num_bits < 10 else package.RLOO(8)
    _, expected = backend.evaluated(objective, model, guide)(params, 0)
    assert_exact(grads["a"], expected["a"])


@pytest.mark.parametrize("auto", [False, True], ids=["own guide", "AutoConcrete"])
def test_training_ends_at_the_discrete_optimum(backend, programs, auto):
    package = backend.package
    model, guide = [package.relax(p, 0.5) for p in programs]
    if auto:
        guide = package.AutoConcrete(model)
    elbo = package.RelaxedWarmup(100)
    losses, _ = backend.train(elbo, model, guide, steps=400, lr=0.05, counted=True)
    # The guide is nearly exact then, and all draws have nearly the same loss.
    assert abs(losses[-50:] + best_elbo()).max() < 0.1
    assert losses[-50:].mean() == pytest.approx(-best_elbo(), abs=0.01)


def test_the_steps_have_to_be_counted(backend, programs):
    package = backend.package
    model, guide = [package.relax(p, 0.5) for p in programs]
    with pytest.raises(ValueError, match="count_steps"):
        backend.train(package.RelaxedWarmup(3), model, guide, steps=2, counted=False)


@pytest.mark.parametrize("num_steps", [-1, math.inf, math.nan])
def test_a_warmup_has_a_finite_number_of_steps(backend, num_steps):
    with pytest.raises(ValueError, match=f"at least 0, but is {num_steps}"):
        backend.package.RelaxedWarmup(num_steps)


def test_the_number_of_steps_is_a_number(backend):
    with pytest.raises(TypeError, match="must be a number, but is '3'"):
        backend.package.RelaxedWarmup("3")
