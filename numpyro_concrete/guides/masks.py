"""Masks of the latent sites of a model, which apply to the factors of its guide.

A mask may come from a handler, from ``.mask(...)`` of the distribution, or from both,
and there may be `to_event` between them. A factor is a distribution of the leaf, so
that all of them are combined to one mask of the leaf's elements.

Counterpart: ``pyro_concrete.guides.masks``.
"""

from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.guides.sites import Message, WrappedDistribution
from numpyro_concrete.relaxation.wrappers import Mask, element_mask, leaf_of


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
