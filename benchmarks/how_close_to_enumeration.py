"""How close does training with `relax` come to training by enumeration?

Each model of the test zoo that permits it is trained with one mean-field guide in two
ways: with every discrete site of the guide enumerated, which leaves no noise and no
bias, and relaxed, with discrete scoring, at temperatures that fall in three stages.
Both start from the same parameters; of a model with several starts the best counts,
for both. What is compared is the discrete ELBO of the
trained guides: the logits of the relaxed guide are those of the discrete one that it
stands for, and its ELBO is computed by enumeration, in Pyro for both hosts.

Nats a datum. A positive difference means that enumeration did better; "ok" is one of
at most 0.05 nats a datum or 2 % of the ELBO.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.report import table, write_csv

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import zoo

EXACT_STEPS = 600
# Temperature of model and guide, steps, and the learning rate at their start and end.
STAGES = ((1.0, 300, 0.05, 0.05), (0.5, 300, 0.05, 0.05), (0.2, 300, 0.05, 0.002))
PARTICLES = 8
HEADER = ("model", "enumerated", "relaxed", "difference", "percent", "")


def run(backends: Sequence[str], out: Path) -> None:
    name = "how_close_to_enumeration"
    host = {b: import_module(f"benchmarks.on_{b}.{name}") for b in backends}
    reference = import_module(f"benchmarks.on_pyro.{name}")
    entries = [e for e in zoo.ENTRIES.values() if e.tractable and "pyro" in e.hosts]
    exact = {}
    for backend in backends:
        rows = []
        for entry in entries:
            if backend not in entry.hosts or entry.enumerated:
                continue
            starts = range(entry.training.get("starts", 1))
            if entry.name not in exact:
                trained = [reference.trained_by_enumeration(entry, s) for s in starts]
                exact[entry.name] = max(trained)
            start = {s: reference.start(entry, s) for s in starts}
            trained = [host[backend].trained_relaxed(entry, start[s]) for s in starts]
            relaxed = max(reference.exact_elbo(entry, params) for params in trained)
            difference = (exact[entry.name] - relaxed) / entry.size
            percent = 100 * (exact[entry.name] - relaxed) / abs(exact[entry.name])
            elbos = (exact[entry.name] / entry.size, relaxed / entry.size)
            row = [entry.name, *(f"{x:.3f}" for x in elbos)]
            verdict = "ok" if difference <= 0.05 or percent <= 2 else "far"
            rows.append([*row, f"{difference:.3f}", f"{percent:.2f}", verdict])
            write_csv(out / f"{name}_{backend}.csv", backend, HEADER, rows)
        table(f"ELBO a datum, {backend}", HEADER, rows)
