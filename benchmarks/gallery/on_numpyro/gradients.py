"""Gradients of the discrete ELBO at trained parameters, in NumPyro.

Counterpart: ``benchmarks.gallery.on_pyro.gradients``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from numpyro import handlers
from numpyro.distributions.distribution import validation_enabled

from benchmarks.gallery.entries import Entry
from benchmarks.gallery.methods import Method, Objective
from benchmarks.gallery.on_numpyro.training import BACKEND, train
from benchmarks.gallery.phases import plan_training


class Trained:
    """A model of the gallery after some relaxed steps of a method."""

    @validation_enabled(False)
    def __init__(self, entry: Entry, method: Method, num_steps: int) -> None:
        data = {name: jnp.asarray(x) for name, x in entry.load().items()}
        self.call = {**data, **entry.batch}
        self.plan = plan_training(BACKEND, entry, method, num_steps)
        params, _ = train(self.plan.phases, entry, data, random.key(0)[None])
        self.params = jax.tree.map(lambda x: x[0], params)

    @validation_enabled(False)
    def gradients(self, name: str, num_particles: int, num_draws: int) -> np.ndarray:
        """Return gradients in the guide's parameters, in rows."""
        loss = BACKEND.loss(Objective(name, num_particles))
        names = _parameters_of(self.plan.guide, self.params, self.call)
        guide_params = {name: self.params[name] for name in names}
        others = {k: x for k, x in self.params.items() if k not in names}

        def gradient(key: jax.Array) -> jax.Array:
            def loss_of(guide_params: dict[str, Any]) -> jax.Array:
                params = {**others, **guide_params}
                programs = self.plan.model, self.plan.guide
                return loss.loss(key, params, *programs, **self.call)

            gradients = jax.grad(loss_of)(guide_params)
            return jnp.concatenate([x.ravel() for x in jax.tree.leaves(gradients)])

        keys = random.split(random.key(3), num_draws)
        return np.asarray(jax.jit(lambda keys: lax.map(gradient, keys))(keys))


def _parameters_of(
    guide: Callable, params: dict[str, Any], call: dict[str, Any]
) -> list[str]:
    """Return the names of the parameters that a guide has."""
    seeded = handlers.seed(handlers.substitute(guide, params), random.key(0))
    trace = handlers.trace(seeded).get_trace(**call)
    return [name for name, site in trace.items() if site["type"] == "param"]
