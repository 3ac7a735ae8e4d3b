"""The relaxed program in which the calls are made."""

import numpy as np

from api_sweep import sweep
from api_sweep.arguments import FIRST, SHAPES, support_size

TEMPERATURE = 0.5


def soft_arguments(backend, kind):
    """Sample the sites of a program: the arguments by name."""
    dist, array = backend.dist, backend.array
    found = {}
    for name, shape in SHAPES.items():
        size = support_size(kind, name)
        half = array(np.full(shape, 0.5))
        if kind == "booleans":
            found[name] = backend.site(name, dist.Bernoulli(half)) == 1
            continue
        if kind == "integers":
            fn = dist.Categorical(array(np.full((*shape, size), 1 / size)))
        else:
            fn = dist.Binomial(size - 1, half)
        value = backend.site(name, fn.to_event(len(shape)))
        found[name] = value + FIRST[name] if FIRST[name] else value
    return found


def point(backend, kind, probabilities):
    """The sites in log space, where they have these probabilities."""
    found = {}
    for name, p in probabilities.items():
        logs = np.log(p, out=np.full(p.shape, -1e4), where=p > 0)
        if kind == "booleans":
            logs = logs[..., 1] - logs[..., 0]
        found[f"{name}_relaxed"] = backend.array(logs)
    return found


def soft_results(host, cases, kind, probabilities):
    """What each case gives for soft arguments with these probabilities."""
    backend = host.backend

    def program():
        soft = soft_arguments(backend, kind)
        return [sweep.attempt(host, case, soft) for case in cases]

    relaxed = backend.package.relax(program, TEMPERATURE)
    at_point = backend.condition(relaxed, point(backend, kind, probabilities))
    with sweep.quiet():
        return backend.call(at_point)
