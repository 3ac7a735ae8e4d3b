"""The report on gradients, against exact gradients and expectations."""

import functools
import re

import numpy as np
import pytest
from asserts import assert_exact
from backends import get_backend
from gradient_cases import exact, expected, flat
from gradient_fixtures import BARE_BIT, FIXTURES, bare_bit
from reference import elbo

from concrete_core.diagnostics.moments import Moments, cosines_to_reference

ENUMERABLE = [name for name in FIXTURES if name != "net"]
DRAWS = 150
QUICK = ("one_class",)


def programs_of(backend, fixture):
    known = FIXTURES[fixture]
    params = {name: backend.array(value) for name, value in known.params.items()}
    return known.programs(backend), params


def report(backend, fixture, **kwargs):
    programs, params = programs_of(backend, fixture)
    package = backend.package
    settings = {"estimators": [package.ReinMax()], "temperatures": [1.0]}
    settings |= {"num_samples": 2, **kwargs}
    run = package.gradient_report
    return backend.evaluate(run, *programs, params=params, **settings)


@functools.cache
def of_a_bit(name):
    """Estimators on a likelihood that is quadratic in its bit, and an ELBO."""
    backend = get_backend(name)
    package = backend.package
    return report(
        backend,
        "one_bit",
        estimators=[package.StraightThrough(), package.ReinMax(), package.Relaxed()],
        temperatures=[1.0, 2 / 3],
        scoring="discrete",
        objectives={"by score": backend.elbo("TraceGraph")},
        num_samples=DRAWS,
    )


def _hard(t, jacobian):
    known = FIXTURES["one_bit"]
    return elbo.hard_gradient(known.program, known.params, t, "discrete", jacobian)


def _soft(t):
    known = FIXTURES["one_bit"]
    settings = {"step": 0.7, "width": 18.0}
    temperatures = t, t
    return elbo.relaxed_gradient(
        known.program, known.params, temperatures, "discrete", **settings
    )


# Of the rows of `of_a_bit`.
EXPECTED = {
    0: lambda: _hard(1.0, elbo.straight_through_jacobian),
    1: lambda: _hard(2 / 3, elbo.straight_through_jacobian),
    2: lambda: _hard(1.0, elbo.reinmax_jacobian),
    3: lambda: _hard(2 / 3, elbo.reinmax_jacobian),
    4: lambda: _soft(1.0),
    5: lambda: _soft(2 / 3),
}


def _mark(fixture):
    marks = [] if fixture in QUICK else [pytest.mark.slow]
    return pytest.param(fixture, marks=marks)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("fixture", [*map(_mark, ENUMERABLE)])
def test_enumeration_is_the_exact_gradient(backend, fixture):
    found = report(backend, fixture, reference="enumeration")
    assert found.reference_source == "enumeration, which is exact"
    assert_exact(flat(found.reference), exact(fixture))
    assert not flat(found.reference_stderr).any()


@pytest.mark.slow_on("numpyro")
@pytest.mark.statistical
def test_without_enumeration_it_is_a_long_run(backend):
    found = report(backend, "net", num_reference=200)
    assert "200 draws of TraceGraph_ELBO" in found.reference_source
    assert "site 'h': to_event" in found.reference_source
    gap, error = flat(found.reference) - exact("net"), flat(found.reference_stderr)
    assert (np.abs(gap) < 5 * error).all()
    # The error of the reference is part of what is not told from noise.
    own = flat(found.mean_stderr, 1)[0]
    assert_exact(found.bias_stderr[0, -1], np.sqrt((own**2 + error**2).sum()))


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize(
    "reference", [pytest.param("score", marks=pytest.mark.slow), "elbo"]
)
@pytest.mark.statistical
def test_a_long_run_can_be_asked_for(backend, reference):
    elbo = backend.elbo("TraceGraph", 50) if reference == "elbo" else reference
    found = report(backend, "one_bit", reference=elbo, num_reference=200)
    assert found.reference_source == "the mean of 200 draws of TraceGraph_ELBO"
    gap, error = flat(found.reference) - exact("one_bit"), flat(found.reference_stderr)
    assert (np.abs(gap) < 5 * error).all()


