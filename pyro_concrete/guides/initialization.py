"""Where the parameters of a guide start: logits, and the values of the prototype.

By the Gumbel-max trick, the largest component of a Concrete sample with logits a is k
with probability softmax(a)_k at every temperature. So logits start at log-probabilities
of the classes: the model's own, those of a soft sample, or given ones.

Counterpart: ``numpyro_concrete.guides.initialization``.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pyro.ops.tensor_utils import periodic_repeat
from torch import Tensor

from pyro_concrete.distributions import AbstractHard
from pyro_concrete.guides.sites import (
    Message,
    RelaxedSite,
    is_subsampled,
    plate_dim,
)
from pyro_concrete.relaxation.wrappers import leaf_of

TensorLike = Tensor | np.ndarray | Sequence | float
InitLogits = str | Mapping[str, TensorLike]


def initial_logits(site: RelaxedSite, init_logits: InitLogits) -> Tensor:
    """Return the logits at which the factor of a site starts.

    Shapes:
        result: batch and event shape of the site, in plates of their full size.

    Args:
        site: The site.
        init_logits: Setting of the guide.

    Raises:
        ValueError: If logits are given for the site that do not fit its shape.

    Counterpart: :func:`numpyro_concrete.guides.initialization.initial_logits`.
    """
    if isinstance(init_logits, Mapping) and site.name in init_logits:
        return _fit_logits(site, init_logits[site.name])
    logits = prior_logits(site)
    if init_logits == "init_loc_fn":
        # A soft sample in log space is itself a vector of log-probabilities.
        logits = site.point
    logits = logits.expand(site.fn.batch_shape + site.fn.event_shape)
    for frame in site.plates:
        if is_subsampled(frame):
            dim = plate_dim(frame, site.fn.event_dim)
            logits = periodic_repeat(logits, frame.full_size, dim)
    return logits.detach().clone().contiguous()


def prior_logits(site: RelaxedSite) -> Tensor:
    """Return the logits of a site in the model, normalized to log-probabilities.

    Shapes:
        result: batch shape of the leaf, and the classes; without them at two-valued
            sites, where the logit is log p - log(1 - p) already.

    Counterpart: :func:`numpyro_concrete.guides.initialization.prior_logits`.
    """
    if site.is_binary:
        return site.leaf.logits
    return site.leaf.logits.log_softmax(-1)


def central_point(message: Message) -> Tensor:
    """Return the point of a relaxed site at the class probabilities of the prior.

    Shapes:
        result: batch and event shape of the site.

    Counterpart: :func:`numpyro_concrete.guides.initialization.central_point`.
    """
    fn = message["fn"]
    return leaf_of(fn).center.detach().expand(fn.batch_shape + fn.event_shape)


def validate_soft_samples(message: Message) -> None:
    """Raise an error at a relaxed site whose samples are one-hot, not soft.

    Raises:
        ValueError: If they are: no logits can be read from them.
    """
    leaf = leaf_of(message["fn"])
    if isinstance(leaf, AbstractHard):
        raise ValueError(
            f"init_logits='init_loc_fn' needs soft samples, and {leaf.estimator} draws "
            f"discrete ones at site {message['name']!r}. Give init_logits='prior' or a "
            "mapping from names of sites to logits"
        )


def _fit_logits(site: RelaxedSite, logits: TensorLike) -> Tensor:
    """Given logits, of the full size of the plates of their site."""
    shape = list(site.fn.batch_shape + site.fn.event_shape)
    for frame in site.plates:
        dim = plate_dim(frame, site.fn.event_dim)
        shape[dim] = frame.full_size or frame.size
    logits = torch.as_tensor(logits).to(site.leaf.logits)
    try:
        return logits.expand(shape).detach().clone()
    except RuntimeError:
        raise ValueError(
            f"init_logits of site {site.name!r} have shape {tuple(logits.shape)}, and "
            f"the site needs {tuple(shape)}"
        ) from None
