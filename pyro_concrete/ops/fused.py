"""A draw with its own log-density, and a log-density: each one autograd function.

Each keeps one array, and has no more passes than it needs. For numbers as temperatures
and plain autograd: the functions of `ops.categorical` and `ops.binary` choose.

Counterpart: none; XLA fuses by itself.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from pyro_concrete.ops.noise import exponential_, positive_uniform_
from pyro_concrete.ops.normalized import log_softmax_, short_sum

# The value takes the place of the uniforms, which autograd must not see as an input: it
# would take the value for a view of them.
Hidden = tuple[Tensor]

# In the older style of such functions, whose call costs a third of the newer one's.


class _ExpConcreteDraw(Function):
    """Logits, uniforms, temperature, constant: the point y, and its log-density."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, uniform: Hidden, temperature: float, constant: float
    ) -> tuple[Tensor, Tensor]:
        exponentials = exponential_(*uniform)
        total = short_sum(exponentials).log_()
        logs = exponentials.log_()  # Gumbels, of the other sign
        density = torch.sub(short_sum(logs), total, alpha=logs.shape[-1])
        scores = torch.sub(logits, logs, out=logs).div_(temperature)
        value = log_softmax_(scores)
        ctx.temperature = temperature
        ctx.save_for_backward(value)
        ctx.save_for_forward(value)
        return value, density.squeeze(-1).add_(constant)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Any:
        # The density has no gradient of its own: the logits cancel.
        (value,) = ctx.saved_tensors
        weights, shares = value.exp(), short_sum(grad).div(-ctx.temperature)
        if torch.is_grad_enabled():  # the gradient has one as well
            weights = weights * shares
        else:
            weights.mul_(shares)
        return weights.add_(grad, alpha=1 / ctx.temperature), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        (value,) = ctx.saved_tensors
        moved = (tangent - short_sum(value.exp() * tangent)) / ctx.temperature
        return moved, moved.new_zeros(moved.shape[:-1])


class _LogitBinaryConcreteDraw(Function):
    """Log-odds, uniforms, temperature, constant: the point y, and its log-density."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, uniform: Hidden, temperature: float, constant: float
    ) -> tuple[Tensor, Tensor]:
        logs = positive_uniform_(*uniform)
        log_rest = logs.neg().log1p_()
        logs.log_()
        density = torch.add(logs, log_rest).add_(constant)
        noise = torch.sub(logs, log_rest, out=logs)
        ctx.temperature = temperature
        ctx.shape = noise.shape
        return torch.add(logits, noise, out=noise).div_(temperature), density

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Any:
        return grad / ctx.temperature, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        moved = (tangent / ctx.temperature).expand(ctx.shape)
        return moved, torch.zeros_like(moved)


class _ExpConcreteLogDensity(Function):
    """Logits, value, temperature, constant: constant + sum log_softmax(a - t y)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, value: Tensor, temperature: float, constant: float
    ) -> Tensor:
        scores = torch.add(logits, value, alpha=-temperature)
        scores.sub_(scores.amax(-1, keepdim=True))
        density = short_sum(scores)
        weights = scores.exp_()
        total = short_sum(weights)
        density.sub_(total.log(), alpha=weights.shape[-1])
        ctx.temperature = temperature
        ctx.save_for_backward(logits, value, weights, total)
        ctx.save_for_forward(weights, total)
        return density.squeeze(-1).add_(constant)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        logits, value, weights, total = ctx.saved_tensors
        grad, t, n = grad.unsqueeze(-1), ctx.temperature, weights.shape[-1]
        if torch.is_grad_enabled():  # the gradient has one as well
            probs = torch.softmax(logits - t * value, -1)
            slope = grad * (1 - n * probs)
            return slope, -t * slope, None, None
        slope = weights.mul(grad * (-n / total)).add_(grad)
        of_logits, of_value = ctx.needs_input_grad[:2]
        if not of_logits:
            return None, slope.mul_(-t), None, None
        return slope, slope.mul(-t) if of_value else None, None, None

    @staticmethod
    def jvp(ctx: Any, of_logits: Any, of_value: Any, *_: Any) -> Tensor:
        weights, total = ctx.saved_tensors
        moved = -ctx.temperature * of_value + of_logits
        shares = short_sum(weights * moved) * (weights.shape[-1] / total)
        return (short_sum(moved) - shares).squeeze(-1)


draw_exp_concrete = _ExpConcreteDraw.apply
draw_logit_binary_concrete = _LogitBinaryConcreteDraw.apply
score_exp_concrete = _ExpConcreteLogDensity.apply
