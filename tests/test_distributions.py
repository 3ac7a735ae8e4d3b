"""The contract of every distribution of the family, on both backends."""

import copy

import numpy as np
import pytest
from asserts import (
    assert_derivative,
    assert_exact,
    assert_finite,
    assert_mean,
    assert_pvalue,
)
from cases import CASES, all_cases, log_space_cases
from reference import concrete, kl
from scipy import stats
from scipy.special import expit, softmax

T = 0.7

temperatures = pytest.mark.parametrize("t", [1e-3, 0.1, 1.0, 100.0, 1e3])


def build(backend, case, temperature=T, dtype="float64", logits=None):
    logits = case.array if logits is None else logits
    family = getattr(backend.distributions, case.name)
    return family(temperature, logits=backend.array(logits, dtype))


# --- shapes -------------------------------------------------------------------------


@all_cases
def test_shapes(backend, device, case):
    d = build(backend, case)
    event = case.array.shape[1:]
    assert tuple(d.batch_shape) == (2,)
    assert tuple(d.event_shape) == event
    value, log_prob = backend.sample_own(d, 0, (5, 4))
    assert tuple(value.shape) == (5, 4, 2, *event)
    assert tuple(log_prob.shape) == (5, 4, 2)
    assert tuple(d.log_prob(value[0, 0]).shape) == (2,)


@all_cases
def test_expand_and_to_event(backend, case):
    d = build(backend, case).expand((3, 2)).to_event(1)
    assert tuple(d.batch_shape) == (3,)
    value = backend.sample(d, 0)
    assert tuple(value.shape) == (3, *case.array.shape)
    expected = case.log_density(backend.numpy(value), T, case.array).sum(-1)
    assert_exact(backend.numpy(d.log_prob(value)), expected, scale=10)


@all_cases
def test_expanded_dims_are_independent(backend, case):
    # A sampler that draws its noise before it expands repeats one draw.
    d = build(backend, case).expand((50, 2))
    value = backend.numpy(backend.sample(d, 0)).reshape(50, -1)
    assert len(np.unique(value[:, 0])) == 50


@all_cases
def test_batch_elements_are_independent(backend, case):
    d = build(backend, case, logits=np.zeros((20, *case.array.shape[1:])))
    value = backend.numpy(backend.sample(d, 0)).reshape(20, -1)
    assert len(np.unique(value[:, 0])) == 20


@all_cases
def test_mask_hides_log_prob(backend, case):
    d = build(backend, case).mask(backend.array([True, False], "bool"))
    log_prob = backend.numpy(d.log_prob(backend.sample(d, 0)))
    assert log_prob[1] == 0 != log_prob[0]


@all_cases
def test_temperature_broadcasts_to_the_batch(backend, device, case):
    temperature = np.array([0.3, 1.7])
    d = build(backend, case, backend.array(temperature))
    value, log_prob = backend.sample_own(d, 0, (5,))
    assert tuple(d.batch_shape) == (2,)
    expected = case.log_density(backend.numpy(value), temperature, case.array)
    scale = np.abs(expected).max()
    assert_exact(backend.numpy(log_prob), expected, scale=scale)
    assert_exact(
        backend.numpy(d.log_prob(backend.rebuilt(value))), expected, scale=scale
    )


@all_cases
def test_temperature_enlarges_the_batch(backend, case):
    temperature = backend.array([[0.3], [1.7], [1.0]])
    d = build(backend, case, temperature)
    value, log_prob = backend.sample_own(d, 0)
    assert tuple(d.batch_shape) == (3, 2)
    assert tuple(value.shape) == (3, *case.array.shape)
    assert tuple(log_prob.shape) == (3, 2)
    assert tuple(d.expand((4, 3, 2)).batch_shape) == (4, 3, 2)


# --- values -------------------------------------------------------------------------


@all_cases
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_log_prob_equals_oracle(backend, device, case, dtype):
    value = case.interior()
    result = build(backend, case, dtype=dtype).log_prob(backend.array(value, dtype))
    expected = case.log_density(value, T, case.array)
    assert_exact(backend.numpy(result), expected, dtype)


