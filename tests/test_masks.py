"""Masks of latent sites: AutoConcrete's factors are masked as the model's sites are.

Where a guide is the exact posterior, the log-weight of each draw is the log evidence,
so that bounds are compared with it to rounding.
"""

import itertools

import numpy as np
import pytest
from scipy import special, stats

T = 0.5
DATA = np.array([0.4, -0.2, 1.1, 0.3])
PRIOR = special.logit(0.3)
# log N(y; 1, 1) - log N(y; 0, 1) = y - 1/2
POSTERIOR = PRIOR + DATA - 0.5
OF_EACH = np.log(0.7 * stats.norm.pdf(DATA) + 0.3 * stats.norm.pdf(DATA - 1))
MASKS = np.array([[True, False, False, True], [True, True, False, True], [False] * 4])


def by_handler(backend, mask, data):
    with backend.plate("rows", 4), backend.mask(mask):
        z = backend.site("z", backend.dist.Bernoulli(logits=backend.array(PRIOR)))
        backend.site("y", backend.dist.Normal(1.0 * z, 1.0), obs=data)


def by_nested_handlers(backend, mask, data):
    first = backend.array([True, True, False, True], "bool")
    with backend.plate("rows", 4), backend.mask(first), backend.mask(mask):
        z = backend.site("z", backend.dist.Bernoulli(logits=backend.array(PRIOR)))
        backend.site("y", backend.dist.Normal(1.0 * z, 1.0), obs=data)


def by_distribution(backend, mask, data):
    with backend.plate("rows", 4):
        fn = backend.dist.Bernoulli(logits=backend.array(PRIOR)).mask(mask)
        z = backend.site("z", fn)
        backend.site("y", backend.dist.Normal(1.0 * z, 1.0).mask(mask), obs=data)


def by_event(backend, mask, data):
    prior = backend.array(np.full(4, PRIOR))
    fn = backend.dist.Bernoulli(logits=prior).mask(mask).to_event(1)
    z = backend.site("z", fn)
    backend.site(
        "y", backend.dist.Normal(1.0 * z, 1.0).mask(mask).to_event(1), obs=data
    )


def by_obs_mask(backend, mask, data):
    """Zeros are observed where the mask is false."""
    fn = backend.dist.Bernoulli(logits=backend.array(PRIOR))
    with backend.plate("rows", 4):
        zeros = backend.array(np.zeros(4))
        z = backend.site("z", fn, obs=zeros, obs_mask=~mask)
        backend.site("y", backend.dist.Normal(1.0 * z, 1.0), obs=data)


WAYS = (by_handler, by_nested_handlers, by_distribution, by_event, by_obs_mask)


def guide_for(backend, model, *args, **logits):
    """A guide with these logits, its parameters, and the guide hardened."""
    relaxed = backend.package.relax(model, T)
    logits = {name: backend.array(x) for name, x in logits.items()}
    guide = backend.package.AutoConcrete(relaxed, 2 / 3, init_logits=logits)
    params = backend.initial_params(guide, *args)
    return relaxed, guide, params, backend.package.harden(guide)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("way", WAYS)
def test_bounds_of_the_posterior_are_the_evidence_under_every_mask(backend, way):
    def model(mask, data):
        way(backend, mask, data)

    data, masks = backend.array(DATA), [backend.array(x, "bool") for x in MASKS]
    name = "z_unobserved" if way is by_obs_mask else "z"
    _, _, params, hard = guide_for(backend, model, masks[0], data, **{name: POSTERIOR})
    for mask, array in zip(MASKS, masks, strict=True):
        expected = OF_EACH[mask].sum()
        if way is by_obs_mask:
            observed = np.log(0.7) + stats.norm.logpdf(DATA)
            expected = expected + observed[~mask].sum()
        if way is by_nested_handlers:
            expected = OF_EACH[mask & MASKS[1]].sum()
        loss = backend.loss("Trace", model, hard, array, data, params=params)
        np.testing.assert_allclose(-loss, expected, rtol=1e-6)
    settings = {"params": params, "num_particles": 3}
    bound = backend.package.iwae_bound
    found = backend.evaluate(bound, model, hard, masks[0], data, **settings)
    if way is not by_obs_mask:
        np.testing.assert_allclose(found, OF_EACH[MASKS[0]].sum(), rtol=1e-6)


