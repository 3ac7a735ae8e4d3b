"""Mixtures in Pyro."""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.ops.indexing import Vindex


def gaussian_mixture(data):
    """Each datum takes the location and the width of its component."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([3.0, 2.0, 1.0])))
    with pyro.plate("components", 3, dim=-1):
        locs = pyro.sample("locs", dist.Normal(torch.tensor([-1.0, 0.0, 2.0]), 2.0))
        scales = pyro.sample("scales", dist.LogNormal(-0.5, 0.3))
    with pyro.plate("data", len(data), dim=-1):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(locs[z], scales[z]), obs=data)


def one_hot_mixture(data):
    """A one-hot class times the matrix of cluster centres."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([1.0, 2.0, 2.5])))
    starts = torch.tensor([[-1.0, 0.5], [0.5, 1.0], [1.0, -0.5]])
    locs = pyro.sample("locs", dist.Normal(starts, 1.5).to_event(2))
    with pyro.plate("data", len(data), dim=-1):
        z = pyro.sample("z", dist.OneHotCategorical(weights))
        pyro.sample("x", dist.Normal(z @ locs, 0.6).to_event(1), obs=data)


def two_component_mixture(data):
    """A bit chooses one of two locations, under one width for both."""
    weight = pyro.sample("weight", dist.Beta(2.0, 3.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("components", 2, dim=-1):
        locs = pyro.sample("locs", dist.Normal(torch.tensor([0.0, 3.0]), 2.0))
    with pyro.plate("data", len(data), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(weight))
        wide = torch.where(z == 1, 1.1 * scale, scale)
        pyro.sample("x", dist.Normal(locs[z.long()], wide), obs=data)


def dirichlet_process(data):
    """Sticks broken off one by one, at most six, each with a place and a width."""
    alpha = pyro.sample("alpha", dist.Gamma(3.0, 2.0))
    each = alpha.unsqueeze(-1).expand(*alpha.shape, 5)
    beta = pyro.sample("beta", dist.Beta(1.0, each).to_event(1))
    rest = torch.cumprod(1 - beta, -1)
    weights = F.pad(beta, (0, 1), value=1.0) * F.pad(rest, (1, 0), value=1.0)
    spread = torch.tensor([[3.0], [0.3]]).expand(2, 6)
    table = pyro.sample("table", dist.Normal(0.0, spread).to_event(2))
    with pyro.plate("data", len(data), dim=-1):
        z = pyro.sample("z", dist.Categorical(weights))
        loc, log_scale = (Vindex(table)[..., i, z] for i in range(2))
        pyro.sample("x", dist.Normal(loc, log_scale.exp()), obs=data)


def lda(words, vocabulary, batch):
    """Topics of words in documents, a batch of documents at a time."""
    with pyro.plate("topics", 3, dim=-1):
        prior = dist.Dirichlet(torch.linspace(0.5, 1.5, vocabulary))
        topic_words = pyro.sample("topic_words", prior)
    size = {"subsample_size": batch, "dim": -2}
    with pyro.plate("documents", len(words), **size) as index:
        theta = pyro.sample("theta", dist.Dirichlet(torch.tensor([1.5, 1.0, 0.8])))
        with pyro.plate("words", words.shape[1], dim=-1):
            z = pyro.sample("z", dist.Categorical(theta))
            seen = words[index]
            pyro.sample("w", dist.Categorical(topic_words[z]), obs=seen)


def semi_supervised_vae(pixels, labels, labelled, w1, b1, w2, b2):
    """A label, known for some images, and a style go through one decoder."""
    with pyro.plate("images", len(pixels), dim=-1):
        prior = dist.Categorical(torch.tensor([0.5, 0.2, 0.3]))
        y = pyro.sample("y", prior, obs=labels, obs_mask=labelled)
        style = pyro.sample("style", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        one_hot = F.one_hot(y, 3).to(style.dtype)
        style = style.expand((*one_hot.shape[:-1], 2))
        hidden = torch.tanh(torch.cat([one_hot, style], -1) @ w1 + b1)
        pixel = dist.Bernoulli(logits=hidden @ w2 + b2).to_event(1)
        pyro.sample("x", pixel, obs=pixels)


def joint_mixture(first, second, group, centres):
    """A kind and a state index one table; the kind and an observed group another."""
    table = pyro.sample("table", dist.Normal(centres, 1.0).to_event(2))
    effect = pyro.sample("effect", dist.Normal(0.3, 1.5).expand([4, 3]).to_event(2))
    with pyro.plate("units", len(first), dim=-1):
        kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
        logits = torch.tensor([[0.0, 0.4], [0.3, -0.2], [-0.5, 0.5]])
        state = pyro.sample("state", dist.Categorical(logits=logits[kind, :]))
        loc = Vindex(table)[..., kind, state]
        pyro.sample("first", dist.Normal(loc, 0.5), obs=first)
        loc = Vindex(effect)[..., group, kind]
        pyro.sample("second", dist.Normal(loc, 0.4), obs=second)


def spike_and_slab(design, response):
    """Each coefficient is a slope or nothing."""
    sparsity = pyro.sample("sparsity", dist.Beta(2.0, 3.0))
    sigma = pyro.sample("sigma", dist.LogNormal(-0.3, 0.4))
    with pyro.plate("coefficients", design.shape[1], dim=-1):
        gamma = pyro.sample("gamma", dist.Bernoulli(sparsity))
        beta = pyro.sample("beta", dist.Normal(0.2, 1.5))
    loc = design @ (beta * gamma)
    with pyro.plate("data", len(response), dim=-1):
        pyro.sample("y", dist.Normal(loc, sigma), obs=response)


def masked_zero_inflated(counts, exposure):
    """Where it is present it is counted; where not, there are false alarms."""
    prevalence = pyro.sample("prevalence", dist.Beta(3.0, 2.0))
    rate = pyro.sample("rate", dist.Gamma(6.0, 2.0))
    with pyro.plate("sites", len(counts), dim=-1):
        present = pyro.sample("present", dist.Bernoulli(prevalence)).bool()
        with poutine.mask(mask=present):
            pyro.sample("x", dist.Poisson(rate * exposure), obs=counts)
        pyro.sample("alarm", dist.Poisson(0.3).mask(~present), obs=counts)


def masked_mixture(counts, exposure):
    """The same sites as one distribution of two components."""
    rate = pyro.sample("rate", dist.Gamma(6.0, 2.0))
    with pyro.plate("sites", len(counts), dim=-1):
        present = pyro.sample("present", dist.Bernoulli(0.55))
        alarm, counted = dist.Poisson(0.3), dist.Poisson(rate * exposure)
        x = dist.MaskedMixture(present.bool(), alarm, counted)
        pyro.sample("x", x, obs=counts)


def outliers(x, y):
    """A flag blows up the noise of its datum; half of the evidence counts."""
    intercept = pyro.sample("intercept", dist.Normal(0.0, 2.0))
    slope = pyro.sample("slope", dist.Normal(1.0, 2.0))
    sigma = pyro.sample("sigma", dist.LogNormal(-1.0, 0.5))
    with poutine.scale(scale=0.5), pyro.plate("data", len(x), dim=-1):
        flag = pyro.sample("flag", dist.Bernoulli(0.15))
        scale = torch.where(flag.bool(), 8 * sigma, sigma)
        pyro.sample("y", dist.Normal(intercept + slope * x, scale), obs=y)
