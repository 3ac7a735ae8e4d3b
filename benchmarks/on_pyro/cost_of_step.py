"""Steps of SVI with Pyro: with relax, relaxed manually, and in plain PyTorch."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from benchmarks.cost_of_step import (
    BATCH,
    GUIDE_T,
    LEVELS,
    MODEL_T,
    NET_PIXELS,
    PIXELS,
)
from benchmarks.report import is_rehearsal
from pyro_concrete import ExpConcrete, LogitBinaryConcrete, relax

RATE = 1e-3
STEPS_BEFORE = 12  # after which torch recompiles no more


def steps(name: str, guide: Callable, model: Callable) -> dict[str, Callable]:
    """Return a function that takes a step for each way."""
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    torch.manual_seed(0)
    shape = (BATCH, PIXELS if name == "autoencoder" else NET_PIXELS)
    high = LEVELS if name == "autoencoder" else 1
    images = torch.randint(high + 1, shape).to(torch.get_default_dtype())
    relaxed = [_in_plate(f"{name}_r", Discrete, program) for program in (model, guide)]
    relaxed = (
        relax(relaxed[0], MODEL_T, scoring="concrete"),
        relax(relaxed[1], GUIDE_T, scoring="concrete"),
    )
    by_hand = [
        _in_plate(f"{name}_h", lambda p, t=t: Concrete(p, t), program)
        for program, t in ((model, MODEL_T), (guide, GUIDE_T))
    ]
    found = {
        "relax": _svi(*relaxed, images),
        "relax_jit": _svi(*relaxed, images, JitTrace_ELBO(ignore_jit_warnings=True)),
        "by_hand": _svi(*by_hand, images),
        "plain": _plain(guide, model, images),
    }
    # It compiles for minutes, which are not to be had on a lent GPU or in a test.
    if not torch.cuda.is_available() and not is_rehearsal():
        found["relax_compiled"] = _compiled(*relaxed, images)
    return found


def _svi(
    model: Callable, guide: Callable, images: Tensor, elbo: Trace_ELBO | None = None
) -> Callable:
    svi = SVI(model, guide, pyro.optim.Adam({"lr": RATE}), elbo or Trace_ELBO())

    def step() -> None:
        # As one trains: without the checks of every parameter and value.
        with pyro.validation_enabled(False), warnings.catch_warnings():
            # torch.jit.trace is deprecated, and JitTrace_ELBO has no other way.
            warnings.simplefilter("ignore", DeprecationWarning)
            svi.step(images)

    return step


def _compiled(model: Callable, guide: Callable, images: Tensor) -> Callable:
    loss = Trace_ELBO()(model, guide)
    loss(images)
    optimizer = torch.optim.Adam(
        [x for _, x in pyro.get_param_store().named_parameters()], lr=RATE
    )
    compiled = torch.compile(loss)

    def step() -> None:
        with pyro.validation_enabled(False), warnings.catch_warnings():
            # Of graphs that break, and of recompilations.
            warnings.simplefilter("ignore")
            optimizer.zero_grad()
            value = compiled(images)
            value.backward()
            optimizer.step()
            value.item()  # as SVI, which returns the loss

    for _ in range(STEPS_BEFORE):
        step()
    return step


def _in_plate(prefix: str, way: Callable, program: Callable) -> Callable:
    def run(images: Tensor) -> None:
        with pyro.plate("images", BATCH):
            program(way(prefix), images)

    return run


class Discrete:
    """Sample statements of discrete distributions."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def weight(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return pyro.param(f"{self.prefix}_{name}", lambda: torch.zeros(shape))

    def dense(self, name: str, x: Tensor, size: int) -> Tensor:
        start = lambda: _start(x.shape[-1], size)  # noqa: E731
        return x @ pyro.param(f"{self.prefix}_{name}_w", start) + self.weight(
            f"{name}_b", (size,)
        )

    def tanh(self, x: Tensor) -> Tensor:
        return x.tanh()

    def cat(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, -1)

    def binary(self, name: str, logits: Tensor) -> Tensor:
        return pyro.sample(name, dist.Bernoulli(logits=logits).to_event(1))

    def one_hots(self, name: str, logits: Tensor) -> Tensor:
        return pyro.sample(name, dist.OneHotCategorical(logits=logits).to_event(1))

    def flags(self, name: str, logits: Tensor, data: Tensor) -> None:
        pyro.sample(name, dist.Bernoulli(logits=logits).to_event(1), obs=data)

    def counts(self, name: str, logits: Tensor, data: Tensor) -> None:
        pyro.sample(name, dist.Binomial(LEVELS, logits=logits).to_event(1), obs=data)


