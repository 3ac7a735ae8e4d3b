"""The multi-sample bound, against evidences and expectations by enumeration."""

import itertools
import math

import numpy as np
import pytest
from asserts import assert_exact, assert_mean
from programs import DATA, two_layers
from scipy import special, stats

X = np.array([-2.1, -1.8, 1.9, 0.3, 2.2])
PRIOR = np.array([0.2, 0.5, 0.3])
LOCS = np.array([-1.0, 0.4, 1.5])
SCALE = 0.9
JOINT = np.log(PRIOR) + stats.norm.logpdf(X[:, None], LOCS, SCALE)
EVIDENCE = special.logsumexp(JOINT, -1)
POSTERIOR = JOINT - EVIDENCE[:, None]
LOGITS = np.random.default_rng(2).normal(size=(5, 3))


def mixture(backend, logits, **plate):
    """A mixture of three, and its guide with these logits for each data point."""
    prior, locs, scale = map(backend.array, (PRIOR, LOCS, SCALE))
    logits = backend.array(logits)

    def model(data):
        with backend.plate("data", len(data), **plate) as rows:
            z = backend.site("z", backend.dist.Categorical(prior))
            fn = backend.dist.Normal(locs[z], scale)
            backend.site("x", fn, obs=data[rows])

    def guide(data):
        with backend.plate("data", len(data), **plate) as rows:
            backend.site("z", backend.dist.Categorical(logits=logits[rows]))

    return model, guide


def bound(backend, model, guide, data=X, **kwargs):
    estimate = backend.evaluate(
        backend.package.iwae_bound, model, guide, backend.array(data), **kwargs
    )
    return backend.numpy(estimate)


def expected_bound(log_q, log_w, m):
    """The expectation of the bound over all draws of m particles."""
    draws = list(itertools.product(range(len(log_q)), repeat=m))
    logs = [special.logsumexp([log_w[k] for k in z]) - math.log(m) for z in draws]
    probs = [math.exp(sum(log_q[k] for k in z)) for z in draws]
    return float(np.dot(probs, logs))


@pytest.mark.parametrize(("m", "plate"), [(1, None), (7, None), (50, "data")])
def test_the_posterior_as_guide_gives_the_evidence_at_any_number(backend, m, plate):
    programs = mixture(backend, POSTERIOR)
    estimate = bound(backend, *programs, num_particles=m, plate=plate)
    assert_exact(estimate, EVIDENCE.sum())


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_elements_of_a_plate_have_their_own_evidence(backend, vectorize):
    programs = mixture(backend, POSTERIOR)
    settings = {"num_particles": 9, "chunk_size": 4, "vectorize_particles": vectorize}
    bounds = bound(backend, *programs, plate="data", per_element=True, **settings)
    assert_exact(bounds, EVIDENCE)


@pytest.mark.statistical
@pytest.mark.parametrize("m", [1, 2, 5])
def test_the_expectation_is_that_over_all_draws(backend, m):
    rows = 4000
    programs = mixture(backend, np.tile(LOGITS[0], (rows, 1)))
    bounds = bound(
        backend,
        *programs,
        np.full(rows, X[0]),
        num_particles=m,
        plate="data",
        per_element=True,
    )
    log_q = special.log_softmax(LOGITS[0])
    expected = [expected_bound(log_q, JOINT[0] - log_q, n) for n in (1, m, m + 1)]
    assert_mean(bounds, expected[1])
    assert expected[0] <= expected[1] < expected[2] < EVIDENCE[0]


@pytest.mark.statistical
def test_the_mean_at_one_particle_is_the_elbo(backend):
    rows = 4000
    programs = mixture(backend, np.tile(LOGITS[1], (rows, 1)))
    settings = {"num_particles": 1, "plate": "data", "per_element": True}
    bounds = bound(backend, *programs, np.full(rows, X[1]), **settings)
    q = special.softmax(LOGITS[1])
    assert_mean(bounds, (q * (JOINT[1] - np.log(q))).sum())


@pytest.mark.statistical
def test_many_particles_come_to_the_evidence(backend):
    m = 50_000
    programs = mixture(backend, LOGITS)
    estimate = bound(backend, *programs, num_particles=m, chunk_size=1000, plate="data")
    log_q = special.log_softmax(LOGITS, -1)
    # Of the weight over the evidence; half of it over m is the bias.
    variance = (np.exp(2 * POSTERIOR - log_q).sum(-1) - 1).sum()
    assert abs(estimate - EVIDENCE.sum()) < 5 * math.sqrt(variance / m) + variance / m


