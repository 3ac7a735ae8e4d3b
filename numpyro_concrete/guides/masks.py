"""Masks of the latent sites of a model, which apply to the factors of its guide.

A mask may come from a handler, from ``.mask(...)`` of the distribution, or from both,
and there may be `to_event` between them. A factor is a distribution of the leaf, so
that all of them are combined to one mask of the leaf's elements.

Counterpart: ``pyro_concrete.guides.masks``.
"""

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Independent, MaskedDistribution

from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.guides.sites import Message, WrappedDistribution
from numpyro_concrete.relaxation.site import is_wrapper, leaf_of
from numpyro_concrete.soft_index.parameters import SoftlyMasked

# Of the elements of a leaf; True keeps all of them. A soft mask is an array of floats:
# the probability that an element is kept.
Mask = Array | bool


def element_mask(fn: WrappedDistribution) -> Mask:
    """Return the mask of the elements of a leaf; True if nothing is masked.

    Shapes:
        result: broadcastable to the batch shape of the leaf, if it is an array.

    Args:
        fn: Distribution in its wrappers; handlers have put their masks there, too.

    Example:
        >>> import numpyro.distributions as dist
        >>> fn = dist.Bernoulli(jnp.full((2, 3), 0.5)).to_event(1)
        >>> element_mask(fn.mask(jnp.array([True, False]))).tolist()
        [[True], [False]]

    Counterpart: :func:`pyro_concrete.guides.masks.element_mask`.
    """
    mask: Mask = True
    while is_wrapper(fn):
        if isinstance(fn, Independent) and not isinstance(mask, bool):
            # An outer mask has one entry for each event: the same for its elements.
            mask = mask.reshape(mask.shape + (1,) * fn.reinterpreted_batch_ndims)
        elif isinstance(fn, MaskedDistribution):
            mask = _combine_masks(mask, fn._mask)
        elif isinstance(fn, SoftlyMasked):
            mask = _combine_masks(mask, fn.share)
        fn = fn.base_dist
    return mask


def _combine_masks(outer: Mask, inner: Mask) -> Mask:
    """The product of two masks, in probabilities if one is soft."""
    if outer is True:
        return inner
    if inner is True:
        return outer
    if outer is False or inner is False:
        return False
    return jnp.asarray(outer) * jnp.asarray(inner)


def without_masks(fn: WrappedDistribution) -> WrappedDistribution:
    """Return a distribution without the masks among its wrappers.

    Counterpart: :func:`pyro_concrete.guides.masks.without_masks`.
    """
    if isinstance(fn, MaskedDistribution | SoftlyMasked):
        return without_masks(fn.base_dist)
    if isinstance(fn, Independent):
        base = without_masks(fn.base_dist)
        return base.to_event(fn.reinterpreted_batch_ndims)
    return fn


def has_flat_prior(fn: WrappedDistribution, mask: Mask) -> bool:
    """Tell whether a site is continuous and wholly masked: Pyro's way to a flat prior.

    Its factor is not masked, as its posterior is that of the likelihood.

    Counterpart: :func:`pyro_concrete.guides.masks.has_flat_prior`.
    """
    return mask is False and not isinstance(leaf_of(fn), AbstractConcrete)


def is_masked(message: Message) -> bool:
    """Tell whether a mask may leave elements of a latent site out.

    Counterpart: :func:`pyro_concrete.guides.masks.is_masked`.
    """
    mask = element_mask(message["fn"])
    return mask is not True and not has_flat_prior(message["fn"], mask)
