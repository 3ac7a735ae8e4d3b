"""Normalized exponentials in log space: log-softmax and its sum, in few passes.

On a CPU, torch's own functions take rows of few classes element by element.

Twin: none; XLA compiles a fast one for each shape.
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
_MANY = 2**13  # elements, from which on a function of our own is worth its call


def log_softmax(scores: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch k"]:
    """Return the logs of normalized exponentials, over the last dim.

    Args:
        scores: Unnormalised log-probabilities.

    Example:
        >>> log_softmax(torch.zeros(2)).exp()
        tensor([0.5000, 0.5000])
    """
    few = scores.shape[-1] < _FEW and scores.numel() > _MANY
    # A compiler fuses the host's functions by itself.
    if not few or scores.device.type != "cpu" or is_traced():
        return host_log_softmax(scores, -1)
    return _LogSoftmax.apply(scores)


def sum_log_softmax(scores: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Return the sums of the logs of normalized exponentials, over the last dim.

    It is sum(s) - n LSE(s), without a loss of digits where the scores have an offset.

    Args:
        scores: Unnormalised log-probabilities.

    Example:
        >>> sum_log_softmax(torch.zeros(2)).exp()
        tensor(0.2500)
    """
    if scores.numel() <= _MANY or scores.device.type != "cpu" or is_traced():
        return host_log_softmax(scores, -1).sum(-1)
    return _SumLogSoftmax.apply(scores)


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
    if x.shape[-1] <= _VERY_FEW:
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


class _SumLogSoftmax(torch.autograd.Function):
    """The sum, which keeps nothing but the scores."""

    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor) -> Tensor:
        shifted = _shifted(scores)
        total = short_sum(shifted)
        logs = short_sum(shifted.exp_()).log()
        return (total - scores.shape[-1] * logs).squeeze(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def slope(ctx: Any) -> Tensor:
        (scores,) = ctx.saved_tensors
        weights = _shifted(scores).exp()
        shares = -scores.shape[-1] / short_sum(weights)
        if torch.is_grad_enabled():  # the slope has a gradient as well
            return 1 + weights * shares
        return weights.mul_(shares).add_(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.unsqueeze(-1) * _SumLogSoftmax.slope(ctx)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return (tangent * _SumLogSoftmax.slope(ctx)).sum(-1)
