"""How close does training with `relax` come to training by enumeration?

Each test model that permits it is trained with one mean-field guide in two ways: with
every discrete site of the guide enumerated, which has no noise and no bias; and
relaxed, with discrete scoring, at temperatures that decrease in three stages. Both
start from the same parameters. If a model has several starts, the best one counts, for
both. Where the relaxed guide is not close, it is polished: training continues without
bias, with RLOO. The table compares the discrete ELBOs of the trained guides. The logits
of the relaxed guide are those of its discrete counterpart, whose ELBO is computed by
enumeration, in Pyro for both backends.

The unit is nats per data point. A positive difference means that enumeration did
better; "ok" is a difference of at most 0.05 nats per data point or 2 % of the ELBO.

With `--only MODEL ...` other models keep their rows in the csv files.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.report import read_csv, table, write_csv

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import example_models

EXACT_STEPS = 600
# Temperature of model and guide, steps, and the learning rate at their start and end.
STAGES = ((1.0, 300, 0.05, 0.05), (0.5, 300, 0.05, 0.05), (0.2, 300, 0.05, 0.002))
PARTICLES = 8
# Steps, particles, and the learning rate at the start and end of the polish.
POLISH = (600, 32, 0.05, 0.001)
HEADER = ("model", "enumerated", "relaxed", "polished", "difference", "percent", "")
TAKES_ROWS = True


def run(backends: Sequence[str], out: Path, only: Sequence[str] = ()) -> None:
    name = "how_close_to_enumeration"
    module = {b: import_module(f"benchmarks.on_{b}.{name}") for b in backends}
    reference = import_module(f"benchmarks.on_pyro.{name}")
    entries = [
        e for e in example_models.ENTRIES.values() if e.tractable and "pyro" in e.hosts
    ]
    exact = {}
    for backend in backends:
        path = out / f"{name}_{backend}.csv"
        rows = {row[0]: row for row in read_csv(path)} if only else {}
        for entry in entries:
            left_out = only and entry.name not in only
            if left_out or backend not in entry.hosts or entry.enumerated:
                continue
            starts = range(entry.training.get("starts", 1))
            if entry.name not in exact:
                trained = [reference.trained_by_enumeration(entry, s) for s in starts]
                exact[entry.name] = max(trained)
            start = [reference.start(entry, s) for s in starts]
            rows[entry.name] = _row(
                entry, exact[entry.name], start, module[backend], reference
            )
            names = [e.name for e in entries if e.name in rows]
            write_csv(path, backend, HEADER, [rows[x] for x in names])
        table(f"ELBO per data point, {backend}", HEADER, rows.values())


def _row(entry: Any, exact: float, start: list, module: Any, reference: Any) -> list:
    def elbo(params: dict) -> float:
        return reference.exact_elbo(entry, params)

    params = max((module.trained_relaxed(entry, x) for x in start), key=elbo)
    relaxed = found = elbo(params)
    polished = ""
    if not _is_close(entry, exact, relaxed):
        found = elbo(module.polished(entry, params))
        polished = f"{found / entry.size:.3f}"
    difference, percent = _gap(entry, exact, found)
    verdict = "ok" if _is_close(entry, exact, found) else "far"
    elbos = (f"{x / entry.size:.3f}" for x in (exact, relaxed))
    return [
        entry.name,
        *elbos,
        polished,
        f"{difference:.3f}",
        f"{percent:.2f}",
        verdict,
    ]


def _gap(entry: Any, exact: float, found: float) -> tuple[float, float]:
    """What enumeration did better: nats per data point, and percent of the ELBO."""
    return (exact - found) / entry.size, 100 * (exact - found) / abs(exact)


def _is_close(entry: Any, exact: float, found: float) -> bool:
    difference, percent = _gap(entry, exact, found)
    return difference <= 0.05 or percent <= 2
