"""The table and the figure of the discrete autoencoders, for both backends."""

from dataclasses import dataclass, field
from typing import Any

import digits
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

SAMPLES = 24
TILE = digits.SIDE + 2

COLORS = {"Pyro": "#c8502d", "NumPyro": "#2a6f97"}
NOTE = """\
ELBOs are in nats per image. The relaxed one is what training maximizes, on the
training images; it belongs to another model and compares with nothing here. The
standard error is that of sampling the latent variables."""

LINES = {"relaxed": "-", "score function": "--"}


@dataclass
class Record:
    """What training writes down at each pause; objectives in nats per image."""

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    objective: list[float] = field(default_factory=list)
    discrete: list[float] = field(default_factory=list)

    def add(
        self, steps: int, seconds: float, objective: float, discrete: float
    ) -> None:
        self.steps.append(steps)
        self.seconds.append(seconds)
        self.objective.append(float(objective))
        self.discrete.append(float(discrete))

    def speed(self) -> float:
        """Steps per second, without the first stretch, in which JAX compiles."""
        first = min(1, len(self.steps) - 1)
        return sum(self.steps[first:]) / sum(self.seconds[first:])


@dataclass
class Result:
    """One trained autoencoder; ELBOs in nats per image, pixels from 0 to 1.

    `guide` is the one that was trained, and `params` the state of its training.
    """

    backend: str
    method: str
    record: Record
    discrete: float
    stderr: float
    reconstructions: np.ndarray
    samples: np.ndarray
    guide: Any = None
    params: Any = None

    @property
    def relaxed(self) -> float | None:
        return self.record.objective[-1] if self.method == "relaxed" else None

    @property
    def label(self) -> str:
        return f"{self.backend}, {self.method}"


def table(results: list[Result], speed: bool = True) -> str:
    """The results, one a line, with or without the speed on this machine."""
    head = ("backend", "method", "relaxed ELBO", "discrete test ELBO", "steps/s")
    rows = [
        (
            r.backend,
            r.method,
            "-" if r.relaxed is None else f"{r.relaxed:.2f}",
            f"{r.discrete:.2f} ± {r.stderr:.2f}",
            f"{r.record.speed():.0f}",
        )
        for r in results
    ]
    form = "{:<8}  {:<14}  {:>12}  {:>18}" + speed * "  {:>7}"
    lines = [form.format(*row) for row in (head, *rows)]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(("", *lines, "", NOTE))


def temperatures(records: dict[tuple[float, float], Record]) -> str:
    """What relaxed runs have come to, by temperatures of the model and the guide."""
    head = ("of the model", "of the guide", "relaxed ELBO", "discrete test ELBO")
    rows = [
        (*(f"{t:.2f}" for t in pair), f"{r.objective[-1]:.2f}", f"{r.discrete[-1]:.2f}")
        for pair, r in records.items()
    ]
    form = "{:>12}  {:>12}  {:>12}  {:>18}"
    lines = [form.format(*row) for row in (head, *rows)]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def draw(results: list[Result]) -> Figure:
    """Draw curves, reconstructions and samples."""
    rows = -(-len(results) // 2)
    heights = (0.7 * (len(results) + 1), 2.0 * rows)
    figure = plt.figure(figsize=(15, 0.8 + sum(heights)), layout="constrained")
    figure.suptitle(
        "A discrete variational autoencoder of digits: twenty one-hot variables above "
        "100 binary variables",
        fontsize="x-large",
    )
    figure.get_layout_engine().set(h_pad=0.08)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.1), wspace=0.03)
    top, bottom = right.subfigures(2, 1, height_ratios=heights)
    draw_curves(left.subplots(), results)
    draw_reconstructions(top.subplots(), results)
    draw_samples(bottom, results)
    return figure


def draw_curves(axes: Axes, results: list[Result]) -> None:
    for r in results:
        axes.plot(
            np.cumsum(r.record.steps),
            r.record.discrete,
            LINES[r.method],
            color=COLORS[r.backend],
            label=f"{r.label}: {r.discrete:.1f}",
            linewidth=2.5,
        )
    axes.set_title("Discrete ELBO on test images")
    axes.set_xlabel("training step")
    axes.set_ylabel("nats per image")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="at the end of training", loc="lower right", fontsize="large")


def draw_reconstructions(axes: Axes, results: list[Result]) -> None:
    originals = digits.examples()
    rows = [originals / digits.LEVELS, *(r.reconstructions for r in results)]
    show(axes, np.concatenate(rows), columns=len(originals))
    axes.set_title("Test images and reconstructions, each from one discrete sample")
    centers = (np.arange(len(rows)) + 0.5) * TILE
    axes.set_yticks(centers, ["original", *(r.label for r in results)])
    axes.axhline(TILE, color="black", linewidth=0.8)


def draw_samples(panel: SubFigure, results: list[Result]) -> None:
    panel.suptitle("Discrete samples from the prior")
    panes = panel.subplots(-(-len(results) // 2), 2, squeeze=False)
    for axes, result in zip(panes.flat, results, strict=True):
        show(axes, result.samples, columns=SAMPLES // 3)
        axes.set_title(result.label, fontsize="medium")
        axes.set_yticks([])


def show(axes: Axes, images: np.ndarray, columns: int) -> None:
    """Show images side by side, in ink on paper."""
    tiles = images.reshape(-1, columns, digits.SIDE, digits.SIDE)
    tiles = np.pad(tiles, [(0, 0), (0, 0), (1, 1), (1, 1)])
    mosaic = tiles.swapaxes(1, 2).reshape(-1, columns * TILE)
    extent = (0, columns * TILE, len(tiles) * TILE, 0)
    axes.imshow(mosaic, cmap="gray_r", vmin=0, vmax=1, extent=extent)
    axes.set_xticks([])
    axes.tick_params(left=False)
