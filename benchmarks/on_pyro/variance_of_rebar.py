"""Gradients of the tutorial's autoencoder with Pyro."""

from collections.abc import Iterator
from typing import Any

import digits
import discrete_vae_pyro as vae
import numpy as np
import pyro
import torch
from pyro.infer import SVI
from pyro.optim import Adam
from tqdm import tqdm

from benchmarks.variance_of_rebar import PARTICLES
from pyro_concrete import REBAR, RLOO


class Trained:
    """The parameters of Pyro's store, and a batch of images."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def gradients(self, kind: str, particles: int, draws: int) -> np.ndarray:
        """Gradients in the guide's parameters, in rows."""
        objective: Any = (RLOO if kind == "RLOO" else REBAR)(num_particles=particles)
        guide = (
            objective.with_learned_settings(vae.guide) if kind == "tuned" else vae.guide
        )
        pyro.set_rng_seed(3)
        found = []
        store = pyro.get_param_store()
        own = {n: x for n, x in store.named_parameters() if n.startswith("guide.")}
        with pyro.validation_enabled(False):
            for _ in range(draws):
                objective.loss_and_grads(vae.model, guide, self.images)
                rows = [x.grad.flatten() for x in own.values()]
                found.append(torch.cat(rows).numpy())
                for _, x in store.named_parameters():
                    x.grad = None
        return np.array(found)

    def settings(self) -> list[tuple[str, float]]:
        store = pyro.get_param_store()
        return [(n, x.item()) for n, x in store.items() if "_rebar_" in n]


def training(pauses: tuple[int, ...]) -> Iterator[tuple[int, Trained]]:
    """Train, and stop for a look after these numbers of steps."""
    images, _ = (torch.as_tensor(x) for x in digits.load())
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    rebar = REBAR(num_particles=PARTICLES)
    svi = SVI(
        vae.model, rebar.with_learned_settings(vae.guide), Adam({"lr": vae.RATE}), rebar
    )
    rows = torch.as_tensor(digits.minibatches(len(images), vae.BATCH, max(pauses)))
    for step, batch in enumerate(tqdm(rows, unit="step", disable=None), 1):
        with pyro.validation_enabled(False):
            svi.step(images[batch])
        if step in pauses:
            yield step, Trained(images[: vae.BATCH])
