"""Trains programs with NumPyro on a mesh of two devices, and on one as anybody would.

What lies where after training is checked here, for arrays lose it when they are saved.
"""

import sys
from collections import ChainMap

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import past_one_device_numpyro as page
from jax import random
from numpyro.infer import SVI, Trace_ELBO, init_to_sample

from numpyro_concrete import AutoConcrete, StraightThrough, relax, schedules
from parts import BATCH, DATA, PRIOR, STEPS

SCHEDULE = schedules.Exponential(1.0, 0.3, num_steps=STEPS)
DEVICES = 2
LOCAL = ("z_auto_logits", "bit_auto_logits", "shift_auto_loc", "shift_auto_scale")


def model(data, size=None):
    locs = numpyro.sample("locs", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    with numpyro.plate("rows", len(data), subsample_size=size) as rows:
        z = numpyro.sample("z", dist.Categorical(logits=jnp.asarray(PRIOR)))
        bit = numpyro.sample("bit", dist.Bernoulli(0.4))
        shift = numpyro.sample("shift", dist.Normal(0.3, 0.5))
        loc = locs[z] + jnp.where(bit == 1, shift, -0.2)
        numpyro.sample("x", dist.Normal(loc, 0.7), obs=data[rows])


def small(data, size=None):
    """The discrete site alone, which compiles quickly."""
    locs = numpyro.param("locs", jnp.array([-1.0, 0.2, 1.1]))
    with numpyro.plate("rows", len(data)):
        z = numpyro.sample("z", dist.Categorical(logits=jnp.asarray(PRIOR)))
        numpyro.sample("x", dist.Normal(locs[z], 0.7), obs=data)


def guide(data, size=None):
    """Local sites by functions of the data, so that all parameters are shared."""
    slopes = numpyro.param("slopes", jnp.array([0.5, -0.4, 0.1, 0.3, -0.2]))
    centre = numpyro.param("centre", jnp.array([-1.0, 0.2, 1.1]))
    numpyro.sample("locs", dist.Normal(centre, 0.3).to_event(1))
    with numpyro.plate("rows", len(data), subsample_size=size) as rows:
        along = slopes * data[rows][:, None]
        numpyro.sample("z", dist.Categorical(logits=along[..., :3]))
        numpyro.sample("bit", dist.Bernoulli(logits=along[..., 3]))
        numpyro.sample("shift", dist.Normal(along[..., 4], 0.4))


def auto(temperature=SCHEDULE, model=model, **options):
    relaxed = relax(model, temperature, **options)
    return relaxed, AutoConcrete(relaxed, init_loc_fn=init_to_sample)


def amortised():
    return relax(model, SCHEDULE), relax(guide, schedules.Learned(0.6))


# The programs, and the size of their minibatches.
CASES = {
    "small": (lambda: auto(model=small), None),
    "auto": (auto, None),
    "auto_in_minibatches": (auto, BATCH),
    "straight_through": (lambda: auto(0.6, estimator=StraightThrough()), None),
    "amortised": (amortised, None),
}


def train(name):
    """Parameters and losses on one device, and on the devices of a mesh."""
    make, size = CASES[name]
    data = jnp.asarray(DATA)
    optim = schedules.count_steps(optax.sgd(0.02, momentum=0.9))
    svi = SVI(*make(), optim, Trace_ELBO())
    state = svi.init(random.key(0), data, size)

    def run(state, data):
        options = {"init_state": state, "progress_bar": False}
        return svi.run(random.key(1), STEPS, data, size, **options)

    whole = run(state, data)
    rows, copies = page.shardings(DEVICES)
    state = page.placed(state, rows, copies, LOCAL)
    parts = run(state, jax.device_put(data, rows))
    check_places(parts.params)
    return arrays(name, whole), arrays(name, parts)


def arrays(name, result):
    found = {**result.params, "losses": result.losses}
    return {f"{name}/{k}": np.asarray(v) for k, v in found.items()}


def check_places(params):
    """A device holds its rows of local parameters, and all of the others."""
    for name, x in params.items():
        assert len(x.sharding.device_set) == DEVICES, name
        parts = [shard.data.shape for shard in x.addressable_shards]
        first, *rest = x.shape or (None,)
        own = (first // DEVICES, *rest) if name in LOCAL else x.shape
        assert parts == [own] * DEVICES, (name, parts)


def main(out, *names):
    numpyro.enable_x64()
    runs = zip(*map(train, names), strict=True)
    for name, found in zip(("whole", "parts"), runs, strict=True):
        np.savez(f"{out}/{name}.npz", **dict(ChainMap(*found)))


if __name__ == "__main__":
    main(*sys.argv[1:])