@pytest.mark.slow_on("numpyro")
@pytest.mark.statistical
@pytest.mark.parametrize("row", EXPECTED)
def test_means_are_the_exact_expectations(backend, row):
    found, target = of_a_bit(backend.name), flat(EXPECTED[row]())
    gap, error = flat(found.mean, 1)[row] - target, flat(found.mean_stderr, 1)[row]
    assert (np.abs(gap) <= 5 * error + 1e-10).all()
    # The length of a sum is off by the length of what is added, at most.
    bias = np.linalg.norm(target - exact("one_bit"))
    assert abs(found.bias[row, -1] - bias) < 5 * found.bias_stderr[row, -1]


@pytest.mark.slow
@pytest.mark.statistical
def test_a_pair_of_temperatures_is_that_of_model_and_guide(backend):
    found = report(
        backend,
        "one_class",
        estimators=[backend.package.Relaxed()],
        temperatures=[(1 / 2, 2 / 3)],
        num_samples=2000,
    )
    assert found.temperatures == ("0.5, 0.667",)
    gap = flat(found.mean, 1)[0] - expected("one_class", "relaxed")
    assert (np.abs(gap) < 5 * flat(found.mean_stderr, 1)[0]).all()
    assert found.is_significant[0, -1]


def steep(backend, offset):
    """A class whose second value has probability one or, but for an offset, zero."""

    def guide():
        logits = backend.param("a", backend.array([0.3, -0.4]))
        return backend.site("z", backend.one_hot(logits))

    def model():
        z = backend.site("z", backend.one_hot(backend.array([0.0, 0.0])))
        backend.factor("gain", backend.xp.log(z[..., 1] + offset))

    return model, guide


@pytest.mark.slow_on("numpyro")
def test_it_warns_of_functions_that_are_steep_at_one_hot_samples(backend):
    package = backend.package
    settings = {"estimators": [package.ReinMax(), package.Relaxed()]}
    settings |= {"temperatures": [1.0], "num_samples": 20}
    run = lambda offset: backend.evaluate(  # noqa: E731
        package.gradient_report, *steep(backend, offset), **settings
    )
    with pytest.warns(UserWarning, match=r"Draws of ReinMax\(\) at 1 are .* log\(z"):
        found = run(1e-6)
    assert sum("Draws of ReinMax() at 1" in note for note in found.notes) == 1
    assert not any("Relaxed() at" in note for note in found.notes)
    assert not run(0.5).notes  # warnings are errors


@pytest.mark.slow_on("numpyro")
@pytest.mark.statistical
def test_it_tells_a_bias_from_noise(backend):
    found = of_a_bit(backend.name)
    rows = [*zip(found.estimators, found.temperatures, strict=True)]
    # ReinMax at temperature one is exact for quadratics, the score function for all.
    assert np.abs(flat(EXPECTED[2]()) - exact("one_bit")).max() < 1e-12
    assert not found.is_significant[rows.index(("ReinMax()", "1"))].any()
    assert not found.is_significant[rows.index(("by score", ""))].any()
    slope = found.params.index("slope")
    assert found.is_significant[rows.index(("Relaxed()", "1")), slope]


@pytest.mark.slow_on("numpyro")
def test_arrays_have_a_row_for_each_and_a_column_for_each_parameter(backend):
    found = of_a_bit(backend.name)
    assert found.params == ("a", "b", "loc", "slope")
    names = "StraightThrough()", "ReinMax()", "Relaxed()", "by score"
    assert found.estimators[::2] == names
    assert found.temperatures == (*("1", "0.667") * 3, "")
    for x in (found.bias, found.bias_stderr, found.variance, found.cosine):
        assert x.shape == found.draw_cosine.shape == (7, 5)
        assert np.isfinite(x).all()
    for x in (found.mean, found.mean_stderr):
        assert {k: v.shape for k, v in x.items()} == dict.fromkeys(found.params, (7,))
    gaps = np.stack([found.mean[k] - found.reference[k] for k in found.params], -1)
    assert_exact(found.bias[:, :-1], np.abs(gaps))
    assert_exact(found.bias[:, -1], np.linalg.norm(gaps, axis=-1))
    errors = np.stack([found.mean_stderr[k] for k in found.params], -1)
    assert_exact(found.variance[:, :-1], DRAWS * errors**2)
    assert_exact(found.variance[:, -1], DRAWS * (errors**2).sum(-1))
    assert (found.seconds > 0).all()
    assert found.relative_time.min() == 1


