"""The oracles of small ELBOs against closed forms, each other, and plain simulation."""

import math

import numpy as np
import pytest
from asserts import assert_mean
from gradient_cases import TEMPERATURES, exact, exact_slope_of_a_mean, flat
from gradient_fixtures import FIXTURES, MEAN_OF_A_BIT
from numpy.testing import assert_allclose
from oracle_cases import LOGITS, OTHER_LOGITS, cases
from reference import concrete, elbo, gradients, kl
from scipy import stats
from scipy.special import expit, softmax

LOCS = np.array([-1.0, 0.4, 1.5])
fixtures = pytest.mark.parametrize("fixture", FIXTURES.values(), ids=list(FIXTURES))


def no_data(p, q):
    """A single site and no likelihood: the ELBO is the KL, negative."""
    site = elbo.Site("z", len(p), lambda params, w: p, lambda params, w: q)
    return elbo.Program((site,), lambda params, w: np.zeros(()))


def one_site(likelihood, n=3):
    """A guide that is the prior, and any function of the weights."""
    logits = lambda params, w: params["a"]  # noqa: E731
    site = elbo.Site("z", n, logits, logits)
    return elbo.Program((site,), lambda params, w: likelihood(w["z"]))


def linear(w):
    return w @ LOCS[: w.shape[-1]]


def cubic(w):
    return linear(w) ** 3 + linear(w) ** 2


def difference(value, params):
    """The gradient by central differences, of a real function."""
    found = {}
    for name, x in params.items():
        moved = lambda y, name=name: np.real(value({**params, name: y}))  # noqa: E731
        found[name] = gradients.central_difference(moved, x)
    return flat(found)


# --- pieces


@cases("n", two=2, three=3)
def test_noise_has_the_moments_of_gumbel_differences(n):
    noise, weights = elbo.noise_grid(n, 0.5, 40)
    ratios = noise[:, :-1] - noise[:, -1:]
    assert_allclose(weights.sum(), 1, rtol=1e-12)
    assert_allclose(weights @ ratios, 0, atol=1e-12)
    covariance = np.einsum("m,mi,mj->ij", weights, ratios, ratios)
    assert_allclose(covariance, concrete.log_ratio_covariance(1.0, n), rtol=1e-10)


@cases("logits", two=LOGITS[:2], three=LOGITS)
def test_noise_given_an_outcome_is_the_part_of_all_noise_that_gives_it(logits):
    for k, prob in enumerate(softmax(logits)):
        noise, weights = elbo.noise_given(logits, k)
        assert (np.argmax(logits + noise, -1) == k).all()
        assert_allclose(weights.sum(), prob, rtol=1e-12)


def test_noise_given_an_outcome_has_its_law_for_a_bit():
    logits = np.array([0.0, 0.6])
    noise, weights = elbo.noise_given(logits, 1)
    logistic = noise[:, 1] - noise[:, 0]
    truth = stats.logistic.expect(lambda x: np.tanh(x), lb=-0.6)
    assert_allclose(weights @ np.tanh(logistic), truth, rtol=1e-8)


def test_the_density_is_that_of_the_concrete(rng):
    y = concrete.exp_concrete_sample(rng.gumbel(size=(5, 3)), 0.7, LOGITS)
    expected = concrete.exp_concrete_log_density(y, 0.7, LOGITS)
    assert_allclose(elbo.log_density(y, 0.7, LOGITS), expected, rtol=1e-12)


# --- values


@cases("n", two=2, three=3)
def test_without_data_the_elbos_are_divergences(n):
    q, p = LOGITS[:n], OTHER_LOGITS[:n]
    program, (t_p, t_q) = no_data(q, p), TEMPERATURES
    assert_allclose(elbo.discrete_elbo(program, {}), -kl.categorical_kl(q, p))
    found = elbo.relaxed_elbo(program, {}, TEMPERATURES, "concrete", 0.5, 30)
    assert_allclose(found, -kl.exp_concrete_unequal_kl(t_q, q, t_p, p), rtol=1e-7)
    found = elbo.relaxed_elbo(program, {}, TEMPERATURES, "analytic", 0.5, 30)
    assert_allclose(found, -kl.categorical_kl(q, p), rtol=1e-10)


def test_the_elbo_of_the_posterior_is_the_evidence():
    fixture = FIXTURES["one_class"]
    params, vertices = fixture.params, {"z": np.eye(3)}
    joint = fixture.program.likelihood(params, vertices)
    joint = joint + np.log(softmax(params["b"]))
    posterior = {**params, "a": joint}
    found = elbo.discrete_elbo(fixture.program, posterior)
    assert_allclose(found, np.log(np.exp(joint).sum()), rtol=1e-12)
    # There the guide cannot be improved.
    slopes = elbo.discrete_gradient(fixture.program, posterior)
    assert_allclose(slopes["a"], 0, atol=1e-14)


