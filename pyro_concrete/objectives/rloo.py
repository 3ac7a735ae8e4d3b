"""RLOO: the score function with the other particles as baseline.

Counterpart: ``numpyro_concrete.objectives.rloo``.
"""

from typing import NamedTuple

import torch
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from torch import Tensor

from concrete_core.objectives.checks import validate_leave_one_out_particles
from concrete_core.objectives.programs import Programs
from pyro_concrete.objectives.abstract import (
    AbstractUnbiased,
    Estimate,
    names_in_every_particle,
)
from pyro_concrete.objectives.elbo_terms import elbo_terms
from pyro_concrete.objectives.guide_draws import SubsampleMessenger
from pyro_concrete.objectives.traces import (
    needs_score_function,
    scored_sites,
    unmasked_log_prob,
    validate_discrete_programs,
)


class _ScoredDraw(NamedTuple):
    """A value without a path, in one particle or in a plate of them.

    Attributes:
        elbo: ELBO of each element of the plates of its site.
        log_prob: Log-probability that the guide drew it, unmasked.
    """

    elbo: Tensor
    log_prob: Tensor


class _Run(NamedTuple):
    """One particle, or a plate of them.

    Attributes:
        elbo: ELBO: ().
        draws: Values without a path, by site.
    """

    elbo: Tensor
    draws: dict[str, _ScoredDraw]


class RLOO(AbstractUnbiased):
    r"""Unbiased gradients of the discrete ELBO, with other particles as the baseline.

    .. math:: \frac1K \sum_k \Bigl(f(b_k) - \frac1{K-1} \sum_{j \ne k} f(b_j)\Bigr)
        \nabla \log q(b_k) + \nabla f(b_k)

    A loss for `SVI` with the unmodified discrete model and guide. f is the integrand of
    the discrete ELBO. Every site without reparameterized samples gets the score
    function, whatever its support; the others pass the gradient of their paths. The
    learning signal of a value has only the terms of its own element of a plate, and its
    baseline is the mean over the same element of the other particles, which share its
    subsample. **K particles take K runs of the model and the guide.**

    It makes no assumption on the model and is the one to begin with. Do not use it with
    few particles where f varies much from draw to draw: there `REBAR`, or for binary
    sites `DisARM`, may have a lower variance at the same number of model evaluations. A
    site of few values is better enumerated.

    Args:
        num_particles: Number K of particles, >= 2.
        max_plate_nesting: As in Pyro's ELBOs.
        vectorize_particles: As in Pyro's ELBOs.
        retain_graph: As in Pyro's ELBOs.

    Raises:
        ValueError: If there are fewer than two particles, and at a site that is latent
            in the model or the guide only, or not drawn in every particle. The message
            names it.
        NotImplementedError: At a site of the guide that is marked for enumeration. The
            message names it.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     n = pyro.sample("n", dist.Poisson(torch.tensor(2.0)))
        ...     pyro.sample("x", dist.Normal(n, 1.0), obs=torch.tensor(1.2))
        >>> def guide():
        ...     rate = pyro.param("rate", torch.tensor(0.0)).exp()
        ...     pyro.sample("n", dist.Poisson(rate))
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), RLOO())
        >>> svi.step() > 0
        True

    References:
        Kool, van Hoof, Welling (2019), Buy 4 REINFORCE Samples, Get a Baseline for
        Free!, eq. 8. https://openreview.net/forum?id=r1lgTGL5DE
        Mnih, Rezende (2016), Variational Inference for Monte Carlo Objectives.
        https://arxiv.org/abs/1602.06725

    Counterpart: :class:`numpyro_concrete.RLOO`.
    """

    def __init__(
        self,
        num_particles: int = 2,
        *,
        max_plate_nesting: int | float = float("inf"),
        vectorize_particles: bool = False,
        retain_graph: bool | None = None,
    ) -> None:
        validate_leave_one_out_particles(num_particles)
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            retain_graph=retain_graph,
        )

    def _estimate(self, programs: Programs) -> Estimate:
        programs = self._in_particle_plate(programs)
        subsamples = SubsampleMessenger()
        runs = []
        for _ in range(self._num_runs):
            with subsamples:
                traces = get_importance_trace("flat", self.max_plate_nesting, *programs)
            runs.append(_scored_run(*traces))
        elbo = sum((run.elbo for run in runs), torch.zeros(()))
        surrogate = elbo
        for name in names_in_every_particle([run.draws.keys() for run in runs]):
            draws = [run.draws[name] for run in runs]
            signals = self._leave_one_out([draw.elbo for draw in draws])
            for signal, draw in zip(signals, draws, strict=True):
                surrogate = surrogate + (signal.detach() * draw.log_prob).sum()
        return Estimate(elbo / self.num_particles, surrogate / self.num_particles)


def _scored_run(model_trace: Trace, guide_trace: Trace) -> _Run:
    """Return what the estimate needs of one run."""
    validate_discrete_programs(model_trace, guide_trace)
    terms = elbo_terms(model_trace, guide_trace)
    draws = {
        name: _ScoredDraw(
            elbo=terms.by_element(site["cond_indep_stack"]),
            log_prob=unmasked_log_prob(site["fn"], site["value"]),
        )
        for name, site in scored_sites(guide_trace).items()
        if needs_score_function(site)
    }
    return _Run(elbo=terms.total(), draws=draws)
