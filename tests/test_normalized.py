"""Log-softmax in few passes, against SciPy: values, both modes of derivatives, vmap."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax as oracle
from scipy.special import softmax

from pyro_concrete.ops import normalized

# Below and above the numbers of classes and of elements where the functions change.
SHAPES = [(3, 2), (5000, 2), (2000, 5), (1500, 8), (600, 15), (600, 20), (2, 9000)]


def scores_of(shape, offset=0.0):
    rng = np.random.default_rng(0)
    return offset + rng.normal(size=shape) * rng.choice([1.0, 30.0], size=shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_are_those_of_scipy(shape):
    scores = scores_of(shape, offset=1e3)
    for function in (normalized.log_softmax, normalized.log_softmax_):
        found = function(torch.as_tensor(scores.copy())).numpy()
        np.testing.assert_allclose(found, oracle(scores, -1), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_known(shape):
    scores = scores_of(shape)
    slope = np.random.default_rng(1).normal(size=shape)
    expected = slope - softmax(scores, -1) * slope.sum(-1, keepdims=True)
    at = torch.as_tensor(scores).requires_grad_()
    total = (normalized.log_softmax(at) * torch.as_tensor(slope)).sum()
    (found,) = torch.autograd.grad(total, at)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


# What torch itself loads for its forward mode.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_transforms_of_torch_agree_with_the_hosts_own():
    ours = normalized.log_softmax

    def host(s):
        return s.log_softmax(-1)

    scores = torch.as_tensor(scores_of((2, 3000, 3)))
    tangent = torch.as_tensor(scores_of((2, 3000, 3))).cos()
    assert scores[0].numel() > normalized.MANY
    for transform in (
        lambda f: torch.func.vmap(f)(scores),
        lambda f: torch.func.jvp(f, (scores,), (tangent,))[1],
        lambda f: torch.func.grad(lambda s: f(s).sin().sum())(scores),
        lambda f: torch.func.vmap(torch.func.grad(lambda s: f(s).sin().sum()))(scores),
        # The gradient along a direction, differentiated again.
        lambda f: torch.func.grad(
            lambda s: (torch.func.grad(lambda r: f(r).sin().sum())(s) * tangent).sum()
        )(scores),
    ):
        torch.testing.assert_close(transform(ours), transform(host))
