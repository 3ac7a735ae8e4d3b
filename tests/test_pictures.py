"""The pictures of the benchmarks show what the tables hold."""

import csv

import pytest

pyplot = pytest.importorskip("matplotlib.pyplot")

from benchmarks import pictures, report  # noqa: E402


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


def drawn(axes):
    """The points of an axes, by label of their line; helper lines have none."""
    lines = [x for x in axes.get_lines() if not x.get_label().startswith("_")]
    return {x.get_label(): list(zip(*x.get_data(), strict=True)) for x in lines}


def test_every_committed_time_is_drawn():
    panels = map(drawn, pictures.how_cost_grows().axes)
    found = [point for panel in panels for points in panel.values() for point in points]
    expected = []
    for host in ("pyro", "numpyro"):
        path = pictures.RESULTS / f"how_cost_grows_{host}.csv"
        with path.open() as file:
            rows = csv.DictReader(x for x in file if not x.startswith("#"))
            expected += [(int(row["size"]), float(row["ms"])) for row in rows]
    assert sorted(found) == sorted(expected)


def test_a_gpu_has_a_panel_of_its_own(tmp_path):
    text = "# processor: x\nclasses,sites,of_copy\n2,1000000,0.5\ngeometric mean,,0.5\n"
    for name in ("numpyro", "numpyro_gpu"):
        (tmp_path / f"cost_of_term_{name}.csv").write_text(text)
    on_processor, on_gpu = pictures.cost_of_term(tmp_path).axes
    # Four arrays of two million floats of four bytes: 32 MB.
    assert drawn(on_processor)["JAX"] == drawn(on_gpu)["JAX"] == [(32.0, 0.5)]
    assert drawn(on_gpu)["PyTorch"] == []


def test_results_of_a_gpu_have_a_name_of_their_own(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert report.place("pyro") == "pyro_gpu"
    assert report.machine("pyro")["device"] == "Some GPU"
