"""AutoConcrete on sites of every finite family, in every place: the discrete ELBO.

The guide's factors are independent, so that its ELBO is a sum over the values of the
site, which is compared with the ELBO of the draws, and with the evidence.
"""

import numpy as np
import pytest
from scipy import special, stats

T = 0.5
DRAWS = 400


def bernoulli(backend):
    return backend.dist.Bernoulli(backend.array([0.3, 0.6, 0.8]))


def categorical(backend):
    probs = [[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]]
    return backend.dist.Categorical(backend.array(probs))


def binomial(backend):
    return backend.dist.Binomial(3, backend.array([0.3, 0.6, 0.8]))


def poisson(backend):
    return backend.dist.Poisson(backend.array([0.3, 0.9, 0.5]))


def mixture(backend):
    """Of three bits for each element."""
    shares = backend.dist.Categorical(backend.array([[0.5, 0.3, 0.2]] * 3))
    parts = backend.dist.Bernoulli(backend.array(PARTS))
    return backend.dist.MixtureSameFamily(shares, parts)


def mixture_of_poissons(backend):
    shares = backend.dist.Categorical(backend.array([[0.5, 0.5]] * 3))
    rates = backend.array([[0.1, 0.8], [0.5, 0.3], [0.7, 0.2]])
    return backend.dist.MixtureSameFamily(shares, backend.dist.Poisson(rates))


def binomial_log_probs(count, probs):
    return stats.binom.logpmf(np.arange(count + 1), count, np.array(probs)[..., None])


def poisson_log_probs(rates, last=4):
    return stats.poisson.logpmf(np.arange(last + 1), np.array(rates)[..., None])


def mixed(log_shares, terms):
    return special.logsumexp(np.array(log_shares)[..., None] + terms, -2)


# Log-probabilities of the values 0, 1, ... of each of three elements.
ONE = np.array([0.3, 0.6, 0.8])
CATEGORIES = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
PARTS = np.array([[0.1, 0.5, 0.9], [0.2, 0.4, 0.6], [0.7, 0.8, 0.9]])
RATES = np.array([[0.1, 0.8], [0.5, 0.3], [0.7, 0.2]])
FAMILIES = {
    bernoulli: np.log(np.stack([1 - ONE, ONE], -1)),
    categorical: np.log(CATEGORIES),
    binomial: binomial_log_probs(3, ONE),
    poisson: poisson_log_probs([0.3, 0.9, 0.5]),
    mixture: mixed(np.log([0.5, 0.3, 0.2]), binomial_log_probs(1, PARTS)),
    mixture_of_poissons: mixed(np.log([0.5, 0.5]), poisson_log_probs(RATES)),
}
DATA = np.array([0.4, 1.3, -0.2])
MASK = np.array([True, False, True])


def in_plate(backend, fn, data):
    with backend.plate("rows", 3):
        z = backend.site("z", fn)
        backend.site("x", backend.dist.Normal(1.0 * z, 1.0), obs=data)


def in_event(backend, fn, data):
    z = backend.site("z", fn.to_event(1))
    backend.site("x", backend.dist.Normal(1.0 * z, 1.0).to_event(1), obs=data)


def in_event_in_plate(backend, fn, data):
    """Two rows of the event, the data of the second being zero."""
    zeros = backend.array(np.zeros(3))
    with backend.plate("rows", 2):
        z = backend.site("z", fn.expand([2, 3]).to_event(1))
        both = backend.xp.stack([data, zeros])
        backend.site("x", backend.dist.Normal(1.0 * z, 1.0).to_event(1), obs=both)


def under_mask(backend, fn, data):
    mask = backend.array(MASK, "bool")
    with backend.plate("rows", 3), backend.mask(mask):
        z = backend.site("z", fn)
        backend.site("x", backend.dist.Normal(1.0 * z, 1.0), obs=data)


CASES = [(family, in_event_in_plate) for family in FAMILIES]
CASES += [
    (family, place)
    for family in (bernoulli, categorical)
    for place in (in_plate, in_event, under_mask)
]


def expected_elbo(place, log_probs, logits):
    """Mean and variance of the log-weight, and the log evidence, by enumeration."""
    data = np.stack([DATA, np.zeros(3)]) if place is in_event_in_plate else DATA[None]
    logits = logits.reshape(*data.shape, -1)
    values = np.arange(log_probs.shape[-1])
    joint = log_probs + stats.norm.logpdf(data[..., None] - values)
    log_q = special.log_softmax(logits, -1)
    weights = joint - log_q
    mean = (np.exp(log_q) * weights).sum(-1)
    variance = (np.exp(log_q) * weights**2).sum(-1) - mean**2
    evidence = special.logsumexp(joint, -1)
    kept = MASK[None] if place is under_mask else np.ones_like(data, bool)
    return [x[kept].sum() for x in (mean, variance, evidence)]


