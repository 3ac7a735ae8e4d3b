"""Families that relax takes, their supports and truncation, and marks of one site."""

import numpy as np
import pytest
from asserts import assert_exact
from scipy import special, stats

T = 0.5
_P = np.array([0.3, 0.6])
_R = np.array([1.5, 4.0])


def one_site(backend, make):
    def program():
        backend.site("n", make(backend.dist))

    return program


def ordered_probs():
    edges = special.expit(np.array([-1.0, 0.5])[:, None] - _R)
    return np.diff(edges, axis=0, prepend=0, append=1).T


def zero_inflated(pmf, gate):
    pmf = (1 - gate)[..., None] * pmf
    pmf[..., 0] += gate
    return pmf


# A distribution of two batch elements, and the probabilities of its values by scipy.
FINITE = {
    "Bernoulli": (
        lambda a, d: d.Bernoulli(probs=a(_P)),
        stats.bernoulli.pmf(range(2), _P[:, None]),
    ),
    "Categorical": (
        lambda a, d: d.Categorical(probs=a([[0.2, 0.8], [0.5, 0.5]])),
        np.array([[0.2, 0.8], [0.5, 0.5]]),
    ),
    "Binomial": (
        lambda a, d: d.Binomial(3, probs=a(_P)),
        stats.binom.pmf(range(4), 3, _P[:, None]),
    ),
    "Binomial of logits": (
        lambda a, d: d.Binomial(3, logits=a(special.logit(_P))),
        stats.binom.pmf(range(4), 3, _P[:, None]),
    ),
    "Binomial of two counts": (
        lambda a, d: d.Binomial(a([2.0, 4.0]), probs=a(_P)),
        stats.binom.pmf(range(5), np.array([[2], [4]]), _P[:, None]),
    ),
    "BetaBinomial": (
        lambda a, d: d.BetaBinomial(a(_R), a(2.0), 3),
        stats.betabinom.pmf(range(4), 3, _R[:, None], 2.0),
    ),
    "BetaBinomial of two counts": (
        lambda a, d: d.BetaBinomial(a(_R), a(2.0), a([1.0, 3.0])),
        stats.betabinom.pmf(range(4), np.array([[1], [3]]), _R[:, None], 2.0),
    ),
    "OrderedLogistic": (
        lambda a, d: d.OrderedLogistic(a(_R), a([-1.0, 0.5])),
        ordered_probs(),
    ),
    "zero-inflated Binomial": (
        lambda a, d: d.ZeroInflatedDistribution(d.Binomial(3, a(_P)), gate=a(_P)),
        zero_inflated(stats.binom.pmf(range(4), 3, _P[:, None]), _P),
    ),
}
K = 6
UNBOUNDED = {
    "Poisson": (
        lambda a, d: d.Poisson(a(_R)),
        stats.poisson.pmf(range(K + 1), _R[:, None]),
    ),
    "zero-inflated Poisson": (
        lambda a, d: (
            d.ZeroInflatedPoisson(a(_R), gate=a(_P))
            if hasattr(d, "ZeroInflatedDistribution") and d.__name__.startswith("pyro")
            else d.ZeroInflatedPoisson(a(_P), a(_R))
        ),
        zero_inflated(stats.poisson.pmf(range(K + 1), _R[:, None]), _P),
    ),
    "Geometric": (
        lambda a, d: d.Geometric(probs=a(_P)),
        stats.geom.pmf(np.arange(K + 1) + 1, _P[:, None]),
    ),
    "GammaPoisson": (
        lambda a, d: d.GammaPoisson(a(_R), a(2.0)),
        stats.nbinom.pmf(range(K + 1), _R[:, None], 2 / 3),
    ),
}


