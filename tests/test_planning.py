"""plan_sites: what enumeration would cost, and what is relaxed for it to fit."""

import math
import tracemalloc

import numpy as np
import pytest
from asserts import assert_exact
from planned import (
    DATA,
    LOCS,
    chain,
    classes,
    evidence_of_chain,
    factorial,
    guide_of,
    loss_of,
    mixture,
    near,
    plan,
    plan_and_count,
    row,
    second_order,
)

# --- what enumeration costs


def test_sites_of_a_plate_cost_their_values_times_the_plate(backend):
    planned = plan(backend, mixture(backend))
    assert (planned.sites, planned.enumerated) == (("z",), ("z",))
    assert planned.relaxed == ()
    assert planned.cost_before == planned.cost_after == 3 * 5
    assert planned.dims_before == planned.dims_after == 1


def test_a_chain_costs_the_square_of_its_states(backend):
    planned = plan(backend, chain(backend, 60), max_dims=60)
    assert len(planned.enumerated) == 60
    assert planned.cost_before == planned.cost_after == 4 * 4
    assert planned.dims_after == 60


def test_markov_reuses_dims(backend):
    planned = plan(backend, chain(backend, 60, steps=backend.markov))
    assert len(planned.enumerated) == 60
    assert (planned.cost_after, planned.dims_after) == (16, 2)
    short = chain(backend, 12, steps=backend.markov)
    loss = loss_of(backend, plan(backend, short), short)
    assert_exact(loss, -evidence_of_chain(12), dtype="float32")


def test_two_parents_cost_their_product(backend):
    def model():
        a, b = classes(backend, "a", 3), classes(backend, "b", 4)
        with backend.plate("rows", 5):
            loc = backend.array(LOCS)[a] + backend.array(LOCS)[b]
            near(backend, "x", loc, DATA[:5])

    planned = plan(backend, model)
    assert planned.cost_after == 3 * 4 * 5
    assert planned.largest_tensor_after == "the log-probability of 'x'"
    planned = plan(backend, model, budget=50)
    assert (planned.relaxed, planned.enumerated) == (("b",), ("a",))
    assert (planned.cost_before, planned.cost_after) == (60, 15)
    assert row(planned, "b").cost == 60


def test_intermediates_of_the_contraction_count(backend):
    # A loop of four: summing any one out makes a factor of two neighbours.
    def model():
        z = [classes(backend, f"z_{i}", 10) for i in range(4)]
        for i in range(4):
            near(backend, f"x_{i}", 1.0 * z[i] + z[(i + 1) % 4])
        # And a wheel of a hub and four: without the hub's dim it would be a loop.
        w = [classes(backend, f"w_{i}", 10) for i in range(5)]
        for i in range(4):
            near(backend, f"y_{i}", 1.0 * w[i] + w[(i + 1) % 4])
            near(backend, f"v_{i}", 1.0 * w[i] + w[4])

    planned = plan(backend, model)
    assert row(planned, "z_0").cost == 10**2  # its log-probabilities are pairs
    assert row(planned, "w_0").cost == 10**3
    assert row(planned, "w_0").largest_tensor.startswith("the sum over w_")
    planned = plan(backend, model, budget=500)
    assert {name[0] for name in planned.relaxed} == {"w"}
    assert planned.cost_after == 10**2


def test_plates_are_summed_inside(backend):
    # Each row's own class goes before what the rows share is multiplied over them.
    def model():
        a = classes(backend, "a", 7)
        with backend.plate("rows", 5):
            z = classes(backend, "z", 3)
            near(backend, "x", 1.0 * a + z, DATA[:5])

    planned = plan(backend, model)
    assert planned.cost_after == 7 * 3 * 5
    assert math.isfinite(loss_of(backend, planned, model, nesting=1))


def crowd(backend, sites):
    """Many classes of four that explain one number together."""

    def model():
        zs = [classes(backend, f"z_{i}", 4) for i in range(sites)]
        near(backend, "x", sum(1.0 * z for z in zs))

    return model


def test_an_impossible_enumeration_is_planned_without_its_cost(backend):
    model = crowd(backend, 40)
    tracemalloc.start()
    planned = plan(backend, model)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**26
    assert planned.cost_before == 4**40
    assert planned.cost_after == 4**12 == 2**24
    assert planned.enumerated == tuple(f"z_{i}" for i in range(12))
    assert "10^24.1" in str(planned)


def test_planning_is_no_more_work_than_the_square_of_the_sites(backend):
    # Enumeration of twenty sites more is 4^20 times the work.
    _, few = plan_and_count(backend, crowd(backend, 20), budget=4**5)
    _, many = plan_and_count(backend, crowd(backend, 40), budget=4**10)
    assert 0 < many <= 2**2 * few


# --- what is relaxed


def test_a_factorial_chain_is_split_by_chains(backend):
    model = factorial(backend, 4, 2, 3)
    planned = plan(backend, model, budget=8)
    # 2^4 elements of x at each step are too many by one chain.
    assert planned.relaxed == ("z3_0", "z3_1", "z3_2")
    assert (planned.cost_before, planned.cost_after) == (16, 8)
    assert math.isfinite(loss_of(backend, planned, model))


