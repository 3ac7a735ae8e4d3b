"""The backends' own relaxed distributions as sites: what relax makes of them."""

import numpy as np
import pytest
from asserts import assert_exact, assert_mean
from reference import concrete, kl
from scipy.special import expit

T = 0.5  # of relax, which these sites do not take
OWN = 0.7
LOGITS = np.array([0.3, -1.2])


def is_hard(backend, family):
    return family.endswith("StraightThrough")


def native(backend, family, temperature=OWN, logits=LOGITS):
    make = getattr(backend.dist, family)
    return make(backend.array(temperature), logits=backend.array(logits))


BITS = ["RelaxedBernoulli", "RelaxedBernoulliStraightThrough"]
VECTORS = ["RelaxedOneHotCategorical", "RelaxedOneHotCategoricalStraightThrough"]


@pytest.fixture(params=BITS + VECTORS)
def family(request, backend):
    """A class of the backend's; NumPyro has one of them."""
    if not hasattr(backend.dist, request.param):
        assert backend.name == "numpyro"
        pytest.skip(f"NumPyro has no {request.param}")
    return request.param


def bits(backend, family="RelaxedBernoulli", **infer):
    """A model that does arithmetic with floats, as one for these classes does."""

    def model(x=None):
        fn = native(backend, family).to_event(1)
        z = backend.site("z", fn, infer=infer)
        loc = (z * backend.array([1.0, -2.0])).sum(-1)
        backend.site("x", backend.dist.Normal(loc, 1.0), obs=x)
        return z

    return model


def any_site(backend, family):
    if family in BITS:
        return bits(backend, family)
    return lambda: backend.site("z", native(backend, family))


def test_it_becomes_a_site_in_log_space_at_its_own_temperature(backend, family):
    relaxed = backend.package.relax(any_site(backend, family), T)
    sites = backend.trace(relaxed)
    assert "z_relaxed" in sites
    fn = sites["z_relaxed"]["fn"]
    value = backend.numpy(sites["z_relaxed"]["value"])
    log_prob = backend.numpy(fn.log_prob(backend.rebuilt(sites["z_relaxed"]["value"])))
    if family in BITS:
        log_density = concrete.logit_binary_concrete_log_density
        expected = log_density(value, OWN, LOGITS).sum()
        point = expit(value)
        hard = point.round()
    else:
        expected = concrete.exp_concrete_log_density(value, OWN, LOGITS)
        point = np.exp(value)
        hard = np.eye(2)[value.argmax()]
    assert_exact(log_prob, expected, scale=10)
    shown = backend.numpy(sites["z"]["value"])
    assert_exact(shown, hard if is_hard(backend, family) else point)


def test_the_program_gets_floats(backend, family):
    value = backend.call(backend.package.relax(any_site(backend, family), T))
    assert backend.dtype(value) == "float64"
    assert not backend.soft_index.is_soft(value)
    hardened = backend.package.harden(
        backend.package.relax(any_site(backend, family), T)
    )
    value = backend.call(hardened)
    assert backend.dtype(value) == "float64"
    assert set(np.unique(backend.numpy(value))) <= {0.0, 1.0}


@pytest.mark.statistical
def test_harden_samples_the_discrete_site(backend, family):
    def model():
        with backend.plate("rows", 10_000, dim=-1):
            fn = native(backend, family)
            backend.site("z", fn.to_event(1) if family in BITS else fn)

    hardened = backend.package.harden(backend.package.relax(model, T))
    sites = backend.trace(hardened)
    assert "z_relaxed" not in sites
    draws = backend.numpy(sites["z"]["value"])
    odds = np.exp(LOGITS)
    probs = expit(LOGITS) if family in BITS else odds / odds.sum()
    assert_mean(draws, probs)


def test_one_site_can_be_left_out(backend):
    sites = backend.trace(backend.package.relax(bits(backend, relax=False), T))
    assert "z_relaxed" not in sites
    value = backend.numpy(sites["z"]["value"])
    assert ((value > 0) & (value < 1)).all()
    chosen = backend.trace(backend.package.relax(bits(backend), T, sites=["x"]))
    assert "z_relaxed" not in chosen
    unmarked = backend.package.config_relax(bits(backend), default=False)
    assert "z_relaxed" not in backend.trace(backend.package.relax(unmarked, T))


def test_an_observed_site_stays(backend):
    value = backend.array([0.2, 0.9])
    model = backend.condition(bits(backend), {"z": value})
    assert "z_relaxed" not in backend.trace(backend.package.relax(model, T))


