"""Masks of the latent sites of a model, which apply to the factors of its guide.

A mask may come from a handler, from ``.mask(...)`` of the distribution, or from both,
and there may be `to_event` between them. A factor is a distribution of the leaf, so
that all of them are combined to one mask of the leaf's elements.

Counterpart: ``numpyro_concrete.guides.masks``.
"""

from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.guides.sites import Message, WrappedDistribution
from pyro_concrete.relaxation.site import is_wrapper, leaf_of

Mask = Tensor | bool  # of the elements of a leaf; True keeps all of them


def element_mask(fn: WrappedDistribution, outer_mask: Mask | None = None) -> Mask:
    """Return the mask of the elements of a leaf; True if nothing is masked.

    Shapes:
        result: broadcastable to the batch shape of the leaf, if it is a tensor.

    Args:
        fn: WrappedDistribution in its wrappers.
        outer_mask: Mask around all of them, as of a handler; None for no mask.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> fn = dist.Bernoulli(torch.full((2, 3), 0.5)).to_event(1)
        >>> element_mask(fn, outer_mask=torch.tensor([True, False]))
        tensor([[ True],
                [False]])

    Counterpart: :func:`numpyro_concrete.guides.masks.element_mask`.
    """
    mask = True if outer_mask is None else outer_mask
    while is_wrapper(fn):
        if isinstance(fn, Independent) and isinstance(mask, Tensor):
            # An outer mask has one entry for each event: the same for its elements.
            event_ones = (1,) * fn.reinterpreted_batch_ndims
            mask = mask.reshape(mask.shape + event_ones)
        elif isinstance(fn, MaskedDistribution):
            mask = fn._mask & mask
        fn = fn.base_dist
    return mask


def without_masks(fn: WrappedDistribution) -> WrappedDistribution:
    """Return a distribution without the masks among its wrappers.

    Counterpart: :func:`numpyro_concrete.guides.masks.without_masks`.
    """
    if isinstance(fn, MaskedDistribution):
        return without_masks(fn.base_dist)
    if isinstance(fn, Independent):
        base = without_masks(fn.base_dist)
        return base.to_event(fn.reinterpreted_batch_ndims)
    return fn


def has_flat_prior(fn: WrappedDistribution, mask: Mask) -> bool:
    """Tell whether a site is continuous and wholly masked: Pyro's way to a flat prior.

    Its factor is not masked, as its posterior is that of the likelihood.

    Counterpart: :func:`numpyro_concrete.guides.masks.has_flat_prior`.
    """
    return mask is False and not isinstance(leaf_of(fn), AbstractConcrete)


def is_masked(message: Message) -> bool:
    """Tell whether a mask may leave elements of a latent site out.

    Counterpart: :func:`numpyro_concrete.guides.masks.is_masked`.
    """
    mask = element_mask(message["fn"], message["mask"])
    return mask is not True and not has_flat_prior(message["fn"], mask)
