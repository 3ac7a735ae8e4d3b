"""Mixtures in NumPyro."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import mask, scale
from numpyro.ops.indexing import Vindex

from numpyro_concrete import OneHotCategorical


def gaussian_mixture(data):
    """Each datum takes the location and the width of its component."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([3.0, 2.0, 1.0])))
    with numpyro.plate("components", 3):
        locs = numpyro.sample("locs", dist.Normal(jnp.array([-1.0, 0.0, 2.0]), 2.0))
        scales = numpyro.sample("scales", dist.LogNormal(-0.5, 0.3))
    with numpyro.plate("data", len(data)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(locs[z], scales[z]), obs=data)


def one_hot_mixture(data):
    """A one-hot class times the matrix of cluster centres."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([1.0, 2.0, 2.5])))
    starts = jnp.array([[-1.0, 0.5], [0.5, 1.0], [1.0, -0.5]])
    locs = numpyro.sample("locs", dist.Normal(starts, 1.5).to_event(2))
    with numpyro.plate("data", len(data)):
        z = numpyro.sample("z", OneHotCategorical(probs=weights))
        numpyro.sample("x", dist.Normal(z @ locs, 0.6).to_event(1), obs=data)


def two_component_mixture(data):
    """A bit chooses one of two locations, under one width for both."""
    weight = numpyro.sample("weight", dist.Beta(2.0, 3.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with numpyro.plate("components", 2):
        locs = numpyro.sample("locs", dist.Normal(jnp.array([0.0, 3.0]), 2.0))
    with numpyro.plate("data", len(data)):
        z = numpyro.sample("z", dist.Bernoulli(weight))
        wide = jnp.where(z == 1, 1.1 * scale, scale)
        numpyro.sample("x", dist.Normal(locs[z], wide), obs=data)


def dirichlet_process(data):
    """Sticks broken off one by one, at most six, each with a place and a width."""
    alpha = numpyro.sample("alpha", dist.Gamma(3.0, 2.0))
    with numpyro.plate("sticks", 5):
        beta = numpyro.sample("beta", dist.Beta(1.0, alpha))
    rest = jnp.cumprod(1 - beta)
    one = jnp.ones(1)
    weights = jnp.concatenate([beta, one]) * jnp.concatenate([one, rest])
    spread = jnp.array([[3.0], [0.3]])
    with numpyro.plate("kinds", 2, dim=-2), numpyro.plate("atoms", 6, dim=-1):
        table = numpyro.sample("table", dist.Normal(0.0, spread))
    with numpyro.plate("data", len(data)):
        z = numpyro.sample("z", dist.Categorical(weights))
        loc, log_scale = table[:, z]
        numpyro.sample("x", dist.Normal(loc, jnp.exp(log_scale)), obs=data)


def lda(words, vocabulary, batch):
    """Topics of words in documents, a batch of documents at a time."""
    with numpyro.plate("topics", 3, dim=-1):
        prior = dist.Dirichlet(jnp.linspace(0.5, 1.5, vocabulary))
        topic_words = numpyro.sample("topic_words", prior)
    size = {"subsample_size": batch, "dim": -2}
    with numpyro.plate("documents", len(words), **size) as index:
        theta = numpyro.sample("theta", dist.Dirichlet(jnp.array([1.5, 1.0, 0.8])))
        with numpyro.plate("words", words.shape[1], dim=-1):
            z = numpyro.sample("z", dist.Categorical(theta))
            seen = words[index]
            numpyro.sample("w", dist.Categorical(topic_words[z]), obs=seen)


def semi_supervised_vae(pixels, labels, labelled, w1, b1, w2, b2):
    """A label, known for some images, and a style go through one decoder."""
    with numpyro.plate("images", len(pixels)):
        prior = dist.Categorical(jnp.array([0.5, 0.2, 0.3]))
        y = numpyro.sample("y", prior, obs=labels, obs_mask=labelled)
        style = numpyro.sample("style", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        one_hot = jax.nn.one_hot(y, 3)
        style = jnp.broadcast_to(style, (*one_hot.shape[:-1], 2))
        hidden = jnp.tanh(jnp.concatenate([one_hot, style], -1) @ w1 + b1)
        pixel = dist.Bernoulli(logits=hidden @ w2 + b2).to_event(1)
        numpyro.sample("x", pixel, obs=pixels)


def joint_mixture(first, second, group, centres):
    """A kind and a state index one table; the kind and an observed group another."""
    with numpyro.plate("kinds", 3, dim=-2), numpyro.plate("states", 2, dim=-1):
        table = numpyro.sample("table", dist.Normal(centres, 1.0))
    with numpyro.plate("groups", 4, dim=-2), numpyro.plate("kinds_", 3, dim=-1):
        effect = numpyro.sample("effect", dist.Normal(0.3, 1.5))
    with numpyro.plate("units", len(first), dim=-1):
        kind = numpyro.sample("kind", dist.Categorical(jnp.array([0.5, 0.3, 0.2])))
        logits = jnp.array([[0.0, 0.4], [0.3, -0.2], [-0.5, 0.5]])
        state = numpyro.sample("state", dist.Categorical(logits=logits[kind, :]))
        numpyro.sample("first", dist.Normal(table[kind, state], 0.5), obs=first)
        loc = Vindex(effect)[group, kind]
        numpyro.sample("second", dist.Normal(loc, 0.4), obs=second)


def spike_and_slab(design, response):
    """Each coefficient is a slope or nothing."""
    sparsity = numpyro.sample("sparsity", dist.Beta(2.0, 3.0))
    sigma = numpyro.sample("sigma", dist.LogNormal(-0.3, 0.4))
    with numpyro.plate("coefficients", design.shape[1]):
        gamma = numpyro.sample("gamma", dist.Bernoulli(sparsity))
        beta = numpyro.sample("beta", dist.Normal(0.2, 1.5))
    loc = design @ (beta * gamma)
    with numpyro.plate("data", len(response)):
        numpyro.sample("y", dist.Normal(loc, sigma), obs=response)


def masked_zero_inflated(counts, exposure):
    """Where it is present it is counted; where not, there are false alarms."""
    prevalence = numpyro.sample("prevalence", dist.Beta(3.0, 2.0))
    rate = numpyro.sample("rate", dist.Gamma(6.0, 2.0))
    with numpyro.plate("sites", len(counts)):
        z = numpyro.sample("present", dist.Bernoulli(prevalence))
        present = z.astype(bool)
        with mask(mask=present):
            numpyro.sample("x", dist.Poisson(rate * exposure), obs=counts)
        numpyro.sample("alarm", dist.Poisson(0.3).mask(~present), obs=counts)


def outliers(x, y):
    """A flag blows up the noise of its datum; half of the evidence counts."""
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 2.0))
    slope = numpyro.sample("slope", dist.Normal(1.0, 2.0))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1.0, 0.5))
    with scale(scale=0.5), numpyro.plate("data", len(x)):
        flag = numpyro.sample("flag", dist.Bernoulli(0.15))
        width = jnp.where(flag.astype(bool), 8 * sigma, sigma)
        numpyro.sample("y", dist.Normal(intercept + slope * x, width), obs=y)
