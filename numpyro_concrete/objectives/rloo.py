"""RLOO: the score function with the other particles as baseline.

Counterpart: ``pyro_concrete.objectives.rloo``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array, lax, random

from numpyro_concrete.objectives.abstract import AbstractUnbiased
from numpyro_concrete.objectives.gradients import compared
from numpyro_concrete.objectives.passes import check, costs_of, score_of, traces_of


class _Particle(NamedTuple):
    """A particle: by site, its cost and its log-probability."""

    elbo: Array
    signals: dict[str, Array]
    scores: dict[str, Array]


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
        vectorize_particles: As in NumPyro's ELBOs.

    Raises:
        ValueError: If there are fewer than two particles; at a site that is latent in
            one of the programs alone, by name.
        NotImplementedError: At a site of the guide that is marked for enumeration, by
            name.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     n = numpyro.sample("n", dist.Poisson(2.0))
        ...     numpyro.sample("x", dist.Normal(n, 1.0), obs=1.2)
        >>> def guide():
        ...     rate = jnp.exp(numpyro.param("rate", 0.0))
        ...     numpyro.sample("n", dist.Poisson(rate))
        >>> optimiser = numpyro.optim.Adam(0.01)
        >>> svi = numpyro.infer.SVI(model, guide, optimiser, RLOO())
        >>> result = svi.run(jax.random.key(0), 2, progress_bar=False)
        >>> bool(result.losses[0] > 0)
        True

    References:
        Kool, van Hoof, Welling (2019), Buy 4 REINFORCE Samples, Get a Baseline for
        Free!, eq. 8. https://openreview.net/forum?id=r1lgTGL5DE
        Mnih, Rezende (2016), Variational Inference for Monte Carlo Objectives.
        https://arxiv.org/abs/1602.06725

    Counterpart: :class:`pyro_concrete.RLOO`.
    """

    def __init__(
        self,
        num_particles: int = 2,
        *,
        vectorize_particles: bool | Callable = True,
    ) -> None:
        if num_particles < 2:
            raise ValueError(
                f"RLOO compares particles with each other, num_particles >= 2, and not "
                f"{num_particles}"
            )
        super().__init__(num_particles, vectorize_particles)

    def _estimate(self, rng_key: Array, *programs: Any) -> tuple[Array, Array]:
        # One subsample for all particles.
        plates, key = random.split(rng_key)
        keys = random.split(key, self.num_particles)
        found = self.vectorize_particles_fn(
            lambda key: _particle(*traces_of(key, plates, *programs)), keys
        )
        elbo = surrogate = found.elbo.mean()
        n = self.num_particles
        for name, signals in found.signals.items():
            gain = lax.stop_gradient(compared(signals, 0))
            surrogate += (gain * found.scores[name]).sum() / n
        return elbo, surrogate


def _particle(model_trace: Any, guide_trace: Any) -> _Particle:
    check(model_trace, guide_trace)
    costs = costs_of(model_trace, guide_trace)
    signals, scores = {}, {}
    for name, site in guide_trace.items():
        if site["type"] != "sample" or site["is_observed"] or site["fn"].has_rsample:
            continue
        signals[name] = costs.of(site["cond_indep_stack"])
        scores[name] = score_of(site["fn"], site["value"])
    return _Particle(costs.total(), signals, scores)