@pytest.mark.slow_on("numpyro")
def test_a_mask_that_comes_after_the_first_call_is_found(backend):
    """By its argument, or, which only the discrete ELBO looks for, in a closure."""
    held = {"mask": None}

    def model(mask, data):
        mask = held["mask"] if mask is None else mask
        if mask is None:
            mask = True
        by_handler(backend, mask, data)

    data, mask = backend.array(DATA), backend.array(MASKS[0], "bool")
    expected = OF_EACH[MASKS[0]].sum()
    for given, kept in ((mask, None), (None, mask)):
        held["mask"] = None
        _, _, params, hard = guide_for(backend, model, None, data, z=POSTERIOR)
        loss = backend.loss("Trace", model, hard, None, data, params=params)
        np.testing.assert_allclose(-loss, OF_EACH.sum(), rtol=1e-6)
        held["mask"] = kept
        loss = backend.loss("Trace", model, hard, given, data, params=params)
        np.testing.assert_allclose(-loss, expected, rtol=1e-6)


def test_gradients_reach_the_elements_that_the_mask_of_the_call_keeps(backend):
    def model(mask, data):
        by_handler(backend, mask, data)

    data, masks = backend.array(DATA), [backend.array(x, "bool") for x in MASKS]
    relaxed, guide, params, _ = guide_for(backend, model, masks[0], data)
    for mask, array in zip(MASKS[:2], masks[:2], strict=True):
        grads = backend.loss_grad("Trace", relaxed, guide, array, data, params=params)
        (grad,) = grads.values()
        np.testing.assert_array_equal(grad != 0, mask)


def test_a_hand_written_guide_takes_masks_of_its_own(backend):
    def model(mask, data):
        by_handler(backend, mask, data)

    def guide(mask, data):
        with backend.plate("rows", 4), backend.mask(mask):
            logits = backend.array(POSTERIOR)
            backend.site("z", backend.dist.Bernoulli(logits=logits))

    data = backend.array(DATA)
    hard = backend.package.harden(backend.package.relax(guide, 2 / 3))
    for kept in MASKS[:2]:
        mask, expected = backend.array(kept, "bool"), OF_EACH[kept].sum()
        loss = backend.loss("Trace", model, hard, mask, data, params={})
        np.testing.assert_allclose(-loss, expected, rtol=1e-6)
        bound = backend.package.iwae_bound
        settings = {"params": {}, "num_particles": 3}
        found = backend.evaluate(bound, model, hard, mask, data, **settings)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow_on("numpyro")
@pytest.mark.statistical
def test_what_is_masked_has_the_values_of_the_model(backend):
    """A masked bit that still has an effect is drawn from the prior, not the guide."""

    def model(mask, data):
        with backend.plate("rows", 4):
            with backend.mask(mask):
                fn = backend.dist.Bernoulli(logits=backend.array(PRIOR))
                z = backend.site("z", fn)
            backend.site("y", backend.dist.Normal(1.0 * z, 1.0), obs=data)

    data, mask = backend.array(DATA), backend.array(MASKS[0], "bool")
    _, _, params, hard = guide_for(backend, model, mask, data, z=POSTERIOR)
    loss = backend.loss("Trace", model, hard, mask, data, params=params, particles=2000)
    terms = stats.norm.logpdf(DATA[None], np.array([[0.0], [1.0]]))[:, ~MASKS[0]]
    mean = 0.7 * terms[0] + 0.3 * terms[1]
    variance = 0.21 * (terms[0] - terms[1]) ** 2
    error = np.sqrt(variance.sum() / 2000)
    expected = OF_EACH[MASKS[0]].sum() + mean.sum()
    assert abs(-loss - expected) < 5 * error