class Concrete(Discrete):
    """Sample statements of the log-space Concrete family, hand-written."""

    def __init__(self, prefix: str, temperature: float) -> None:
        super().__init__(prefix)
        self.temperature = temperature

    def binary(self, name: str, logits: Tensor) -> Tensor:
        fn = LogitBinaryConcrete(self.temperature, logits=logits)
        return pyro.sample(name, fn.to_event(1)).sigmoid()

    def one_hots(self, name: str, logits: Tensor) -> Tensor:
        fn = ExpConcrete(self.temperature, logits=logits)
        return pyro.sample(name, fn.to_event(1)).exp()


class Plain(Discrete):
    """Formulas: points are drawn with the guide's temperature, and scored by both."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights, self.points, self.total = weights, {}, 0.0

    def weight(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._kept(name, lambda: torch.zeros(shape))

    def dense(self, name: str, x: Tensor, size: int) -> Tensor:
        weight = self._kept(f"{name}_w", lambda: _start(x.shape[-1], size))
        return torch.addmm(self.weight(f"{name}_b", (size,)), x, weight)

    def _kept(self, name: str, start: Callable) -> Tensor:
        if name not in self.weights:
            self.weights[name] = start().requires_grad_()
        return self.weights[name]

    def binary(self, name: str, logits: Tensor) -> Tensor:
        if name in self.points:
            y = self.points[name]
            s = logits - MODEL_T * y
            score = math.log(MODEL_T) + logsigmoid(s) + logsigmoid(-s)
            self.total = self.total + score.sum()
        else:
            u = torch.rand_like(logits).clamp_min(2**-26)
            log_u, log_rest = u.log(), torch.log1p(-u)
            y = (logits + (log_u - log_rest)) / GUIDE_T
            self.total = self.total - (math.log(GUIDE_T) + log_u + log_rest).sum()
            self.points[name] = y
        return y.sigmoid()

    def one_hots(self, name: str, logits: Tensor) -> Tensor:
        n = logits.shape[-1]
        constant = lambda t: math.lgamma(n) + (n - 1) * math.log(t)  # noqa: E731
        if name in self.points:
            y = self.points[name]
            rows = (logits - MODEL_T * y).log_softmax(-1)
            self.total = (
                self.total + rows.sum() + constant(MODEL_T) * rows[..., 0].numel()
            )
        else:
            u = torch.rand_like(logits).clamp_min(2**-26)
            exponentials = -torch.log1p(-u)
            logs = exponentials.log()
            y = ((logits - logs) / GUIDE_T).log_softmax(-1)
            own = logs.sum(-1) - n * exponentials.sum(-1).log() + constant(GUIDE_T)
            self.total = self.total - own.sum()
            self.points[name] = y
        return y.exp()

    def flags(self, name: str, logits: Tensor, data: Tensor) -> None:
        loss = binary_cross_entropy_with_logits(logits, data, reduction="sum")
        self.total = self.total - loss

    def counts(self, name: str, logits: Tensor, data: Tensor) -> None:
        self.total = (
            self.total
            + (data * logits + LEVELS * logsigmoid(-logits) + _log_choose(data)).sum()
        )


def _plain(guide: Callable, model: Callable, images: Tensor) -> Callable:
    weights: dict[str, Tensor] = {}

    def elbo() -> Any:
        way = Plain(weights)
        guide(way, images)
        model(way, images)
        return way.total

    elbo()
    optimizer = torch.optim.Adam(weights.values(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        loss = -elbo()
        loss.backward()
        optimizer.step()
        loss.item()  # as SVI, which returns the loss

    return step


def _log_choose(data: Tensor) -> Tensor:
    of_all = math.lgamma(LEVELS + 1)
    return of_all - torch.lgamma(data + 1) - torch.lgamma(LEVELS - data + 1)


def _start(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns) / rows**0.5
