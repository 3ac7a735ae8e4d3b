"""The ways of training that the gallery compares, framework-free."""

from dataclasses import dataclass
from typing import Any

from benchmarks.gallery.entries import Entry
from concrete_core.objectives.warmup import MOST_LOCAL_RUNS


@dataclass(frozen=True)
class Temperature:
    """A temperature that is annealed over the steps, or constant if `end` is None.

    Attributes:
        start: At the first step, > 0.
        end: At the last step, > 0.
    """

    start: float
    end: float | None = None


@dataclass(frozen=True)
class Objective:
    """What a phase of training minimizes.

    Attributes:
        name: Class of the loss, of the backend or of the package.
        num_particles: Particles of a step.
        evaluations: Model evaluations of a step; of local expectations, which take a
            number that depends on the model, None.
        is_relaxed: Whether the programs are the relaxed ones.
    """

    name: str
    num_particles: int = 1
    evaluations: int | None = 1
    is_relaxed: bool = False

    def evaluations_of(self, entry: Entry) -> int:
        """Return the model evaluations of a step for a model."""
        return entry.local_runs if self.evaluations is None else self.evaluations


@dataclass(frozen=True)
class Method:
    """A way of training.

    Attributes:
        name: For the tables.
        scoring: Argument of `relax`.
        estimator: Class of the package's estimators, and its arguments.
        temperature: Of the model.
        guide_temperature: Of the guide; by default the model's.
        learns_temperatures: Whether the guide, `AutoConcrete`, learns one by element.
        objective: Of the first phase.
        finish: Of the second phase, if there are two.
        finish_share: Share of the evaluations that the second phase has.
    """

    name: str
    scoring: str | None = None
    estimator: tuple[Any, ...] | None = None
    temperature: Temperature = Temperature(0.5)
    guide_temperature: Temperature | None = None
    learns_temperatures: bool = False
    objective: Objective = Objective("Trace_ELBO", is_relaxed=True)
    finish: Objective | None = None
    finish_share: float = 0.5


_RLOO_2 = Objective("RLOO", 2, 2)
_RLOO_8 = Objective("RLOO", 8, 8)
_LOCAL = Objective("LocalExpectations", 1, None)
_ANNEALED = {"scoring": "discrete", "temperature": Temperature(1.0, 0.2)}
# What `RelaxedWarmup` does, and what `relax` does without it.
_COOLED = {"scoring": "discrete", "temperature": Temperature(0.5, 0.1)}
_DEFAULT = {"scoring": "discrete", "temperature": Temperature(0.2)}
_REINMAX = {"estimator": ("ReinMax",), "temperature": Temperature(1.0)}

METHODS = {
    method.name: method
    for method in (
        Method("enumeration", objective=Objective("TraceEnum_ELBO")),
        Method("Trace_ELBO", objective=Objective("Trace_ELBO")),
        Method("TraceGraph_ELBO", objective=Objective("TraceGraph_ELBO")),
        Method(
            "concrete 1/2, 2/3",
            scoring="concrete",
            guide_temperature=Temperature(2 / 3),
        ),
        Method(
            "concrete 1/2, learned",
            scoring="concrete",
            guide_temperature=Temperature(2 / 3),
            learns_temperatures=True,
        ),
        Method("discrete 2/3", scoring="discrete", temperature=Temperature(2 / 3)),
        Method("discrete 1/2", scoring="discrete", temperature=Temperature(0.5)),
        Method("discrete 0.3", scoring="discrete", temperature=Temperature(0.3)),
        Method("discrete 0.2", **_DEFAULT),
        Method("discrete 0.1", scoring="discrete", temperature=Temperature(0.1)),
        Method("discrete 1 to 0.2", **_ANNEALED),
        Method(
            "discrete 1 to 0.1", scoring="discrete", temperature=Temperature(1.0, 0.1)
        ),
        Method("discrete 1/2 to 0.1", **_COOLED),
        Method("straight-through 2/3", None, ("StraightThrough",), Temperature(2 / 3)),
        Method("Gumbel-Rao 1/2", None, ("GumbelRao", 10), Temperature(0.5)),
        Method("ReinMax 1", **_REINMAX),
        Method("ZGR", None, ("ZGR",), Temperature(1.0)),
        Method("RLOO 2", objective=_RLOO_2),
        Method("RLOO 8", objective=_RLOO_8),
        Method("DisARM", objective=Objective("DisARM", 1, 2)),
        Method("local expectations", objective=_LOCAL),
        Method("REBAR", objective=Objective("REBAR", 1, 2)),
        Method("discrete 0.2, then RLOO 8", **_DEFAULT, finish=_RLOO_8),
        Method("discrete 0.2, then local", **_DEFAULT, finish=_LOCAL),
        Method("discrete 1 to 0.2, then RLOO 2", **_ANNEALED, finish=_RLOO_2),
        Method("discrete 1 to 0.2, then RLOO 8", **_ANNEALED, finish=_RLOO_8),
        Method("discrete 1 to 0.2, then local", **_ANNEALED, finish=_LOCAL),
        Method("discrete 1/2 to 0.1, then local", **_COOLED, finish=_LOCAL),
        Method("ReinMax 1, then RLOO 8", **_REINMAX, finish=_RLOO_8),
        Method("ReinMax 1, then local", **_REINMAX, finish=_LOCAL),
    )
}


def recipe_for(entry: Entry) -> str:
    """The method that the documentation recommends: `RelaxedWarmup` by default.

    Where local expectations are cheap, they have the second half of the evaluations;
    elsewhere, the warmup has all.
    """
    if entry.local_runs <= MOST_LOCAL_RUNS:
        return "discrete 1/2 to 0.1, then local"
    return "discrete 1/2 to 0.1"


def applies(method: Method, entry: Entry, backend: str) -> bool:
    """Whether a method can train a model in a backend."""
    if method.objective.name == "TraceEnum_ELBO":
        return entry.can_enumerate
    if method.objective == Objective("Trace_ELBO"):
        # NumPyro's has no gradient for discrete sites, and says so in a warning.
        return backend == "pyro"
    if method.learns_temperatures and entry.has_guide:
        return False
    return entry.is_binary or method.objective.name != "DisARM"