@pytest.mark.slow_on("numpyro")
def test_on_the_same_draws_it_is_the_host_s(backend):
    model, guide = mixture(backend, LOGITS)
    expected = backend.renyi_bound(model, guide, backend.array(X), particles=500)
    settings = {"num_particles": 500, "chunk_size": 500, "plate": "data"}
    assert_exact(bound(backend, model, guide, **settings), expected)


@pytest.mark.slow_on("numpyro")
def test_sites_with_axes_of_their_own_are_summed_over_them(backend):
    model, guide = two_layers(backend)
    expected = backend.renyi_bound(model, guide, backend.array(DATA), particles=50)
    settings = {"num_particles": 50, "chunk_size": 50, "plate": "rows"}
    assert_exact(bound(backend, model, guide, DATA, **settings), expected)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize(
    ("chunk_size", "plate"), [(50, "data"), (70, None), (10_000, "data")]
)
def test_chunks_give_the_bound_of_all_at_once(backend, chunk_size, plate):
    programs = mixture(backend, LOGITS)
    settings = {"num_particles": 500, "plate": plate, "seed": 3}
    single_chunk = bound(backend, *programs, chunk_size=500, **settings)
    several_chunks = bound(backend, *programs, chunk_size=chunk_size, **settings)
    assert_exact(several_chunks, single_chunk)


def test_the_sum_of_the_elements_is_the_bound(backend):
    programs = mixture(backend, LOGITS)
    total, elements = (
        bound(backend, *programs, num_particles=30, plate="data", per_element=flag)
        for flag in (False, True)
    )
    assert elements.shape == X.shape
    assert_exact(total, elements.sum())


def test_memory_is_that_of_one_chunk(backend):
    m = 5000
    rows = 60
    programs = mixture(backend, np.zeros((rows, 3)))
    data = np.linspace(-2, 2, rows)

    def largest(chunk_size):
        settings = {"num_particles": m, "chunk_size": chunk_size, "plate": "data"}
        return backend.largest_array(lambda: _run(backend, programs, data, settings))

    assert largest(m) >= m * rows
    # A number for each particle, or its key, is all that is kept.
    assert largest(100) <= 4 * m


def _run(backend, programs, data, settings):
    data = backend.array(data)
    return backend.evaluate(backend.package.iwae_bound, *programs, data, **settings)


@pytest.mark.slow_on("numpyro")
def test_a_subsample_is_one_for_all_particles_and_scaled(backend):
    programs = mixture(backend, POSTERIOR, subsample_size=3)
    settings = {"num_particles": 12, "chunk_size": 4, "plate": "data"}
    total, elements = (
        bound(backend, *programs, per_element=flag, seed=5, **settings)
        for flag in (False, True)
    )
    assert len(elements) == 3
    nearest = np.abs(elements[:, None] - EVIDENCE).argmin(-1)
    assert len(set(nearest)) == 3
    assert_exact(elements, EVIDENCE[nearest])
    assert_exact(total, 5 / 3 * elements.sum())


def test_masks_and_scales_are_those_of_the_sites(backend):
    model, guide = mixture(backend, POSTERIOR)
    is_unmasked = np.array([True, False, True, True, False])

    def changed(fn):
        def program(data):
            with backend.mask(backend.array(is_unmasked, "bool")), backend.scale(2.0):
                fn(data)

        return program

    settings = {"plate": "data", "per_element": True, "num_particles": 5}
    bounds = bound(backend, changed(model), changed(guide), **settings)
    assert_exact(bounds, 2 * EVIDENCE * is_unmasked)


def with_shift(backend, logits):
    """The mixture with a latent shift of all data, which is outside of the plate."""
    prior, locs, scale = map(backend.array, (PRIOR, LOCS, SCALE))
    normal = backend.dist.Normal(backend.array(0.0), backend.array(1.0))
    _, guide = mixture(backend, logits)

    def shifted(data):
        shift = backend.site("shift", normal)
        with backend.plate("data", len(data)):
            z = backend.site("z", backend.dist.Categorical(prior))
            fn = backend.dist.Normal(locs[z] + shift, scale)
            backend.site("x", fn, obs=data)

    def shifted_guide(data):
        backend.site("shift", normal)
        guide(data)

    return shifted, shifted_guide


def test_what_is_known_outside_of_the_plate_is_added_once(backend):
    data = {"shift": backend.array(0.7)}
    model = backend.condition(with_shift(backend, POSTERIOR)[0], data)
    _, guide = mixture(backend, POSTERIOR)
    estimate = bound(backend, model, guide, X + 0.7, plate="data", num_particles=11)
    assert_exact(estimate, EVIDENCE.sum() + stats.norm.logpdf(0.7))


