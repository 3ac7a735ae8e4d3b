"""Where does a step of SVI in Pyro spend its time: in PyTorch, in Pyro, or in relax?

The models and the three versions of `cost_of_step`, under Python's profiler. Time is
own time, by the package of a function: `kernels` are calls from Python into PyTorch's
compiled code, backward pass included, and `torch` is its Python code. Functions
compiled into Python itself count for their caller. The profiler makes calls of Python
functions slower, but not compiled code, so the shares of Python code come out too
large. In NumPyro a step is one compiled call, with none of these in it.
"""

import cProfile
import pstats
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from benchmarks import cost_of_step
from benchmarks.report import table, write_csv

WAYS = ("relax", "by_hand", "plain")
PARTS = ("kernels", "torch", "pyro", "pyro_concrete", "rest")
STEPS = 200
HEADER = ("program", "way", *PARTS)


def run(backends: Sequence[str], out: Path) -> None:
    if "pyro" not in backends:
        return
    module = import_module("benchmarks.on_pyro.cost_of_step")
    rows = []
    for name in cost_of_step.PROGRAMS:
        programs = (getattr(cost_of_step, x) for x in (name, f"{name}_model"))
        ways = module.steps(name, *programs)
        rows += [[name, way, *_row(shares(ways[way], STEPS))] for way in WAYS]
    write_csv(out / "where_time_goes_pyro.csv", "pyro", HEADER, rows)
    table("Shares of the time of a step, pyro", HEADER, rows)


def shares(step: Callable[[], object], calls: int) -> dict[str, float]:
    """Return the share of each part in the time of some calls."""
    for _ in range(max(3, calls // 10)):
        step()
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(calls):
        step()
    profile.disable()
    return shares_of_profile(pstats.Stats(profile).stats)


def shares_of_profile(functions: dict[tuple[str, int, str], tuple]) -> dict[str, float]:
    """Return the share of each part in the own times of profiled functions."""
    times: Counter[str] = Counter()
    for function, (_, _, own, _, callers) in functions.items():
        if _part(function):
            times[_part(function)] += own
        else:
            for caller, (_, _, theirs, _) in callers.items():
                times[_part(caller) or "rest"] += theirs
    return {part: times[part] / times.total() for part in PARTS}


def _row(found: dict[str, float]) -> list[str]:
    return [f"{found[part]:.2f}" for part in PARTS]


def _part(function: tuple[str, int, str]) -> str | None:
    """The part that a function belongs to; None for what is compiled in Python."""
    file, _, name = function
    if file == "~":
        return "kernels" if "torch" in name else None
    folders = Path(file).parts
    return next((part for part in PARTS[1:-1] if part in folders), "rest")
