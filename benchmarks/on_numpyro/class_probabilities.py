"""Class probabilities with NumPyro."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro import handlers
from numpyro.infer import SVI, TraceMeanField_ELBO, init_to_median
from numpyro.ops.indexing import Vindex

from benchmarks.class_probabilities import PARTICLES, POLISH, STEPS
from numpyro_concrete import RLOO, AutoConcrete, harden, relax
from numpyro_concrete.schedules import Exponential, count_steps

jax.config.update("jax_enable_x64", True)


def dawid_skene(rater, rating):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(4)))
    prior = jnp.broadcast_to(jnp.ones((4, 4)) + 2 * jnp.eye(4), (5, 4, 4))
    confusion = numpyro.sample("confusion", dist.Dirichlet(prior).to_event(2))
    with numpyro.plate("items", len(rating), dim=-2):
        z = numpyro.sample("z", dist.Categorical(weights))
        with numpyro.plate("ratings", 7, dim=-1):
            probs = Vindex(confusion)[..., rater, z, :]
            numpyro.sample("y", dist.Categorical(probs), obs=rating)


def dipper(first, seen):
    phi = numpyro.sample("phi", dist.Uniform(0.0, 1.0))
    p = numpyro.sample("p", dist.Uniform(0.0, 1.0))
    years = jnp.arange(7)
    survived = phi**years * jnp.where(years < 6, 1 - phi, 1.0)
    with numpyro.plate("birds", len(first), dim=-2):
        z = numpyro.sample("z", dist.Categorical(survived))
        living = years <= first[:, None] + z
        later = years > first[:, None]
        with numpyro.plate("years", 7, dim=-1), handlers.mask(mask=later):
            numpyro.sample("y", dist.Bernoulli(p * living), obs=seen)


def trained_relaxed(name: str, args: Sequence) -> tuple[dict[Any, Any], np.ndarray]:
    """Return the parameters of AutoConcrete and its class probabilities."""
    model = {"dawid_skene": dawid_skene, "dipper": dipper}[name]
    temperature = Exponential(1.0, 0.1, num_steps=STEPS)
    relaxed = relax(model, temperature, scoring="discrete")
    guide = AutoConcrete(relaxed, init_loc_fn=init_to_median)
    optim = count_steps(optax.adam(optax.exponential_decay(0.05, STEPS, 0.05)))
    svi = SVI(relaxed, guide, optim, TraceMeanField_ELBO(num_particles=PARTICLES))
    arrays = [jnp.asarray(x) for x in args]
    result = svi.run(jax.random.key(0), STEPS, *arrays, progress_bar=False)
    steps, particles, first, last = POLISH
    optim = count_steps(optax.adam(optax.exponential_decay(first, steps, last / first)))
    svi = SVI(model, harden(guide), optim, RLOO(num_particles=particles))
    options = {"progress_bar": False, "init_params": result.params}
    result = svi.run(jax.random.key(1), steps, *arrays, **options)
    probs = np.asarray(guide.probabilities(result.params)["z"])[:, 0]
    return _by_site(result.params), probs


def _by_site(params: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Parameters by their kind and site, which both backends have."""
    kinds = {"loc": "locs", "scale": "scales", "logits": "logits"}
    found = {}
    for key, value in params.items():
        if "_auto_" in key:
            site, kind = key.split("_auto_")
            found[kinds[kind], site] = np.asarray(value)
    return found
