"""Exact KL divergences of two Concretes, for the host's ELBOs.

Counterpart: ``numpyro_concrete.distributions.kl``.
"""

import torch
from torch import Tensor
from torch.distributions import register_kl

from pyro_concrete import ops
from pyro_concrete.distributions.abstract import AbstractConcrete
from pyro_concrete.distributions.binary import BinaryConcrete, LogitBinaryConcrete
from pyro_concrete.distributions.categorical import Concrete, ExpConcrete


def _out_of_reach(p: AbstractConcrete, q: AbstractConcrete) -> bool:
    """Whether the temperatures are known to differ by more than the ops take."""
    if p._root is q._root or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    ratio = torch.as_tensor(q._root / p._root)
    ratio = torch.maximum(ratio, 1 / ratio)
    try:
        return bool((ratio > ops.MAX_RATIO * (1 + 1e-6)).any())
    except RuntimeError:  # under vmap there is no value to see; the KL is NaN there
        return False


@register_kl(ExpConcrete, ExpConcrete)
@register_kl(Concrete, Concrete)
@register_kl(LogitBinaryConcrete, LogitBinaryConcrete)
@register_kl(BinaryConcrete, BinaryConcrete)
def _kl_concrete(p: AbstractConcrete, q: AbstractConcrete) -> Tensor:
    if _out_of_reach(p, q):
        # Pyro's ELBOs catch this and score a sample instead.
        raise NotImplementedError(
            "the KL of two Concretes is exact where no temperature is more than "
            f"{ops.MAX_RATIO} times the other"
        )
    exact = ops.exp_concrete_kl if p._class_dims else ops.logit_binary_concrete_kl
    shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    # The temperatures as they were given: two equal numbers, or one tensor, are equal
    # also in the eyes of the gradient, and a tensor is not yet as large as the batch.
    return exact(p.logits, q.logits, p._root, q._root).expand(shape)
