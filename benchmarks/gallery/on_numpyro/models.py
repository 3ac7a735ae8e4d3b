"""The models and guides of the gallery in NumPyro, all of them discrete programs.

Counterpart: ``benchmarks.gallery.on_pyro.models``.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from jax.nn import log_softmax, sigmoid
from numpyro.distributions import constraints

from numpyro_concrete import OneHotCategorical


def readme_mixture(data):
    loc = numpyro.param("loc", jnp.array([-1.0, 1.0]))
    with numpyro.plate("data", len(data)):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
        numpyro.sample("x", dist.Normal(loc[z], 0.5), obs=data)


def iris_mixture(data):
    locs = numpyro.param("locs", lambda key: random.normal(key, (3, 4)))
    scales = numpyro.param("scales", jnp.ones((3, 4)), constraint=constraints.positive)
    logits = numpyro.param("shares", jnp.zeros(3))
    with numpyro.plate("data", len(data)):
        z = numpyro.sample("z", dist.Categorical(logits=logits))
        numpyro.sample("x", dist.Normal(locs[z], scales[z]).to_event(1), obs=data)


def dirichlet_process(data):
    with numpyro.plate("sticks", 7):
        sticks = numpyro.sample("beta", dist.Beta(1.0, 1.0))
    with numpyro.plate("components", 8):
        locs = numpyro.sample("locs", dist.Normal(jnp.zeros(2), 2.0).to_event(1))
    left = jnp.concatenate([jnp.ones(1), jnp.cumprod(1 - sticks)])
    probs = left * jnp.concatenate([sticks, jnp.ones(1)])
    with numpyro.plate("data", len(data)):
        z = numpyro.sample("z", dist.Categorical(probs))
        numpyro.sample("x", dist.Normal(locs[z], 0.4).to_event(1), obs=data)


def spike_and_slab(features, response):
    with numpyro.plate("features", features.shape[1]):
        gate = numpyro.sample("gate", dist.Bernoulli(0.2))
        effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
    mean = features @ (gate * effect)
    with numpyro.plate("data", len(response)):
        numpyro.sample("y", dist.Normal(mean, 0.5), obs=response)


def hidden_markov(data):
    transition = 0.8 * jnp.eye(3) + 0.2 / 3
    locs = jnp.array([-1.5, 0.0, 1.5])
    z = 0
    for t, x in enumerate(data):
        z = numpyro.sample(f"z_{t}", dist.Categorical(transition[z]))
        numpyro.sample(f"x_{t}", dist.Normal(locs[z], 0.7), obs=x)


def factorial_chains(data):
    stay = jnp.array([0.15, 0.85])
    first, second = 0, 1
    for t, x in enumerate(data):
        first = numpyro.sample(f"first_{t}", dist.Bernoulli(stay[first]))
        second = numpyro.sample(f"second_{t}", dist.Bernoulli(stay[second]))
        numpyro.sample(f"x_{t}", dist.Normal(first + 2.0 * second, 0.5), obs=x)


def topics(words, batch_size=None):
    start = lambda key: 0.5 * random.normal(key, (5, 30))  # noqa: E731
    log_words = log_softmax(numpyro.param("topics", start))
    with numpyro.plate("data", len(words), batch_size, dim=-2) as batch:
        scores = numpyro.sample("scores", dist.Normal(jnp.zeros((1, 5)), 2).to_event(1))
        with numpyro.plate("words", words.shape[1], dim=-1):
            z = numpyro.sample("z", dist.Categorical(logits=scores))
            word = dist.Categorical(logits=log_words[z])
            numpyro.sample("word", word, obs=words[batch])


def topics_guide(words, batch_size=None):
    by_word = numpyro.param("by_word", jnp.zeros((30, 5)))
    scale = numpyro.param("scale", jnp.ones(5), constraint=constraints.positive)
    of_topic = numpyro.param("of_topic", jnp.zeros((30, 5)))
    with numpyro.plate("data", len(words), batch_size, dim=-2) as batch:
        evidence = of_topic[words[batch]]
        loc = by_word[words[batch]].sum(1, keepdims=True)
        scores = numpyro.sample("scores", dist.Normal(loc, scale).to_event(1))
        with numpyro.plate("words", words.shape[1], dim=-1):
            numpyro.sample("z", dist.Categorical(logits=scores + evidence))


def dawid_skene(ratings):
    start = 2.0 * jnp.tile(jnp.eye(4), (ratings.shape[1], 1, 1))
    confusion = numpyro.param("confusion", start)
    shares = numpyro.param("shares", jnp.zeros(4))
    raters = jnp.arange(ratings.shape[1])
    with numpyro.plate("data", len(ratings)):
        z = numpyro.sample("z", dist.Categorical(logits=shares))
        rating = dist.Categorical(logits=confusion[raters, z[..., None]])
        numpyro.sample("rating", rating.to_event(1), obs=ratings)


def capture_recapture(captured):
    survival = numpyro.param("survival", 0.0)
    capture = numpyro.param("capture", 0.0)
    is_alive = jnp.ones(captured.shape[1])
    with numpyro.plate("data", captured.shape[1]):
        for t in range(1, len(captured)):
            # Neither probability is zero, so that no value of a guide is impossible.
            probs = 0.01 + 0.98 * sigmoid(survival) * is_alive
            is_alive = numpyro.sample(f"z_{t}", dist.Bernoulli(probs))
            probs = 0.01 + 0.98 * sigmoid(capture) * is_alive
            numpyro.sample(f"x_{t}", dist.Bernoulli(probs), obs=captured[t])


def change_point(counts):
    early = numpyro.sample("early", dist.Gamma(2.0, 1.0))
    late = numpyro.sample("late", dist.Gamma(2.0, 1.0))
    year = numpyro.sample("year", dist.Categorical(jnp.ones(len(counts)) / len(counts)))
    rate = jnp.where(jnp.arange(len(counts)) < year, early, late)
    with numpyro.plate("data", len(counts)):
        numpyro.sample("x", dist.Poisson(rate), obs=counts)


def zero_inflated(covariate, counts):
    never = numpyro.param("never", 0.0)
    coefficients = numpyro.param("coefficients", jnp.zeros(2))
    rate = jnp.exp(coefficients[0] + coefficients[1] * covariate)
    with numpyro.plate("data", len(counts)):
        z = numpyro.sample("z", dist.Bernoulli(logits=never))
        numpyro.sample("x", dist.Poisson(jnp.where(z == 1, 1e-3, rate)), obs=counts)


def latent_counts(weights):
    mean = numpyro.param("mean", 2.0, constraint=constraints.positive)
    unit = numpyro.param("unit", 1.0, constraint=constraints.positive)
    with numpyro.plate("data", len(weights)):
        n = numpyro.sample("n", dist.Poisson(mean))
        numpyro.sample("weight", dist.Normal(unit * n, 0.6), obs=weights)


def decision_tree(features, is_benign):
    start = lambda key: 0.3 * random.normal(key, (features.shape[1], 7))  # noqa: E731
    splits = features @ numpyro.param("splits", start)
    splits = splits + numpyro.param("offsets", jnp.zeros(7))
    leaves = numpyro.param("leaves", lambda key: random.normal(key, (8,)))
    with numpyro.plate("data", len(features)):
        turns = [
            numpyro.sample(f"turn_{k}", dist.Bernoulli(logits=splits[:, k]))
            for k in range(7)
        ]
        root, left, right, *lowest = (turn == 1 for turn in turns)
        pairs = [
            jnp.where(x, leaves[2 * k + 1], leaves[2 * k]) for k, x in enumerate(lowest)
        ]
        halves = [
            jnp.where(left, pairs[1], pairs[0]),
            jnp.where(right, pairs[3], pairs[2]),
        ]
        logits = jnp.where(root, halves[1], halves[0])
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=is_benign)


def decision_tree_guide(features, is_benign):
    inputs = jnp.concatenate([features, is_benign[:, None]], -1)
    splits = inputs @ numpyro.param("weights", jnp.zeros((inputs.shape[1], 7)))
    splits = splits + numpyro.param("biases", jnp.zeros(7))
    with numpyro.plate("data", len(features)):
        for k in range(7):
            numpyro.sample(f"turn_{k}", dist.Bernoulli(logits=splits[:, k]))


def block_model(edges):
    within = numpyro.param("within", 0.5)
    between = numpyro.param("between", -0.5)
    pairs = np.triu_indices(len(edges), 1)
    with numpyro.plate("nodes", len(edges)):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
    is_same = z[pairs[0]] == z[pairs[1]]
    logits = jnp.where(is_same, within, between)
    with numpyro.plate("pairs", len(pairs[0])):
        observed = edges[pairs[0], pairs[1]]
        numpyro.sample("edge", dist.Bernoulli(logits=logits), obs=observed)


def belief_net(images, batch_size=None):
    prior = numpyro.param("prior", jnp.zeros(10))
    with numpyro.plate("data", len(images), batch_size) as batch:
        top = numpyro.sample("top", dist.Bernoulli(logits=prior).to_event(1))
        hidden = _layer("hidden", 2 * top - 1, 10, 20)
        hidden = numpyro.sample("hidden", dist.Bernoulli(logits=hidden).to_event(1))
        pixels = _layer("pixels", 2 * hidden - 1, 20, images.shape[1])
        pixels = dist.Bernoulli(logits=pixels).to_event(1)
        numpyro.sample("image", pixels, obs=images[batch])


def belief_net_guide(images, batch_size=None):
    with numpyro.plate("data", len(images), batch_size) as batch:
        logits = _layer("to_hidden", images[batch] - 0.3, images.shape[1], 20)
        hidden = numpyro.sample("hidden", dist.Bernoulli(logits=logits).to_event(1))
        logits = _layer("to_top", 2 * hidden - 1, 20, 10)
        numpyro.sample("top", dist.Bernoulli(logits=logits).to_event(1))


def autoencoder(images, batch_size=None):
    with numpyro.plate("data", len(images), batch_size) as batch:
        z = numpyro.sample("z", OneHotCategorical(jnp.ones((6, 8)) / 8).to_event(1))
        hidden = jnp.tanh(_layer("decoder", z.reshape(*z.shape[:-2], 48), 48, 64))
        pixels = _layer("pixels", hidden, 64, images.shape[1])
        pixels = dist.Bernoulli(logits=pixels).to_event(1)
        numpyro.sample("image", pixels, obs=images[batch])


def autoencoder_guide(images, batch_size=None):
    with numpyro.plate("data", len(images), batch_size) as batch:
        hidden = jnp.tanh(_layer("encoder", images[batch] - 0.3, images.shape[1], 64))
        logits = _layer("logits", hidden, 64, 48).reshape(-1, 6, 8)
        numpyro.sample("z", OneHotCategorical(logits=logits).to_event(1))


def static_mnist(images, batch_size=None):
    prior = numpyro.param("prior", jnp.zeros(200))
    with numpyro.plate("data", len(images), batch_size) as batch:
        z = numpyro.sample("z", dist.Bernoulli(logits=prior).to_event(1))
        hidden = jnp.tanh(_layer("decoder", 2 * z - 1, 200, 200))
        pixels = _layer("pixels", hidden, 200, images.shape[1])
        pixels = dist.Bernoulli(logits=pixels).to_event(1)
        numpyro.sample("image", pixels, obs=images[batch])


def static_mnist_guide(images, batch_size=None):
    with numpyro.plate("data", len(images), batch_size) as batch:
        inputs = images[batch] - 0.1
        hidden = jnp.tanh(_layer("encoder", inputs, images.shape[1], 200))
        logits = _layer("logits", hidden, 200, 200)
        numpyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))


def _layer(name, x, inputs, outputs):
    """A linear layer of that many inputs and outputs."""
    start = lambda key: random.normal(key, (inputs, outputs)) / inputs**0.5  # noqa: E731
    weights = numpyro.param(f"{name}_weights", start)
    return x @ weights + numpyro.param(f"{name}_biases", jnp.zeros(outputs))
