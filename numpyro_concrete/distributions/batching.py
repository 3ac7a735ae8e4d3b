"""Rules for NumPyro's scan and vmap over the family, in its dispatch tables.

Counterpart: none; torch batches by shapes alone.
"""

import copy
from typing import Any

import jax.numpy as jnp
from numpyro.distributions.batch_util import promote_batch_shape, vmap_over

from numpyro_concrete.distributions.abstract import AbstractConcrete


@vmap_over.register
def _vmap_over_concrete(
    dist: AbstractConcrete,
    temperature: int | None = None,
    probs: int | None = None,
    logits: int | None = None,
) -> AbstractConcrete:
    axes: Any = copy.copy(dist)
    axes.temperature = temperature
    # The axis of whichever parameter was given; both become logits.
    axes.logits = probs if logits is None else logits
    return axes


@promote_batch_shape.register
def _promote_batch_shape_concrete(d: AbstractConcrete) -> AbstractConcrete:
    new: Any = copy.copy(d)
    new._batch_shape, _ = d._split_shape(jnp.shape(d.logits))
    missing = len(new._batch_shape) - jnp.ndim(d.temperature)
    # A scalar temperature has become one a step: it goes with the leading axes.
    if jnp.ndim(d.temperature) and missing:
        new.temperature = jnp.expand_dims(d.temperature, tuple(range(-missing, 0)))
    return new
