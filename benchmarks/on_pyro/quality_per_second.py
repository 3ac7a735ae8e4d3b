"""Training of the programs of `cost_of_step` with Pyro, by estimator."""

from collections.abc import Callable

import numpy as np
import pyro
import torch
from pyro.infer import SVI, Trace_ELBO

from benchmarks import cost_of_step
from benchmarks.cost_of_step import GUIDE_T, MODEL_T
from benchmarks.on_pyro.cost_of_step import Discrete
from benchmarks.quality_per_second import PARTICLES, RATE
from pyro_concrete import (
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
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
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
    svi = SVI(*programs, pyro.optim.Adam({"lr": RATE}), objective)
    elbo = Trace_ELBO(num_particles=PARTICLES)

    def step(images: np.ndarray) -> None:
        with pyro.validation_enabled(False):
            svi.step(torch.as_tensor(images))

    @torch.no_grad()
    def judged(images: np.ndarray) -> float:
        return -elbo.loss(model, harden(trained), torch.as_tensor(images))

    return step, judged


def _in_plate(program: Callable) -> Callable:
    def run(images: torch.Tensor) -> None:
        with pyro.plate("images", len(images)):
            program(Discrete("quality"), images)

    return run
