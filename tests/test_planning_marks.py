"""plan_sites: what the host refuses, what the model marks, and what is an error."""

import math

import numpy as np
import pytest
from planned import (
    DATA,
    T,
    chain,
    classes,
    loss_of,
    mixture,
    near,
    plan,
    row,
)

from concrete_core.planning.plan import TotalCost

# --- what the host refuses


def enumerated(backend, model, nesting=1):
    """The loss if every site were enumerated, whatever comes of it."""
    package = backend.package
    nothing = TotalCost(0, "", 0)
    hybrid = package.Plan(plan(backend, model).decisions, nothing, nothing, 1)
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
    assert row(planned, "a").reason == "set by the model"
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

    with pytest.raises(ValueError, match=r"'b' is set to be enum.*cannot.*to_event"):
        plan(backend, model)


def test_marks_beyond_the_dims_are_an_error(backend):
    def model():
        for i in range(3):
            classes(backend, f"z_{i}", 2, enumerate="parallel")

    with pytest.raises(
        ValueError, match=r"3 sites set to be enum.*'z_2'.*2 \(max_dims\)"
    ):
        plan(backend, model, max_dims=2)


def test_a_budget_is_positive(backend):
    with pytest.raises(ValueError, match="above zero, not 0"):
        plan(backend, mixture(backend), budget=0)


def test_relaxed_sites_have_the_default_temperature(backend):
    planned = plan(backend, chain(backend, 3), budget=4)
    sites = backend.trace(planned.apply(chain(backend, 3)))
    found = [
        float(backend.numpy(site["fn"].temperature))
        for name, site in sites.items()
        if name.endswith("_relaxed")
    ]
    assert found == pytest.approx([0.2] * len(planned.relaxed))
