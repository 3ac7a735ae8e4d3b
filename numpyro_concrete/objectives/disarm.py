"""DisARM: the difference of two antithetic draws of binary sites.

Counterpart: ``pyro_concrete.objectives.disarm``.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import Array, lax

from numpyro_concrete.objectives.abstract import AbstractUnbiased, Estimate
from numpyro_concrete.objectives.coupled_runs import AntitheticRun, CoupledRuns
from numpyro_concrete.objectives.guide_draws import DrawnSite, append_event_dims
from numpyro_concrete.objectives.logit_gradients import disarm_gradient


class DisARM(AbstractUnbiased):
    r"""Unbiased gradients of the discrete ELBO from antithetic pairs of binary draws.

    .. math:: \tfrac12 (f(b) - f(b')) (b - b') \sigma(|a|) \nabla a + \nabla f(b)

    A loss for `SVI` with the unmodified discrete model and guide, whose discrete sites
    are Bernoullis with log-odds a. f is the integrand of the discrete ELBO, and b' is
    drawn from the opposite noise of b. Nothing is relaxed, and there is nothing to
    tune. Sites whose log-odds depend on each other's values form layers: for one layer
    after the other its noise is flipped, the earlier layers keep their values, and the
    later ones are drawn anew. **A particle takes 1 + L runs of the model and the guide
    for L layers**, and its loss is the mean of their ELBOs, negated. The learning
    signal of a value has only the terms of its own element of a plate. Continuous sites
    pass the gradient of their paths.

    Use it for binary sites whose likelihood cannot take relaxed values. With several
    layers, where the values are nearly certain so that both draws agree, and for sites
    of more than two values, use `RLOO` or `REBAR`.

    Args:
        num_particles: Number of particles whose gradients are averaged, >= 1.
        vectorize_particles: As in NumPyro's ELBOs.

    Raises:
        NotImplementedError: At a discrete site of the guide that is not a Bernoulli or
            is marked for enumeration, and at a continuous one that is not
            reparameterized. The message names it.
        ValueError: At a site that is latent in the model or the guide only. The message
            names it.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...     numpyro.sample("x", dist.Normal(z, 1.0), obs=0.2)
        >>> def guide():
        ...     logits = numpyro.param("a", 0.0)
        ...     numpyro.sample("z", dist.Bernoulli(logits=logits))
        >>> optimizer = numpyro.optim.Adam(0.01)
        >>> svi = numpyro.infer.SVI(model, guide, optimizer, DisARM())
        >>> result = svi.run(jax.random.key(0), 2, progress_bar=False)
        >>> bool(result.losses[0] > 0)
        True

    References:
        Dong, Mnih, Tucker (2020), DisARM: An Antithetic Gradient Estimator for Binary
        Latent Variables, eq. 8. https://arxiv.org/abs/2006.10680

    Counterpart: :class:`pyro_concrete.DisARM`.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        vectorize_particles: bool | Callable = True,
    ) -> None:
        super().__init__(num_particles, vectorize_particles)

    def _estimate_of_particle(self, runs: CoupledRuns) -> Estimate:
        _validate_all_binary(runs.draws)
        elbo = runs.elbo_terms.total()
        score_function_terms = jnp.zeros(())
        for layer, names in enumerate(runs.layers):
            antithetic = runs.run_antithetic(layer)
            elbo = elbo + antithetic.elbo_terms.total()
            for name in names:
                logits = runs.draws[name].logits
                gradient = lax.stop_gradient(_logit_gradient(name, runs, antithetic))
                # A constant gradient times the logits has that gradient.
                score_function_terms = score_function_terms + (gradient * logits).sum()
        # Each run is a draw of the guide, and has an unbiased ELBO and path gradient.
        elbo = elbo / (1 + len(runs.layers))
        return Estimate(elbo=elbo, surrogate=elbo + score_function_terms)


def _logit_gradient(name: str, runs: CoupledRuns, antithetic: AntitheticRun) -> Array:
    """Return the gradient in the log-odds of one site.

    The sites of its layer all have the opposite noise in the antithetic run. Given the
    earlier layers they are independent of each other, so that the difference of the two
    runs is an unbiased signal for each.
    """
    draw = runs.draws[name]
    elbo = runs.elbo_terms.by_element(draw.frames)
    antithetic_elbo = antithetic.elbo_terms.by_element(draw.frames)
    return disarm_gradient(
        append_event_dims(elbo - antithetic_elbo, draw.event_dim),
        draw.scores,
        antithetic.draws[name].scores,
        draw.logits,
    )


def _validate_all_binary(draws: Mapping[str, DrawnSite]) -> None:
    """Raise an error at a site that is not a Bernoulli."""
    for name, draw in draws.items():
        if not draw.is_binary:
            raise NotImplementedError(
                f"site {name!r} is not a Bernoulli, and DisARM takes binary sites "
                "only. Use REBAR or RLOO"
            )
