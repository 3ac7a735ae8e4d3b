"""Figures on NumPy arrays: densities on the simplex, and entropies over training.

Every function draws on the axes that it is given, or on new ones, and returns them. It
changes no setting of matplotlib and shows nothing.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from concrete_core.diagnostics.figures import Axes, axes_or_new
from concrete_core.diagnostics.gap import RelaxationGap, SiteEntropy

# The triangle of the points (x_1, x_2, x_3): a corner for each class.
_CORNERS = np.array([(0.0, 0.0), (1.0, 0.0), (0.5, np.sqrt(0.75))])
_GRID_ROWS = 90
_GRID_MARGIN = 1e-3  # to the edges, where densities may be infinite
_NUM_LEVELS = 12
_POINT_COLOR = "tab:orange"


def draw_simplex(
    temperature: float | Sequence[float],
    *,
    log_density: Callable[[NDArray, float], ArrayLike],
    sample: Callable[[NDArray, float], ArrayLike],
    ax: Axes,
    num_samples: int,
    seed: int,
) -> Axes:
    """Draw density and samples of a variable of three classes, at some temperatures.

    Args:
        temperature: Temperature, or several: a panel for each, with the same noise.
        log_density: From points of the simplex, (points, 3), and a temperature to the
            log-density there.
        sample: From Gumbel noise, (samples, 3), and a temperature to samples on the
            simplex.
        ax: Axes of matplotlib, as many as temperatures; None for new ones.
        num_samples: Number of samples, >= 0.
        seed: Seed of their noise.

    Returns:
        The axes; for several temperatures, an array of them.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there are not as many axes as temperatures.
    """
    temperatures = np.atleast_1d(np.asarray(temperature, float))
    num_panels = len(temperatures)
    ax = axes_or_new(ax, ncols=num_panels, figsize=(3 * num_panels, 3.4))
    panels = np.ravel(ax)
    if len(panels) != num_panels:
        raise ValueError(
            f"{num_panels} temperatures need as many axes, not {len(panels)}"
        )
    grid = _simplex_grid()
    noise = np.random.default_rng(seed).gumbel(size=(num_samples, 3))
    for panel, value in zip(panels, temperatures.tolist(), strict=True):
        _draw_density(panel, grid, np.asarray(log_density(grid, value)))
        _draw_samples(panel, np.asarray(sample(noise, value)))
        _draw_corner_labels(panel)
        panel.set_title(f"temperature {value:.3g}", fontsize="medium")
        panel.set(aspect="equal", xlim=(-0.05, 1.05), ylim=(-0.1, 1.0))
        panel.axis("off")
    return panels if np.ndim(temperature) else panels[0]


def entropies(
    history: Mapping[int, RelaxationGap],
    *,
    ax: Axes = None,
    sites: Sequence[str] | None = None,
) -> Axes:
    """Draw how soft each relaxed site is over training, and how certain the guide is.

    Solid lines are the entropy of the relaxed samples that the guide draws, dashed ones
    that of its discrete distribution, each over its maximum. A solid line at zero is a
    site whose samples are one-hot: the relaxed program equals the discrete one there. A
    dashed line need not fall, because the posterior may be uncertain.

    Args:
        history: Reports of `relaxation_gap`, by the step of training. Ten particles are
            enough for its entropies.
        ax: Axes of matplotlib; by default new ones.
        sites: Names of the sites to draw; by default all.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the history is empty, or has no site of a name.

    Example:
        >>> from concrete_core.diagnostics.gap import SiteEntropy
        >>> def report(softness):
        ...     site = SiteEntropy("z", 4, entropy=1.0, softness=softness)
        ...     return RelaxationGap(-3.0, 0.1, -4.0, 0.1, -3.5, 10, (site,))
        >>> ax = entropies({0: report(1.2), 100: report(0.3)})
        >>> [line.get_label() for line in ax.lines]
        ['z, relaxed', 'z, discrete']
    """
    if not history:
        raise ValueError("there is nothing to draw: the history is empty")
    steps = sorted(history)
    sites_by_name = _sites_by_name([history[step] for step in steps])
    names = list(sites_by_name) if sites is None else sites
    for name in names:
        if name not in sites_by_name:
            raise ValueError(
                f"there is no relaxed site {name!r}; there are {list(sites_by_name)}"
            )
    ax = axes_or_new(ax, figsize=(6, 4))
    for name in names:
        softness = [site.normalized_softness for site in sites_by_name[name]]
        entropy = [site.normalized_entropy for site in sites_by_name[name]]
        (line,) = ax.plot(steps, softness, label=f"{name}, relaxed")
        ax.plot(
            steps,
            entropy,
            label=f"{name}, discrete",
            color=line.get_color(),
            linestyle="--",
        )
    ax.set(xlabel="step", ylabel="entropy, of the largest there is", ylim=(-0.02, 1.02))
    ax.legend(fontsize="small")
    return ax


def _sites_by_name(reports: Sequence[RelaxationGap]) -> dict[str, list[SiteEntropy]]:
    """Entropies of each site over time."""
    by_step = [{site.name: site for site in report.sites} for report in reports]
    return {name: [sites[name] for sites in by_step] for name in by_step[0]}


def _draw_density(ax: Axes, grid: NDArray, log_density: NDArray) -> None:
    low, high = np.quantile(log_density, (0.02, 0.98))
    levels = np.linspace(low, max(high, low + 1e-3), _NUM_LEVELS).tolist()
    x, y = (grid @ _CORNERS).T
    ax.tricontourf(x, y, log_density, levels, cmap="Blues", extend="both")


def _draw_samples(ax: Axes, samples: NDArray) -> None:
    x, y = (samples @ _CORNERS).T
    ax.plot(x, y, ".", color=_POINT_COLOR, markersize=4, markeredgewidth=0, zorder=2)


def _draw_corner_labels(ax: Axes) -> None:
    # Above the upper corner, and below the two others.
    placements = [(-8, "top"), (-8, "top"), (8, "bottom")]
    for number, (offset, alignment) in enumerate(placements):
        ax.annotate(
            str(number),
            tuple(_CORNERS[number]),
            xytext=(0, offset),
            textcoords="offset points",
            ha="center",
            va=alignment,
        )


def _simplex_grid() -> NDArray:
    """Points of the simplex, a little inside of its edges."""
    first, end_of_second = np.triu_indices(_GRID_ROWS + 1)
    counts = np.stack([first, end_of_second - first, _GRID_ROWS - end_of_second], -1)
    return _GRID_MARGIN + (1 - 3 * _GRID_MARGIN) * counts / _GRID_ROWS
