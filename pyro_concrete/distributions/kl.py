"""Exact KL divergences of two Concretes of equal temperature, for the host's ELBOs.

Twin: ``numpyro_concrete.distributions.kl``.
"""

import torch
from torch import Tensor
from torch.distributions import register_kl

from pyro_concrete import ops
from pyro_concrete.distributions.abstract import AbstractConcrete
from pyro_concrete.distributions.binary import BinaryConcrete, LogitBinaryConcrete
from pyro_concrete.distributions.categorical import Concrete, ExpConcrete


def _same_temperature(p: AbstractConcrete, q: AbstractConcrete) -> bool:
    """Whether p and q surely have one temperature, also in the eyes of the gradient."""
    if p._root is q._root:
        return True
    # Two temperatures that are learned apart differ, whatever their values of today.
    if p._root.requires_grad or q._root.requires_grad:
        return False
    return torch.equal(*torch.broadcast_tensors(p._root, q._root))


@register_kl(ExpConcrete, ExpConcrete)
@register_kl(Concrete, Concrete)
@register_kl(LogitBinaryConcrete, LogitBinaryConcrete)
@register_kl(BinaryConcrete, BinaryConcrete)
def _kl_concrete(p: AbstractConcrete, q: AbstractConcrete) -> Tensor:
    if not _same_temperature(p, q):
        # Pyro's ELBOs catch this and score a sample instead.
        raise NotImplementedError("no closed KL of Concretes of unequal temperatures")
    closed = ops.exp_concrete_kl if p._class_dims else ops.logit_binary_concrete_kl
    shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    return closed(p.logits, q.logits).expand(shape)
