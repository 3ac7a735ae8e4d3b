"""The facts of the paper and their constants, one after the other, on both backends.

Maddison, Mnih, Teh (2017), arXiv:1611.00712. The reference oracles are held to the same
facts in test_reference.py; here it is the packages.
"""

import math

import numpy as np
import pytest
from asserts import assert_exact, assert_mean, assert_pvalue
from reference import concrete, gradients, kl
from reference.quadrature import log_ratio_grid
from scipy import integrate, stats
from scipy.special import expit, softmax

ALPHA = np.array([2.0, 0.5, 1.0])
POINT = np.array([0.6, 0.3, 0.1])
BETA = np.array([0.3, 1.7, 1.1])


def density(backend, name, value, temperature, logits):
    function = getattr(backend.ops, f"{name}_log_density")
    result = function(backend.array(value), temperature, backend.array(logits))
    return backend.numpy(result)


# --- 1. normalization ---------------------------------------------------------------


@pytest.mark.parametrize("t", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("n", [2, 3])
def test_log_space_density_integrates_to_one_over_log_ratios(backend, t, n):
    logits = np.log(ALPHA[:n])
    points, volume = log_ratio_grid(t, logits)
    total = volume * np.exp(density(backend, "exp_concrete", points, t, logits)).sum()
    assert abs(total - 1) < 1e-11


@pytest.mark.parametrize("t", [0.5, 1.0, 2.0])
def test_logit_density_integrates_to_one(backend, t):
    y = np.linspace(-80 / t, 80 / t, 8001)
    mass = np.exp(density(backend, "logit_binary_concrete", y, t, np.full(8001, 0.7)))
    assert abs(integrate.trapezoid(mass, y) - 1) < 1e-11


# --- 2. reference values ------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "on_simplex", "in_logs"),
    [
        (0.5, -0.3541406550541635, -4.371524176140136),
        (1.0, 0.6037636194252598, -3.413619901660713),
        (2.0, 0.0, -4.017383521085972),
    ],
    ids=["half", "one", "two"],
)
def test_printed_densities(backend, device, t, on_simplex, in_logs):
    logits = np.log(ALPHA)
    assert_exact(density(backend, "concrete", POINT, t, logits), on_simplex)
    log_point = np.log(POINT)
    assert_exact(density(backend, "exp_concrete", log_point, t, logits), in_logs)


def test_printed_binary_density_is_that_of_two_classes(backend, device):
    expected = -0.6031303055666837
    binary = density(backend, "binary_concrete", 0.3, 2 / 3, math.log(2))
    n_ary = density(backend, "concrete", [0.3, 0.7], 2 / 3, np.log([2.0, 1.0]))
    assert_exact(binary, expected)
    assert_exact(n_ary, expected)


def test_binary_concrete_of_one_and_one_is_uniform(backend):
    value = np.linspace(0.01, 0.99, 9)
    assert_exact(
        density(backend, "binary_concrete", value, 1.0, np.zeros(9)), 0 * value
    )


# --- 3. rounding --------------------------------------------------------------------


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("t", [0.01, 0.5, 5.0])
@pytest.mark.statistical
def test_argmax_is_categorical_at_every_temperature(backend, t):
    d = backend.distributions.ExpConcrete(t, logits=backend.array(np.log(ALPHA)))
    value = backend.numpy(backend.sample(d, 0, (20_000,)))
    counts = np.bincount(value.argmax(-1), minlength=3)
    expected = 20_000 * ALPHA / ALPHA.sum()
    assert_pvalue(stats.chisquare(counts, expected).pvalue)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("t", [0.1, 1.0])
def test_binary_cdf_and_median(backend, t):
    d = backend.distributions.BinaryConcrete(t, logits=backend.array(0.7))
    value = np.array([0.1, 0.5, 0.9])
    expected = expit(t * np.log(value / (1 - value)) - 0.7)
    assert_exact(backend.numpy(d.cdf(backend.array(value))), expected)
    assert_exact(backend.numpy(d.icdf(backend.array(0.5))), expit(0.7 / t))


# --- 4. pivots ----------------------------------------------------------------------


@pytest.mark.statistical
def test_pivot_is_dirichlet_and_the_score_has_mean_zero(backend):
    d = backend.distributions.ExpConcrete(0.4, logits=backend.array(np.log(ALPHA)))
    value = backend.numpy(backend.sample(d, 1, (20_000,)))
    pivot = softmax(np.log(ALPHA) - 0.4 * value, -1)
    assert_pvalue(stats.kstest(pivot[:, 0], stats.beta(1, 2).cdf).pvalue)
    assert_mean(pivot, np.full(3, 1 / 3))
    assert_mean(1 - 3 * pivot, np.zeros(3))


@pytest.mark.statistical
def test_differences_of_logs_are_logistic(backend):
    d = backend.distributions.ExpConcrete(0.4, logits=backend.array(np.log(ALPHA)))
    value = backend.numpy(backend.sample(d, 1, (20_000,)))
    pair = 0.4 * (value[:, 0] - value[:, 1]) - np.log(ALPHA[0] / ALPHA[1])
    assert_pvalue(stats.kstest(pair, stats.logistic.cdf).pvalue)


