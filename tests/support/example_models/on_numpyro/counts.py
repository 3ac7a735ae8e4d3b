"""Counts in NumPyro."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def change_point(counts):
    """The rate of daily counts changes once, on one of seventy days."""
    early = numpyro.sample("early", dist.Gamma(4.0, 1.0))
    late = numpyro.sample("late", dist.Gamma(2.0, 1.0))
    tau = numpyro.sample("tau", dist.DiscreteUniform(0, len(counts) - 1))
    days = jnp.arange(len(counts))
    with numpyro.plate("days", len(counts)):
        rate = jnp.where(tau > days, early, late)
        numpyro.sample("x", dist.Poisson(rate), obs=counts)


def n_mixture(counts, cover):
    """Animals that no visit saw add to the largest count of a site."""
    intercept = numpyro.sample("intercept", dist.Normal(-1.0, 1.0))
    slope = numpyro.sample("slope", dist.Normal(0.5, 0.5))
    detection = numpyro.sample("detection", dist.Beta(3.0, 4.0))
    with numpyro.plate("sites", len(counts), dim=-2):
        logits = (intercept + slope * cover)[:, None]
        unseen = numpyro.sample("unseen", dist.Binomial(30, logits=logits))
        total = counts.max(-1, keepdims=True) + unseen
        with numpyro.plate("visits", counts.shape[1], dim=-1):
            numpyro.sample("y", dist.Binomial(total, detection), obs=counts)


def truncated_poisson(exposure, reading):
    """A reading is proportional to a number of events."""
    rate = numpyro.sample("rate", dist.Gamma(6.0, 2.0))
    gain = numpyro.sample("gain", dist.LogNormal(0.2, 0.3))
    with numpyro.plate("units", len(reading)):
        n = numpyro.sample("n", dist.Poisson(rate * exposure))
        numpyro.sample("x", dist.Normal(gain * n, 0.5), obs=reading)


def zero_inflated_rates(counts):
    """The log-rate of a cell grows with its mutations, which many cells lack."""
    base = numpyro.sample("base", dist.Normal(0.0, 1.0))
    effect = numpyro.sample("effect", dist.LogNormal(-0.3, 0.4))
    p = numpyro.sample("p", dist.Beta(2.0, 2.5))
    with numpyro.plate("cells", len(counts)):
        mutations = dist.ZeroInflatedDistribution(dist.Binomial(3, p), gate=0.35)
        k = numpyro.sample("k", mutations)
        numpyro.sample("x", dist.Poisson(jnp.exp(base + effect * k)), obs=counts)


def ordered_ratings(features, spend):
    """A latent rating on an ordered scale picks the level of spending."""
    weights = numpyro.sample("weights", dist.Normal(jnp.zeros(2), 1.5).to_event(1))
    level = numpyro.sample("level", dist.Normal(jnp.arange(4.0), 1.0).to_event(1))
    cutpoints = jnp.array([-1.0, 0.3, 1.6])
    with numpyro.plate("customers", len(spend)):
        rating = dist.OrderedLogistic(features @ weights, cutpoints)
        r = numpyro.sample("r", rating)
        loc = jnp.take(level, r, axis=0)
        numpyro.sample("x", dist.Normal(loc, 0.4), obs=spend)


def discrete_uniform_scale(groups):
    """The scale of each group is one of the integers from one to six."""
    loc = numpyro.sample("loc", dist.Normal(0.5, 1.0))
    for g in range(len(groups)):
        k = numpyro.sample(f"k_{g}", dist.DiscreteUniform(0, 5))
        with numpyro.plate(f"data_{g}", groups.shape[1]):
            numpyro.sample(f"x_{g}", dist.Normal(loc, 1 + k), obs=groups[g])


def geometric_waiting(signals):
    """A signal fades by a factor with each step of its waiting time."""
    p = numpyro.sample("p", dist.Beta(4.0, 6.0))
    start = numpyro.sample("start", dist.LogNormal(1.0, 0.3))
    decay = numpyro.sample("decay", dist.Beta(6.0, 3.0))
    with numpyro.plate("signals", len(signals)):
        wait = numpyro.sample("wait", dist.Geometric(p))
        numpyro.sample("x", dist.Normal(start * decay**wait, 0.15), obs=signals)
