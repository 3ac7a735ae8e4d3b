"""The table and the figure of the tutorials on two processes or devices."""

import digits
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FORM = "{:>9}  {:>19}  {:>9}  {:>13}  {:>10}"
NOTE = """\
Seconds are those of training. The discrete ELBO is in nats per image. The difference is
the largest of any parameter and any loss to the first run."""

Run = dict[str, np.ndarray]


def load() -> np.ndarray:
    """Return as many digits as divide into two equal parts."""
    images, _ = digits.load()
    return images[: len(images) // 2 * 2].astype(np.float64)


def table(runs: dict[int, Run], what: str) -> str:
    """The runs, one a line, by the number of processes or devices."""
    head = (what, "rows of logits each", "seconds", "discrete ELBO", "difference")
    lines = [FORM.format(*head)]
    for size, run in runs.items():
        first = next(iter(runs.values()))
        gaps = [np.abs(run[k] - first[k]).max() for k in ("ink", "logits", "losses")]
        numbers = f"{run['seconds']:.0f}", f"{run['discrete']:.2f}", f"{max(gaps):.0e}"
        lines.append(FORM.format(size, int(run["rows"]), *numbers))
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join((*lines, "", NOTE))


def draw(runs: dict[int, Run], what: str) -> Figure:
    """Draw the training of all runs, and what the last one learned."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for (size, run), line in zip(runs.items(), ("-", "--"), strict=True):
        left.plot(-run["losses"], line, label=f"{what}: {size}")
    left.set(title="Relaxed ELBO in training", xlabel="step", ylabel="nats per image")
    left.set_ylim(bottom=-np.quantile(run["losses"], 0.95))
    left.legend()
    draw_kinds(right, run["ink"])
    right.set_title(f"The kinds that {size} {what} learned")
    return figure


def draw_kinds(axes: Axes, ink: np.ndarray) -> None:
    tiles = ink.reshape(2, -1, digits.SIDE, digits.SIDE)
    tiles = np.pad(tiles, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=ink.min())
    axes.imshow(tiles.swapaxes(1, 2).reshape(2 * (digits.SIDE + 2), -1), cmap="gray_r")
    axes.set(xticks=[], yticks=[])
