"""One of several processes that train programs with Pyro, each on its rows.

The first one trains them on all rows, too, as anybody would.
"""

import os
import sys
from collections import ChainMap

import numpy as np
import past_one_device_pyro as page
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, pyro_method
from pyro.optim import PyroOptim
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from parts import BATCHES, DATA, PRIOR, ROWS, STEPS
from pyro_concrete import AutoConcrete, StraightThrough, relax, schedules

SCHEDULE = schedules.Exponential(1.0, 0.3, num_steps=STEPS)
LOCAL = tuple(
    f"AutoConcrete.{name}"
    for name in ("logits.z", "logits.bit", "locs.shift", "scales.shift")
)
# SGD, unlike Adam, tells gradients that are too large by a factor.
SGD = {"lr": 0.02, "momentum": 0.9}


def plate(data, rows=None):
    return pyro.plate("rows", len(data), subsample=rows)


def model(data, rows=None):
    locs = pyro.sample("locs", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    with plate(data, rows) as rows:
        z = pyro.sample("z", dist.Categorical(logits=torch.as_tensor(PRIOR)))
        bit = pyro.sample("bit", dist.Bernoulli(torch.tensor(0.4)))
        shift = pyro.sample("shift", dist.Normal(0.3, 0.5))
        loc = locs[z] + torch.where(bit == 1, shift, -0.2)
        pyro.sample("x", dist.Normal(loc, 0.7), obs=data[rows])


def guide(data, rows=None):
    """Local sites by functions of the data, so that all parameters are shared."""
    slopes = pyro.param("slopes", torch.tensor([0.5, -0.4, 0.1, 0.3, -0.2]))
    centre = pyro.param("centre", torch.tensor([-1.0, 0.2, 1.1]))
    pyro.sample("locs", dist.Normal(centre, 0.3).to_event(1))
    with plate(data, rows) as rows:
        along = slopes * data[rows].unsqueeze(-1)
        pyro.sample("z", dist.Categorical(logits=along[..., :3]))
        pyro.sample("bit", dist.Bernoulli(logits=along[..., 3]))
        pyro.sample("shift", dist.Normal(along[..., 4], 0.4))


def auto(temperature=SCHEDULE, **options):
    relaxed = relax(model, temperature, **options)
    return relaxed, AutoConcrete(relaxed, create_plates=plate), Trace_ELBO()


def amortised(particles=1):
    programs = relax(model, SCHEDULE), relax(guide, schedules.Learned(0.6))
    return *programs, Trace_ELBO(particles)


# The programs, and whether they see minibatches.
CASES = {
    "auto": (auto, False),
    "auto_in_minibatches": (auto, True),
    "straight_through": (lambda: auto(0.6, estimator=StraightThrough()), False),
    "amortised": (amortised, False),
    "amortised_in_minibatches": (amortised, True),
    "particles": (lambda: amortised(3), False),
}


def train(name, rank=0, size=None):
    """Parameters and losses of the part of a process, or of all without one."""
    pyro.clear_param_store()
    make, minibatches = CASES[name]
    programs = relaxed, guide, elbo = make()
    parts = size or 1
    mine = torch.as_tensor(DATA).chunk(parts)[rank]
    batches = [torch.as_tensor(batch).chunk(parts)[rank] for batch in BATCHES]
    batches = [batch - rank * len(mine) for batch in batches]
    optim = PyroOptim(torch.optim.SGD, SGD)
    pyro.set_rng_seed(0)
    with poutine.block():
        elbo.differentiable_loss(*programs[:2], mine)
    if size:
        once = page.CountOnce("rows", size)
        noise = page.OwnNoise("rows", rank, size)
        relaxed, guide = once(relaxed), noise(once(guide))
        optim = page.Summed(torch.optim.SGD, SGD, LOCAL)
    pyro.set_rng_seed(1)
    svi = SVI(relaxed, guide, schedules.count_steps(optim), elbo)
    steps = batches if minibatches else [None] * STEPS
    losses = torch.tensor([svi.step(mine, rows) for rows in steps])
    store = pyro.get_param_store()
    return {"losses": losses, **{k: store[k].detach().clone() for k in store}}


class Amortised(PyroModule):
    """A loss of modules, as `DistributedDataParallel` takes it; a mean, not a sum."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.locs = torch.nn.Parameter(torch.tensor([-1.0, 0.2, 1.1]))
        self.network = torch.nn.Linear(1, 3)

    @staticmethod
    def plate(data):
        # A size alone would draw a subsample.
        return pyro.plate("rows", ROWS, subsample=torch.arange(len(data)))

    @pyro_method
    def model(self, data):
        with self.plate(data):
            z = pyro.sample("z", dist.Categorical(logits=torch.as_tensor(PRIOR)))
            pyro.sample("x", dist.Normal(self.locs[z], 0.7), obs=data)

    @pyro_method
    def guide(self, data):
        with self.plate(data):
            logits = self.network(data.unsqueeze(-1))
            pyro.sample("z", dist.Categorical(logits=logits))

    def forward(self, data, noise):
        programs = relax(self.model, SCHEDULE), noise(relax(self.guide, SCHEDULE))
        return Trace_ELBO().differentiable_loss(*programs, data)


def train_modules(rank=0, size=None):
    """As `train`, with PyTorch's optimiser and `DistributedDataParallel`."""
    pyro.clear_param_store()
    module = loss = Amortised()
    noise = page.OwnNoise("rows", rank, size or 1)
    data = torch.as_tensor(DATA).chunk(size or 1)[rank]
    if size:
        loss = DistributedDataParallel(module)
    optim = torch.optim.SGD(module.parameters(), **SGD)
    count = schedules.count_steps(PyroOptim(torch.optim.SGD, SGD))
    pyro.set_rng_seed(1)
    losses = []
    for _ in range(STEPS):
        optim.zero_grad()
        found = loss(data, noise if size else lambda program: program)
        found.backward()
        optim.step()
        count([])
        losses.append(found.detach() / (size or 1))
    params = {k: p.detach() for k, p in module.named_parameters()}
    return {"losses": torch.stack(losses), **params}


def run(name, rank=0, size=None):
    """The arrays that a case ends with."""
    torch.set_default_dtype(torch.float64)
    found = train_modules(rank, size) if name == "ddp" else train(name, rank, size)
    if size:
        distributed.all_reduce(found["losses"])
    return {f"{name}/{k}": v.numpy() for k, v in found.items()}


def main(out, *names):
    rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    rendezvous = {"init_method": f"file://{out}/rendezvous"}
    distributed.init_process_group("gloo", rank=rank, world_size=size, **rendezvous)
    parts = [run(name, rank, size) for name in names]
    distributed.destroy_process_group()
    np.savez(f"{out}/{rank}.npz", **dict(ChainMap(*parts)))
    if rank == 0:
        np.savez(f"{out}/whole.npz", **dict(ChainMap(*map(run, names))))


if __name__ == "__main__":
    main(*sys.argv[1:])
