"""Check a cell of the grid with Pyro."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from benchmarks.how_often_finite import BATCH, Cell, Way
from pyro_concrete import ExpConcrete, LogitBinaryConcrete, relax


def _parameters(cell: Cell, offset: int = 0) -> tuple[Tensor, Tensor]:
    """The temperature and the logits of a cell, ready to be differentiated."""
    dtype = getattr(torch, cell.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    temperature = torch.tensor(cell.temperature, dtype=wide, requires_grad=True)
    logits = torch.from_numpy(np.asarray(cell.logits(offset))).to(dtype)
    return temperature, logits.requires_grad_()


def _total(x: Tensor) -> Tensor:
    """The sum, in single precision at least: it is no part of what is examined."""
    return x.sum(dtype=torch.promote_types(x.dtype, torch.float32))


def _finite(*xs: Tensor) -> bool:
    return all(bool(x.isfinite().all()) for x in xs)


def _bounded(cell: Cell, value: Tensor, log_space: bool) -> Tensor:
    """A bounded function of the relaxed value."""
    if log_space:
        value = value.sigmoid() if cell.classes is None else value.exp()
    return value.square()


def _check_distribution(
    categorical: Callable, binary: Callable, log_space: bool, cell: Cell
) -> set[str]:
    torch.manual_seed(cell.seed)
    temperature, logits = _parameters(cell)
    family = binary if cell.classes is None else categorical
    d = family(temperature, logits=logits)
    own = d.rsample()
    faults = set() if _finite(own) else {"samples"}
    for kind, value in (("log_prob", own), ("in_full", own + 0)):
        log_prob = d.log_prob(value)
        loss = _total(log_prob) + _total(_bounded(cell, value, log_space))
        gradients = torch.autograd.grad(loss, (logits, temperature), retain_graph=True)
        faults |= set() if _finite(log_prob) else {kind}
        faults |= set() if _finite(*gradients) else {"gradients"}
    return faults


def _check_relax(cell: Cell) -> set[str]:
    torch.manual_seed(cell.seed)
    temperature, logits_q = _parameters(cell)
    _, logits_p = _parameters(cell, 1)

    # Pyro's discrete class itself refuses half-precision logits: their probabilities do
    # not sum to one within 1e-6.
    validate = False if logits_q.dtype.itemsize == 2 else None

    def site(logits: Tensor) -> Tensor:
        if cell.classes is None:
            d = dist.Bernoulli(logits=logits, validate_args=validate)
            return pyro.sample("z", d)
        d = dist.OneHotCategorical(logits=logits, validate_args=validate)
        z = pyro.sample("z", d)
        return (z * torch.linspace(-1, 1, cell.classes, dtype=z.dtype)).sum(-1)

    def model() -> None:
        with pyro.plate("variables", BATCH):
            x = site(logits_p)
            pyro.sample(
                "x", dist.Normal(x, 1.0), obs=torch.zeros_like(logits_p[..., 0])
            )

    def guide() -> None:
        with pyro.plate("variables", BATCH):
            site(logits_q)

    relaxed = (
        relax(program, temperature, scoring="concrete") for program in (model, guide)
    )
    loss = Trace_ELBO().differentiable_loss(*relaxed)
    gradients = torch.autograd.grad(loss, (logits_q, logits_p, temperature))
    faults = set() if _finite(loss) else {"log_prob"}
    return faults | (set() if _finite(*gradients) else {"gradients"})


def _way(title: str, categorical: type, binary: type, log_space: bool, **kwargs) -> Way:
    check = partial(
        _check_distribution,
        partial(categorical, **kwargs),
        partial(binary, **kwargs),
        log_space,
    )
    return Way(title, categorical.__name__, binary.__name__, check)


WAYS = (
    _way("ours", ExpConcrete, LogitBinaryConcrete, True),
    Way(
        "ours, through relax",
        "relax(OneHotCategorical)",
        "relax(Bernoulli)",
        _check_relax,
    ),
    _way(
        "pyro.distributions",
        dist.RelaxedOneHotCategorical,
        dist.RelaxedBernoulli,
        False,
        validate_args=False,
    ),
    _way(
        "torch, in log space",
        ExpRelaxedCategorical,
        LogitRelaxedBernoulli,
        True,
        validate_args=False,
    ),
)
