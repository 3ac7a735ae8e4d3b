"""Estimate the KL divergence of one site with Pyro."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import infer

from benchmarks.relaxed_kl_of_one_site import (
    GUIDE_LOGIT,
    MODEL_LOGIT,
    PARTICLES,
    REPETITIONS,
)
from pyro_concrete import relax

SITES = ("RelaxedBernoulliStraightThrough", "RelaxedBernoulli", "relax(Bernoulli)")


def kl_estimates(site: str, elbo: str, temperature: float, seed: int) -> list[float]:
    """Return independent estimates with the backend's class `site`, or with `relax`."""
    loss = getattr(infer, elbo)(
        num_particles=PARTICLES, vectorize_particles=True, max_plate_nesting=0
    ).loss
    guide, model = (_program(site, x, temperature) for x in (GUIDE_LOGIT, MODEL_LOGIT))
    torch.manual_seed(seed)
    with torch.no_grad():
        return [loss(model, guide) for _ in range(REPETITIONS)]


def _program(site: str, logit: float, temperature: float) -> Callable:
    logits = torch.tensor(logit)
    if hasattr(dist, site):
        family = getattr(dist, site)
        return lambda: pyro.sample(
            "z", family(torch.tensor(temperature), logits=logits)
        )
    return relax(
        lambda: pyro.sample("z", dist.Bernoulli(logits=logits)),
        temperature,
        scoring="concrete",
    )