@pytest.mark.parametrize("by", ["mapping", "mark"])
def test_a_temperature_for_the_site_goes_before_its_own(backend, by):
    if by == "mapping":
        relaxed = backend.package.relax(bits(backend), {"z": 0.4})
    else:
        model = bits(backend, relax={"temperature": 0.4})
        relaxed = backend.package.relax(model, T)
    leaf = backend.leaf_of(backend.trace(relaxed)["z_relaxed"]["fn"])
    assert_exact(backend.numpy(leaf.temperature), 0.4)


def test_temperatures_for_each_element(backend):
    own = np.array([0.4, 0.9])

    def model():
        backend.site("z", native(backend, "RelaxedBernoulli", own).to_event(1))

    sites = backend.trace(backend.package.relax(model, T))
    value = backend.numpy(sites["z_relaxed"]["value"])
    log_density = concrete.logit_binary_concrete_log_density
    expected = log_density(value, own, LOGITS).sum()
    point = backend.rebuilt(sites["z_relaxed"]["value"])
    log_prob = backend.numpy(sites["z_relaxed"]["fn"].log_prob(point))
    assert_exact(log_prob, expected, scale=10)


def test_an_unknown_estimator_of_relax_is_that_of_classes_without_one(backend):
    """The class of a site decides where it has an estimator, and relax elsewhere."""
    package = backend.package
    relaxed = package.relax(bits(backend), T, estimator=package.ReinMax())
    fn = backend.trace(relaxed)["z_relaxed"]["fn"]
    assert isinstance(backend.leaf_of(fn), backend.distributions.HardBinary)


def guide_at(backend, model, logits):
    guide = backend.package.AutoConcrete(model, init_logits={"z": logits})
    params = backend.initial_params(guide, backend.array(0.4))
    return guide, params


def test_the_elbo_of_its_guide_is_exact(backend, family):
    """The KL at equal temperatures, where nothing is observed."""
    shift = np.array([1.5, -0.5])

    def model():
        fn = native(backend, family)
        backend.site("z", fn.to_event(1) if family in BITS else fn)

    relaxed = backend.package.relax(model, T)
    guide = backend.package.AutoConcrete(relaxed, init_logits={"z": LOGITS + shift})
    params = backend.initial_params(guide)
    loss = backend.loss("TraceMeanField", relaxed, guide, params=params)
    if family in BITS:
        expected = (shift / np.tanh(shift / 2) - 2).sum()
    else:
        expected = kl.exp_concrete_kl(LOGITS + shift, LOGITS)
    assert_exact(loss, expected, scale=10)


@pytest.mark.slow_on("numpyro")
def test_the_discrete_elbo_is_that_of_the_discrete_guide(backend):
    """By enumeration of the two bits, at a guide's own probabilities."""
    x, start = 0.4, np.array([0.6, -0.3])
    relaxed = backend.package.relax(bits(backend), T)
    guide, params = guide_at(backend, relaxed, start)
    harden = backend.package.harden
    draws = [
        -backend.loss(
            "Trace",
            harden(relaxed),
            harden(guide),
            backend.array(x),
            params=params,
            particles=1,
            seed=seed,
        )
        for seed in range(100)
    ]
    q = expit(start)
    p = expit(LOGITS)
    divergence = (q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))).sum()
    loc = q @ np.array([1.0, -2.0])
    variance = (q * (1 - q)) @ np.array([1.0, 4.0])
    likelihood = -0.5 * np.log(2 * np.pi) - 0.5 * ((x - loc) ** 2 + variance)
    assert_mean(draws, likelihood - divergence)


@pytest.mark.parametrize("kind", BITS)
def test_it_trains_and_hardens(backend, kind):
    if not hasattr(backend.dist, kind):
        pytest.skip(f"NumPyro has no {kind}")
    relaxed = backend.package.relax(bits(backend, kind), T)
    guide = backend.package.AutoConcrete(relaxed)
    data = backend.array(-2.0)
    losses, params = backend.train("Trace", relaxed, guide, data, steps=150, lr=0.1)
    assert losses[-30:].mean() < losses[:30].mean()
    # The first bit says 1 and the second -2: at x = -2 the second is one.
    guide = backend.with_params(guide, params)
    probabilities = backend.probabilities(getattr(guide, "fn", guide), params)["z"][
        ..., 1
    ]
    assert probabilities[1] > expit(LOGITS)[1]
    hardened = backend.package.harden(guide)
    sites = backend.trace(hardened, data)
    assert set(np.unique(backend.numpy(sites["z"]["value"]))) <= {0, 1}
