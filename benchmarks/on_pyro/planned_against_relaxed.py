"""Plan, train and judge the factorial hidden Markov model with Pyro."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO

from benchmarks.planned_against_relaxed import LAST_RATE, RATE, TEMPERATURE, Series
from pyro_concrete import AutoConcrete, harden, plan_sites, relax

# Without enumerated sites it is Trace_ELBO, which is meant here.
ELBO = TraceEnum_ELBO(max_plate_nesting=0, strict_enumeration_warning=False)


def model_of(series: Series) -> Callable[[], None]:
    """Return the model of a series."""
    first, move, locs, seen = (torch.as_tensor(x) for x in series)

    def model():
        probs = list(first)
        for t in pyro.markov(range(len(seen))):
            mean = torch.zeros(())
            for c in range(len(first)):
                z = pyro.sample(f"z{c}_{t}", dist.Categorical(probs[c]))
                mean = mean + locs[c][z]
                probs[c] = move[c][z]
            pyro.sample(f"y_{t}", dist.Normal(mean, 1.0).to_event(1), obs=seen[t])

    return model


def plan(series: Series, budget: int) -> Any:
    """Return the plan of the model under a budget."""
    return plan_sites(model_of(series), budget=budget)


def train(series: Series, plan: Any | None, steps: int) -> AutoConcrete:
    """Train AutoConcrete as planned, or on the model with all sites relaxed."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model, options = model_of(series), {"scoring": "discrete"}
    if plan is None:
        relaxed = relax(model, TEMPERATURE, **options)
    else:
        relaxed = plan.apply(model, TEMPERATURE, **options)
    guide = AutoConcrete(relaxed)
    decay = (LAST_RATE / RATE) ** (1 / steps)
    optim = pyro.optim.ClippedAdam({"lr": RATE, "lrd": decay})
    svi = SVI(relaxed, guide, optim, ELBO)
    with pyro.validation_enabled(False):
        for _ in range(steps):
            svi.step()
    return guide


@torch.no_grad()
def bounds(
    series: Series, guide: AutoConcrete, summed: Collection[str], draws: int
) -> np.ndarray:
    """Return estimates of the discrete ELBO with some sites summed out."""
    pyro.set_rng_seed(1)
    model = poutine.infer_config(model_of(series), lambda site: _mark(site, summed))
    hard = poutine.block(harden(guide), hide=list(summed))
    with pyro.validation_enabled(False):
        return np.array([-ELBO.loss(model, hard) for _ in range(draws)])


def probabilities(guide: AutoConcrete) -> dict[str, np.ndarray]:
    """Return the probabilities of each site of a guide."""
    return {k: v.detach().numpy() for k, v in guide.probabilities().items()}


def _mark(site: dict[str, Any], enumerated: Collection[str]) -> dict[str, str]:
    return {"enumerate": "parallel"} if site["name"] in enumerated else {}
