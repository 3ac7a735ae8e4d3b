"""Jitted steps of a belief net with NumPyro and IWAE, and with plain JAX."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array, lax, random
from jax.nn import log_sigmoid, sigmoid
from jax.scipy.special import logsumexp
from numpyro.infer import SVI

from benchmarks.cost_of_iwae import NETWORK, RATE, training_of
from benchmarks.paper.on_numpyro import loss_of, programs_of, trained_programs
from benchmarks.paper.training import BATCH

MODEL_T, GUIDE_T = NETWORK.temperatures
# Any pixels do for measuring a runtime.
IMAGES = np.random.default_rng(0).integers(0, 2, (BATCH, NETWORK.num_outputs))

Params = dict[str, Array]


def steps(estimator: str, num_particles: int) -> dict[str, Callable]:
    """Return a function that takes a step for each way."""
    training = training_of(estimator, num_particles)
    programs = programs_of(NETWORK, IMAGES)
    images = jnp.asarray(IMAGES, float)
    optimizer = numpyro.optim.Adam(RATE)
    svi = SVI(*trained_programs(programs, training), optimizer, loss_of(training))
    state = svi.init(random.key(0), images)

    def update(state: Any) -> Any:
        with numpyro.validation_enabled(False):
            return svi.update(state, images)

    estimate = concrete_loss if estimator == "concrete" else vimco_loss

    def loss(params: Params, key: Array) -> Array:
        return estimate(params, key, images, num_particles)

    def update_plain(state: tuple) -> tuple:
        optimizer_state, key = state
        key, now = random.split(key)
        value, grads = jax.value_and_grad(loss)(
            optimizer.get_params(optimizer_state), now
        )
        return (optimizer.update(grads, optimizer_state), key), value

    params = svi.get_params(state)
    plain_state = optimizer.init(params), random.key(1)
    return {
        "IWAE": _repeated(update, state),
        "plain": _repeated(update_plain, plain_state),
    }


def _repeated(update: Callable, state: Any) -> Callable:
    """A function that takes one step after another, and returns the loss."""
    compiled, states = jax.jit(update), [state]

    def step() -> float:
        states[0], loss = compiled(states[0])
        return float(loss)

    return step


# --- formulas


def concrete_loss(
    params: Params, key: Array, images: Array, num_particles: int
) -> Array:
    """Minus the relaxed bound of the paper, eq. 20, for m particles."""
    logits = _guide_logits(params, images)
    uniform = random.uniform(key, (num_particles, *logits.shape))
    uniform = jnp.maximum(uniform, 2**-26)
    log_u, log_rest = jnp.log(uniform), jnp.log1p(-uniform)
    y = (logits + log_u - log_rest) / GUIDE_T
    log_q = (math.log(GUIDE_T) + log_u + log_rest).sum(-1)
    s = params["model_0_bias"] - MODEL_T * y
    log_p = (math.log(MODEL_T) + log_sigmoid(s) + log_sigmoid(-s)).sum(-1)
    log_weights = log_p + _log_likelihood(params, sigmoid(y), images) - log_q
    return -(logsumexp(log_weights, 0) - math.log(num_particles)).sum()


def vimco_loss(params: Params, key: Array, images: Array, num_particles: int) -> Array:
    """Minus the bound of m discrete particles, with VIMCO's gradient."""
    logits = _guide_logits(params, images)
    uniform = random.uniform(key, (num_particles, *logits.shape))
    z = (uniform < sigmoid(logits)).astype(float)
    log_q = _log_bernoulli(logits, z)
    log_p = _log_bernoulli(params["model_0_bias"], z)
    log_weights = log_p + _log_likelihood(params, z, images) - log_q
    bound = logsumexp(log_weights, 0)
    mean_of_others = (log_weights.sum(0) - log_weights) / (num_particles - 1)
    is_own = jnp.eye(num_particles, dtype=bool)[..., None]
    replaced = jnp.where(is_own, mean_of_others[:, None], log_weights)
    signals = lax.stop_gradient(bound - logsumexp(replaced, 1))
    surrogate = (signals * log_q).sum()
    value = (bound - math.log(num_particles)).sum()
    return -(value + surrogate - lax.stop_gradient(surrogate))


def _guide_logits(params: Params, images: Array) -> Array:
    below = 2 * (images - images.mean(0))
    return below @ params["guide_0_weight"] + params["guide_0_bias"]


def _log_likelihood(params: Params, z: Array, images: Array) -> Array:
    logits = (2 * z - 1) @ params["pixels_weight"] + params["pixels_bias"]
    return _log_bernoulli(logits, images)


def _log_bernoulli(logits: Array, z: Array) -> Array:
    return (z * logits + log_sigmoid(-logits)).sum(-1)
