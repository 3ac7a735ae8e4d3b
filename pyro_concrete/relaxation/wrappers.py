"""Distributions inside of `to_event`, `expand` and `mask`.

The distribution of a site is seldom bare: ``Bernoulli(p).to_event(1).mask(seen)`` is
the leaf ``Bernoulli(p)`` in two wrappers. `relax` replaces the leaf, and keeps the
wrappers with the shapes and masks that they give to the site.

Counterpart: ``numpyro_concrete.relaxation.wrappers``.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from pyro.distributions.torch_distribution import (
    ExpandedDistribution,
    MaskedDistribution,
)
from torch import Tensor
from torch.distributions import Independent

from pyro_concrete.internals import wrapper_mask
from pyro_concrete.relaxation.messages import AnyDistribution
from pyro_concrete.soft_index.parameters import masked

# A mask of the elements of a leaf: a bool for all of them, or a tensor.
Mask = Tensor | bool

_WRAPPERS = Independent | MaskedDistribution | ExpandedDistribution


@functools.cache
def _is_wrapper_class(family: type) -> bool:
    # By the class, which can be cached: every handler asks this at every site.
    return issubclass(family, _WRAPPERS)


def wrappers_of(fn: AnyDistribution) -> Iterator[AnyDistribution]:
    """Yield a distribution and those inside of it that are wrappers, outermost first.

    Example:
        >>> import torch
        >>> from pyro.distributions import Bernoulli
        >>> fn = Bernoulli(torch.ones(2) / 2).to_event(1).mask(True)
        >>> [type(wrapper).__name__ for wrapper in wrappers_of(fn)]
        ['MaskedDistribution', 'Independent']

    Counterpart: :func:`numpyro_concrete.relaxation.wrappers.wrappers_of`.
    """
    while _is_wrapper_class(type(fn)):
        yield fn
        fn = fn.base_dist


def leaf_of(fn: AnyDistribution) -> AnyDistribution:
    """Return the distribution inside of to_event, expand and mask.

    Counterpart: :func:`numpyro_concrete.relaxation.wrappers.leaf_of`.
    """
    while _is_wrapper_class(type(fn)):
        fn = fn.base_dist
    return fn


def with_leaf(
    fn: AnyDistribution, replace: Callable[[AnyDistribution], AnyDistribution]
) -> AnyDistribution:
    """Return the same wrappers around another leaf.

    Args:
        fn: Distribution in its wrappers.
        replace: Function from the leaf to the one in its place, of the same shapes.

    Counterpart: :func:`numpyro_concrete.relaxation.wrappers.with_leaf`.
    """
    if not _is_wrapper_class(type(fn)):
        return replace(fn)
    return _wrap_like(fn, with_leaf(fn.base_dist, replace))


def without_masks(fn: AnyDistribution) -> AnyDistribution:
    """Return a distribution without the masks among its wrappers.

    Counterpart: :func:`numpyro_concrete.relaxation.wrappers.without_masks`.
    """
    if not _is_wrapper_class(type(fn)):
        return fn
    base = without_masks(fn.base_dist)
    if isinstance(fn, MaskedDistribution):
        return base
    return _wrap_like(fn, base)


def _wrap_like(wrapper: AnyDistribution, base: AnyDistribution) -> AnyDistribution:
    if isinstance(wrapper, Independent):
        return base.to_event(wrapper.reinterpreted_batch_ndims)
    if isinstance(wrapper, MaskedDistribution):
        return masked(base, wrapper_mask(wrapper))
    return base.expand(wrapper.batch_shape)


def has_masks(fn: AnyDistribution) -> bool:
    """Tell whether there is a mask among the wrappers of a distribution.

    Counterpart: :func:`numpyro_concrete.relaxation.wrappers.has_masks`.
    """
    return any(isinstance(wrapper, MaskedDistribution) for wrapper in wrappers_of(fn))


def element_mask(fn: AnyDistribution, outer_mask: Mask | None = None) -> Mask:
    """Return the mask of the elements of a leaf; True if nothing is masked.

    Shapes:
        result: broadcastable to the batch shape of the leaf, if it is a tensor.

    Args:
        fn: Distribution in its wrappers.
        outer_mask: Mask around all of them, as of a handler; None for no mask.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> fn = dist.Bernoulli(torch.full((2, 3), 0.5)).to_event(1)
        >>> element_mask(fn, outer_mask=torch.tensor([True, False]))
        tensor([[ True],
                [False]])

    Counterpart: :func:`numpyro_concrete.relaxation.wrappers.element_mask`.
    """
    mask = True if outer_mask is None else outer_mask
    for wrapper in wrappers_of(fn):
        if isinstance(wrapper, MaskedDistribution):
            mask = wrapper_mask(wrapper) & mask
        elif isinstance(wrapper, Independent) and isinstance(mask, Tensor):
            mask = _with_last_dims(mask, wrapper.reinterpreted_batch_ndims)
    return mask


def align_with_leaf(fn: AnyDistribution, parameter: Any) -> Any:
    """Return a parameter of the batch shape of a distribution, shaped for its leaf.

    `to_event` makes event dimensions of the last batch dimensions of the leaf. The
    parameter has to broadcast along them.

    Args:
        fn: Distribution in its wrappers.
        parameter: Scalar, or broadcastable to the batch shape of `fn`.

    Counterpart: :func:`numpyro_concrete.relaxation.wrappers.align_with_leaf`.
    """
    if not isinstance(parameter, Tensor) or not parameter.dim():
        return parameter
    for wrapper in wrappers_of(fn):
        if isinstance(wrapper, Independent):
            count = wrapper.reinterpreted_batch_ndims
            parameter = _with_last_dims(parameter, count)
    return parameter


def _with_last_dims(x: Tensor, count: int) -> Tensor:
    return x.reshape(x.shape + (1,) * count)
