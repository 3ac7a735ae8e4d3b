"""Training of the programs of `cost_of_step` with NumPyro, by estimator."""

from collections.abc import Callable

import jax
import numpy as np
import numpyro
from jax import random
from numpyro.infer import SVI, Trace_ELBO

from benchmarks import cost_of_step
from benchmarks.cost_of_step import GUIDE_T, MODEL_T
from benchmarks.on_numpyro.cost_of_step import Discrete
from benchmarks.quality_per_second import PARTICLES, RATE
from numpyro_concrete import (
    REBAR,
    RLOO,
    GumbelRao,
    ReinMax,
    StraightThrough,
    harden,
    relax,
)

RELAXED = {
    "Relaxed": {"scoring": "concrete"},
    "Relaxed, discrete scoring": {"scoring": "discrete"},
    "StraightThrough": {"estimator": StraightThrough(), "scoring": "discrete"},
    "GumbelRao": {"estimator": GumbelRao(10)},
    "ReinMax": {"estimator": ReinMax()},
}


def training(program: str, estimator: str) -> tuple[Callable, Callable]:
    """Return a step of training on a batch, and the discrete ELBO of images."""
    guide = _in_plate(getattr(cost_of_step, program))
    model = _in_plate(getattr(cost_of_step, f"{program}_model"))
    if estimator in RELAXED:
        options = RELAXED[estimator]
        # ReinMax has its own temperature, at which it is exact for quadratics.
        hard = estimator == "ReinMax"
        trained = relax(guide, 1.0 if hard else GUIDE_T, **options)
        programs = relax(model, 1.0 if hard else MODEL_T, **options), trained
        objective = Trace_ELBO()
    else:
        rebar = estimator.startswith("REBAR")
        objective = REBAR(num_particles=2) if rebar else RLOO(num_particles=4)
        programs = model, objective.with_learned_settings(guide) if rebar else guide
        trained = guide
    svi = SVI(*programs, numpyro.optim.Adam(RATE), objective)
    state: list = []
    update = jax.jit(svi.update)
    elbo = Trace_ELBO(num_particles=PARTICLES)

    def step(images: np.ndarray) -> None:
        if not state:
            state.append(svi.init(random.key(0), images))
        state[0], loss = update(state[0], images)
        loss.block_until_ready()

    @jax.jit
    def loss(params: dict, images: jax.Array) -> jax.Array:
        return elbo.loss(random.key(1), params, model, harden(trained), images)

    def judged(images: np.ndarray) -> float:
        return -float(loss(svi.get_params(state[0]), images))

    return step, judged


def _in_plate(program: Callable) -> Callable:
    def run(images: jax.Array) -> None:
        with numpyro.plate("images", len(images)):
            program(Discrete(), images)

    return run
