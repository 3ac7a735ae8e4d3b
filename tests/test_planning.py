"""plan_sites: what enumeration would cost, and what is relaxed for it to fit."""

import math
import time
import tracemalloc

import numpy as np
import pytest
from asserts import assert_exact
from scipy import special, stats

T = 0.5
_RNG = np.random.default_rng(7)
TABLES = {k: _RNG.dirichlet(np.ones(k), size=k) for k in (2, 4)}
LOCS = _RNG.normal(size=50)
DATA = _RNG.normal(size=60)


def plan(backend, model, *args, **options):
    return backend.package.plan_sites(model, args=args, **options)


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
            size = () if bits else row(planned, name).support
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
    loss = loss_of(backend, planned, chain(backend, 60, steps=backend.markov))
    assert_exact(loss, -evidence_of_chain(60), dtype="float32")


def test_two_parents_cost_their_product(backend):
    def model():
        a, b = classes(backend, "a", 3), classes(backend, "b", 4)
        with backend.plate("rows", 5):
            loc = backend.array(LOCS)[a] + backend.array(LOCS)[b]
            near(backend, "x", loc, DATA[:5])

    planned = plan(backend, model)
    assert planned.cost_after == 3 * 4 * 5
    assert planned.driver_after == "the log-probability of 'x'"
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
    assert row(planned, "w_0").driver.startswith("the sum over w_")
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


def test_an_impossible_enumeration_is_planned_at_no_cost(backend):
    def model():
        zs = [classes(backend, f"z_{i}", 4) for i in range(40)]
        near(backend, "x", sum(1.0 * z for z in zs))

    start = time.monotonic()
    tracemalloc.start()
    planned = plan(backend, model)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - start < 15
    assert peak < 2**26
    assert planned.cost_before == 4**40
    assert planned.cost_after == 4**12 == 2**24
    assert planned.enumerated == tuple(f"z_{i}" for i in range(12))
    assert "10^24.1" in str(planned)


# --- what is relaxed


def test_a_factorial_chain_is_split_by_chains(backend):
    model = factorial(backend, 4, 2, 3)
    planned = plan(backend, model, budget=8)
    # 2^4 elements of x at each step are too many by one chain.
    assert planned.relaxed == ("z3_0", "z3_1", "z3_2")
    assert (planned.cost_before, planned.cost_after) == (16, 8)
    assert math.isfinite(loss_of(backend, planned, model))


def test_a_large_factorial_chain_is_planned_quickly(backend):
    start = time.monotonic()
    model = factorial(backend, 12, 4, 20)
    planned = plan(backend, model, budget=4**9, max_dims=240)
    assert time.monotonic() - start < 30
    assert planned.cost_before == 4**12
    assert planned.cost_after == 4**9
    expected = {f"z{c}_{t}" for c in (9, 10, 11) for t in range(20)}
    assert set(planned.relaxed) == expected


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


# --- what the host refuses


def enumerated(backend, model, nesting=1):
    """The loss if every site were enumerated, whatever comes of it."""
    package = backend.package
    hybrid = package.Plan(plan(backend, model).decisions, (0, 0), (0, 0), ("", ""), 1)
    hybrid.enumerated, hybrid.relaxed = hybrid.sites, ()
    return backend.train(
        "TraceEnum",
        hybrid.apply(model),
        lambda: None,
        steps=1,
        max_plate_nesting=nesting,
    )


def test_a_global_site_above_a_subsampled_plate_is_relaxed(backend):
    def model():
        a = classes(backend, "a", 3)
        with backend.plate("rows", 50, subsample_size=5):
            z = classes(backend, "z", 2)
            near(backend, "x", 1.0 * a + z, DATA[:5])

    with pytest.raises(ValueError, match="scale"):
        enumerated(backend, model)
    planned = plan(backend, model)
    assert (planned.relaxed, planned.enumerated) == (("a",), ("z",))
    assert planned.cost_before == math.inf
    assert "its scale is 1 and that of 'x' 10" in row(planned, "a").reason
    assert row(planned, "a").cost == math.inf
    assert math.isfinite(loss_of(backend, planned, model, nesting=1))


def test_a_site_that_is_joined_across_its_plate_is_relaxed(backend):
    def model():
        with backend.plate("rows", 5):
            z = classes(backend, "z", 2)
            near(backend, "x", 1.0 * z, DATA[:5])
        near(backend, "total", (1.0 * z).sum())

    planned = plan(backend, model)
    assert planned.relaxed == ("z",)
    assert "outside of plate 'rows'" in row(planned, "z").reason


def test_plates_that_cross_are_disentangled(backend):
    def model():
        rows, columns = (
            backend.plate("rows", 3, dim=-1),
            backend.plate("cols", 2, dim=-2),
        )
        with rows:
            a = classes(backend, "a", 3)
        with columns:
            b = classes(backend, "b", 4)
        with rows, columns:
            near(backend, "x", 1.0 * a + b, DATA[:6].reshape(2, 3))

    with pytest.raises((NotImplementedError, ValueError), match=r"plate|intractable"):
        enumerated(backend, model, nesting=2)
    planned = plan(backend, model)
    assert planned.cost_before == math.inf
    assert (planned.relaxed, planned.enumerated) == (("b",), ("a",))
    assert planned.cost_after == 3 * 3 * 2

    def guide():
        with backend.plate("cols", 2, dim=-2):
            classes(backend, "b", 4)

    assert math.isfinite(loss_of(backend, planned, model, guide, nesting=2))


