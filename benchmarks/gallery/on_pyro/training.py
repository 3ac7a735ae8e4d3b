"""How a model of the gallery is trained and evaluated in Pyro.

Counterpart: ``benchmarks.gallery.on_numpyro.training``.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import infer
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

import pyro_concrete as package
from benchmarks.gallery.entries import Entry
from benchmarks.gallery.methods import Method, Objective, Temperature
from benchmarks.gallery.on_pyro import models
from benchmarks.gallery.outcome import Outcome
from pyro_concrete.schedules import Exponential, count_steps

NUM_DRAWS = 2000
NUM_PARTICLES = 1000
FINAL_RATE = 0.05


@dataclass(frozen=True)
class Phase:
    """A part of training: what is minimized, of which programs, for how many steps."""

    objective: Objective
    model: Callable
    guide: Callable
    num_steps: int


@pyro.validation_enabled(False)
def outcomes(
    entry: Entry,
    method: Method,
    data: dict[str, Any],
    seeds: Sequence[int],
    num_evaluations: int,
) -> list[Outcome]:
    """Train a model in one way from several seeds, and evaluate what came of it."""
    data = {name: _tensor(x) for name, x in data.items()}
    model = getattr(models, entry.name)
    results = []
    for seed in seeds:
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        phases = _phases(entry, method, model, num_evaluations)
        milliseconds = _train(phases, entry, data)
        guide = phases[-1].guide
        if method.objective.name != "TraceEnum_ELBO":
            guide = package.harden(phases[0].guide)
        elbo, stderr = _elbo(method, phases[-1], model, guide, data)
        evidence = _log_evidence(entry, model, guide, data)
        evaluations = sum(
            p.num_steps * p.objective.evaluations_of(entry) for p in phases
        )
        results.append(Outcome(seed, elbo, stderr, evidence, evaluations, milliseconds))
    return results


def _tensor(x: Any) -> torch.Tensor:
    values = torch.as_tensor(x)
    return values.float() if values.is_floating_point() else values


def _phases(
    entry: Entry, method: Method, model: Callable, num_evaluations: int
) -> list[Phase]:
    """The programs and the number of steps of each phase of training."""
    finishing = round(num_evaluations * method.finish_share) if method.finish else 0
    first = (num_evaluations - finishing) // method.objective.evaluations_of(entry)
    if method.objective.name == "TraceEnum_ELBO":
        enumerated = infer.config_enumerate(model)
        continuous = package.AutoConcrete(enumerated)
        return [Phase(method.objective, enumerated, continuous, first)]
    relaxed, guide = _relaxed_programs(entry, method, model, first)
    if not method.objective.is_relaxed:
        discrete = package.harden(guide)
        return [Phase(method.objective, model, discrete, first)]
    phases = [Phase(method.objective, relaxed, guide, first)]
    if method.finish is not None:
        steps = finishing // method.finish.evaluations_of(entry)
        phases.append(Phase(method.finish, model, package.harden(guide), steps))
    return phases


def _relaxed_programs(
    entry: Entry, method: Method, model: Callable, num_steps: int
) -> tuple[Callable, Callable]:
    """The relaxed model and guide of a method."""
    estimator = None
    if method.estimator is not None:
        name, *arguments = method.estimator
        estimator = getattr(package, name)(*arguments)
    options: Any = {"scoring": method.scoring, "estimator": estimator, **entry.options}
    temperature = _schedule(method.temperature, num_steps)
    of_guide = method.guide_temperature or method.temperature
    guide_temperature = _schedule(of_guide, num_steps)
    relaxed = package.relax(model, temperature, **options)
    if not entry.has_guide:
        return relaxed, package.AutoConcrete(relaxed, guide_temperature)
    guide = getattr(models, f"{entry.name}_guide")
    return relaxed, package.relax(guide, guide_temperature, **options)


def _schedule(temperature: Temperature, num_steps: int) -> Any:
    if temperature.end is None:
        return temperature.start
    return Exponential(temperature.start, temperature.end, max(num_steps, 1))


def _train(phases: Sequence[Phase], entry: Entry, data: dict[str, Any]) -> float:
    """Train, and return the mean time of a step in milliseconds."""
    call = {**data, **entry.batch}
    seconds, num_steps = 0.0, 0
    for number, phase in enumerate(phases):
        if phase.num_steps == 0:
            continue
        # The second phase goes on at half of the rate.
        rate = entry.learning_rate / (number + 1)
        optimizer = _optimizer(rate, phase.num_steps)
        svi = infer.SVI(phase.model, phase.guide, count_steps(optimizer), _loss(phase))
        svi.step(**call)
        start = time.perf_counter()
        for _ in range(phase.num_steps - 1):
            svi.step(**call)
            optimizer.step()
        seconds += time.perf_counter() - start
        num_steps += phase.num_steps
    return 1000 * seconds / max(num_steps, 1)


def _optimizer(rate: float, num_steps: int) -> Any:
    """Adam at a rate that falls along a cosine to a share of its start."""

    def share(step: int) -> float:
        done = min(step / num_steps, 1.0)
        return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))

    options = {"optimizer": Adam, "optim_args": {"lr": rate}, "lr_lambda": share}
    return pyro.optim.PyroLRScheduler(LambdaLR, options)


def _loss(phase: Phase) -> Any:
    name, num_particles = phase.objective.name, phase.objective.num_particles
    if hasattr(package, name):
        return getattr(package, name)(num_particles)
    return getattr(infer, name)(num_particles=num_particles)


def _elbo(
    method: Method,
    phase: Phase,
    model: Callable,
    guide: Callable,
    data: dict[str, Any],
) -> tuple[float, float]:
    """The discrete ELBO and its standard error."""
    loss = infer.Trace_ELBO()
    if method.objective.name == "TraceEnum_ELBO":
        loss, model = infer.TraceEnum_ELBO(), phase.model
    with torch.no_grad():
        values = torch.tensor(
            [-loss.loss(model, guide, **data) for _ in range(NUM_DRAWS)]
        )
    return float(values.mean()), float(values.std() / NUM_DRAWS**0.5)


def _log_evidence(
    entry: Entry, model: Callable, guide: Callable, data: dict[str, Any]
) -> float:
    """The log-evidence of the learned model: exact if its sites can be enumerated."""
    if not entry.learns:
        return math.nan
    if entry.can_enumerate:
        # All latent sites of these models are discrete.
        nothing = lambda *_, **__: None  # noqa: E731
        loss = infer.TraceEnum_ELBO().loss
        return -float(loss(infer.config_enumerate(model), nothing, **data))
    return package.iwae_bound(
        model,
        guide,
        num_particles=NUM_PARTICLES,
        chunk_size=50,
        plate=entry.plate,
        **data,
    )
