"""Axes to draw on: matplotlib is loaded when a picture is asked for, and not before."""

from typing import Any


def axes_or_new(ax: Any, **options: Any) -> Any:
    """Return the axes that were given, or new ones.

    Args:
        ax: Axes of matplotlib, or None.
        **options: How to make new ones: arguments of ``pyplot.subplots``.

    Raises:
        ImportError: If matplotlib is not installed, with the line that installs it.

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
            "the picture needs matplotlib: pip install matplotlib, or with this "
            "package, pip install 'concrete-ppl[plots]'"
        ) from error
    return pyplot.subplots(layout="constrained", **options)[1]
