"""How a model of the gallery is trained and evaluated in Pyro.

Counterpart: ``benchmarks.gallery.on_numpyro.training``.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import infer
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

import pyro_concrete as package
from benchmarks.gallery.entries import Entry
from benchmarks.gallery.methods import Method
from benchmarks.gallery.on_pyro import models
from benchmarks.gallery.outcome import Outcome
from benchmarks.gallery.phases import (
    Backend,
    Phase,
    TrainingPlan,
    empty_guide,
    plan_training,
)
from pyro_concrete.schedules import count_steps

NUM_DRAWS = 2000
NUM_PARTICLES = 1000
MOST_TIMED = 200  # evaluations
FINAL_RATE = 0.05
BACKEND = Backend(package, infer, models, infer.config_enumerate)


@pyro.validation_enabled(False)
def outcomes(
    entry: Entry,
    method: Method,
    data: dict[str, Any],
    seeds: Sequence[int],
    num_evaluations: int,
) -> list[Outcome]:
    """Train a model in one way from several seeds, and evaluate what came of it."""
    data = {name: as_tensor(x) for name, x in data.items()}
    results = []
    for seed in seeds:
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        plan = plan_training(BACKEND, entry, method, num_evaluations)
        total = train(plan.phases, entry, data)
        elbo, stderr = _elbo(plan, data)
        results.append(
            Outcome(
                seed=seed,
                elbo=elbo,
                elbo_stderr=stderr,
                log_evidence=_log_evidence(entry, plan, data),
                evaluations=plan.num_evaluations,
                milliseconds=total / plan.num_evaluations,
            )
        )
    return results


def timer(
    entry: Entry, method: Method, data: dict[str, Any], num_evaluations: int
) -> Callable[[], float]:
    """Return a measurement: the processor's milliseconds of a model evaluation.

    It is the mean over the phases of a training, of which a short one is run.
    """
    data = {name: as_tensor(x) for name, x in data.items()}
    few = min(num_evaluations, MOST_TIMED)

    @pyro.validation_enabled(False)
    def measure() -> float:
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        plan = plan_training(BACKEND, entry, method, few)
        return train(plan.phases, entry, data) / plan.num_evaluations

    return measure


def as_tensor(x: Any) -> torch.Tensor:
    values = torch.as_tensor(x)
    return values.float() if values.is_floating_point() else values


def train(phases: Sequence[Phase], entry: Entry, data: dict[str, Any]) -> float:
    """Train, and return the milliseconds of the processor that it took."""
    call = {**data, **entry.batch}
    total = 0.0
    for number, phase in enumerate(phases):
        # The second phase goes on at half of the rate.
        rate = entry.learning_rate / (number + 1)
        optimizer = _optimizer(rate, phase.num_steps)
        loss = BACKEND.loss(phase.objective)
        svi = infer.SVI(phase.model, phase.guide, count_steps(optimizer), loss)
        # The first step, which prepares the guide, is not timed.
        svi.step(**call)
        optimizer.step()
        start = time.process_time()
        for _ in range(phase.num_steps - 1):
            svi.step(**call)
            optimizer.step()
        seconds = time.process_time() - start
        total += 1000 * seconds * phase.num_steps / max(phase.num_steps - 1, 1)
    return total


def _optimizer(rate: float, num_steps: int) -> Any:
    """Adam at a rate that falls along a cosine to a share of its start."""

    def share(step: int) -> float:
        done = min(step / num_steps, 1.0)
        return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))

    options = {"optimizer": Adam, "optim_args": {"lr": rate}, "lr_lambda": share}
    return pyro.optim.PyroLRScheduler(LambdaLR, options)


def _elbo(plan: TrainingPlan, data: dict[str, Any]) -> tuple[float, float]:
    """The discrete ELBO and its standard error."""
    elbo = infer.TraceEnum_ELBO() if plan.is_enumerated else infer.Trace_ELBO()
    with torch.no_grad():
        values = torch.tensor(
            [-elbo.loss(plan.model, plan.guide, **data) for _ in range(NUM_DRAWS)]
        )
    return float(values.mean()), float(values.std() / NUM_DRAWS**0.5)


def _log_evidence(entry: Entry, plan: TrainingPlan, data: dict[str, Any]) -> float:
    """The log-evidence of the learned model: exact if its sites can be enumerated."""
    if not entry.learns:
        return math.nan
    if entry.can_enumerate:
        # All latent sites of these models are discrete, and need no guide.
        model = infer.config_enumerate(plan.model)
        return -float(infer.TraceEnum_ELBO().loss(model, empty_guide, **data))
    return package.iwae_bound(
        plan.model,
        plan.guide,
        num_particles=NUM_PARTICLES,
        chunk_size=50,
        plate=entry.plate,
        **data,
    )
