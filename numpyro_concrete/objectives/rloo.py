"""RLOO: the score function with the other particles as baseline.

Counterpart: ``pyro_concrete.objectives.rloo``.
"""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array, lax

from concrete_core.objectives.checks import validate_leave_one_out_particles
from concrete_core.objectives.programs import Programs
from concrete_core.types import Messages, Params
from numpyro_concrete.objectives.abstract import AbstractUnbiased, Estimate
from numpyro_concrete.objectives.elbo_terms import elbo_terms, sum_by_element
from numpyro_concrete.objectives.guide_draws import ParticleKeys, importance_traces
from numpyro_concrete.objectives.learning_signals import leave_one_out_signals
from numpyro_concrete.objectives.traces import (
    needs_score_function,
    scored_sites,
    unmasked_log_prob,
    validate_discrete_programs,
)


class _ScoredDraw(NamedTuple):
    """A value without a path, in one particle.

    Attributes:
        elbo: ELBO of each element of the plates of its site.
        log_prob: Log-probability that the guide drew it, unmasked, of each element.
    """

    elbo: Array
    log_prob: Array


class _Run(NamedTuple):
    """One particle, or with a leading axis all of them.

    Attributes:
        elbo: ELBO: ().
        draws: Values without a path, by site.
    """

    elbo: Array
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
        vectorize_particles: As in NumPyro's ELBOs.

    Raises:
        ValueError: If there are fewer than two particles, and at a site that is latent
            in the model or the guide only. The message
            names it.
        NotImplementedError: At a site of the guide that is marked for enumeration. The
            message names it.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     n = numpyro.sample("n", dist.Poisson(2.0))
        ...     numpyro.sample("x", dist.Normal(n, 1.0), obs=1.2)
        >>> def guide():
        ...     rate = jnp.exp(numpyro.param("rate", 0.0))
        ...     numpyro.sample("n", dist.Poisson(rate))
        >>> optimizer = numpyro.optim.Adam(0.01)
        >>> svi = numpyro.infer.SVI(model, guide, optimizer, RLOO())
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
        validate_leave_one_out_particles(num_particles)
        super().__init__(num_particles, vectorize_particles)

    def _estimate(self, rng_key: Array, params: Params, programs: Programs) -> Estimate:
        def scored_run(keys: ParticleKeys) -> _Run:
            return _scored_run(*importance_traces(keys, params, programs))

        runs = self._map_particles(scored_run, rng_key)
        elbo = runs.elbo.mean()
        surrogate = elbo
        for draw in runs.draws.values():
            signal = lax.stop_gradient(leave_one_out_signals(draw.elbo, 0))
            surrogate += (signal * draw.log_prob).sum() / self.num_particles
        return Estimate(elbo=elbo, surrogate=surrogate)


def _scored_run(model_trace: Messages, guide_trace: Messages) -> _Run:
    """Return what the estimate needs of one run."""
    validate_discrete_programs(model_trace, guide_trace)
    terms = elbo_terms(model_trace, guide_trace)
    draws = {
        name: _ScoredDraw(
            elbo=terms.by_element(site["cond_indep_stack"]),
            log_prob=sum_by_element(
                unmasked_log_prob(site["fn"], site["value"]), site["cond_indep_stack"]
            ),
        )
        for name, site in scored_sites(guide_trace).items()
        if needs_score_function(site)
    }
    return _Run(elbo=terms.total(), draws=draws)