@all_cases
def test_sample_is_the_map_of_its_noise(backend, case):
    # An own sample is scored by its noise: it must be the noise of the point.
    d = build(backend, case)
    value, own_log_prob = backend.sample_own(d, 3, (100,))
    expected = case.log_density(backend.numpy(value), T, case.array)
    assert_exact(backend.numpy(own_log_prob), expected, scale=100)


@all_cases
def test_no_op_keeps_log_prob(backend, case):
    d = build(backend, case)
    value, own_log_prob = backend.sample_own(d, 3, (100,))
    full = backend.numpy(d.log_prob(backend.rebuilt(value)))
    assert_exact(full, backend.numpy(own_log_prob), scale=100)


@all_cases
@temperatures
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_samples_are_in_the_support(backend, device, case, t, dtype):
    d = build(backend, case, t, dtype)
    value = backend.sample(d, 0, (1000,))
    assert backend.dtype(value) == dtype
    is_inside = backend.numpy(backend.in_support(d, value))
    assert is_inside.all()


@all_cases
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_finite(backend, device, case, dtype):
    d = build(backend, case, 0.5, dtype)
    value, own_log_prob = backend.sample_own(d, 0, (100,))
    assert backend.dtype(value) == dtype
    # Sums over many classes do not fit half precision: densities come in float32.
    assert backend.dtype(own_log_prob) == "float32"
    assert_finite(backend.numpy(value))
    assert_finite(backend.numpy(own_log_prob))
    assert_finite(backend.numpy(d.log_prob(backend.rebuilt(value))))


@all_cases
@pytest.mark.statistical
def test_samples_follow_the_density(backend, device, case):
    # P(class k is largest) is its probability, at a temperature that rounds nothing.
    d = build(backend, case, 1.3)
    value = backend.numpy(backend.sample(d, 5, (20_000,)))
    if case.event_dim:
        is_largest = np.eye(3)[value.argmax(-1)]
        expected = softmax(case.array, -1)
    else:
        is_largest = value > (0.0 if case.log_space else 0.5)
        expected = expit(case.array)
    assert_mean(is_largest, expected)


@pytest.mark.statistical
def test_pivot_of_samples_is_uniform_on_the_simplex(backend, device):
    (case,) = (c for c in CASES if c.name == "ExpConcrete")
    value = backend.numpy(backend.sample(build(backend, case), 5, (20_000,)))
    pivot = concrete.exp_concrete_pivot(value, T, case.array)
    for row in range(2):
        result = stats.kstest(pivot[:, row, 0], stats.beta(1, 2).cdf)
        assert_pvalue(result.pvalue)


@pytest.mark.statistical
def test_logit_samples_are_logistic(backend, device):
    (case,) = (c for c in CASES if c.name == "LogitBinaryConcrete")
    value = backend.numpy(backend.sample(build(backend, case), 5, (20_000,)))
    for row, logit in enumerate(case.array):
        logistic = stats.logistic(logit / T, 1 / T)
        assert_pvalue(stats.kstest(value[:, row], logistic.cdf).pvalue)


# --- gradients ----------------------------------------------------------------------


@log_space_cases
def test_own_sample_has_zero_gradient_in_the_logits(backend, device, case):
    def own(logits):
        d = getattr(backend.distributions, case.name)(T, logits=logits)
        return backend.sample_own(d, 0, (10,))[1].sum()

    (gradient,) = backend.grad(own, backend.array(case.array))
    assert (backend.numpy(gradient) == 0).all()


@pytest.mark.slow_on("numpyro")
@all_cases
def test_own_and_full_scores_have_one_gradient(backend, case):
    def score(logits, temperature, full):
        d = getattr(backend.distributions, case.name)(temperature, logits=logits)
        value, own_log_prob = backend.sample_own(d, 0, (10,))
        return (d.log_prob(backend.rebuilt(value)) if full else own_log_prob).sum()

    args = backend.array(case.array), backend.array(T)
    own_gradient = backend.grad(lambda *x: score(*x, full=False), *args)
    full_gradient = backend.grad(lambda *x: score(*x, full=True), *args)
    for a, b in zip(own_gradient, full_gradient, strict=True):
        assert_exact(backend.numpy(a), backend.numpy(b), scale=100)


