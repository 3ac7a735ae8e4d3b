"""Train the test models with NumPyro, relaxed."""

from typing import Any

import example_models
import jax
import jax.numpy as jnp
import numpy as np
import optax
from example_models.on_numpyro import guides
from numpyro.infer import SVI, TraceMeanField_ELBO

from benchmarks.how_close_to_enumeration import PARTICLES, POLISH, STAGES
from numpyro_concrete import RLOO, relax

jax.config.update("jax_enable_x64", True)


def trained_relaxed(entry: Any, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the parameters of a guide that is trained relaxed, from these ones."""
    model, args, guide = _programs(entry)
    particles = entry.training.get("particles", PARTICLES)
    elbo = TraceMeanField_ELBO(num_particles=particles)
    for i, (temperature, steps, first, last) in enumerate(STAGES):
        settings = {"scoring": "discrete", **entry.options}
        relaxed = [relax(fn, temperature, **settings) for fn in (model, guide)]
        rate = optax.exponential_decay(first, steps, last / first)
        svi = SVI(*relaxed, optax.adam(rate), elbo)
        key = jax.random.key(i)
        result = svi.run(key, steps, *args, progress_bar=False, init_params=params)
        params = result.params
    return {name: np.asarray(value) for name, value in params.items()}


def polished(entry: Any, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the parameters of a discrete guide that is trained on from these ones."""
    model, args, guide = _programs(entry)
    steps, particles, first, last = POLISH
    rate = optax.exponential_decay(first, steps, last / first)
    svi = SVI(model, guide, optax.adam(rate), RLOO(num_particles=particles))
    key = jax.random.key(0)
    result = svi.run(key, steps, *args, progress_bar=False, init_params=params)
    return {name: np.asarray(value) for name, value in result.params.items()}


def _programs(entry: Any) -> tuple:
    model = example_models.model("numpyro", entry.name)
    data = entry.data()
    args = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in data]
    return model, args, guides.mean_field(model, args, options=entry.options)
