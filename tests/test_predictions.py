"""Predictive with relaxed programs: discrete draws of the posterior, in any pairing.

A guide with P(z = 1) = 9/10 and tables of the two values give the predictions' means by
enumeration.
"""

import numpy as np
import pytest
from asserts import assert_mean
from backends import get_backend
from scipy import stats
from scipy.special import expit

T = 0.5
LOGIT = np.log(9.0)
LEVELS = (-5.0, 5.0)
RATES = (0.1, 0.8)
MEANS = {"z": 0.9, "x": 4.0, "y": 0.1 * 0.1 + 0.9 * 0.8}

pytestmark = pytest.mark.statistical


def switch(backend, prior=0.25):
    """A bit that chooses the level of x and the rate of y, which may be data."""

    def model(x=None, y=None):
        dist, array = backend.dist, backend.array
        z = backend.site("z", dist.Bernoulli(array(prior)))
        levels = array(LEVELS)
        rates = array(RATES)
        index = z.long() if backend.name == "pyro" else z
        backend.site("x", dist.Normal(levels[index], array(1.0)), obs=x)
        backend.site("y", dist.Bernoulli(rates[index]), obs=y)

    return model


def discrete_guide(backend):
    def guide(*_):
        backend.site("z", backend.dist.Bernoulli(logits=backend.array(LOGIT)))

    return guide


def hand_relaxed_guide(backend):
    def guide(*_):
        point = backend.package.LogitBinaryConcrete(T, logits=backend.array(LOGIT))
        backend.site("z_relaxed", point)

    return guide


def auto_guide(backend, model):
    guide = backend.package.AutoConcrete(model, init_logits={"z": LOGIT})
    params = backend.initial_params(guide, backend.array(0.3), backend.bit(1))
    return guide, params


def models(backend):
    relaxed = backend.package.relax(switch(backend), T)
    return {
        "discrete": switch(backend),
        "relaxed": relaxed,
        "hardened": backend.package.harden(relaxed),
    }


def guides(backend):
    package = backend.package
    auto, params = auto_guide(backend, package.relax(switch(backend), T))
    relaxed = package.relax(discrete_guide(backend), T)
    hand = hand_relaxed_guide(backend)
    plain = {
        "discrete": discrete_guide(backend),
        "relaxed": relaxed,
        "auto": auto,
        "hardened": package.harden(relaxed),
        "hardened auto": package.harden(auto),
        "hand-written": hand,
        "hardened hand-written": package.harden(hand),
    }
    return plain, params


PAIRS = [
    (model, guide)
    for model in ("discrete", "relaxed", "hardened")
    for guide in (
        "discrete",
        "relaxed",
        "auto",
        "hardened",
        "hardened auto",
        "hand-written",
        "hardened hand-written",
    )
    # Nothing of ours runs in the model, and the guide has no site of its own.
    if (model, guide) != ("discrete", "hand-written")
]


def assert_predictions(backend, draws, means, shape=()):
    for name, mean in means.items():
        values = backend.numpy(draws[name]).astype("float64")
        assert values.shape[1:] == shape
        assert_mean(values, mean)
        if name != "x":
            assert set(np.unique(values)) == {0.0, 1.0}


def without(means, *names):
    return {name: mean for name, mean in means.items() if name not in names}


@pytest.mark.parametrize(("model", "guide"), PAIRS)
def test_predictions_agree_with_enumeration(backend, model, guide):
    programs, params = guides(backend)
    draws = backend.predictive(
        models(backend)[model],
        programs[guide],
        params=params,
        samples=2000,
        parallel=True,
        return_sites=["z", "x", "y"],
    )
    assert_predictions(backend, draws, MEANS)


@pytest.mark.parametrize("guide", ["relaxed", "auto", "hardened auto"])
def test_one_prediction_at_a_time(backend, guide):
    programs, params = guides(backend)
    draws = backend.predictive(
        models(backend)["relaxed"],
        programs[guide],
        params=params,
        samples=200,
        parallel=False,
        return_sites=["z", "x", "y"],
    )
    assert_predictions(backend, draws, MEANS)


def test_prior_predictions_are_discrete(backend):
    model = models(backend)["relaxed"]
    draws = backend.predictive(model, None, samples=2000, parallel=True)
    means = {"z": 0.25, "x": -2.5, "y": 0.75 * 0.1 + 0.25 * 0.8}
    assert_predictions(backend, draws, means)


def test_observed_predictions_keep_the_data(backend):
    programs, params = guides(backend)
    draws = backend.predictive(
        models(backend)["relaxed"],
        programs["auto"],
        backend.array(0.3),
        params=params,
        samples=2000,
        parallel=True,
        return_sites=["z", "x", "y"],
    )
    assert (backend.numpy(draws["x"]) == 0.3).all()
    assert_predictions(backend, draws, without(MEANS, "x"))


