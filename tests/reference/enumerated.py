"""The ELBO of a program of few outcomes, as the sum over them."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from .gradients import central_difference

Params = Mapping[str, NDArray]


def enumerated_elbo(
    outcomes: Iterable, log_q: Callable[..., float], log_p: Callable[..., float]
) -> float:
    """Return the sum of q(b) (log p(x, b) - log q(b)) over all outcomes b."""
    total = 0.0
    for b in outcomes:
        q = log_q(b)
        total += np.exp(q) * (log_p(b) - q)
    return total


def gradient(elbo: Callable[[Params], float], params: Params) -> dict[str, NDArray]:
    """Return the derivatives of a function of named arrays, by central differences."""
    found = {}
    for name, value in params.items():

        def along(x: NDArray, name: str = name) -> float:
            return elbo({**params, name: x})

        found[name] = central_difference(along, np.asarray(value, float))
    return found
