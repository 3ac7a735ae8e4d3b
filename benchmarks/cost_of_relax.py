"""What is the overhead of `relax` in a step of SVI, relative to manual relaxation?

The manually relaxed model is what a user would write: the log-space Concrete as the
site, its probabilities by `exp`, and a product of probabilities and table instead of
each index; and the same for the guide. Both take steps in turn, in one process; the
ratio is the median over pairs of blocks of steps. In NumPyro a step is one call of the
jitted update.
"""

import statistics
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.report import table, write_csv
from benchmarks.timing import quartiles, ratios

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

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
        module = import_module(f"benchmarks.on_{backend}.cost_of_relax")
        found = {
            name: ratios(*module.steps(name), blocks=BLOCKS, calls=module.STEPS)
            for name in MODELS
        }
        rows = [[name, *quartiles(x)] for name, x in found.items()]
        middles = [float(row[1]) for row in rows]
        rows.append(["median model", f"{statistics.median(middles):.2f}", "", ""])
        write_csv(out / f"cost_of_relax_{backend}.csv", backend, HEADER, rows)
        table(
            f"Time of a step, with relax relative to manually relaxed, {backend}",
            HEADER,
            rows,
        )
