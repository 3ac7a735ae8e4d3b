"""Steps of a belief net with Pyro and IWAE, and with plain PyTorch."""

import math
from collections.abc import Callable

import numpy as np
import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

import benchmarks.on_pyro  # noqa: F401, which sets the number of threads
from benchmarks.cost_of_iwae import NETWORK, RATE, training_of
from benchmarks.paper.on_pyro import loss_of, programs_of, trained_programs
from benchmarks.paper.training import BATCH

MODEL_T, GUIDE_T = NETWORK.temperatures
# Any pixels do for measuring a runtime.
IMAGES = np.random.default_rng(0).integers(0, 2, (BATCH, NETWORK.num_outputs))

Params = dict[str, Tensor]


def steps(estimator: str, num_particles: int) -> dict[str, Callable]:
    """Return a function that takes a step for each way."""
    pyro.clear_param_store()
    training = training_of(estimator, num_particles)
    programs = trained_programs(programs_of(NETWORK, IMAGES), training)
    images = torch.as_tensor(IMAGES, dtype=torch.float32)
    vectorized = Trace_ELBO(num_particles, vectorize_particles=True)

    def svi_step(elbo: Trace_ELBO) -> Callable:
        svi = SVI(*programs, pyro.optim.Adam({"lr": RATE}), elbo)

        def step() -> float:
            with pyro.validation_enabled(False):
                return float(svi.step(images))

        return step

    found = {"IWAE": svi_step(loss_of(training))}
    if estimator == "concrete":
        found["elbo"] = svi_step(vectorized)
    found["IWAE"]()
    estimate = concrete_loss if estimator == "concrete" else vimco_loss
    store = pyro.get_param_store()
    params = {name: x.detach().clone() for name, x in store.items()}
    return found | {"plain": _plain_step(estimate, params, images, num_particles)}


def _plain_step(
    estimate: Callable, params: Params, images: Tensor, num_particles: int
) -> Callable:
    for param in params.values():
        param.requires_grad_()
    optimizer = torch.optim.Adam(params.values(), lr=RATE)

    def step() -> float:
        optimizer.zero_grad()
        loss = estimate(params, images, num_particles)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


# --- formulas


def concrete_loss(params: Params, images: Tensor, num_particles: int) -> Tensor:
    """Minus the relaxed bound of the paper, eq. 20, for m particles."""
    logits = _guide_logits(params, images)
    uniform = torch.rand(num_particles, *logits.shape).clamp_min(2**-26)
    log_u, log_rest = uniform.log(), torch.log1p(-uniform)
    y = (logits + log_u - log_rest) / GUIDE_T
    log_q = (math.log(GUIDE_T) + log_u + log_rest).sum(-1)
    s = params["model_0_bias"] - MODEL_T * y
    log_p = (math.log(MODEL_T) + logsigmoid(s) + logsigmoid(-s)).sum(-1)
    log_weights = log_p + _log_likelihood(params, y.sigmoid(), images) - log_q
    return -(log_weights.logsumexp(0) - math.log(num_particles)).sum()


def vimco_loss(params: Params, images: Tensor, num_particles: int) -> Tensor:
    """Minus the bound of m discrete particles, with VIMCO's gradient."""
    logits = _guide_logits(params, images)
    with torch.no_grad():
        probs = logits.sigmoid().expand(num_particles, *logits.shape)
        z = torch.bernoulli(probs)
    log_q = _log_bernoulli(logits.expand_as(z), z)
    log_p = _log_bernoulli(params["model_0_bias"].expand_as(z), z)
    log_weights = log_p + _log_likelihood(params, z, images) - log_q
    bound = log_weights.logsumexp(0)
    with torch.no_grad():
        mean_of_others = (log_weights.sum(0) - log_weights) / (num_particles - 1)
        is_own = torch.eye(num_particles, dtype=torch.bool)[..., None]
        replaced = torch.where(is_own, mean_of_others[:, None], log_weights)
        signals = bound - replaced.logsumexp(1)
    surrogate = (signals * log_q).sum()
    value = (bound - math.log(num_particles)).sum()
    return -(value + surrogate - surrogate.detach())


def _guide_logits(params: Params, images: Tensor) -> Tensor:
    below = 2 * (images - images.mean(0))
    return below @ params["guide_0_weight"] + params["guide_0_bias"]


def _log_likelihood(params: Params, z: Tensor, images: Tensor) -> Tensor:
    logits = (2 * z - 1) @ params["pixels_weight"] + params["pixels_bias"]
    return _log_bernoulli(logits, images.expand_as(logits))


def _log_bernoulli(logits: Tensor, z: Tensor) -> Tensor:
    return -binary_cross_entropy_with_logits(logits, z, reduction="none").sum(-1)
