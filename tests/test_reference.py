"""The oracles satisfy the identities and constants that the papers imply."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from asserts import assert_mean, assert_pvalue
from numpy.testing import assert_allclose
from oracle_cases import (
    DRAWS,
    LOG2,
    LOGITS,
    OTHER_LOGITS,
    POINT,
    assert_distributed,
    cases,
    classes,
    draw,
    temperatures,
)
from reference import concrete as c
from reference import gradients as g
from reference.quadrature import integrate_between, log_ratio_grid
from scipy import stats
from scipy.special import digamma, expit, log_softmax, softmax


def test_oracles_import_no_framework():
    tests = str(Path(reference.__file__).parents[1])
    script = (
        f"import sys; sys.path.insert(0, {tests!r})\n"
        "from reference import concrete, gradients, kl, quadrature\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.check_output([sys.executable, "-c", script], text=True).split()
    assert "reference" in loaded
    assert {"torch", "pyro", "pyro_concrete"}.isdisjoint(loaded)
    assert {"jax", "numpyro", "numpyro_concrete"}.isdisjoint(loaded)


# Densities.


@temperatures
@classes
def test_exp_concrete_density_integrates_to_one_over_log_ratios(t, logits):
    points, volume = log_ratio_grid(t, logits)
    density = np.exp(c.exp_concrete_log_density(points, t, logits))
    assert_allclose(density.sum() * volume, 1, rtol=1e-12)


@temperatures
def test_concrete_density_integrates_to_one_over_the_triangle(t):
    # x = (u, (1-u) v, (1-u)(1-v)), with u and v logistic in s to tame the corners.
    s = np.arange(-400, 401) / 8
    u, v, not_u, not_v = expit(s)[:, None], expit(s), expit(-s)[:, None], expit(-s)
    x = np.stack(np.broadcast_arrays(u, not_u * v, not_u * not_v), axis=-1)
    area = not_u * (u * not_u) * (v * not_v) / 8**2
    mass = np.sum(np.exp(c.concrete_log_density(x, t, LOGITS)) * area)
    assert_allclose(mass, 1, rtol=1e-10)


@temperatures
def test_binary_concrete_density_integrates_to_one(t):
    def density(s):
        x = s * s * (3 - 2 * s)  # flat at both ends, where the density may diverge
        slope = 6 * s * (1 - s)
        return np.exp(c.binary_concrete_log_density(x, t, LOG2)) * slope

    assert_allclose(integrate_between(density, [0, 0.5, 1]), 1, rtol=1e-8)


@temperatures
def test_logit_binary_concrete_density_integrates_to_one(t):
    def density(y):
        return np.exp(c.logit_binary_concrete_log_density(y, t, LOG2))

    edges = np.array([-60, 0, 60]) / t
    assert_allclose(integrate_between(density, edges), 1, rtol=1e-12)


def test_exp_concrete_density_over_log_coordinates_gives_mean_of_last():
    def density(log_x):
        value = np.array([log_x, np.log(-np.expm1(log_x))])
        return np.exp(c.exp_concrete_log_density(value, 1.0, LOGITS[:2]))

    integral = integrate_between(density, [-45, -0.5, -1e-300])
    mean = c.binary_concrete_mean(1.0, LOGITS[1] - LOGITS[0])
    assert_allclose(integral, mean, rtol=1e-9)


@cases(
    "t, log_density, log_kappa",
    half=(0.5, -0.3541406550541635, -4.371524176140136),
    one=(1.0, 0.6037636194252598, -3.413619901660713),
    two=(2.0, 0.0, -4.017383521085972),
)
def test_densities_match_reference_values(t, log_density, log_kappa):
    on_simplex = c.concrete_log_density(POINT, t, LOGITS)
    in_logs = c.exp_concrete_log_density(np.log(POINT), t, LOGITS)
    assert_allclose(on_simplex, log_density, rtol=1e-14, atol=1e-14)
    assert_allclose(in_logs, log_kappa, rtol=1e-14)


def test_binary_densities_match_reference_value_and_two_classes():
    x, logits = np.array([0.3, 0.7]), np.array([LOG2, 0])
    binary = c.binary_concrete_log_density(0.3, 2 / 3, LOG2)
    assert_allclose(binary, -0.6031303055666837, rtol=1e-14)
    assert_allclose(c.concrete_log_density(x, 2 / 3, logits), binary, rtol=1e-14)
    in_logs = c.exp_concrete_log_density(np.log(x), 2 / 3, logits)
    in_logits = c.logit_binary_concrete_log_density(np.log(0.3 / 0.7), 2 / 3, LOG2)
    assert_allclose(in_logits, in_logs, rtol=1e-14)


def test_binary_concrete_at_one_with_even_odds_is_uniform():
    x = np.array([1e-9, 0.1, 0.5, 0.9])
    assert_allclose(c.binary_concrete_log_density(x, 1.0, 0.0), 0, atol=1e-14)
    assert_allclose(c.binary_concrete_cdf(x, 1.0, 0.0), x, rtol=1e-14)


def test_temperature_broadcasts_against_leading_axes():
    t = np.array([0.5, 2.0])
    batch = c.exp_concrete_log_density(np.log([POINT, POINT]), t, LOGITS)
    assert_allclose(batch, [-4.371524176140136, -4.017383521085972], rtol=1e-14)
    samples = c.exp_concrete_sample(np.zeros((2, 3)), t, LOGITS)
    assert_allclose(samples, log_softmax([LOGITS / 0.5, LOGITS / 2], axis=-1))


@temperatures
def test_own_density_is_density_at_the_sample(rng, t):
    gumbel = rng.gumbel(size=(100, 3))
    value = c.exp_concrete_sample(gumbel, t, LOGITS)
    scored = c.exp_concrete_log_density(value, t, LOGITS)
    own = c.exp_concrete_own_log_density(gumbel, t)
    assert_allclose(own, scored, rtol=1e-12, atol=1e-12)


@temperatures
def test_samples_are_powers_of_scaled_noise_normalised(rng, t):
    gumbel = rng.gumbel(size=3)
    powers = (np.array([2, 0.5, 1]) * np.exp(gumbel)) ** (1 / t)
    value = np.exp(c.exp_concrete_sample(gumbel, t, LOGITS))
    assert_allclose(value, powers / powers.sum(), rtol=1e-12)


@temperatures
def test_binary_samples_are_log_ratios_of_two_classes(rng, t):
    gumbel = rng.gumbel(size=2)
    y = c.exp_concrete_sample(gumbel, t, np.array([-0.7, 0]))
    found = c.logit_binary_concrete_sample(gumbel[0] - gumbel[1], t, -0.7)
    assert_allclose(found, y[0] - y[1], rtol=1e-12)


# Structure: rounding, pivots, closure, limits, shape.


@temperatures
@cases("k", first=0, second=1, third=2)
def test_argmax_probs_are_mass_of_density_where_class_wins(t, k):
    # With class k put last, it wins where both log-ratios, -exp(s) / t, are negative.
    s = np.arange(-600, 91) / 16
    below = -np.exp(s) / t
    ratios = np.stack([*np.meshgrid(below, below), np.zeros((s.size, s.size))], axis=-1)
    points = log_softmax(ratios, axis=-1)
    density = np.exp(c.exp_concrete_log_density(points, t, np.roll(LOGITS, 2 - k)))
    mass = below @ density @ below / 16**2
    assert_allclose(mass, [4 / 7, 1 / 7, 2 / 7][k], rtol=1e-9)
    assert_allclose(c.argmax_probs(LOGITS), np.array([4, 1, 2]) / 7, rtol=1e-14)


@pytest.mark.statistical
@temperatures
def test_samples_round_to_argmax_probs(rng, t):
    counts = np.bincount(draw(rng, t, LOGITS).argmax(axis=-1), minlength=3)
    result = stats.chisquare(counts, DRAWS * c.argmax_probs(LOGITS))
    assert_pvalue(result.pvalue)


@temperatures
def test_binary_cdf_is_integral_of_density(t):
    def density(x):
        return np.exp(c.binary_concrete_log_density(x, t, -0.7))

    low, half, high = c.binary_concrete_cdf([0.3, 0.5, 0.8], t, -0.7)
    assert_allclose(high - low, integrate_between(density, [0.3, 0.8]), rtol=1e-12)
    assert_allclose(1 - half, c.argmax_probs([-0.7, 0])[0], rtol=1e-14)
    median = expit(-0.7 / t)
    assert_allclose(c.binary_concrete_cdf(median, t, -0.7), 0.5, rtol=1e-14)


@pytest.mark.statistical
@temperatures
def test_binary_samples_follow_cdf(rng, t):
    y = c.logit_binary_concrete_sample(rng.logistic(size=DRAWS), t, -0.7)
    assert_distributed(expit(y), lambda x: c.binary_concrete_cdf(x, t, -0.7))


@pytest.mark.statistical
@temperatures
@classes
def test_pivot_of_samples_is_uniform_dirichlet(rng, t, logits):
    n, values = len(logits), draw(rng, t, logits)
    pivot = c.exp_concrete_pivot(values, t, logits)
    assert_distributed(pivot[:, 0], stats.beta(1, n - 1).cdf)
    assert_mean(pivot, 1 / n)
    assert_mean(c.exp_concrete_score(values, t, logits), 0)


@pytest.mark.statistical
@temperatures
@cases("j, k", first_second=(0, 1), second_third=(1, 2), third_first=(2, 0))
def test_log_ratios_of_samples_are_logistic(rng, t, j, k):
    values = draw(rng, t, LOGITS)
    noise = t * (values[:, j] - values[:, k]) - (LOGITS[j] - LOGITS[k])
    assert_distributed(noise, stats.logistic.cdf)


@temperatures
@classes
def test_score_is_derivative_of_log_density(t, logits):
    value = log_softmax(np.log(POINT[: len(logits)]))
    slope = g.central_difference(
        lambda a: c.exp_concrete_log_density(value, t, a), logits
    )
    score = c.exp_concrete_score(value, t, logits)
    assert_allclose(score, slope, rtol=1e-8, atol=1e-9)


def test_samples_are_closed_under_power_perturbation_and_sub_composition(rng):
    gumbel = rng.gumbel(size=3)
    value = c.exp_concrete_sample(gumbel, 0.5, LOGITS)
    power = c.exp_concrete_sample(gumbel, 2.0, LOGITS)
    assert_allclose(log_softmax(0.5 / 2.0 * value), power)
    perturbed = c.exp_concrete_sample(gumbel, 0.5, LOGITS + OTHER_LOGITS)
    assert_allclose(log_softmax(value + OTHER_LOGITS / 0.5), perturbed)
    part = c.exp_concrete_sample(gumbel[:2], 0.5, LOGITS[:2])
    assert_allclose(log_softmax(value[:2]), part)


def test_cold_samples_are_one_hot_and_hot_samples_uniform(rng):
    gumbel = rng.gumbel(size=(50, 3))
    perturbed = LOGITS + gumbel
    cold = np.exp(c.exp_concrete_sample(gumbel, 1e-5, LOGITS))
    assert_allclose(cold, np.eye(3)[perturbed.argmax(-1)], atol=1e-15)
    hot = np.exp(c.exp_concrete_sample(gumbel, 1e8, LOGITS))
    first_order = (perturbed - perturbed.mean(-1, keepdims=True)) / 1e8
    assert_allclose(3 * hot - 1, first_order, atol=1e-14)


@cases("t, slope", diverges=(0.3, -0.4), finite=(0.5, 0.0), vanishes=(1.0, 1.0))
def test_facet_exponent_changes_sign_at_the_bound(t, slope):
    x = np.array([[1e-60, 0.7, 0.3], [1e-70, 0.7, 0.3]])
    near, nearer = c.concrete_log_density(x, t, LOGITS)
    assert_allclose((near - nearer) / np.log(1e10), slope, atol=1e-12)


def least_curvature(rng, n, t):
    """Return the least eigenvalue of the Hessian along the simplex, over a scan."""
    logits = 2 * rng.normal(size=(500, n))
    x = rng.dirichlet(np.full(n, 0.5), size=500)
    hessian = g.concrete_log_density_hessian(x, t, logits)
    # A direction of zero sum is x z with z orthogonal to x: all scales alike.
    scaled = x[:, :, None] * hessian * x[:, None, :]
    along = np.einsum("ki,kj->kij", x, x) / np.sum(x**2, axis=-1)[:, None, None]
    across = np.eye(n) - along
    # The eigenvalue of x itself, zero after projection, is moved out of the way.
    return np.linalg.eigvalsh(across @ scaled @ across + 1e3 * along).min()


@cases("n", two=2, three=3, five=5)
@cases("share", inside=0.3, at_the_bound=1.0)
def test_density_is_log_convex_up_to_the_bound(rng, n, share):
    assert least_curvature(rng, n, share / (n - 1)) > -1e-12


@cases("t", above=0.6, far_above=1.0)
def test_density_is_not_log_convex_above_the_bound(rng, t):
    assert least_curvature(rng, 3, t) < -1e-3


def test_hessian_is_second_derivative_of_log_density():
    def gradient(x):
        return g.central_difference(
            lambda x: c.concrete_log_density(x, 0.7, LOGITS), x, 1e-4
        )

    hessian = g.concrete_log_density_hessian(POINT, 0.7, LOGITS)
    assert_allclose(hessian, g.central_difference(gradient, POINT, 1e-4), rtol=1e-4)


# Moments and entropies.


@temperatures
def test_logit_moments_are_integrals_of_density(t):
    mean = c.logit_binary_concrete_mean(t, -0.7)

    def moment(power, center):
        def integrand(y):
            density = np.exp(c.logit_binary_concrete_log_density(y, t, -0.7))
            return (y - center) ** power * density

        return integrate_between(integrand, [mean - 60 / t, mean, mean + 60 / t])

    assert_allclose(moment(1, 0), mean, rtol=1e-12)
    assert_allclose(moment(2, mean), c.logit_binary_concrete_variance(t), rtol=1e-12)


@temperatures
def test_log_ratio_moments_are_integrals_of_density(t):
    points, volume = log_ratio_grid(t, OTHER_LOGITS)
    weight = np.exp(c.exp_concrete_log_density(points, t, OTHER_LOGITS)) * volume
    mean = c.log_ratio_mean(t, OTHER_LOGITS)
    centered = points[:, :2] - points[:, 2:] - mean
    assert_allclose(weight @ centered, 0, atol=1e-11)
    covariance = centered.T @ (weight[:, None] * centered)
    assert_allclose(covariance, c.log_ratio_covariance(t, 3), rtol=1e-11)


@pytest.mark.statistical
@temperatures
def test_log_ratio_moments_are_those_of_samples(rng, t):
    values = draw(rng, t, OTHER_LOGITS)
    mean = c.log_ratio_mean(t, OTHER_LOGITS)
    centered = values[:, :2] - values[:, 2:] - mean
    assert_mean(centered, 0)
    products = centered[:, :, None] * centered[:, None, :]
    assert_mean(products, c.log_ratio_covariance(t, 3))


@cases("logits", double=LOG2, rare=-3.0, even=0.0)
def test_mean_at_temperature_one_is_closed(logits):
    mean = c.binary_concrete_mean_at_one(logits)
    assert_allclose(c.binary_concrete_mean(1.0, logits), mean, rtol=1e-12)


def test_mean_at_temperature_one_matches_reference_value():
    mean = c.binary_concrete_mean_at_one(LOG2)
    assert_allclose(mean, 0.6137056388801094, rtol=1e-14)


def test_mean_at_small_temperature_follows_expansion():
    p, t = 2 / 3, np.array([0.1, 0.05])
    expansion = p - np.pi**2 / 6 * t**2 * p * (1 - p) * (2 * p - 1)
    remainder = c.binary_concrete_mean(t, LOG2) - expansion
    # Fourth order: halving the temperature divides the remainder by sixteen.
    assert_allclose(remainder[0] / remainder[1], 16, rtol=0.05)


@temperatures
@classes
def test_entropy_is_integral_of_density(t, logits):
    points, volume = log_ratio_grid(t, logits)
    log_density = c.exp_concrete_log_density(points, t, logits)
    integral = -np.sum(np.exp(log_density) * log_density) * volume
    entropy = c.exp_concrete_entropy(t, len(logits))
    assert_allclose(entropy, integral, rtol=1e-11, atol=1e-12)


@cases("n", two=2, three=3, eight=8, fifty=50)
def test_entropy_agrees_with_gamma_route(n):
    # The n Gumbels have mean gamma, and the sum S of n exponentials E log S = psi(n).
    expected = n * np.euler_gamma + n * digamma(n) - np.log(np.arange(1, n)).sum()
    entropy = c.exp_concrete_entropy(0.5, n) + (n - 1) * np.log(0.5)
    assert_allclose(entropy, expected, rtol=1e-12)


@temperatures
def test_binary_entropy_is_two_minus_log_temperature(t):
    expected = 2 - np.log(t)
    assert_allclose(c.logit_binary_concrete_entropy(t), expected, rtol=1e-12)
    assert_allclose(c.exp_concrete_entropy(t, 2), expected, rtol=1e-12)


# Divergences.


def test_sample_jacobian_is_derivative_of_sample(rng):
    gumbel = rng.gumbel(size=3)

    def sample(logits):
        return np.exp(c.exp_concrete_sample(gumbel, 0.7, logits))

    jacobian = g.softmax_jacobian(sample(LOGITS), 0.7)
    assert_allclose(jacobian, g.central_difference(sample, LOGITS), rtol=1e-8)
    assert_allclose(jacobian.sum(-1), 0, atol=1e-15)


def test_enumerated_gradient_is_derivative_of_expectation(rng):
    outcomes = rng.normal(size=3)

    def expectation(logits):
        return g.enumerated_expectation(logits, outcomes)

    assert_allclose(expectation(LOGITS), c.argmax_probs(LOGITS) @ outcomes)
    slope = g.central_difference(expectation, LOGITS)
    assert_allclose(g.enumerated_gradient(LOGITS, outcomes), slope, rtol=1e-8)


def test_enumerated_gradient_is_mean_of_leave_one_out_estimator(rng):
    outcomes = rng.normal(size=3)
    probs = softmax(LOGITS)
    # Of two draws, each is the other's baseline: half (f_i - f_j) (e_i - e_j).
    pairs = (outcomes[:, None] - outcomes)[..., None] * (np.eye(3)[:, None] - np.eye(3))
    mean = np.einsum("i,j,ijk->k", probs, probs, pairs) / 2
    assert_allclose(mean, g.enumerated_gradient(LOGITS, outcomes), rtol=1e-13)


@cases(
    "estimator, degree, exact",
    straight_through_linear=(g.straight_through_gradient, 1, True),
    straight_through_quadratic=(g.straight_through_gradient, 2, False),
    reinmax_linear=(g.reinmax_gradient, 1, True),
    reinmax_quadratic=(g.reinmax_gradient, 2, True),
    reinmax_cubic=(g.reinmax_gradient, 3, False),
)
def test_estimator_is_exact_up_to_its_degree(rng, estimator, degree, exact):
    # f(x) = sum of coefficient * (row of W . x)^power, so column k of W is W e_k.
    w = rng.normal(size=(4, 3))
    coefficients = rng.normal(size=(degree, 4))
    powers = np.arange(1, degree + 1)[:, None, None]
    outcomes = np.einsum("dm,dmk->k", coefficients, w**powers)
    slopes = np.einsum("dm,dmk,mj->kj", coefficients, powers * w ** (powers - 1), w)
    bias = estimator(LOGITS, slopes) - g.enumerated_gradient(LOGITS, outcomes)
    largest = np.abs(bias).max()
    assert largest < 1e-14 if exact else largest > 1e-2, bias


def test_straight_through_of_quadratic_is_gradient_at_the_mean(rng):
    # The mean slope of a quadratic is its slope at the mean: f(p) is differentiated.
    factor = rng.normal(size=(3, 3))
    curvature, offset = factor @ factor.T, rng.normal(size=3)

    def at_mean(logits):
        probs = softmax(logits)
        return probs @ curvature @ probs / 2 + offset @ probs

    found = g.straight_through_gradient(LOGITS, curvature + offset)
    assert_allclose(found, g.central_difference(at_mean, LOGITS), rtol=1e-8)
