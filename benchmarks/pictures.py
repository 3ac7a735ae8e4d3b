"""Figures of the results: `python -m benchmarks.pictures [FOLDER]`; `out` if none."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.how_cost_grows import METHODS, SIZES
from benchmarks.report import BACKENDS, read_csv, read_dicts

RESULTS = Path(__file__).parent / "results"
TITLES = {"pyro": "Pyro", "numpyro": "NumPyro"}
COLORS = dict(zip(METHODS, ("#2a6f97", "#444444", "#c8502d", "#8a9a3b"), strict=True))
# What of a term is drawn: the backend, the column of its table, the color.
ROOFLINE = {
    "JAX": ("numpyro", "of_copy", "#2a6f97"),
    "PyTorch, compiled": ("pyro", "compiled_of_copy", "#c8502d"),
    "PyTorch": ("pyro", "of_copy", "#8a9a3b"),
}
ARRAYS = 4  # of floats: two of logits, and their gradients
# What is along a family's axis, and the sizes that are marked there.
AXES = {
    "sites": ("two-valued sites in a plate", (10, 1000, 100_000)),
    "values": ("values of each of 100 sites", (10, 1000)),
    "chain": ("length of a chain of four states", (4, 32, 300, 10_000)),
    "coupled": ("binary sites that explain one number", (4, 24, 300, 10_000)),
}


def how_cost_grows(results: Path = RESULTS) -> Figure:
    """Time of a step against the size: a row per backend, a column per family."""
    shape = len(BACKENDS), len(SIZES)
    figure, panels = plt.subplots(
        *shape, figsize=(12, 6), sharex="col", sharey="row", layout="constrained"
    )
    for row, backend in zip(panels, BACKENDS, strict=True):
        cases = read_csv(results / f"how_cost_grows_{backend}.csv")
        for axes, family in zip(row, SIZES, strict=True):
            _draw_times(axes, [case for case in cases if case[0] == family])
        row[0].set_ylabel(f"{TITLES[backend]}: ms a step")
    for axes, family in zip(panels[-1], SIZES, strict=True):
        title, sizes = AXES[family]
        axes.set_xlabel(title)
        axes.set_xticks(sizes)
    panels[0, 0].legend(frameon=False)
    return figure


def _draw_times(axes: Axes, cases: list[list[str]]) -> None:
    for method in METHODS:
        points = [(int(c[2]), float(c[3])) for c in cases if c[1] == method]
        axes.plot(*zip(*points, strict=True), "o-", color=COLORS[method], label=method)
    axes.set(xscale="log", yscale="log")
    _plain_numbers(axes)


def cost_of_term(results: Path = RESULTS) -> Figure:
    """How near a term comes to the memory's speed; a panel for each kind of device."""
    found = {
        title: {
            backend: read_dicts(results / f"cost_of_term_{backend}{suffix}.csv")
            for backend in BACKENDS
        }
        for title, suffix in (("processor", ""), ("GPU", "_gpu"))
    }
    found = {title: tables for title, tables in found.items() if any(tables.values())}
    shape = {"figsize": (5 * len(found) + 1, 4), "layout": "constrained"}
    figure, panels = plt.subplots(1, len(found), sharey=True, squeeze=False, **shape)
    for axes, (title, tables) in zip(panels[0], found.items(), strict=True):
        _draw_roofline(axes, tables)
        axes.set_xlabel(f"MB of logits and gradients, {title}")
    panels[0, 0].set_ylabel("share of the speed of a copy")
    panels[0, 0].legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def _draw_roofline(axes: Axes, tables: dict[str, list[dict[str, str]]]) -> None:
    for label, (backend, column, color) in ROOFLINE.items():
        rows = [x for x in tables[backend] if x["sites"] and x[column]]
        sizes = [ARRAYS * 4e-6 * int(x["classes"]) * int(x["sites"]) for x in rows]
        shares = [float(x[column]) for x in rows]
        axes.plot(sizes, shares, "o", color=color, label=label)
    axes.axhline(1, color="#999999", linewidth=1)
    axes.set(xscale="log", yscale="log")
    _plain_numbers(axes)


def _plain_numbers(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def main() -> None:
    folder = Path(*sys.argv[1:2] or ["out"])
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (how_cost_grows, cost_of_term):
        path = folder / f"{draw.__name__}.png"
        draw().savefig(path, dpi=130)
        print(f"A figure is in {path}")


if __name__ == "__main__":
    main()
