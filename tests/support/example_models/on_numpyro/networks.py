"""Networks in NumPyro."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import mask
from numpyro.ops.indexing import Vindex


def dawid_skene(annotator, responses, answered):
    """Each annotator confuses the classes in a way of their own; some do not answer."""
    prior = jnp.full((4, 4), 1.2) + 3 * jnp.eye(4)
    with numpyro.plate("annotators", 5, dim=-2), numpyro.plate("classes", 4, dim=-1):
        confusion = numpyro.sample("confusion", dist.Dirichlet(prior))
    weights = jnp.array([2.0, 1.5, 1.2, 1.1])
    prevalence = numpyro.sample("prevalence", dist.Dirichlet(weights))
    with numpyro.plate("items", len(responses), dim=-2):
        c = numpyro.sample("c", dist.Categorical(prevalence))
        with numpyro.plate("positions", len(annotator), dim=-1), mask(mask=answered):
            probs = Vindex(confusion)[annotator, c, :]
            numpyro.sample("y", dist.Categorical(probs), obs=responses)


def mace(answers):
    """An annotator answers the true class, or, when spamming, a favourite."""
    num_annotators, num_items = answers.shape
    annotators = numpyro.plate("annotators", num_annotators, dim=-2)
    items = numpyro.plate("items", num_items, dim=-1)
    with annotators:
        spamming = numpyro.sample("spamming", dist.Beta(1.0, 2.0))
        prior = dist.Dirichlet(jnp.array([1.5, 1.0, 1.0]))
        strategy = numpyro.sample("strategy", prior)
    with items:
        c = numpyro.sample("c", dist.Categorical(jnp.array([0.5, 0.3, 0.2])))
    careful = 0.94 * jax.nn.one_hot(c, 3) + 0.02
    with annotators, items:
        s = numpyro.sample("s", dist.Bernoulli(spamming))
        probs = jnp.where((s == 0)[..., None], careful, strategy)
        numpyro.sample("y", dist.Categorical(probs), obs=answers)


def item_difficulty(answers):
    """The harder an item, the flatter the answers on it."""
    eta = numpyro.sample("eta", dist.Normal(2 * jnp.eye(3), 1.0).to_event(2))
    with numpyro.plate("items", len(answers), dim=-2):
        c = numpyro.sample("c", dist.Categorical(jnp.array([0.25, 0.45, 0.3])))
        difficulty = numpyro.sample("difficulty", dist.Normal(0.0, 0.7))
        flatter = jnp.expand_dims(jnp.exp(-difficulty), -1)
        logits = jnp.take(eta, c, axis=0, mode="clip") * flatter
        with numpyro.plate("answers", answers.shape[1], dim=-1):
            numpyro.sample("y", dist.Categorical(logits=logits), obs=answers)


def stochastic_block(edges):
    """The blocks of two nodes decide how likely they are linked."""
    n = len(edges)
    a = jnp.array([[4.0, 1.0, 2.0], [1.0, 3.0, 1.0], [2.0, 1.0, 5.0]])
    with numpyro.plate("rows", 3, dim=-2), numpyro.plate("columns", 3, dim=-1):
        blocks = numpyro.sample("blocks", dist.Beta(a, 2.0))
    with numpyro.plate("nodes", n, dim=-1):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.3, 0.2])))
    upper = jnp.triu(jnp.ones((n, n), bool), 1)
    probs = blocks[z[:, None], z[None, :]]
    with numpyro.plate("from", n, dim=-2), numpyro.plate("to", n, dim=-1):
        numpyro.sample("edges", dist.Bernoulli(probs).mask(upper), obs=edges)


def sigmoid_belief_net(pixels, top, bottom):
    """Two layers of bits, each of which turns on the layer below."""
    bias = numpyro.sample("bias", dist.Normal(-jnp.ones(8), 1.0).to_event(1))
    logits = jnp.array([-0.5, 0.2, 0.6, -1.0])
    with numpyro.plate("data", len(pixels)):
        h2 = numpyro.sample("h2", dist.Bernoulli(logits=logits).to_event(1))
        h1 = numpyro.sample("h1", dist.Bernoulli(logits=h2 @ top - 0.3).to_event(1))
        pixel = dist.Bernoulli(logits=jnp.dot(h1, bottom) + bias).to_event(1)
        numpyro.sample("x", pixel, obs=pixels)


def noisy_or(symptoms):
    """Any disease of a patient may cause each of the symptoms, and so may none."""
    prevalence = (0.15, 0.3, 0.4, 0.25)
    prior = dist.Gamma(0.9, jnp.ones((len(prevalence), symptoms.shape[1])))
    strength = numpyro.sample("strength", prior.to_event(2))
    leak = numpyro.sample("leak", dist.Beta(1.0, 10.0))
    with numpyro.plate("patients", len(symptoms)):
        rate = leak
        for d, p in enumerate(prevalence):
            ill = numpyro.sample(f"ill_{d}", dist.Bernoulli(p))
            rate = rate + ill[..., None] * strength[d]
        symptom = dist.Bernoulli(1 - jnp.exp(-rate)).to_event(1)
        numpyro.sample("x", symptom, obs=symptoms)


def multi_site_regression(design, response):
    """Each covariate has one of four slopes and one of three offsets of its own."""
    d = design.shape[1]
    prior = dist.Normal(jnp.array([-1.0, 0.0, 1.0, 2.0]), 0.5)
    slopes = numpyro.sample("slopes", prior.expand([d, 4]).to_event(2))
    prior = dist.Normal(jnp.array([-0.8, 0.1, 0.7]), 0.3)
    offsets = numpyro.sample("offsets", prior.expand([d, 3]).to_event(2))
    kind = dist.Categorical(jnp.array([0.2, 0.4, 0.3, 0.1])).expand([d])
    z = numpyro.sample("z", kind.to_event(1))
    place = dist.Categorical(jnp.array([0.3, 0.5, 0.2])).expand([d])
    s = numpyro.sample("s", place.to_event(1))
    slope = jax.vmap(lambda row, k: row[k])(slopes, z)
    offset = jnp.take_along_axis(offsets, s[:, None], axis=1).squeeze(-1)
    with numpyro.plate("data", len(response)):
        loc = (design - offset) @ slope
        numpyro.sample("y", dist.Normal(loc, 0.6), obs=response)
