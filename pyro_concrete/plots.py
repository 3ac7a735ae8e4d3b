"""Pictures: Concrete variables on the simplex, and how hard sites get in training.

Every function draws on the axes that it is given, or on new ones, and returns them. It
changes no setting of matplotlib and shows nothing: call ``pyplot.show()``, or save the
figure of the axes. Text and frames have the colours of your style. The picture of
`gradient_report` is a method of its report, ``report.plot(ax)``.

They need matplotlib: ``pip install 'concrete-ppl[plots]'``.

Counterpart: ``numpyro_concrete.plots``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from concrete_core.diagnostics.figures import axes_or_new
from pyro_concrete import ops
from pyro_concrete.diagnostics import RelaxationGap
from pyro_concrete.distributions import Concrete

# The triangle of the points (x_1, x_2, x_3): a corner for each class.
_CORNERS = np.array([(0.0, 0.0), (1.0, 0.0), (0.5, np.sqrt(0.75))])
_ROWS = 90  # of the grid of densities
_EDGE = 1e-3  # how far the grid stays from the edges, where densities may be infinite
_POINTS = "tab:orange"


def simplex(
    temperature: float | Sequence[float],
    logits: Tensor | Sequence[float] = (0.0, 0.0, 0.0),
    *,
    ax: Any = None,
    num_samples: int = 300,
    seed: int = 0,
) -> Any:
    """Draw the density and samples of a Concrete variable of three classes.

    The darker, the denser, on a logarithmic scale of each panel's own. The points are
    samples: the lower the temperature, the more of them are near a corner.

    Args:
        temperature: Relaxation temperature, > 0, or several: a panel for each, with the
            same noise.
        logits: Unnormalised log-probabilities of the three classes.
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
    temperatures = np.atleast_1d(np.asarray(temperature, float))
    n = len(temperatures)
    ax = axes_or_new(ax, ncols=n, figsize=(3 * n, 3.4))
    panels = np.ravel(ax)
    if len(panels) != n:
        raise ValueError(f"{n} temperatures need as many axes, not {len(panels)}")
    for panel, t in zip(panels, temperatures.tolist(), strict=True):
        _panel(panel, t, logits, num_samples, seed)
    return panels if np.ndim(temperature) else panels[0]


def entropies(
    history: Mapping[int, RelaxationGap],
    *,
    ax: Any = None,
    sites: Sequence[str] | None = None,
) -> Any:
    """Draw how soft the draws of each relaxed site are over training, and how sure.

    Solid lines are the entropy of the relaxed points that the guide draws, dashed ones
    that of the discrete distribution that it stands for, each as a share of the largest
    that there is. A solid line at zero is a site whose points are hard: the relaxed
    program is the discrete one there. A dashed line need not fall, for the posterior
    may be unsure.

    Args:
        history: What `relaxation_gap` has found, by the step of training. Ten particles
            are enough for its entropies.
        ax: Axes of matplotlib; by default new ones.
        sites: Names of the sites to draw; by default all.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the history is empty, or has no site of a name.

    Example:
        >>> from pyro_concrete.diagnostics import SiteEntropy
        >>> def found(softness):
        ...     site = SiteEntropy("z", 4, entropy=1.0, softness=softness)
        ...     return RelaxationGap(-3.0, 0.1, -4.0, 0.1, -3.5, 10, (site,))
        >>> ax = entropies({0: found(1.2), 100: found(0.3)})
        >>> [line.get_label() for line in ax.lines]
        ['z, relaxed', 'z, discrete']

    Counterpart: :func:`numpyro_concrete.plots.entropies`.
    """
    if not history:
        raise ValueError("there is nothing to draw: the history is empty")
    steps = sorted(history)
    by_name = {k: {x.name: x for x in history[k].sites} for k in steps}
    known = list(by_name[steps[0]])
    missing = [name for name in sites or () if name not in known]
    if missing:
        raise ValueError(f"there is no relaxed site {missing[0]!r}; there are {known}")
    ax = axes_or_new(ax, figsize=(6, 4))
    for name in known if sites is None else sites:
        found = [by_name[k][name] for k in steps]
        soft = [x.softness_share for x in found]
        (line,) = ax.plot(steps, soft, label=f"{name}, relaxed")
        look: Any = {"color": line.get_color(), "linestyle": "--"}
        ax.plot(steps, [x.share for x in found], label=f"{name}, discrete", **look)
    ax.set(xlabel="step", ylabel="entropy, of the largest there is", ylim=(-0.02, 1.02))
    ax.legend(fontsize="small")
    return ax


def _panel(ax: Any, temperature: float, logits: Tensor, count: int, seed: int) -> None:
    weights = _grid()
    fn = Concrete(torch.tensor(temperature, dtype=logits.dtype), logits=logits)
    density = np.asarray(fn.log_prob(torch.as_tensor(weights)))
    low, high = np.quantile(density, (0.02, 0.98))
    levels = np.linspace(low, max(high, low + 1e-3), 12).tolist()
    corners = weights @ _CORNERS
    ax.tricontourf(*corners.T, density, levels, cmap="Blues", extend="both")
    noise = np.random.default_rng(seed).gumbel(size=(count, 3))
    points = ops.exp_concrete(torch.as_tensor(noise), temperature, logits).exp()
    points = np.asarray(points) @ _CORNERS
    ax.plot(*points.T, ".", color=_POINTS, markersize=4, markeredgewidth=0, zorder=2)
    for k, (x, y) in enumerate(_CORNERS):
        ax.annotate(
            str(k),
            (x, y),
            xytext=(0, 8 if k == 2 else -8),
            textcoords="offset points",
            ha="center",
            va="bottom" if k == 2 else "top",
        )
    ax.set_title(f"temperature {temperature:.3g}", fontsize="medium")
    ax.set(aspect="equal", xlim=(-0.05, 1.05), ylim=(-0.1, 1.0))
    ax.axis("off")


def _grid() -> np.ndarray:
    """Points of the simplex, a little inside of its edges."""
    i, j = np.triu_indices(_ROWS + 1)
    weights = np.stack([i, j - i, _ROWS - j], -1) / _ROWS
    return _EDGE + (1 - 3 * _EDGE) * weights
