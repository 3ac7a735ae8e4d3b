"""The term of one relaxed site with PyTorch: ours, the backends', and hand-written."""

import math
import shutil
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributions as td

from benchmarks.cost_of_term import CELLS, GUIDE_T, PRIOR_T
from pyro_concrete import ExpConcrete

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RATIOS = (
    "torch",
    "pyro_straight_through",
    "gumbel_softmax",
    "by_hand",
    "compiled",
    "of_copy",
    "compiled_of_copy",
)
# The backends' own take no numbers.
TENSORS = tuple(torch.tensor(t, device=DEVICE) for t in (GUIDE_T, PRIOR_T))


def calls(classes: int, sites: int) -> tuple[Callable, dict[str, tuple]]:
    """Return our term, and by name the two calls of a ratio."""
    torch.manual_seed(0)
    logits = [torch.randn(sites, classes, device=DEVICE) for _ in range(2)]
    a, b = (x.requires_grad_() for x in logits)

    def step(term: Callable) -> Callable:
        def call() -> None:
            torch.autograd.grad(term(a, b).sum(), (a, b))
            _wait()

        return call

    def sample_alone() -> None:
        torch.autograd.grad(F.gumbel_softmax(a, GUIDE_T).sum(), a)
        _wait()

    # Ones, for memory that nobody has written is not read from memory.
    source = torch.ones(2, sites, classes, device=DEVICE)
    target = torch.empty_like(source)

    def copy() -> None:  # reads two arrays and writes two
        target.copy_(source)
        _wait()

    ours = step(_ours)
    pairs = {
        "torch": (ours, step(_torch)),
        "pyro_straight_through": (ours, step(_pyro)),
        "gumbel_softmax": (ours, sample_alone),
        "by_hand": (ours, step(_ByHand.apply)),
        "of_copy": (copy, ours),
    }
    if sites == CELLS[classes][-1] and shutil.which("g++"):
        torch.compiler.reset()
        compiled = step(torch.compile(_ours, dynamic=False))
        pairs["compiled"] = compiled, step(torch.compile(by_hand_open))
        pairs["compiled_of_copy"] = copy, compiled
    return ours, pairs


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _term(family: Callable, temperatures: tuple, a: Tensor, b: Tensor) -> Tensor:
    guide, prior = (
        family(t, logits=x, validate_args=False)
        for t, x in zip(temperatures, (a, b), strict=True)
    )
    value = guide.rsample()
    return prior.log_prob(value) - guide.log_prob(value)


def _ours(a: Tensor, b: Tensor) -> Tensor:
    return _term(ExpConcrete, (GUIDE_T, PRIOR_T), a, b)


def _torch(a: Tensor, b: Tensor) -> Tensor:
    return _term(td.RelaxedOneHotCategorical, TENSORS, a, b)


def _pyro(a: Tensor, b: Tensor) -> Tensor:
    return _term(dist.RelaxedOneHotCategoricalStraightThrough, TENSORS, a, b)


def by_hand_open(a: Tensor, b: Tensor) -> Tensor:
    """The same hand-written, for a compiler to take the gradient of."""
    exponentials = -torch.log1p(-torch.rand_like(a).clamp_min(2**-26))
    logs = exponentials.log()
    n, value = a.shape[-1], ((a - logs) / GUIDE_T).log_softmax(-1)
    own = logs.sum(-1) - n * exponentials.sum(-1).log() + _constant(n, GUIDE_T)
    prior = (b - PRIOR_T * value).log_softmax(-1).sum(-1) + _constant(n, PRIOR_T)
    return prior - own


class _ByHand(torch.autograd.Function):
    """The same as one function: no graph inside, and the gradient written out."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        exponentials = torch.rand_like(a).clamp_min_(2**-26).neg_().log1p_().neg_()
        logs = exponentials.log()
        n = a.shape[-1]
        own = logs.sum(-1) - n * exponentials.sum(-1).log() + _constant(n, GUIDE_T)
        value = torch.sub(a, logs, out=logs).div_(GUIDE_T).log_softmax(-1)
        prior = (b - PRIOR_T * value).log_softmax(-1)
        ctx.save_for_backward(value, prior)
        return prior.sum(-1) + _constant(n, PRIOR_T) - own

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        value, prior = ctx.saved_tensors
        of_prior = prior.exp().mul_(-value.shape[-1]).add_(1).mul_(grad.unsqueeze(-1))
        of_value = of_prior * -PRIOR_T
        total = of_value.sum(-1, keepdim=True)
        return (of_value - value.exp().mul_(total)).div_(GUIDE_T), of_prior


def _constant(n: int, temperature: float) -> float:
    return math.lgamma(n) + (n - 1) * math.log(temperature)
