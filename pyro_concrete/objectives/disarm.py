"""DisARM: the difference of two antithetic draws of binary sites.

Counterpart: ``numpyro_concrete.objectives.disarm``.
"""

from torch import Tensor

from pyro_concrete.objectives.abstract import AbstractUnbiased
from pyro_concrete.objectives.gradients import disarm
from pyro_concrete.objectives.passes import Passes


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
        max_plate_nesting: As in Pyro's ELBOs.
        vectorize_particles: As in Pyro's ELBOs.
        retain_graph: As in Pyro's ELBOs.

    Raises:
        NotImplementedError: At a discrete site of the guide that is no Bernoulli or is
            marked for enumeration, and at a continuous one that is not
            reparameterised, by name.
        ValueError: At a site that is latent in one of the programs alone, by name.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.2))
        >>> def guide():
        ...     logits = pyro.param("a", torch.tensor(0.0))
        ...     pyro.sample("z", dist.Bernoulli(logits=logits))
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), DisARM())
        >>> svi.step() > 0
        True

    References:
        Dong, Mnih, Tucker (2020), DisARM: An Antithetic Gradient Estimator for Binary
        Latent Variables, eq. 8. https://arxiv.org/abs/2006.10680

    Counterpart: :class:`numpyro_concrete.DisARM`.
    """

    _layered = True

    def __init__(
        self,
        num_particles: int = 1,
        *,
        max_plate_nesting: int | float = float("inf"),
        vectorize_particles: bool = False,
        retain_graph: bool | None = None,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            retain_graph=retain_graph,
        )

    def _particle(self, passes: Passes) -> tuple[Tensor, Tensor]:
        for name, drawn in passes.drawn.items():
            if not drawn.binary:
                raise NotImplementedError(
                    f"site {name!r} is no Bernoulli, and DisARM takes bits alone. Use "
                    "REBAR or RLOO"
                )
        elbo, surrogate = passes.costs.total(), 0.0
        for layer, names in enumerate(passes.layers):
            costs, others = passes.opposite(layer)
            elbo = elbo + costs.total()
            for name in names:
                drawn = passes.drawn[name]
                gap = passes.costs.of(drawn.frames) - costs.of(drawn.frames)
                gap = gap.reshape(gap.shape + (1,) * drawn.event_dim)
                opposite, logits = others[name].scores, drawn.logits
                gradient = disarm(gap, drawn.scores, opposite, logits).detach()
                surrogate = surrogate + (gradient * logits).sum()
        elbo = elbo / (1 + len(passes.layers))
        return elbo, elbo + surrogate
