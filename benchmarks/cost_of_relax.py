"""What does a step of SVI cost with `relax`, against the same model relaxed by hand?

By hand means what a user would write: the log-space Concrete as the site, its weights
by `exp`, and a product of weights and table in the place of each index; and the same
for the guide. Both programs take steps in turn, in one process; the ratio is the median
over pairs of blocks of steps. In NumPyro a step is one call of the jitted update.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.report import table, write_csv

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

MODELS = (
    "gaussian_mixture",
    "two_component_mixture",
    "joint_mixture",
    "hmm_loop",
    "change_point",
    "dawid_skene",
    "mace",
    "sigmoid_belief_net",
)
BLOCKS = 15
HEADER = ("model", "ratio", "lower_quartile", "upper_quartile")


def run(backends: Sequence[str], out: Path) -> None:
    for backend in backends:
        host = import_module(f"benchmarks.on_{backend}.cost_of_relax")
        found = {name: _ratios(*host.steps(name), host.STEPS) for name in MODELS}
        rows = []
        for name, ratios in found.items():
            low, middle, high = statistics.quantiles(ratios, n=4)
            rows.append([name, *(f"{x:.2f}" for x in (middle, low, high))])
        middles = [float(row[1]) for row in rows]
        rows.append(["median model", f"{statistics.median(middles):.2f}", "", ""])
        write_csv(out / f"cost_of_relax_{backend}.csv", backend, HEADER, rows)
        table(f"Time of a step, relaxed by relax over by hand, {backend}", HEADER, rows)


def _ratios(relaxed: Callable, by_hand: Callable, steps: int) -> list[float]:
    """Ratios of the times of blocks of steps, taken in turn."""
    for step in (relaxed, by_hand):
        for _ in range(max(5, steps // 5)):
            step()
    return [_time(relaxed, steps) / _time(by_hand, steps) for _ in range(BLOCKS)]


def _time(step: Callable, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - start
