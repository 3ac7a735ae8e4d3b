"""Figures: Concrete variables on the simplex, and how soft sites are in training.

Every function draws on the axes that it is given, or on new ones, and returns them. It
changes no setting of matplotlib and shows nothing: call ``pyplot.show()``, or save the
figure of the axes. Text and frames have the colors of your style. The figure of
`gradient_report` is a method of its report, ``report.plot(ax)``.

Figures need matplotlib: ``pip install 'concrete-ppl[plots]'``.

Counterpart: ``numpyro_concrete.plots``.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from concrete_core.diagnostics.figures import Axes
from concrete_core.plots import draw_simplex, entropies
from pyro_concrete import ops
from pyro_concrete.distributions import Concrete

__all__ = ["entropies", "simplex"]


def simplex(
    temperature: float | Sequence[float],
    logits: Tensor | Sequence[float] = (0.0, 0.0, 0.0),
    *,
    ax: Axes = None,
    num_samples: int = 300,
    seed: int = 0,
) -> Axes:
    """Draw the density and samples of a Concrete variable of three classes.

    The darker, the denser, on a logarithmic scale of each panel's own. The points are
    samples: the lower the temperature, the more of them are near a corner.

    Args:
        temperature: Relaxation temperature, > 0, or several: a panel for each, with the
            same noise.
        logits: Unnormalized log-probabilities of the three classes.
        ax: Axes of matplotlib, as many as temperatures; by default new ones.
        num_samples: Number of samples, >= 0.
        seed: Seed of their noise.

    Returns:
        The axes; for several temperatures, an array of them.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there are not three logits, or not as many axes as temperatures.

    Example:
        >>> ax = simplex(0.5, [0.0, 1.0, 2.0])
        >>> ax.get_title()
        'temperature 0.5'

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, fig. 2 and eq. 10.
        https://arxiv.org/abs/1611.00712

    Counterpart: :func:`numpyro_concrete.plots.simplex`.
    """
    logits = torch.as_tensor(logits, dtype=torch.float64)
    if tuple(logits.shape) != (3,):
        raise ValueError(
            f"a triangle has three classes, and the logits the shape {logits.shape}"
        )

    def log_density(points: np.ndarray, temperature: float) -> Tensor:
        variable = Concrete(
            torch.tensor(temperature, dtype=logits.dtype), logits=logits
        )
        return variable.log_prob(torch.as_tensor(points))

    def sample(noise: np.ndarray, temperature: float) -> Tensor:
        return ops.exp_concrete(torch.as_tensor(noise), temperature, logits).exp()

    return draw_simplex(
        temperature,
        log_density=log_density,
        sample=sample,
        ax=ax,
        num_samples=num_samples,
        seed=seed,
    )
