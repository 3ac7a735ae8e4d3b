"""The term of one relaxed site with JAX: ours, and hand-written, both under jit."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, random
from jax.nn import log_softmax
from jax.scipy.special import logsumexp

from benchmarks.cost_of_term import GUIDE_T, PRIOR_T
from numpyro_concrete import ExpConcrete

RATIOS = ("by_hand", "of_copy")


def calls(classes: int, sites: int) -> tuple[Callable, dict[str, tuple]]:
    """Return our term, and by name the two calls of a ratio."""
    with jax.enable_x64(False):
        keys = random.split(random.key(0), 2)
        a, b = (random.normal(key, (sites, classes)) for key in keys)
        source = jnp.stack([a, b])

    def step(term: Callable) -> Callable:
        def total(logits: tuple[Array, Array], key: Array) -> Array:
            return term(*logits, key).sum()

        update = jax.jit(lambda logits, key: jax.grad(total)(logits, key))
        key = random.key(1)

        def call() -> None:
            with jax.enable_x64(False):
                jax.block_until_ready(update((a, b), key))

        return call

    copied = jax.jit(lambda x: x + 1)  # a copy that no compiler leaves out

    def copy() -> None:
        copied(source).block_until_ready()

    ours = step(_ours)
    return ours, {"by_hand": (ours, step(_by_hand)), "of_copy": (copy, ours)}


def _ours(a: Array, b: Array, key: Array) -> Array:
    guide, prior = (
        ExpConcrete(t, logits=x, validate_args=False)
        for t, x in ((GUIDE_T, a), (PRIOR_T, b))
    )
    value, intermediates = guide.sample_with_intermediates(key)
    return prior.log_prob(value) - guide.log_prob(value, intermediates)


def _by_hand(a: Array, b: Array, key: Array) -> Array:
    n = a.shape[-1]
    uniform = jnp.maximum(random.uniform(key, a.shape), 2**-26)
    logs = jnp.log(-jnp.log1p(-uniform))
    value = log_softmax((a - logs) / GUIDE_T)
    own = logs.sum(-1) - n * logsumexp(logs, -1) + _constant(n, GUIDE_T)
    prior = log_softmax(b - PRIOR_T * value).sum(-1) + _constant(n, PRIOR_T)
    return prior - own


def _constant(n: int, temperature: float) -> float:
    return math.lgamma(n) + (n - 1) * math.log(temperature)
