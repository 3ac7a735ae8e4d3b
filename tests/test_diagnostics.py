"""The report on a relaxation, against closed forms and quadrature."""

import math

import numpy as np
import pytest
from asserts import assert_exact
from reference.kl import categorical_kl, exp_concrete_kl
from scipy import integrate, special, stats

GUIDE, MODEL = np.array([0.7, -0.4, 0.1]), np.array([-0.5, 0.3, 0.0])
T = 0.6


def categorical(backend, logits):
    fn = backend.dist.Categorical(logits=backend.array(logits))
    return lambda: backend.site("z", fn)


def bits(backend, logits):
    fn = backend.dist.Bernoulli(logits=backend.array(logits)).to_event(1)
    return lambda: backend.site("b", fn)


def report(backend, model, guide, temperature=T, **kwargs):
    relax = backend.package.relax
    programs = [relax(x, temperature, scoring="concrete") for x in (model, guide)]
    return backend.evaluate(backend.package.relaxation_gap, *programs, model, **kwargs)


@pytest.mark.slow_on("numpyro")
@pytest.mark.statistical
def test_one_site_has_the_elbos_in_closed_form(backend):
    m = 20_000
    model, guide = (categorical(backend, x) for x in (MODEL, GUIDE))
    found = report(backend, model, guide, num_particles=m, chunk_size=2000)
    relaxed = -exp_concrete_kl(GUIDE, MODEL)
    assert abs(found.relaxed_elbo - relaxed) < 5 * found.relaxed_stderr
    discrete = -categorical_kl(GUIDE, MODEL)
    assert abs(found.discrete_elbo - discrete) < 5 * found.discrete_stderr
    q, p = special.softmax(GUIDE), special.softmax(MODEL)
    log_w = np.log(p / q)
    error = math.sqrt((q * (log_w - q @ log_w) ** 2).sum() / m)
    # The standard error of a standard deviation, by the fourth moment.
    fourth = (q * (log_w - q @ log_w) ** 4).sum() / (m * error**2) ** 2
    assert abs(found.discrete_stderr / error - 1) < 5 * math.sqrt(fourth / m) / 2
    # The evidence of a model without data is one.
    assert abs(found.bound) < 5 * math.sqrt((p**2 / q).sum() - 1) / math.sqrt(m)
    assert found.num_particles == m


@pytest.mark.slow_on("numpyro")
def test_the_entropy_is_that_of_the_discrete_distribution(backend):
    guide = categorical(backend, GUIDE)
    (site,) = report(backend, guide, guide, num_particles=2).sites
    entropy = stats.entropy(special.softmax(GUIDE))
    assert (site.name, site.num_values) == ("z", 3)
    assert_exact(
        [site.entropy, site.normalized_entropy], [entropy, entropy / math.log(3)]
    )


@pytest.mark.slow_on("numpyro")
def test_the_entropies_of_bits_are_means_over_them(backend):
    logits = np.array([0.0, 2.0, -7.0, 40.0])
    guide = bits(backend, logits)
    (site,) = report(backend, guide, guide, num_particles=2).sites
    probs = special.expit(logits)
    entropy = np.mean(stats.entropy([probs, special.expit(-logits)], axis=0))
    assert (site.name, site.num_values) == ("b", 2)
    assert_exact(
        [site.entropy, site.normalized_entropy], [entropy, entropy / math.log(2)]
    )


@pytest.mark.slow_on("numpyro")
@pytest.mark.statistical
@pytest.mark.parametrize("temperature", [0.1, 0.6, 3.0])
def test_softness_is_the_entropy_of_the_points(backend, temperature):
    logit, m = 0.8, 20_000
    guide = bits(backend, [logit] * 5)

    def moment(power):
        def integrand(noise):
            share = special.expit((logit + noise) / temperature)
            soft = special.entr(share) + special.entr(1 - share)
            return soft**power * stats.logistic.pdf(noise)

        return integrate.quad(integrand, -40, 40, points=[-logit], limit=200)[0]

    found = report(backend, guide, guide, temperature, num_particles=m, chunk_size=m)
    mean, square = moment(1), moment(2)
    error = math.sqrt((square - mean**2) / (5 * m))
    (site,) = found.sites
    assert abs(site.softness - mean) < 5 * error
    assert_exact(site.normalized_softness, site.softness / math.log(2))


