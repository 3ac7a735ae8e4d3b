"""What does one relaxed site cost, against the hosts' own and against code by hand?

A term is what a relaxed site adds to a step of SVI: a sample of the guide's Concrete,
its log-density there, that of the prior at another temperature, and the gradient of
their difference in the logits of both. Peers do the same work, but for gumbel_softmax,
which is a sample and its gradient alone. By hand is one function that knows both
temperatures and has its gradient written out; in NumPyro, the formulas under jit.
Nobody validates. A ratio is ours over the peer's, the median over pairs of blocks of
calls taken in turn; below one, ours is faster. `compiled` sets ours over code by hand,
both under torch.compile, for the largest number of sites of each number of classes.
`of_copy` is the time of a copy of the four arrays (logits and gradients) over ours.
"""

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.report import table, write_csv
from benchmarks.timing import calls_in, quartiles, ratios, seconds

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
        host = import_module(f"benchmarks.on_{backend}.cost_of_term")
        peers = [*host.PEERS, "of_copy"]
        rows = [
            [classes, sites, *_row(host, classes, sites)]
            for classes, sizes in CELLS.items()
            for sites in sizes
        ]
        rows.append(["geometric mean", "", *_means(rows)])
        header = ["classes", "sites", *peers]
        write_csv(out / f"cost_of_term_{backend}.csv", backend, header, rows)
        table(f"Time of a term, ours over the peer's, {backend}", header, rows)


def _row(host, classes: int, sites: int) -> list[str]:
    ours, peers, copy = host.calls(classes, sites)
    calls = calls_in(ours, BLOCK_SECONDS)
    cells = []
    for peer in peers.values():
        mine, other = peer if isinstance(peer, tuple) else (ours, peer)
        found = peer and ratios(mine, other, blocks=BLOCKS, calls=calls)
        cells.append(quartiles(found)[0] if found else "")
    share = seconds(copy, calls) / seconds(ours, calls)
    return [*cells, f"{share:.3f}"]


def _means(rows: list[list]) -> list[str]:
    columns = [[float(x) for x in column if x] for column in zip(*rows, strict=True)]
    return [f"{_geometric(column):.2f}" for column in columns[2:]]


def _geometric(numbers: list[float]) -> float:
    return math.exp(sum(map(math.log, numbers)) / len(numbers)) if numbers else math.nan
