"""Class probabilities with Pyro, and the reference for both backends."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal, init_to_median
from pyro.ops.indexing import Vindex

from benchmarks.class_probabilities import PARTICLES, POLISH, STEPS
from pyro_concrete import RLOO, AutoConcrete, harden, relax
from pyro_concrete.schedules import Exponential, count_steps

torch.set_default_dtype(torch.float64)

DRAWS = 500


def dawid_skene(rater, rating):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(4)))
    prior = (torch.ones(4, 4) + 2 * torch.eye(4)).expand(5, 4, 4)
    confusion = pyro.sample("confusion", dist.Dirichlet(prior).to_event(2))
    with pyro.plate("items", len(rating), dim=-2):
        z = pyro.sample("z", dist.Categorical(weights))
        with pyro.plate("ratings", 7, dim=-1):
            probs = Vindex(confusion)[..., rater, z, :]
            pyro.sample("y", dist.Categorical(probs), obs=rating)


def dipper(first, seen):
    # A dim for the years: under a plate of particles it is not the last.
    phi = pyro.sample("phi", dist.Uniform(0.0, 1.0)).unsqueeze(-1)
    p = pyro.sample("p", dist.Uniform(0.0, 1.0))
    years = torch.arange(7)
    survived = phi**years * torch.where(years < 6, 1 - phi, 1.0)
    with pyro.plate("birds", len(first), dim=-2):
        z = pyro.sample("z", dist.Categorical(survived))
        living = years <= first.unsqueeze(-1) + z
        later = years > first.unsqueeze(-1)
        with pyro.plate("years", 7, dim=-1), poutine.mask(mask=later):
            pyro.sample("y", dist.Bernoulli(p * living), obs=1.0 * seen)


def trained_relaxed(name: str, args: Sequence) -> tuple[dict[str, Any], np.ndarray]:
    """Return the parameters of AutoConcrete and its class probabilities."""
    temperature = Exponential(1.0, 0.1, num_steps=STEPS)
    relaxed = relax(_model(name), temperature, scoring="discrete")
    guide = AutoConcrete(relaxed, init_loc_fn=init_to_median)
    _train(relaxed, guide, args, TraceMeanField_ELBO(num_particles=PARTICLES))
    steps, particles, *rates = POLISH
    options = {"vectorize_particles": True, "max_plate_nesting": 2}
    rloo = RLOO(num_particles=particles, **options)
    _steps(_model(name), harden(guide), args, rloo, steps, *rates)
    probs = guide.probabilities()["z"].detach().squeeze(1).numpy()
    return _by_site(), probs


def trained_by_enumeration(name: str, args: Sequence) -> float:
    """Return the discrete ELBO of the same guide, its classes enumerated."""
    model, guide = _model(name), _guide(name)
    hard = config_enumerate(harden(guide))
    _train(model, hard, args, TraceEnum_ELBO(num_particles=2, max_plate_nesting=2))
    return discrete_elbo(name, args, _by_site())


def draws_with_classes_enumerated(name: str, args: Sequence) -> dict[str, np.ndarray]:
    """Return draws of the continuous sites of a guide that knows no classes."""
    model = config_enumerate(_model(name))
    guide = AutoNormal(poutine.block(model, hide=["z"]), init_loc_fn=init_to_median)
    _train(model, guide, args, TraceEnum_ELBO(num_particles=2, max_plate_nesting=2))
    with torch.no_grad():
        draws = [guide(*_tensors(args)) for _ in range(DRAWS)]
    return {k: torch.stack([x[k] for x in draws]).numpy() for k in draws[0]}


def discrete_elbo(name: str, args: Sequence, params: dict[str, Any]) -> float:
    """Return the discrete ELBO of AutoConcrete at parameters of either backend."""
    pyro.clear_param_store()
    guide = _guide(name)
    guide(*_tensors(args))
    store = pyro.get_param_store()
    for (kind, site), value in params.items():
        store[f"AutoConcrete.{kind}.{site}"] = torch.tensor(np.asarray(value))
    # The classes are summed out, the same normal draws are taken for all.
    torch.manual_seed(1)
    elbo = TraceEnum_ELBO(max_plate_nesting=2)
    hard = config_enumerate(harden(guide))
    with torch.no_grad():
        losses = [elbo.loss(_model(name), hard, *_tensors(args)) for _ in range(DRAWS)]
    return -float(np.mean(losses))


def _model(name: str) -> Callable:
    return {"dawid_skene": dawid_skene, "dipper": dipper}[name]


def _guide(name: str) -> AutoConcrete:
    relaxed = relax(_model(name), 0.5, scoring="discrete")
    return AutoConcrete(relaxed, init_loc_fn=init_to_median)


def _train(model: Callable, guide: Callable, args: Sequence, elbo: Any) -> None:
    pyro.clear_param_store()
    torch.manual_seed(0)
    _steps(model, guide, args, elbo, STEPS, 0.05, 0.0025)


def _steps(
    model: Callable,
    guide: Callable,
    args: Sequence,
    elbo: Any,
    steps: int,
    first: float,
    last: float,
) -> None:
    """Train at a rate that falls from the first to the last."""
    decay = {"lr": first, "lrd": (last / first) ** (1 / steps)}
    svi = SVI(model, guide, count_steps(pyro.optim.ClippedAdam(decay)), elbo)
    for _ in range(steps):
        svi.step(*_tensors(args))


def _tensors(args: Sequence) -> list[torch.Tensor]:
    return [torch.as_tensor(x) for x in args]


def _by_site() -> dict[tuple[str, str], np.ndarray]:
    """Parameters by their kind and site, which both backends have."""
    found = {}
    for key, value in pyro.get_param_store().items():
        if key.startswith("AutoConcrete."):
            _, kind, site = key.split(".")
            found[kind, site] = value.detach().numpy().copy()
    return found
