"""What the unbiased objectives share: Trace_ELBO's loss with gradients of their own.

Counterpart: ``numpyro_concrete.objectives.abstract``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_backward
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_concrete.objectives.gradients import compared
from pyro_concrete.objectives.passes import Passes, SubsampleMessenger


class AbstractUnbiased(Trace_ELBO):
    """An ELBO of a discrete program whose gradient is unbiased.

    Its `loss` is the estimate of `Trace_ELBO`, of the discrete program.
    """

    _layered = False  # whether it takes the sites in layers

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
        warn_if_nan(loss, "loss")
        return loss.item()

    def _estimate(
        self, model: Callable, guide: Callable, args: Any, kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The loss, detached, and what has the gradient."""
        together = self._prepared(model, guide, args, kwargs)
        particles = [
            self._particle(passes)
            for passes in self._passes(together, model, guide, args, kwargs)
        ]
        loss, surrogate = (sum(x) for x in zip(*particles, strict=True))
        return -loss.detach() / self.num_particles, -surrogate / self.num_particles

    def _particle(self, passes: Passes) -> tuple[Tensor, Tensor]:
        """The ELBO of a particle, and what has its gradient."""
        raise NotImplementedError

    def _passes(
        self, together: bool, model: Callable, guide: Callable, args: Any, kwargs: Any
    ) -> Iterator[Passes]:
        """The particles, which are one if they are a plate around the programs."""
        if together:
            model, guide = map(self._vectorized_num_particles, (model, guide))
        subsamples = SubsampleMessenger()
        for _ in range(1 if together else self.num_particles):
            options = self.max_plate_nesting, subsamples, self._layered
            yield Passes(model, guide, args, kwargs, *options)

    def _prepared(
        self, model: Callable, guide: Callable, args: Any, kwargs: Any
    ) -> bool:
        """Whether particles are a plate, which then has its place."""
        if not self.vectorize_particles or self.num_particles == 1:
            return False
        if self.max_plate_nesting == float("inf"):
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        return True

    def _compared(
        self, name: str, found: Sequence[Mapping[str, Tensor]], together: bool
    ) -> Sequence[Tensor]:
        """The signals of a site in each particle, less those of the others."""
        if any(name not in x for x in found):
            raise ValueError(
                f"site {name!r} is not drawn in every particle, so that there is "
                "nothing to compare it with"
            )
        signals = [x[name] for x in found]
        if self.num_particles == 1:
            return signals
        if not together:
            return compared(torch.stack(signals), 0).unbind()
        # The plate of particles is the outermost.
        return [compared(signals[0], -int(self.max_plate_nesting))]
