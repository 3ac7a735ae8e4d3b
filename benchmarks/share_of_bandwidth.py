"""What share of the memory bandwidth does the term of a relaxed site reach?

The term is that of `cost_of_term`: a sample of the guide's Concrete, its log-density
there, that of the prior at another temperature, and the gradient of their difference in
the logits of both. It has to read two arrays of logits and write two of gradients, so
its lower bound is a copy of two arrays. A share is the time of that copy divided by the
time of the term, both measured on the device: many calls are queued, or captured as one
CUDA graph, so that Python is not timed. `a call` is the time of one call that waits for
its result, Python included.

In PyTorch the term runs eagerly, under `torch.compile` (forward and backward pass are
two graphs, and what lies between them is written and read), and as one compiled graph
of the loss and its gradient (`torch.func.grad`). In JAX the gradient is one
computation, with JAX's default random numbers (threefry) and with XLA's own (rbg).

The sizes are those of a GPU; elsewhere they are a hundred times smaller. The largest
arrays do not fit the caches of today's GPUs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from benchmarks.report import is_rehearsal, machine, place, table, write_csv

# Name: number of sites on a GPU, number of classes (1: binary sites in logit space).
SHAPES = {"1e6 x 8": (1_000_000, 8), "1e7 binary": (10_000_000, 1)}
GUIDE_T, PRIOR_T = 2 / 3, 1 / 2
BYTES = 4  # of a number in single precision
HEADER = ("shape", "way", "us", "gb/s", "copy us", "copy gb/s", "share", "a call us")


@dataclass(frozen=True)
class Times:
    """Times of one call, in seconds.

    Attributes:
        device: Time on the device, of calls in a row.
        call: Time of a call that waits for its result.
    """

    device: float
    call: float


Measure = Callable[[], Times]


def run(backends: Sequence[str], out: Path) -> None:
    for backend in backends:
        module = import_module(f"benchmarks.on_{backend}.share_of_bandwidth")
        fraction = 1 if "device" in machine(backend) else 100
        fraction = 10_000 if is_rehearsal() else fraction
        rows = []
        for name, (sites, classes) in SHAPES.items():
            copy, ways = module.measures(sites // fraction, classes)
            num_bytes = 4 * BYTES * sites // fraction * classes
            copied = copy()
            for way, measure in ways.items():
                rows.append([name, way, *_cells(measure(), copied, num_bytes)])
                print(*rows[-1], flush=True)
        path = out / f"share_of_bandwidth_{place(backend)}.csv"
        write_csv(path, backend, HEADER, rows)
        table(f"Share of the memory's bandwidth, {backend}", HEADER, rows)


def _cells(term: Times, copy: Times, num_bytes: int) -> list[str]:
    return [
        f"{term.device * 1e6:.1f}",
        f"{num_bytes / term.device / 1e9:.0f}",
        f"{copy.device * 1e6:.1f}",
        f"{num_bytes / copy.device / 1e9:.0f}",
        f"{copy.device / term.device:.2f}",
        f"{term.call * 1e6:.1f}",
    ]