@all_cases
def test_gradient_in_the_temperature_is_the_density_s(backend, case):
    # Against a difference of the oracle along the path, at fixed noise.
    def score(temperature):
        family = getattr(backend.distributions, case.name)
        d = family(temperature, logits=backend.array(case.array))
        return backend.sample_own(d, 0)[1].sum()

    def value_at(t):
        d = build(backend, case, backend.array(t))
        return backend.numpy(backend.sample_own(d, 0)[0])

    step = 1e-5
    ends = [
        case.log_density(value_at(T + h), T + h, case.array).sum()
        for h in (step, -step)
    ]
    (gradient,) = backend.grad(score, backend.array(T))
    expected = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(backend.numpy(gradient), expected, rtol=1e-5)


@all_cases
def test_probs_and_logits_agree(backend, case):
    family = getattr(backend.distributions, case.name)
    convert = softmax if case.event_dim else lambda x, _: expit(x)
    probs = backend.array(convert(case.array, -1))
    by_probs = family(T, probs=probs)
    value = backend.array(case.interior())
    expected = backend.numpy(build(backend, case).log_prob(value))
    assert_exact(backend.numpy(by_probs.log_prob(value)), expected)
    assert_exact(backend.numpy(by_probs.probs), backend.numpy(probs))


@all_cases
def test_probabilities_of_zero_and_one_are_finite(backend, case):
    probs = [0.0, 0.4, 0.6] if case.event_dim else [0.0, 1.0]
    family = getattr(backend.distributions, case.name)
    d = family(T, probs=backend.array(probs, "float32"))
    value, own_log_prob = backend.sample_own(d, 0)
    assert_finite(backend.numpy(value))
    if case.log_space:
        assert_finite(backend.numpy(own_log_prob))
        assert_finite(backend.numpy(d.log_prob(backend.rebuilt(value))))


# --- what else it knows -------------------------------------------------------------


@log_space_cases
def test_entropy(backend, case):
    d = build(backend, case)
    if case.event_dim:
        expected = concrete.exp_concrete_entropy(T, 3)
    else:
        expected = concrete.logit_binary_concrete_entropy(T)
    assert_exact(backend.numpy(d.entropy()), np.full(2, expected))


@log_space_cases
@pytest.mark.statistical
def test_entropy_is_the_mean_of_minus_log_prob(backend, case):
    d = build(backend, case)
    _, log_prob = backend.sample_own(d, 0, (20_000,))
    assert_mean(-backend.numpy(log_prob), backend.numpy(d.entropy()))


@all_cases
def test_discrete_is_the_limit_of_temperature_zero(backend, case):
    d = build(backend, case, 1e-6)
    value = np.round(backend.numpy(backend.sample(d, 0, (200,))), 6)
    if case.log_space:
        value = np.exp(value) if case.event_dim else expit(value)
    assert set(np.unique(value)) <= {0.0, 1.0}
    log_prob = backend.numpy(d.discrete.log_prob(backend.array(value)))
    if case.event_dim:
        expected = np.log((softmax(case.array, -1) * value).sum(-1))
    else:
        p = expit(case.array)
        expected = np.log(np.where(value == 1, p, 1 - p))
    assert_exact(log_prob, expected)


def pair(backend, case, t_p=T, t_q=T):
    q_logits = np.roll(case.array, 1, axis=-1)
    return build(backend, case, t_p), build(backend, case, t_q, logits=q_logits)


@all_cases
def test_kl_equals_oracle(backend, device, case):
    p, q = pair(backend, case)
    logits = case.array, np.roll(case.array, 1, axis=-1)
    if case.event_dim:
        expected = kl.exp_concrete_kl(*logits)
    else:
        expected = kl.logit_binary_concrete_kl(*logits)
    assert_exact(backend.numpy(backend.kl(p, q)), expected)


