"""Gradients of the tutorial's autoencoder with NumPyro."""

from collections.abc import Iterator
from typing import Any

import digits
import discrete_vae_numpyro as vae
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from numpyro.infer import SVI
from numpyro.optim import Adam

from benchmarks.variance_of_rebar import PARTICLES
from numpyro_concrete import REBAR, RLOO


class Trained:
    """Parameters, and a batch of images."""

    def __init__(self, params: dict[str, Any], images: jax.Array) -> None:
        self.params, self.images = params, images

    def gradients(self, kind: str, particles: int, draws: int) -> np.ndarray:
        """Gradients in the guide's parameters, in rows."""
        objective: Any = (RLOO if kind == "RLOO" else REBAR)(num_particles=particles)
        own = {k: v for k, v in self.params.items() if k.startswith("guide.")}
        # The settings of a tuned guide are found among the parameters.
        rest = {
            k: v
            for k, v in self.params.items()
            if k not in own and (kind == "tuned" or "_rebar_" not in k)
        }

        def gradient(key: jax.Array) -> jax.Array:
            def loss(own: dict[str, Any]) -> jax.Array:
                programs = vae.model, vae.guide, self.images
                return objective.loss(key, {**rest, **own}, *programs)

            grads = jax.grad(loss)(own)
            return jnp.concatenate([x.ravel() for x in jax.tree.leaves(grads)])

        keys = random.split(random.key(3), draws)
        return np.asarray(jax.jit(lambda keys: lax.map(gradient, keys))(keys))

    def settings(self) -> list[tuple[str, float]]:
        return [(k, float(v)) for k, v in self.params.items() if "_rebar_" in k]


def training(pauses: tuple[int, ...]) -> Iterator[tuple[int, Trained]]:
    """Train, and stop for a look after these numbers of steps."""
    images, _ = (jnp.asarray(x) for x in digits.load())
    rebar = REBAR(num_particles=PARTICLES)
    svi = SVI(vae.model, rebar.with_learned_settings(vae.guide), Adam(vae.RATE), rebar)
    state = svi.init(random.key(0), images[: vae.BATCH])

    @jax.jit
    def train_on(chunk: jax.Array, state: Any) -> Any:
        return lax.scan(
            lambda state, rows: svi.update(state, images[rows]), state, chunk
        )

    rows = digits.minibatches(len(images), vae.BATCH, max(pauses))
    for chunk, step in zip(np.split(rows, pauses[:-1]), pauses, strict=True):
        state, _ = train_on(jnp.asarray(chunk), state)
        yield step, Trained(svi.get_params(state), images[: vae.BATCH])
