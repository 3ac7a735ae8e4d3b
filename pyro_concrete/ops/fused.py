"""A draw with its own log-density, and a log-density: each one autograd function.

Each keeps one array for its gradient, and passes over its arrays as few times as it
can. They take numbers as temperatures and work with plain autograd alone; the functions
of `ops.categorical` and `ops.binary` choose them where they apply.

They pay in `benchmarks/cost_of_term.py` on a CPU: composed of torch's own functions, a
term of 2 to 8 classes and 8192 sites or more takes 1.4 to 1.8 times as long.

Counterpart: none; XLA fuses by itself.
"""

import functools
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from pyro_concrete.ops.noise import exponential_, positive_uniform_

# On a CPU torch takes short rows element by element: those of a log-softmax below
# _SHORT_ROW classes, and those of a sum up to _VERY_SHORT_ROW. From MANY elements on,
# functions that run along all elements at once are faster.
_SHORT_ROW = 16
_VERY_SHORT_ROW = 4
MANY = 2**13

# What autograd gives a function to keep its attributes and tensors in.
Context: TypeAlias = Any
# The sample takes the place of the uniforms, which autograd must not see as an input,
# or it would take the sample for a view of them. A tuple hides them.
HiddenTensor: TypeAlias = tuple[Tensor]
Gradients: TypeAlias = tuple[Tensor | None, ...]


def sum_classes(x: Tensor) -> Tensor:
    """Return the sum over the last dim, which is kept; fast where it is short.

    Args:
        x: Any numbers.

    Example:
        >>> sum_classes(torch.ones(3))
        tensor([3.])
    """
    if x.shape[-1] <= _VERY_SHORT_ROW and x.numel() > MANY:
        return functools.reduce(torch.add, x.split(1, -1))
    return x.sum(-1, keepdim=True)


def log_softmax_(scores: Tensor) -> Tensor:
    """Return a log-softmax without a graph, in place where that is faster.

    Args:
        scores: Unnormalized log-probabilities, overwritten or not.

    Example:
        >>> log_softmax_(torch.zeros(2)).exp()
        tensor([0.5000, 0.5000])
    """
    is_short = scores.shape[-1] < _SHORT_ROW and scores.numel() > MANY
    if not is_short or scores.device.type != "cpu":
        return torch.log_softmax(scores, -1)
    scores.sub_(scores.amax(-1, keepdim=True))
    return scores.sub_(sum_classes(scores.exp()).log_())


# The functions are in the older style, with the context as an argument of `forward`: a
# call of the newer style, with `setup_context`, takes half as long again.


