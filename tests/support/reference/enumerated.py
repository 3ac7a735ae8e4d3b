"""The ELBO of a program of few outcomes, as the sum over them."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from .gradients import central_difference

Params = Mapping[str, NDArray]


def enumerated_elbo(
    outcomes: Iterable,
    log_q: Callable[..., float],
    log_p: Callable[..., float],
    m: int = 1,
) -> float:
    """Return the ELBO, or the expectation of the multi-sample bound of m draws.

    For one draw it is the sum of q(b) (log p(x, b) - log q(b)) over all outcomes b.
    """
    pairs = [(log_q(b), log_p(b)) for b in outcomes]
    log_probs = np.array([q for q, _ in pairs])
    return multi_sample_bound(log_probs, np.array([p - q for q, p in pairs]), m)


def multi_sample_bound(log_q: NDArray, log_weights: NDArray, m: int) -> float:
    """Return the mean of log(sum of m weights / m) over all tuples of m outcomes."""
    logs, totals = np.zeros(1), np.full(1, -np.inf)
    for _ in range(m):
        logs = np.add.outer(logs, log_q).ravel()
        totals = np.logaddexp.outer(totals, log_weights).ravel()
    return float(np.exp(logs) @ (totals - np.log(m)))


def gradient(elbo: Callable[[Params], float], params: Params) -> dict[str, NDArray]:
    """Return the derivatives of a function of named arrays, by central differences."""
    found = {}
    for name, value in params.items():

        def along(x: NDArray, name: str = name) -> float:
            return elbo({**params, name: x})

        found[name] = central_difference(along, np.asarray(value, float))
    return found
