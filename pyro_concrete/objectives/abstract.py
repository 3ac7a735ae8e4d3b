"""What the unbiased objectives share: the loss of Trace_ELBO, with their own gradients.

Counterpart: ``numpyro_concrete.objectives.abstract``.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_backward
from pyro.util import warn_if_nan
from torch import Tensor

from concrete_core.objectives.programs import Programs
from concrete_core.types import Program
from pyro_concrete.objectives.coupled_runs import CoupledRuns
from pyro_concrete.objectives.guide_draws import SubsampleMessenger
from pyro_concrete.objectives.learning_signals import leave_one_out_signals
from pyro_concrete.relaxation.surroundings import GradientMessenger


class Estimate(NamedTuple):
    """An ELBO, and a number whose gradient estimates that of the ELBO.

    Attributes:
        elbo: ELBO: ().
        surrogate: Number of which only the gradient means something: ().
    """

    elbo: Tensor
    surrogate: Tensor


class AbstractUnbiased(Trace_ELBO):
    """An ELBO of discrete programs whose gradient is unbiased.

    Its `loss` is the estimate of `Trace_ELBO` for the discrete model and guide.
    """

    # Whether the objective runs the model once more for each layer of sites.
    _needs_layers = False
    # Whether it asks what each discrete site influences.
    _needs_influence = False

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss with a graph whose gradient is the estimate."""
        with GradientMessenger():
            estimate = self._estimate(Programs(model, guide, args, kwargs))
        loss = -estimate.elbo.detach()
        warn_if_nan(loss, "loss")
        return loss - (estimate.surrogate - estimate.surrogate.detach())

    def loss_and_grads(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> float:
        """Return the loss, and add the gradients to those of the parameters."""
        with GradientMessenger():
            estimate = self._estimate(Programs(model, guide, args, kwargs))
        if estimate.surrogate.requires_grad:
            torch_backward(-estimate.surrogate, retain_graph=self.retain_graph)
        loss = -estimate.elbo.detach()
        warn_if_nan(loss, "loss")
        return loss.item()

    def _estimate(self, programs: Programs) -> Estimate:
        """Return the mean over particles."""
        runs = self._run_particles(programs)
        return self._mean(self._estimate_of_particle(particle) for particle in runs)

    def _estimate_of_particle(self, runs: CoupledRuns) -> Estimate:
        raise NotImplementedError

    def _mean(self, estimates: Iterable[Estimate]) -> Estimate:
        """Return the mean over particles of what each run adds up."""
        elbos, surrogates = zip(*estimates, strict=True)
        return Estimate(
            elbo=sum(elbos, torch.zeros(())) / self.num_particles,
            surrogate=sum(surrogates, torch.zeros(())) / self.num_particles,
        )

    @property
    def _has_particle_plate(self) -> bool:
        """Whether the particles are a plate around the model and the guide."""
        return self.vectorize_particles and self.num_particles > 1

    @property
    def _num_runs(self) -> int:
        """Number of runs, of which one has all particles if these are a plate."""
        return 1 if self._has_particle_plate else self.num_particles

    def _in_particle_plate(self, programs: Programs) -> Programs:
        """Return the programs in a plate of particles, if there is to be one."""
        if not self._has_particle_plate:
            return programs
        if self.max_plate_nesting == float("inf"):
            self._guess_max_plate_nesting(*programs)
        return programs._replace(
            model=self._vectorized_num_particles(programs.model),
            guide=self._vectorized_num_particles(programs.guide),
        )

    def _run_particles(self, programs: Programs) -> Iterator[CoupledRuns]:
        """Run the particles one after the other, or all at once in a plate."""
        programs = self._in_particle_plate(programs)
        subsamples = SubsampleMessenger()
        for _ in range(self._num_runs):
            yield CoupledRuns(
                programs,
                max_plate_nesting=self.max_plate_nesting,
                subsamples=subsamples,
                find_layers=self._needs_layers,
                find_influence=self._needs_influence,
            )

    def _leave_one_out(self, signals: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the signals of each run, minus the mean over the other particles."""
        if self.num_particles == 1:
            return signals
        if not self._has_particle_plate:
            return leave_one_out_signals(torch.stack(list(signals)), 0).unbind()
        # The plate of particles is the leftmost.
        particle_dim = -int(self.max_plate_nesting)
        return [leave_one_out_signals(signals[0], particle_dim)]


def names_in_every_particle(sites: Sequence[Collection[str]]) -> list[str]:
    """Return the names of the sites, which have to be the same in all particles.

    Args:
        sites: For each particle, the names of its sites.

    Raises:
        ValueError: If a site is not drawn in every particle. The message names it.

    Example:
        >>> names_in_every_particle([["z"], ["z"]])
        ['z']
    """
    all_names = {name: None for names in sites for name in names}
    for name in all_names:
        if any(name not in names for names in sites):
            raise ValueError(
                f"site {name!r} is not drawn in every particle, so that the others are "
                "no baseline for it. Draw it in every run"
            )
    return list(all_names)
