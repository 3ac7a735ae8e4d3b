"""Distributions under a soft mask.

Counterpart: none; Pyro's own masked distribution takes soft masks.
"""

import copy
from typing import Any

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.batch_util import promote_batch_shape

from numpyro_concrete.internals import set_batch_shape
from numpyro_concrete.soft_index.expectation import bounded
from numpyro_concrete.soft_index.registry import Shape

# A sample, or a tree of what NumPyro keeps of how it was drawn.
Sample = Any


class SoftlyMasked(Distribution):
    """A distribution that is scored with the probability that its mask is true.

    Shapes:
        share: the batch shape.

    Args:
        base_dist: The distribution.
        share: Probability that the mask is true.
    """

    pytree_data_fields = ("base_dist", "share")

    def __init__(self, base_dist: Distribution, share: Array) -> None:
        self.base_dist = base_dist
        self.share = share
        super().__init__(
            base_dist.batch_shape, base_dist.event_shape, validate_args=False
        )

    @property
    def support(self) -> constraints.Constraint | None:
        return self.base_dist.support

    @property
    def has_rsample(self) -> bool:
        return self.base_dist.has_rsample

    @property
    def has_enumerate_support(self) -> bool:
        return self.base_dist.has_enumerate_support

    def enumerate_support(self, expand: bool = True) -> Array:
        return self.base_dist.enumerate_support(expand)

    def sample(self, key: Array | None, sample_shape: Shape = ()) -> Sample:
        return self.base_dist.sample(key, sample_shape)

    def sample_with_intermediates(
        self, key: Array | None, sample_shape: Shape = ()
    ) -> Sample:
        return self.base_dist.sample_with_intermediates(key, sample_shape)

    def log_prob(self, value: Sample, intermediates: Sample = None) -> Array:
        if intermediates:
            log_prob = self.base_dist.log_prob(value, intermediates)
        else:
            log_prob = self.base_dist.log_prob(value)
        finite_log_prob, restore_infinities = bounded(jnp.asarray(log_prob))
        return restore_infinities(self.share * finite_log_prob)


@promote_batch_shape.register
def _promote_softly_masked(d: SoftlyMasked) -> SoftlyMasked:
    new = copy.copy(d)
    new.base_dist = promote_batch_shape(d.base_dist)
    set_batch_shape(new, new.base_dist.batch_shape)
    return new
