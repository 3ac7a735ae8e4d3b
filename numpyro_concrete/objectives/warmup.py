"""RelaxedWarmup: relaxed training first, and unbiased gradients after it.

Counterpart: ``pyro_concrete.objectives.warmup``.
"""

from collections.abc import Callable
from typing import Any

from jax import Array, lax
from numpyro.infer import Trace_ELBO, TraceEnum_ELBO
from numpyro.infer.elbo import ELBO

from concrete_core.objectives.warmup import MOST_LOCAL_RUNS, validate_warmup
from concrete_core.types import Elbo, Params, Program
from numpyro_concrete.objectives.local_expectations import LocalExpectations
from numpyro_concrete.objectives.rloo import RLOO
from numpyro_concrete.relaxation.programs import harden
from numpyro_concrete.schedules import (
    Default,
    Exponential,
    WarmupMessenger,
    current_step,
)


class RelaxedWarmup(ELBO):
    r"""Train relaxed for some steps, and then the discrete ELBO without bias.

    A loss for `SVI` with a *relaxed* model and guide, and an optimizer that counts its
    steps. For the first `num_steps` steps it is `relaxed`, of the relaxed programs.
    After these it is `unbiased`, of ``harden(model)`` and ``harden(guide)``, which have
    the same parameters. The relaxation finds the right region with a gradient of low
    variance and some bias; the second part removes the bias.

    Soft samples that are given no temperature are annealed from 1/2 to 0.1 over the
    warmup (`schedules.Default`). It works with `AutoConcrete` and with a relaxed guide
    of your own.

    **Give the warmup half of the model evaluations** where local expectations are the
    unbiased part, and all of the steps where they would be expensive. A step of them
    takes as many model evaluations as `LocalExpectations.count_runs` says.

    Args:
        num_steps: Number of steps of the warmup, >= 0.
        unbiased: Objective after it, such as `RLOO` or `DisARM`; by default
            `TraceEnum_ELBO` if `relaxed` is one, and else `LocalExpectations` where a
            step takes at most ten model evaluations, and ``RLOO(8)`` elsewhere. `REBAR`
            takes no hardened guide.
        relaxed: Objective of the warmup; by default ``Trace_ELBO()``. Beside enumerated
            sites, ``TraceEnum_ELBO(...)``.

    Raises:
        TypeError: If `num_steps` is no number.
        ValueError: If it is negative or not finite. When it is used: if no optimizer
            counts the steps.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from numpyro_concrete import AutoConcrete, relax, schedules
        >>> @relax
        ... def model():
        ...     z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
        ...     numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=0.2)
        >>> optimizer = schedules.count_steps(numpyro.optim.Adam(0.05))
        >>> elbo = RelaxedWarmup(num_steps=100)
        >>> svi = numpyro.infer.SVI(model, AutoConcrete(model), optimizer, elbo)
        >>> result = svi.run(jax.random.key(0), 200, progress_bar=False)

    Counterpart: :class:`pyro_concrete.RelaxedWarmup`.
    """

    can_infer_discrete = True

    def __init__(
        self,
        num_steps: int,
        unbiased: Elbo | None = None,
        relaxed: Elbo | None = None,
    ) -> None:
        validate_warmup(num_steps)
        super().__init__()
        self.num_steps = num_steps
        self.relaxed = Trace_ELBO() if relaxed is None else relaxed
        if unbiased is None:
            is_enumerated = isinstance(relaxed, TraceEnum_ELBO)
            unbiased = self.relaxed if is_enumerated else CheapUnbiased()
        self.unbiased = unbiased

    def loss(
        self,
        rng_key: Array,
        param_map: Params,
        model: Program,
        guide: Program,
        *args: Any,
        **kwargs: Any,
    ) -> Array:
        """Return the loss of the part of training that the optimizer is in."""
        step = current_step(param_map, "RelaxedWarmup changes the loss at a step")
        hardened = harden(model), harden(guide)

        def loss_of(elbo: Elbo, model: Program, guide: Program) -> Callable:
            return lambda params: elbo.loss(
                rng_key, params, model, guide, *args, **kwargs
            )

        def relaxed_loss(params: Params) -> Array:
            # Inside of a scan the step is unknown.
            temperature = annealing(max(self.num_steps, 1))(step)
            with WarmupMessenger(temperature):
                return loss_of(self.relaxed, model, guide)(params)

        unbiased_loss = loss_of(self.unbiased, *hardened)
        return lax.cond(step < self.num_steps, relaxed_loss, unbiased_loss, param_map)


def annealing(num_steps: int) -> Exponential:
    """Return the temperatures of a warmup where none are given.

    Args:
        num_steps: Number of its steps, >= 1.
    """
    return Exponential(Default.warmup_start, Default.warmup_end, num_steps)


class CheapUnbiased(ELBO):
    """`LocalExpectations` where a step takes at most ten runs, elsewhere ``RLOO(8)``.

    It is chosen when the loss is compiled.
    """

    can_infer_discrete = True

    def loss(
        self,
        rng_key: Array,
        param_map: Params,
        model: Program,
        guide: Program,
        *args: Any,
        **kwargs: Any,
    ) -> Array:
        """Return the loss, whose gradient is unbiased."""
        call = rng_key, param_map, model, guide, *args
        local = LocalExpectations()
        try:
            is_cheap = local.count_runs(*call, **kwargs) <= MOST_LOCAL_RUNS
        except NotImplementedError:  # at a site that local expectations cannot take
            is_cheap = False
        elbo = local if is_cheap else RLOO(8)
        return elbo.loss(*call, **kwargs)
