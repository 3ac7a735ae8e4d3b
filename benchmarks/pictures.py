"""Pictures of the results: `python -m benchmarks.pictures [FOLDER]`; `out` if none."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.how_cost_grows import METHODS, SIZES
from benchmarks.report import BACKENDS, read_csv

RESULTS = Path(__file__).parent / "results"
HOSTS = {"pyro": "Pyro", "numpyro": "NumPyro"}
COLOURS = dict(zip(METHODS, ("#2a6f97", "#444444", "#c8502d", "#8a9a3b"), strict=True))
# What is along a family's axis, and the sizes that are marked there.
AXES = {
    "sites": ("two-valued sites in a plate", (10, 1000, 100_000)),
    "values": ("values of each of 100 sites", (10, 1000)),
    "chain": ("length of a chain of four states", (4, 8, 16, 32)),
    "coupled": ("bits that explain one number", (4, 8, 16, 24, 64)),
}


def how_cost_grows(results: Path = RESULTS) -> Figure:
    """Time of a step against the size, a row for each host, a column for a family."""
    shape = len(BACKENDS), len(SIZES)
    figure, panels = plt.subplots(
        *shape, figsize=(12, 6), sharex="col", sharey="row", layout="constrained"
    )
    for row, backend in zip(panels, BACKENDS, strict=True):
        cases = read_csv(results / f"how_cost_grows_{backend}.csv")
        for axes, family in zip(row, SIZES, strict=True):
            _draw_times(axes, [case for case in cases if case[0] == family])
        row[0].set_ylabel(f"{HOSTS[backend]}: ms a step")
    for axes, family in zip(panels[-1], SIZES, strict=True):
        title, sizes = AXES[family]
        axes.set_xlabel(title)
        axes.set_xticks(sizes)
    panels[0, 0].legend(frameon=False)
    return figure


def _draw_times(axes: Axes, cases: list[list[str]]) -> None:
    for method in METHODS:
        points = [(int(c[2]), float(c[3])) for c in cases if c[1] == method]
        axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[method], label=method)
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def main() -> None:
    folder = Path(*sys.argv[1:2] or ["out"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "how_cost_grows.png"
    how_cost_grows().savefig(path, dpi=130)
    print(f"The picture is in {path}")


if __name__ == "__main__":
    main()