@pytest.mark.slow_on("numpyro")
def test_cosines_are_to_the_reference(backend):
    found = of_a_bit(backend.name)
    mean, truth = flat(found.mean, 1), flat(found.reference)
    lengths = np.linalg.norm(mean, axis=-1) * np.linalg.norm(truth)
    assert_exact(found.cosine[:, -1], mean @ truth / lengths)
    assert (np.abs(found.draw_cosine) <= 1 + 1e-12).all()
    assert (found.draw_cosine[:, -1] < found.cosine[:, -1]).all()


@pytest.mark.slow_on("numpyro")
def test_it_prints_as_a_table(backend):
    found = of_a_bit(backend.name)
    text = str(found)
    assert all(len(line) <= 88 for line in text.splitlines())
    head, body, foot = text.split("\n\n")
    assert "150 draws" in head
    assert "enumeration, which is exact" in " ".join(head.split())
    header, *rows = body.splitlines()
    columns = "estimator temp. bias SE sig. var. cos cos 1 ms rel."
    assert header.split() == columns.split()
    assert len(rows) == 7
    for row, line in enumerate(rows):
        assert line.startswith(found.estimators[row])
        assert f"{found.bias[row, -1]:.3g}" in line
        assert ("< 5 SE" in line) != found.is_significant[row, -1]
    assert "a, b, loc, slope" in foot
    assert f"{found.bias[0, 1]:.3g}" in found.table("b").splitlines()[1]


def test_the_picture_names_every_point(backend):
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    found = of_a_bit(backend.name)
    ax = found.plot()
    try:
        names = [text.get_text() for text in ax.texts]
        assert sorted(names) == sorted(
            f"{name}, {t}" if t else name
            for name, t in zip(found.estimators, found.temperatures, strict=True)
        )
        points = np.array([text.xy for text in ax.texts])
        assert {*points[:, 0]} == {*found.variance[:, -1]}
        assert ax.get_xscale() == ax.get_yscale() == "log"
        own = pyplot.figure().add_subplot()
        assert found.plot(own, param="a") is own
    finally:
        pyplot.close("all")


def test_the_picture_without_matplotlib_is_an_error_in_words(backend, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        of_a_bit(backend.name).plot()


@pytest.mark.parametrize("call", ["table", "plot"])
def test_an_unknown_parameter_is_an_error(backend, call):
    with pytest.raises(ValueError, match=r"no parameter 'c'; there are \['a', 'b'"):
        getattr(of_a_bit(backend.name), call)(param="c")


# --- what can be given


def test_a_reference_can_be_given(backend):
    truth = {
        name: np.full_like(x, 0.5) for name, x in FIXTURES["one_bit"].params.items()
    }
    found = report(backend, "one_bit", reference=truth)
    assert found.reference_source == "given"
    assert_exact(flat(found.reference), flat(truth))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wrong": 1.0}, r"names no parameter .*\['wrong'\].*\['a', 'b', 'loc', 'slo"),
        ({"a": None}, r"leaves parameters out: \['a'\]"),
        ({"a": np.ones(2)}, r"reference\['a'\] has the shape \(2,\).*\(\)"),
    ],
)
def test_a_reference_that_does_not_fit_is_an_error(backend, change, words):
    truth = {**FIXTURES["one_bit"].params, **change}
    truth = {name: x for name, x in truth.items() if x is not None}
    with pytest.raises(ValueError, match=re.compile(words, re.DOTALL)):
        report(backend, "one_bit", reference=truth)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"num_samples": 1}, ValueError, "two draws, and num_samples is 1"),
        ({"num_reference": 1}, ValueError, "two draws, and num_reference is 1"),
        ({"reference": "exact"}, ValueError, "reference is one of .* not 'exact'"),
        ({"reference": 3.0}, TypeError, "an unbiased ELBO .* not 3.0"),
        ({"reference": "enumeration", "budget": 1}, ValueError, "over the budget of 1"),
        ({"estimators": []}, ValueError, "nothing to measure"),
        ({"estimators": ["reinmax"]}, TypeError, "an estimator is an instance"),
        ({"scoring": "soft"}, ValueError, "scoring is one of"),
        ({"temperatures": [0.0]}, ValueError, "temperature"),
    ],
)
def test_settings_that_mean_nothing_are_errors(backend, settings, error, words):
    with pytest.raises(error, match=words):
        report(backend, "one_bit", **settings)


