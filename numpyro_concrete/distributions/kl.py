"""Exact KL divergences of two Concretes, for the backend's ELBOs.

Counterpart: ``pyro_concrete.distributions.kl``.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import log_softmax
from numpyro.distributions.kl import kl_divergence
from numpyro.util import not_jax_tracer

from concrete_core.parameter_errors import temperature_ratio_error
from numpyro_concrete import ops
from numpyro_concrete.distributions.abstract import AbstractConcrete
from numpyro_concrete.distributions.binary import BinaryConcrete, LogitBinaryConcrete
from numpyro_concrete.distributions.categorical import Concrete, ExpConcrete
from numpyro_concrete.distributions.one_hot import OneHotCategorical


def _has_unsupported_ratio(p: AbstractConcrete, q: AbstractConcrete) -> bool:
    """Tell whether the temperatures are known to be too far apart for an exact KL."""
    if not (not_jax_tracer(p.temperature) and not_jax_tracer(q.temperature)):
        return False  # values cannot be read; the KL is NaN there
    ratio = np.asarray(q.temperature) / np.asarray(p.temperature)
    return bool(np.any(np.maximum(ratio, 1 / ratio) > ops.MAX_RATIO * (1 + 1e-6)))


@kl_divergence.register(ExpConcrete, ExpConcrete)
@kl_divergence.register(Concrete, Concrete)
@kl_divergence.register(LogitBinaryConcrete, LogitBinaryConcrete)
@kl_divergence.register(BinaryConcrete, BinaryConcrete)
def _kl_concrete(p: AbstractConcrete, q: AbstractConcrete) -> Array:
    if _has_unsupported_ratio(p, q):
        raise temperature_ratio_error(ops.MAX_RATIO)
    exact_kl = ops.exp_concrete_kl if p._class_dims else ops.logit_binary_concrete_kl
    # Two equal numbers, or one traced value used twice, are equal also to the gradient.
    kl = exact_kl(p.logits, q.logits, p.temperature, q.temperature)
    return jnp.broadcast_to(kl, jnp.broadcast_shapes(p.batch_shape, q.batch_shape))


@kl_divergence.register(OneHotCategorical, OneHotCategorical)
def _kl_one_hot(p: OneHotCategorical, q: OneHotCategorical) -> Array:
    return (p.probs * (log_softmax(p.logits) - log_softmax(q.logits))).sum(-1)
