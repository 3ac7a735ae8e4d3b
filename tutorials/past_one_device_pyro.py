# %% [markdown]
# # Past one device in Pyro
#
# A relaxed model is trained with gradients, like a neural network, and can be
# distributed in the same way: each process takes a part of the data and of what
# belongs to it, and the gradients of what all processes share are added up. Here two
# processes train a mixture of digits with `torch.distributed`, and get the result of
# one process, up to rounding.
#
# Run it as `python tutorials/past_one_device_pyro.py`, with `--short` for a quick
# look that trains for a few steps. In NumPyro, in `past_one_device_numpyro.py`, the
# compiler does most of this.

# %%
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import devices
import digits
import numpy as np
import page
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import init_to_sample
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import distributed
from torch.overrides import TorchFunctionMode

from pyro_concrete import AutoConcrete, harden, relax, schedules

torch.set_num_threads(1)  # a core for each process
torch.set_default_dtype(torch.float64)  # differences are then rounding, and look it

# %% [markdown]
# ## The model
#
# Each image is of one of twenty kinds, and each kind has a share of ink for every
# pixel. `ink` is one for all images; `kind` is an integer for each image. The model
# does not depend on the processes: its arguments are images, and for a minibatch the
# rows of some of them.

# %%
KINDS = 20


def plate(images, rows=None):
    """The plate of all images, or of the rows of a minibatch."""
    return pyro.plate("images", len(images), subsample=rows)


def model(images, rows=None):
    """Images of a few kinds; a pixel counts dark points."""
    center = dist.Normal(-1.0, 1.5).expand([KINDS, digits.PIXELS])
    ink = pyro.sample("ink", center.to_event(2))
    with plate(images, rows) as rows:
        kind = pyro.sample("kind", dist.Categorical(torch.ones(KINDS) / KINDS))
        pixel = dist.Binomial(digits.LEVELS, logits=ink[kind])
        pyro.sample("pixels", pixel.to_event(1), obs=images[rows])


# %% [markdown]
# ## What each process has
#
# The guide is `AutoConcrete`. For `ink` it has normal distributions, whose parameters
# every process keeps a copy of. For `kind` it has a row of logits for each image.
# Called on a part of the images, it makes the rows of that part: a process never holds,
# sends or updates another's rows, and their number can grow with the processes.
#
# So the ELBO of all images is a sum over processes, and so is its gradient in the
# shared parameters. Three small things remain to be done, with what Pyro offers.
#
# **Add up the gradients**, between the backward pass and the step of the optimizer.
# It is one call for each shared parameter, in the same order everywhere.

# %%
LOCAL = ("AutoConcrete.logits.kind",)


class Summed(PyroOptim):
    """An optimizer that adds up gradients over processes, but not of local params."""

    def __init__(self, constructor, args, local=LOCAL):
        super().__init__(constructor, args)
        self.local = local

    def __call__(self, params, *args, **kwargs):
        params = list(params)
        names = {pyro.get_param_store().param_name(p): p for p in params}
        for name in sorted(set(names).difference(self.local)):
            distributed.all_reduce(names[name].grad)
        super().__call__(params, *args, **kwargs)


# %% [markdown]
# **Count once what is not in the plate.** Every process has the prior of `ink` in its
# ELBO, which the sum would count as often as there are processes.


# %%
class CountOnce(Messenger):
    """Divide the weight of all sites outside a plate by the number of processes."""

    def __init__(self, plate, size):
        super().__init__()
        self.plate, self.size = plate, size

    def _pyro_sample(self, msg):
        if all(frame.name != self.plate for frame in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] / self.size


# %% [markdown]
# **Draw the right noise.** The noise of `ink` has to be the same in all processes, so
# they all start from the same seed. That of `kind` must differ: two images with the
# same noise would not be independent. The messenger below draws the noise of all
# images in every process, and keeps the rows of this one. Nothing depends on the
# number of processes then, which is what lets us compare runs. Drawing costs little
# beside a model. Where it does not, or where you compare nothing, give each process a
# seed of its own after the first call of the guide, and leave the messenger out:
# draws of `ink` then differ between processes too, and the gradient is as unbiased as
# before. (Vectorized particles make a plate that the messenger does not know: take
# particles one after the other.)


