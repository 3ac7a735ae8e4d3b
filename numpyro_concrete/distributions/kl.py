"""Exact KL divergences of two Concretes of equal temperature, for the host's ELBOs.

Twin: ``pyro_concrete.distributions.kl``.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import log_softmax
from numpyro.distributions.kl import kl_divergence
from numpyro.util import not_jax_tracer

from numpyro_concrete import ops
from numpyro_concrete.distributions.abstract import AbstractConcrete
from numpyro_concrete.distributions.binary import BinaryConcrete, LogitBinaryConcrete
from numpyro_concrete.distributions.categorical import Concrete, ExpConcrete
from numpyro_concrete.distributions.one_hot import OneHotCategorical


def _same_temperature(p: AbstractConcrete, q: AbstractConcrete) -> bool:
    """Whether p and q surely have one temperature, also in the eyes of the gradient."""
    if p.temperature is q.temperature:
        return True
    # Two temperatures that are traced apart differ, whatever their values.
    known = not_jax_tracer(p.temperature) and not_jax_tracer(q.temperature)
    return known and bool(np.all(np.equal(p.temperature, q.temperature)))


@kl_divergence.register(ExpConcrete, ExpConcrete)
@kl_divergence.register(Concrete, Concrete)
@kl_divergence.register(LogitBinaryConcrete, LogitBinaryConcrete)
@kl_divergence.register(BinaryConcrete, BinaryConcrete)
def _kl_concrete(p: AbstractConcrete, q: AbstractConcrete) -> Array:
    if not _same_temperature(p, q):
        # NumPyro's ELBOs catch this and score a sample instead.
        raise NotImplementedError("no closed KL of Concretes of unequal temperatures")
    closed = ops.exp_concrete_kl if p._class_dims else ops.logit_binary_concrete_kl
    shape = jnp.broadcast_shapes(p.batch_shape, q.batch_shape)
    return jnp.broadcast_to(closed(p.logits, q.logits), shape)


@kl_divergence.register(OneHotCategorical, OneHotCategorical)
def _kl_one_hot(p: OneHotCategorical, q: OneHotCategorical) -> Array:
    return (p.probs * (log_softmax(p.logits) - log_softmax(q.logits))).sum(-1)
