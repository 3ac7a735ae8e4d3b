"""The exact KL of two Concretes at any temperatures, against the oracles."""

from functools import lru_cache

import numpy as np
import pytest
from asserts import assert_derivative, assert_exact, assert_finite
from reference import gradients, kl

RATIOS = [1 / 4, 0.6, 0.98, 1.5, 4.0]
CLASSES = [2, 3, 10, 100]
DIFFERENCES = [0.0, 1.0, 50.0]


def logits_of(n, difference):
    """Two vectors of logits whose largest difference is this."""
    rng = np.random.default_rng(n)
    a, x = rng.normal(size=(2, n))
    return a, a + difference * x / np.abs(x).max()


@lru_cache
def oracle(n, difference, ratio):
    a, b = logits_of(n, difference)
    return kl.exp_concrete_unequal_kl(0.8, a, 0.8 * ratio, b)


def assert_on_grid(backend, n, difference, ratio):
    a, b = map(backend.array, logits_of(n, difference))
    result = backend.ops.exp_concrete_kl(a, b, 0.8, 0.8 * ratio)
    expected = oracle(n, difference, ratio)
    np.testing.assert_allclose(backend.numpy(result), expected, rtol=1e-8)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("ratio", [1 / 4, 4.0])
@pytest.mark.parametrize("difference", [1.0, 50.0])
@pytest.mark.parametrize("n", [2, 3])
def test_kl_equals_quadrature(backend, n, difference, ratio):
    assert_on_grid(backend, n, difference, ratio)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1 / 4, 0.4, 0.6, 0.98, 1.02, 1.5, 3.0, 4.0])
@pytest.mark.parametrize("difference", [0.0, 0.1, 1.0, 3.0, 10.0, 20.0, 50.0])
@pytest.mark.parametrize("n", [2, 3, 4, 10, 99, 100, 1000])
def test_kl_equals_quadrature_on_all_of_the_grid(backend, n, difference, ratio):
    assert_on_grid(backend, n, difference, ratio)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("excess", [0.0, 1e-8])
@pytest.mark.parametrize("difference", [0.0, 1e-8])
@pytest.mark.parametrize("n", [2, 10])
def test_kl_of_neighbours_keeps_its_digits(backend, n, difference, excess):
    if not difference and not excess:
        expected = 0.0
    else:
        d = logits_of(n, difference)[1] - logits_of(n, 0.0)[0]
        expected = kl.exp_concrete_kl_nearby(d, excess)
    d = logits_of(n, difference)[1] - logits_of(n, 0.0)[0]
    temperatures = backend.array(1.0), backend.array(1 + excess)
    result = backend.ops.exp_concrete_kl(
        backend.array(0 * d), backend.array(d), *temperatures
    )
    np.testing.assert_allclose(backend.numpy(result), expected, rtol=1e-6, atol=0)
    if not excess:
        result = backend.ops.exp_concrete_kl(backend.array(0 * d), backend.array(d))
        np.testing.assert_allclose(backend.numpy(result), expected, rtol=1e-6, atol=0)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("n", [3, 20])
def test_equal_temperatures_keep_their_digits(backend, n):
    for difference in (1e-6, 1e-3, 1.0, 50.0):
        a, b = logits_of(n, difference)
        result = backend.ops.exp_concrete_kl(backend.array(a), backend.array(b))
        expected = kl.exp_concrete_kl(a, b)
        np.testing.assert_allclose(backend.numpy(result), expected, rtol=1e-9)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("ratio", [1 / 3, 1.0])
@pytest.mark.parametrize("n", [2, 4])
def test_derivatives_equal_differences_of_the_oracle(backend, n, ratio):
    a, b = logits_of(n, 2.0)
    point = np.concatenate([a, b, [0.8, 0.8 * ratio]])

    def expected(x):
        return kl.exp_concrete_unequal_kl(x[-2], x[:n], x[-1], x[n:-2])

    def result(a, b, t_p, t_q):
        return backend.ops.exp_concrete_kl(a, b, t_p, t_q).sum()

    parts = a, b, np.array(0.8), np.array(0.8 * ratio)
    actual = backend.grad(result, *map(backend.array, parts))
    actual = np.concatenate([np.atleast_1d(backend.numpy(x)) for x in actual])
    assert_derivative(actual, gradients.central_difference(expected, point, 1e-4))


@pytest.mark.parametrize("difference", [1e-7, 50.0])
@pytest.mark.parametrize("ratio", RATIOS)
def test_binary_kl_equals_two_classes(backend, ratio, difference):
    a = 0.4
    b = 0.4 + difference
    result = backend.ops.logit_binary_concrete_kl(
        backend.array(a), backend.array(b), 1.0, ratio
    )
    expected = kl.exp_concrete_unequal_kl(1.0, [a, 0], ratio, [b, 0])
    np.testing.assert_allclose(backend.numpy(result), expected, rtol=1e-8)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("n", [2, 5, pytest.param(120, marks=pytest.mark.slow)])
