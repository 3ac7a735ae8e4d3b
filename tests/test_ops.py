"""The maths against the oracles: the same noise in, the same numbers out."""

import numpy as np
import pytest
from asserts import assert_derivative, assert_exact, assert_finite
from reference import concrete, gradients, kl

LOGITS = np.array([[0.7, -0.3, 0.1], [1.5, 0.0, -2.0]])
NOISE = np.random.default_rng(0).gumbel(size=(4, 2, 3))
LOGISTIC = np.random.default_rng(1).logistic(size=(4, 2))
POINTS = concrete.exp_concrete_sample(NOISE, 3.0, 0 * LOGITS)  # well inside
TEMPERATURES = {"scalar": 0.6, "per row": np.array([0.3, 1.7])}

temperatures = pytest.mark.parametrize(
    "temperature", TEMPERATURES.values(), ids=TEMPERATURES.keys()
)
dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])

# name in ops: (oracle, the array that comes first)
N_ARY = {
    "exp_concrete": (concrete.exp_concrete_sample, NOISE),
    "exp_concrete_log_density": (
        concrete.exp_concrete_log_density,
        POINTS,
    ),
    "concrete_log_density": (
        concrete.concrete_log_density,
        np.exp(POINTS),
    ),
}
BINARY = {
    "logit_binary_concrete": (concrete.logit_binary_concrete_sample, LOGISTIC),
    "logit_binary_concrete_log_density": (
        concrete.logit_binary_concrete_log_density,
        LOGISTIC,
    ),
    "binary_concrete_log_density": (
        concrete.binary_concrete_log_density,
        1 / (1 + np.exp(-LOGISTIC)),
    ),
}
MAPS = [(name, *pair, LOGITS) for name, pair in N_ARY.items()] + [
    (name, *pair, LOGITS[:, 0]) for name, pair in BINARY.items()
]
maps = pytest.mark.parametrize(
    ("name", "oracle", "first", "logits"), MAPS, ids=[m[0] for m in MAPS]
)


def as_host(backend, temperature, dtype="float64"):
    if isinstance(temperature, float):
        return temperature
    return backend.array(temperature, dtype)


@maps
@temperatures
@dtypes
def test_map_equals_oracle(
    backend, device, name, oracle, first, logits, temperature, dtype
):
    result = getattr(backend.ops, name)(
        backend.array(first, dtype),
        as_host(backend, temperature, dtype),
        backend.array(logits, dtype),
    )
    assert backend.dtype(result) == dtype
    assert_exact(backend.numpy(result), oracle(first, temperature, logits), dtype)


@pytest.mark.slow_on("numpyro")
@maps
@temperatures
def test_map_derivative_equals_difference(
    backend, name, oracle, first, logits, temperature
):
    function = getattr(backend.ops, name)
    temperature = np.asarray(temperature)
    weight = np.cos(np.arange(oracle(first, temperature, logits).size))

    def total(first, temperature, logits):
        value = function(first, temperature, logits)
        return (value * backend.array(weight.reshape(value.shape))).sum()

    def oracle_total(first, temperature, logits):
        value = oracle(first, temperature, logits)
        return (value * weight.reshape(value.shape)).sum()

    args = (first, temperature, logits)
    actual = backend.grad(total, *map(backend.array, args))
    for i, gradient in enumerate(actual):
        varied = lambda x, i=i: oracle_total(*args[:i], x, *args[i + 1 :])  # noqa: E731
        expected = gradients.central_difference(varied, args[i])
        assert_derivative(backend.numpy(gradient), expected)


@temperatures
@dtypes
def test_own_log_density_equals_oracle(backend, device, temperature, dtype):
    result = backend.ops.exp_concrete_noise_log_density(
        backend.array(NOISE, dtype), as_host(backend, temperature, dtype)
    )
    expected = concrete.exp_concrete_own_log_density(NOISE, temperature)
    assert_exact(backend.numpy(result), expected, dtype)


@temperatures
@dtypes
def test_own_logit_density_equals_oracle(backend, device, temperature, dtype):
    result = backend.ops.logit_binary_concrete_noise_log_density(
        backend.array(LOGISTIC, dtype), as_host(backend, temperature, dtype)
    )
    value = concrete.logit_binary_concrete_sample(LOGISTIC, temperature, 0.4)
    expected = concrete.logit_binary_concrete_log_density(value, temperature, 0.4)
    assert_exact(backend.numpy(result), expected, dtype)


def test_logit_density_at_infinity_has_a_finite_slope(backend):
    density = backend.ops.logit_binary_concrete_log_density
    ends = backend.array([-np.inf, np.inf])
    logits = backend.array([0.3, 0.3])
    assert np.all(backend.numpy(density(ends, 0.5, logits)) == -np.inf)
    (slope,) = backend.grad(lambda a: density(ends, 0.5, a).sum(), logits)
    # d/da (s - 2 log(1 + exp s)) = -tanh(s / 2) with s = a - t y
    assert_exact(backend.numpy(slope), [-1.0, 1.0])


@pytest.mark.parametrize("name", ["gumbel", "logistic"])
@dtypes
def test_noise_is_finite_at_the_ends(backend, device, name, dtype):
    largest = 1 - np.finfo(dtype).eps / 2
    uniform = backend.array([0.0, np.finfo(dtype).tiny, 0.5, largest], dtype)
    noise = backend.numpy(getattr(backend.ops, name)(uniform))
    assert_finite(noise, name)
    assert noise[1] != noise[2] != noise[3]


def test_gumbel_of_known_uniform(backend):
    uniform = np.array([0.1, 0.5, 0.999])
    result = backend.numpy(backend.ops.gumbel(backend.array(uniform)))
    assert_exact(result, -np.log(-np.log1p(-uniform)))


