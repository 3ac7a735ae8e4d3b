"""The figure of the report on gradients: squared bias against variance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from concrete_core.diagnostics.figures import Axes, axes_or_new


@dataclass(frozen=True)
class Point:
    """A point of the figure.

    Attributes:
        series: Name of the series, whose points have one color and are joined.
        label: Text beside the point.
        variance: Variance of one draw.
        squared_bias: Squared length of the bias.
        is_significant: Whether the bias is significant; the point is hollow if not.
    """

    series: str
    label: str
    variance: float
    squared_bias: float
    is_significant: bool


def draw_bias_and_variance(ax: Axes, points: Sequence[Point], title: str) -> Axes:
    """Draw squared bias against variance on logarithmic axes, and return the axes.

    Args:
        ax: Axes of matplotlib; None for new ones.
        points: Points, in the order of their series.
        title: Title of the figure.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    ax = axes_or_new(ax, figsize=(8, 5))
    variances = _lift_zeros(np.array([point.variance for point in points]))
    squared_biases = _lift_zeros(np.array([point.squared_bias for point in points]))
    ax.set(xscale="log", yscale="log", ylabel="squared bias")
    ax.set_xlabel("variance of one draw; grey: equal mean squared error")
    ax.set_title(title, fontsize="medium")
    _draw_lines_of_equal_error(ax, variances, squared_biases)
    bottom = ax.get_ylim()[0]
    names = list(dict.fromkeys(point.series for point in points))
    for number, name in enumerate(names):
        color = f"C{number}"
        members = [i for i, point in enumerate(points) if point.series == name]
        ax.plot(
            variances[members], squared_biases[members], color=color, lw=0.8, alpha=0.6
        )
        for i in members:
            x = variances[i]
            y = squared_biases[i]
            if points[i].is_significant:
                ax.scatter(x, y, color=color, facecolor=color)
            else:
                ax.scatter(x, y, color=color, facecolor="none")
                ax.plot([x, x], [bottom, y], ":", color=color, lw=0.8)
    _draw_labels(ax, variances, squared_biases, [point.label for point in points])
    return ax


def _draw_labels(ax: Axes, x: np.ndarray, y: np.ndarray, labels: Sequence[str]) -> None:
    """Draw the labels at the right of the figure, where they do not overlap."""
    order = np.lexsort((-x, y))
    bottom, top = np.log(ax.get_ylim())
    heights = _spread((np.log(y[order]) - bottom) / (top - bottom))
    for i, height in zip(order, heights, strict=True):
        ax.annotate(
            labels[i],
            (x[i], y[i]),
            (1.02, height),
            textcoords="axes fraction",
            fontsize="small",
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "grey", "lw": 0.5},
        )


def _draw_lines_of_equal_error(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Draw lines along which squared bias and variance have the same sum."""
    x_limits = (x.min() / 1.6, x.max() * 1.6)
    y_limits = (y.min() / 3, y.max() * 3)
    ax.set(xlim=x_limits, ylim=y_limits)
    columns = np.geomspace(*x_limits, 400)
    rows = np.geomspace(*y_limits, 400)
    total = np.log10(columns + rows[:, None])
    ax.contour(
        columns,
        rows,
        total,
        np.linspace(total.min(), total.max(), 9)[1:-1],
        colors="grey",
        alpha=0.4,
        linewidths=0.7,
        linestyles="solid",
        zorder=-1,
    )


def _lift_zeros(values: np.ndarray) -> np.ndarray:
    """Lift zeros to where a logarithmic axis can show them."""
    positive = values[values > 0]
    smallest = positive.min() / 10 if positive.size else 1e-12
    return np.maximum(values, smallest)


def _spread(heights: np.ndarray, gap: float = 0.04) -> np.ndarray:
    """Rising numbers between 0 and 1, moved apart to a gap, if there is room."""
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    steps = gap * np.arange(len(heights))
    moved_up = np.maximum.accumulate(heights - steps) + steps
    # And down again from the top, where that went too far.
    return np.minimum(moved_up, 1 - steps[::-1])
