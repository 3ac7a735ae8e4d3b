"""Steps of SVI with Pyro, relaxed by `relax` and manually."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import example_models
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import biject_to

from pyro_concrete import ExpConcrete, LogitBinaryConcrete, relax

torch.set_default_dtype(torch.float64)

STEPS = 20
MODEL_T, GUIDE_T = torch.tensor(0.5), torch.tensor(2 / 3)


def steps(name: str) -> tuple[Callable, Callable]:
    """Return functions that take one step each, with `relax` and relaxed manually."""
    model = example_models.model("pyro", name)
    data = example_models.ENTRIES[name].data()
    args = [torch.as_tensor(x) if isinstance(x, np.ndarray) else x for x in data]
    sites = _latent_sites(model, args)
    guides = (_guide(name, sites, by_hand=x) for x in (False, True))
    relaxed = _svi(
        relax(model, MODEL_T, scoring="concrete"),
        relax(next(guides), GUIDE_T, scoring="concrete"),
    )
    by_hand = _svi(globals()[name], next(guides))
    return (lambda: relaxed(*args)), (lambda: by_hand(*args))


def _svi(model: Callable, guide: Callable) -> Callable:
    optimizer = pyro.optim.Adam({"lr": 1e-3})
    return SVI(model, guide, optimizer, Trace_ELBO()).step


def _latent_sites(model: Callable, args: list) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    trace = poutine.trace(model).get_trace(*args)
    latent = (s for s in trace.nodes.values() if s["type"] == "sample")
    plate = "_Subsample"
    return [
        s for s in latent if not s["is_observed"] and type(s["fn"]).__name__ != plate
    ]


def _guide(model: str, sites: list[dict[str, Any]], *, by_hand: bool) -> Callable:
    """Free logits at discrete sites and points at the others, in the model's plates."""
    starts = {s["name"]: _start(s) for s in sites}

    def guide(*_: Any) -> None:
        plates: dict[str, Any] = {}
        for site in sites:
            name, fn = site["name"], site["fn"]
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    if frame.name not in plates:
                        size, dim = frame.size, frame.dim
                        plates[frame.name] = pyro.plate(frame.name, size, dim=dim)
                    stack.enter_context(plates[frame.name])
                value = pyro.param(f"{model}_{name}_{by_hand}", starts[name])
                pyro.sample(*_factor(name, fn, value, by_hand=by_hand))

    return guide


def _start(site: dict[str, Any]) -> torch.Tensor:
    fn, value = site["fn"], site["value"]
    if not fn.support.is_discrete:
        return biject_to(fn.support).inv(value).detach().clone()
    size = () if _is_bit(fn) else (fn.enumerate_support(expand=False).shape[0],)
    return 0.3 * torch.randn(value.shape + size)


def _factor(name: str, fn: Any, value: torch.Tensor, *, by_hand: bool) -> tuple:
    if not fn.support.is_discrete:
        point = biject_to(fn.support)(value)
        return name, dist.Delta(point, event_dim=fn.event_dim)
    if by_hand:
        family = LogitBinaryConcrete if _is_bit(fn) else ExpConcrete
        free, name = family(GUIDE_T, logits=value), f"{name}_relaxed"
    else:
        family = dist.Bernoulli if _is_bit(fn) else dist.Categorical
        free = family(logits=value)
    return name, free.to_event(fn.event_dim)


def _is_bit(fn: Any) -> bool:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Bernoulli)


# --- the hand-written models ---------------------------------------------------------


def _one_of(name: str, **weights: torch.Tensor) -> torch.Tensor:
    return pyro.sample(f"{name}_relaxed", ExpConcrete(MODEL_T, **weights)).exp()


def _bit(name: str, **weights: torch.Tensor) -> torch.Tensor:
    fn = LogitBinaryConcrete(MODEL_T, **weights)
    return pyro.sample(f"{name}_relaxed", fn).sigmoid()


def gaussian_mixture(data):
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([3.0, 2.0, 1.0])))
    with pyro.plate("components", 3, dim=-1):
        locs = pyro.sample("locs", dist.Normal(torch.tensor([-1.0, 0.0, 2.0]), 2.0))
        scales = pyro.sample("scales", dist.LogNormal(-0.5, 0.3))
    with pyro.plate("data", len(data), dim=-1):
        z = _one_of("z", probs=weights)
        pyro.sample("x", dist.Normal(z @ locs, z @ scales), obs=data)


