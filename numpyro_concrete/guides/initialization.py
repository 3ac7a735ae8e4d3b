"""Where the parameters of a guide start: logits, and the values of the prototype.

By the Gumbel-max trick, the largest component of a Concrete sample with logits a is k
with probability softmax(a)_k at every temperature. So logits start at log-probabilities
of the classes: the model's own, those of a soft sample, or given ones.

Counterpart: ``pyro_concrete.guides.initialization``.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
from jax import Array
from jax.nn import log_softmax
from jax.typing import ArrayLike
from numpyro.distributions.util import periodic_repeat

from numpyro_concrete.distributions import AbstractHard
from numpyro_concrete.guides.sites import Message, RelaxedSite, is_relaxed
from numpyro_concrete.relaxation.wrappers import leaf_of

InitLogits = str | Mapping[str, ArrayLike | Sequence]


def initial_value(
    site: Message | None = None, *, init_loc_fn: Callable, includes_relaxed: bool
) -> Array | Callable | None:
    """Return the value of a latent site in the prototype trace.

    Args:
        site: The site; without one the function itself, as NumPyro's initialization
            functions return it.
        init_loc_fn: Initialization of continuous sites, which the user has given.
        includes_relaxed: Whether it is that of relaxed sites, too.
    """
    if site is None:
        # NumPyro reads attributes of a partial.
        return functools.partial(
            initial_value, init_loc_fn=init_loc_fn, includes_relaxed=includes_relaxed
        )
    if not includes_relaxed and is_relaxed(site):
        return central_point(site)
    return init_loc_fn(site)


def initial_logits(
    site: RelaxedSite, init_logits: InitLogits, full_sizes: Mapping[str, int]
) -> Array:
    """Return the logits at which the factor of a site starts.

    Shapes:
        result: batch and event shape of the site, in plates of their full size.

    Args:
        site: The site.
        init_logits: Setting of the guide.
        full_sizes: Full sizes of plates, by name.

    Raises:
        ValueError: If logits are given for the site that do not fit its shape.

    Counterpart: :func:`pyro_concrete.guides.initialization.initial_logits`.
    """
    logits = prior_logits(site)
    if init_logits == "init_loc_fn":
        validate_soft_samples(site)
        # A soft sample in log space is itself a vector of log-probabilities.
        logits = site.point
    shape = list(site.fn.batch_shape + site.fn.event_shape)
    logits = jnp.broadcast_to(logits, shape)
    for frame in site.plates:
        axis = frame.dim - site.fn.event_dim
        shape[axis] = full_sizes[frame.name]
        logits = periodic_repeat(logits, shape[axis], axis)
    if not isinstance(init_logits, Mapping) or site.name not in init_logits:
        return logits
    user_logits = jnp.asarray(init_logits[site.name], logits.dtype)
    try:
        return jnp.broadcast_to(user_logits, shape)
    except ValueError:
        raise ValueError(
            f"init_logits of site {site.name!r} have shape {user_logits.shape}, and "
            f"the site needs {tuple(shape)}"
        ) from None


def prior_logits(site: RelaxedSite) -> Array:
    """Return the logits of a site in the model, normalized to log-probabilities.

    Shapes:
        result: batch shape of the leaf, and the classes; without them at two-valued
            sites, where the logit is log p - log(1 - p) already.

    Counterpart: :func:`pyro_concrete.guides.initialization.prior_logits`.
    """
    if site.is_binary:
        return site.leaf.logits
    return log_softmax(site.leaf.logits)


def central_point(message: Message) -> Array:
    """Return the point of a relaxed site at the class probabilities of the prior.

    Shapes:
        result: batch and event shape of the site.

    Counterpart: :func:`pyro_concrete.guides.initialization.central_point`.
    """
    fn = message["fn"]
    return jnp.broadcast_to(leaf_of(fn).center, fn.batch_shape + fn.event_shape)


def validate_soft_samples(site: RelaxedSite) -> None:
    """Raise an error at a relaxed site whose samples are one-hot, not soft.

    Raises:
        ValueError: If they are: no logits can be read from them.
    """
    if isinstance(site.leaf, AbstractHard):
        raise ValueError(
            f"init_logits='init_loc_fn' needs soft samples, and {site.leaf.estimator} "
            f"draws discrete ones at site {site.name!r}. Give init_logits='prior' or a "
            "mapping from names of sites to logits"
        )
