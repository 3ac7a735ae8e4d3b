"""Run the benchmarks: `python -m benchmarks [name ...]`, all of them by default."""

import argparse
import time
from importlib import import_module
from pathlib import Path

from benchmarks.report import BACKENDS, machine

QUESTIONS = (
    "how_often_finite",
    "relaxed_kl_of_one_site",
    "cost_of_relax",
    "cost_of_term",
    "share_of_bandwidth",
    "cost_of_step",
    "cost_of_iwae",
    "where_time_goes",
    "cost_of_kl",
    "how_close_to_enumeration",
    "memory_of_iwae",
    "class_probabilities",
    "estimators_against_exact",
    "bias_of_temperature",
    "quality_per_second",
    "variance_of_rebar",
    "variance_of_local_expectations",
    "planned_against_relaxed",
    "how_cost_grows",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="questions to run")
    parser.add_argument("--list", action="store_true", help="list the questions")
    parser.add_argument(
        "--backend", choices=BACKENDS, help="one backend alone (default: both)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results",
        help="folder of the csv files (default: benchmarks/results)",
    )
    parser.add_argument(
        "--data", type=Path, help="folder of data files, for questions that need any"
    )
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="ROW", help="rows of a table alone"
    )
    args = parser.parse_args()
    unknown = set(args.names) - set(QUESTIONS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; see --list")
    if args.list:
        for name in QUESTIONS:
            summary = import_module(f"benchmarks.{name}").__doc__.splitlines()[0]
            print(f"{name:25} {summary}")
        return
    backends = (args.backend,) if args.backend else BACKENDS
    for backend in backends:
        print(", ".join(f"{key} {value}" for key, value in machine(backend).items()))
    for name in args.names or QUESTIONS:
        start = time.perf_counter()
        question = import_module(f"benchmarks.{name}")
        needs_data = getattr(question, "NEEDS_DATA", False)
        if needs_data and args.data is None:
            print(f"\n({name}: not run, for it needs --data)")
            continue
        further = [args.data] if needs_data else []
        if getattr(question, "TAKES_ROWS", False):
            further.append(args.only)
        question.run(backends, args.out, *further)
        print(f"\n({name}: {time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