def test_what_the_guide_fixes_outside_of_the_plate_is_added_once(backend):
    model, _ = with_shift(backend, POSTERIOR)
    _, guide = mixture(backend, POSTERIOR)

    def fixed(data):
        backend.site("shift", backend.dist.Delta(backend.array(0.7)))
        guide(data)

    estimate = bound(backend, model, fixed, X + 0.7, plate="data", num_particles=11)
    assert_exact(estimate, EVIDENCE.sum() + stats.norm.logpdf(0.7))


def test_keyword_arguments_reach_the_programs(backend):
    model, guide = mixture(backend, POSTERIOR)
    programs = [lambda *, data, fn=fn: fn(data) for fn in (model, guide)]
    estimate = backend.evaluate(
        backend.package.iwae_bound, *programs, num_particles=3, data=backend.array(X)
    )
    assert_exact(backend.numpy(estimate), EVIDENCE.sum())


def test_a_hardened_guide_is_the_discrete_one(backend):
    model, guide = mixture(backend, POSTERIOR)
    hard = backend.package.harden(backend.package.relax(guide, 0.5))
    estimate = bound(backend, model, hard, num_particles=10, plate="data")
    assert_exact(estimate, EVIDENCE.sum())


@pytest.mark.slow_on("numpyro")
def test_progress_is_shown_if_asked_for(backend, capsys):
    programs = mixture(backend, LOGITS)
    settings = {"num_particles": 30, "chunk_size": 20, "plate": "data"}
    quiet = bound(backend, *programs, **settings)
    assert capsys.readouterr().err == ""
    assert_exact(bound(backend, *programs, progress_bar=True, **settings), quiet)
    assert "30/30" in capsys.readouterr().err


def relaxed_guide(backend):
    model, guide = mixture(backend, LOGITS)
    return model, backend.package.relax(guide, 0.5)


def relaxed_model(backend):
    model, guide = mixture(backend, LOGITS)
    return backend.package.relax(model, 0.5), guide


def no_guide(backend):
    return mixture(backend, LOGITS)[0], lambda data: None


def other_guide(backend):
    bit = backend.dist.Bernoulli(backend.array(0.5))
    return mixture(backend, LOGITS)[0], lambda data: backend.site("other", bit)


def subsampled(backend):
    return mixture(backend, LOGITS, subsample_size=3)


def enumerated(backend):
    bit = backend.dist.Bernoulli(backend.array(0.5))
    infer = {"enumerate": "parallel"}
    return lambda data: backend.site("e", bit, infer=infer), lambda data: None


def tied(backend):
    _, guide = mixture(backend, LOGITS)
    unit = backend.array(1.0)

    def tied_model(data):
        with backend.plate("data", len(data)):
            prior = backend.dist.Categorical(backend.array(PRIOR))
            z = backend.site("z", prior)
        fn = backend.dist.Normal(unit * z.sum(), unit)
        backend.site("total", fn, obs=unit)

    return tied_model, guide


REFUSED = [
    (relaxed_guide, None, "'z_relaxed' of the guide is relaxed.*harden"),
    (relaxed_model, None, "'z_relaxed' of the model is relaxed.*before relax"),
    (no_guide, None, "'z' of the model is latent, but not in the guide"),
    (other_guide, None, "'other' of the guide is not in the model"),
    (enumerated, None, "'e'.*not in the guide.*enumeration.*Sample it there"),
    (lambda b: mixture(b, LOGITS), "dota", "no site is in a plate 'dota'.*'data'"),
    (subsampled, None, "plate 'data' takes a subsample.*plate='data'"),
    (lambda b: with_shift(b, LOGITS), "data", "'shift' is latent.*plate=None.*Delta"),
    (tied, "data", "outside of plate 'data' depend on draws.*plate=None"),
]
refused = pytest.mark.parametrize(
    ("programs", "plate", "words"),
    REFUSED,
    ids=lambda x: getattr(x, "__name__", "") if callable(x) else "",
)


@refused
def test_what_would_be_another_number_is_refused(backend, programs, plate, words):
    # On one site the backend's plate of one element may be enough; here one by one.
    settings = {"plate": plate, "vectorize_particles": False, "num_particles": 20}
    with pytest.raises(ValueError, match=words):
        bound(backend, *programs(backend), **settings)


@pytest.mark.slow_on("numpyro")
@refused
def test_what_would_be_another_number_is_not_trained(backend, programs, plate, words):
    loss = backend.package.IWAE(20, plate=plate)
    with pytest.raises(ValueError, match=words):
        backend.loss(loss, *programs(backend), backend.array(X))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_particles": 0}, "num_particles must be at least 1, not 0"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, not 0"),
        ({"per_element": True}, "per_element.* name it"),
    ],
)
def test_wrong_settings_are_refused(backend, settings, words):
    with pytest.raises(ValueError, match=words):
        bound(backend, *mixture(backend, LOGITS), **settings)
