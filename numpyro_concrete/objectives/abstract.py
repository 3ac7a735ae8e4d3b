"""What the unbiased objectives share: the discrete loss, with their own gradients.

Counterpart: ``pyro_concrete.objectives.abstract``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
from jax import Array, random
from numpyro.infer.elbo import ELBO

from concrete_core.objectives.programs import Programs
from concrete_core.types import Params, Program
from numpyro_concrete.objectives.coupled_runs import CoupledRuns
from numpyro_concrete.objectives.guide_draws import ParticleKeys

PyTree = TypeVar("PyTree")


class Estimate(NamedTuple):
    """An ELBO, and a number whose gradient estimates that of the ELBO.

    Attributes:
        elbo: ELBO: ().
        surrogate: Number of which only the gradient means something: ().
    """

    elbo: Array
    surrogate: Array


class AbstractUnbiased(ELBO):
    """An ELBO of discrete programs whose gradient is unbiased.

    Its `loss` is the estimate of `Trace_ELBO` for the discrete model and guide.
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
        """Return the loss, whose gradient is the estimate."""
        programs = Programs(model, guide, args, kwargs)
        elbo, surrogate = self._estimate(rng_key, param_map, programs)
        return -_with_gradient_of(surrogate, elbo)

    def _estimate(self, rng_key: Array, params: Params, programs: Programs) -> Estimate:
        """Return the mean over particles."""

        def estimate(keys: ParticleKeys) -> Estimate:
            return self._estimate_of_particle(CoupledRuns(keys, params, programs))

        estimates = self._map_particles(estimate, rng_key)
        return Estimate(
            elbo=estimates.elbo.mean(), surrogate=estimates.surrogate.mean()
        )

    def _estimate_of_particle(self, runs: CoupledRuns) -> Estimate:
        raise NotImplementedError

    def _map_particles(
        self, fn: Callable[[ParticleKeys], PyTree], rng_key: Array
    ) -> PyTree:
        """Call a function of the keys of a particle, for each particle.

        All particles have the same key for the subsamples of plates.
        """
        subsample_key, key = random.split(rng_key)
        return self.vectorize_particles_fn(
            lambda particle_key: fn(ParticleKeys(particle_key, subsample_key)),
            random.split(key, self.num_particles),
        )


@jax.custom_jvp
def _with_gradient_of(surrogate: Array, value: Array) -> Array:
    """Return a value with the gradient of a surrogate, whose own value is not computed.

    The value of ``value + surrogate - stop_gradient(surrogate)`` would have XLA compute
    the terms of all sites, only to cancel them.
    """
    del surrogate
    return value


@_with_gradient_of.defjvp
def _with_gradient_of_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    _, value = primals
    surrogate_tangent, _ = tangents
    return value, surrogate_tangent