def two_component_mixture(data):
    weight = pyro.sample("weight", dist.Beta(2.0, 3.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("components", 2, dim=-1):
        locs = pyro.sample("locs", dist.Normal(torch.tensor([0.0, 3.0]), 2.0))
    with pyro.plate("data", len(data), dim=-1):
        z = _bit("z", probs=weight)
        wide = z * 1.1 * scale + (1 - z) * scale
        loc = z * locs[1] + (1 - z) * locs[0]
        pyro.sample("x", dist.Normal(loc, wide), obs=data)


def joint_mixture(first, second, group, centers):
    table = pyro.sample("table", dist.Normal(centers, 1.0).to_event(2))
    effect = pyro.sample("effect", dist.Normal(0.3, 1.5).expand([4, 3]).to_event(2))
    with pyro.plate("units", len(first), dim=-1):
        kind = _one_of("kind", probs=torch.tensor([0.5, 0.3, 0.2]))
        logits = torch.tensor([[0.0, 0.4], [0.3, -0.2], [-0.5, 0.5]])
        state = _one_of("state", logits=kind @ logits)
        loc = ((kind @ table) * state).sum(-1)
        pyro.sample("first", dist.Normal(loc, 0.5), obs=first)
        loc = (effect[group] * kind).sum(-1)
        pyro.sample("second", dist.Normal(loc, 0.4), obs=second)


def hmm_loop(data, trans, locs):
    probs = trans[0]
    for t in range(len(data)):
        x = _one_of(f"x_{t}", probs=probs)
        pyro.sample(f"y_{t}", dist.Normal(x @ locs, 0.6), obs=data[t])
        probs = x @ trans


def change_point(counts):
    early = pyro.sample("early", dist.Gamma(4.0, 1.0))
    late = pyro.sample("late", dist.Gamma(2.0, 1.0))
    tau = _one_of("tau", logits=torch.zeros(len(counts)))
    with pyro.plate("days", len(counts), dim=-1):
        after = 1 - tau.cumsum(-1)  # P(tau > day)
        rate = after * early + (1 - after) * late
        pyro.sample("x", dist.Poisson(rate), obs=counts)


def dawid_skene(annotator, responses, answered):
    prior = torch.full((4, 4), 1.2) + 3 * torch.eye(4)
    with pyro.plate("annotators", 5, dim=-2), pyro.plate("classes", 4, dim=-1):
        confusion = pyro.sample("confusion", dist.Dirichlet(prior))
    weights = torch.tensor([2.0, 1.5, 1.2, 1.1])
    prevalence = pyro.sample("prevalence", dist.Dirichlet(weights))
    with pyro.plate("items", len(responses), dim=-2):
        c = _one_of("c", probs=prevalence)
        with (
            pyro.plate("positions", len(annotator), dim=-1),
            poutine.mask(mask=answered),
        ):
            probs = (c.unsqueeze(-1) * confusion[annotator]).sum(-2)
            pyro.sample("y", dist.Categorical(probs), obs=responses)


def mace(answers):
    num_annotators, num_items = answers.shape
    annotators = pyro.plate("annotators", num_annotators, dim=-2)
    items = pyro.plate("items", num_items, dim=-1)
    with annotators:
        spamming = pyro.sample("spamming", dist.Beta(1.0, 2.0))
        prior = dist.Dirichlet(torch.tensor([1.5, 1.0, 1.0]))
        strategy = pyro.sample("strategy", prior)
    with items:
        c = _one_of("c", probs=torch.tensor([0.5, 0.3, 0.2]))
    careful = 0.94 * c + 0.02
    with annotators, items:
        s = _bit("s", probs=spamming).unsqueeze(-1)
        probs = (1 - s) * careful + s * strategy
        pyro.sample("y", dist.Categorical(probs), obs=answers)


def sigmoid_belief_net(pixels, top, bottom):
    bias = pyro.sample("bias", dist.Normal(-torch.ones(8), 1.0).to_event(1))
    logits = torch.tensor([-0.5, 0.2, 0.6, -1.0])
    with pyro.plate("data", len(pixels), dim=-1):
        fn = LogitBinaryConcrete(MODEL_T, logits=logits).to_event(1)
        h2 = pyro.sample("h2_relaxed", fn).sigmoid()
        fn = LogitBinaryConcrete(MODEL_T, logits=h2 @ top - 0.3).to_event(1)
        h1 = pyro.sample("h1_relaxed", fn).sigmoid()
        pixel = dist.Bernoulli(logits=h1 @ bottom + bias).to_event(1)
        pyro.sample("x", pixel, obs=pixels)