@pytest.mark.slow_on("numpyro")
def test_a_large_factorial_chain_is_planned_by_chains(backend):
    model = factorial(backend, 12, 4, 20)
    planned, calls = plan_and_count(backend, model, budget=4**9, max_dims=240)
    assert planned.cost_before == 4**12
    assert planned.cost_after == 4**9
    expected = {f"z{c}_{t}" for c in (9, 10, 11) for t in range(20)}
    assert set(planned.relaxed) == expected
    # Some passes over the 260 sites; one for each set of sites would be 2^240.
    assert calls < 10**6


def test_sites_without_a_dim_are_relaxed(backend):
    planned = plan(backend, second_order(backend, 60), max_dims=20)
    assert planned.cost_before == 2**3
    assert (planned.dims_before, planned.dims_after) == (60, 20)
    assert planned.enumerated == tuple(f"z_{t}" for t in range(20))
    assert "more than 20 enumeration dims" in row(planned, "z_30").reason
    default = plan(backend, second_order(backend, 60))
    assert len(default.enumerated) == (60 if backend.name == "pyro" else 25)


LENGTHS = [(8, 3), pytest.param(60, 20, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("length", "dims"), LENGTHS)
def test_a_model_with_too_many_sites_trains_as_planned(backend, length, dims):
    model = second_order(backend, length)
    planned = plan(backend, model, max_dims=dims)
    assert len(planned.relaxed) == length - dims
    guide = guide_of(backend, planned, bits=True)
    assert math.isfinite(loss_of(backend, planned, model, guide))


def test_the_exact_plan_has_the_exact_evidence(backend):
    model = chain(backend, 6)
    planned = plan(backend, model)
    assert planned.relaxed == ()
    assert_exact(loss_of(backend, planned, model), -evidence_of_chain(6))


# --- dependencies


PATHS = {
    "index": lambda be, t, z: t[z],
    "where": lambda be, t, z: be.xp.where(z == 1, t[0], t[1]),
    "matmul": lambda be, t, z: (be.xp.eye(3)[z] * 1.0) @ be.xp.ones(3),
    "arithmetic": lambda be, t, z: 0.5**z + 0.0,
    "comparison": lambda be, t, z: 1.0 * (z > 1),
    "scatter": lambda be, t, z: be.set_at(t, z, 2.0).sum(),
    "loop": lambda be, t, z: sum(t[z] for _ in range(3)),
    "vmap": lambda be, t, z: be.vmap(lambda x: x + z)(t).sum(),
    "deterministic": lambda be, t, z: be.deterministic("d", 1.0 * z),
    "stack": lambda be, t, z: be.xp.stack([z, z]).sum() * 1.0,
}


@pytest.mark.parametrize("path", PATHS)
def test_a_dependency_is_not_lost(backend, path):
    def model():
        a, b = classes(backend, "a", 3), classes(backend, "b", 5)
        table = backend.array(np.arange(3.0))
        near(backend, "x", PATHS[path](backend, table, a) + 0.0 * b)
        near(backend, "y", 1.0 * b)

    planned = plan(backend, model)
    assert row(planned, "a").cost == 3 * 5
    assert row(planned, "a").largest_tensor == "the log-probability of 'x'"


def test_a_dependency_through_data_counts(backend):
    def model():
        a, b = classes(backend, "a", 3), classes(backend, "b", 5)
        backend.site("x", backend.dist.Normal(1.0 * a, 1.0), obs=1.0 * b)

    assert plan(backend, model).cost_after == 15


def test_what_is_drawn_between_ends_a_dependency(backend):
    def model():
        a = classes(backend, "a", 3)
        loc = backend.site("loc", backend.dist.Normal(1.0 * a, 1.0))
        with backend.plate("rows", 5):
            near(backend, "x", loc, DATA[:5])

    planned = plan(backend, model)
    assert planned.cost_after == 5  # the rows, which do not depend on a
    assert row(planned, "a").cost == 3


# --- the table


def test_the_table_tells_all(backend):
    def model():
        a, b = classes(backend, "a", 3), classes(backend, "b", 4)
        with backend.plate("rows", 5):
            z = classes(backend, "z", 2)
            near(backend, "x", 1.0 * a + b + z, DATA[:5])

    planned = plan(backend, model, budget=50)
    head, _, *rows = str(planned).splitlines()
    assert head.split()[:4] == ["site", "support", "plates", "decision"]
    table = {line.split()[0]: line for line in rows[:3]}
    assert "relax" in table["b"]
    assert "'x' would have 120 elements" in table["b"]
    assert "rows = 5" in table["z"]
    assert "enumerate" in table["z"]
    assert "fits the budget" in table["z"]
    text = " ".join(rows[3:])
    assert "all enumerated: 120 elements, the log-probability of 'x'" in text
    assert "as planned: 30 elements" in text
    assert "budget: 50 elements" in text