def test_logistic_of_known_uniform(backend):
    uniform = np.array([0.1, 0.5, 0.999])
    result = backend.numpy(backend.ops.logistic(backend.array(uniform)))
    assert_exact(result, np.log(uniform / (1 - uniform)))


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("name", ["categorical_logits", "bernoulli_logits"])
@dtypes
def test_logits_and_their_gradients_are_finite_at_zero_and_one(backend, name, dtype):
    function = getattr(backend.ops, name)
    probs = backend.array([0.0, 1.0], dtype)
    assert_finite(backend.numpy(function(probs)))
    (gradient,) = backend.grad(lambda p: function(p).sum(), probs)
    assert_finite(backend.numpy(gradient))


def test_categorical_logits_of_known_weights(backend):
    result = backend.ops.categorical_logits(backend.array([1.0, 2.0, 5.0]))
    assert_exact(backend.numpy(result), np.log([1 / 8, 2 / 8, 5 / 8]))


def test_bernoulli_logits_of_known_probabilities(backend):
    probs = np.array([1e-30, 0.2, 0.5])
    result = backend.numpy(backend.ops.bernoulli_logits(backend.array(probs)))
    assert_exact(result, np.log(probs / (1 - probs)))


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_entropy_equals_oracle(backend, n):
    result = backend.ops.exp_concrete_entropy(backend.array(0.3), n)
    assert_exact(backend.numpy(result), concrete.exp_concrete_entropy(0.3, n), scale=n)


def test_binary_entropy_equals_oracle(backend):
    result = backend.ops.logit_binary_concrete_entropy(backend.array(0.3))
    expected = concrete.logit_binary_concrete_entropy(0.3)
    assert_exact(backend.numpy(result), expected)


PAIRS = {
    "distinct": (np.log([2, 0.5, 1]), np.log([0.3, 1.7, 1.1])),
    "coincident ratios": (np.array([0.3, 0.3, 1.0]), np.array([0.1, 0.1, -0.7])),
    "close": (np.array([0.3, -0.2]), np.array([0.3001, -0.2])),
    "far": (np.array([12.0, 0.0, -9.0, 1.0]), np.zeros(4)),
    "eight classes": tuple(np.random.default_rng(2).normal(size=(2, 8))),
}


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_kl_equals_divided_differences(backend, device, pair):
    result = backend.ops.exp_concrete_kl(*map(backend.array, pair))
    assert_exact(backend.numpy(result), kl.exp_concrete_kl(*pair))


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_kl_derivative_equals_difference(backend, pair):
    def total(p, q):
        return backend.ops.exp_concrete_kl(p, q).sum()

    actual = backend.grad(total, *map(backend.array, pair))
    for i, gradient in enumerate(actual):
        varied = lambda x, i=i: kl.exp_concrete_kl(*pair[:i], x, *pair[i + 1 :])  # noqa: E731
        expected = gradients.central_difference(varied, pair[i])
        assert_derivative(backend.numpy(gradient), expected)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("difference", [1e-7, 0.01, 0.999, 1.001, 3.0, 40.0])
def test_binary_kl_equals_oracle(backend, device, difference):
    # For tiny differences the n-ary oracle keeps its digits, a quadrature does not.
    pair = np.array([difference, 0.0]), np.zeros(2)
    result = backend.ops.logit_binary_concrete_kl(
        backend.array(difference), backend.array(0.0)
    )
    expected = float(kl.exp_concrete_kl(*pair))
    np.testing.assert_allclose(backend.numpy(result), expected, rtol=1e-10)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("difference", [0.0, 0.5, 1.0, 1.5, 20.0, 8000.0])
def test_binary_kl_derivative_is_right_and_finite(backend, difference):
    def divergence(p):
        return backend.ops.logit_binary_concrete_kl(p, backend.array(0.0))

    (actual,) = backend.grad(divergence, backend.array(difference))
    half = difference / 2
    expected = 0.0
    if difference:
        # d/dd (d coth(d/2) - 2) = coth(h) - h / sinh(h)^2 with h = d/2
        decay = np.exp(-2 * half)
        squared_csch = 4 * decay / (1 - decay) ** 2
        expected = 1 / np.tanh(half) - half * squared_csch
    assert_derivative(backend.numpy(actual), expected)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("scale", [10.0, 1000.0])
def test_kl_and_its_gradient_are_finite_far_apart(backend, scale):
    p = backend.array(scale * np.random.default_rng(0).normal(size=(2, 50)))
    q = backend.array(np.zeros((2, 50)))
    assert_finite(backend.numpy(backend.ops.exp_concrete_kl(p, q)))
    for gradient in backend.grad(
        lambda *x: backend.ops.exp_concrete_kl(*x).sum(), p, q
    ):
        assert_finite(backend.numpy(gradient))


def test_log_ratios_invert(backend):
    value = backend.array(concrete.exp_concrete_sample(NOISE, 0.6, LOGITS))
    ratios = backend.ops.log_ratios(value)
    assert ratios.shape == (4, 2, 2)
    assert_exact(
        backend.numpy(backend.ops.from_log_ratios(ratios)), backend.numpy(value)
    )


@dtypes
def test_clamp_probs_moves_only_the_ends(backend, dtype):
    value = np.array([0.0, 0.25, 1.0], dtype)
    moved = backend.numpy(backend.ops.clamp_probs(backend.array(value, dtype)))
    assert 0 < moved[0] < 1e-37
    assert moved[1] == 0.25
    assert 1 - np.finfo(dtype).eps <= moved[2] < 1
