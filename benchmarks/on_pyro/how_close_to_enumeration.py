"""Train the test models with Pyro, enumerated and relaxed."""

from typing import Any

import example_models
import numpy as np
import pyro
import torch
from example_models.on_pyro import guides
from pyro.infer import SVI, TraceMeanField_ELBO

from benchmarks.how_close_to_enumeration import EXACT_STEPS, PARTICLES, POLISH, STAGES
from pyro_concrete import RLOO, relax

torch.set_default_dtype(torch.float64)


def start(entry: Any, seed: int) -> dict[str, np.ndarray]:
    """Return the parameters with which training begins."""
    _, args, guide = _programs(entry, seed)
    pyro.clear_param_store()
    pyro.poutine.trace(guide).get_trace(*args)
    return _params()


def trained_by_enumeration(entry: Any, seed: int) -> float:
    """Return the discrete ELBO of a guide that is trained by enumeration."""
    model, args, guide = _programs(entry, seed)
    pyro.clear_param_store()
    guides.train_exactly(model, guide, args, entry.plates, steps=EXACT_STEPS)
    return _elbo(entry, model, guide, args)


def trained_relaxed(entry: Any, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the parameters of a guide that is trained relaxed, from these ones."""
    model, args, guide = _programs(entry)
    _set_params(guide, args, params)
    torch.manual_seed(0)
    elbo = TraceMeanField_ELBO(
        num_particles=entry.training.get("particles", PARTICLES),
        vectorize_particles=entry.broadcasts,
        max_plate_nesting=entry.plates,
    )
    for temperature, steps, first, last in STAGES:
        settings = {"scoring": "discrete", **entry.options}
        relaxed = [relax(fn, temperature, **settings) for fn in (model, guide)]
        rate = {"lr": first, "lrd": (last / first) ** (1 / steps)}
        svi = SVI(*relaxed, pyro.optim.ClippedAdam(rate), elbo)
        for _ in range(steps):
            svi.step(*args)
    return _params()


def polished(entry: Any, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the parameters of a discrete guide that is trained on from these ones."""
    model, args, guide = _programs(entry)
    _set_params(guide, args, params)
    torch.manual_seed(0)
    steps, particles, first, last = POLISH
    elbo = RLOO(
        num_particles=particles,
        vectorize_particles=entry.broadcasts,
        max_plate_nesting=entry.plates,
    )
    rate = {"lr": first, "lrd": (last / first) ** (1 / steps)}
    svi = SVI(model, guide, pyro.optim.ClippedAdam(rate), elbo)
    for _ in range(steps):
        svi.step(*args)
    return _params()


def exact_elbo(entry: Any, params: dict[str, np.ndarray]) -> float:
    """Return the discrete ELBO of a guide at these parameters."""
    model, args, guide = _programs(entry)
    _set_params(guide, args, params)
    return _elbo(entry, model, guide, args)


def _params() -> dict[str, np.ndarray]:
    return {k: v.detach().numpy().copy() for k, v in pyro.get_param_store().items()}


def _set_params(guide: Any, args: list, params: dict[str, np.ndarray]) -> None:
    pyro.clear_param_store()
    pyro.poutine.trace(guide).get_trace(*args)  # constraints of the parameters
    for name, value in params.items():
        pyro.get_param_store()[name] = torch.tensor(np.asarray(value))


def _elbo(entry: Any, model: Any, guide: Any, args: list) -> float:
    return -float(guides.exact_loss(model, guide, args, entry.plates).detach())


def _programs(entry: Any, seed: int = 0) -> tuple:
    model = example_models.model("pyro", entry.name)
    data = entry.data()
    args = [torch.as_tensor(x) if isinstance(x, np.ndarray) else x for x in data]
    return model, args, guides.mean_field(model, args, seed, options=entry.options)
