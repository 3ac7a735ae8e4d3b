"""Draws and densities as one autograd function: values, and all their derivatives."""

import numpy as np
import pytest
import torch
from scipy.special import gammaln, log_expit, log_softmax, logit
from torch.autograd import forward_ad, grad, gradcheck, gradgradcheck

from pyro_concrete import ExpConcrete, LogitBinaryConcrete, ops
from pyro_concrete.ops import fused
from pyro_concrete.ops.binary import logit_binary_concrete_draw
from pyro_concrete.ops.categorical import exp_concrete_draw

T = 0.7
# Few classes in few passes, on both sides of the sizes where the ways change.
SHAPES = [(5, 2), (6000, 2), (4, 3), (3, 20), (2000, 8), (500, 20)]


def logits_and_uniforms(shape, seed=0):
    """Logits and uniforms."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=shape)
    return logits, rng.uniform(size=shape)


def density(value, logits, t=T):
    """Appendix C.3, by SciPy."""
    n = logits.shape[-1]
    scores = log_softmax(logits - t * value, -1)
    return gammaln(n) + (n - 1) * np.log(t) + scores.sum(-1)


def draw(logits, uniform):
    return exp_concrete_draw(torch.as_tensor(uniform.copy()), T, logits)


def draw_binary(logits, uniform):
    return logit_binary_concrete_draw(torch.as_tensor(uniform.copy()), T, logits)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_draw_is_the_formula_and_its_density(shape):
    logits, uniform = logits_and_uniforms(shape)
    value, log_density = draw(torch.as_tensor(logits), uniform)
    expected = log_softmax((logits - np.log(-np.log1p(-uniform))) / T, -1)
    np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        log_density, density(expected, logits), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_draw_without_gradients_is_the_formula(shape):
    logits, _ = logits_and_uniforms(shape)
    noise = np.random.default_rng(1).gumbel(size=shape)
    noise[0] += 1e3
    value = ops.exp_concrete(torch.as_tensor(noise), T, torch.as_tensor(logits))
    expected = log_softmax((logits + noise) / T, -1)
    np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-9)


def test_a_binary_draw_is_the_formula_and_its_density():
    logits, uniform = logits_and_uniforms((50,))
    value, log_density = draw_binary(torch.as_tensor(logits), uniform)
    point = (logits + logit(uniform)) / T
    np.testing.assert_allclose(value, point, rtol=1e-10)
    scores = logits - T * point
    expected = np.log(T) + log_expit(scores) + log_expit(-scores)
    np.testing.assert_allclose(log_density, expected, rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_density_of_any_value_is_the_formula(shape):
    logits, uniform = logits_and_uniforms(shape)
    value = log_softmax(5 * uniform, -1)
    result = ops.exp_concrete_log_density(
        torch.as_tensor(value), T, torch.as_tensor(logits)
    )
    np.testing.assert_allclose(result, density(value, logits), rtol=1e-10)


# What torch itself loads for its forward mode.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("broadcast", [False, True])
def test_first_and_second_derivatives_are_the_numerical_ones(broadcast):
    logits, uniform = logits_and_uniforms((4, 3))
    a = torch.as_tensor(logits[0] if broadcast else logits).requires_grad_()
    log_odds = a[..., 0].detach().requires_grad_()
    value = torch.as_tensor(log_softmax(uniform, -1)).requires_grad_()
    cases = [
        (lambda x: draw(x, uniform)[0], (a,)),
        (lambda x: draw_binary(x, uniform[:, 0])[0], (log_odds,)),
        (lambda x, y: fused.score_exp_concrete(x, y, T, 1.3), (a, value)),
        (lambda x: fused.score_exp_concrete(x, value.detach(), T, 1.3), (a,)),
        (lambda y: fused.score_exp_concrete(a.detach(), y, T, 1.3), (value,)),
    ]
    for function, inputs in cases:
        assert gradcheck(function, inputs, check_forward_ad=True)
        assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("family", [ExpConcrete, LogitBinaryConcrete])
def test_an_own_density_has_no_gradient_in_the_logits_in_either_mode(family):
    logits = torch.as_tensor(logits_and_uniforms((4, 3))[0]).requires_grad_()
    d = family(T, logits=logits)
    own_log_density = d.log_prob(d.rsample())
    (result,) = grad(own_log_density.sum(), logits)
    assert (result == 0).all()
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(logits, torch.ones_like(logits))
        d = family(T, logits=moving)
        tangent = forward_ad.unpack_dual(d.log_prob(d.rsample())).tangent
    assert tangent is None or (tangent == 0).all()


def test_large_tables_take_the_fused_density():
    logits = torch.zeros(fused.MANY, 2, requires_grad=True)
    result = ops.exp_concrete_log_density(logits.detach() - np.log(2), T, logits)
    assert "ExpConcreteLogDensity" in type(result.grad_fn).__name__


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_value_may_be_changed_in_place(shape):
    logits = torch.zeros(shape, requires_grad=True)
    d = ExpConcrete(T, logits=logits)
    value = d.rsample()
    own_log_density = d.log_prob(value).detach()
    value.copy_(torch.full(shape, 1 / shape[-1]).log())
    result = d.log_prob(value)
    assert (result - own_log_density).abs().max() > 0.01
    expected = density(np.full(shape, -np.log(shape[-1])), np.zeros(shape))
    np.testing.assert_allclose(result.detach(), expected, rtol=1e-5)
