"""The term of many relaxed sites with JAX, under jit, by two random generators."""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, random

from benchmarks.share_of_bandwidth import GUIDE_T, PRIOR_T, Measure, Times
from benchmarks.timing import calls_in, seconds
from numpyro_concrete import ExpConcrete, LogitBinaryConcrete

REPEATS, BLOCK_SECONDS = 9, 0.02
CALLS_IN_A_ROW = 50


def measures(sites: int, classes: int) -> tuple[Measure, dict[str, Measure]]:
    """Return what times a copy, and by name what times a way to the term."""
    shape = (sites, classes) if classes > 1 else (sites,)
    family = ExpConcrete if classes > 1 else LogitBinaryConcrete
    with jax.enable_x64(False):
        a, b = (random.normal(key, shape) for key in random.split(random.key(0)))
        source = jnp.stack([a, b])

    def term(logits: tuple[Array, Array], key: Array) -> Array:
        guide, prior = (
            family(t, logits=x, validate_args=False)
            for t, x in zip((GUIDE_T, PRIOR_T), logits, strict=True)
        )
        value, intermediates = guide.sample_with_intermediates(key)
        own = guide.log_prob(value, intermediates)
        return (prior.log_prob(value) - own).sum()

    gradient = jax.jit(jax.grad(term))
    copied = jax.jit(lambda x: x + 1)  # a copy that no compiler leaves out
    keys = {"threefry": random.key(1), "rbg": random.key(1, impl="rbg")}
    ways: dict[str, Measure] = {
        name: partial(_times, partial(gradient, (a, b), key))
        for name, key in keys.items()
    }
    return partial(_times, partial(copied, source)), ways


def _times(call: Callable[[], Any]) -> Times:
    with jax.enable_x64(False):
        jax.block_until_ready(call())
        waited = lambda: jax.block_until_ready(call())  # noqa: E731
        number = calls_in(waited, BLOCK_SECONDS)
        waiting = median(seconds(waited, number) / number for _ in range(REPEATS))

        def row() -> None:
            for _ in range(CALLS_IN_A_ROW - 1):
                call()
            jax.block_until_ready(call())

        in_a_row = median(seconds(row, 1) / CALLS_IN_A_ROW for _ in range(REPEATS))
    return Times(device=in_a_row, call=waiting)
