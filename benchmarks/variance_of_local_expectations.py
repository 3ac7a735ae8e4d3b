"""Is the variance of local expectations below that of other unbiased gradients?

Models of the gallery are trained relaxed. At the start and at the end, the gradient of
the discrete ELBO in the guide's parameters is sampled many times, by each objective at
the same number of model evaluations: those of two particles of `LocalExpectations`. The
ratio of the total variance is relative to RLOO; its standard error comes from parts of
the draws. All are gradients of the same ELBO, at the same parameters.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gallery.entries import ENTRIES, Entry
from benchmarks.gallery.methods import METHODS
from benchmarks.report import table, write_csv

MODELS = ("zero_inflated", "iris_mixture", "spike_and_slab", "belief_net")
# Relaxed steps of training before each of the two samples of the gradient.
STEPS = (1, 1000)
DRAWS = 120
PARTS = 6
HEADER = (
    *("model", "steps", "objective", "particles", "evaluations", "variance"),
    *("ratio", "stderr"),
)


def run(backends: Sequence[str], out: Path) -> None:
    for backend in backends:
        rows = []
        for name in MODELS:
            rows += rows_of_model(backend, ENTRIES[name])
        path = out / f"variance_of_local_expectations_{backend}.csv"
        write_csv(path, backend, HEADER, rows)
        title = f"Variance of unbiased gradients at equal evaluations, {backend}"
        table(title, HEADER, rows)


def rows_of_model(
    backend: str, entry: Entry, num_draws: int = DRAWS, steps: Sequence[int] = STEPS
) -> list[list[Any]]:
    """Return a row for each objective, at each of the numbers of steps."""
    module = import_module(f"benchmarks.gallery.on_{backend}.gradients")
    rows = []
    for num_steps in steps:
        trained = module.Trained(entry, METHODS["discrete 0.2"], num_steps)
        draws = {
            name: trained.gradients(name, num_particles, num_draws)
            for name, num_particles in objectives(entry).items()
        }
        rows += _rows(entry, num_steps, draws)
    return rows


def objectives(entry: Entry) -> dict[str, int]:
    """The objectives for a model, and their particles at equal evaluations."""
    particles = {"RLOO": 2 * entry.local_runs, "LocalExpectations": 2}
    if entry.is_binary:
        particles["DisARM"] = entry.local_runs
    return particles


def _rows(
    entry: Entry, num_steps: int, draws: dict[str, np.ndarray]
) -> list[list[Any]]:
    variances = {name: _variances(gradients) for name, gradients in draws.items()}
    baseline = variances["RLOO"]
    rows = []
    for name, parts in variances.items():
        stderr = (parts / baseline.mean()).std(ddof=1) / PARTS**0.5
        rows.append(
            [
                entry.title,
                num_steps,
                name,
                objectives(entry)[name],
                2 * entry.local_runs,
                f"{parts.mean():.4g}",
                f"{parts.mean() / baseline.mean():.3f}",
                f"{stderr:.3f}",
            ]
        )
    return rows


def _variances(gradients: np.ndarray) -> np.ndarray:
    """The total variance, in each part of the draws."""
    parts = np.split(gradients, PARTS)
    return np.array([part.var(0, ddof=1).sum() for part in parts])
