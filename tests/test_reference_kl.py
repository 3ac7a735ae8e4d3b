"""The oracles of divergences and bounds satisfy what the papers imply."""

import numpy as np
import pytest
from asserts import assert_mean
from numpy.testing import assert_allclose
from oracle_cases import (
    LOG03,
    LOG2,
    LOGITS,
    OTHER_LOGITS,
    cases,
    draw,
    temperatures,
    tuned_pairs,
)
from reference import concrete as c
from reference import kl
from reference.quadrature import integrate_between
from scipy import stats
from scipy.special import expit


def test_equal_temperature_kl_matches_reference_values():
    binary = kl.logit_binary_concrete_kl(LOG2, LOG03)
    assert_allclose(binary, 0.5666917442573691, rtol=1e-14)
    several = kl.exp_concrete_kl(LOGITS, OTHER_LOGITS)
    assert_allclose(several, 1.5558806183215663, rtol=1e-14)


@cases("difference", near=1e-3, moderate=2.0, far=30.0)
def test_binary_kl_is_closed(difference):
    expected = difference / np.tanh(difference / 2) - 2
    quadrature = kl.logit_binary_concrete_kl(difference, 0.0)
    assert_allclose(quadrature, expected, rtol=1e-12, atol=1e-13)
    two_classes = kl.exp_concrete_kl([difference, 0], [0, 0])
    assert_allclose(two_classes, expected, rtol=1e-12, atol=1e-15)


@temperatures
@cases(
    "logits_q",
    distinct_ratios=OTHER_LOGITS,
    coincident_ratios=LOGITS + np.array([0, 1, 1]),
    equal=LOGITS,
)
def test_equal_temperature_kl_is_integral_at_any_temperature(t, logits_q):
    integral = kl.exp_concrete_kl_on_grid(t, LOGITS, t, logits_q)
    found = kl.exp_concrete_kl(LOGITS, logits_q)
    assert_allclose(found, integral, rtol=1e-11, atol=1e-12)


def test_equal_temperature_kl_takes_batches():
    found = kl.exp_concrete_kl([[LOGITS], [OTHER_LOGITS]], [LOGITS, OTHER_LOGITS])
    back = kl.exp_concrete_kl(OTHER_LOGITS, LOGITS)
    assert_allclose(found, [[0, 1.5558806183215663], [back, 0]], atol=1e-15)


def test_unequal_temperature_kl_matches_reference_value():
    binary = kl.logit_binary_concrete_unequal_kl(2 / 3, LOG2, 1 / 2, LOG03)
    assert_allclose(binary, 0.5823246415480, rtol=1e-12)
    pair = kl.exp_concrete_unequal_kl(2 / 3, [LOG2, 0], 1 / 2, [LOG03, 0])
    assert_allclose(pair, binary, rtol=1e-12)


@tuned_pairs
def test_unequal_temperatures_have_a_floor(n, t_p, t_q, floor):
    divergence = kl.exp_concrete_unequal_kl(t_p, np.zeros(n), t_q, np.zeros(n))
    assert f"{divergence:.6f}" == floor


@pytest.mark.statistical
@tuned_pairs
def test_unequal_temperature_kl_is_mean_over_samples(rng, n, t_p, t_q, floor):
    logits_p, logits_q = rng.normal(size=(2, n))
    values = draw(rng, t_p, logits_p)
    log_p = c.exp_concrete_log_density(values, t_p, logits_p)
    log_q = c.exp_concrete_log_density(values, t_q, logits_q)
    expected = kl.exp_concrete_unequal_kl(t_p, logits_p, t_q, logits_q)
    assert expected > float(floor)
    assert_mean(log_p - log_q, expected)


@cases("t_p, t_q", sharp_prior=(2 / 3, 1 / 2), smooth_prior=(0.7, 1.1), equal=(1, 1))
def test_unequal_temperature_kl_is_integral(t_p, t_q):
    integral = kl.exp_concrete_kl_on_grid(t_p, LOGITS, t_q, OTHER_LOGITS)
    found = kl.exp_concrete_unequal_kl(t_p, LOGITS, t_q, OTHER_LOGITS)
    assert_allclose(found, integral, rtol=1e-11)


@cases("ratio_less_one", equal=0.0, sharper=1e-3, smoother=-1e-3)
@cases("n", two=2, three=3, ten=10)
def test_kl_nearby_is_the_leading_term(rng, n, ratio_less_one):
    d = 1e-3 * rng.normal(size=n)
    expected = kl.exp_concrete_unequal_kl(1.0, np.zeros(n), 1 + ratio_less_one, d)
    found = kl.exp_concrete_kl_nearby(d, ratio_less_one)
    assert_allclose(found, expected, rtol=0.02)


def test_discrete_kl_matches_reference_value():
    divergence = kl.bernoulli_kl(LOG2, LOG03)
    assert f"{divergence:.5f}" == "0.42850"
    pair = kl.categorical_kl([LOG2, 0], [LOG03, 0])
    assert_allclose(pair, divergence, rtol=1e-14)
    several = kl.categorical_kl(LOGITS, OTHER_LOGITS)
    entropy = stats.entropy(np.exp(LOGITS), np.exp(OTHER_LOGITS))
    assert_allclose(several, entropy, rtol=1e-14)


@cases(
    "t_p, t_q",
    equal=(1.0, 1.0),
    tuned=(2 / 3, 1 / 2),
    cold=(0.05, 0.06),
    sharp_prior=(2.0, 0.5),
    smooth_prior=(0.5, 2.0),
)
def test_relaxed_kl_is_at_least_discrete_kl(t_p, t_q):
    relaxed = kl.exp_concrete_unequal_kl(t_p, LOGITS, t_q, OTHER_LOGITS)
    assert relaxed > kl.categorical_kl(LOGITS, OTHER_LOGITS)
    binary = kl.logit_binary_concrete_unequal_kl(t_p, LOG2, t_q, LOG03)
    assert binary > kl.bernoulli_kl(LOG2, LOG03)


@cases("t", cold=0.3, tuned=2 / 3, hot=2.0)
@cases("logits", low=-1.0, middle=0.5, high=3.0)
def test_relaxed_elbo_is_below_log_marginal(t, logits):
    # An even bit with prior temperature 1/2, seen as 1.2 in noise of scale 0.3.
    def log_joint(y):
        log_prior = c.logit_binary_concrete_log_density(y, 0.5, 0.0)
        return log_prior - 0.5 * ((1.2 - expit(y)) / 0.3) ** 2

    def elbo_term(y):
        log_q = c.logit_binary_concrete_log_density(y, t, logits)
        return np.exp(log_q) * (log_joint(y) - log_q)

    edges = (logits + np.array([-60, 0, 60])) / t
    marginal = integrate_between(lambda y: np.exp(log_joint(y)), [-120, 0, 120])
    assert integrate_between(elbo_term, edges) < np.log(marginal)


# Gradients.
