"""The draws of discrete sites in evaluations with Pyro, against their probabilities."""

import numpy as np
import pyro
import pytest
import torch
from asserts import assert_pvalue
from pyro import distributions as dist
from scipy.stats import chisquare

from pyro_concrete.objectives.discrete_draws import DiscreteDraws, draw

PROBS = torch.tensor([0.2, 0.0, 0.45, 0.35])
BITS = torch.tensor([0.1, 0.5, 0.93])
EDGES = {"zero": 0.0, "largest": 1 - 2**-24}


@pytest.mark.statistical
@pytest.mark.parametrize("family", [dist.Categorical, dist.OneHotCategorical])
@pytest.mark.parametrize("parameter", ["probs", "logits"])
def test_classes_are_drawn_as_often_as_they_are_probable(family, parameter):
    torch.manual_seed(0)
    value = PROBS if parameter == "probs" else PROBS.log() + 3
    fn = family(**{parameter: value}).expand([50, 400])
    draws = draw(fn)
    if family is dist.OneHotCategorical:
        assert (draws.sum(-1) == 1).all()
        draws = draws.argmax(-1)
    counts = np.bincount(draws.ravel(), minlength=4)
    assert counts[1] == 0
    is_possible = PROBS.numpy() > 0
    expected = PROBS.numpy()[is_possible].astype(float)
    expected *= counts.sum() / expected.sum()
    assert_pvalue(chisquare(counts[is_possible], expected).pvalue)


@pytest.mark.statistical
@pytest.mark.parametrize("parameter", ["probs", "logits"])
def test_bits_are_drawn_as_often_as_they_are_probable(parameter):
    torch.manual_seed(0)
    value = BITS if parameter == "probs" else BITS.logit()
    draws = draw(dist.Bernoulli(**{parameter: value}).expand([20_000, 3]))
    for ones, prob in zip(draws.sum(0).numpy(), BITS.tolist(), strict=True):
        observed = [ones, 20_000 - ones]
        expected = [20_000 * prob, 20_000 * (1 - prob)]
        assert_pvalue(chisquare(observed, expected).pvalue)


@pytest.mark.parametrize("uniform", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("scale", [1.0, 1.3, 1.9999])
@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("parameter", ["probs", "logits"])
def test_a_class_of_probability_zero_is_never_drawn(
    monkeypatch, uniform, scale, zero, parameter
):
    weights = torch.tensor([1.0, scale, 0.77 * scale])
    weights[zero] = 0
    monkeypatch.setattr(torch, "rand", lambda shape, dtype: torch.full(shape, uniform))
    value = weights if parameter == "probs" else weights.log()
    one_hot = draw(dist.OneHotCategorical(**{parameter: value}))
    assert one_hot.sum() == 1
    assert one_hot[zero] == 0


@pytest.mark.parametrize("uniform", EDGES.values(), ids=EDGES)
def test_certain_bits_are_certain(monkeypatch, uniform):
    monkeypatch.setattr(torch, "rand", lambda shape, dtype: torch.full(shape, uniform))
    bits = draw(dist.Bernoulli(logits=torch.tensor([-torch.inf, torch.inf])))
    assert bits.tolist() == [0, 1]


@pytest.mark.parametrize(
    "fn",
    [
        dist.Bernoulli(BITS.double()).expand([5, 2, 3]).to_event(1),
        dist.Bernoulli(logits=BITS[:, None]).expand([3, 4]).to_event(2),
        dist.Categorical(PROBS.expand(2, 4)),
        dist.OneHotCategorical(logits=PROBS[None]).expand([3, 2]).to_event(1),
        dist.Categorical(torch.ones(2, 1, dtype=torch.float64)),
    ],
    ids=lambda fn: f"{tuple(fn.batch_shape)}-{tuple(fn.event_shape)}",
)
def test_values_have_the_shape_and_type_of_torch_s(fn):
    value = draw(fn)
    expected = fn.sample()
    assert value.shape == expected.shape
    assert value.dtype == expected.dtype
    assert torch.isfinite(fn.log_prob(value)).all()


class Loaded(dist.Bernoulli):
    """A subclass with a sampler of its own."""

    def sample(self, sample_shape=()):
        return torch.ones(self.shape(sample_shape))


@pytest.mark.parametrize(
    "fn",
    [Loaded(BITS), dist.Normal(0.0, 1.0), dist.Categorical(torch.ones(40))],
    ids=["subclass", "normal", "classes"],
)
def test_other_distributions_draw_themselves(fn):
    assert draw(fn) is None


def test_only_latent_sites_are_drawn_inside_of_all_plates():
    def program():
        with pyro.plate("rows", 3):
            loaded = pyro.sample("loaded", Loaded(BITS))
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            x = pyro.sample("x", dist.Bernoulli(z), obs=torch.ones(3))
        return loaded, z, x

    with DiscreteDraws(), pyro.plate("particles", 7, dim=-2):
        loaded, z, x = program()
    assert loaded.shape == z.shape == (7, 3)
    assert (loaded == 1).all()
    assert x.shape == (3,)