def test_joined_and_unbounded_sites_are_relaxed_with_the_reason(backend):
    def model():
        bits = backend.dist.Bernoulli(logits=backend.array(np.zeros(3)))
        b = backend.site("b", bits.to_event(1))
        n = backend.site("n", backend.dist.Poisson(3.0))
        near(backend, "x", (1.0 * b).sum() + n)

    planned = plan(backend, model)
    assert planned.relaxed == ("b", "n")
    assert "to_event" in row(planned, "b").reason
    assert "not finite" in row(planned, "n").reason
    assert "truncate={'n': ...}" in row(planned, "n").reason
    hybrid = planned.apply(model, T, truncate={"n": 9})
    assert {"b_relaxed", "n_relaxed"} <= backend.trace(hybrid).keys()


def test_a_batch_axis_without_a_plate_is_relaxed(backend):
    def model():
        fn = backend.dist.Bernoulli(logits=backend.array(np.zeros(3)))
        backend.site("z", fn)

    planned = plan(backend, model)
    assert planned.relaxed == ("z",)
    assert "no plate" in row(planned, "z").reason


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
    assert row(planned, "a").driver == "the log-probability of 'x'"


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


# --- marks


def test_marks_are_kept(backend):
    def model():
        a = classes(backend, "a", 3, enumerate="parallel")
        b = classes(backend, "b", 4, relax={"temperature": 0.25})
        c = classes(backend, "c", 5, relax=False)
        d = classes(backend, "d", 6)
        near(backend, "x", 1.0 * a + b + c + d)

    planned = plan(backend, model, budget=10)
    decisions = {r.name: r.decision for r in planned.decisions}
    assert decisions == {
        "a": "enumerate",
        "b": "relax",
        "c": "leave",
        "d": "relax",
    }
    assert row(planned, "a").reason == "marked so"
    sites = backend.trace(planned.apply(model, T))
    assert sites["a"]["infer"]["enumerate"] == "parallel"
    assert sites["c"]["infer"] == {"relax": False}
    found = [float(sites[f"{z}_relaxed"]["fn"].temperature) for z in "bd"]
    assert found == [0.25, T]


def test_a_plan_is_taken_as_it_is(backend):
    model = mixture(backend)
    planned = plan(backend, model)
    sites = backend.trace(planned.apply(model))
    assert sites["z"]["infer"]["enumerate"] == "parallel"
    assert backend.trace(model)["z"]["infer"] == {}


def test_args_reach_the_model(backend):
    def model(k, scale=1.0):
        near(backend, "x", scale * classes(backend, "z", k))

    planned = backend.package.plan_sites(model, args=(3,), kwargs={"scale": 2.0})
    assert planned.cost_after == 3


def test_a_model_without_discrete_sites_has_an_empty_plan(backend):
    planned = plan(backend, lambda: None)
    assert planned.sites == planned.relaxed == planned.enumerated == ()
    assert planned.cost_before == planned.cost_after == 0


# --- errors


def test_a_budget_below_the_plates_is_an_error(backend):
    match = r"log-probability of 'z' has 5 elements by its plates alone.* budget of 4"
    with pytest.raises(ValueError, match=match):
        plan(backend, mixture(backend), budget=4)


def test_a_mark_that_does_not_fit_is_an_error(backend):
    model = mixture(backend, enumerate="parallel")
    match = r"'z' has 15 elements, more than the budget of 10.*relaxed: 'z'"
    with pytest.raises(ValueError, match=match):
        plan(backend, model, budget=10)


def test_a_mark_that_the_host_refuses_is_an_error(backend):
    def model():
        fn = backend.dist.Bernoulli(logits=backend.array(np.zeros(3))).to_event(1)
        backend.site("b", fn, infer={"enumerate": "parallel"})

    with pytest.raises(ValueError, match=r"'b' is marked.*cannot.*to_event"):
        plan(backend, model)


def test_marks_beyond_the_dims_are_an_error(backend):
    def model():
        for i in range(3):
            classes(backend, f"z_{i}", 2, enumerate="parallel")

    with pytest.raises(ValueError, match=r"3 sites marked.*'z_2'.*2 \(max_dims\)"):
        plan(backend, model, max_dims=2)


def test_a_budget_is_positive(backend):
    with pytest.raises(ValueError, match="above zero, not 0"):
        plan(backend, mixture(backend), budget=0)


def test_relaxed_sites_need_a_temperature(backend):
    planned = plan(backend, chain(backend, 3), budget=4)
    with pytest.raises(TypeError, match="temperature"):
        planned.apply(chain(backend, 3))


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
