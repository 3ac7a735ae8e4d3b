"""What the unbiased objectives share: the discrete loss with gradients of their own.

Counterpart: ``pyro_concrete.objectives.abstract``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax import Array, lax, random
from numpyro.infer.elbo import ELBO

from numpyro_concrete.objectives.passes import Passes


class AbstractUnbiased(ELBO):
    """An ELBO of a discrete program whose gradient is unbiased.

    Its `loss` has the value of `Trace_ELBO`'s, of the discrete program.
    """

    can_infer_discrete = True

    def loss(
        self,
        rng_key: Array,
        param_map: dict[str, Any],
        model: Callable,
        guide: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> Array:
        """Return the loss, whose gradient is the estimate."""
        programs = param_map, model, guide, args, kwargs
        elbo, surrogate = self._estimate(rng_key, *programs)
        return -lax.stop_gradient(elbo) - (surrogate - lax.stop_gradient(surrogate))

    def _estimate(self, rng_key: Array, *programs: Any) -> tuple[Array, Array]:
        """The ELBO, and what has its gradient."""

        def particle(run: Callable) -> tuple[Array, Array]:
            return self._particle(run(*programs))

        elbos, surrogates = self._map(particle, rng_key)
        return elbos.mean(), surrogates.mean()

    def _map(self, fn: Callable, rng_key: Array) -> Any:
        """Call a function of what runs a particle, for each particle.

        Plates take one subsample for all of them.
        """
        plates, key = random.split(rng_key)
        keys = random.split(key, self.num_particles)
        return self.vectorize_particles_fn(
            lambda key: fn(partial(Passes, key, plates)), keys
        )

    def _particle(self, passes: Passes) -> tuple[Array, Array]:
        """The ELBO of a particle, and what has its gradient."""
        raise NotImplementedError
