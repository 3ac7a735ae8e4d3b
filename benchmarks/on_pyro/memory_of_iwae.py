"""The bound of the tutorial's autoencoder with Pyro."""

from collections.abc import Callable
from functools import partial
from typing import Any

import digits
import discrete_vae_pyro as vae
import pyro
import torch

from pyro_concrete import harden, iwae_bound


def trained(steps: int, num_images: int) -> Callable[..., float]:
    """Return the bound of the test images as a function of its settings."""
    images, test_images = (torch.as_tensor(x) for x in digits.load())
    guide, _ = vae.train("relaxed", images, test_images, steps)
    programs = vae.model, harden(guide)
    pyro.set_rng_seed(1)
    settings: Any = {"plate": "images", "progress_bar": True}
    return partial(iwae_bound, *programs, test_images[:num_images], **settings)