# %%
class Rows(TorchFunctionMode):
    """Draw as for all processes, and keep the rows of one, along a dim."""

    def __init__(self, dim, rank, size):
        super().__init__()
        self.dim, self.rank, self.size = dim, rank, size

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.rand:  # the noise of relaxed sites
            return self._mine(func(self._whole(args[0]), **kwargs))
        if func is torch.Tensor.normal_:  # that of normal ones
            whole = func(args[0].new_empty(self._whole(args[0].shape)), *args[1:])
            return args[0].copy_(self._mine(whole))
        return func(*args, **kwargs)

    def _whole(self, shape):
        shape = list(shape)
        shape[self.dim] *= self.size
        return shape

    def _mine(self, whole):
        return whole.chunk(self.size, self.dim)[self.rank]


class OwnNoise(Messenger):
    """Let a process's part of a plate have its own rows of the noise of the whole."""

    def __init__(self, plate, rank, size):
        super().__init__()
        self.plate, self.rank, self.size = plate, rank, size

    def _pyro_sample(self, msg):
        for frame in msg["cond_indep_stack"]:
            if frame.name == self.plate and msg["value"] is None:
                dim = frame.dim - msg["fn"].event_dim
                with Rows(dim, self.rank, self.size):
                    msg["value"] = msg["fn"]()


# %% [markdown]
# ## Minibatches
#
# Each process takes some of its own images in a step, and gives their rows to the
# plate, which gives them the weight of all of its images. `AutoConcrete` takes the
# plate from `create_plates` and looks up the logits of its rows: only they have a
# gradient. (Without `create_plates`, Pyro's guides take all rows, and the model follows
# them.) Two halves have a minibatch each, so that one process can take the same images
# as two.