@pytest.mark.slow_on("numpyro")
def test_continuous_sites_are_masked_as_well(backend):
    """The posterior of a standard normal is normal around y / 2, of variance 1 / 2."""

    def model(mask, data):
        with backend.plate("rows", 4), backend.mask(mask):
            fn = backend.dist.Normal(backend.array(0.0), 1.0)
            x = backend.site("x", fn)
            backend.site("y", backend.dist.Normal(x, 1.0), obs=data)
        backend.site("z", backend.dist.Bernoulli(logits=backend.array(PRIOR)))

    data, mask = backend.array(DATA), backend.array(MASKS[0], "bool")
    _, _, params, hard = guide_for(backend, model, mask, data)
    start = {"loc": DATA / 2, "scale": np.full(4, np.sqrt(0.5))}
    for key in params:
        for kind, value in start.items():
            if kind in key:
                params[key] = backend.array(value)
    for kept in MASKS:
        array = backend.array(kept, "bool")
        loss = backend.loss("Trace", model, hard, array, data, params=params)
        expected = stats.norm.logpdf(DATA[kept], 0.0, np.sqrt(2.0)).sum()
        np.testing.assert_allclose(-loss, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow_on("numpyro")
def test_a_flat_prior_is_one_beside_a_masked_site(backend):
    """`mask(False)` of a continuous site: the posterior is the likelihood."""

    def model(mask, data):
        fn = backend.dist.Normal(backend.array(0.0), 1.0).mask(False)
        x = backend.site("x", fn)
        backend.site("w", backend.dist.Normal(x, 1.0), obs=backend.array(0.8))
        by_handler(backend, mask, data)

    data, mask = backend.array(DATA), backend.array(MASKS[0], "bool")
    _, _, params, hard = guide_for(backend, model, mask, data, z=POSTERIOR)
    for key in params:
        if "loc" in key or "scale" in key:
            params[key] = backend.array(0.8 if "loc" in key else 1.0)
    loss = backend.loss("Trace", model, hard, mask, data, params=params)
    np.testing.assert_allclose(-loss, OF_EACH[MASKS[0]].sum(), rtol=1e-6)


# --- sequences of different lengths ---------------------------------------------------

STEPS, LENGTHS = 3, np.array([3, 1])
FIRST, STEP = np.array([0.6, 0.4]), np.array([[0.8, 0.2], [0.3, 0.7]])
LOCS = np.array([-1.0, 1.5])
SEQUENCES = np.array([[0.3, -0.8, 1.2], [0.9, 7.0, 7.0]])


def padded(backend):
    dist, array = backend.dist, backend.array

    def model(lengths, data):
        with backend.plate("sequences", 2):
            probs = array(FIRST)
            for t in range(STEPS):
                with backend.mask(t < lengths):
                    z = backend.site(f"z_{t}", dist.Categorical(probs))
                    fn = dist.Normal(array(LOCS)[z], 1.0)
                    backend.site(f"x_{t}", fn, obs=data[:, t])
                probs = array(STEP)[z]

    return model


def path_log_prob(path, data):
    probs = [FIRST, *(STEP[k] for k in path[:-1])]
    scores = [np.log(p[k]) for p, k in zip(probs, path, strict=True)]
    return sum(scores) + stats.norm.logpdf(data[: len(path)], LOCS[list(path)]).sum()


def log_weights(data, length, log_q):
    """Log-weight and log-probability of each path of a sequence under the guide."""
    paths = list(itertools.product(range(2), repeat=length))
    own = np.array([sum(log_q[t, k] for t, k in enumerate(p)) for p in paths])
    return np.array([path_log_prob(p, data) for p in paths]) - own, own


@pytest.mark.slow_on("numpyro")
@pytest.mark.statistical
def test_a_padded_chain_has_the_enumerated_elbo_and_evidence(backend):
    logits = np.random.default_rng(3).normal(size=(STEPS, 2, 2))
    model, data = padded(backend), backend.array(SEQUENCES)
    lengths = backend.array(LENGTHS, "int64")
    starts = {f"z_{t}": logits[t] for t in range(STEPS)}
    _, _, params, hard = guide_for(backend, model, lengths, data, **starts)
    for lengths in (LENGTHS, LENGTHS[::-1].copy()):
        mean = variance = evidence = 0.0
        for i, length in enumerate(lengths):
            log_q = special.log_softmax(logits[:, i], -1)
            weights, own = log_weights(SEQUENCES[i], length, log_q)
            moments = [np.exp(own) @ weights**k for k in (1, 2)]
            mean, variance = mean + moments[0], variance + moments[1] - moments[0] ** 2
            evidence = evidence + special.logsumexp(weights + own)
        given = backend.array(lengths, "int64")
        settings = {"params": params, "particles": 1000}
        loss = backend.loss("Trace", model, hard, given, data, **settings)
        error = np.sqrt(variance / 1000)
        assert abs(-loss - mean) < 5 * error
        assert -loss < evidence + 5 * error
