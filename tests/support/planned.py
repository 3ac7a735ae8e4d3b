"""Small models for `plan_sites`, written once against a backend, and their guides."""

import sys

import numpy as np
from scipy import special, stats

T = 0.5
_RNG = np.random.default_rng(7)
TABLES = {k: _RNG.dirichlet(np.ones(k), size=k) for k in (2, 4)}
LOCS = _RNG.normal(size=50)
DATA = _RNG.normal(size=60)


def plan(backend, model, *args, **options):
    return backend.package.plan_sites(model, args=args, **options)


def plan_and_count(backend, model, **options):
    """A plan, and the number of calls of Python functions that the planner made."""
    planning = f"{backend.package.__name__}.planning", "concrete_core.planning"
    calls = 0

    def count(frame, event, _):
        nonlocal calls
        module = frame.f_globals.get("__name__", "")  # generated code has none
        calls += event == "call" and module.startswith(planning)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        planned = plan(backend, model, **options)
    finally:
        sys.setprofile(before)
    return planned, calls


def row(planned, name):
    return next(r for r in planned.decisions if r.name == name)


def bit(backend, name, logits=0.3, **infer):
    return backend.site(name, backend.dist.Bernoulli(logits=logits), infer=infer)


def classes(backend, name, k, **infer):
    probs = backend.array(np.arange(1.0, k + 1) / (k * (k + 1) / 2))
    return backend.site(name, backend.dist.Categorical(probs), infer=infer)


def near(backend, name, loc, value=0.5):
    backend.site(name, backend.dist.Normal(loc, 1.0), obs=backend.array(value))


def index(backend, z):
    return z.long() if backend.name == "pyro" else z


def mixture(backend, **infer):
    """Five rows of one of three classes each."""

    def model():
        with backend.plate("rows", 5):
            z = classes(backend, "z", 3, **infer)
            near(backend, "x", backend.array(LOCS)[z], DATA[:5])

    return model


def chain(backend, length, k=4, steps=range):
    """A hidden Markov chain of k states, in a loop."""

    def model():
        z = 0
        table, locs = backend.array(TABLES[k]), backend.array(LOCS)
        for t in steps(length):
            z = backend.site(f"z_{t}", backend.dist.Categorical(table[z]))
            near(backend, f"x_{t}", locs[z], DATA[t])

    return model


def factorial(backend, chains, k, steps):
    """Chains that are independent before their sum is seen."""

    def model():
        zs = [0] * chains
        table, locs = backend.array(TABLES[k]), backend.array(LOCS)
        for t in range(steps):
            for c in range(chains):
                fn = backend.dist.Categorical(table[zs[c]])
                zs[c] = backend.site(f"z{c}_{t}", fn)
            near(backend, f"x_{t}", sum(locs[z] for z in zs), DATA[t])

    return model


def guide_of(backend, planned, bits=False):
    """A discrete guide for the sites that a plan relaxes."""

    def guide():
        for name in planned.relaxed:
            size = () if bits else row(planned, name).support_size
            logits = backend.param(f"{name}_logits", backend.array(np.zeros(size)))
            family = backend.dist.Bernoulli if bits else backend.dist.Categorical
            backend.site(name, family(logits=logits))

    return guide


def loss_of(backend, planned, model, guide=None, nesting=0):
    """The loss of a step of TraceEnum_ELBO with a plan applied."""
    hybrid = planned.apply(model, T)
    guide = planned.apply(guide or guide_of(backend, planned), T)
    losses, _ = backend.train(
        "TraceEnum", hybrid, guide, steps=1, max_plate_nesting=nesting
    )
    return losses[0]


def evidence_of_chain(length, k=4):
    """Log-evidence of `chain`, by the forward recursion."""
    message = np.log(TABLES[k][0])
    for t in range(length):
        if t:
            message = special.logsumexp(message[:, None] + np.log(TABLES[k]), 0)
        message = message + stats.norm.logpdf(DATA[t], LOCS[:k])
    return special.logsumexp(message)


def second_order(backend, length):
    """Bits that depend on the last two."""

    def model():
        logits = backend.array([-0.4, 0.3])
        a = b = 0
        for t in range(length):
            z = bit(backend, f"z_{t}", logits[a] + logits[b])
            a, b = b, index(backend, z)
            near(backend, f"x_{t}", logits[b], DATA[t])

    return model
