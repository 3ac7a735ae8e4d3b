"""Gradients of the discrete ELBO at trained parameters, in Pyro.

Counterpart: ``benchmarks.gallery.on_numpyro.gradients``.
"""

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from benchmarks.gallery.entries import Entry
from benchmarks.gallery.methods import Method, Objective
from benchmarks.gallery.on_pyro.training import BACKEND, as_tensor, train
from benchmarks.gallery.phases import plan_training


class Trained:
    """A model of the gallery after some relaxed steps of a method."""

    @pyro.validation_enabled(False)
    def __init__(self, entry: Entry, method: Method, num_steps: int) -> None:
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        data = {name: as_tensor(x) for name, x in entry.load().items()}
        self.call = {**data, **entry.batch}
        self.plan = plan_training(BACKEND, entry, method, num_steps)
        train(self.plan.phases, entry, data)

    @pyro.validation_enabled(False)
    def gradients(self, name: str, num_particles: int, num_draws: int) -> np.ndarray:
        """Return gradients in the guide's parameters, in rows."""
        loss = BACKEND.loss(Objective(name, num_particles))
        pyro.set_rng_seed(3)
        guide_params = self._guide_parameters()
        all_params = dict(pyro.get_param_store().named_parameters())
        rows = []
        for _ in range(num_draws):
            loss.loss_and_grads(self.plan.model, self.plan.guide, **self.call)
            rows.append(torch.cat([x.grad.flatten() for x in guide_params]).numpy())
            for param in all_params.values():
                param.grad = None
        return np.array(rows)

    def _guide_parameters(self) -> list[Tensor]:
        trace = poutine.trace(self.plan.guide, param_only=True).get_trace(**self.call)
        return [site["value"].unconstrained() for site in trace.nodes.values()]
