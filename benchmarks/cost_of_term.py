"""What is the runtime of one relaxed site, relative to the alternatives?

A term is what a relaxed site adds to a step of SVI: a sample of the guide's Concrete,
its log-density there, that of the prior at another temperature, and the gradient of
their difference in the logits of both. The alternatives do the same work, except
gumbel_softmax, which is a sample and its gradient alone. `by_hand` is one hand-written
function that uses both temperatures and has its gradient written out; in NumPyro, the
formulas under jit. Argument validation is off. A ratio is our runtime relative to the
alternative, the median over pairs of blocks of calls that take turns; below one, ours
is faster. `compiled` is relative to hand-written code with both under torch.compile,
for the largest number of sites of each number of classes. `of_copy` is the runtime of a
copy of the four arrays (logits and gradients) relative to ours: the share of the memory
bandwidth that a term reaches, if it moves each array once.
"""

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median

from benchmarks.report import place, table, write_csv
from benchmarks.timing import calls_in, ratios

# Classes, and numbers of sites.
CELLS = {
    2: (64, 8192, 1_000_000),
    8: (64, 8192, 1_000_000),
    20: (64, 8192, 500_000),
    1000: (64, 8192),
    10_000: (64, 1000),
}
PRIOR_T, GUIDE_T = 1 / 2, 2 / 3
BLOCKS, BLOCK_SECONDS = 9, 0.1


def run(backends: Sequence[str], out: Path) -> None:
    for backend in backends:
        module = import_module(f"benchmarks.on_{backend}.cost_of_term")
        rows = [
            [classes, sites, *_row(module, classes, sites)]
            for classes, sizes in CELLS.items()
            for sites in sizes
        ]
        rows.append(["geometric mean", "", *_means(rows)])
        header = ["classes", "sites", *module.RATIOS]
        write_csv(out / f"cost_of_term_{place(backend)}.csv", backend, header, rows)
        table(f"Time of a term, ours over the peer's, {backend}", header, rows)


def _row(module, classes: int, sites: int) -> list[str]:
    ours, pairs = module.calls(classes, sites)
    calls = calls_in(ours, BLOCK_SECONDS)
    return [_median(pairs.get(name), calls) for name in module.RATIOS]


def _median(pair: tuple[Callable, Callable] | None, calls: int) -> str:
    if pair is None:
        return ""
    return f"{median(ratios(*pair, blocks=BLOCKS, calls=calls)):.3g}"


def _means(rows: list[list]) -> list[str]:
    columns = [[float(x) for x in column if x] for column in zip(*rows, strict=True)]
    return [f"{_geometric(column):.2f}" for column in columns[2:]]


def _geometric(numbers: list[float]) -> float:
    return math.exp(sum(map(math.log, numbers)) / len(numbers)) if numbers else math.nan
