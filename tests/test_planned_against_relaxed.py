"""The benchmark of the factorial model judges as brute force does, at a small size."""

import functools
import itertools
from importlib import import_module

import numpy as np
import pytest
from scipy import special, stats

from benchmarks.planned_against_relaxed import abridged, log_evidence, margin, simulate

CHAINS, STATES, LENGTH = 3, 3, 3
BUDGET = STATES**2  # two of the chains
SERIES = simulate(CHAINS, STATES, LENGTH, features=2, seed=5)
SUMMED = tuple(f"z{c}_{t}" for t in range(LENGTH) for c in (0, 1))
PATHS = np.array(list(itertools.product(range(STATES), repeat=LENGTH)))


def log_prior(c):
    """The log-probability of every path of a chain."""
    first, move = np.log(SERIES.first[c]), np.log(SERIES.move[c])
    return first[PATHS[:, 0]] + move[PATHS[:, :-1], PATHS[:, 1:]].sum(1)


def outer_sum(terms):
    """Sums of every combination of elements, an axis for each term."""
    return functools.reduce(np.add.outer, terms)


def log_joint():
    """The log-density of the data and all paths, an axis for each chain."""
    a, b, c = (x[PATHS] for x in SERIES.locs)
    means = a[:, None, None] + b[:, None] + c
    seen = stats.norm.logpdf(SERIES.seen, means).sum((-1, -2))
    return outer_sum([log_prior(c) for c in range(CHAINS)]) + seen


def log_guide(probs, c):
    """The log-probability that a mean-field guide gives to every path of a chain."""
    steps = range(LENGTH)
    return sum(np.log(probs[f"z{c}_{t}"])[PATHS[:, t]] for t in steps)


def expected_bound(probs, summed):
    """The discrete ELBO by brute force, with the first two chains summed out or not."""
    joint = log_joint()
    if summed:
        own, joint = log_guide(probs, 2), special.logsumexp(joint, (0, 1))
    else:
        own = outer_sum([log_guide(probs, c) for c in range(CHAINS)])
    return (np.exp(own) * (joint - own)).sum()


def test_the_recursion_has_the_evidence_of_brute_force():
    np.testing.assert_allclose(
        log_evidence(SERIES), special.logsumexp(log_joint()), rtol=1e-12
    )


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("planned", [False, True], ids=["all relaxed", "planned"])
def test_bounds_are_those_of_brute_force(backend, planned):
    host = import_module(f"benchmarks.on_{backend.name}.planned_against_relaxed")
    plan = host.plan(SERIES, budget=BUDGET)
    assert plan.enumerated == SUMMED
    trained = host.train(SERIES, plan if planned else None, steps=10)
    probs = host.probabilities(trained)
    assert len(probs) == (LENGTH if planned else CHAINS * LENGTH)
    for summed in [plan.enumerated] if planned else [(), plan.enumerated]:
        found = host.bounds(SERIES, trained, summed, draws=300)
        expected = expected_bound(probs, summed)
        assert abs(margin(found, np.full(2, expected))[0]) < 5 * found.std() / 300**0.5
        assert expected < log_evidence(SERIES)


def test_the_short_table_tells_how_many_sites_it_leaves_out(backend):
    host = import_module(f"benchmarks.on_{backend.name}.planned_against_relaxed")
    text = abridged(host.plan(SERIES, budget=BUDGET))
    assert "\nz2_1" in text
    assert "\nz2_2" not in text
    assert "and 3 sites of later steps" in text
    assert "budget: 9 elements" in text