@pytest.mark.parametrize("model", ["relaxed", "hardened"])
@pytest.mark.parametrize("is_relaxed", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_posterior_samples_are_kept(backend, model, is_relaxed, parallel):
    """Of the discrete site, or of the relaxed one, whose nearest value they are."""
    z = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    points = np.array([0.1, -0.1, -20.0, 20.0, 1.0, 2.0])
    samples = {"z": z if backend.name == "pyro" else z.astype(int)}
    if is_relaxed:
        # As MCMC has them, with the mean of the relaxed site beside it.
        samples = {"z_relaxed": points, "z": expit(points)}
    samples = {k: backend.array(v, str(v.dtype)) for k, v in samples.items()}
    sites = ["z", "x", "y"]
    draws = backend.predict(
        models(backend)[model], samples, parallel=parallel, return_sites=sites
    )
    if not is_relaxed or backend.name == "numpyro":  # Pyro gives back what was given
        np.testing.assert_array_equal(backend.numpy(draws["z"]), z)
    # Levels are ten standard deviations apart.
    np.testing.assert_array_equal(backend.numpy(draws["x"]) > 0, z == 1)
    assert set(np.unique(backend.numpy(draws["y"]))) <= {0, 1}


def rows(backend):
    """Sites of every kind in a plate: classes, a one-hot one and a count."""

    def model(x=None, m=None):
        dist, array = backend.dist, backend.array
        with backend.plate("rows", 5, dim=-1):
            c = backend.site("c", dist.Categorical(array([0.2, 0.3, 0.5])))
            h = backend.site("h", backend.one_hot(array([0.0, 1.0])))
            n = backend.site("n", dist.Poisson(array(0.4)))
            loc = array([0.0, 4.0, 10.0])[c] + h @ array([0.0, 1.0]) + n
            x = backend.site("x", dist.Normal(loc, array(0.1)), obs=x)
            backend.site("m", dist.Poisson(array(2.0) + c), obs=m)

    return model


PROBS = {"c": [0.1, 0.7, 0.2], "h": [0.75, 0.25], "n": [0.5, 0.25, 0.25]}


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("is_relaxed", [False, True])
def test_sites_of_every_kind(backend, is_relaxed):
    relaxed = backend.package.relax(
        rows(backend), T, truncate={"n": 2}, sites=["c", "h", "n"]
    )
    start = {name: np.log(probs) for name, probs in PROBS.items()}
    guide = backend.package.AutoConcrete(relaxed, init_logits=start)
    zeros = backend.array(np.zeros(5))
    params = backend.initial_params(guide, zeros, zeros)
    model = relaxed if is_relaxed else rows(backend)
    draws = backend.predictive(
        model,
        guide,
        params=params,
        samples=1000,
        parallel=True,
        return_sites=["c", "h", "n", "x", "m"],
    )
    c, h, n, x, m = (backend.numpy(draws[name]) for name in "chnxm")
    assert c.shape == n.shape == x.shape == m.shape == (1000, 5)
    assert h.shape == (1000, 5, 2)
    assert set(np.unique(c)) == {0, 1, 2} == set(np.unique(n))
    assert (np.sort(h) == [0, 1]).all()
    assert_mean(c, np.dot([0, 1, 2], PROBS["c"]))
    assert_mean(h[..., 1], 0.25)
    assert_mean(n, 0.75)
    assert_mean(x, 4 * 0.7 + 10 * 0.2 + 0.25 + 0.75)
    assert_mean(m, 2.0 + 1.1)
    assert (m == m.round()).all()
    loc = np.array([0.0, 4.0, 10.0])[c.astype(int)] + h[..., 1] + n
    assert np.abs(x - loc).max() < 1.0


@pytest.mark.slow_on("numpyro")
def test_a_new_guide_can_predict_at_once(backend):
    """As one that is made for parameters from a file."""

    def bit():
        return backend.site("z", backend.dist.Bernoulli(backend.array(0.25)))

    guide = backend.package.AutoConcrete(
        backend.package.relax(bit, T), init_logits={"z": LOGIT}
    )
    draws = backend.predictive(
        bit, guide, samples=2000, parallel=True, return_sites=["z"]
    )
    assert_predictions(backend, draws, {"z": 0.9})


@pytest.mark.slow_on("numpyro")
def test_reparameterized_sites_predict_discretely(backend):
    def model(x=None, y=None):
        dist, array = backend.dist, backend.array
        z = backend.site("z", dist.Bernoulli(array(0.25)))
        backend.site("x", dist.Normal(10.0 * z - 5.0, array(1.0)), obs=x)
        backend.site("y", dist.Bernoulli(0.7 * z + 0.1), obs=y)

    config = {"z": backend.package.ConcreteReparam(T)}
    model = backend.reparam(model, config)
    guide, params = auto_guide(backend, model)
    draws = backend.predictive(
        model,
        guide,
        params=params,
        samples=2000,
        parallel=True,
        return_sites=["z", "x", "y"],
    )
    assert_predictions(backend, draws, MEANS)


# --- what is no prediction, and Pyro's other predictive -----------------------------


def test_a_masked_program_is_trained_relaxed():
    """As one that pays nothing for its latent sites; NumPyro cannot tell it apart."""
    backend = get_backend("pyro")
    relaxed = backend.package.relax(switch(backend), T)
    masked = backend.pyro.poutine.mask(relaxed, mask=False)
    assert "z_relaxed" in backend.trace(masked)


@pytest.mark.parametrize("guide", ["relaxed", "auto", "hardened auto"])
def test_weighed_predictions_agree_with_enumeration(guide):
    backend = get_backend("pyro")
    programs, _ = guides(backend)
    data = backend.array(0.3), backend.array(1.0)
    family = backend.pyro.infer.WeighedPredictive
    predictive = family(
        switch(backend), guide=programs[guide], num_samples=2000, parallel=True
    )
    found = predictive(*data)
    z = backend.numpy(found.samples["z"])
    assert_mean(z, 0.9)
    joint = [
        np.log(p) + stats.norm.logpdf(0.3, level) + np.log(rate)
        for p, level, rate in zip((0.75, 0.25), LEVELS, RATES, strict=True)
    ]
    expected = np.array(joint) - np.log([0.1, 0.9])
    weights = backend.numpy(found.log_weights)
    np.testing.assert_allclose(weights, expected[z.astype(int)], rtol=1e-6)
