"""The report on gradients: arrays, a table and a figure.

`build_report` turns what was measured of each estimator (`Measurement`) and what it is
compared with (`Reference`) into a `GradientReport`. The figure is in `report_figure`. A
draw is one gradient that an estimator gives, as in one step of training.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from concrete_core.diagnostics.figures import Axes
from concrete_core.diagnostics.moments import (
    Arrays,
    Moments,
    cosines_to_reference,
    sums_and_total,
)
from concrete_core.diagnostics.report_figure import Point, draw_bias_and_variance
from concrete_core.diagnostics.tables import format_table

_SIGNIFICANCE = 5  # standard errors above which a bias is significant
_MAX_NAMED_PARAMS = 6  # parameters that the table's last line names
_STEEP_RATIO = 100  # length of a hard draw over that of others at steep functions
_LINE_WIDTH = 88

_HEADER = (
    "estimator",
    "temp.",
    "bias",
    "SE",
    "sig.",
    "var.",
    "cos",
    "cos 1",
    "ms",
    "rel.",
)
_LEGEND = f"""\
bias: length of the mean gradient less the reference, and what noise alone makes of it
(SE); below {_SIGNIFICANCE} SE it is not significant (sig.). var.: of one draw, all \
elements together.
cos: cosine of the mean gradient to the reference, and of one draw (cos 1) on average.
ms: time of one draw; rel.: relative to that of the fastest."""


@dataclass(frozen=True)
class Reference:
    """The gradient that others are compared with.

    Attributes:
        mean: Gradient by parameter.
        stderr: Its standard errors; zeros where it is exact.
        source: Where it comes from, in words.
    """

    mean: Arrays
    stderr: Arrays
    source: str


@dataclass(frozen=True)
class Measurement:
    """What was measured of one estimator at one temperature.

    Attributes:
        estimator: Label of the estimator.
        temperature: Label of the temperature; empty for an objective.
        moments: Moments of its gradients.
        seconds: Median time of a draw.
        is_hard: Whether the program receives one-hot samples.
    """

    estimator: str
    temperature: str
    moments: Moments
    seconds: float
    is_hard: bool = False


@dataclass(frozen=True)
class GradientReport:
    """What `gradient_report` found: a table as a string, arrays, and a figure.

    Arrays with a column for each parameter have a last one for all of them together.
    Gradients are of the ELBO, not of the loss, and in the unconstrained parameters, as
    an optimizer sees them.

    Attributes:
        estimators: Estimator or objective of each row.
        temperatures: Temperature of each row, as text; empty for an objective.
        params: Names of the parameters.
        reference: Gradient that others are compared with, by parameter.
        reference_stderr: Its standard errors; zeros where it is exact.
        reference_source: Where it comes from, in words.
        mean: Mean gradient, by parameter; rows first.
        mean_stderr: Its standard errors.
        bias: Length of (mean - reference): (rows, params + 1).
        bias_stderr: What noise alone makes of that length, the root of its mean square:
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
        >>> reference = Reference({"a": np.array(2.0)}, {"a": np.array(0.0)}, "given")
        >>> measurement = Measurement("ReinMax()", "1", moments, seconds=0.001)
        >>> report = build_report([measurement], reference)
        >>> report.bias.tolist(), report.bias_stderr.round(3).tolist()
        ([[0.5, 0.5]], [[0.645, 0.645]])
        >>> report.is_significant.tolist()
        [[False, False]]
    """

    estimators: tuple[str, ...]
    temperatures: tuple[str, ...]
    params: tuple[str, ...]
    reference: Arrays
    reference_stderr: Arrays
    reference_source: str
    mean: Arrays
    mean_stderr: Arrays
    bias: np.ndarray
    bias_stderr: np.ndarray
    variance: np.ndarray
    cosine: np.ndarray
    draw_cosine: np.ndarray
    seconds: np.ndarray
    num_samples: int
    notes: tuple[str, ...]

    @property
    def is_significant(self) -> np.ndarray:
        """Whether each bias is above five standard errors: (rows, params + 1)."""
        return self.bias > _SIGNIFICANCE * self.bias_stderr

    @property
    def relative_time(self) -> np.ndarray:
        """Time of a draw relative to that of the fastest row: (rows,)."""
        return self.seconds / self.seconds.min()

    def table(self, param: str | None = None) -> str:
        """Return the rows as a table, for one parameter.

        Args:
            param: Name of the parameter; None for all of them together.

        Raises:
            ValueError: If there is no such parameter.
        """
        column = self._column(param)
        rows = [self._cells(row, column) for row in range(len(self.estimators))]
        return format_table([_HEADER, *rows])

    def __str__(self) -> str:
        length = _length(self.reference, self.params)
        stderr = _length(self.reference_stderr, self.params)
        head = (
            f"Gradient of the ELBO, {self.num_samples} draws. Reference: "
            f"{self.reference_source}; its length is {length:.4g}, with a standard "
            f"error of {stderr:.2g}."
        )
        named = ", ".join(self.params[:_MAX_NAMED_PARAMS])
        if len(self.params) > _MAX_NAMED_PARAMS:
            named += f" and {len(self.params) - _MAX_NAMED_PARAMS} more"
        foot = f"All parameters together; table(name) has one of {named}."
        paragraphs = [_wrap(head), self.table(), _wrap(foot) + "\n" + _LEGEND]
        if self.notes:
            paragraphs.append("\n".join(map(_wrap, self.notes)))
        return "\n\n".join(paragraphs)

    def plot(self, ax: Axes = None, param: str | None = None) -> Axes:
        """Draw squared bias against variance, a point for each row.

        On a grey line the mean squared error of one draw is the same; it meets the
        axis at that value. Hollow points on a dotted line have a bias that is not
        significant, and may lie anywhere below. A line joins the temperatures of an
        estimator.

        Args:
            ax: Axes of matplotlib; by default new ones.
            param: Name of the parameter; None for all of them together.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there is no such parameter.
        """
        column = self._column(param)
        points = [
            Point(
                series=estimator,
                label=", ".join(filter(None, [estimator, temperature])),
                variance=self.variance[row, column],
                squared_bias=self.bias[row, column] ** 2,
                is_significant=bool(self.is_significant[row, column]),
            )
            for row, (estimator, temperature) in enumerate(
                zip(self.estimators, self.temperatures, strict=True)
            )
        ]
        return draw_bias_and_variance(ax, points, param or "all parameters together")

    def _cells(self, row: int, column: int) -> list[str]:
        is_significant = self.is_significant[row, column]
        return [
            self.estimators[row],
            self.temperatures[row],
            f"{self.bias[row, column]:.3g}",
            f"{self.bias_stderr[row, column]:.3g}",
            "yes" if is_significant else f"< {_SIGNIFICANCE} SE",
            f"{self.variance[row, column]:.3g}",
            _format_cosine(self.cosine[row, column]),
            _format_cosine(self.draw_cosine[row, column]),
            f"{1000 * self.seconds[row]:.2g}",
            f"{self.relative_time[row]:.1f}",
        ]

    def _column(self, param: str | None) -> int:
        if param is None:
            return -1
        if param not in self.params:
            raise ValueError(
                f"there is no parameter {param!r}; there are {list(self.params)}"
            )
        return self.params.index(param)


def build_report(
    measurements: Sequence[Measurement],
    reference: Reference,
    notes: tuple[str, ...] = (),
) -> GradientReport:
    """Return the report on what was measured.

    Args:
        measurements: What was measured of each estimator, against this reference.
        reference: Gradient that they are compared with.
        notes: What else there is to know.
    """
    names = tuple(reference.mean)
    mean = _stack([m.moments.mean for m in measurements], names)
    mean_stderr = _stack([m.moments.stderr for m in measurements], names)
    gap = {name: mean[name] - reference.mean[name] for name in names}
    # The errors of the mean and of the reference are independent: variances add.
    noise = {
        name: mean_stderr[name] ** 2 + reference.stderr[name] ** 2 for name in names
    }
    variance = [sums_and_total(m.moments.variance, names) for m in measurements]
    return GradientReport(
        estimators=tuple(m.estimator for m in measurements),
        temperatures=tuple(m.temperature for m in measurements),
        params=names,
        reference=reference.mean,
        reference_stderr=reference.stderr,
        reference_source=reference.source,
        mean=mean,
        mean_stderr=mean_stderr,
        bias=np.sqrt(_sums_by_row(_squared(gap), names)),
        bias_stderr=np.sqrt(_sums_by_row(noise, names)),
        variance=np.stack(variance),
        cosine=cosines_to_reference(mean, reference.mean),
        draw_cosine=np.stack([m.moments.cosines for m in measurements]),
        seconds=np.array([m.seconds for m in measurements]),
        num_samples=measurements[0].moments.count,
        notes=notes,
    )


def steepness_notes(
    measurements: Sequence[Measurement], reference: Reference
) -> tuple[str, ...]:
    """Return a note on each hard estimator whose draws are far longer than others.

    Its gradient is made of slopes at one-hot values, where a function may be as steep
    as 1e6 and yet change little from one value to another.

    Args:
        measurements: What was measured of each estimator.
        reference: Gradient that they are compared with.
    """
    names = tuple(reference.mean)
    soft_lengths = [_draw_length(m, names) for m in measurements if not m.is_hard]
    # At an optimum the reference is close to zero, and draws are not.
    scale = max(_length(reference.mean, names), min(soft_lengths, default=0.0))
    if scale == 0:
        return ()
    notes = []
    for measurement in measurements:
        ratio = _draw_length(measurement, names) / scale
        if measurement.is_hard and ratio > _STEEP_RATIO:
            notes.append(
                f"Draws of {measurement.estimator} at {measurement.temperature} are "
                f"{ratio:.1g} times as long as others. A hard estimator takes the "
                "slopes of model and guide at one-hot samples, and a function that is "
                "steep there dominates them, such as log(z + 1e-6). Use Relaxed(), or "
                "an unbiased objective."
            )
    return tuple(notes)


def _length(arrays: Arrays, names: Sequence[str]) -> float:
    """The Euclidean length of all arrays together."""
    return math.sqrt(sums_and_total(_squared(arrays), names)[-1])


def _draw_length(measurement: Measurement, names: Sequence[str]) -> float:
    """The root of the mean squared length of a draw: E|g|^2 = |E g|^2 + tr Cov g."""
    squared_mean = sums_and_total(_squared(measurement.moments.mean), names)[-1]
    variance = sums_and_total(measurement.moments.variance, names)[-1]
    return math.sqrt(squared_mean + variance)


def _stack(rows: Sequence[Arrays], names: Sequence[str]) -> Arrays:
    return {name: np.stack([arrays[name] for arrays in rows]) for name in names}


def _sums_by_row(arrays: Arrays, names: Sequence[str]) -> np.ndarray:
    """The sums of each row by parameter, and of all: (rows, params + 1)."""
    num_rows = len(arrays[names[0]])
    sums = [arrays[name].reshape(num_rows, -1).sum(-1) for name in names]
    return np.stack([*sums, np.sum(sums, axis=0)], axis=-1)


def _squared(arrays: Arrays) -> Arrays:
    return {name: np.asarray(array**2) for name, array in arrays.items()}


def _format_cosine(cosine: float) -> str:
    return "" if np.isnan(cosine) else f"{cosine:.3f}"


def _wrap(text: str) -> str:
    return textwrap.fill(text, _LINE_WIDTH)
