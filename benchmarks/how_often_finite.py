"""How often are samples, log-probabilities and gradients of a relaxation not finite?

The grid has 280 cells in float32 and float64: temperatures from 1e-3 to 100, logits
from 0 to 1000 times a standard normal, for two, ten and a thousand classes and for one
binary variable. A cell draws 64 variables, each with its own logits, and fails if any
number in it is not finite, or an error is raised. A cell has:

- the samples;
- their log-probabilities, scored as own samples, and again scored in full: after a
  no-op (Pyro), without the sampler's intermediates (NumPyro);
- for both, the gradients with respect to logits and temperature of the sum of the
  log-probabilities and a bounded function of the samples.

With `relax`, a model and a guide have one discrete site each, with different logits,
and the numbers are one `Trace_ELBO` and its gradients with respect to both logits and
the temperature. A second grid of 160 cells has float16 and bfloat16; the temperature is
in single precision there, and gradients of the samples in half precision.

Our classes validate arguments and values as they do by default. The backends' classes
get `validate_args=False`, since otherwise they raise errors in cells where they would
also return numbers.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from benchmarks.report import table, write_csv

BATCH = 64
FAULTS = ("samples", "log_prob", "in_full", "gradients", "error")
CLASSES = (2, 10, 1000, None)  # None: one two-valued variable
FULL_GRID = (
    ("float32", "float64"),
    (1e-3, 1e-2, 0.1, 0.5, 1.0, 10.0, 100.0),
    (0.0, 1.0, 10.0, 100.0, 1000.0),
)
HALF_GRID = (
    ("float16", "bfloat16"),
    (0.1, 0.5, 1.0, 10.0, 100.0),
    (0.0, 1.0, 10.0, 100.0),
)


@dataclass(frozen=True)
class Cell:
    """One point of a grid; `classes` is None for a two-valued variable."""

    classes: int | None
    dtype: str
    temperature: float
    scale: float
    seed: int

    def logits(self, offset: int = 0) -> np.ndarray:
        """The logits of the cell, in double precision; `offset` draws others."""
        rng = np.random.default_rng((self.seed, offset))
        shape = (BATCH,) if self.classes is None else (BATCH, self.classes)
        return self.scale * rng.standard_normal(shape)


@dataclass(frozen=True)
class Way:
    """A way to a relaxed variable: its names, and the check of a cell.

    The name is None where the backend has no such class. A check returns the faults
    found in a cell, a subset of `FAULTS`.
    """

    title: str
    categorical: str | None
    binary: str
    check: Callable[[Cell], set[str]]


@dataclass(frozen=True)
class Finding:
    """The faults of one cell, and the error that it raised."""

    cell: Cell
    faults: frozenset[str]
    error: str = ""


def run(backends: Sequence[str], out: Path) -> None:
    for title, name, grid in (
        ("single and double precision", "how_often_finite", FULL_GRID),
        ("half precision", "how_often_finite_in_half_precision", HALF_GRID),
    ):
        found = {}
        for backend in backends:
            ways = import_module(f"benchmarks.on_{backend}.how_often_finite").WAYS
            for way in ways:
                found[backend, way] = [_examine(way, cell) for cell in _cells(grid)]
            mine = {
                way: findings for (b, way), findings in found.items() if b == backend
            }
            _write(out / f"{name}_{backend}.csv", backend, mine)
        _print_totals(title, found)
        _print_by_temperature(title, found, grid[1])
        _print_errors(found)


def _cells(grid: tuple) -> Iterator[Cell]:
    points = itertools.product(CLASSES, *grid)
    return (Cell(*point, seed) for seed, point in enumerate(points))


def _examine(way: Way, cell: Cell) -> Finding | None:
    if cell.classes and way.categorical is None:
        return None
    try:
        return Finding(cell, frozenset(way.check(cell)))
    except Exception as error:  # any error is a failure of the cell
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        return Finding(cell, frozenset({"error"}), message)


def _split(findings: list[Finding | None]) -> tuple[list[Finding], list[Finding]]:
    """The findings of categorical and of binary cells."""
    present = [f for f in findings if f]
    categorical = [f for f in present if f.cell.classes]
    return categorical, [f for f in present if not f.cell.classes]


def _count(findings: list[Finding]) -> str:
    return str(sum(bool(f.faults) for f in findings)) if findings else "-"


def _print_totals(title: str, found: dict) -> None:
    rows = []
    for (backend, way), findings in found.items():
        categorical, binary = _split(findings)
        faults = Counter(x for f in categorical + binary for x in f.faults)
        together = _count(categorical + binary) if categorical else "-"
        counts = [_count(categorical), _count(binary), together]
        rows.append([backend, way.title, *counts, *(faults[x] for x in FAULTS)])
    n, m = map(len, _split(next(iter(found.values()))))
    header = ["backend", "way", f"of {n} categorical", f"of {m} binary", f"of {n + m}"]
    table(
        f"Cells with a number that is not finite, {title}; to the right, by its kind",
        [*header, *FAULTS],
        rows,
    )


def _print_by_temperature(title: str, found: dict, temperatures: tuple) -> None:
    rows, cells = [], []
    for (backend, way), findings in found.items():
        for name, part in zip(
            (way.categorical, way.binary), _split(findings), strict=True
        ):
            if not part:
                continue
            at = [[f for f in part if f.cell.temperature == t] for t in temperatures]
            cells = [len(part), *map(len, at)]
            rows.append([backend, name, cells[1], *map(_count, at), _count(part)])
    table(
        f"The same by temperature, {title}",
        ["backend", "variable", "cells each", *(f"{t:g}" for t in temperatures), "all"],
        rows,
    )


def _print_errors(found: dict) -> None:
    errors = Counter(
        (backend, way.title, f.error)
        for (backend, way), findings in found.items()
        for f in findings
        if f and f.error
    )
    for (backend, title, error), times in errors.items():
        print(f"\n{backend}, {title}: {times} times {error}")


def _write(path: Path, backend: str, found: dict) -> None:
    """Write a row for each variable, precision, number of classes and temperature."""
    rows = []
    for way, findings in found.items():
        groups = itertools.groupby(
            (f for f in findings if f),
            lambda f: (f.cell.classes, f.cell.dtype, f.cell.temperature),
        )
        for (classes, dtype, temperature), group in groups:
            part = list(group)
            failed = " ".join(f"{f.cell.scale:g}" for f in part if f.faults)
            counts = [sum(x in f.faults for f in part) for x in FAULTS]
            name = way.categorical if classes else way.binary
            row = [name, dtype, classes or "", f"{temperature:g}", len(part)]
            rows.append([*row, _count(part), failed, *counts])
    header = ["variable", "dtype", "classes", "temperature", "cells", "failed"]
    write_csv(path, backend, [*header, "logit_scales_that_failed", *FAULTS], rows)
