"""What the unbiased objectives share: the discrete loss with gradients of their own.

Twin: ``pyro_concrete.objectives.abstract``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
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

        def particle(key: Array) -> tuple[Array, Array]:
            return self._particle(Passes(key, *programs), programs[0])

        if self.num_particles == 1:
            return particle(rng_key)
        keys = random.split(rng_key, self.num_particles)
        particles = self.vectorize_particles_fn(particle, keys)
        return jax.tree.map(lambda x: x.mean(), particles)

    def _particle(
        self, passes: Passes, params: Mapping[str, Any]
    ) -> tuple[Array, Array]:
        """The ELBO of a particle, and what has its gradient."""
        raise NotImplementedError
