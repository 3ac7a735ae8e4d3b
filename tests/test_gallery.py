"""The gallery of models: what its summary says, and that it trains what it says."""

import importlib
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize, stats

from benchmarks import variance_of_local_expectations
from benchmarks.gallery import summary
from benchmarks.gallery.__main__ import (
    MOST_EVALUATIONS,
    RESULTS,
    evaluations_in_time,
    rows_at_equal,
)
from benchmarks.gallery.entries import ENTRIES
from benchmarks.gallery.methods import METHODS, applies
from benchmarks.gallery.phases import plan_training
from benchmarks.report import read_dicts


def row(model, method, seed, elbo, log_evidence="nan"):
    return {
        "model": model,
        "method": method,
        "seed": str(seed),
        "elbo": str(elbo),
        "log_evidence": str(log_evidence),
    }


# Five data points in the README's mixture, 150 flowers.
ROWS = [
    row("readme_mixture", "a", 0, -5.0),
    row("readme_mixture", "a", 1, -6.0),
    row("readme_mixture", "b", 0, -10.0),
    row("iris_mixture", "a", 0, -430.0),
    row("iris_mixture", "b", 0, -420.0),
    row("iris_mixture", "enumeration", 0, -400.0),
]


def test_distances_are_to_the_best_run_by_data_point():
    a, b = sorted(summary.standings(ROWS), key=lambda standing: standing.method)
    # The mean of a is -5.5 on the mixture, half a nat below the best of five points.
    assert a.worst_gap == pytest.approx(0.5 / 5)
    assert a.worst_model == "readme_mixture"
    assert a.median_gap == pytest.approx((0.5 / 5 + 10 / 150) / 2)
    assert b.worst_gap == pytest.approx(5 / 5)
    # Ten nats of 420 are neither within 1 % nor within 0.05 nats by data point.
    assert (a.close, b.close) == (0.0, 0.5)


def test_the_best_may_be_a_run_that_is_not_compared():
    known = [row("iris_mixture", "c", 0, -410.0), row("topics", "a", 0, -9.0)]
    a, _ = sorted(summary.standings(ROWS, known=known), key=lambda x: x.method)
    assert a.median_gap == pytest.approx((0.5 / 5 + 20 / 150) / 2)
    _, *lines = summary.elbo_by_model(ROWS, ["a"], known=known)
    assert [line[2] for line in lines] == ["-5.00", "-410.00"]


def test_the_table_by_model_has_means_and_standard_errors():
    head, *lines = summary.elbo_by_model(ROWS, ["enumeration", "b", "a", "absent"])
    assert head == ["model", "data points", "best", "enumeration", "b", "a"]
    # The standard deviation of -5 and -6 is the root of 1/2, the error half of one.
    first, second = lines
    assert first[1:] == ["5", "-5.00", "", "-10.00", "-5.50 ± 0.50"]
    assert second[1:] == ["150", "-420.00", "-400.00", "-420.00", "-430.00"]


def test_a_value_that_is_missing_is_no_distance():
    assert summary.standings(ROWS, "log_evidence") == []


def test_the_recipe_has_the_results_of_the_method_that_it_names():
    rows = [
        row("readme_mixture", "discrete 1/2 to 0.1, then local", 0, -5.0),
        row("readme_mixture", "discrete 1/2 to 0.1", 0, -6.0),
        # A step of local expectations takes 61 evaluations there.
        row("spike_and_slab", "discrete 1/2 to 0.1, then local", 0, -200.0),
        row("spike_and_slab", "discrete 1/2 to 0.1", 0, -202.0),
    ]
    means = summary.mean_by_case(summary.with_recipe(rows), "elbo")
    assert means["readme_mixture", summary.RECIPE] == -5.0
    assert means["spike_and_slab", summary.RECIPE] == -202.0


def page_of_the_gallery():
    return " ".join((RESULTS.parents[2] / "docs" / "gallery.md").read_text().split())


