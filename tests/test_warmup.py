"""RelaxedWarmup: which loss it is at a step, and where training with it ends."""

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
    count = np.array(float(step)) if backend.name == "pyro" else np.array([step], float)
    params = {"a": np.array([0.1, -0.3, 0.2])}
    counted = params | {package.schedules.STEP_PARAM: count}
    loss, grads = backend.evaluated(warmup, *relaxed)(counted, 0)
    part = backend.elbo("Trace", 2) if is_warming_up else package.RLOO(4)
    of_part = relaxed if is_warming_up else programs
    expected_loss, expected_grads = backend.evaluated(part, *of_part)(params, 0)
    assert_exact(loss, expected_loss)
    assert_exact(grads["a"], expected_grads["a"])


@pytest.mark.parametrize("auto", [False, True], ids=["own guide", "AutoConcrete"])
def test_training_ends_at_the_discrete_optimum(backend, programs, auto):
    package = backend.package
    model, guide = [package.relax(p, 0.5) for p in programs]
    if auto:
        guide = package.AutoConcrete(model)
    elbo = package.RelaxedWarmup(100, package.LocalExpectations())
    losses, _ = backend.train(elbo, model, guide, steps=400, lr=0.05, counted=True)
    # The guide is nearly exact then, and all draws have nearly the same loss.
    assert abs(losses[-50:] + best_elbo()).max() < 0.1
    assert losses[-50:].mean() == pytest.approx(-best_elbo(), abs=0.01)


def test_the_steps_have_to_be_counted(backend, programs):
    package = backend.package
    model, guide = [package.relax(p, 0.5) for p in programs]
    with pytest.raises(ValueError, match="count_steps"):
        backend.train(package.RelaxedWarmup(3), model, guide, steps=2, counted=False)


def test_a_warmup_has_no_negative_number_of_steps(backend):
    with pytest.raises(ValueError, match="at least 0, but is -1"):
        backend.package.RelaxedWarmup(-1)