@pytest.mark.slow_on("numpyro")
@pytest.mark.statistical
@pytest.mark.parametrize(("family", "place"), CASES)
def test_the_discrete_elbo_is_the_enumerated_one(backend, family, place):
    def model(data):
        place(backend, family(backend), data)

    log_probs = FAMILIES[family]
    shape = (2, 3) if place is in_event_in_plate else (3,)
    logits = np.random.default_rng(7).normal(size=(*shape, log_probs.shape[-1]))
    # A binary site has the logit of one.
    binary = family is bernoulli
    given = logits[..., 1] - logits[..., 0] if binary else logits
    relaxed = backend.package.relax(model, T, truncate={"z": 4})
    start = {"init_logits": {"z": backend.array(given)}}
    guide = backend.package.AutoConcrete(relaxed, 2 / 3, **start)
    data = backend.array(DATA)
    params = backend.initial_params(guide, data)
    hard = backend.package.harden(guide)
    sites = backend.trace(backend.with_params(hard, params), data)
    assert [k for k, s in sites.items() if backend.is_latent(s)] == ["z"]
    settings = {"params": params, "particles": DRAWS}
    loss = backend.loss("Trace", model, hard, data, **settings)
    mean, variance, evidence = expected_elbo(place, log_probs, logits)
    error = np.sqrt(variance / DRAWS)
    assert abs(-loss - mean) < 5 * error
    assert mean < evidence
    grads = backend.loss_grad("Trace", relaxed, guide, data, params=params)
    (grad,) = grads.values()
    reached = (grad.reshape(*given.shape[: len(shape)], -1) != 0).all(-1)
    expected = MASK if place is under_mask else np.ones(shape, bool)
    np.testing.assert_array_equal(reached, expected)


# --- sites with one value -------------------------------------------------------------


def constants(backend):
    dist = backend.dist

    def model(data):
        one = backend.site("one", dist.Categorical(backend.array([1.0])))
        both = dist.Categorical(backend.array(np.ones((2, 1)))).to_event(1)
        backend.site("both", both)
        # NumPyro's own one-hot vectors are of two classes or more.
        if backend.name == "pyro":
            one = one * backend.site("hot", backend.one_hot(backend.array([0.0]))).sum()
        with backend.plate("rows", 3, subsample_size=2) as rows:
            backend.site("none", dist.Binomial(0, backend.array(0.4)))
            z = backend.site("z", dist.Bernoulli(backend.array(0.3)))
            loc = 1.0 * z + one
            backend.site("x", dist.Normal(loc, 1.0), obs=data[rows])

    return model


@pytest.mark.slow_on("numpyro")
def test_sites_with_one_value_are_in_the_guide_once(backend):
    model, data = constants(backend), backend.array(DATA)
    relaxed = backend.package.relax(model, T)
    guide = backend.package.AutoConcrete(relaxed)
    params = backend.initial_params(guide, data)
    assert list(backend.probabilities(guide, params)) == ["z"]
    for program in (guide, backend.package.harden(guide)):
        sites = backend.trace(backend.with_params(program, params), data)
        latent = {k: s for k, s in sites.items() if backend.is_latent(s)}
        z = "z_relaxed" if program is guide else "z"
        hot = ["hot"] if backend.name == "pyro" else []
        assert sorted(latent) == sorted(["both", "none", "one", z, *hot])
        assert backend.numpy(latent["both"]["value"]).shape == (2,)
        assert backend.numpy(latent["none"]["value"]).shape == (2,)
        for name in hot:
            np.testing.assert_array_equal(backend.numpy(latent[name]["value"]), [1.0])
    # Not trained: NumPyro's SVI warns of every discrete site, whatever its values.
    assert np.isfinite(backend.loss("Trace", relaxed, guide, data, params=params))
    hard = backend.package.harden(guide)
    assert np.isfinite(backend.loss("Trace", model, hard, data, params=params))


# --- temperatures ---------------------------------------------------------------------


def rows(backend):
    def model(data):
        with backend.plate("rows", 3):
            z = backend.site("z", bernoulli(backend))
            backend.site("x", backend.dist.Normal(1.0 * z, 1.0), obs=data)

    return model


@pytest.mark.parametrize("of", ["model", "guide", "both"])
@pytest.mark.parametrize(
    "kind", ["number", "numpy number", "numpy array", "array", "row", "numpy row"]
)
def test_temperatures_of_every_kind_are_those_of_the_factors(backend, kind, of):
    value = np.array([0.4, 0.7, 0.9]) if "row" in kind else np.array(0.7)
    given = {
        "number": 0.7,
        "numpy number": np.float32(0.7),
        "numpy array": np.array(0.7),
        "array": backend.array(0.7),
        "row": backend.array(value),
        "numpy row": value,
    }[kind]
    relaxed = backend.package.relax(rows(backend), 0.5 if of == "guide" else given)
    own = None if of == "model" else given
    guide = backend.package.AutoConcrete(relaxed, own)
    data = backend.array(DATA)
    params = backend.initial_params(guide, data)
    site = backend.trace(backend.with_params(guide, params), data)["z_relaxed"]
    found = backend.numpy(backend.leaf_of(site["fn"]).temperature)
    np.testing.assert_allclose(found, value, rtol=1e-6)
    assert np.isfinite(backend.loss("Trace", relaxed, guide, data, params=params))


@pytest.mark.slow_on("numpyro")
def test_a_learned_temperature_has_a_gradient(backend):
    learned = backend.package.schedules.Learned(0.7, "t")
    relaxed = backend.package.relax(rows(backend), 0.5)
    guide = backend.package.AutoConcrete(relaxed, learned)
    data = backend.array(DATA)
    params = backend.initial_params(guide, data)
    grads = backend.loss_grad("Trace", relaxed, guide, data, params=params)
    assert len(grads) == 2
    assert all((grad != 0).all() for grad in grads.values())
