"""Integrals by brute force: along a line, and over log-space points of the simplex."""

import itertools
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate
from scipy.special import log_softmax


def integrate_between(
    integrand: Callable[[float], float], edges: Iterable[float]
) -> float:
    """Integrate adaptively between the sorted edges, piece by piece.

    Put an edge wherever the integrand turns. The absolute error is about 1e-14.
    """
    return sum(
        integrate.quad(integrand, low, high, epsabs=1e-14, epsrel=1e-12, limit=200)[0]
        for low, high in itertools.pairwise(sorted(edges))
    )


def log_ratio_grid(
    temperature: float,
    logits: ArrayLike,
    *,
    width: float = 40.0,
    step: float = 0.4,
) -> tuple[NDArray, float]:
    """Return points covering the log-ratios of a Concrete, and their cell volume.

    `sum(f(points)) * volume` is the trapezoid rule for the integral of f over
    u_k = y_k - y_n, k < n. A Concrete density decays at least like
    exp(-temperature |u|) and is analytic within pi / temperature of the real axes,
    so the rule converges geometrically in 1 / step.

    Args:
        temperature: Sets the scale of the grid, > 0.
        logits: Shape (n,). The grid is centred at logits / temperature.
        width: Half-width of the grid along each axis, in units of 1 / temperature.
        step: Spacing in the same units.

    Returns:
        Points of shape (m, n) with logsumexp zero, and the volume of one cell.
    """
    logits = np.asarray(logits, dtype=float)
    axis = np.arange(-width, width + step / 2, step) / temperature
    ratios = np.array(list(itertools.product(axis, repeat=logits.size - 1)))
    ratios = np.concatenate([ratios, np.zeros((len(ratios), 1))], axis=1)
    points = log_softmax(ratios + logits / temperature, axis=-1)
    return points, (step / temperature) ** (logits.size - 1)
