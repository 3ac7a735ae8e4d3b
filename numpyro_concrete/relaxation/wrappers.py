"""Distributions inside of `to_event`, `expand` and `mask`.

The distribution of a site is seldom bare: ``Bernoulli(p).to_event(1).mask(seen)`` is
the leaf ``Bernoulli(p)`` in two wrappers. `relax` replaces the leaf, and keeps the
wrappers with the shapes and masks that they give to the site.

Counterpart: ``pyro_concrete.relaxation.wrappers``.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)

from numpyro_concrete.internals import wrapper_mask
from numpyro_concrete.relaxation.messages import AnyDistribution
from numpyro_concrete.soft_index.masks import SoftlyMasked

# A mask of the elements of a leaf: a bool for all of them, or an array. A soft mask is
# an array of probabilities.
Mask = Array | bool

_MASKED = MaskedDistribution | SoftlyMasked
_WRAPPERS = Independent | ExpandedDistribution | _MASKED


def wrappers_of(fn: AnyDistribution) -> Iterator[AnyDistribution]:
    """Yield a distribution and those inside of it that are wrappers, outermost first.

    Example:
        >>> from numpyro.distributions import BernoulliProbs
        >>> fn = BernoulliProbs(jnp.ones(2) / 2).to_event(1).mask(jnp.array(True))
        >>> [type(wrapper).__name__ for wrapper in wrappers_of(fn)]
        ['MaskedDistribution', 'Independent']

    Counterpart: :func:`pyro_concrete.relaxation.wrappers.wrappers_of`.
    """
    while isinstance(fn, _WRAPPERS):
        yield fn
        fn = fn.base_dist


def leaf_of(fn: AnyDistribution) -> AnyDistribution:
    """Return the distribution inside of to_event, expand and mask.

    Counterpart: :func:`pyro_concrete.relaxation.wrappers.leaf_of`.
    """
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
    return fn


def with_leaf(
    fn: AnyDistribution, replace: Callable[[AnyDistribution], Distribution]
) -> AnyDistribution:
    """Return the same wrappers around another leaf.

    Args:
        fn: Distribution in its wrappers.
        replace: Function from the leaf to the one in its place, of the same shapes.

    Counterpart: :func:`pyro_concrete.relaxation.wrappers.with_leaf`.
    """
    if not isinstance(fn, _WRAPPERS):
        return replace(fn)
    return _wrap_like(fn, with_leaf(fn.base_dist, replace))


def without_masks(fn: AnyDistribution) -> AnyDistribution:
    """Return a distribution without the masks among its wrappers.

    Counterpart: :func:`pyro_concrete.relaxation.wrappers.without_masks`.
    """
    if not isinstance(fn, _WRAPPERS):
        return fn
    base = without_masks(fn.base_dist)
    if isinstance(fn, _MASKED):
        return base
    return _wrap_like(fn, base)


def _wrap_like(wrapper: AnyDistribution, base: Distribution) -> Distribution:
    if isinstance(wrapper, Independent):
        return base.to_event(wrapper.reinterpreted_batch_ndims)
    if isinstance(wrapper, MaskedDistribution):
        return base.mask(wrapper_mask(wrapper))
    if isinstance(wrapper, SoftlyMasked):
        return SoftlyMasked(base, wrapper.share)
    return base.expand(wrapper.batch_shape)


def has_masks(fn: AnyDistribution) -> bool:
    """Tell whether there is a mask among the wrappers of a distribution.

    Counterpart: :func:`pyro_concrete.relaxation.wrappers.has_masks`.
    """
    return any(isinstance(wrapper, _MASKED) for wrapper in wrappers_of(fn))


def element_mask(fn: AnyDistribution) -> Mask:
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

    Counterpart: :func:`pyro_concrete.relaxation.wrappers.element_mask`.
    """
    mask: Mask = True
    for wrapper in wrappers_of(fn):
        if isinstance(wrapper, MaskedDistribution):
            mask = _both_masks(mask, wrapper_mask(wrapper))
        elif isinstance(wrapper, SoftlyMasked):
            mask = _both_masks(mask, wrapper.share)
        elif isinstance(wrapper, Independent) and not isinstance(mask, bool):
            mask = _with_last_axes(mask, wrapper.reinterpreted_batch_ndims)
    return mask


def _both_masks(first: Mask, second: Mask) -> Mask:
    """The elements of both masks, where soft masks are probabilities."""
    if first is False or second is False:
        return False
    if first is True:
        return second
    if second is True:
        return first
    return jnp.asarray(first) * jnp.asarray(second)


def align_with_leaf(fn: AnyDistribution, parameter: Any) -> Any:
    """Return a parameter of the batch shape of a distribution, shaped for its leaf.

    `to_event` makes event axes of the last batch axes of the leaf. The parameter has to
    broadcast along them.

    Args:
        fn: Distribution in its wrappers.
        parameter: Scalar, or broadcastable to the batch shape of `fn`.

    Counterpart: :func:`pyro_concrete.relaxation.wrappers.align_with_leaf`.
    """
    if not jnp.ndim(parameter):
        return parameter
    for wrapper in wrappers_of(fn):
        if isinstance(wrapper, Independent):
            count = wrapper.reinterpreted_batch_ndims
            parameter = _with_last_axes(jnp.asarray(parameter), count)
    return parameter


def _with_last_axes(x: Array, count: int) -> Array:
    return x.reshape(x.shape + (1,) * count)
