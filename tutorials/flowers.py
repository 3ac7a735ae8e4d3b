"""The data of the tutorials on NUTS, their reference, their table and their figure.

The data are two measurements of a hundred iris flowers of two species, which come with
scikit-learn, so that nothing is downloaded.
"""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats
from sklearn.datasets import load_iris

COLUMNS = ["temperature", "step", "draws/s", "r_hat", "ess", "diverging"]
COLUMNS += ["bfmi", "hard", "noise", "bayes"]
NOTE = """\
temperature  of the relaxed model; "exact" is the model with its kinds marginalized out
step         step size that NUTS has adapted
draws/s      with those that warm up, and the time to compile
r_hat, ess   the worst of all coordinates of all sites, the relaxed ones among them
diverging    transitions that diverged
bfmi         energy fraction, where the backend records energies; below 0.3 is bad
hard         mean absolute difference of the flowers' probabilities to be of the second
             kind from the exact ones: shares of the hardened draws
noise        of `hard`, from the number of draws: half the mean absolute difference
             between two halves of them
bayes        as `hard`, by Bayes' rule at the other sites of the same draws"""


def load() -> np.ndarray:
    """Return petal lengths and widths in cm, of shape (flowers, 2)."""
    measures, species = load_iris(return_X_y=True)
    return measures[species > 0][:, 2:]


@dataclass
class Result:
    """What a run of NUTS found; `hard` and `bayes` are probabilities by flower."""

    temperature: float | None
    step_size: float
    draws_per_second: float
    r_hat: float
    ess: float
    divergences: int
    bfmi: float | None
    bayes: np.ndarray
    hard: np.ndarray | None = None
    noise: float | None = None

    @property
    def label(self) -> str:
        return "exact" if self.temperature is None else f"{self.temperature:g}"


def by_bayes(flowers: np.ndarray, draws: dict[str, np.ndarray]) -> np.ndarray:
    """Return probabilities of the second kind, averaged over draws of the rest."""
    share = np.asarray(draws["share"])[:, None, None]
    locs = np.asarray(draws["locs"])[:, None]
    scales = np.asarray(draws["scales"])[:, None, None]
    scores = stats.norm.logpdf(flowers[:, None], locs, scales).sum(-1)
    scores += np.log(np.concatenate([1 - share, share], -1))
    return np.mean(1 / (1 + np.exp(scores[..., 0] - scores[..., 1])), 0)


def shares(is_second: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the share of draws by flower, and how much of it is noise.

    Halves differ by twice the error of the whole.
    """
    halves = [half.mean(0) for half in np.array_split(is_second, 2)]
    return is_second.mean(0), difference(*halves) / 2


def difference(probs: np.ndarray, exact: np.ndarray) -> float:
    """Return the mean absolute difference."""
    return float(np.abs(probs - exact).mean())


def table(results: list[Result]) -> str:
    """The results, one a line, the exact one first."""
    exact = results[0].bayes
    rows = [COLUMNS]
    for r in results:
        bfmi = "-" if r.bfmi is None else f"{r.bfmi:.2f}"
        errors = ["-", "-", "-"]
        if r.hard is not None:
            numbers = difference(r.hard, exact), r.noise, difference(r.bayes, exact)
            errors = [f"{x:.3f}" for x in numbers]
        numbers = (f"{r.step_size:.3f}", f"{r.draws_per_second:.0f}", f"{r.r_hat:.2f}")
        rows.append(
            [r.label, *numbers, f"{r.ess:.0f}", str(r.divergences), bfmi, *errors]
        )
    lines = ["  ".join(f"{x:>11}" for x in row) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(("", *lines, "", NOTE))


def draw(results: list[Result], flowers: np.ndarray) -> Figure:
    """Draw flowers, probabilities and costs."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    figure.suptitle("NUTS on a relaxed mixture of two kinds of iris", fontsize="large")
    draw_flowers(axes[0], flowers, results[0].bayes)
    draw_probabilities(axes[1], results)
    draw_costs(axes[2], results)
    return figure


def draw_flowers(axes: Axes, flowers: np.ndarray, exact: np.ndarray) -> None:
    # Measures are rounded to a millimetre, and some flowers have the same.
    spread = np.random.default_rng(0).uniform(-0.03, 0.03, flowers.shape)
    points = (flowers + spread).T
    drawn = axes.scatter(*points, c=exact, cmap="coolwarm", edgecolor="k", lw=0.4)
    axes.figure.colorbar(drawn, ax=axes, label="exact probability of the second kind")
    axes.set(title="The flowers", xlabel="petal length, cm", ylabel="petal width, cm")


def draw_probabilities(axes: Axes, results: list[Result]) -> None:
    exact, *relaxed = results
    axes.plot([0, 1], [0, 1], color="black", lw=0.8)
    for r, color in zip(relaxed, colors(relaxed), strict=True):
        label = f"temperature {r.label}"
        axes.scatter(exact.bayes, r.hard, s=18, color=color, label=label)
    axes.set(title="Probability of the second kind, by flower")
    axes.set(xlabel="exact", ylabel="share of hardened draws")
    axes.legend()


def draw_costs(axes: Axes, results: list[Result]) -> None:
    exact, *relaxed = results
    temperatures = [r.temperature for r in relaxed]
    sizes = [r.step_size for r in relaxed]
    gaps = [difference(r.hard, exact.bayes) for r in relaxed]
    axes.plot(temperatures, sizes, "o-", color="#2a6f97", label="step size")
    axes.plot(temperatures, gaps, "s-", color="#c8502d", label="mean abs difference")
    axes.axhline(exact.step_size, color="#2a6f97", ls=":", label="step size, exact")
    axes.set_xscale("log")
    axes.set_xticks(temperatures, [r.label for r in relaxed])
    axes.minorticks_off()
    axes.set_yscale("log")
    axes.set(title="What a low temperature gains and costs", xlabel="temperature")
    axes.legend()


def colors(relaxed: list[Result]) -> np.ndarray:
    return plt.get_cmap("viridis")(np.linspace(0.85, 0.1, len(relaxed)))