@pytest.mark.slow_on("numpyro")
@all_cases
def test_kl_of_to_event_sums(backend, case):
    p, q = pair(backend, case)
    total = backend.numpy(backend.kl(p, q)).sum()
    assert_exact(backend.numpy(backend.kl(p.to_event(1), q.to_event(1))), total)


@pytest.mark.slow_on("numpyro")
@all_cases
def test_kl_of_expanded_has_the_batch_shape(backend, case):
    p, q = pair(backend, case)
    expanded = backend.numpy(backend.kl(p.expand((3, 2)), q.expand((3, 2))))
    assert_exact(expanded, np.broadcast_to(backend.numpy(backend.kl(p, q)), (3, 2)))


def unequal_kl(case, t_p, t_q):
    """By the oracle, for each row of the case's logits."""
    logits = case.array, np.roll(case.array, 1, axis=-1)
    if not case.event_dim:
        return kl.logit_binary_concrete_unequal_kl(t_p, logits[0], t_q, logits[1])
    rows = zip(*(x.reshape(-1, x.shape[-1]) for x in logits), strict=True)
    result = [kl.exp_concrete_unequal_kl(t_p, a, t_q, b) for a, b in rows]
    return np.reshape(result, case.array.shape[:-1])


@all_cases
def test_kl_of_unequal_temperatures_equals_oracle(backend, device, case):
    p, q = pair(backend, case, 0.5, 0.6)
    result = backend.numpy(backend.kl(p, q))
    np.testing.assert_allclose(result, unequal_kl(case, 0.5, 0.6), rtol=1e-8)


@all_cases
def test_kl_of_temperatures_out_of_reach_is_left_to_the_host(backend, case):
    for t_p, t_q in [(0.1, 0.5), (0.5, 0.1)]:
        p, q = pair(backend, case, backend.array(t_p), t_q)
        with pytest.raises(NotImplementedError, match=r"more than 4.0 times"):
            backend.kl(p, q)


@pytest.mark.slow_on("numpyro")
@all_cases
def test_kl_of_two_learned_temperatures_has_their_gradients(backend, case):
    # They are equal today; the closed form would give them no gradient.
    def total(t_p, t_q):
        p, q = pair(backend, case, t_p, t_q)
        return backend.kl(p, q).sum()

    result = backend.grad(total, backend.array(T), backend.array(T))
    step = 1e-4
    slope = (
        unequal_kl(case, T, T + step).sum() - unequal_kl(case, T, T - step).sum()
    ) / (2 * step)
    # The KL depends on the ratio alone, so that the slopes cancel at equal ones.
    assert abs(slope) > 0.01
    assert_derivative(backend.numpy(result[1]), slope)
    assert_derivative(backend.numpy(result[0]), -slope)


@pytest.mark.slow_on("numpyro")
@all_cases
def test_kl_of_one_learned_temperature_is_closed(backend, case):
    def total(t, logits):
        family = getattr(backend.distributions, case.name)
        q = family(t, logits=backend.array(np.roll(case.array, 1, axis=-1)))
        return backend.kl(family(t, logits=logits), q).sum() + 0 * t

    gradient, _ = backend.grad(total, backend.array(T), backend.array(case.array))
    assert float(gradient) == 0


def test_log_simplex_bijection(backend):
    transform = backend.biject_to(backend.distributions.log_simplex)
    x = backend.array([[0.3, -1.0], [2.0, 0.1]])
    y = transform(x)
    assert_exact(np.exp(backend.numpy(y)).sum(-1), np.ones(2))
    assert_exact(backend.numpy(backend.inverse(transform, y)), backend.numpy(x))
    assert (backend.numpy(transform.log_abs_det_jacobian(x, y)) == 0).all()
    assert tuple(transform.forward_shape((4, 2))) == (4, 3)
    assert tuple(transform.inverse_shape((4, 3))) == (4, 2)


def test_log_simplex_knows_its_members(backend):
    support = backend.distributions.ExpConcrete.support
    check = support.check if backend.name == "pyro" else support
    vectors = np.log([[0.5, 0.5], [0.4, 0.5], [1.0, 1e-30]])
    assert backend.numpy(check(backend.array(vectors))).tolist() == [True, False, True]
    assert not backend.numpy(check(backend.array([0.0, -np.inf])))
    assert not backend.numpy(check(backend.array([np.nan, 0.0])))


