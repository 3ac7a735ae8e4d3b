"""The exact and the sampled KL with NumPyro."""

from collections.abc import Callable

import jax
import numpy as np
from jax import Array
from numpyro.distributions import kl_divergence

from benchmarks.cost_of_kl import DRAWS, ROWS
from numpyro_concrete import ExpConcrete


def calls(n: int, t_p: float, t_q: float) -> tuple[Callable, Callable]:
    """Return the exact and the sampled KL, each with its gradient."""
    a, b = _logits(ROWS, n)

    def exact(a: Array, b: Array) -> Array:
        return kl_divergence(*_pair(a, b, t_p, t_q)).sum()

    def sampled(a: Array, b: Array, key: Array) -> Array:
        return _log_ratio(*_pair(a, b, t_p, t_q), key, ()).sum()

    exact, sampled = (jax.jit(jax.grad(fn, (0, 1))) for fn in (exact, sampled))
    key = jax.random.key(1)
    return (
        lambda: jax.block_until_ready(exact(a, b)),
        lambda: jax.block_until_ready(sampled(a, b, key)),
    )


def value_and_noise(n: int, t_p: float, t_q: float) -> tuple[float, float]:
    """Return the KL of one pair, and the standard deviation of one draw of it."""
    p, q = _pair(*(x[0] for x in _logits(1, n)), t_p, t_q)
    draws = _log_ratio(p, q, jax.random.key(1), (DRAWS,))
    return float(kl_divergence(p, q)), float(np.std(draws, ddof=1))


def _log_ratio(
    p: ExpConcrete, q: ExpConcrete, key: Array, shape: tuple[int, ...]
) -> Array:
    value, intermediates = p.sample_with_intermediates(key, shape)
    return p.log_prob(value, intermediates) - q.log_prob(value)


def _pair(
    a: Array, b: Array, t_p: float, t_q: float
) -> tuple[ExpConcrete, ExpConcrete]:
    return ExpConcrete(t_p, logits=a), ExpConcrete(t_q, logits=b)


def _logits(rows: int, n: int) -> list[Array]:
    return [jax.random.normal(jax.random.key(i), (rows, n)) for i in range(2)]