def test_temperatures_broadcast(backend, n):
    rng = np.random.default_rng(7)
    a = rng.normal(size=(2, 3, n))
    b = rng.normal(size=(1, n))
    t_p = np.array([0.5, 0.7, 1.1])
    t_q = np.array([[0.6], [0.4]])
    batch_kl = backend.ops.exp_concrete_kl(*map(backend.array, (a, b, t_p, t_q)))
    assert batch_kl.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        single_kl = backend.ops.exp_concrete_kl(
            backend.array(a[i, j]), backend.array(b[0]), t_p[j].item(), t_q[i, 0].item()
        )
        assert_exact(backend.numpy(batch_kl)[i, j], backend.numpy(single_kl))


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("ratio", [1 / 4, 4.0])
@pytest.mark.parametrize("n", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_value_and_gradients_are_finite_far_apart(backend, n, ratio, dtype):
    scales = np.array([0.0, 1e-20, 1.0, 50.0, 1e3])[:, None]
    a, b = scales * np.random.default_rng(1).normal(size=(2, 5, n))
    parts = a, b, np.array(0.5), np.array(0.5 * ratio)
    parts = [backend.array(x, dtype) for x in parts]

    def total(*x):
        return backend.ops.exp_concrete_kl(*x).sum()

    assert_finite(backend.numpy(backend.ops.exp_concrete_kl(*parts)))
    for gradient in backend.grad(total, *parts):
        assert_finite(backend.numpy(gradient))


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("ratio", [1 / 4, 4.0])
@pytest.mark.parametrize("n", [2, 3])
def test_single_precision(backend, n, ratio):
    a, b = (backend.array(x, "float32") for x in logits_of(n, 1.0))
    result = backend.ops.exp_concrete_kl(a, b, 0.8, 0.8 * ratio)
    assert str(result.dtype).endswith("float32")
    np.testing.assert_allclose(backend.numpy(result), oracle(n, 1.0, ratio), rtol=2e-4)


@pytest.mark.slow_on("numpyro")
def test_ratios_out_of_reach_are_nan(backend):
    even = backend.array(np.zeros((2, 3)))
    t_p = backend.array([1.0, 1.0])
    t_q = backend.array([4.0, 4.1])
    for x in (even, even[..., :2]):
        result = backend.numpy(backend.ops.exp_concrete_kl(x, x, t_p, t_q))
        assert np.isnan(result).tolist() == [False, True]
        back = backend.numpy(backend.ops.exp_concrete_kl(x, x, t_q, t_p))
        assert np.isnan(back).tolist() == [False, True]


def test_one_temperature_alone_is_an_error(backend):
    zero = backend.array(np.zeros(3))
    for name in ("exp_concrete_kl", "logit_binary_concrete_kl"):
        with pytest.raises(ValueError, match="give both, or neither"):
            getattr(backend.ops, name)(zero, zero, temperature_q=0.5)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("by_row", [False, True], ids=["scalar", "by row"])
def test_mean_field_elbo_has_no_noise_at_unequal_temperatures(backend, by_row):
    rng = np.random.default_rng(3)
    model_logits, guide_logits = rng.normal(size=(2, 3, 4))
    t_p, t_q = (np.array([0.6, 0.7, 0.9]), 0.5) if by_row else (2 / 3, 1 / 2)

    def program(logits):
        def run():
            with backend.plate("rows", 3):
                fn = backend.dist.Bernoulli(logits=backend.array(logits[:, 0]))
                backend.site("bit", fn)
                fn = backend.dist.Categorical(logits=backend.array(logits))
                backend.site("class", fn)

        return run

    relax = backend.package.relax
    model = relax(program(model_logits), t_q, scoring="concrete")
    temperature = backend.array(t_p) if by_row else t_p
    guide = relax(program(guide_logits), temperature, scoring="concrete")
    losses = {
        backend.loss("TraceMeanField", model, guide, seed=seed) for seed in range(3)
    }
    expected = 0.0
    for a, b, t in zip(guide_logits, model_logits, t_p * np.ones(3), strict=True):
        expected += kl.exp_concrete_unequal_kl(t, a, t_q, b)
        expected += kl.logit_binary_concrete_unequal_kl(t, a[0], t_q, b[0])
    assert len(losses) == 1
    np.testing.assert_allclose(losses.pop(), expected, rtol=1e-8)
