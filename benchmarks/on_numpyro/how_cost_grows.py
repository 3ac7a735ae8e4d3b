"""Jitted steps of SVI with NumPyro along a size, by each method."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.funsor import config_enumerate, markov
from numpyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO

from numpyro_concrete import REBAR, RLOO, relax

SITES, STATES = 100, 4
Programs = tuple[Callable[[], Any], Callable[[], Any]]


def step(family: str, method: str, size: int) -> Callable[[], None]:
    """Return a function that takes one step."""
    model, guide = FAMILIES[family](size)
    nesting = int(family in ("sites", "values"))
    elbo: Any = {
        "relaxed": Trace_ELBO(),
        "enumerated": TraceEnum_ELBO(max_plate_nesting=nesting),
        "RLOO": RLOO(num_particles=2),
        "REBAR": REBAR(),
    }[method]
    if method == "relaxed":
        model, guide = (
            relax(model, 1 / 2, scoring="concrete"),
            relax(guide, 2 / 3, scoring="concrete"),
        )
    if method == "enumerated":
        model, guide = config_enumerate(model), lambda: None
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), elbo)
    state = [jax.jit(svi.init)(jax.random.key(0))]
    update = jax.jit(lambda state: svi.update(state)[0])

    def step() -> None:
        state[0] = jax.block_until_ready(update(state[0]))

    return step


def binary(size: int) -> Programs:
    """Sites of two values in a plate."""
    seen = jnp.linspace(-2.0, 2.0, size)

    def model():
        locs = numpyro.param("locs", jnp.array([-1.0, 1.5]))
        with numpyro.plate("sites", size):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=seen)

    def guide():
        logits = numpyro.param("logits", jnp.zeros(size))
        with numpyro.plate("sites", size):
            numpyro.sample("z", dist.Bernoulli(logits=logits))

    return model, guide


def classes(values: int) -> Programs:
    """A hundred sites of many values in a plate."""
    seen = jnp.linspace(-2.0, 2.0, SITES)

    def model():
        locs = numpyro.param("locs", jnp.linspace(-3.0, 3.0, values))
        with numpyro.plate("sites", SITES):
            z = numpyro.sample("z", dist.Categorical(logits=jnp.zeros(values)))
            numpyro.sample("x", dist.Normal(locs[z], 1.0), obs=seen)

    def guide():
        logits = numpyro.param("logits", jnp.zeros((SITES, values)))
        with numpyro.plate("sites", SITES):
            numpyro.sample("z", dist.Categorical(logits=logits))

    return model, guide


def chain(length: int) -> Programs:
    """Four states, one after another."""
    seen = jnp.linspace(-2.0, 2.0, length)
    move = (jnp.ones((STATES, STATES)) + 3 * jnp.eye(STATES)) / (STATES + 3)

    def model():
        locs = numpyro.param("locs", jnp.linspace(-2.0, 2.0, STATES))
        probs = move[0]
        for t in markov(range(length)):
            z = numpyro.sample(f"z_{t}", dist.Categorical(probs))
            numpyro.sample(f"x_{t}", dist.Normal(locs[z], 1.0), obs=seen[t])
            probs = move[z]

    def guide():
        logits = numpyro.param("logits", jnp.zeros((length, STATES)))
        # `logits[t]` has a gradient of the size of all logits at each step.
        for t, row in enumerate(jnp.unstack(logits)):
            numpyro.sample(f"z_{t}", dist.Categorical(logits=row))

    return model, guide


def coupled(size: int) -> Programs:
    """Binary sites that explain one number, so that none can be marginalized alone."""

    def model():
        weights = numpyro.param("weights", jnp.linspace(-1.0, 1.5, size))
        total = jnp.zeros(())
        for n, weight in enumerate(jnp.unstack(weights)):
            z = numpyro.sample(f"z_{n}", dist.Bernoulli(0.4))
            total = total + weight * z
        numpyro.sample("x", dist.Normal(total, 1.0), obs=1.2)

    def guide():
        logits = numpyro.param("logits", jnp.zeros(size))
        for n, logit in enumerate(jnp.unstack(logits)):
            numpyro.sample(f"z_{n}", dist.Bernoulli(logits=logit))

    return model, guide


FAMILIES = {
    "sites": binary,
    "values": classes,
    "chain": chain,
    "coupled": coupled,
}
