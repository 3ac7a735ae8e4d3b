"""What is the runtime of the exact KL of two Concretes, relative to a sampled one?

Exact means `kl_divergence` and its gradient in the logits of both. Sampled means what
an ELBO does without a closed form: one draw of p, its two log-densities, and the same
gradient. Both take turns in one process; the ratio is the median over pairs of blocks,
with quartiles. The table also has the exact KL, and the standard deviation of the
sampled one from draw to draw, which is the noise that the exact KL avoids. Equal
temperatures are 2/3 and 2/3, unequal ones 2/3 and 1/2; the logits are normal. In
NumPyro both are jitted.
"""

import statistics
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.report import table, write_csv
from benchmarks.timing import ratios

CLASSES = (2, 10, 100, 1000)
TEMPERATURES = {"equal": (2 / 3, 2 / 3), "unequal": (2 / 3, 1 / 2)}
ROWS = 100  # independent pairs in one call
BLOCKS, CALLS, DRAWS = 15, 5, 1000
HEADER = (
    "classes",
    "temperatures",
    "ratio",
    "lower_quartile",
    "upper_quartile",
    "kl",
    "sd_of_sampled",
)


def run(backends: Sequence[str], out: Path) -> None:
    for backend in backends:
        module = import_module(f"benchmarks.on_{backend}.cost_of_kl")
        rows = []
        for n in CLASSES:
            for name, temperatures in TEMPERATURES.items():
                exact, sampled = module.calls(n, *temperatures)
                found = statistics.quantiles(
                    ratios(exact, sampled, blocks=BLOCKS, calls=CALLS), n=4
                )
                low, middle, high = (f"{x:.1f}" for x in found)
                noise = (f"{x:.4f}" for x in module.value_and_noise(n, *temperatures))
                rows.append([n, name, middle, low, high, *noise])
        write_csv(out / f"cost_of_kl_{backend}.csv", backend, HEADER, rows)
        table(f"Time of exact KL over sampled, {backend}", HEADER, rows)
