"""Jitted steps of SVI with NumPyro: with relax, relaxed manually, and in plain JAX."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array, random
from jax.nn import log_sigmoid, log_softmax, sigmoid
from jax.scipy.special import gammaln
from numpyro.infer import SVI, Trace_ELBO

from benchmarks.cost_of_step import (
    BATCH,
    GUIDE_T,
    LEVELS,
    MODEL_T,
    NET_PIXELS,
    PIXELS,
)
from numpyro_concrete import ExpConcrete, LogitBinaryConcrete, OneHotCategorical, relax

RATE = 1e-3


def steps(name: str, guide: Callable, model: Callable) -> dict[str, Callable]:
    """Return a function that takes a step for each way."""
    shape = (BATCH, PIXELS if name == "autoencoder" else NET_PIXELS)
    high = LEVELS if name == "autoencoder" else 1
    images = random.randint(random.key(0), shape, 0, high + 1).astype(float)
    relaxed = [_in_plate(Discrete, program) for program in (model, guide)]
    relaxed = (
        relax(relaxed[0], MODEL_T, scoring="concrete"),
        relax(relaxed[1], GUIDE_T, scoring="concrete"),
    )
    by_hand = [
        _in_plate(lambda t=t: Concrete(t), program)
        for program, t in ((model, MODEL_T), (guide, GUIDE_T))
    ]
    return {
        "relax": _svi(*relaxed, images),
        "by_hand": _svi(*by_hand, images),
        "plain": _plain(guide, model, images),
    }


def _svi(model: Callable, guide: Callable, images: Array) -> Callable:
    svi = SVI(model, guide, numpyro.optim.Adam(RATE), Trace_ELBO())
    state = [svi.init(random.key(0), images)]

    @jax.jit
    def update(state: Any) -> Any:
        with numpyro.validation_enabled(False):
            return svi.update(state, images)

    def step() -> None:
        state[0], loss = update(state[0])
        loss.block_until_ready()

    return step


def _in_plate(way: Callable, program: Callable) -> Callable:
    def run(images: Array) -> None:
        with numpyro.plate("images", BATCH):
            program(way(), images)

    return run


class Discrete:
    """Sample statements of discrete distributions."""

    def weight(self, name: str, shape: tuple[int, ...]) -> Array:
        return numpyro.param(name, lambda _: jnp.zeros(shape))

    def dense(self, name: str, x: Array, size: int) -> Array:
        start = lambda key: _start(key, x.shape[-1], size)  # noqa: E731
        weight = numpyro.param(f"{name}_w", start)
        return x @ weight + self.weight(f"{name}_b", (size,))

    def tanh(self, x: Array) -> Array:
        return jnp.tanh(x)

    def cat(self, parts: list[Array]) -> Array:
        return jnp.concatenate(parts, -1)

    def binary(self, name: str, logits: Array) -> Array:
        return numpyro.sample(name, dist.Bernoulli(logits=logits).to_event(1))

    def one_hots(self, name: str, logits: Array) -> Array:
        return numpyro.sample(name, OneHotCategorical(logits=logits).to_event(1))

    def flags(self, name: str, logits: Array, data: Array) -> None:
        numpyro.sample(name, dist.Bernoulli(logits=logits).to_event(1), obs=data)

    def counts(self, name: str, logits: Array, data: Array) -> None:
        numpyro.sample(name, dist.Binomial(LEVELS, logits=logits).to_event(1), obs=data)


class Concrete(Discrete):
    """Sample statements of the log-space Concrete family, hand-written."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def binary(self, name: str, logits: Array) -> Array:
        fn = LogitBinaryConcrete(self.temperature, logits=logits)
        return sigmoid(numpyro.sample(name, fn.to_event(1)))

    def one_hots(self, name: str, logits: Array) -> Array:
        fn = ExpConcrete(self.temperature, logits=logits)
        return jnp.exp(numpyro.sample(name, fn.to_event(1)))


