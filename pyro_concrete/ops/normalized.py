"""Normalized exponentials in log space: log-softmax in few passes.

On a CPU, torch's own functions take rows of few classes element by element.

Counterpart: none; XLA compiles a fast one for each shape.
"""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax as host_log_softmax

from pyro_concrete.ops.precision import is_traced

# Rows that torch's own takes element by element, and those that a sum does.
_FEW, _VERY_FEW = 16, 4
MANY = 2**13  # elements, from which on a function of our own is worth its call


def log_softmax(scores: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch k"]:
    """Return the logs of normalized exponentials, over the last dim.

    Args:
        scores: Unnormalised log-probabilities.

    Example:
        >>> log_softmax(torch.zeros(2)).exp()
        tensor([0.5000, 0.5000])
    """
    # A compiler fuses the host's functions by itself.
    if is_traced() or not _is_slow(scores):
        return host_log_softmax(scores, -1)
    return _LogSoftmax.apply(scores)


def log_softmax_(scores: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch k"]:
    """The same without a graph, and in place where that is faster.

    Args:
        scores: Unnormalised log-probabilities, overwritten or not.

    Example:
        >>> log_softmax_(torch.zeros(2)).exp()
        tensor([0.5000, 0.5000])
    """
    if not _is_slow(scores):
        return host_log_softmax(scores, -1)
    scores.sub_(scores.amax(-1, keepdim=True))
    return scores.sub_(short_sum(scores.exp()).log_())


def _is_slow(scores: Tensor) -> bool:
    """Whether the host's own takes long."""
    few = scores.shape[-1] < _FEW and scores.numel() > MANY
    return few and scores.device.type == "cpu"


def _shifted(scores: Tensor) -> Tensor:
    return scores - scores.detach().amax(-1, keepdim=True)


def short_sum(x: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch 1"]:
    """Return the sum over the last dim, which is kept; fast where it is short.

    Args:
        x: Any numbers.

    Example:
        >>> short_sum(torch.ones(3))
        tensor([3.])
    """
    if x.shape[-1] <= _VERY_FEW and x.numel() > MANY:
        return functools.reduce(torch.add, x.split(1, -1))
    return x.sum(-1, keepdim=True)


class _LogSoftmax(torch.autograd.Function):
    """The logs of normalized exponentials, by functions that run along all elements."""

    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor) -> Tensor:
        shifted = _shifted(scores)
        return shifted - short_sum(shifted.exp()).log()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return grad - output.exp() * short_sum(grad)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return tangent - short_sum(output.exp() * tangent)
