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


def run_relaxed(host, cases, kind, at_point):
    """Make all calls in one relaxed program.

    Returns:
        For each case the kinds of its leaves, or the error that it raised; and by the
        number of a case its leaves, soft ones as their mean.
    """
    backend, outcomes = host.backend, []

    def program():
        soft, arrays = soft_arguments(backend, kind), {}
        for number, case in enumerate(cases):
            try:
                leaves, kinds = sweep.leaves_and_kinds(host, case, soft)
            except Exception as error:
                outcomes.append(error)
            else:
                outcomes.append(kinds)
                arrays[number] = leaves
        return arrays

    relaxed = backend.package.relax(program, TEMPERATURE)
    return outcomes, backend.call(backend.condition(relaxed, at_point))


def results_of(host, outcomes, arrays):
    """For each case the leaves of its result, or the error."""
    results = []
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, Exception):
            results.append(outcome)
            continue
        pairs = zip(arrays[number], outcome, strict=True)
        try:
            leaves = [sweep.Leaf(np.asarray(host.numpy(x)), k) for x, k in pairs]
        except TypeError as error:  # it has no mean
            leaves = error
        results.append(leaves)
    return results