def test_score_is_one_minus_n_pivots(backend):
    def total(logits):
        return backend.ops.concrete_log_density(backend.array(POINT), 0.4, logits)

    (score,) = backend.grad(total, backend.array(np.log(ALPHA)))
    pivot = ALPHA * POINT**-0.4
    assert_exact(backend.numpy(score), 1 - 3 * pivot / pivot.sum())


# --- 5. moments ---------------------------------------------------------------------


@pytest.mark.slow_on("numpyro")
@pytest.mark.statistical
def test_moments_in_logit_space(backend):
    d = backend.distributions.LogitBinaryConcrete(0.4, logits=backend.array(0.7))
    value = backend.numpy(backend.sample(d, 2, (20_000,)))
    assert_mean(value, 0.7 / 0.4)
    assert_mean((value - 0.7 / 0.4) ** 2, math.pi**2 / 3 / 0.4**2)


@pytest.mark.statistical
def test_mean_at_temperature_one(backend):
    logits = backend.array(math.log(2))
    d = backend.distributions.BinaryConcrete(1.0, logits=logits)
    assert_mean(backend.numpy(backend.sample(d, 2, (20_000,))), 0.6137056388801094)


@pytest.mark.statistical
def test_mean_at_small_temperature(backend):
    t = 0.1
    p = 2 / 3
    d = backend.distributions.BinaryConcrete(t, logits=backend.array(math.log(2)))
    expected = p - math.pi**2 / 6 * t**2 * p * (1 - p) * (2 * p - 1)
    assert_mean(backend.numpy(backend.sample(d, 2, (20_000,))), expected)


@pytest.mark.statistical
def test_covariance_of_log_ratios(backend):
    t = 0.4
    d = backend.distributions.ExpConcrete(t, logits=backend.array(np.log(ALPHA)))
    value = backend.numpy(backend.ops.log_ratios(backend.sample(d, 3, (20_000,))))
    centered = value - (np.log(ALPHA[:2]) - np.log(ALPHA[2])) / t
    products = centered[:, :, None] * centered[:, None, :]
    assert_mean(products, math.pi**2 / 6 / t**2 * (np.eye(2) + np.ones((2, 2))))


@pytest.mark.parametrize("t", [0.1, 1.0, 3.0])
def test_binary_entropy_is_two_minus_log_t(backend, t):
    result = backend.ops.logit_binary_concrete_entropy(backend.array(t))
    assert_exact(backend.numpy(result), 2 - math.log(t))


# --- 6. equal temperatures ----------------------------------------------------------


@pytest.mark.slow_on("numpyro")
def test_printed_kls_at_equal_temperatures(backend, device):
    binary = backend.ops.logit_binary_concrete_kl(
        backend.array(math.log(2)), backend.array(math.log(0.3))
    )
    assert_exact(backend.numpy(binary), 0.5666917442573691)
    n_ary = backend.ops.exp_concrete_kl(*map(backend.array, np.log([ALPHA, BETA])))
    assert_exact(backend.numpy(n_ary), 1.5558806183215663)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("t", [0.1, 1.0])
@pytest.mark.statistical
def test_kl_is_the_mean_log_ratio_at_every_temperature(backend, t):
    family = backend.distributions.ExpConcrete
    p = family(t, logits=backend.array(np.log(ALPHA)))
    q = family(t, logits=backend.array(np.log(BETA)))
    value, log_prob = backend.sample_own(p, 4, (20_000,))
    ratio = backend.numpy(log_prob) - backend.numpy(q.log_prob(value))
    assert_mean(ratio, 1.5558806183215663)


# --- 7. unequal temperatures --------------------------------------------------------


@pytest.mark.statistical
def test_printed_kl_at_unequal_temperatures(backend):
    family = backend.distributions.LogitBinaryConcrete
    p = family(2 / 3, logits=backend.array(math.log(2)))
    q = family(1 / 2, logits=backend.array(math.log(0.3)))
    assert_exact(backend.numpy(backend.kl(p, q)), 0.5823246415480)
    value, log_prob = backend.sample_own(p, 5, (20_000,))
    ratio = backend.numpy(log_prob) - backend.numpy(q.log_prob(value))
    assert_mean(ratio, 0.5823246415480)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize(
    ("n", "t_p", "t_q", "floor"),
    [
        (2, 2 / 3, 1 / 2, 0.053004),
        (4, 1.0, 2 / 3, 0.315302),
        (8, 2 / 3, 2 / 5, 1.143397),
    ],
    ids=["two", "four", "eight"],
)
@pytest.mark.statistical
def test_floor_of_the_kl_at_equal_logits(backend, n, t_p, t_q, floor):
    family = backend.distributions.ExpConcrete
    logits = backend.array(np.zeros(n))
    exact = backend.kl(family(t_p, logits=logits), family(t_q, logits=logits))
    assert f"{float(exact):.6f}" == str(floor)
    value, log_prob = backend.sample_own(family(t_p, logits=logits), 6, (20_000,))
    ratio = backend.numpy(log_prob) - backend.numpy(
        family(t_q, logits=logits).log_prob(value)
    )
    assert_mean(ratio, floor)


