"""Everything that needs a GPU in one run: `python -m benchmarks.gpu --out FOLDER`.

The parts are commands of their own, run one after the other, the most important
first. Each has a time limit, after which it is stopped; the whole ends before
`--minutes`. What a part has written by then stays: its output in FOLDER/logs, its
results in FOLDER, and the summary of all parts in FOLDER/gpu.md.

`--small` is a rehearsal with sizes that a CPU manages; its numbers mean nothing.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.report import REHEARSAL

PYTHON = sys.executable
ROOT = Path(__file__).parent.parent
# JAX would take most of the memory at its start, and parts run beside each other's
# leftovers.
# pytest-benchmark, where it is installed, warns beside pytest-xdist.
PYTEST = ("-m", "pytest", "-q", "-p", "no:benchmark")
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Part:
    """A command and its limit.

    Attributes:
        name: Name of the part, and of its log.
        command: Arguments of the process, after the interpreter.
        limit: Largest time in seconds.
        environment: Environment variables of its own.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a part: "done", "failed" or "stopped at its limit"."""

    part: Part
    verdict: str
    seconds: float


def parts(out: Path, data: Path | None, small: bool, workers: int) -> list[Part]:
    """Return the parts, the most important first."""
    found = [
        *_tests(out, small, workers),
        *_measurements(out),
        *_suites(out, small, workers),
        *_cells(out, data, small),
    ]
    if small:  # a rehearsal may run on a busy machine
        return [replace(part, limit=20 * part.limit) for part in found]
    return found


def _tests(out: Path, small: bool, workers: int) -> Iterator[Part]:
    """The tests that take a device, with their report."""
    report = ("--report", str(out / "gpu_tests.md"))
    which = ("-m", "gpu", "--device", "cuda", "tests")
    if small:
        which = ("--device", "cpu", "tests/test_ops.py", "-k", "gumbel and float64")
    command = (*PYTEST, "-n", str(workers), *report, *which)
    yield Part("tests", command, 200)


def _suites(out: Path, small: bool, workers: int) -> Iterator[Part]:
    """The test models with every tensor on the GPU, as a default device puts it."""
    device = "cpu" if small else "cuda"
    which = ("-k", "joint_mixture") if small else ()
    report = ("--report", str(out / "gpu_models.md"))
    command = (*PYTEST, "-n", str(workers), *report, "-m", "not slow")
    yield Part(
        "models",
        (*command, *which, "tests/test_models_of_users.py"),
        150,
        (("CONCRETE_TEST_DEVICE", device),),
    )


def _measurements(out: Path) -> Iterator[Part]:
    for question in ("share_of_bandwidth", "cost_of_step"):
        for backend in ("numpyro", "pyro"):
            options = ("--backend", backend, "--out", str(out))
            command = ("-m", "benchmarks", question, *options)
            yield Part(f"{question}_{backend}", command, 90)


def _cells(out: Path, data: Path | None, small: bool) -> Iterator[Part]:
    """Networks of the paper, trained with 50 particles by two estimators."""
    for network in ("200H~784V", "200H-784V"):
        for estimator in ("concrete", "score"):
            command = ["-m", "benchmarks.paper", network, "--estimator", estimator]
            command += ["--particles", "50", "--out", str(out)]
            command += ["--params", str(out / "params")]
            if small:
                command += ["--dataset", "random", "--steps", "4", "--images", "4"]
                command += ["--evaluate", "10", "--steps-at-once", "2"]
            else:
                command += ["--data", str(data), "--steps", "300000"]
                command += ["--evaluate", "1", "50", "5000", "50000"]
                command += ["--chunk-evaluated", "500", "--images-at-once", "1000"]
            yield Part(f"{network.replace('~', 'n')}_{estimator}", tuple(command), 180)


def run(chosen: Sequence[Part], out: Path, seconds: float) -> list[Outcome]:
    """Run parts until the time is over, and write the summary after each."""
    end = time.monotonic() + seconds
    outcomes: list[Outcome] = []
    for part in chosen:
        left = end - time.monotonic()
        if left < 5:
            outcomes.append(Outcome(part, "not started: no time was left", 0.0))
        else:
            outcomes.append(_outcome(part, out, min(part.limit, left)))
        (out / "gpu.md").write_text(summary(outcomes), encoding="utf-8")
    return outcomes


def _outcome(part: Part, out: Path, limit: float) -> Outcome:
    log = out / "logs" / f"{part.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ENVIRONMENT | dict(part.environment)
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        command = [PYTHON, *part.command]
        file.write(" ".join(command) + "\n")
        file.flush()
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            )
            verdict = "done" if done.returncode == 0 else "failed"
        except subprocess.TimeoutExpired:
            verdict = "stopped at its limit"
    outcome = Outcome(part, verdict, time.monotonic() - start)
    print(f"{part.name}: {verdict}, {outcome.seconds:.0f} s", flush=True)
    return outcome


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the table of the parts that were run."""
    lines = ["# Parts of the run on a GPU", ""]
    lines += ["| part | outcome | seconds |", "| --- | --- | --- |"]
    lines += [f"| {x.part.name} | {x.verdict} | {x.seconds:.0f} |" for x in outcomes]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen parts; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--data", type=Path, help="folder of the data of the cells")
    parser.add_argument("--minutes", type=float, default=12, help="limit of the whole")
    parser.add_argument("--small", action="store_true", help="rehearse on a CPU")
    parser.add_argument("--workers", type=int, default=8, help="processes of the tests")
    parser.add_argument("--only", nargs="+", help="names of parts, to run these alone")
    parser.add_argument("--skip", nargs="+", default=[], help="names of parts to leave")
    parser.add_argument("--list", action="store_true", help="list the parts")
    options = parser.parse_args(arguments)
    if options.small:
        os.environ[REHEARSAL] = "1"
    chosen = parts(options.out, options.data, options.small, options.workers)
    names = [part.name for part in chosen]
    unknown = {*(options.only or []), *options.skip} - {*names}
    if unknown:
        parser.error(f"no parts {sorted(unknown)}; there are {names}")
    if options.list:
        print(*names, sep="\n")
        return 0
    kept = [x for x in chosen if x.name in (options.only or names)]
    kept = [x for x in kept if x.name not in options.skip]
    options.out.mkdir(parents=True, exist_ok=True)
    minutes = math.inf if options.small else options.minutes
    outcomes = run(kept, options.out, 60 * minutes)
    print(summary(outcomes))
    return int(any(x.verdict == "failed" for x in outcomes))


if __name__ == "__main__":
    sys.exit(main())
