"""Exact KL divergences of two Concretes, for the backend's ELBOs.

Counterpart: ``numpyro_concrete.distributions.kl``.
"""

import torch
from torch import Tensor
from torch.distributions import register_kl

from concrete_core.parameter_errors import temperature_ratio_error
from pyro_concrete import ops
from pyro_concrete.distributions.abstract import AbstractConcrete
from pyro_concrete.distributions.binary import BinaryConcrete, LogitBinaryConcrete
from pyro_concrete.distributions.categorical import Concrete, ExpConcrete


def _has_unsupported_ratio(p: AbstractConcrete, q: AbstractConcrete) -> bool:
    """Tell whether the temperatures are known to be too far apart for an exact KL."""
    if p._original_temperature is q._original_temperature:
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    ratio = torch.as_tensor(q._original_temperature / p._original_temperature)
    ratio = torch.maximum(ratio, 1 / ratio)
    try:
        return bool((ratio > ops.MAX_RATIO * (1 + 1e-6)).any())
    except RuntimeError:  # under vmap values cannot be read; the KL is NaN there
        return False


@register_kl(ExpConcrete, ExpConcrete)
@register_kl(Concrete, Concrete)
@register_kl(LogitBinaryConcrete, LogitBinaryConcrete)
@register_kl(BinaryConcrete, BinaryConcrete)
def _kl_concrete(p: AbstractConcrete, q: AbstractConcrete) -> Tensor:
    if _has_unsupported_ratio(p, q):
        raise temperature_ratio_error(ops.MAX_RATIO)
    exact_kl = ops.exp_concrete_kl if p._class_dims else ops.logit_binary_concrete_kl
    # The temperatures as they were given: two equal numbers, or one tensor used twice,
    # are equal also to the gradient, and a tensor is not yet as large as the batch.
    kl = exact_kl(p.logits, q.logits, p._original_temperature, q._original_temperature)
    return kl.expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))