class Plain(Discrete):
    """Formulas: points are drawn with the guide's temperature, and scored by both."""

    def __init__(self, key: Array, weights: dict[str, Array], new: bool) -> None:
        self.key, self.weights, self.new = key, weights, new
        self.points: dict[str, Array] = {}
        self.total: Any = 0.0

    def weight(self, name: str, shape: tuple[int, ...]) -> Array:
        return self._kept(name, lambda _: jnp.zeros(shape))

    def dense(self, name: str, x: Array, size: int) -> Array:
        weight = self._kept(f"{name}_w", lambda key: _start(key, x.shape[-1], size))
        return x @ weight + self.weight(f"{name}_b", (size,))

    def _next(self) -> Array:
        self.key, key = random.split(self.key)
        return key

    def _kept(self, name: str, start: Callable) -> Array:
        if self.new:
            self.weights[name] = start(self._next())
        return self.weights[name]

    def binary(self, name: str, logits: Array) -> Array:
        if name in self.points:
            y = self.points[name]
            s = logits - MODEL_T * y
            score = math.log(MODEL_T) + log_sigmoid(s) + log_sigmoid(-s)
            self.total += score.sum()
        else:
            u = jnp.maximum(random.uniform(self._next(), logits.shape), 2**-26)
            log_u, log_rest = jnp.log(u), jnp.log1p(-u)
            y = (logits + (log_u - log_rest)) / GUIDE_T
            self.total -= (math.log(GUIDE_T) + log_u + log_rest).sum()
            self.points[name] = y
        return sigmoid(y)

    def one_hots(self, name: str, logits: Array) -> Array:
        n = logits.shape[-1]
        constant = lambda t: math.lgamma(n) + (n - 1) * math.log(t)  # noqa: E731
        if name in self.points:
            y = self.points[name]
            rows = log_softmax(logits - MODEL_T * y)
            self.total += (rows.sum(-1) + constant(MODEL_T)).sum()
        else:
            u = jnp.maximum(random.uniform(self._next(), logits.shape), 2**-26)
            exponentials = -jnp.log1p(-u)
            logs = jnp.log(exponentials)
            y = log_softmax((logits - logs) / GUIDE_T)
            own = logs.sum(-1) - n * jnp.log(exponentials.sum(-1)) + constant(GUIDE_T)
            self.total -= own.sum()
            self.points[name] = y
        return jnp.exp(y)

    def flags(self, name: str, logits: Array, data: Array) -> None:
        self.total += (data * logits + log_sigmoid(-logits)).sum()

    def counts(self, name: str, logits: Array, data: Array) -> None:
        scores = data * logits + LEVELS * log_sigmoid(-logits) + _log_choose(data)
        self.total += scores.sum()


def _plain(guide: Callable, model: Callable, images: Array) -> Callable:
    def loss(weights: dict[str, Array], key: Array, new: bool = False) -> Array:
        way = Plain(key, weights, new)
        guide(way, images)
        model(way, images)
        return -way.total

    weights: dict[str, Array] = {}
    loss(weights, random.key(0), new=True)
    optimizer = numpyro.optim.Adam(RATE)

    @jax.jit
    def update(state: tuple) -> tuple:
        optimizer_state, key = state
        key, now = random.split(key)
        value, grads = jax.value_and_grad(loss)(
            optimizer.get_params(optimizer_state), now
        )
        return (optimizer.update(grads, optimizer_state), key), value

    state = [(optimizer.init(weights), random.key(1))]

    def step() -> None:
        state[0], value = update(state[0])
        value.block_until_ready()

    return step


def _log_choose(data: Array) -> Array:
    of_all = math.lgamma(LEVELS + 1)
    return of_all - gammaln(data + 1) - gammaln(LEVELS - data + 1)


def _start(key: Array, rows: int, columns: int) -> Array:
    return random.normal(key, (rows, columns)) / rows**0.5
