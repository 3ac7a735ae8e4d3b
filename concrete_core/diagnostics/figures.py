"""Axes to draw on: matplotlib is imported when a figure is asked for, not before."""

from typing import Any

# Axes of matplotlib, which is optional and so cannot be named here.
Axes = Any


def axes_or_new(ax: Axes, **options: Any) -> Axes:
    """Return the given axes, or new ones.

    Args:
        ax: Axes of matplotlib, or None.
        **options: Arguments of ``pyplot.subplots`` for new axes.

    Raises:
        ImportError: If matplotlib is not installed; the message says how to install it.

    Example:
        >>> axes_or_new("given")
        'given'
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "the figure needs matplotlib: pip install matplotlib, or with this "
            "package, pip install 'concrete-ppl[plots]'"
        ) from error
    return pyplot.subplots(layout="constrained", **options)[1]
