"""What the unbiased objectives share: Trace_ELBO's loss with gradients of their own.

Twin: ``numpyro_concrete.objectives.abstract``.
"""

from collections.abc import Callable, Iterator
from typing import Any

from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_backward
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_concrete.objectives.passes import Passes


class AbstractUnbiased(Trace_ELBO):
    """An ELBO of a discrete program whose gradient is unbiased.

    Its `loss` is the estimate of `Trace_ELBO`, of the discrete program.
    """

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss with a graph whose gradient is the estimate."""
        loss, surrogate = self._estimate(model, guide, args, kwargs)
        warn_if_nan(loss, "loss")
        return loss + (surrogate - surrogate.detach())

    def loss_and_grads(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> float:
        """Return the loss, and add the gradients to those of the parameters."""
        loss, surrogate = self._estimate(model, guide, args, kwargs)
        if surrogate.requires_grad:
            torch_backward(surrogate, retain_graph=self.retain_graph)
        value = loss.item()
        warn_if_nan(value, "loss")
        return value

    def _estimate(
        self, model: Callable, guide: Callable, args: Any, kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The loss, detached, and what has the gradient."""
        particles = [
            self._particle(passes)
            for passes in self._passes(model, guide, args, kwargs)
        ]
        loss, surrogate = (sum(x) for x in zip(*particles, strict=True))
        return -loss.detach() / self.num_particles, -surrogate / self.num_particles

    def _particle(self, passes: Passes) -> tuple[Tensor, Tensor]:
        """The ELBO of a particle, and what has its gradient."""
        raise NotImplementedError

    def _passes(
        self, model: Callable, guide: Callable, args: Any, kwargs: Any
    ) -> Iterator[Passes]:
        """The particles, which are one if they are a plate around the programs."""
        together = self._prepared(model, guide, args, kwargs)
        programs = map(self._vectorized_num_particles, (model, guide))
        model, guide = programs if together else (model, guide)
        for _ in range(1 if together else self.num_particles):
            yield Passes(model, guide, args, kwargs, self.max_plate_nesting)

    def _prepared(
        self, model: Callable, guide: Callable, args: Any, kwargs: Any
    ) -> bool:
        """Whether particles are a plate, which then has its place."""
        if not self.vectorize_particles or self.num_particles == 1:
            return False
        if self.max_plate_nesting == float("inf"):
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        return True
