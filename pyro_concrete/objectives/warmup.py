"""RelaxedWarmup: relaxed training first, and unbiased gradients after it.

Counterpart: ``numpyro_concrete.objectives.warmup``.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.elbo import ELBO
from pyro.poutine import Trace
from torch import Tensor

from concrete_core.objectives.programs import Programs
from concrete_core.objectives.warmup import MOST_LOCAL_RUNS, validate_warmup
from concrete_core.types import Elbo, Program
from pyro_concrete.objectives.abstract import Estimate
from pyro_concrete.objectives.local_expectations import LocalExpectations
from pyro_concrete.objectives.rloo import RLOO
from pyro_concrete.relaxation.programs import harden
from pyro_concrete.schedules import (
    Default,
    Exponential,
    WarmupMessenger,
    current_step,
)


class _Part(NamedTuple):
    """A part of training.

    Attributes:
        elbo: Its objective.
        programs: What is trained, relaxed or hardened.
        messenger: Handler around the programs.
    """

    elbo: Elbo
    programs: Programs
    messenger: AbstractContextManager

    def call(self, name: str) -> Any:
        """Call a method of the objective."""
        model, guide, args, kwargs = self.programs
        with self.messenger:
            return getattr(self.elbo, name)(model, guide, *args, **kwargs)


class RelaxedWarmup(ELBO):
    r"""Train relaxed for some steps, and then the discrete ELBO without bias.

    A loss for `SVI` with a *relaxed* model and guide, and an optimizer that counts its
    steps. For the first `num_steps` steps it is `relaxed`, of the relaxed programs.
    After these it is `unbiased`, of ``harden(model)`` and ``harden(guide)``, which have
    the same parameters. The relaxation finds the right region with a gradient of low
    variance and some bias; the second part removes the bias.

    Soft samples that are given no temperature are annealed from 1/2 to 0.1 over the
    warmup (`schedules.Default`). It works with `AutoConcrete` and with a relaxed guide
    of your own.

    **Give the warmup half of the model evaluations** where local expectations are the
    unbiased part, and all of the steps where they would be expensive. A step of them
    takes as many model evaluations as `LocalExpectations.count_runs` says.

    Args:
        num_steps: Number of steps of the warmup, >= 0.
        unbiased: Objective after it, such as `RLOO` or `DisARM`; by default
            `TraceEnum_ELBO` if `relaxed` is one, and else `LocalExpectations` where a
            step takes at most ten model evaluations, and ``RLOO(8)`` elsewhere. `REBAR`
            takes no hardened guide.
        relaxed: Objective of the warmup; by default ``Trace_ELBO()``. Beside enumerated
            sites, ``TraceEnum_ELBO(...)``.

    Raises:
        TypeError: If `num_steps` is no number.
        ValueError: If it is negative or not finite. When it is used: if no optimizer
            counts the steps.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> from pyro_concrete import AutoConcrete, relax, schedules
        >>> @relax
        ... def model():
        ...     z = pyro.sample("z", dist.Categorical(torch.ones(3)))
        ...     pyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=torch.tensor(0.2))
        >>> optimizer = schedules.count_steps(pyro.optim.Adam({"lr": 0.05}))
        >>> elbo = RelaxedWarmup(num_steps=100)
        >>> svi = pyro.infer.SVI(model, AutoConcrete(model), optimizer, elbo)
        >>> losses = [svi.step() for _ in range(200)]

    Counterpart: :class:`numpyro_concrete.RelaxedWarmup`.
    """

    def __init__(
        self,
        num_steps: int,
        unbiased: Elbo | None = None,
        relaxed: Elbo | None = None,
    ) -> None:
        validate_warmup(num_steps)
        super().__init__()
        self.num_steps = num_steps
        self.relaxed = Trace_ELBO() if relaxed is None else relaxed
        if unbiased is None:
            is_enumerated = isinstance(relaxed, TraceEnum_ELBO)
            unbiased = self.relaxed if is_enumerated else CheapUnbiased()
        self.unbiased = unbiased

    def loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor | float:
        """Return the loss of the part of training that the optimizer is in."""
        return self._current_part(model, guide, args, kwargs).call("loss")

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss with a graph for the gradient."""
        return self._current_part(model, guide, args, kwargs).call(
            "differentiable_loss"
        )

    def loss_and_grads(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor | float:
        """Return the loss, and add the gradients to those of the parameters."""
        return self._current_part(model, guide, args, kwargs).call("loss_and_grads")

    def _current_part(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> _Part:
        step = current_step("RelaxedWarmup changes the loss at a step")
        if step < self.num_steps:
            programs = Programs(model, guide, args, kwargs)
            # A program that is compiled reads the step at each call.
            messenger = WarmupMessenger(annealing(self.num_steps))
            return _Part(self.relaxed, programs, messenger)
        programs = Programs(harden(model), harden(guide), args, kwargs)
        return _Part(self.unbiased, programs, nullcontext())

    def _get_trace(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[Trace, Trace]:
        part = self._current_part(model, guide, args, kwargs)
        with part.messenger:
            return part.elbo._get_trace(
                part.programs.model, part.programs.guide, args, kwargs
            )


def annealing(num_steps: int) -> Exponential:
    """Return the temperatures of a warmup where none are given.

    Args:
        num_steps: Number of its steps, >= 1.
    """
    return Exponential(Default.warmup_start, Default.warmup_end, num_steps)


class CheapUnbiased(LocalExpectations):
    """`LocalExpectations` where a step takes at most ten runs, elsewhere ``RLOO(8)``.

    It is chosen at each step, since sites can grow with the data.
    """

    def __init__(self) -> None:
        super().__init__()
        self._otherwise = RLOO(8)

    def _estimate(self, programs: Programs) -> Estimate:
        try:
            runs = next(self._run_particles(programs))
            if self._num_runs_of_particle(runs) <= MOST_LOCAL_RUNS:
                return self._estimate_of_particle(runs)
        except NotImplementedError:  # at a site that local expectations cannot take
            pass
        return self._otherwise._estimate(programs)
