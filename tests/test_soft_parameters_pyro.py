"""Distributions with soft parameters: built at averages, read at every value."""

import math

import pyro.distributions as dist
import pytest
import torch
from asserts import assert_exact

from pyro_concrete.soft_index import SoftReal, plain, soft_index
from pyro_concrete.soft_index.parameters import with_known_parameters


@pytest.fixture(autouse=True)
def _double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def z():
    return soft_index("z", torch.arange(2), torch.tensor([0.25, 0.75]))


def test_probabilities_of_a_distribution_are_validated_as_averages(z):
    rows = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    fn = dist.Categorical(rows[z])
    # A site has those of the mixture: 0.25 * 0.2 + 0.75 * 0.6.
    site = with_known_parameters(fn)
    assert_exact(site.log_prob(torch.tensor(0)), math.log(0.5))
    # A program that reads the probabilities still finds the values behind them.
    assert_exact(plain(torch.where(fn.probs[0] > 0.5, 1.0, 0.0)), 0.75)
    with pytest.raises(ValueError, match="Expected parameter probs"):
        dist.Bernoulli(4 * rows[z, 0], validate_args=True)


SCORES_AT_AVERAGES = {
    "Bernoulli": lambda a: dist.Bernoulli(a / 4),
    "Bernoulli logits": lambda a: dist.Bernoulli(logits=a),
    "Binomial": lambda a: dist.Binomial(2, a / 4),
    "Exponential": lambda a: dist.Exponential(a),
    "Gamma": lambda a: dist.Gamma(a, a),
    "Geometric": lambda a: dist.Geometric(a / 4),
    "Laplace": lambda a: dist.Laplace(a, 1.0),
    "Normal": lambda a: dist.Normal(torch.zeros(2), scale=a),
    "Poisson": lambda a: dist.Poisson(a),
}


@pytest.mark.parametrize("make", SCORES_AT_AVERAGES.values(), ids=SCORES_AT_AVERAGES)
def test_soft_parameters_of_reals_are_their_means(z, make):
    fn = make(torch.tensor([1.0, 3.0])[z])
    expected = make(torch.tensor(0.25 * 1 + 0.75 * 3))
    assert fn.batch_shape == expected.batch_shape
    value = torch.ones(2)
    log_prob = with_known_parameters(fn).log_prob(value)
    assert_exact(log_prob, expected.log_prob(value))


@pytest.mark.parametrize("make", SCORES_AT_AVERAGES.values(), ids=SCORES_AT_AVERAGES)
def test_programs_read_the_values_of_a_parameter(z, make):
    fn = make(torch.tensor([1.0, 3.0])[z])
    for name, value in vars(fn).items():
        if isinstance(value, SoftReal) and not name.startswith("_"):
            of_each = [getattr(make(torch.tensor(x)), name) for x in (1.0, 3.0)]
            assert_exact(
                plain(value.exp()), 0.25 * of_each[0].exp() + 0.75 * of_each[1].exp()
            )
            return
    pytest.fail("no parameter is soft")


def test_probabilities_are_normalized_for_each_value(z):
    probs = dist.Categorical(torch.tensor([[1.0, 1.0], [3.0, 1.0]])[z]).probs
    assert_exact(plain(probs), [0.25 * 0.5 + 0.75 * 0.75, 0.25 * 0.5 + 0.75 * 0.25])
