"""Pictures: they draw on the axes that they are given, and the right numbers."""

import math

import numpy as np
import pytest
from reference import concrete

pyplot = pytest.importorskip("matplotlib.pyplot")

CORNERS = np.array([(0.0, 0.0), (1.0, 0.0), (0.5, math.sqrt(3) / 2)])
LOGITS = [0.3, -0.7, 1.1]


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


def history(backend, *softness):
    """Reports of a site of four values, and of a bit."""
    from importlib import import_module

    gap = import_module(f"{backend.package.__name__}.diagnostics")
    return {
        100 * i: gap.RelaxationGap(
            *(-3.0, 0.1, -4.0, 0.1, -3.5, 10),
            (
                gap.SiteEntropy("z", 4, entropy=1.0, softness=x),
                gap.SiteEntropy("bit", 2, entropy=0.5, softness=x / 2),
            ),
        )
        for i, x in enumerate(softness)
    }


def test_samples_are_the_mapped_noise_in_the_triangle(backend):
    ax = pyplot.subplots()[1]
    found = backend.package.plots.simplex(0.4, LOGITS, ax=ax, num_samples=50, seed=3)
    assert found is ax
    noise = np.random.default_rng(3).gumbel(size=(50, 3))
    points = np.exp(concrete.exp_concrete_sample(noise, 0.4, LOGITS)) @ CORNERS
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xydata(), points, atol=1e-6)
    assert ax.get_title() == "temperature 0.4"
    assert sorted(x.get_text() for x in ax.texts) == ["0", "1", "2"]


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_shading_is_the_density(backend, temperature, monkeypatch):
    drawn = {}
    ax = pyplot.subplots()[1]

    def contours(x, y, z, levels, **look):
        drawn.update(x=x, y=y, z=z, levels=levels)

    monkeypatch.setattr(ax, "tricontourf", contours)
    backend.package.plots.simplex(temperature, LOGITS, ax=ax, num_samples=0)
    # Back to weights on the simplex, by the heights above the three sides.
    last = drawn["y"] / CORNERS[2, 1]
    second = drawn["x"] - last / 2
    weights = np.stack([1 - second - last, second, last], -1)
    assert (weights > 0).all()
    assert len(weights) > 1000
    density = concrete.concrete_log_density(weights, temperature, LOGITS)
    np.testing.assert_allclose(drawn["z"], density, rtol=1e-4, atol=1e-4)
    assert (np.diff(drawn["levels"]) > 0).all()


def test_several_temperatures_have_a_panel_each(backend):
    simplex = backend.package.plots.simplex
    panels = simplex([2.0, 0.5, 0.1])
    assert [ax.get_title() for ax in panels] == [
        "temperature 2",
        "temperature 0.5",
        "temperature 0.1",
    ]
    given = pyplot.subplots(ncols=2)[1]
    assert [*simplex((1.0, 0.5), ax=given)] == [*given]
    with pytest.raises(ValueError, match="2 temperatures need as many axes, not 3"):
        simplex((1.0, 0.5), ax=panels)


def test_a_triangle_needs_three_classes(backend):
    with pytest.raises(ValueError, match="three classes"):
        backend.package.plots.simplex(0.5, [0.0, 1.0])


def test_entropies_are_shares_by_step(backend):
    ax = pyplot.subplots()[1]
    found = backend.package.plots.entropies(history(backend, 1.2, 0.6, 0.1), ax=ax)
    assert found is ax
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    steps = [0, 100, 200]
    expected = {
        "z, relaxed": np.array([1.2, 0.6, 0.1]) / math.log(4),
        "z, discrete": np.full(3, 1.0 / math.log(4)),
        "bit, relaxed": np.array([0.6, 0.3, 0.05]) / math.log(2),
        "bit, discrete": np.full(3, 0.5 / math.log(2)),
    }
    assert lines.keys() == expected.keys()
    for name, shares in expected.items():
        np.testing.assert_allclose(lines[name], np.stack([steps, shares], -1))
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert {x.get_text() for x in ax.get_legend().get_texts()} == expected.keys()


def test_entropies_of_chosen_sites(backend):
    entropies = backend.package.plots.entropies
    ax = entropies(history(backend, 1.0, 0.5), sites=["bit"])
    assert [x.get_label() for x in ax.lines] == ["bit, relaxed", "bit, discrete"]
    with pytest.raises(ValueError, match=r"no relaxed site 'c'; there are \['z', 'b"):
        entropies(history(backend, 1.0), sites=["z", "c"])
    with pytest.raises(ValueError, match="history is empty"):
        entropies({})


def test_without_matplotlib_the_error_names_the_way_out(backend, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'concrete-ppl\[plots\]'"):
        backend.package.plots.simplex(0.5)


def test_no_setting_is_changed_and_nothing_shown(backend, monkeypatch):
    def show(*args, **kwargs):
        raise AssertionError("a picture was shown")

    monkeypatch.setattr(pyplot, "show", show)
    before = dict(pyplot.rcParams)
    backend.package.plots.simplex([1.0, 0.5], num_samples=5)
    backend.package.plots.entropies(history(backend, 1.0, 0.5))
    assert dict(pyplot.rcParams) == before
