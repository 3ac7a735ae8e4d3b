"""Draws of discrete sites that are faster than those of torch on a CPU.

Torch draws a binary site by a scalar generator for each element, and a categorical
site with an exponential variate per class. In an evaluation, which has no backward
pass, half of the time may go there. Here a vectorized uniform variate per site is
compared with its cumulative probabilities.

Counterpart: ``numpyro_concrete``, whose draws XLA compiles.
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from concrete_core.types import Distribution, Message
from pyro_concrete.internals import stored_probs

# Above this number of classes the rounding of cumulative sums would matter.
_MAX_CLASSES = 32


class DiscreteDraws(Messenger):
    """Draws latent Bernoulli and categorical sites on the CPU from uniform variates.

    Sites of other families, of subclasses and on other devices are drawn as ever. It
    goes around all plates, which change the shapes of sites.
    """

    def _pyro_sample(self, msg: Message) -> None:
        if msg["value"] is not None or msg["is_observed"] or msg["args"]:
            return
        msg["value"] = draw(msg["fn"])


def draw(fn: Distribution) -> Tensor | None:
    """Draw a value of a distribution, or None if it is not one of those drawn here.

    Args:
        fn: Distribution of a site.
    """
    while type(fn) is dist.Independent:
        fn = fn.base_dist
    if type(fn) is dist.Bernoulli:
        return _draw_bernoulli(fn)
    if type(fn) is dist.OneHotCategorical:
        return _draw_one_hot(fn)
    if type(fn) is dist.Categorical:
        one_hot = _draw_one_hot(fn)
        return None if one_hot is None else one_hot.argmax(-1)
    return None


def _draw_bernoulli(fn: dist.Bernoulli) -> Tensor | None:
    probs = stored_probs(fn)
    if probs is None:
        probs = _without_copies(fn.logits).sigmoid()
    if probs.device.type != "cpu":
        return None
    uniform = torch.rand(fn.batch_shape, dtype=probs.dtype)
    return (uniform < probs).to(probs.dtype)


def _draw_one_hot(fn: dist.OneHotCategorical | dist.Categorical) -> Tensor | None:
    """Draw by inversion of the cumulative weights of the classes.

    A class of weight zero is never drawn: the uniform threshold t satisfies
    0 <= t < total, also after rounding, and class k is drawn where
    cumulative[k - 1] <= t < cumulative[k].
    """
    weights = stored_probs(fn)
    if weights is None:
        logits = _without_copies(fn.logits)
        weights = (logits - logits.amax(-1, keepdim=True)).exp()
    if weights.device.type != "cpu" or weights.shape[-1] > _MAX_CLASSES:
        return None
    cumulative = weights.cumsum(-1)
    total = cumulative[..., -1:]
    uniform = torch.rand((*fn.batch_shape, 1), dtype=weights.dtype)
    largest = torch.nextafter(total, torch.zeros_like(total))
    threshold = torch.minimum(uniform * total, largest)
    is_above = (threshold < cumulative).to(weights.dtype)
    # From zeros and then ones: the first of the ones.
    return torch.cat([is_above[..., :1], is_above.diff(dim=-1)], -1)


def _without_copies(parameter: Any) -> Tensor:
    """Return a parameter with size 1 along dims that plates have expanded.

    Functions of it are then computed once, and broadcast.
    """
    for dim, (size, stride) in enumerate(
        zip(parameter.shape, parameter.stride(), strict=True)
    ):
        if stride == 0 and size > 1 and dim < parameter.ndim - 1:
            parameter = parameter.narrow(dim, 0, 1)
    return parameter
