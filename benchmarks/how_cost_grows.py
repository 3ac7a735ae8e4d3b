"""How do the time and memory of a step grow with sites, values and length of a chain?

There are four families of models, each with one size that varies: `sites` in a plate,
of two values each; `values` of a hundred such sites; the length of a `chain` of four
states; and `coupled` binary sites, which explain one number together. Each is trained
relaxed, by enumeration, with the score function (RLOO, two particles) and with REBAR
(one). Every case is a process of its own. Its time is that of the processor in its
fastest step, which a busy machine disturbs least, and its peak is its largest memory,
with the framework in it; `before` is the same before the first step, which in NumPyro
includes compiling.

Three settings remove effects that would bend the lines at large sizes. Everything runs
on one core, because a second thread starts to help there. The C library keeps the
memory that a step frees, in large pages, because by default the system maps and clears
large arrays again in each step. Python's garbage collector leaves out the objects that
were there before the first step, because it visits them only in steps that are large.

A slope is that of log time against log size over the sizes of the range. At small sizes
the fixed cost of a step dominates: `above_fixed` is the power `s` of the curve
`fixed + rate * size**s` that fits the logarithms of the times best. It means nothing
where the curve is no such power, as with enumerated coupled sites, or hardly rises
above its fixed part, as with a short enumerated chain in NumPyro.
"""

import gc
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from benchmarks.memory_of_iwae import ROOT, peak
from benchmarks.report import table, write_csv

METHODS = ("relaxed", "enumerated", "RLOO", "REBAR")
# Sizes by family, and the size from which on a slope is fitted.
_SITES = (10, 100, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
_IN_A_ROW = (4, 8, 16, 32, 64, 100, 300, 1000, 3000, 10_000)
SIZES = {
    "sites": (_SITES, 1000),
    "values": ((2, 10, 100, 1000, 10_000), 10),
    "chain": (_IN_A_ROW, 4),
    "coupled": ((4, 8, 12, 16, 20, 24, 64, 100, 300, 1000, 3000, 10_000), 4),
}
# Beyond, enumeration has no memory or takes minutes a step.
LARGEST = {("coupled", "enumerated"): 24, ("chain", "enumerated"): 32}
# Beyond, XLA compiles a step for more than a minute.
LARGEST_COMPILED = {"chain": 32, "coupled": 64}
# Of the GNU C library: one heap of large pages, which holds large arrays too and keeps
# what is freed.
KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:"
    f"glibc.malloc.trim_threshold={2**32}:glibc.malloc.hugetlb=1"
}
SECONDS, LEAST, MOST = 0.7, 2, 200  # how long to measure; fewest and most steps
HEADER = ("family", "method", "size", "ms", "before_mib", "peak_mib")
SLOPES = ("family", "method", "from", "to", "slope", "above_fixed", "peak_mib")


def run(backends: Sequence[str], out: Path) -> None:
    for backend in backends:
        with _one_core():
            _run(backend, out)


def _run(backend: str, out: Path) -> None:
    rows, slopes = [], []
    for family, (_, start) in SIZES.items():
        for method in METHODS:
            found = [
                _in_a_process(backend, family, method, size)
                for size in sizes(backend, family, method)
            ]
            rows += [_row(family, method, case) for case in found]
            slopes.append(_slopes(family, method, found, start))
        # After each family, for all take long.
        write_csv(out / f"how_cost_grows_{backend}.csv", backend, HEADER, rows)
        name = f"how_cost_grows_slopes_{backend}.csv"
        write_csv(out / name, backend, SLOPES, slopes)
    table(f"Time and memory of a step, {backend}", HEADER, rows)
    table(f"Slopes of log time against log size, {backend}", SLOPES, slopes)


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this process, and those that it starts, on one core where that can be."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(usable)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def sizes(backend: str, family: str, method: str) -> tuple[int, ...]:
    """The sizes that a method is measured at."""
    largest = LARGEST.get((family, method), math.inf)
    if backend == "numpyro":
        largest = min(largest, LARGEST_COMPILED.get(family, math.inf))
    return tuple(size for size in SIZES[family][0] if size <= largest)


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the logarithms by least squares."""
    return float(np.polyfit(np.log(at), np.log(values), 1)[0])


def slope_above_fixed(at: Sequence[float], values: Sequence[float]) -> float:
    """The power of the size in a fixed part and a power law, by least squares of logs.

    Args:
        at: Sizes, four or more.
        values: What was measured at each.
    """
    n, log_values = np.asarray(at) / at[-1], np.log(values)

    def errors(x: np.ndarray) -> np.ndarray:
        fixed, largest, power = x
        return np.logaddexp(fixed, largest + power * np.log(n)) - log_values

    start = (log_values.min(), log_values[-1], 1.0)
    return float(least_squares(errors, start).x[-1])


def _slopes(family: str, method: str, found: list[dict], start: int) -> list[Any]:
    fitted = [case for case in found if case["size"] >= start]
    at = [case["size"] for case in fitted]
    times = [case["seconds"] for case in fitted]
    both = (f"{fit(at, times):.2f}" for fit in (slope, slope_above_fixed))
    most = f"{max(case['peak'] for case in found):.0f}"
    return [family, method, at[0], at[-1], *both, most]


def _row(family: str, method: str, case: dict[str, Any]) -> list[Any]:
    memory = (f"{case[name]:.0f}" for name in ("before", "peak"))
    return [family, method, case["size"], f"{case['seconds'] * 1e3:.3g}", *memory]


def _in_a_process(backend: str, *case: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, backend, *map(str, case)]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | KEEP_MEMORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"{backend}, {case}:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def measure(backend: str, family: str, method: str, size: int) -> dict[str, Any]:
    """Time the steps of a case, and what this process holds."""
    module = import_module(f"benchmarks.on_{backend}.how_cost_grows")
    step: Callable[[], None] = module.step(family, method, size)
    before = peak()
    step()
    gc.collect()
    gc.freeze()
    times: list[float] = []
    while len(times) < LEAST or (sum(times) < SECONDS and len(times) < MOST):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return {"size": size, "seconds": min(times), "before": before, "peak": peak()}


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:4], int(sys.argv[4]))))
