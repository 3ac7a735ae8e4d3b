"""Jitted steps of SVI with NumPyro, relaxed by `relax` and manually."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import example_models
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.nn import sigmoid
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer import SVI, Trace_ELBO

from numpyro_concrete import ExpConcrete, LogitBinaryConcrete, relax

jax.config.update("jax_enable_x64", True)

STEPS = 300
MODEL_T, GUIDE_T = 0.5, 2 / 3


def steps(name: str) -> tuple[Callable, Callable]:
    """Return functions that take one step each, with `relax` and relaxed manually."""
    model = example_models.model("numpyro", name)
    data = example_models.ENTRIES[name].data()
    args = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in data]
    trace = handlers.trace(handlers.seed(model, 0)).get_trace(*args)
    guides = [_guide(trace, by_hand=x) for x in (False, True)]
    relaxed = (
        relax(model, MODEL_T, scoring="concrete"),
        relax(guides[0], GUIDE_T, scoring="concrete"),
    )
    by_hand = globals()[name], guides[1]
    return _step(*relaxed, args), _step(*by_hand, args)


def _step(model: Callable, guide: Callable, args: list) -> Callable:
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    state = [jax.jit(lambda key: svi.init(key, *args))(jax.random.key(0))]
    update = jax.jit(lambda state: svi.update(state, *args)[0])

    def step() -> None:
        state[0] = jax.block_until_ready(update(state[0]))

    return step


def _guide(trace: dict[str, Any], *, by_hand: bool) -> Callable:
    """Free logits at discrete sites and points at the others, in the model's plates."""
    kinds = {name: s for name, s in trace.items() if s["type"] == "sample"}
    sites = [s for s in kinds.values() if not s["is_observed"]]
    starts = {s["name"]: _start(s, i) for i, s in enumerate(sites)}

    def guide(*_: Any) -> None:
        plates: dict[str, Any] = {}
        for site in sites:
            name, fn = site["name"], site["fn"]
            with ExitStack() as stack:
                for frame in reversed(site["cond_indep_stack"]):
                    if frame.name not in plates:
                        size, dim = frame.size, frame.dim
                        plates[frame.name] = numpyro.plate(frame.name, size, dim=dim)
                    stack.enter_context(plates[frame.name])
                value = numpyro.param(f"{name}_at", starts[name])
                numpyro.sample(*_factor(name, fn, value, by_hand=by_hand))

    return guide


def _start(site: dict[str, Any], seed: int) -> jax.Array:
    fn, value = site["fn"], site["value"]
    if not fn.support.is_discrete:
        return biject_to(fn.support)._inverse(value)
    size = () if _is_bit(fn) else (fn.enumerate_support(expand=False).shape[0],)
    return 0.3 * jax.random.normal(jax.random.key(seed), value.shape + size)


def _factor(name: str, fn: Any, value: jax.Array, *, by_hand: bool) -> tuple:
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
    return type(fn).__name__.startswith("Bernoulli")


# --- the hand-written models ---------------------------------------------------------


def _one_of(name: str, **weights: jax.Array) -> jax.Array:
    point = numpyro.sample(f"{name}_relaxed", ExpConcrete(MODEL_T, **weights))
    return jnp.exp(point)


def _bit(name: str, event_dim: int = 0, **weights: jax.Array) -> jax.Array:
    fn = LogitBinaryConcrete(MODEL_T, **weights).to_event(event_dim)
    return sigmoid(numpyro.sample(f"{name}_relaxed", fn))


def gaussian_mixture(data):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([3.0, 2.0, 1.0])))
    with numpyro.plate("components", 3):
        locs = numpyro.sample("locs", dist.Normal(jnp.array([-1.0, 0.0, 2.0]), 2.0))
        scales = numpyro.sample("scales", dist.LogNormal(-0.5, 0.3))
    with numpyro.plate("data", len(data)):
        z = _one_of("z", probs=weights)
        numpyro.sample("x", dist.Normal(z @ locs, z @ scales), obs=data)