@pytest.mark.parametrize(
    ("budget", "limits", "words"),
    [
        (
            "evaluations",
            (0.36, 0.37),
            "on 12 of the 15 models, and within 0.37 nats on all of them",
        ),
        ("time", (0.49, 0.5), "as close on 12 of the 15, and within 0.5 nats on all"),
    ],
)
def test_the_page_says_how_close_the_recipe_is(budget, limits, words):
    rows = read_dicts(RESULTS / "runs_numpyro.csv")
    standings = summary.standings(rows_at_equal(budget, rows), known=rows)
    by_method = {x.method: x for x in standings}
    recipe, default = by_method[summary.RECIPE], by_method["discrete 0.2"]
    assert (round(15 * recipe.close), recipe.num_models) == (12, 15)
    assert limits[0] < recipe.worst_gap < limits[1]
    assert (round(15 * default.close), default.num_models) == (8, 15)
    assert (default.worst_model, round(default.worst_gap, 1)) == ("latent_counts", 1.0)
    page = page_of_the_gallery()
    assert words in page
    assert "comes within 1 % or 0.05 nats on 8, and ends 1.0 nats away on" in page


def test_the_pages_count_the_models_on_which_one_method_is_better():
    rows = rows_at_equal("evaluations", read_dicts(RESULTS / "runs_numpyro.csv"))
    means = summary.mean_by_case(summary.with_recipe(rows), "elbo")

    def better(method, other):
        models = {model for model, name in means if name == method}
        return [means[m, method] > means[m, other] for m in models]

    finished = better("discrete 0.2, then RLOO 8", "discrete 0.2")
    assert (sum(finished), len(finished)) == (4, 11)
    page = (RESULTS.parents[2] / "docs" / "choosing.md").read_text()
    assert "steps on 4 of 11 models" in page
    # The docstring of relax says most models.
    assert sum(better(summary.RECIPE, "discrete 0.2")) > 15 / 2


def leads_of_score_functions(backend, budget):
    """By how much TraceGraph_ELBO is ahead of the recipe: nats, and standard errors."""
    rows = read_dicts(RESULTS / f"runs_{backend}.csv")
    elbos = defaultdict(list)
    for found in summary.with_recipe(rows_at_equal(budget, rows)):
        elbos[found["model"], found["method"]].append(float(found["elbo"]))
    leads = {}
    for model, method in elbos:
        recipe = elbos[model, summary.RECIPE]
        if method == "TraceGraph_ELBO" and recipe:
            score = elbos[model, method]
            stderr = sum(np.var(x, ddof=1) / len(x) for x in (score, recipe)) ** 0.5
            lead = np.mean(score) - np.mean(recipe)
            leads[model] = lead, lead / stderr
    return leads


def test_the_page_says_where_score_functions_are_ahead_of_the_recipe():
    page = page_of_the_gallery()
    in_time = leads_of_score_functions("numpyro", "time")
    ahead = {model: lead for model, (lead, errors) in in_time.items() if errors > 2}
    assert ahead.keys() == {"hidden_markov", "capture_recapture"}
    assert [round(x, 1) for x in sorted(ahead.values())] == [0.1, 0.9]
    assert "(by 0.1 nats) and on capture-recapture (by 0.9 nats)" in page
    in_evaluations = leads_of_score_functions("numpyro", "evaluations")
    behind = {model: -lead for model, (lead, _) in in_evaluations.items()}
    assert min(behind["belief_net"], behind["autoencoder"]) > 1400
    assert behind["spike_and_slab"] > 170
    in_pyro = leads_of_score_functions("pyro", "evaluations")
    assert len(in_pyro) >= 10
    assert max(lead for lead, _ in in_pyro.values()) < 0


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [(2.0, 500), (0.5, 2000), (1e-6, 1000 * MOST_EVALUATIONS), (1e6, 50)],
)
def test_in_equal_time_a_slower_method_has_fewer_evaluations(milliseconds, expected):
    def timer(_, method, *__):
        return lambda: 1.0 if method.name == "discrete 0.2" else milliseconds

    backend = SimpleNamespace(timer=timer)
    method = METHODS["RLOO 8"]
    found = evaluations_in_time(backend, ENTRIES["iris_mixture"], method, {}, 1000)
    assert found == expected


