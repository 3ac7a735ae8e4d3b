"""The data of the tutorials on swapping sites, Bayes' rule, their table and figures.

The flowers come with scikit-learn; the two heaps are drawn, with labels to judge by.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from scipy import special, stats
from sklearn.datasets import load_iris

HEAPS = 200
COLORS = np.array([[0.16, 0.44, 0.59], [0.91, 0.64, 0.22], [0.72, 0.22, 0.28]])
FILLS = {"sampled": "white", "observed": "#d5d9dd", "deterministic": "#fbe8cf"}


def flowers() -> tuple[np.ndarray, np.ndarray]:
    """Return petal lengths and widths in cm, (flowers, 2), and the three species."""
    measures, species = load_iris(return_X_y=True)
    return measures[:, 2:].astype(np.float32), species


def two_heaps() -> tuple[np.ndarray, np.ndarray]:
    """Return numbers from two normals at 0 and 4, and whether from the second."""
    rng = np.random.default_rng(3127)
    second = rng.random(HEAPS) < 0.4
    numbers = np.where(second, 4.0, 0.0) + 0.95 * rng.normal(size=HEAPS)
    return numbers.astype(np.float32), second


def by_bayes(measures: np.ndarray, sites: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the probability of each kind, by flower, given the continuous sites."""
    shares, locs, scales = (np.asarray(sites[x]) for x in ("shares", "locs", "scales"))
    scores = stats.norm.logpdf(measures[:, None], locs, scales[:, None]).sum(-1)
    return special.softmax(np.log(shares) + scores, -1)


def second_by_bayes(
    numbers: np.ndarray, locs: np.ndarray, scale: np.ndarray, share: np.ndarray
) -> np.ndarray:
    """Return the probability of the second heap, by number."""
    numbers, locs, scale, share = (np.asarray(x) for x in (numbers, locs, scale, share))
    first, second = (stats.norm.logpdf(numbers, loc, scale) for loc in locs)
    return special.expit(second - first + special.logit(share))


def heap_line(
    name: str, probabilities: np.ndarray, second: np.ndarray, locs: np.ndarray
) -> str:
    """Return a line: how many numbers have the right heap, and the means found."""
    right = ((probabilities > 0.5) == second).mean()
    means = "  ".join(f"{loc:5.2f}" for loc in locs)
    return f"{name:<33}  right {right:>6.1%}   means {means}"


@dataclass
class Result:
    """What a way to train found; `elbo` is of the discrete model."""

    name: str
    elbo: float
    stderr: float
    probabilities: np.ndarray


def table(results: list[Result], species: np.ndarray) -> str:
    """The results, one a line; the first are the exact ones."""
    lines = [f"{'':<26}  {'discrete ELBO':>16}  {'difference':>10}  {'species':>7}"]
    for r in results:
        elbo = f"{r.elbo:.1f} ± {r.stderr:.1f}"
        difference = np.abs(r.probabilities - results[0].probabilities).mean()
        agree = (r.probabilities.argmax(-1) == species).mean()
        lines.append(f"{r.name:<26}  {elbo:>16}  {difference:>10.4f}  {agree:>7.1%}")
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def draw_flowers(measures: np.ndarray, results: list[Result]) -> Figure:
    """Draw the flowers once for each result, in the mixed colors of their kinds."""
    figure, panes = plt.subplots(
        1, len(results), figsize=(4.4 * len(results), 4), sharey=True, squeeze=False
    )
    figure.set_layout_engine("constrained")
    # Measures are rounded to a millimetre, and some flowers have the same.
    spread = np.random.default_rng(0).uniform(-0.04, 0.04, measures.shape)
    for axes, result in zip(panes.flat, results, strict=True):
        mixed = np.clip(result.probabilities @ COLORS, 0, 1)
        axes.scatter(*(measures + spread).T, c=mixed, s=30, edgecolor="k", lw=0.3)
        axes.set(title=result.name, xlabel="petal length, cm")
    panes[0, 0].set_ylabel("petal width, cm")
    return figure


