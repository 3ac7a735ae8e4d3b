"""Estimate the KL divergence of one site with NumPyro."""

from collections.abc import Callable
from functools import cache

import jax
import numpyro
import numpyro.distributions as dist
from jax import Array, random
from numpyro import infer

from benchmarks.relaxed_kl_of_one_site import (
    GUIDE_LOGIT,
    MODEL_LOGIT,
    PARTICLES,
    REPETITIONS,
)
from numpyro_concrete import relax

SITES = ("RelaxedBernoulli", "relax(Bernoulli)")


def kl_estimates(site: str, elbo: str, temperature: float, seed: int) -> Array:
    """Return independent estimates with the backend's class `site`, or with `relax`."""
    keys = random.split(random.key(seed), REPETITIONS)
    return _compiled(site, elbo)(keys, temperature)


@cache
def _compiled(site: str, elbo: str) -> Callable:
    loss = getattr(infer, elbo)(num_particles=PARTICLES).loss

    def estimates(keys: Array, temperature: Array) -> Array:
        guide = _program(site, GUIDE_LOGIT, temperature)
        model = _program(site, MODEL_LOGIT, temperature)
        return jax.lax.map(lambda key: loss(key, {}, model, guide), keys)

    return jax.jit(estimates)


def _program(site: str, logit: float, temperature: Array) -> Callable:
    if hasattr(dist, site):
        family = getattr(dist, site)
        return lambda: numpyro.sample("z", family(temperature, logits=logit))
    return relax(
        lambda: numpyro.sample("z", dist.Bernoulli(logits=logit)),
        temperature,
        scoring="concrete",
    )