class _ExpConcreteDraw(Function):
    """Logits, uniforms, temperature, constant: the sample y, and its log-density.

    With unit exponentials E, log kappa(y) = constant + sum log E - n log sum E.
    """

    @staticmethod
    def forward(
        ctx: Context,
        logits: Tensor,
        uniform: HiddenTensor,
        temperature: float,
        constant: float,
    ) -> tuple[Tensor, Tensor]:
        exponentials = exponential_(*uniform)
        log_sum = sum_classes(exponentials).log_()
        log_exponentials = exponentials.log_()  # minus Gumbels
        num_classes = log_exponentials.shape[-1]
        density = torch.sub(sum_classes(log_exponentials), log_sum, alpha=num_classes)
        scores = torch.sub(logits, log_exponentials, out=log_exponentials)
        value = log_softmax_(scores.div_(temperature))
        ctx.temperature = temperature
        ctx.save_for_backward(value)
        ctx.save_for_forward(value)
        return value, density.squeeze(-1).add_(constant)

    @staticmethod
    def backward(ctx: Context, grad: Tensor, *_: Tensor) -> Gradients:
        # That of a log-softmax: (grad - softmax sum(grad)) / t. The density has no
        # gradient of its own, as the logits cancel.
        (value,) = ctx.saved_tensors
        probs = value.exp()
        factor = sum_classes(grad).div(-ctx.temperature)
        if torch.is_grad_enabled():  # for a second derivative, which needs a graph
            slope = (probs * factor).add_(grad, alpha=1 / ctx.temperature)
            return slope, None, None, None
        slope = probs.mul_(factor).add_(grad, alpha=1 / ctx.temperature)
        return slope, None, None, None

    @staticmethod
    def jvp(ctx: Context, tangent: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        (value,) = ctx.saved_tensors
        mean = sum_classes(value.exp() * tangent)
        value_tangent = (tangent - mean) / ctx.temperature
        return value_tangent, value_tangent.new_zeros(value_tangent.shape[:-1])


class _LogitBinaryConcreteDraw(Function):
    """Log-odds, uniforms, temperature, constant: the sample y, and its log-density.

    With the logistic L = log u - log(1 - u), log g(y) = constant + log u + log(1 - u).
    """

    @staticmethod
    def forward(
        ctx: Context,
        logits: Tensor,
        uniform: HiddenTensor,
        temperature: float,
        constant: float,
    ) -> tuple[Tensor, Tensor]:
        log_u = positive_uniform_(*uniform)
        log_one_minus_u = log_u.neg().log1p_()
        log_u.log_()
        density = torch.add(log_u, log_one_minus_u).add_(constant)
        noise = torch.sub(log_u, log_one_minus_u, out=log_u)
        ctx.temperature = temperature
        ctx.shape = noise.shape
        return torch.add(logits, noise, out=noise).div_(temperature), density

    @staticmethod
    def backward(ctx: Context, grad: Tensor, *_: Tensor) -> Gradients:
        return grad / ctx.temperature, None, None, None

    @staticmethod
    def jvp(ctx: Context, tangent: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        value_tangent = (tangent / ctx.temperature).expand(ctx.shape)
        return value_tangent, torch.zeros_like(value_tangent)


class _ExpConcreteLogDensity(Function):
    """Logits, value, temperature, constant: constant + sum log_softmax(a - t y)."""

    @staticmethod
    def forward(
        ctx: Context, logits: Tensor, value: Tensor, temperature: float, constant: float
    ) -> Tensor:
        scores = torch.add(logits, value, alpha=-temperature)
        scores.sub_(scores.amax(-1, keepdim=True))
        density = sum_classes(scores)
        exp_scores = scores.exp_()
        normalizer = sum_classes(exp_scores)
        density.sub_(normalizer.log(), alpha=exp_scores.shape[-1])
        ctx.temperature = temperature
        ctx.save_for_backward(logits, value, exp_scores, normalizer)
        ctx.save_for_forward(exp_scores, normalizer)
        return density.squeeze(-1).add_(constant)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> Gradients:
        # In the scores: grad (1 - n softmax). They are a - t y.
        logits, value, exp_scores, normalizer = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        t = ctx.temperature
        n = exp_scores.shape[-1]
        if torch.is_grad_enabled():  # for a second derivative, which needs a graph
            probs = torch.softmax(logits - t * value, -1)
            slope = grad * (1 - n * probs)
            return slope, -t * slope, None, None
        slope = exp_scores.mul(grad * (-n / normalizer)).add_(grad)
        needs_logits, needs_value = ctx.needs_input_grad[:2]
        if not needs_logits:
            return None, slope.mul_(-t), None, None
        if not needs_value:
            return slope, None, None, None
        return slope, slope.mul(-t), None, None

    @staticmethod
    def jvp(
        ctx: Context, logits_tangent: Tensor, value_tangent: Tensor, *_: object
    ) -> Tensor:
        exp_scores, normalizer = ctx.saved_tensors
        n = exp_scores.shape[-1]
        score_tangent = -ctx.temperature * value_tangent + logits_tangent
        mean = sum_classes(exp_scores * score_tangent) * (n / normalizer)
        return (sum_classes(score_tangent) - mean).squeeze(-1)


draw_exp_concrete = _ExpConcreteDraw.apply
draw_logit_binary_concrete = _LogitBinaryConcreteDraw.apply
score_exp_concrete = _ExpConcreteLogDensity.apply
