"""The models and guides of the gallery in Pyro, all of them discrete programs.

Counterpart: ``benchmarks.gallery.on_numpyro.models``.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import sigmoid
from torch.distributions import constraints


def readme_mixture(data):
    loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Normal(loc[z], 0.5), obs=data)


def iris_mixture(data):
    locs = pyro.param("locs", lambda: torch.randn(3, 4))
    scales = pyro.param("scales", torch.ones(3, 4), constraint=constraints.positive)
    logits = pyro.param("shares", torch.zeros(3))
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Categorical(logits=logits))
        pyro.sample("x", dist.Normal(locs[z], scales[z]).to_event(1), obs=data)


def dirichlet_process(data):
    with pyro.plate("sticks", 7):
        sticks = pyro.sample("beta", dist.Beta(1.0, 1.0))
    with pyro.plate("components", 8):
        locs = pyro.sample("locs", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    left = torch.cat([torch.ones(1), torch.cumprod(1 - sticks, -1)])
    probs = left * torch.cat([sticks, torch.ones(1)])
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Categorical(probs))
        pyro.sample("x", dist.Normal(locs[z], 0.4).to_event(1), obs=data)


def spike_and_slab(features, response):
    with pyro.plate("features", features.shape[1]):
        gate = pyro.sample("gate", dist.Bernoulli(0.2))
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
    mean = features @ (gate * effect)
    with pyro.plate("data", len(response)):
        pyro.sample("y", dist.Normal(mean, 0.5), obs=response)


def hidden_markov(data):
    transition = 0.8 * torch.eye(3) + 0.2 / 3
    locs = torch.tensor([-1.5, 0.0, 1.5])
    z = 0
    for t, x in enumerate(data):
        z = pyro.sample(f"z_{t}", dist.Categorical(transition[z]))
        pyro.sample(f"x_{t}", dist.Normal(locs[z], 0.7), obs=x)


def factorial_chains(data):
    stay = torch.tensor([0.15, 0.85])
    first, second = torch.tensor([0.0, 1.0])
    for t, x in enumerate(data):
        first = pyro.sample(f"first_{t}", dist.Bernoulli(stay[first.long()]))
        second = pyro.sample(f"second_{t}", dist.Bernoulli(stay[second.long()]))
        pyro.sample(f"x_{t}", dist.Normal(first + 2.0 * second, 0.5), obs=x)


def topics(words, batch_size=None):
    start = lambda: 0.5 * torch.randn(5, 30)  # noqa: E731
    log_words = pyro.param("topics", start).log_softmax(-1)
    with pyro.plate("data", len(words), batch_size, dim=-2) as batch:
        scores = pyro.sample("scores", dist.Normal(torch.zeros(1, 5), 2).to_event(1))
        with pyro.plate("words", words.shape[1], dim=-1):
            z = pyro.sample("z", dist.Categorical(logits=scores))
            word = dist.Categorical(logits=log_words[z])
            pyro.sample("word", word, obs=words[batch])


def topics_guide(words, batch_size=None):
    by_word = pyro.param("by_word", torch.zeros(30, 5))
    scale = pyro.param("scale", torch.ones(5), constraint=constraints.positive)
    of_topic = pyro.param("of_topic", torch.zeros(30, 5))
    with pyro.plate("data", len(words), batch_size, dim=-2) as batch:
        evidence = of_topic[words[batch]]
        loc = by_word[words[batch]].sum(1, keepdim=True)
        scores = pyro.sample("scores", dist.Normal(loc, scale).to_event(1))
        with pyro.plate("words", words.shape[1], dim=-1):
            pyro.sample("z", dist.Categorical(logits=scores + evidence))


def dawid_skene(ratings):
    start = 2.0 * torch.eye(4).repeat(ratings.shape[1], 1, 1)
    confusion = pyro.param("confusion", start)
    shares = pyro.param("shares", torch.zeros(4))
    raters = torch.arange(ratings.shape[1])
    with pyro.plate("data", len(ratings)):
        z = pyro.sample("z", dist.Categorical(logits=shares))
        rating = dist.Categorical(logits=confusion[raters, z[..., None]])
        pyro.sample("rating", rating.to_event(1), obs=ratings)


def capture_recapture(captured):
    survival = pyro.param("survival", torch.tensor(0.0))
    capture = pyro.param("capture", torch.tensor(0.0))
    is_alive = torch.ones(captured.shape[1])
    with pyro.plate("data", captured.shape[1]):
        for t in range(1, len(captured)):
            # Neither probability is zero, so that no value of a guide is impossible.
            probs = 0.01 + 0.98 * sigmoid(survival) * is_alive
            is_alive = pyro.sample(f"z_{t}", dist.Bernoulli(probs))
            probs = 0.01 + 0.98 * sigmoid(capture) * is_alive
            pyro.sample(f"x_{t}", dist.Bernoulli(probs), obs=captured[t])


def change_point(counts):
    early = pyro.sample("early", dist.Gamma(2.0, 1.0))
    late = pyro.sample("late", dist.Gamma(2.0, 1.0))
    year = pyro.sample("year", dist.Categorical(torch.ones(len(counts)) / len(counts)))
    rate = torch.where(torch.arange(len(counts)) < year, early, late)
    with pyro.plate("data", len(counts)):
        pyro.sample("x", dist.Poisson(rate), obs=counts)


def zero_inflated(covariate, counts):
    never = pyro.param("never", torch.tensor(0.0))
    coefficients = pyro.param("coefficients", torch.zeros(2))
    rate = torch.exp(coefficients[0] + coefficients[1] * covariate)
    with pyro.plate("data", len(counts)):
        z = pyro.sample("z", dist.Bernoulli(logits=never))
        pyro.sample("x", dist.Poisson(torch.where(z == 1, 1e-3, rate)), obs=counts)


def latent_counts(weights):
    mean = pyro.param("mean", torch.tensor(2.0), constraint=constraints.positive)
    unit = pyro.param("unit", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("data", len(weights)):
        n = pyro.sample("n", dist.Poisson(mean))
        pyro.sample("weight", dist.Normal(unit * n, 0.6), obs=weights)


def decision_tree(features, is_benign):
    start = lambda: 0.3 * torch.randn(features.shape[1], 7)  # noqa: E731
    splits = features @ pyro.param("splits", start)
    splits = splits + pyro.param("offsets", torch.zeros(7))
    leaves = pyro.param("leaves", lambda: torch.randn(8))
    with pyro.plate("data", len(features)):
        turns = [
            pyro.sample(f"turn_{k}", dist.Bernoulli(logits=splits[:, k]))
            for k in range(7)
        ]
        root, left, right, *lowest = (turn == 1 for turn in turns)
        pairs = [
            torch.where(x, leaves[2 * k + 1], leaves[2 * k])
            for k, x in enumerate(lowest)
        ]
        halves = [
            torch.where(left, pairs[1], pairs[0]),
            torch.where(right, pairs[3], pairs[2]),
        ]
        logits = torch.where(root, halves[1], halves[0])
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=is_benign)


def decision_tree_guide(features, is_benign):
    inputs = torch.cat([features, is_benign[:, None]], -1)
    splits = inputs @ pyro.param("weights", torch.zeros(inputs.shape[1], 7))
    splits = splits + pyro.param("biases", torch.zeros(7))
    with pyro.plate("data", len(features)):
        for k in range(7):
            pyro.sample(f"turn_{k}", dist.Bernoulli(logits=splits[:, k]))


def block_model(edges):
    within = pyro.param("within", torch.tensor(0.5))
    between = pyro.param("between", torch.tensor(-0.5))
    pairs = torch.triu_indices(len(edges), len(edges), 1)
    with pyro.plate("nodes", len(edges)):
        z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
    is_same = z[pairs[0]] == z[pairs[1]]
    logits = torch.where(is_same, within, between)
    with pyro.plate("pairs", len(pairs[0])):
        pyro.sample(
            "edge", dist.Bernoulli(logits=logits), obs=edges[pairs[0], pairs[1]]
        )


def belief_net(images, batch_size=None):
    prior = pyro.param("prior", torch.zeros(10))
    with pyro.plate("data", len(images), batch_size) as batch:
        top = pyro.sample("top", dist.Bernoulli(logits=prior).to_event(1))
        hidden = _layer("hidden", 2 * top - 1, 10, 20)
        hidden = pyro.sample("hidden", dist.Bernoulli(logits=hidden).to_event(1))
        pixels = _layer("pixels", 2 * hidden - 1, 20, images.shape[1])
        pixels = dist.Bernoulli(logits=pixels).to_event(1)
        pyro.sample("image", pixels, obs=images[batch])


def belief_net_guide(images, batch_size=None):
    with pyro.plate("data", len(images), batch_size) as batch:
        logits = _layer("to_hidden", images[batch] - 0.3, images.shape[1], 20)
        hidden = pyro.sample("hidden", dist.Bernoulli(logits=logits).to_event(1))
        logits = _layer("to_top", 2 * hidden - 1, 20, 10)
        pyro.sample("top", dist.Bernoulli(logits=logits).to_event(1))


def autoencoder(images, batch_size=None):
    with pyro.plate("data", len(images), batch_size) as batch:
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(6, 8) / 8).to_event(1))
        hidden = torch.tanh(_layer("decoder", z.reshape(*z.shape[:-2], 48), 48, 64))
        pixels = _layer("pixels", hidden, 64, images.shape[1])
        pixels = dist.Bernoulli(logits=pixels).to_event(1)
        pyro.sample("image", pixels, obs=images[batch])


def autoencoder_guide(images, batch_size=None):
    with pyro.plate("data", len(images), batch_size) as batch:
        hidden = torch.tanh(_layer("encoder", images[batch] - 0.3, images.shape[1], 64))
        logits = _layer("logits", hidden, 64, 48).reshape(-1, 6, 8)
        pyro.sample("z", dist.OneHotCategorical(logits=logits).to_event(1))


def static_mnist(images, batch_size=None):
    prior = pyro.param("prior", torch.zeros(200))
    with pyro.plate("data", len(images), batch_size) as batch:
        z = pyro.sample("z", dist.Bernoulli(logits=prior).to_event(1))
        hidden = torch.tanh(_layer("decoder", 2 * z - 1, 200, 200))
        pixels = _layer("pixels", hidden, 200, images.shape[1])
        pixels = dist.Bernoulli(logits=pixels).to_event(1)
        pyro.sample("image", pixels, obs=images[batch])


def static_mnist_guide(images, batch_size=None):
    with pyro.plate("data", len(images), batch_size) as batch:
        hidden = torch.tanh(
            _layer("encoder", images[batch] - 0.1, images.shape[1], 200)
        )
        logits = _layer("logits", hidden, 200, 200)
        pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))


def _layer(name, x, inputs, outputs):
    """A linear layer of that many inputs and outputs."""
    start = lambda: torch.randn((inputs, outputs)) / inputs**0.5  # noqa: E731
    weights = pyro.param(f"{name}_weights", start)
    return x @ weights + pyro.param(f"{name}_biases", torch.zeros(outputs))
