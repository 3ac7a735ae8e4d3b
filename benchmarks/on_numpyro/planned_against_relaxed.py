"""Plan, train and judge the factorial hidden Markov model with NumPyro."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax import lax, random
from numpyro.contrib.funsor import infer_config, markov
from numpyro.handlers import condition, seed, substitute, trace
from numpyro.infer import SVI, TraceEnum_ELBO

from benchmarks.planned_against_relaxed import LAST_RATE, RATE, TEMPERATURE, Series
from numpyro_concrete import AutoConcrete, harden, plan_sites, relax

jax.config.update("jax_enable_x64", True)

ELBO = TraceEnum_ELBO(max_plate_nesting=0)


class Trained(NamedTuple):
    """A guide and its parameters."""

    guide: AutoConcrete
    params: dict[str, Any]


def model_of(series: Series) -> Callable[[], None]:
    """Return the model of a series."""
    first, move, locs, seen = (jnp.asarray(x) for x in series)

    def model():
        probs = list(first)
        for t in markov(range(len(seen))):
            mean = jnp.zeros(())
            for c in range(len(first)):
                z = numpyro.sample(f"z{c}_{t}", dist.Categorical(probs[c]))
                mean = mean + locs[c][z]
                probs[c] = move[c][z]
            numpyro.sample(f"y_{t}", dist.Normal(mean, 1.0).to_event(1), obs=seen[t])

    return model


def plan(series: Series, budget: int) -> Any:
    """Return the plan of the model under a budget."""
    return plan_sites(model_of(series), budget=budget)


def train(series: Series, plan: Any | None, steps: int) -> Trained:
    """Train AutoConcrete as planned, or on the model with all sites relaxed."""
    model, options = model_of(series), {"scoring": "discrete"}
    if plan is None:
        relaxed = relax(model, TEMPERATURE, **options)
    else:
        relaxed = plan.apply(model, TEMPERATURE, **options)
    guide = AutoConcrete(relaxed)
    rate = optax.exponential_decay(RATE, steps, LAST_RATE / RATE)
    svi = SVI(relaxed, guide, optax.adam(rate), ELBO)
    result = svi.run(random.key(0), steps, progress_bar=False)
    return Trained(guide, result.params)


def bounds(
    series: Series, trained: Trained, summed: Collection[str], draws: int
) -> np.ndarray:
    """Return estimates of the discrete ELBO with some sites summed out.

    The guide is drawn first and the model conditioned on it. TraceEnum_ELBO of both
    together is the same number, and more than the recursion of funsor's optimizer can
    take with some hundred discrete sites in the guide.
    """
    model = infer_config(model_of(series), lambda site: _mark(site, summed))
    hard = substitute(harden(trained.guide), trained.params)

    def bound(key: jax.Array) -> jax.Array:
        sites = trace(seed(hard, key)).get_trace()
        drawn = {
            name: site
            for name, site in sites.items()
            if site["type"] == "sample" and name not in summed
        }
        own = sum(s["fn"].log_prob(s["value"]).sum() for s in drawn.values())
        values = {name: site["value"] for name, site in drawn.items()}
        joint = -ELBO.loss(key, {}, condition(model, values), lambda: None)
        return joint - own

    keys = random.split(random.key(1), draws)
    return np.asarray(jax.jit(lambda keys: lax.map(bound, keys))(keys))


def probabilities(trained: Trained) -> dict[str, np.ndarray]:
    """Return the probabilities of each site of a guide."""
    found = trained.guide.probabilities(trained.params)
    return {name: np.asarray(value) for name, value in found.items()}


def _mark(site: dict[str, Any], enumerated: Collection[str]) -> dict[str, str]:
    return {"enumerate": "parallel"} if site["name"] in enumerated else {}