@pytest.mark.parametrize("which", ["guide", "both"])
def test_programs_that_are_relaxed_already_are_refused(backend, which):
    (model, guide), _ = programs_of(backend, "one_bit")
    relax, run = backend.package.relax, backend.package.gradient_report
    if which == "both":
        model = relax(model, 0.5)
    with pytest.raises(ValueError, match="'z_relaxed' of the guide is relaxed alr"):
        backend.evaluate(run, model, relax(guide, 0.5))


def test_a_guide_that_is_not_relaxed_by_relax_is_refused(backend):
    (model, guide), _ = programs_of(backend, "one_bit")
    guide = backend.package.harden(backend.package.relax(guide, 0.5))
    with pytest.raises(ValueError, match=r"'z'.*as by harden"):
        backend.evaluate(backend.package.gradient_report, model, guide)


def test_programs_without_parameters_are_refused(backend):
    fn = backend.dist.Bernoulli(logits=backend.array(0.3))
    program = lambda: backend.site("z", fn)  # noqa: E731
    with pytest.raises(ValueError, match="has a parameter"):
        backend.evaluate(backend.package.gradient_report, program, program)


# --- parameters


def test_gradients_are_in_unconstrained_parameters(backend):
    share = 0.3
    interval = backend.dist.constraints.unit_interval

    def guide():
        p = backend.param("p", backend.array(share), constraint=interval)
        return backend.site("z", backend.dist.Bernoulli(probs=p))

    def model():
        backend.factor("mean", 1.0 * guide())

    settings = {"estimators": [backend.package.ReinMax()], "num_samples": 2}
    found = backend.evaluate(
        backend.package.gradient_report, model, guide, temperatures=[1.0], **settings
    )
    assert_exact(found.reference["p"], share * (1 - share))


def test_parameters_of_the_relaxation_are_left_out_by_name(backend):
    programs = bare_bit(backend)
    start = backend.array(0.5)

    def learned(step):
        return backend.param("heat", start)

    settings = {"estimators": [backend.package.Relaxed()], "num_samples": 2}
    found = backend.evaluate(
        backend.package.gradient_report, *programs, temperatures=[learned], **settings
    )
    assert found.params == ("a",)
    assert found.temperatures == ("learned",)
    assert "parameters that the discrete programs do not have: heat" in str(found)
    p = 1 / (1 + np.exp(-BARE_BIT["a"]))
    assert_exact(found.reference["a"], p * (1 - p))


def test_marks_at_sites_are_told(backend):
    mark = {"relax": {"temperature": 0.3}}
    start = backend.array(0.4)

    def program():
        fn = backend.dist.Bernoulli(logits=backend.param("a", start))
        backend.site("z", fn, infer=mark)

    settings = {"estimators": [backend.package.Relaxed()], "num_samples": 2}
    found = backend.evaluate(
        backend.package.gradient_report, program, program, **settings
    )
    assert "Site 'z' has its own temperature" in str(found)


# --- the sums behind it


@pytest.mark.parametrize("sizes", [(7,), (1, 4, 2)])
def test_moments_are_those_of_all_draws(rng, sizes):
    draws = {"a": rng.normal(3, 1, (7, 2)), "b": rng.normal(size=7)}
    reference = {"a": np.array([1.0, 2.0]), "b": np.array(-1.0)}
    moments = Moments(reference)
    for part in np.split(np.arange(7), np.cumsum(sizes)[:-1]):
        moments.add({name: x[part] for name, x in draws.items()})
    for name, x in draws.items():
        assert_exact(moments.mean[name], x.mean(0))
        assert_exact(moments.variance[name], x.var(0, ddof=1))
        assert_exact(moments.stderr[name], x.std(0, ddof=1) / np.sqrt(7))
    cosine = draws["a"] @ [1, 2] / np.linalg.norm(draws["a"], axis=-1) / np.sqrt(5)
    rows = np.concatenate([draws["a"], draws["b"][:, None]], -1)
    both = rows @ [1, 2, -1] / np.linalg.norm(rows, axis=-1) / np.sqrt(6)
    columns = [cosine, -np.sign(draws["b"]), both]
    assert_exact(moments.cosines, np.mean(columns, -1))


def test_no_direction_has_no_cosine():
    none, some = np.zeros((1, 2)), np.ones(2)
    cosines = cosines_to_reference({"a": none}, {"a": some})
    np.testing.assert_array_equal(cosines, np.zeros((1, 2)))
    nowhere = cosines_to_reference({"a": none + 1}, {"a": np.zeros(2)})
    assert np.isnan(nowhere).all()