# %%
def rows_of(batch, images, steps, rank, size):
    """The rows of this process in each step; without a size of minibatches, all."""
    generator = torch.Generator().manual_seed(3)
    half = len(images) // 2
    for _ in range(steps):
        if batch is None:
            yield None
            continue
        first, second = (
            torch.randperm(half, generator=generator)[: batch // 2] for _ in range(2)
        )
        both = torch.cat([first, second + half])
        yield both if size == 1 else (first, second)[rank]


# %% [markdown]
# ## Training
#
# The rest is the usual training: relaxed model, guide, an annealed temperature, and
# Pyro's SVI. The optimizer counts the steps for the temperature, in every process.
# Each process runs `train`. With one process, it is the same as ordinary training.

# %%
STEPS, BATCH = 300, 400


def train(images, steps, rank=0, size=1, batch=None):
    """Train on this process's part of the images; return guide, images and losses."""
    pyro.clear_param_store()
    mine = torch.as_tensor(images, dtype=torch.get_default_dtype()).chunk(size)[rank]
    relaxed = relax(
        model,
        schedules.Exponential(1.0, 0.4, num_steps=steps),
        scoring="concrete",
    )
    guide = AutoConcrete(relaxed, init_loc_fn=init_to_sample, create_plates=plate)
    optim = PyroOptim(torch.optim.Adam, {"lr": 0.05})
    programs = relaxed, guide
    pyro.set_rng_seed(0)
    guide(mine)  # makes the parameters, the shared ones from the same seed
    if size > 1:
        optim = Summed(torch.optim.Adam, {"lr": 0.05})
        once = CountOnce("images", size)
        programs = once(relaxed), OwnNoise("images", rank, size)(once(guide))
    pyro.set_rng_seed(1)
    svi = SVI(*programs, schedules.count_steps(optim), Trace_ELBO())
    with pyro.validation_enabled(False):
        losses = [
            svi.step(mine, rows) for rows in rows_of(batch, images, steps, rank, size)
        ]
    return guide, mine, torch.tensor(losses)


# %% [markdown]
# The discrete ELBO of the unmodified model and the hardened guide is a sum over
# processes, too. Process 0 collects the rows of logits and saves all results.

# %%
PARTICLES = 20


@torch.no_grad()
def discrete_loss(guide, mine, rank, size):
    """Minus the discrete ELBO, or this process's part of it."""
    pyro.set_rng_seed(2 + rank)  # noise of its own
    programs = [CountOnce("images", size)(p) for p in (model, harden(guide))]
    return torch.tensor(Trace_ELBO(PARTICLES).loss(*programs, mine))


def results(images, steps, rank=0, size=1, batch=None):
    """Train, and return what came of it: the same in each process."""
    start = time.perf_counter()
    guide, mine, losses = train(images, steps, rank, size, batch)
    seconds = time.perf_counter() - start
    loss = discrete_loss(guide, mine, rank, size)
    own = guide.logits.kind.detach()
    logits = [own.clone() for _ in range(size)]
    if size > 1:
        for total in (losses, loss):
            distributed.all_reduce(total)
        distributed.all_gather(logits, own)
    found = {
        "losses": losses / len(images),
        "discrete": -loss / len(images),
        "logits": torch.cat(logits),
        "ink": guide.locs.ink,
        "rows": len(own),
        "seconds": seconds,
    }
    return {k: torch.as_tensor(v).detach().numpy() for k, v in found.items()}


# %% [markdown]
# ## Starting the processes
#
# PyTorch's launcher, `torchrun`, starts a script several times, and sets the number
# of each process in environment variables. The script is this page, so it has two
# ways to run: as one of several processes, which trains, and by itself, where it
# launches the others. `gloo` is the backend for CPUs; with a GPU for each process it
# is `nccl`, and the tensors go to the process's device.


# %%
def work(steps, batch, out):
    """Be one of the processes."""
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    found = results(devices.load(), steps, rank, size, batch)
    if rank == 0:
        np.savez(out, **found)
    distributed.destroy_process_group()


def launch(steps, size, batch=None):
    """Run this page in several processes, and return what they found."""
    script = Path(page.__file__).with_name("past_one_device_pyro.py")
    with tempfile.TemporaryDirectory() as folder:
        command = ["torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        result = subprocess.run(
            [sys.executable, "-m", *command, script],
            env={**os.environ, "OMP_NUM_THREADS": "1", "STEPS": str(steps)}
            | {"BATCH": str(batch or ""), "OUT": f"{folder}/found.npz"},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if result.returncode:
            raise RuntimeError(result.stderr)
        return dict(np.load(f"{folder}/found.npz"))


# %% [markdown]
# ## The result

# %%
if __name__ == "__main__":
    if "LOCAL_RANK" in os.environ:  # launched by torchrun
        batch = int(os.environ["BATCH"] or 0) or None
        work(int(os.environ["STEPS"]), batch, os.environ["OUT"])
    else:
        steps = 5 if page.options().short else STEPS
        runs = {1: results(devices.load(), steps), 2: launch(steps, 2)}
        print(devices.table(runs, "processes"))
        print("\nIn minibatches:\n")
        in_batches = {
            1: results(devices.load(), steps, batch=BATCH),
            2: launch(steps, 2, BATCH),
        }
        print(devices.table(in_batches, "processes"))
        page.show(devices.draw(runs, "processes"), "past_one_device_pyro")

# %% [markdown]
# Two processes hold half of the rows each and end at the same numbers; the discrete
# ELBO is an estimate from other draws. Steps do not take half of the time on so small
# a model: a step of Pyro has a fixed cost of a few milliseconds.
#
# Minibatches are noisier, and the steps of both runs see the same ones: the difference
# is that of rounding there, too.
#
# ## An amortized guide, and several GPUs
#
# A guide that computes its logits from the image by a network has no local parameters:
# leave `local` empty. Nothing else changes.
#
# On several GPUs, start a process for each: `nccl` takes the place of `gloo`, and
# `torch.set_default_device(rank)` puts the process's parameters on its own GPU. The
# rows of logits never leave it. What travels in a step are the gradients of `ink`,
# whatever the number of images.
#
# PyTorch's `DistributedDataParallel` does for modules what `Summed` does here, for
# parameters that all processes share. It uses the mean instead of the sum: give the
# plate the number of all images, with the images of the process as a subsample, and
# leave `CountOnce` out. What it wraps is a module whose `forward` returns
# `Trace_ELBO().differentiable_loss(relaxed, guide, images)`.
