"""Networks in Pyro."""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.ops.indexing import Vindex


def dawid_skene(annotator, responses, answered):
    """Each annotator confuses the classes in a way of their own; some do not answer."""
    prior = torch.full((4, 4), 1.2) + 3 * torch.eye(4)
    with pyro.plate("annotators", 5, dim=-2), pyro.plate("classes", 4, dim=-1):
        confusion = pyro.sample("confusion", dist.Dirichlet(prior))
    weights = torch.tensor([2.0, 1.5, 1.2, 1.1])
    prevalence = pyro.sample("prevalence", dist.Dirichlet(weights))
    with pyro.plate("items", len(responses), dim=-2):
        c = pyro.sample("c", dist.Categorical(prevalence))
        with (
            pyro.plate("positions", len(annotator), dim=-1),
            poutine.mask(mask=answered),
        ):
            probs = Vindex(confusion)[annotator, c, :]
            pyro.sample("y", dist.Categorical(probs), obs=responses)


def mace(answers):
    """An annotator answers the true class, or, when spamming, a favourite."""
    num_annotators, num_items = answers.shape
    annotators = pyro.plate("annotators", num_annotators, dim=-2)
    items = pyro.plate("items", num_items, dim=-1)
    with annotators:
        spamming = pyro.sample("spamming", dist.Beta(1.0, 2.0))
        strategy = pyro.sample(
            "strategy", dist.Dirichlet(torch.tensor([1.5, 1.0, 1.0]))
        )
    with items:
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
    careful = 0.94 * F.one_hot(c, 3) + 0.02
    with annotators, items:
        s = pyro.sample("s", dist.Bernoulli(spamming))
        probs = torch.where((s == 0).unsqueeze(-1), careful, strategy)
        pyro.sample("y", dist.Categorical(probs), obs=answers)


def item_difficulty(answers):
    """The harder an item, the flatter the answers on it."""
    eta = pyro.sample("eta", dist.Normal(2 * torch.eye(3), 1.0).to_event(2))
    with pyro.plate("items", len(answers), dim=-2):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.25, 0.45, 0.3])))
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 0.7))
        logits = F.embedding(c, eta) * torch.exp(-difficulty).unsqueeze(-1)
        with pyro.plate("answers", answers.shape[1], dim=-1):
            pyro.sample("y", dist.Categorical(logits=logits), obs=answers)


def stochastic_block(edges):
    """The blocks of two nodes decide how likely they are linked."""
    n = len(edges)
    a = torch.tensor([[4.0, 1.0, 2.0], [1.0, 3.0, 1.0], [2.0, 1.0, 5.0]])
    with pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 3, dim=-1):
        blocks = pyro.sample("blocks", dist.Beta(a, 2.0))
    with pyro.plate("nodes", n, dim=-1):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
    upper = torch.ones(n, n).triu(1).bool()
    probs = blocks[z[:, None], z[None, :]]
    with pyro.plate("from", n, dim=-2), pyro.plate("to", n, dim=-1):
        pyro.sample("edges", dist.Bernoulli(probs).mask(upper), obs=edges)


def sigmoid_belief_net(pixels, top, bottom):
    """Two layers of bits, each of which turns on the layer below."""
    bias = pyro.sample("bias", dist.Normal(-torch.ones(8), 1.0).to_event(1))
    logits = torch.tensor([-0.5, 0.2, 0.6, -1.0])
    with pyro.plate("data", len(pixels), dim=-1):
        h2 = pyro.sample("h2", dist.Bernoulli(logits=logits).to_event(1))
        h1 = pyro.sample("h1", dist.Bernoulli(logits=h2 @ top - 0.3).to_event(1))
        pixel = dist.Bernoulli(logits=h1 @ bottom + bias).to_event(1)
        pyro.sample("x", pixel, obs=pixels)


def noisy_or(symptoms):
    """Any disease of a patient may cause each of the symptoms, and so may none."""
    prevalence = (0.15, 0.3, 0.4, 0.25)
    prior = dist.Gamma(0.9, torch.ones(len(prevalence), symptoms.shape[1]))
    strength = pyro.sample("strength", prior.to_event(2))
    leak = pyro.sample("leak", dist.Beta(1.0, 10.0))
    with pyro.plate("patients", len(symptoms), dim=-1):
        rate = leak
        for d, p in enumerate(prevalence):
            ill = pyro.sample(f"ill_{d}", dist.Bernoulli(p))
            rate = rate + ill.unsqueeze(-1) * strength[d]
        symptom = dist.Bernoulli(1 - torch.exp(-rate)).to_event(1)
        pyro.sample("x", symptom, obs=symptoms)


def multi_site_regression(design, response):
    """Each covariate has one of four slopes and one of three offsets of its own."""
    d = design.shape[1]
    prior = dist.Normal(torch.tensor([-1.0, 0.0, 1.0, 2.0]), 0.5)
    slopes = pyro.sample("slopes", prior.expand([d, 4]).to_event(2))
    prior = dist.Normal(torch.tensor([-0.8, 0.1, 0.7]), 0.3)
    offsets = pyro.sample("offsets", prior.expand([d, 3]).to_event(2))
    kind = dist.Categorical(torch.tensor([0.2, 0.4, 0.3, 0.1])).expand([d])
    z = pyro.sample("z", kind.to_event(1))
    place = dist.Categorical(torch.tensor([0.3, 0.5, 0.2])).expand([d])
    s = pyro.sample("s", place.to_event(1))
    slope = slopes[torch.arange(d), z]
    offset = offsets.gather(1, s.unsqueeze(-1)).squeeze(-1)
    with pyro.plate("data", len(response), dim=-1):
        loc = (design - offset) @ slope
        pyro.sample("y", dist.Normal(loc, 0.6), obs=response)