# --- 8. data processing -------------------------------------------------------------


def test_relaxed_kl_exceeds_the_discrete_kl(backend):
    odds = np.log([2.0, 0.3])
    relaxed = backend.ops.logit_binary_concrete_kl(*map(backend.array, odds))
    discrete = kl.bernoulli_kl(*odds)
    assert abs(float(discrete) - 0.42850) < 5e-6
    assert backend.numpy(relaxed) > discrete


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("q_logit", [-2.0, 0.3, 1.5])
def test_relaxed_elbo_is_below_the_relaxed_evidence(backend, q_logit):
    # Eq. 23: x ~ Normal(2 sigmoid(y), 1) observed at 1.6, by quadrature on a fine grid.
    t_p = 0.5
    t_q = 2 / 3
    y = np.linspace(-150, 150, 60_001)
    full = np.full_like(y, q_logit)
    log_p = density(backend, "logit_binary_concrete", y, t_p, 0 * y)
    log_q = density(backend, "logit_binary_concrete", y, t_q, full)
    log_x = stats.norm.logpdf(1.6, 2 * expit(y), 1)
    evidence = math.log(integrate.trapezoid(np.exp(log_p + log_x), y))
    elbo = integrate.trapezoid(np.exp(log_q) * (log_p + log_x - log_q), y)
    assert elbo < evidence


# --- 9. limits and shape ------------------------------------------------------------


def test_limits_of_the_temperature(backend):
    noise = backend.array(np.random.default_rng(0).gumbel(size=(5, 3)))
    logits = backend.array(np.log(ALPHA))
    cold = np.exp(backend.numpy(backend.ops.exp_concrete(noise, 1e-6, logits)))
    hot = np.exp(backend.numpy(backend.ops.exp_concrete(noise, 1e9, logits)))
    assert_exact(np.sort(cold, -1), np.tile([0.0, 0.0, 1.0], (5, 1)))
    np.testing.assert_allclose(hot, np.full((5, 3), 1 / 3), rtol=1e-7)


@pytest.mark.parametrize("t", [0.2, 0.5, 1.0])
def test_slope_at_a_facet(backend, t):
    points = [np.array([0.5 - e / 2, 0.5 - e / 2, e]) for e in (1e-12 / t, 1e-13 / t)]
    rise = [density(backend, "concrete", x, t, np.log(ALPHA)) for x in points]
    slope = (rise[0] - rise[1]) / math.log(10)
    np.testing.assert_allclose(slope, 2 * t - 1, atol=5e-2)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize(("t", "convex"), [(0.25, True), (0.5, True), (1.0, False)])
def test_log_convex_up_to_one_over_n_minus_one(backend, t, convex):
    # Along segments inside of the simplex: the midpoint against the mean of the ends.
    ends = np.random.default_rng(1).dirichlet(np.ones(3), (2, 400))
    value = np.stack([ends[0], ends.mean(0), ends[1]])
    logits = np.broadcast_to(np.log(ALPHA), value.shape)
    start, middle, end = density(backend, "concrete", value, t, logits)
    assert (middle <= (start + end) / 2 + 1e-9).all() == convex


def test_jacobian_of_the_sample_in_the_logits(backend):
    noise = backend.array(np.random.default_rng(0).gumbel(size=3))

    def component(k):
        def value(logits):
            return backend.exp(backend.ops.exp_concrete(noise, 0.4, logits))[k]

        (row,) = backend.grad(value, backend.array(np.log(ALPHA)))
        return backend.numpy(row)

    jacobian = np.stack([component(k) for k in range(3)])
    x = np.exp(concrete.exp_concrete_sample(backend.numpy(noise), 0.4, np.log(ALPHA)))
    assert_exact(jacobian, gradients.softmax_jacobian(x, 0.4))
    assert_exact(jacobian.sum(-1), np.zeros(3))


# --- 10. gradients by enumeration ---------------------------------------------------


@pytest.mark.slow_on("numpyro")
def test_enumerated_score_function_is_the_exact_gradient(backend):
    # sum_k p_k f_k grad log p_k, with the mass of the discrete limit.
    outcomes = np.array([1.3, -0.4, 2.2])
    vertices = backend.array(np.eye(3))

    def surrogate(logits):
        family = backend.distributions.ExpConcrete
        log_mass = family(0.5, logits=logits).discrete.log_prob(vertices)
        weights = backend.array(softmax(np.log(ALPHA)) * outcomes)
        return (weights * log_mass).sum()

    (actual,) = backend.grad(surrogate, backend.array(np.log(ALPHA)))
    expected = gradients.enumerated_gradient(np.log(ALPHA), outcomes)
    assert_exact(backend.numpy(actual), expected)