@pytest.mark.slow_on("numpyro")
def test_equal_programs_have_no_gap(backend):
    guide = categorical(backend, GUIDE)
    found = report(backend, guide, guide, num_particles=50)
    numbers = [found.discrete_elbo, found.discrete_stderr, found.bound]
    assert_exact([*numbers, found.relaxed_elbo, found.relaxed_stderr], np.zeros(5))


def data_programs(backend, subsample_size=None):
    prior = backend.dist.Categorical(logits=backend.array(MODEL))
    locs, one = backend.array([-1.0, 0.0, 2.0]), backend.array(1.0)
    data = backend.array([0.3, -0.8, 1.7, 2.1])
    logits = stats.norm.logpdf(backend.numpy(data)[:, None], [-1.0, 0.0, 2.0])
    logits = backend.array(logits + special.log_softmax(MODEL))

    def model():
        with backend.plate("data", 4, subsample_size=subsample_size) as rows:
            z = backend.site("z", prior)
            backend.site("x", backend.dist.Normal(locs[z], one), obs=data[rows])

    def posterior():
        with backend.plate("data", 4, subsample_size=subsample_size) as rows:
            backend.site("z", backend.dist.Categorical(logits=logits[rows]))

    return model, posterior, special.logsumexp(backend.numpy(logits), -1)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("settings", [{}, {"vectorize_particles": False}])
def test_the_posterior_s_elbo_and_bound_are_the_evidence(backend, settings):
    model, posterior, evidence = data_programs(backend)
    settings = {"num_particles": 10, "chunk_size": 4, "plate": "data", **settings}
    found = report(backend, model, posterior, **settings)
    assert_exact([found.discrete_elbo, found.bound], [evidence.sum()] * 2)


@pytest.mark.slow_on("numpyro")
def test_all_numbers_are_of_one_subsample(backend):
    model, posterior, evidence = data_programs(backend, subsample_size=2)
    found = report(backend, model, posterior, num_particles=10, plate="data", seed=1)
    assert_exact(found.discrete_elbo, found.bound)
    pairs = 2 * (evidence[:, None] + evidence)[np.triu_indices(4, 1)]
    assert_exact(pairs[np.abs(pairs - found.bound).argmin()], found.bound)


@pytest.mark.slow_on("numpyro")
def test_it_prints_as_two_tables_and_says_what_not_to_compare(backend):
    guide = categorical(backend, GUIDE)
    found = report(backend, guide, guide, num_particles=1234, chunk_size=1234)
    text = str(found)
    assert all(len(line) <= 88 for line in text.splitlines())
    for words in (
        "relaxed ELBO ",
        "discrete ELBO ",
        "multi-sample bound, m = 1234",
        "standard error",
        "Do not compare",
        "relaxed site  values",
        f"{found.sites[0].entropy:.4f}",
    ):
        assert words in text


def test_a_guide_without_relaxed_sites_is_refused(backend):
    guide = categorical(backend, GUIDE)
    with pytest.raises(ValueError, match=r"no site of the guide is relaxed.*relax\("):
        backend.evaluate(backend.package.relaxation_gap, guide, guide, guide)


def test_one_particle_has_no_standard_error(backend):
    guide = categorical(backend, GUIDE)
    with pytest.raises(ValueError, match="two particles, not 1"):
        report(backend, guide, guide, num_particles=1)


def test_a_relaxed_model_in_the_place_of_the_discrete_one_is_refused(backend):
    relaxed = backend.package.relax(categorical(backend, GUIDE), T)
    with pytest.raises(ValueError, match="'z_relaxed' of the model is relaxed"):
        backend.evaluate(backend.package.relaxation_gap, relaxed, relaxed, relaxed)