def relaxed_logits(backend, sites):
    fn = sites["n_relaxed"]["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return backend.numpy(fn.logits)


@pytest.mark.parametrize("case", FINITE.values(), ids=FINITE.keys())
def test_a_finite_family_relaxes_with_its_own_log_probabilities(backend, case):
    make, probs = case
    program = one_site(backend, lambda d: make(backend.array, d))
    with backend.double_precision():
        sites = backend.trace(backend.package.relax(program, T))
    logits = relaxed_logits(backend, sites)
    if probs.shape[-1] == 2 and logits.shape == (2,):
        logits = np.stack([np.zeros(2), logits], -1)
    assert_exact(special.softmax(logits, -1), probs)
    assert np.isfinite(logits).all()
    value = backend.numpy(sites["n"]["value"])
    assert value.shape == (2,)
    assert (value >= 0).all()
    assert (value <= probs.shape[-1] - 1).all()


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("case", UNBOUNDED.values(), ids=UNBOUNDED.keys())
def test_an_unbounded_family_is_truncated_and_has_the_truncated_mass(backend, case):
    make, probs = case
    program = one_site(backend, lambda d: make(backend.array, d))
    relax = backend.package.relax
    with pytest.warns(UserWarning, match=r"'n': truncation at 6 leaves out more than"):
        sites = backend.trace(relax(program, T, truncate={"n": K}))
    assert_exact(relaxed_logits(backend, sites), np.log(probs))
    truncated_mass = backend.numpy(sites["n_truncated_mass"]["value"])
    assert_exact(truncated_mass, 1 - probs.sum(-1))
    # By mass: the smallest truncation that leaves out no more, for all elements.
    mass = 1 - probs.cumsum(-1).min(0)
    with pytest.warns(UserWarning, match="truncation at 4 "):
        sites = backend.trace(relax(program, T, truncate=float(mass[4]) + 1e-6))
    assert relaxed_logits(backend, sites).shape == (2, 5)


@pytest.mark.parametrize("case", UNBOUNDED.values(), ids=UNBOUNDED.keys())
def test_an_unbounded_family_without_truncation_is_an_error(backend, case):
    program = one_site(backend, lambda d: case[0](backend.array, d))
    with pytest.raises(ValueError, match=r"(?s)'n' ~ .*truncate=.*'relax': False"):
        backend.call(backend.package.relax(program, T))


@pytest.mark.parametrize("truncate", [-1, 0.0, 1.5])
def test_a_truncation_that_makes_no_sense_is_an_error(backend, truncate):
    program = one_site(backend, lambda d: d.Poisson(backend.array(_R)))
    with pytest.raises(ValueError, match=r"'n': truncate is the largest value"):
        backend.call(backend.package.relax(program, T, truncate=truncate))


def test_vectors_of_counts_are_an_error(backend):
    probs = backend.array([0.2, 0.3, 0.5])
    program = one_site(backend, lambda d: d.Multinomial(4, probs))
    with pytest.raises(NotImplementedError, match=r"'n' ~ Multinomial"):
        backend.call(backend.package.relax(program, T))


def test_a_hard_truncated_site_is_drawn_from_what_is_left(backend):
    """And its log-probability is that of the truncated distribution."""
    program = one_site(backend, lambda d: d.Poisson(backend.array(_R)))
    relaxed = backend.package.relax(program, T, truncate=20)
    sites = backend.trace(backend.package.harden(relaxed))
    assert "n_relaxed" not in sites or sites["n_relaxed"]["value"] is not None
    pmf = stats.poisson.pmf(range(21), _R[:, None])
    for n in (0, 3, 20):
        fixed = {"n": backend.array([float(n), float(n)])}
        scores = backend.log_prob(backend.package.harden(relaxed), values=fixed)
        expected = np.log(pmf[:, n] / pmf.sum(-1)).sum()
        assert_exact(backend.numpy(scores["n"]), expected)
    value = backend.numpy(sites["n"]["value"])
    assert (value == value.astype(int)).all()


# --- marks --------------------------------------------------------------------------


def two_sites(backend, first=None, second=None):
    def program():
        fn = backend.dist.Categorical(logits=backend.array(np.zeros(3)))
        backend.site("a", fn, infer=dict(first or {}))
        backend.site("b", fn, infer=dict(second or {}))

    return program


def temperatures(backend, program):
    """The temperatures of the relaxed sites, by site."""
    sites = backend.trace(program)
    found = {}
    for name, site in sites.items():
        if name.endswith("_relaxed"):
            value = backend.numpy(site["fn"].temperature)
            found[name.removesuffix("_relaxed")] = float(value)
    return found


def test_a_temperature_for_each_site(backend):
    relax, program = backend.package.relax, two_sites(backend)
    mapped = relax(program, {"a": 0.5, "b": 2.0})
    assert temperatures(backend, mapped) == {"a": 0.5, "b": 2.0}
    # The other site has the default.
    assert temperatures(backend, relax(program, {"a": 0.5}))["b"] == pytest.approx(0.2)
    hard = relax(program, estimator=backend.package.ReinMax())
    assert temperatures(backend, hard) == {"a": 1.0, "b": 1.0}
    with pytest.raises(ValueError, match="temperature must be positive"):
        relax(program, {"a": 0.5, "b": -1.0})


def test_a_mark_sets_the_temperature_of_one_site(backend):
    program = two_sites(backend, {"relax": {"temperature": 2.0}})
    relaxed = backend.package.relax(program, T)
    assert temperatures(backend, relaxed) == {"a": 2.0, "b": T}


def test_config_relax_marks_what_has_no_mark(backend):
    package = backend.package
    program = two_sites(backend, {"relax": {"temperature": 2.0}})
    marked = package.config_relax(program, temperature=3.0)
    relaxed = package.relax(marked, T)
    assert temperatures(backend, relaxed) == {"a": 2.0, "b": 3.0}
    left = package.config_relax(default=False)(program)
    assert temperatures(backend, package.relax(left, T)) == {"a": 2.0}
    enumerated = two_sites(backend, {"enumerate": "parallel"})
    relaxed = package.relax(package.config_relax(enumerated), T)
    assert temperatures(backend, relaxed) == {"b": T}


def test_a_named_site_is_relaxed_even_if_it_is_marked_for_enumeration(backend):
    mark = {"enumerate": "parallel"}
    program = two_sites(backend, mark, mark)
    relax = backend.package.relax
    assert temperatures(backend, relax(program, T)) == {}
    assert temperatures(backend, relax(program, T, sites=["a"])) == {"a": T}
    opted_out = two_sites(backend, {"relax": False})
    assert temperatures(backend, relax(opted_out, T, sites=["a"])) == {}


# --- soft parameters ----------------------------------------------------------------


def test_a_soft_integer_parameter_is_averaged_over(backend):
    counts, probs = np.arange(4), np.array([0.1, 0.2, 0.3, 0.4])

    def program(x):
        n = backend.site("n", backend.dist.Categorical(backend.array(probs)))
        fn = backend.dist.Binomial(2 + n, probs=backend.array(0.3))
        backend.site("x", fn, obs=backend.array(x))

    relaxed = backend.package.relax(program, T)
    point = {"n_relaxed": backend.array(np.log(probs))}
    for x in (1.0, 4.0):
        scores = stats.binom.logpmf(x, 2 + counts, 0.3)
        # What is impossible counts as the least log-probability that is finite.
        bounded = np.where(np.isinf(scores), np.log(np.finfo(float).tiny), scores)
        with backend.double_precision():
            found = backend.log_prob(relaxed, x, values=point)["x"]
        assert_exact(backend.numpy(found), probs @ bounded)
    for n in counts:
        log_weights = np.where(counts == n, 0.0, -1e4)
        point = {"n_relaxed": backend.array(log_weights)}
        found = backend.log_prob(relaxed, 4.0, values=point)["x"]
        expected = stats.binom.logpmf(4.0, 2 + n, 0.3)
        assert_exact(backend.numpy(found), expected)


def test_a_soft_real_parameter_is_its_mean(backend):
    def program():
        n = backend.site("n", backend.dist.Categorical(backend.array([0.25, 0.75])))
        backend.site("x", backend.dist.Normal(n, backend.array(1.0)))

    sites = backend.trace(backend.package.relax(program, T))
    loc = backend.numpy(sites["x"]["fn"].loc)
    assert_exact(loc, backend.numpy(sites["n"]["value"]))


def test_a_site_under_a_soft_count_is_relaxed_in_turn(backend):
    """Survivors of a relaxed population: 0 to its greatest count."""

    def program():
        n = backend.site("n", backend.dist.Binomial(4, probs=backend.array(0.5)))
        m = backend.site("m", backend.dist.Binomial(n, probs=backend.array(0.7)))
        return 1.0 * m

    sites = backend.trace(backend.package.relax(program, T))
    assert backend.numpy(sites["m_relaxed"]["value"]).shape == (5,)
    assert 0 <= backend.numpy(sites["m"]["value"]) <= 4


def test_a_soft_mask_weighs_the_log_probability(backend):
    def program():
        b = backend.site("b", backend.dist.Bernoulli(probs=backend.array(0.5)))
        with backend.mask(b == 1):
            fn = backend.dist.Normal(backend.array(0.0), backend.array(1.0))
            backend.site("x", fn, obs=backend.array(2.0))

    relaxed = backend.package.relax(program, T)
    for logit, weight in ((1e4, 1.0), (-1e4, 0.0), (np.log(3.0), 0.75)):
        found = backend.log_prob(relaxed, values={"b_relaxed": backend.array(logit)})
        expected = weight * stats.norm.logpdf(2.0)
        assert_exact(backend.numpy(found["x"]), expected)
