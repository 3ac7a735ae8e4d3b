"""Steps of SVI with Pyro along a size, by each method."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate

from pyro_concrete import REBAR, RLOO, relax

SITES, STATES = 100, 4
Programs = tuple[Callable[[], Any], Callable[[], Any]]


def step(family: str, method: str, size: int) -> Callable[[], None]:
    """Return a function that takes one step."""
    pyro.enable_validation(False)
    pyro.set_rng_seed(0)
    model, guide = FAMILIES[family](size)
    nesting = int(family in ("sites", "values"))
    elbo: Any = {
        "relaxed": Trace_ELBO(max_plate_nesting=nesting),
        "enumerated": TraceEnum_ELBO(max_plate_nesting=nesting),
        "RLOO": RLOO(num_particles=2, max_plate_nesting=nesting),
        "REBAR": REBAR(max_plate_nesting=nesting),
    }[method]
    if method == "relaxed":
        model, guide = (
            relax(model, 1 / 2, scoring="concrete"),
            relax(guide, 2 / 3, scoring="concrete"),
        )
    if method == "enumerated":
        model, guide = config_enumerate(model), lambda: None
    return SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo).step


def binary(size: int) -> Programs:
    """Sites of two values in a plate."""
    seen = torch.linspace(-2.0, 2.0, size)

    def model():
        locs = pyro.param("locs", torch.tensor([-1.0, 1.5]))
        with pyro.plate("sites", size):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.4)))
            pyro.sample("x", dist.Normal(locs[z.long()], 1.0), obs=seen)

    def guide():
        logits = pyro.param("logits", torch.zeros(size))
        with pyro.plate("sites", size):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    return model, guide


def classes(values: int) -> Programs:
    """A hundred sites of many values in a plate."""
    seen = torch.linspace(-2.0, 2.0, SITES)

    def model():
        locs = pyro.param("locs", torch.linspace(-3.0, 3.0, values))
        with pyro.plate("sites", SITES):
            z = pyro.sample("z", dist.Categorical(logits=torch.zeros(values)))
            pyro.sample("x", dist.Normal(locs[z], 1.0), obs=seen)

    def guide():
        logits = pyro.param("logits", torch.zeros(SITES, values))
        with pyro.plate("sites", SITES):
            pyro.sample("z", dist.Categorical(logits=logits))

    return model, guide


def chain(length: int) -> Programs:
    """Four states, one after another."""
    seen = torch.linspace(-2.0, 2.0, length)
    move = (torch.ones(STATES, STATES) + 3 * torch.eye(STATES)) / (STATES + 3)

    def model():
        locs = pyro.param("locs", torch.linspace(-2.0, 2.0, STATES))
        probs = move[0]
        for t in pyro.markov(range(length)):
            z = pyro.sample(f"z_{t}", dist.Categorical(probs))
            pyro.sample(f"x_{t}", dist.Normal(locs[z], 1.0), obs=seen[t])
            probs = move[z]

    def guide():
        logits = pyro.param("logits", torch.zeros(length, STATES))
        # `logits[t]` has a gradient of the size of all logits at each step.
        for t, row in enumerate(logits.unbind()):
            pyro.sample(f"z_{t}", dist.Categorical(logits=row))

    return model, guide


def coupled(size: int) -> Programs:
    """Binary sites that explain one number, so that none can be marginalized alone."""

    def model():
        weights = pyro.param("weights", torch.linspace(-1.0, 1.5, size))
        total = torch.zeros(())
        for n, weight in enumerate(weights.unbind()):
            z = pyro.sample(f"z_{n}", dist.Bernoulli(torch.tensor(0.4)))
            total = total + weight * z
        pyro.sample("x", dist.Normal(total, 1.0), obs=torch.tensor(1.2))

    def guide():
        logits = pyro.param("logits", torch.zeros(size))
        for n, logit in enumerate(logits.unbind()):
            pyro.sample(f"z_{n}", dist.Bernoulli(logits=logit))

    return model, guide


FAMILIES = {
    "sites": binary,
    "values": classes,
    "chain": chain,
    "coupled": coupled,
}