def test_the_mean_of_a_relaxed_bit_is_that_of_quadrature():
    program, params = MEAN_OF_A_BIT.program, MEAN_OF_A_BIT.params
    found = elbo.relaxed_elbo(program, params, (0.4, 0.4), "concrete", 0.2, 40)
    assert_allclose(found, concrete.binary_concrete_mean(0.4, params["a"]), rtol=1e-9)


# --- gradients


@fixtures
def test_discrete_gradients_are_slopes_and_none_is_zero(fixture):
    value = lambda params: elbo.discrete_elbo(fixture.program, params)  # noqa: E731
    found = flat(elbo.discrete_gradient(fixture.program, fixture.params))
    assert_allclose(found, difference(value, fixture.params), atol=1e-9)
    assert np.abs(found).min() > 1e-3


@pytest.mark.parametrize("scoring", ["concrete", "discrete", "analytic"])
@cases("name", one=("one_class"), two=("two_sites"), plate=("mixture"), sum=("mixed"))
def test_relaxed_gradients_are_slopes(name, scoring):
    fixture = FIXTURES[name]
    arguments = (TEMPERATURES, scoring, 2.0, 12)
    value = lambda p: elbo.relaxed_elbo(fixture.program, p, *arguments)  # noqa: E731
    grid = {"step": 2.0, "width": 12}
    found = elbo.relaxed_gradient(
        fixture.program, fixture.params, TEMPERATURES, scoring, **grid
    )
    assert_allclose(flat(found), difference(value, fixture.params), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two_sites", "mixed"])
def test_relaxed_gradients_do_not_depend_on_the_grid(name):
    fixture = FIXTURES[name]
    for scoring in ("concrete", "discrete"):
        coarse, fine = (
            elbo.relaxed_gradient(
                fixture.program, fixture.params, TEMPERATURES, scoring, **grid
            )
            for grid in ({"step": 0.7, "width": 18}, {"step": 0.55, "width": 22})
        )
        assert_allclose(flat(coarse), flat(fine), atol=1e-5)


@cases("f, order", linear=(linear, 2), cubic=(cubic, 1))
def test_relaxed_gradients_become_discrete_as_the_temperature_falls(f, order):
    # Near a tie the mean of a function of a soft bit is off by a part of the width of
    # the transition, unless the function is odd about the middle, as a linear one is.
    program, params = one_site(f, 2), {"a": LOGITS[:2]}
    truth = elbo.discrete_gradient(program, params)["a"]

    def bias(t):
        grid = {"step": 0.5 * t, "width": 40}
        found = elbo.relaxed_gradient(program, params, (t, t), "concrete", **grid)
        return np.linalg.norm(found["a"] - truth)

    assert_allclose(bias(0.04) / bias(0.02), 2**order, rtol=0.05)
    assert bias(0.01) < 0.05 * np.linalg.norm(truth)


@pytest.mark.parametrize("t", [0.05, 0.1, 0.3])
def test_the_bias_of_a_binary_mean_has_its_leading_term(t):
    logit = float(MEAN_OF_A_BIT.params["a"])
    discrete, leading, bound = gradients.binary_mean_slope(logit, t)
    bias = exact_slope_of_a_mean(t) - discrete
    assert abs(bias - leading) < bound < abs(leading)


def test_the_leading_term_is_a_slope_of_the_mean():
    term = lambda a: -(np.pi**2 / 6) * (p := expit(a)) * (1 - p) * (2 * p - 1)  # noqa: E731
    slope, leading, _ = gradients.binary_mean_slope(0.3, 0.5)
    a = np.array(0.3)
    assert_allclose(slope, gradients.central_difference(expit, a), rtol=1e-8)
    assert_allclose(leading, 0.25 * gradients.central_difference(term, a), rtol=1e-8)


# --- estimators


@cases(
    "jacobian, known",
    reinmax=(elbo.reinmax_jacobian, gradients.reinmax_gradient),
    zgr=(elbo.zgr_jacobian, gradients.reinmax_gradient),
)
def test_estimators_of_one_site_are_the_ones_known(jacobian, known):
    slopes = np.array([(3 * m**2 + 2 * m) * LOCS for m in LOCS])
    program, params = one_site(cubic), {"a": LOGITS}
    found = elbo.hard_gradient(program, params, 1.0, "discrete", jacobian)
    assert_allclose(found["a"], known(LOGITS, slopes), rtol=1e-12)


def test_straight_through_of_a_linear_function_is_the_relaxed_gradient():
    program, params = one_site(linear), {"a": LOGITS}
    settings = (params, 0.6, "discrete", elbo.straight_through_jacobian)
    found = elbo.hard_gradient(program, *settings)["a"]
    grid = {"step": 0.4, "width": 40}
    soft = elbo.relaxed_gradient(program, params, (0.6, 0.6), "discrete", **grid)["a"]
    assert_allclose(found, soft, rtol=1e-8)


@cases("logits", two=LOGITS[:2], three=LOGITS)
def test_straight_through_becomes_zgr_as_the_temperature_falls(logits):
    for k in range(len(logits)):
        limit = elbo.zgr_jacobian(logits, k, 0.0)
        # The lead that matters is of the size of the temperature: v = log(lead).
        gaps = [
            np.abs(elbo.straight_through_jacobian(logits, k, t) - limit).max()
            for t in (0.2, 0.1)
        ]
        assert gaps[1] < 0.7 * gaps[0] < 0.05


@cases("name", bit="one_bit", class_of_three="one_class", two="two_sites", net="net")
def test_zgr_is_reinmax_at_temperature_one(name):
    fixture = FIXTURES[name]
    found = [
        elbo.hard_gradient(fixture.program, fixture.params, 1.0, "discrete", jacobian)
        for jacobian in (elbo.reinmax_jacobian, elbo.zgr_jacobian)
    ]
    assert_allclose(flat(found[0]), flat(found[1]), atol=1e-14)


@pytest.mark.parametrize("name", ["one_bit", "mixture"])
def test_reinmax_is_exact_where_the_likelihood_is_quadratic(name):
    fixture = FIXTURES[name]
    settings = (fixture.params, 1.0, "discrete", elbo.reinmax_jacobian)
    found = flat(elbo.hard_gradient(fixture.program, *settings))
    assert_allclose(found, exact(name), atol=1e-14)


def simulated(program, params, temperatures, scoring, draws, rng):
    """Straight-through gradients, of one draw each, of a program without a plate.

    The definition, draw by draw: a hard value with the tangent of the soft one. It has
    no averages and no assumption of independence in common with the oracle.
    """
    noise = {s.name: rng.gumbel(size=(draws, s.classes)) for s in program.sites}

    def tangent(moved):
        points, weights, scores = {}, {}, 0
        for site in program.sites:
            logits = site.guide(moved, weights) + noise[site.name]
            points[site.name] = elbo.log_softmax(logits / temperatures[1])
            hard = np.eye(site.classes)[np.real(logits).argmax(-1)]
            slope = np.imag(np.exp(points[site.name]))
            weights[site.name] = hard + 1j * slope
        for site in program.sites:
            pair = (site.model(moved, weights), site.guide(moved, weights))
            known = (points[site.name], weights[site.name])
            scores = scores + elbo.score(scoring, *known, pair, temperatures)
        return np.imag(program.likelihood(moved, weights) + scores)

    found = []
    for name in sorted(params):
        for index in np.ndindex(params[name].shape):
            moved = np.array(params[name], dtype=complex)
            moved[index] += 1e-30j
            slope = tangent({**params, name: moved}) / 1e-30
            found.append(np.broadcast_to(slope, draws))
    return np.stack(found, -1)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("scoring", ["concrete", "discrete", "analytic"])
@pytest.mark.parametrize("name", ["one_class", "two_sites", "net"])
def test_straight_through_is_the_mean_of_its_simulation(rng, name, scoring):
    program, params = FIXTURES[name].program, FIXTURES[name].params
    t = TEMPERATURES if scoring == "concrete" else (2 / 3, 2 / 3)
    found = simulated(program, params, t, scoring, 200_000, rng)
    if scoring == "concrete":
        expected = elbo.straight_through_gradient(program, params, t)
    else:
        jacobian = elbo.straight_through_jacobian
        expected = elbo.hard_gradient(program, params, t[1], scoring, jacobian)
    varying = found.std(0) > 1e-9 * np.abs(found).max()
    expected = flat(expected)
    assert_mean(found[:, varying], expected[varying])
    assert_allclose(found.mean(0)[~varying], expected[~varying], atol=1e-12)


def test_the_probability_of_an_outcome_is_kept_at_any_temperature():
    # Sampling is from softmax(logits); the temperature is one of the slopes alone.
    logits = np.array([0.2, -0.4, 0.7])
    shares = [elbo.noise_given(logits, k)[1].sum() for k in range(3)]
    assert_allclose(shares, softmax(logits), rtol=1e-12)
    assert math.isclose(sum(shares), 1, rel_tol=1e-12)