def draw_heaps(
    numbers: np.ndarray, second: np.ndarray, found: Mapping[str, np.ndarray]
) -> Figure:
    """Draw the numbers, and the probability of the second heap that each way found."""
    figure, (top, axes) = plt.subplots(
        2, 1, figsize=(9.5, 5.2), sharex=True, height_ratios=(1, 2.4)
    )
    figure.set_layout_engine("constrained")
    bins = np.linspace(numbers.min(), numbers.max(), 30)
    heaps = [numbers[~second], numbers[second]]
    top.hist(heaps, bins, stacked=True, color=COLORS[:2], label=["first", "second"])
    top.legend(title="true heap")
    top.set_ylabel("count")
    for (name, probabilities), marker in zip(found.items(), "x+os^", strict=False):
        axes.plot(numbers, probabilities, marker, markersize=4, alpha=0.7, label=name)
    axes.set(xlabel="number", ylabel="probability of the second", ylim=(-0.03, 1.03))
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def draw_graphs(*relations: dict, titles: tuple[str, ...]) -> Figure:
    """Draw models side by side, from what the backend's `get_model_relations` says."""
    figure, panes = plt.subplots(1, len(relations), figsize=(5 * len(relations), 3.6))
    figure.set_layout_engine("constrained")
    for axes, found, title in zip(panes, relations, titles, strict=True):
        draw_graph(axes, found)
        axes.set_title(title)
    for label, color in FILLS.items():
        panes[-1].scatter([], [], color=color, edgecolor="k", label=label)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_graph(axes: Axes, relations: dict) -> None:
    """Draw one model: sites below what they depend on, and the plates around them."""
    at, boxes = places(relations["sample_sample"]), {}
    for plate, members in relations["plate_sample"].items():
        draw_plate(axes, plate, np.array([at[name] for name in members]))
    for name, (x, y) in at.items():
        family = relations["sample_dist"][name]
        box = {"boxstyle": "round,pad=0.35", "fc": FILLS[role(name, relations)]}
        text = f"$\\bf{{{name}}}$".replace("_", r"\_") + f"\n{family}"
        drawn = axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=box)
        boxes[name] = drawn.get_bbox_patch()
    for name, parents in relations["sample_sample"].items():
        for parent in parents:
            ends = {"patchA": boxes[parent], "patchB": boxes[name], "shrinkA": 0}
            arrow = {"arrowstyle": "-|>", "color": "black", "shrinkB": 1, **ends}
            # Above the boxes, which it is cut off at, and which are drawn first.
            axes.annotate("", at[name], at[parent], arrowprops=arrow, zorder=4)
    axes.set(xlim=(-1.9, 1.7), ylim=(-2.8, 0.4))
    axes.axis("off")


def draw_plate(axes: Axes, name: str, members: np.ndarray) -> None:
    margin = np.array([0.65, 0.45])
    low, high = members.min(0) - margin, members.max(0) + margin
    box = "round,pad=0,rounding_size=0.1"
    axes.add_patch(
        FancyBboxPatch(low, *(high - low), box, fc="none", ec="grey", ls="--")
    )
    axes.text(high[0] - 0.06, low[1] + 0.03, name, ha="right", color="grey")


def role(name: str, relations: dict) -> str:
    if relations["sample_dist"][name] == "Deterministic":
        return "deterministic"
    return "observed" if name in relations["observed"] else "sampled"


def places(parents: Mapping[str, list[str]]) -> dict[str, np.ndarray]:
    """Return a place for each site, in rows by the longest way from the top."""
    depth: dict[str, int] = {}
    for name, above in parents.items():
        depth[name] = max((depth[parent] + 1 for parent in above), default=0)
    rows: dict[int, list[str]] = {}
    for name, row in depth.items():
        rows.setdefault(row, []).append(name)
    # Every second row is moved aside, so that arrows that skip a row pass beside it.
    return {
        name: np.array(
            [1.15 * (i - (len(row) - 1) / 2) - 0.6 * (below % 2), -1.1 * below]
        )
        for below, row in rows.items()
        for i, name in enumerate(row)
    }