@all_cases
def test_deepcopy_scores_alike(backend, case):
    d = build(backend, case)
    value, own_log_prob = backend.sample_own(d, 0)
    assert_exact(
        backend.numpy(copy.deepcopy(d).log_prob(value)),
        backend.numpy(own_log_prob),
        scale=10,
    )


def test_binary_cdf_equals_oracle(backend):
    (case,) = (c for c in CASES if c.name == "BinaryConcrete")
    d = build(backend, case)
    value = case.interior()
    expected = concrete.binary_concrete_cdf(value, T, case.array)
    assert_exact(backend.numpy(d.cdf(backend.array(value))), expected)
    assert_exact(backend.numpy(d.icdf(backend.array(expected))), value)


def test_logit_moments_and_cdf(backend):
    (case,) = (c for c in CASES if c.name == "LogitBinaryConcrete")
    d = build(backend, case)
    logistic = stats.logistic(case.array / T, 1 / T)
    value = case.interior()
    assert_exact(backend.numpy(d.mean), logistic.mean())
    assert_exact(backend.numpy(d.variance), logistic.var())
    assert_exact(backend.numpy(d.cdf(backend.array(value))), logistic.cdf(value))
    quantiles = logistic.cdf(value)
    assert_exact(backend.numpy(d.icdf(backend.array(quantiles))), value, scale=10)


# --- errors -------------------------------------------------------------------------


@all_cases
@pytest.mark.parametrize("t", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_temperature_is_an_error(backend, case, t):
    with pytest.raises(ValueError, match="temperature must be positive"):
        build(backend, case, t)


@all_cases
@pytest.mark.parametrize("t", [0.0, -1.0, float("nan")])
def test_bad_temperature_array_is_an_error(backend, case, t):
    with pytest.raises(ValueError, match="temperature"):
        build(backend, case, backend.array(t))


@all_cases
def test_neither_or_both_parameters_is_an_error(backend, case):
    family = getattr(backend.distributions, case.name)
    logits = backend.array(case.array)
    with pytest.raises(ValueError, match="exactly one of probs and logits"):
        family(T)
    with pytest.raises(ValueError, match="exactly one of probs and logits"):
        family(T, probs=logits, logits=logits)


@all_cases
def test_parameters_go_by_keyword(backend, case):
    with pytest.raises(TypeError):
        getattr(backend.distributions, case.name)(T, backend.array(case.array))


@all_cases
def test_infinite_logits_are_an_error(backend, case):
    logits = case.array.copy()
    logits.flat[0] = -np.inf
    with pytest.raises(ValueError, match="logits"):
        build(backend, case, logits=logits)


@all_cases
def test_negative_probs_are_an_error(backend, case):
    family = getattr(backend.distributions, case.name)
    with pytest.raises(ValueError, match="probs outside"):
        family(T, probs=backend.array([-0.1, 1.1]))


@all_cases
def test_temperature_that_does_not_broadcast_is_an_error(backend, case):
    with pytest.raises(ValueError, match="does not broadcast"):
        build(backend, case, backend.array([0.5, 0.5, 0.5]))


@pytest.mark.parametrize("name", ["ExpConcrete", "Concrete"])
def test_one_class_is_an_error(backend, name):
    with pytest.raises(ValueError, match="two classes or more"):
        getattr(backend.distributions, name)(T, logits=backend.array([[0.0]]))


@pytest.mark.parametrize("shape", [(2,), (3, 2), (1,)])
def test_expansion_to_a_wrong_shape_is_the_backend_s_error(backend, shape):
    d = backend.package.LogitBinaryConcrete(0.5, logits=backend.array(np.zeros(3)))
    normal = backend.dist.Normal(backend.array(np.zeros(3)), 1.0)
    with pytest.raises((ValueError, RuntimeError)) as expected:
        normal.expand(shape)
    with pytest.raises(type(expected.value)) as error:
        d.expand(shape)
    assert str(error.value) == str(expected.value)