def test_at_equal_time_the_reference_has_its_own_runs():
    def timed(model, method, budget):
        return row(model, method, 0, -1.0) | {"budget": budget}

    rows = [
        timed("iris_mixture", "RLOO 8", "time"),
        timed("iris_mixture", "RLOO 8", "evaluations"),
        timed("iris_mixture", "discrete 0.2", "evaluations"),
        timed("topics", "discrete 0.2", "evaluations"),
    ]
    assert rows_at_equal("time", rows) == [rows[0], rows[2]]
    assert rows_at_equal("evaluations", rows) == rows[1:]


def test_methods_are_for_the_models_that_they_can_train():
    disarm, score = METHODS["DisARM"], METHODS["Trace_ELBO"]
    assert applies(disarm, ENTRIES["spike_and_slab"], "numpyro")
    assert not applies(disarm, ENTRIES["iris_mixture"], "numpyro")
    assert applies(score, ENTRIES["iris_mixture"], "pyro")
    assert not applies(score, ENTRIES["iris_mixture"], "numpyro")
    assert not applies(METHODS["enumeration"], ENTRIES["spike_and_slab"], "pyro")


def test_every_model_has_its_programs(backend):
    path = f"benchmarks.gallery.on_{backend.name}.models"
    models = importlib.import_module(path)
    for entry in ENTRIES.values():
        assert callable(getattr(models, entry.name))
        assert hasattr(models, f"{entry.name}_guide") == entry.has_guide


def best_log_evidence():
    """The optimum of the README's mixture, by SciPy."""
    data = ENTRIES["readme_mixture"].load()["data"]

    def loss(locs):
        densities = stats.norm.pdf(data[:, None], locs, 0.5)
        return -np.log(densities.mean(-1)).sum()

    return -optimize.minimize(loss, [-1.0, 1.0]).fun


SHIPPED = [entry for entry in ENTRIES.values() if not entry.needs_folder]


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
def test_local_expectations_take_the_runs_that_an_entry_says(entry):
    training = importlib.import_module("benchmarks.gallery.on_pyro.training")
    training.pyro.clear_param_store()
    method = METHODS["local expectations"]
    plan = plan_training(training.BACKEND, entry, method, entry.local_runs)
    assert plan.num_evaluations == entry.local_runs
    (phase,) = plan.phases
    num_runs = 0

    def model(**call):
        nonlocal num_runs
        num_runs += 1
        return phase.model(**call)

    data = {name: training.as_tensor(x) for name, x in entry.load().items()}
    loss = training.BACKEND.loss(phase.objective)
    loss.loss_and_grads(model, phase.guide, **data, **entry.batch)
    num_runs = 0  # the first call also looks at the plates
    loss.loss_and_grads(model, phase.guide, **data, **entry.batch)
    assert num_runs == entry.local_runs


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("name", ["enumeration", "discrete 1 to 0.2, then RLOO 2"])
def test_training_ends_near_the_optimum(backend, name):
    path = f"benchmarks.gallery.on_{backend.name}.training"
    training = importlib.import_module(path)
    entry, method = ENTRIES["readme_mixture"], METHODS[name]
    (outcome,) = training.outcomes(entry, method, entry.load(), [0], 600)
    assert outcome.evaluations == 600
    # Training switches validation off, for itself alone.
    with pytest.raises(ValueError, match="scale"):
        backend.dist.Normal(backend.array(0.0), backend.array(-1.0))
    assert outcome.log_evidence == pytest.approx(best_log_evidence(), abs=0.02)
    # One point in the wrong class costs about a quarter of a nat.
    assert best_log_evidence() - 0.6 < outcome.elbo < best_log_evidence() + 0.01


@pytest.mark.slow_on("numpyro")
def test_local_expectations_of_independent_elements_have_no_variance(backend):
    rows = variance_of_local_expectations.rows_of_model(
        backend.name, ENTRIES["zero_inflated"], num_draws=12, steps=[1]
    )
    variances = {row[2]: float(row[5]) for row in rows}
    assert variances["LocalExpectations"] < 1e-8
    assert variances["RLOO"] > 1.0
