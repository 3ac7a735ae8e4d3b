# %% [markdown]
# # Past one device in NumPyro
#
# A relaxed model is trained with gradients, like a neural network, and can be
# distributed in the same way: each device takes a part of the data and of what
# belongs to it, and the gradients of what all devices share are added up. Here two
# devices train a mixture of digits with JAX's sharding, and get the result of one
# device, up to rounding.
#
# Run it as `python tutorials/past_one_device_numpyro.py`, with `--short` for a quick
# look that trains for a few steps. In Pyro, in `past_one_device_pyro.py`, the same
# takes a few more lines.

# %%
import time

import devices
import digits
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import page
from jax import random
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_map_with_path
from numpyro.infer import SVI, Trace_ELBO, init_to_sample

from numpyro_concrete import AutoConcrete, harden, relax, schedules

jax.config.update("jax_num_cpu_devices", 2)  # before JAX computes; not with GPUs
numpyro.enable_x64()  # differences are then rounding, and look it

# %% [markdown]
# ## The model
#
# Each image is of one of twenty kinds, and each kind has a share of ink for every
# pixel. `ink` is one for all images; `kind` is an integer for each image. The model
# does not depend on the devices. With a size of minibatches, its plate takes a
# subsample in each step.

# %%
KINDS = 20


def model(images, batch=None):
    """Images of a few kinds; a pixel counts dark points."""
    center = dist.Normal(-1.0, 1.5).expand([KINDS, digits.PIXELS])
    ink = numpyro.sample("ink", center.to_event(2))
    with numpyro.plate("images", len(images), subsample_size=batch) as rows:
        kind = numpyro.sample("kind", dist.Categorical(jnp.ones(KINDS) / KINDS))
        pixel = dist.Binomial(digits.LEVELS, logits=ink[kind])
        numpyro.sample("pixels", pixel.to_event(1), obs=images[rows])


# %% [markdown]
# ## Placement of data and parameters
#
# The guide is `AutoConcrete`. For `ink` it has normal distributions, whose parameters
# every device keeps a copy of. For `kind` it has a row of logits for each image. The
# rows go where their images are, and so do their moments in the state of Adam: a device
# never holds or updates another's rows, and their number can grow with the devices.
#
# A mesh is an array of devices with named axes, and a sharding says along which of them
# an array is split. The state of `SVI` is a tree with the names of parameters in its
# paths, so that the rows are found by name.

# %%
LOCAL = ("kind_auto_logits",)


def shardings(num_devices):
    """By rows over some devices, and a copy on each."""
    mesh = jax.make_mesh(
        (num_devices,),
        ("images",),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[:num_devices],
    )
    rows = NamedSharding(mesh, PartitionSpec("images"))
    return rows, NamedSharding(mesh, PartitionSpec())


def placed(state, rows, copies, local=LOCAL):
    """The state of SVI with local parameters by rows, and copies of the rest."""

    def put(path, x):
        mine = any(repr(name) in keystr(path) for name in local)
        return jax.device_put(x, rows if mine else copies)

    return tree_map_with_path(put, state)


# %% [markdown]
# ## Training
#
# Nothing else changes. From the sharding of the arguments, the compiler derives what
# each device computes, and where to add up gradients. The result does not depend on
# the sharding: the prior of `ink` is counted once, and the same key gives the same
# noise, however it is split. The temperature depends on the number of steps, which is
# part of the state.

# %%
STEPS, BATCH = 300, 400


def train(images, steps, num_devices=1, batch=None):
    """Train on some devices; return the guide and the result of SVI."""
    rows, copies = shardings(num_devices)
    images = jax.device_put(images, rows)
    relaxed = relax(
        model,
        schedules.Exponential(1.0, 0.4, num_steps=steps),
        scoring="concrete",
    )
    guide = AutoConcrete(relaxed, init_loc_fn=init_to_sample)
    optim = schedules.count_steps(optax.adam(0.05))
    svi = SVI(relaxed, guide, optim, Trace_ELBO(), batch=batch)
    state = placed(svi.init(random.key(0), images), rows, copies)
    key = random.key(1)  # of no use: the state has one
    return guide, svi.run(key, steps, images, init_state=state, progress_bar=False)


# %% [markdown]
# The discrete ELBO is that of the unmodified model and the hardened guide, as usual.

# %%
PARTICLES = 20


def results(images, steps, num_devices=1, batch=None):
    """Train, and return what came of it."""
    start = time.perf_counter()
    guide, result = train(images, steps, num_devices, batch)
    losses, params = jax.block_until_ready((result.losses, result.params))
    seconds = time.perf_counter() - start  # with those of compiling
    rows, _ = shardings(num_devices)
    programs = model, harden(guide), jax.device_put(images, rows)
    loss = Trace_ELBO(PARTICLES).loss(random.key(2), params, *programs)
    logits = params[LOCAL[0]]
    return {
        "losses": np.asarray(losses) / len(images),
        "discrete": -float(loss) / len(images),
        "logits": np.asarray(logits),
        "ink": np.asarray(params["ink_auto_loc"]),
        "rows": logits.addressable_shards[0].data.shape[0],
        "seconds": seconds,
    }


# %% [markdown]
# ## The result

# %%
if __name__ == "__main__":
    steps = 5 if page.options().short else STEPS
    runs = {size: results(devices.load(), steps, size) for size in (1, 2)}
    print(devices.table(runs, "devices"))
    print("\nIn minibatches:\n")
    in_batches = {n: results(devices.load(), steps, n, BATCH) for n in (1, 2)}
    print(devices.table(in_batches, "devices"))
    page.show(devices.draw(runs, "devices"), "past_one_device_numpyro")

# %% [markdown]
# Two devices hold half of the rows each and end at the same numbers. The two devices
# here are threads on the cores of one machine, and share its resources, so this need
# not be faster. On two GPUs, each does half of the work.
#
# In minibatches, the plate draws `subsample_size` of all rows, and AutoConcrete looks
# up their logits. The result is the same for any sharding, but a device may need rows
# of another one, which the compiler then transfers.
#
# ## An amortized guide, and several GPUs
#
# A guide that computes its logits from the image by a network has no local parameters:
# put the whole state on all devices, and each batch by rows. Nothing else changes.
#
# On several GPUs, leave out `jax_num_cpu_devices`: `jax.devices()` are the GPUs. Each
# holds its rows of logits and of Adam's moments, and a copy of `ink`, whose gradients
# the compiler adds up over the GPUs.
#
# `jax.distributed.initialize()` at the start makes the devices of several machines one
# mesh, where `jax.make_array_from_process_local_data` takes the place of `device_put`
# for the images.