def two_component_mixture(data):
    weight = numpyro.sample("weight", dist.Beta(2.0, 3.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with numpyro.plate("components", 2):
        locs = numpyro.sample("locs", dist.Normal(jnp.array([0.0, 3.0]), 2.0))
    with numpyro.plate("data", len(data)):
        z = _bit("z", probs=weight)
        wide = z * 1.1 * scale + (1 - z) * scale
        loc = z * locs[1] + (1 - z) * locs[0]
        numpyro.sample("x", dist.Normal(loc, wide), obs=data)


def joint_mixture(first, second, group, centers):
    with numpyro.plate("kinds", 3, dim=-2), numpyro.plate("states", 2, dim=-1):
        table = numpyro.sample("table", dist.Normal(centers, 1.0))
    with numpyro.plate("groups", 4, dim=-2), numpyro.plate("kinds_", 3, dim=-1):
        effect = numpyro.sample("effect", dist.Normal(0.3, 1.5))
    with numpyro.plate("units", len(first), dim=-1):
        kind = _one_of("kind", probs=jnp.array([0.5, 0.3, 0.2]))
        logits = jnp.array([[0.0, 0.4], [0.3, -0.2], [-0.5, 0.5]])
        state = _one_of("state", logits=kind @ logits)
        loc = ((kind @ table) * state).sum(-1)
        numpyro.sample("first", dist.Normal(loc, 0.5), obs=first)
        loc = (effect[group] * kind).sum(-1)
        numpyro.sample("second", dist.Normal(loc, 0.4), obs=second)


def hmm_loop(data, trans, locs):
    probs = trans[0]
    for t in range(len(data)):
        x = _one_of(f"x_{t}", probs=probs)
        numpyro.sample(f"y_{t}", dist.Normal(x @ locs, 0.6), obs=data[t])
        probs = x @ trans


def change_point(counts):
    early = numpyro.sample("early", dist.Gamma(4.0, 1.0))
    late = numpyro.sample("late", dist.Gamma(2.0, 1.0))
    tau = _one_of("tau", logits=jnp.zeros(len(counts)))
    with numpyro.plate("days", len(counts)):
        after = 1 - tau.cumsum(-1)  # P(tau > day)
        rate = after * early + (1 - after) * late
        numpyro.sample("x", dist.Poisson(rate), obs=counts)


def dawid_skene(annotator, responses, answered):
    prior = jnp.full((4, 4), 1.2) + 3 * jnp.eye(4)
    with numpyro.plate("annotators", 5, dim=-2), numpyro.plate("classes", 4, dim=-1):
        confusion = numpyro.sample("confusion", dist.Dirichlet(prior))
    weights = jnp.array([2.0, 1.5, 1.2, 1.1])
    prevalence = numpyro.sample("prevalence", dist.Dirichlet(weights))
    with numpyro.plate("items", len(responses), dim=-2):
        c = _one_of("c", probs=prevalence)
        positions = numpyro.plate("positions", len(annotator), dim=-1)
        with positions, handlers.mask(mask=answered):
            probs = (c[..., None] * confusion[annotator]).sum(-2)
            numpyro.sample("y", dist.Categorical(probs), obs=responses)


def mace(answers):
    num_annotators, num_items = answers.shape
    annotators = numpyro.plate("annotators", num_annotators, dim=-2)
    items = numpyro.plate("items", num_items, dim=-1)
    with annotators:
        spamming = numpyro.sample("spamming", dist.Beta(1.0, 2.0))
        prior = dist.Dirichlet(jnp.array([1.5, 1.0, 1.0]))
        strategy = numpyro.sample("strategy", prior)
    with items:
        c = _one_of("c", probs=jnp.array([0.5, 0.3, 0.2]))
    careful = 0.94 * c + 0.02
    with annotators, items:
        s = _bit("s", probs=spamming)[..., None]
        probs = (1 - s) * careful + s * strategy
        numpyro.sample("y", dist.Categorical(probs), obs=answers)


def sigmoid_belief_net(pixels, top, bottom):
    bias = numpyro.sample("bias", dist.Normal(-jnp.ones(8), 1.0).to_event(1))
    logits = jnp.array([-0.5, 0.2, 0.6, -1.0])
    with numpyro.plate("data", len(pixels)):
        h2 = _bit("h2", 1, logits=logits)
        h1 = _bit("h1", 1, logits=h2 @ top - 0.3)
        pixel = dist.Bernoulli(logits=h1 @ bottom + bias).to_event(1)
        numpyro.sample("x", pixel, obs=pixels)
