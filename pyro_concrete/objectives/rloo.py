"""RLOO: the score function with the other particles as baseline.

Counterpart: ``numpyro_concrete.objectives.rloo``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from pyro.infer.enum import get_importance_trace
from torch import Tensor

from pyro_concrete.objectives.abstract import AbstractUnbiased
from pyro_concrete.objectives.passes import (
    SubsampleMessenger,
    check,
    costs_of,
    score_of,
)


class _Particle(NamedTuple):
    """Particles, one or a plate of them: by site, its cost and its log-probability."""

    elbo: Tensor
    signals: dict[str, Tensor]
    scores: dict[str, Tensor]


class RLOO(AbstractUnbiased):
    r"""Unbiased gradients of the discrete ELBO, other particles as the baseline.

    .. math:: \frac1K \sum_k \Bigl(f(b_k) - \frac1{K-1} \sum_{j \ne k} f(b_j)\Bigr)
        \nabla \log q(b_k) + \nabla f(b_k)

    A loss for `SVI` with the discrete model and guide as they are. Every site that has
    no reparameterised draws gets the score function, whatever its support; the others
    pass the gradient of their paths. Each value is judged by the terms of its own
    element of a plate, and compared with the same element of other particles, which see
    the same subsample. **K particles take K runs of the model and the guide.**

    It needs nothing of the model and is the one to begin with. Do not use it with few
    particles where the cost varies much from draw to draw: there `REBAR`, or for bits
    `DisARM`, may have a lower variance at the same number of runs, and a site of few
    values is better enumerated.

    Args:
        num_particles: Number K of particles, >= 2.
        max_plate_nesting: As in Pyro's ELBOs.
        vectorize_particles: As in Pyro's ELBOs.
        retain_graph: As in Pyro's ELBOs.

    Raises:
        ValueError: If there are fewer than two particles; at a site that is latent in
            one of the programs alone, or not in each particle, by name.
        NotImplementedError: At a site of the guide that is marked for enumeration, by
            name.

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
        if num_particles < 2:
            raise ValueError(
                f"RLOO compares particles with each other, num_particles >= 2, and not "
                f"{num_particles}"
            )
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            retain_graph=retain_graph,
        )

    def _estimate(
        self, model: Callable, guide: Callable, args: Any, kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        together = self._prepared(model, guide, args, kwargs)
        if together:
            model, guide = map(self._vectorized_num_particles, (model, guide))
        subsamples, particles = SubsampleMessenger(), []
        for _ in range(1 if together else self.num_particles):
            with subsamples:
                options = "flat", self.max_plate_nesting, model, guide, args, kwargs
                particles.append(_particle(*get_importance_trace(*options)))
        elbo: Any = sum(x.elbo for x in particles)
        surrogate = elbo
        signals = [x.signals for x in particles]
        for name in {name: None for found in signals for name in found}:
            gains = self._compared(name, signals, together)
            for gain, x in zip(gains, particles, strict=True):
                surrogate = surrogate + (gain.detach() * x.scores[name]).sum()
        n = self.num_particles
        return -elbo.detach() / n, -surrogate / n


def _particle(model_trace: Any, guide_trace: Any) -> _Particle:
    check(model_trace, guide_trace)
    costs = costs_of(model_trace, guide_trace)
    signals, scores = {}, {}
    for name, site in guide_trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"] or site["fn"].has_rsample:
            continue
        signals[name] = costs.of(site["cond_indep_stack"])
        scores[name] = score_of(site["fn"], site["value"])
    return _Particle(costs.total(), signals, scores)
