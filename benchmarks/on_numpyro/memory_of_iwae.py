"""The bound of the tutorial's autoencoder with NumPyro."""

from collections.abc import Callable

import digits
import discrete_vae_numpyro as vae
import jax.numpy as jnp
from jax import random

from numpyro_concrete import harden, iwae_bound


def trained(steps: int, num_images: int) -> Callable[..., float]:
    """Return the bound of the test images as a function of its settings."""
    images, test_images = (jnp.asarray(x) for x in digits.load())
    guide, params, _ = vae.train("relaxed", images, test_images, steps)
    programs = vae.model, harden(guide), test_images[:num_images]

    def bound(**settings: int) -> float:
        settings = {"plate": "images", "progress_bar": True, **settings}
        return float(iwae_bound(random.key(1), params, *programs, **settings))

    return bound
