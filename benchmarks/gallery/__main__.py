"""Train every model of the gallery in every way: `python -m benchmarks.gallery`.

A row of the csv file is one run: its discrete ELBO and, where the model learns, the
log-evidence of what it has learned. Runs that the file has already are not repeated, so
that a gallery that was cut off goes on where it stopped.
"""

import argparse
import csv
import os
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gallery.entries import ENTRIES, Entry
from benchmarks.gallery.methods import METHODS, Method, applies
from benchmarks.gallery.summary import (
    OF_TEMPERATURES,
    SHOWN,
    STANDING_HEADER,
    Row,
    elbo_by_model,
    standings,
)
from benchmarks.report import BACKENDS, machine, read_dicts, table, write_csv

HEADER = (
    "model",
    "method",
    "budget",
    "seed",
    "elbo",
    "elbo_stderr",
    "log_evidence",
    "evaluations",
    "ms_per_evaluation",
)
# What all methods have the same amount of, and the method whose time the others have.
BUDGETS = ("evaluations", "time")
TIMED_METHOD = "discrete 0.2"
# Of equal time a method has at most this many times the evaluations, or a share of one.
MOST_EVALUATIONS = 20
TIMED_ROUNDS = 9
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    args = _arguments()
    path = args.out / f"runs_{args.backend}.csv"
    if not args.summary:
        for entry, method in _cases(args):
            seeds = _seeds_to_run(path, entry, method, args)
            if seeds:
                _run(args, path, entry, method, seeds)
    write_summary(read_dicts(path), args.out, args.backend)


def write_summary(rows: list[Row], folder: Path, backend: str) -> None:
    """Print and write how the methods did, and how the chosen ones did by model."""
    for budget in BUDGETS:
        rows_of_budget = rows_at_equal(budget, rows)
        if not rows_of_budget:
            continue
        for column in ("elbo", "log_evidence"):
            found = standings(rows_of_budget, column, known=rows)
            lines = [standing.cells() for standing in found]
            if not lines:
                continue
            title = f"Distance to the best {column}, at equal {budget}"
            table(title, STANDING_HEADER, lines)
            path = folder / f"methods_{column}_{budget}_{backend}.csv"
            write_csv(path, backend, STANDING_HEADER, lines)
        for name, methods in (("models", SHOWN), ("temperatures", OF_TEMPERATURES)):
            head, *lines = elbo_by_model(rows_of_budget, methods, known=rows)
            table(f"Discrete ELBO, {name}, at equal {budget}", head, lines)
            write_csv(folder / f"{name}_{budget}_{backend}.csv", backend, head, lines)


def rows_at_equal(budget: str, rows: list[Row]) -> list[Row]:
    """Results of a budget; `TIMED_METHOD` is the same run at equal time."""
    found = [row for row in rows if row["budget"] == budget]
    if budget == "time":
        models = {row["model"] for row in found}
        found += [
            row
            for row in rows
            if row["method"] == TIMED_METHOD and row["model"] in models
            if row["budget"] == "evaluations"
        ]
    return found


def _run(
    args: argparse.Namespace,
    path: Path,
    entry: Entry,
    method: Method,
    seeds: list[int],
) -> None:
    backend = import_module(f"benchmarks.gallery.on_{args.backend}.training")
    data = entry.load(args.data) if entry.needs_folder else entry.load()
    evaluations = args.evaluations or entry.num_evaluations
    start = time.perf_counter()
    try:
        if args.budget == "time":
            evaluations = evaluations_in_time(backend, entry, method, data, evaluations)
        results = backend.outcomes(entry, method, data, seeds, evaluations)
    except (NotImplementedError, ValueError, TypeError) as error:
        reason = str(error).split(". ")[0].replace("\n", " ")[:120]
        print(f"{entry.name}, {method.name}: not trained. {reason}", flush=True)
        return
    _append(path, args, entry, method, results)
    elbos = ", ".join(f"{x.elbo:.2f}" for x in results)
    seconds = time.perf_counter() - start
    print(f"{entry.name}, {method.name}: {elbos} ({seconds:.0f} s)", flush=True)


def evaluations_in_time(
    backend: Any,
    entry: Entry,
    method: Method,
    data: dict[str, Any],
    num_evaluations: int,
) -> int:
    """Return the evaluations of a method in the time that `TIMED_METHOD` takes."""
    if method.name == TIMED_METHOD:
        return num_evaluations
    of_reference, of_method = (
        backend.timer(entry, x, data, num_evaluations)
        for x in (METHODS[TIMED_METHOD], method)
    )
    # In turn, so that both meet the same machine.
    ratio = median(of_reference() / of_method() for _ in range(TIMED_ROUNDS))
    ratio = min(max(ratio, 1 / MOST_EVALUATIONS), MOST_EVALUATIONS)
    return round(num_evaluations * ratio)


def _append(
    path: Path, args: argparse.Namespace, entry: Entry, method: Method, results
) -> None:
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            for key, value in machine(args.backend).items():
                file.write(f"# {key}: {value}\n")
            writer.writerow(HEADER)
        for x in results:
            numbers = [f"{x.elbo:.4f}", f"{x.elbo_stderr:.4f}", f"{x.log_evidence:.4f}"]
            numbers += [str(x.evaluations), f"{x.milliseconds:.3f}"]
            case = [entry.name, method.name, args.budget, x.seed]
            writer.writerow(case + numbers)


def _seeds_to_run(
    path: Path, entry: Entry, method: Method, args: argparse.Namespace
) -> list[int]:
    case = entry.name, method.name, args.budget
    finished = {
        int(row["seed"])
        for row in read_dicts(path)
        if (row["model"], row["method"], row["budget"]) == case
    }
    return [seed for seed in range(args.seeds) if seed not in finished]


def _cases(args: argparse.Namespace) -> Iterator[tuple[Entry, Method]]:
    for entry in ENTRIES.values():
        if args.models and entry.name not in args.models:
            continue
        if entry.needs_folder and args.data is None:
            print(f"{entry.name}: not run, for it needs --data")
            continue
        for method in METHODS.values():
            if args.methods and method.name not in args.methods:
                continue
            if applies(method, entry, args.backend):
                yield entry, method


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gallery", description=__doc__
    )
    parser.add_argument("--backend", choices=BACKENDS, default="numpyro")
    parser.add_argument("--models", nargs="+", choices=ENTRIES, metavar="MODEL")
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD")
    parser.add_argument(
        "--budget", choices=BUDGETS, default=BUDGETS[0], help="what runs have alike"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each case")
    parser.add_argument(
        "--evaluations", type=int, help="model evaluations of a run (default: its own)"
    )
    parser.add_argument(
        "--data", type=Path, help="folder with static_binarized_mnist.npz"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument(
        "--summary", action="store_true", help="print the summary of what there is"
    )
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return args


if __name__ == "__main__":
    main()
