"""The report on gradients: arrays, a table and a picture."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from concrete_core.diagnostics.figures import axes_or_new
from concrete_core.diagnostics.moments import Arrays, Moments, cosines, sums
from concrete_core.diagnostics.tables import table

_HEADER = ("estimator", "temp.", "bias", "SE", "seen", "var.")
_HEADER += ("cos", "cos 1", "ms", "cost")
_WORDS = """\
bias: length of the mean gradient less the reference, and what noise alone makes of it
(SE); below 5 SE no bias is seen. var.: of one draw, all elements together. cos: cosine
of the mean gradient to the reference, and of one draw (cos 1) on average. ms: time of
one draw; cost: over that of the cheapest."""
_NOISE = 5  # standard errors below which a bias is not told from noise
_SHOWN = 6  # parameters named in the table
_STEEP = 100  # times the length of other draws that a hard draw has at steep functions


class Reference(NamedTuple):
    """What the gradients are compared with: arrays, their errors, and what they are."""

    mean: Arrays
    error: Arrays
    words: str


class Row(NamedTuple):
    """What was measured of an estimator, and whether its draws are one-hot."""

    estimator: str
    temperature: str
    moments: Moments
    seconds: float
    is_hard: bool = False


@dataclass(frozen=True)
class GradientReport:
    """What `gradient_report` found: a table as a string, arrays, and a picture.

    Arrays with a column for each parameter have a last one for all of them together.
    Gradients are of the ELBO, not of the loss, and in the unconstrained parameters, as
    an optimiser sees them.

    Attributes:
        estimators: What each row estimates by.
        temperatures: The temperature of each row, as text; none for an objective.
        params: Names of the parameters.
        reference: Gradient that others are compared with, by parameter.
        reference_error: Its standard errors; zeros where it is exact.
        reference_kind: Where it is from, in words.
        mean: Mean gradient, by parameter; rows first.
        error: Its standard errors.
        bias: Length of the mean less the reference: (rows, params + 1).
        bias_error: What noise alone makes of that length, the root of its mean square:
            (rows, params + 1).
        variance: Trace of the covariance of one draw: (rows, params + 1).
        cosine: Cosine of the mean to the reference: (rows, params + 1).
        draw_cosine: Mean cosine of one draw: (rows, params + 1).
        seconds: Median time of a draw: (rows,).
        num_samples: Number of draws of a row.
        notes: What else there is to know, in words.

    Example:
        >>> moments = Moments({"a": np.array(2.0)})
        >>> moments.add({"a": np.array([1.0, 2.0, 3.0, 4.0])})
        >>> truth = {"a": np.array(2.0)}, {"a": np.array(0.0)}
        >>> rows = [Row("ReinMax()", "1", moments, 0.001)]
        >>> report = report_of(rows, Reference(*truth, "given"), ())
        >>> report.bias.tolist(), report.bias_error.round(3).tolist()
        ([[0.5, 0.5]], [[0.645, 0.645]])
        >>> report.is_seen.tolist()
        [[False, False]]
    """

    estimators: tuple[str, ...]
    temperatures: tuple[str, ...]
    params: tuple[str, ...]
    reference: Arrays
    reference_error: Arrays
    reference_kind: str
    mean: Arrays
    error: Arrays
    bias: np.ndarray
    bias_error: np.ndarray
    variance: np.ndarray
    cosine: np.ndarray
    draw_cosine: np.ndarray
    seconds: np.ndarray
    num_samples: int
    notes: tuple[str, ...]

    @property
    def is_seen(self) -> np.ndarray:
        """Whether each bias is above five standard errors: (rows, params + 1)."""
        return self.bias > _NOISE * self.bias_error

    @property
    def cost(self) -> np.ndarray:
        """The time of a draw over that of the cheapest row: (rows,)."""
        return self.seconds / self.seconds.min()

    def table(self, param: str | None = None) -> str:
        """Return the rows as a table, for one parameter.

        Args:
            param: Name of the parameter; None for all of them together.

        Raises:
            ValueError: If there is no such parameter.
        """
        column = -1 if param is None else self._column(param)
        rows = [self._cells(row, column) for row in range(len(self.estimators))]
        return table([_HEADER, *rows])

    def __str__(self) -> str:
        length, error = (
            math.sqrt(sums(_squared(x), self.params)[-1])
            for x in (self.reference, self.reference_error)
        )
        head = f"Gradient of the ELBO, {self.num_samples} draws. Reference: "
        head += f"{self.reference_kind}; its length is {length:.4g}, with a standard "
        head += f"error of {error:.2g}."
        shown = ", ".join(self.params[:_SHOWN])
        if len(self.params) > _SHOWN:
            shown += f" and {len(self.params) - _SHOWN} more"
        foot = f"All parameters together; table(name) has one of {shown}."
        parts = [_wrapped(head), self.table(), _wrapped(foot) + "\n" + _WORDS]
        if self.notes:
            parts.append("\n".join(map(_wrapped, self.notes)))
        return "\n\n".join(parts)

    def plot(self, ax: Any = None, param: str | None = None) -> Any:
        """Draw squared bias against variance, a point for each row.

        On a grey line the mean squared error of one draw is the same; it meets the
        axis at that value. Hollow points on a dotted line have a bias that is not told
        from noise, and may lie anywhere below. An estimator at several temperatures is
        joined by a line.

        Args:
            ax: Axes of matplotlib; by default new ones.
            param: Name of the parameter; None for all of them together.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there is no such parameter.
        """
        column = -1 if param is None else self._column(param)
        ax = axes_or_new(ax, figsize=(8, 5))
        x = _above_zero(self.variance[:, column])
        y = _above_zero(self.bias[:, column] ** 2)
        ax.set(xscale="log", yscale="log", ylabel="squared bias")
        ax.set_xlabel("variance of one draw; grey: equal mean squared error")
        ax.set_title(param or "all parameters together", fontsize="medium")
        _lines_of_equal_error(ax, x, y)
        names = list(dict.fromkeys(self.estimators))
        colors = [f"C{names.index(name)}" for name in self.estimators]
        for name in names:
            rows = [i for i, other in enumerate(self.estimators) if other == name]
            ax.plot(x[rows], y[rows], color=colors[rows[0]], lw=0.8, alpha=0.6)
        for i, color in enumerate(colors):
            seen = self.is_seen[i, column]
            ax.scatter(x[i], y[i], color=color, facecolor=color if seen else "none")
            if not seen:
                ax.plot([x[i]] * 2, [ax.get_ylim()[0], y[i]], ":", color=color, lw=0.8)
        self._label(ax, x, y)
        return ax

    def _label(self, ax: Any, x: np.ndarray, y: np.ndarray) -> None:
        """Name the points at the right of the picture, where names do not overlap."""
        order = np.lexsort((-x, y))
        bottom, top = np.log(ax.get_ylim())
        heights = _spread((np.log(y[order]) - bottom) / (top - bottom))
        for i, height in zip(order, heights, strict=True):
            words = filter(None, (self.estimators[i], self.temperatures[i]))
            ax.annotate(
                ", ".join(words),
                (x[i], y[i]),
                (1.02, height),
                textcoords="axes fraction",
                fontsize="small",
                verticalalignment="center",
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": "grey", "lw": 0.5},
            )

    def _cells(self, row: int, column: int) -> list[str]:
        arrays = (self.bias, self.bias_error, self.variance)
        bias, error, variance = (f"{x[row, column]:.3g}" for x in arrays)
        cos, cos_of_one = self.cosine[row, column], self.draw_cosine[row, column]
        seen = "yes" if self.is_seen[row, column] else f"< {_NOISE} SE"
        times = f"{1000 * self.seconds[row]:.2g}", f"{self.cost[row]:.1f}"
        labels = self.estimators[row], self.temperatures[row]
        return [
            *(*labels, bias, error, seen, variance),
            *(_cut(cos), _cut(cos_of_one), *times),
        ]

    def _column(self, param: str) -> int:
        if param not in self.params:
            raise ValueError(
                f"there is no parameter {param!r}; there are {list(self.params)}"
            )
        return self.params.index(param)


def report_of(
    rows: Sequence[Row], reference: Reference, notes: tuple[str, ...]
) -> GradientReport:
    """Return the report on what was measured.

    Args:
        rows: What was measured of each estimator, against this reference.
        reference: What they are compared with.
        notes: What else there is to know.
    """
    names = tuple(reference.mean)

    def stacked(arrays: Sequence[Arrays]) -> Arrays:
        return {name: np.stack([x[name] for x in arrays]) for name in names}

    mean = stacked([row.moments.mean for row in rows])
    error = stacked([row.moments.error for row in rows])
    gaps = {k: mean[k] - reference.mean[k] for k in names}
    noise = {k: error[k] ** 2 + reference.error[k] ** 2 for k in names}
    return GradientReport(
        estimators=tuple(row.estimator for row in rows),
        temperatures=tuple(row.temperature for row in rows),
        params=names,
        reference=reference.mean,
        reference_error=reference.error,
        reference_kind=reference.words,
        mean=mean,
        error=error,
        bias=_by_row(lambda i: np.sqrt(sums(_row(_squared(gaps), i), names)), rows),
        bias_error=_by_row(lambda i: np.sqrt(sums(_row(noise, i), names)), rows),
        variance=_by_row(lambda i: sums(rows[i].moments.variance, names), rows),
        cosine=cosines(mean, reference.mean),
        draw_cosine=np.stack([row.moments.cosines for row in rows]),
        seconds=np.array([row.seconds for row in rows]),
        num_samples=rows[0].moments.count,
        notes=notes,
    )


def steepness_notes(rows: Sequence[Row], reference: Reference) -> tuple[str, ...]:
    """Return a note on each hard estimator whose draws are far longer than others.

    Its gradient is made of slopes at one-hot values, where a function may be as steep
    as 1e6 and yet change little from one value to another.

    Args:
        rows: What was measured of each estimator.
        reference: What they are compared with.
    """
    names = tuple(reference.mean)
    length = math.sqrt(sums(_squared(reference.mean), names)[-1])
    others = [_draw_length(row, names) for row in rows if not row.is_hard]
    # At an optimum the reference is short, and no draw is.
    scale = max(length, min(others, default=0.0))
    notes = []
    for row in rows:
        ratio = _draw_length(row, names) / scale if scale else 0.0
        if row.is_hard and ratio > _STEEP:
            notes.append(
                f"Draws of {row.estimator} at {row.temperature} are {ratio:.1g} times "
                "as long as others. A hard estimator takes the slopes of model and "
                "guide at one-hot samples, and a function that is steep there "
                "dominates them, such as log(z + 1e-6). Use Relaxed(), or an unbiased "
                "objective."
            )
    return tuple(notes)


def _draw_length(row: Row, names: Sequence[str]) -> float:
    """The root of the mean squared length of a draw."""
    squares = sums(_squared(row.moments.mean), names)[-1]
    return math.sqrt(squares + sums(row.moments.variance, names)[-1])


def _by_row(fn: Any, rows: Sequence[Row]) -> np.ndarray:
    return np.stack([fn(i) for i in range(len(rows))])


def _row(arrays: Arrays, i: int) -> Arrays:
    return {name: np.asarray(x[i]) for name, x in arrays.items()}


def _squared(arrays: Arrays) -> Arrays:
    return {name: np.asarray(x**2) for name, x in arrays.items()}


def _cut(cosine: float) -> str:
    return "" if np.isnan(cosine) else f"{cosine:.3f}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 88)


def _above_zero(x: np.ndarray) -> np.ndarray:
    """The same with zeros lifted to where a logarithmic axis can show them."""
    positive = x[x > 0]
    return np.maximum(x, positive.min() / 10 if positive.size else 1e-12)


def _spread(heights: np.ndarray, gap: float = 0.04) -> np.ndarray:
    """Rising numbers between 0 and 1, moved apart to a gap, if there is room."""
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    steps = gap * np.arange(len(heights))
    spread = np.maximum.accumulate(heights - steps) + steps  # moved up
    # And down again from the top, where that went too far.
    return np.minimum(spread, 1 - steps[::-1])


def _lines_of_equal_error(ax: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Lines along which squared bias and variance have the same sum."""
    left, right = x.min() / 1.6, x.max() * 1.6
    bottom, top = y.min() / 3, y.max() * 3
    ax.set(xlim=(left, right), ylim=(bottom, top))
    grid = np.geomspace(left, right, 400), np.geomspace(bottom, top, 400)
    total = np.log10(grid[0] + grid[1][:, None])
    look: dict[str, Any] = {"colors": "grey", "alpha": 0.4, "linewidths": 0.7}
    look |= {"linestyles": "solid", "zorder": -1}
    levels = np.linspace(total.min(), total.max(), 9)[1:-1]
    ax.contour(*grid, total, levels, **look)
