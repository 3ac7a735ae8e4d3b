"""The exact and the sampled KL with Pyro."""

from collections.abc import Callable

import torch
from torch.distributions import kl_divergence

from benchmarks.cost_of_kl import DRAWS, ROWS
from pyro_concrete import ExpConcrete


def calls(n: int, t_p: float, t_q: float) -> tuple[Callable, Callable]:
    """Return the exact and the sampled KL, each with its gradient."""
    logits = [x.requires_grad_() for x in _logits(ROWS, n)]

    def exact() -> None:
        torch.autograd.grad(kl_divergence(*_pair(logits, t_p, t_q)).sum(), logits)

    def sampled() -> None:
        torch.autograd.grad(_log_ratio(*_pair(logits, t_p, t_q), ()).sum(), logits)

    return exact, sampled


def value_and_noise(n: int, t_p: float, t_q: float) -> tuple[float, float]:
    """Return the KL of one pair, and the standard deviation of one draw of it."""
    p, q = _pair([x[0] for x in _logits(1, n)], t_p, t_q)
    draws = _log_ratio(p, q, (DRAWS,))
    return float(kl_divergence(p, q)), float(draws.std())


def _log_ratio(p: ExpConcrete, q: ExpConcrete, shape: tuple[int, ...]) -> torch.Tensor:
    value = p.rsample(shape)
    return p.log_prob(value) - q.log_prob(value)


def _pair(logits: list, t_p: float, t_q: float) -> tuple[ExpConcrete, ExpConcrete]:
    a, b = logits
    return ExpConcrete(t_p, logits=a), ExpConcrete(t_q, logits=b)


def _logits(rows: int, n: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(rows, n) for _ in range(2)]
