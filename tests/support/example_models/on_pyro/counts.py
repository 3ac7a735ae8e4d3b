"""Counts in Pyro."""

import pyro
import pyro.distributions as dist
import torch


def change_point(counts):
    """The rate of daily counts changes once, on one of seventy days."""
    early = pyro.sample("early", dist.Gamma(4.0, 1.0))
    late = pyro.sample("late", dist.Gamma(2.0, 1.0))
    tau = pyro.sample("tau", dist.Categorical(logits=torch.zeros(len(counts))))
    days = torch.arange(len(counts))
    with pyro.plate("days", len(counts), dim=-1):
        rate = torch.where(tau > days, early, late)
        pyro.sample("x", dist.Poisson(rate), obs=counts)


def n_mixture(counts, cover):
    """Animals that no visit saw add to the largest count of a site."""
    intercept = pyro.sample("intercept", dist.Normal(-1.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(0.5, 0.5))
    detection = pyro.sample("detection", dist.Beta(3.0, 4.0))
    with pyro.plate("sites", len(counts), dim=-2):
        logits = (intercept + slope * cover).unsqueeze(-1)
        unseen = pyro.sample("unseen", dist.Binomial(30, logits=logits))
        total = counts.max(-1, keepdim=True).values + unseen
        with pyro.plate("visits", counts.shape[1], dim=-1):
            pyro.sample("y", dist.Binomial(total, detection), obs=counts)


def truncated_poisson(exposure, reading):
    """A reading is proportional to a number of events."""
    rate = pyro.sample("rate", dist.Gamma(6.0, 2.0))
    gain = pyro.sample("gain", dist.LogNormal(0.2, 0.3))
    with pyro.plate("units", len(reading), dim=-1):
        n = pyro.sample("n", dist.Poisson(rate * exposure))
        pyro.sample("x", dist.Normal(gain * n, 0.5), obs=reading)


def zero_inflated_rates(counts):
    """The log-rate of a cell grows with its mutations, which many cells lack."""
    base = pyro.sample("base", dist.Normal(0.0, 1.0))
    effect = pyro.sample("effect", dist.LogNormal(-0.3, 0.4))
    p = pyro.sample("p", dist.Beta(2.0, 2.5))
    with pyro.plate("cells", len(counts), dim=-1):
        binomial, gate = dist.Binomial(3, p), torch.tensor(0.35)
        mutations = dist.ZeroInflatedDistribution(binomial, gate=gate)
        k = pyro.sample("k", mutations)
        pyro.sample("x", dist.Poisson(torch.exp(base + effect * k)), obs=counts)


def ordered_ratings(features, spend):
    """A latent rating on an ordered scale picks the level of spending."""
    weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 1.5).to_event(1))
    level = pyro.sample("level", dist.Normal(torch.arange(4.0), 1.0).to_event(1))
    cutpoints = torch.tensor([-1.0, 0.3, 1.6])
    with pyro.plate("customers", len(spend), dim=-1):
        rating = dist.OrderedLogistic(features @ weights, cutpoints)
        r = pyro.sample("r", rating)
        loc = torch.index_select(level, 0, r.reshape(-1)).reshape(r.shape)
        pyro.sample("x", dist.Normal(loc, 0.4), obs=spend)


def discrete_uniform_scale(groups):
    """The scale of each group is one of the integers from one to six."""
    loc = pyro.sample("loc", dist.Normal(0.5, 1.0))
    for g in pyro.plate("groups", len(groups)):
        k = pyro.sample(f"k_{g}", dist.Categorical(logits=torch.zeros(6)))
        with pyro.plate(f"data_{g}", groups.shape[1], dim=-1):
            pyro.sample(f"x_{g}", dist.Normal(loc, 1 + k), obs=groups[g])


def geometric_waiting(signals):
    """A signal fades by a factor with each step of its waiting time."""
    p = pyro.sample("p", dist.Beta(4.0, 6.0))
    start = pyro.sample("start", dist.LogNormal(1.0, 0.3))
    decay = pyro.sample("decay", dist.Beta(6.0, 3.0))
    with pyro.plate("signals", len(signals), dim=-1):
        wait = pyro.sample("wait", dist.Geometric(p))
        pyro.sample("x", dist.Normal(start * decay**wait, 0.15), obs=signals)
