"""The phases of a training run, and the programs that each of them trains."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from benchmarks.gallery.entries import Entry
from benchmarks.gallery.methods import Method, Objective, Temperature


@dataclass(frozen=True)
class Backend:
    """What the phases need of a backend.

    Attributes:
        package: `pyro_concrete` or `numpyro_concrete`.
        infer: The backend's module of ELBOs.
        models: The gallery's models in the backend.
        config_enumerate: The backend's function of that name.
    """

    package: ModuleType
    infer: ModuleType
    models: ModuleType
    config_enumerate: Callable

    def loss(self, objective: Objective) -> Any:
        """Return the loss of an objective: of the package, or the backend's own."""
        if hasattr(self.package, objective.name):
            return getattr(self.package, objective.name)(objective.num_particles)
        elbo = getattr(self.infer, objective.name)
        return elbo(num_particles=objective.num_particles)


@dataclass(frozen=True)
class Phase:
    """A part of training: what is minimized, of which programs, for how many steps."""

    objective: Objective
    model: Callable
    guide: Callable
    num_steps: int


@dataclass(frozen=True)
class TrainingPlan:
    """The phases of a run, and the programs that are evaluated after it.

    Attributes:
        phases: In their order; those without a step are left out.
        model: With its discrete sites, or with enumerated ones.
        guide: The discrete guide; of enumeration, that of the continuous sites.
        num_evaluations: Model evaluations of all phases.
        is_enumerated: Whether `model` enumerates its discrete sites.
    """

    phases: tuple[Phase, ...]
    model: Callable
    guide: Callable
    num_evaluations: int
    is_enumerated: bool = False


def empty_guide(*args: Any, **kwargs: Any) -> None:
    """Guide of a model whose latent sites are all enumerated."""


def plan_training(
    backend: Backend, entry: Entry, method: Method, num_evaluations: int
) -> TrainingPlan:
    """Divide a number of model evaluations among the phases of a method."""
    package, model = backend.package, getattr(backend.models, entry.name)
    # Model evaluations of the second phase.
    finishing = round(num_evaluations * method.finish_share) if method.finish else 0
    per_step = method.objective.evaluations_of(entry)
    num_steps = (num_evaluations - finishing) // per_step
    if method.objective.name == "TraceEnum_ELBO":
        model = backend.config_enumerate(model)
        guide = package.AutoConcrete(model)
        phase = Phase(method.objective, model, guide, num_steps)
        return TrainingPlan(
            (phase,), model, guide, num_steps * per_step, is_enumerated=True
        )
    relaxed, relaxed_guide = _relax(backend, entry, method, num_steps)
    guide = package.harden(relaxed_guide)
    phases = [Phase(method.objective, model, guide, num_steps)]
    if method.objective.is_relaxed:
        phases = [Phase(method.objective, relaxed, relaxed_guide, num_steps)]
    if method.finish is not None:
        num_finishing_steps = finishing // method.finish.evaluations_of(entry)
        phases.append(Phase(method.finish, model, guide, num_finishing_steps))
    phases = [phase for phase in phases if phase.num_steps > 0]
    spent = sum(x.num_steps * x.objective.evaluations_of(entry) for x in phases)
    return TrainingPlan(tuple(phases), model, guide, spent)


def _relax(
    backend: Backend, entry: Entry, method: Method, num_steps: int
) -> tuple[Callable, Callable]:
    """The relaxed model and guide of a method."""
    package, estimator = backend.package, None
    if method.estimator is not None:
        name, *arguments = method.estimator
        estimator = getattr(package, name)(*arguments)
    options: Any = {"scoring": method.scoring, "estimator": estimator, **entry.options}
    guide_temperature = method.guide_temperature or method.temperature
    temperatures = [
        _schedule(package, temperature, num_steps)
        for temperature in (method.temperature, guide_temperature)
    ]
    model = getattr(backend.models, entry.name)
    relaxed = package.relax(model, temperatures[0], **options)
    if not entry.has_guide:
        return relaxed, package.AutoConcrete(
            relaxed, temperatures[1], learn_temperatures=method.learns_temperatures
        )
    guide = getattr(backend.models, f"{entry.name}_guide")
    return relaxed, package.relax(guide, temperatures[1], **options)


def _schedule(package: ModuleType, temperature: Temperature, num_steps: int) -> Any:
    if temperature.end is None:
        return temperature.start
    anneal = package.schedules.Exponential
    return anneal(temperature.start, temperature.end, max(num_steps, 1))
