"""RelaxedWarmup: relaxed training first, and unbiased gradients after it.

Counterpart: ``numpyro_concrete.objectives.warmup``.
"""

from typing import Any, NamedTuple

from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from pyro.poutine import Trace
from torch import Tensor

from concrete_core.objectives.checks import validate_warmup
from concrete_core.types import Elbo, Program
from pyro_concrete.objectives.rloo import RLOO
from pyro_concrete.relaxation.programs import harden
from pyro_concrete.schedules import current_step


class _Part(NamedTuple):
    """A part of training.

    Attributes:
        elbo: Its objective.
        model: The model that is trained, relaxed or hardened.
        guide: The guide that is trained, relaxed or hardened.
    """

    elbo: Elbo
    model: Program
    guide: Program


class RelaxedWarmup(ELBO):
    r"""Train relaxed for some steps, and then the discrete ELBO without bias.

    A loss for `SVI` with a *relaxed* model and guide, and an optimizer that counts its
    steps. For the first `num_steps` steps it is `relaxed`, of the relaxed programs.
    After these it is `unbiased`, of ``harden(model)`` and ``harden(guide)``, which have
    the same parameters. The relaxation finds the right region with a gradient of low
    variance and some bias; the second part removes the bias.

    **Give the warmup half of the steps** where nothing is known of a model. There is no
    need for an annealed temperature. It works with `AutoConcrete` and with a relaxed
    guide of your own.

    Args:
        num_steps: Number of steps of the warmup, >= 0.
        unbiased: Objective after it, such as `RLOO`, `LocalExpectations` or `DisARM`;
            by default ``RLOO(8)``. `REBAR` takes no hardened guide.
        relaxed: Objective of the warmup; by default ``Trace_ELBO()``.

    Raises:
        ValueError: If `num_steps` is negative. When it is used: if no optimizer counts
            the steps.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> from pyro_concrete import AutoConcrete, relax, schedules
        >>> @relax(temperature=0.5)
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
        self.unbiased = RLOO(8) if unbiased is None else unbiased
        self.relaxed = Trace_ELBO() if relaxed is None else relaxed

    def loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor | float:
        """Return the loss of the part of training that the optimizer is in."""
        part = self._current_part(model, guide)
        return part.elbo.loss(part.model, part.guide, *args, **kwargs)

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss with a graph for the gradient."""
        part = self._current_part(model, guide)
        return part.elbo.differentiable_loss(part.model, part.guide, *args, **kwargs)

    def loss_and_grads(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor | float:
        """Return the loss, and add the gradients to those of the parameters."""
        part = self._current_part(model, guide)
        return part.elbo.loss_and_grads(part.model, part.guide, *args, **kwargs)

    def _current_part(self, model: Program, guide: Program) -> "_Part":
        step = current_step("RelaxedWarmup changes the loss at a step")
        if step < self.num_steps:
            return _Part(self.relaxed, model, guide)
        return _Part(self.unbiased, harden(model), harden(guide))

    def _get_trace(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[Trace, Trace]:
        part = self._current_part(model, guide)
        return part.elbo._get_trace(part.model, part.guide, args, kwargs)
