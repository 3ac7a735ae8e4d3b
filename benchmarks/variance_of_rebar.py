"""Is the variance of REBAR's gradient below that of the leave-one-out baseline?

The discrete autoencoder of the tutorials is trained with REBAR with learned settings
and nine particles. At several steps, the gradient of the same batch of images is
sampled many times: with REBAR, with its learned and with its initial settings, and with
RLOO at the same number of model evaluations (a particle of REBAR takes two). Their
variances are summed over the guide's parameters. All are gradients of the same discrete
ELBO, at the same parameters. The ratio is relative to RLOO with as many evaluations;
its standard error comes from parts of the draws.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import table, write_csv

sys.path.insert(0, str(Path(__file__).parent.parent / "tutorials"))

STEPS = (50, 200, 400, 1000)
PARTICLES = 9
DRAWS = 48
PARTS = 6
# Name, objective, its particles, and the runs of the model that they take.
OBJECTIVES = (
    ("RLOO", "RLOO", 2, 2),
    ("REBAR", "REBAR", 1, 2),
    ("RLOO", "RLOO", 2 * PARTICLES, 2 * PARTICLES),
    ("REBAR", "REBAR", PARTICLES, 2 * PARTICLES),
    ("REBAR, tuned", "tuned", PARTICLES, 2 * PARTICLES),
)
HEADER = ("steps", "objective", "particles", "runs", "variance", "ratio", "error")


def run(backends: Sequence[str], out: Path) -> None:
    for backend in backends:
        module = import_module(f"benchmarks.on_{backend}.variance_of_rebar")
        rows, settings = [], []
        for steps, at in module.training(STEPS):
            draws = {x: at.gradients(*x[1:3], DRAWS) for x in OBJECTIVES}
            rows += _rows(steps, draws)
            settings += [(steps, *x) for x in at.settings()]
        write_csv(out / f"variance_of_rebar_{backend}.csv", backend, HEADER, rows)
        table(
            f"Variance of the gradient of a batch in the guide's parameters, {backend}",
            HEADER,
            rows,
        )
        table(
            f"What the tuned REBAR has come to, {backend}",
            ("steps", "setting", "value"),
            [(steps, name, f"{value:.3f}") for steps, name, value in settings],
        )


def _rows(steps: int, draws: dict[tuple, np.ndarray]) -> list[list[Any]]:
    found = {x: _variances(gradients) for x, gradients in draws.items()}
    base = {x[3]: v for x, v in found.items() if x[1] == "RLOO"}
    rows = []
    for (name, _, particles, runs), parts in found.items():
        ratios = parts / base[runs]
        ratio = parts.mean() / base[runs].mean()
        error = ratios.std(ddof=1) / len(ratios) ** 0.5
        numbers = f"{parts.mean():.4g}", f"{ratio:.3f}", f"{error:.3f}"
        rows.append([steps, name, particles, runs, *numbers])
    return rows


def _variances(gradients: np.ndarray) -> np.ndarray:
    """The total variance, in each part of the draws."""
    parts = np.split(gradients, PARTS)
    return np.array([part.var(0, ddof=1).sum() for part in parts])
