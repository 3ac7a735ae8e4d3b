"""DisARM: the difference of two antithetic draws of binary sites.

Counterpart: ``pyro_concrete.objectives.disarm``.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from numpyro_concrete.objectives.abstract import AbstractUnbiased
from numpyro_concrete.objectives.gradients import disarm
from numpyro_concrete.objectives.passes import Passes


class DisARM(AbstractUnbiased):
    r"""Unbiased gradients of the discrete ELBO by pairs of opposite draws of bits.

    .. math:: \tfrac12 (f(b) - f(b')) (b - b') \sigma(|a|) \nabla a + \nabla f(b)

    A loss for `SVI` with the discrete model and guide as they are, whose discrete sites
    are Bernoullis. b' has the opposite noise of b; nothing is relaxed, and there is
    nothing to tune. Sites whose log-odds a depend on each other's values form layers,
    as in `REBAR`: the earlier layers keep their values, and the later ones are drawn
    anew. **A particle takes 1 + L runs of the model and the guide for L layers**, and
    its loss is the mean of them. Each value is judged by the terms of its own element
    of a plate. Continuous sites pass the gradient of their paths.

    Use it for bits whose likelihood cannot take relaxed values. With several layers, or
    where the bits are nearly sure so that opposite draws agree, and for sites of more
    than two values, use `RLOO` or `REBAR`.

    Args:
        num_particles: Number of particles whose gradients are averaged.
        vectorize_particles: As in NumPyro's ELBOs.

    Raises:
        NotImplementedError: At a discrete site of the guide that is no Bernoulli or is
            marked for enumeration, and at a continuous one that is not
            reparameterised, by name.
        ValueError: At a site that is latent in one of the programs alone, by name.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...     numpyro.sample("x", dist.Normal(z, 1.0), obs=0.2)
        >>> def guide():
        ...     logits = numpyro.param("a", 0.0)
        ...     numpyro.sample("z", dist.Bernoulli(logits=logits))
        >>> optimiser = numpyro.optim.Adam(0.01)
        >>> svi = numpyro.infer.SVI(model, guide, optimiser, DisARM())
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

    def _particle(self, passes: Passes) -> tuple[Array, Array]:
        for name, drawn in passes.drawn.items():
            if not drawn.binary:
                raise NotImplementedError(
                    f"site {name!r} is no Bernoulli, and DisARM takes bits alone. Use "
                    "REBAR or RLOO"
                )
        elbo, surrogate = passes.costs.total(), jnp.zeros(())
        for layer, names in enumerate(passes.layers):
            costs, others = passes.opposite(layer)
            elbo = elbo + costs.total()
            for name in names:
                drawn = passes.drawn[name]
                gap = passes.costs.of(drawn.frames) - costs.of(drawn.frames)
                gap = gap.reshape(gap.shape + (1,) * drawn.event_dim)
                opposite, logits = others[name].scores, drawn.logits
                gradient = disarm(gap, drawn.scores, opposite, logits)
                surrogate += (lax.stop_gradient(gradient) * logits).sum()
        elbo = elbo / (1 + len(passes.layers))
        return elbo, elbo + surrogate
