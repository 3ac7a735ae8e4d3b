"""How much memory does the multi-sample bound of 50,000 particles take?

The discrete autoencoder of the tutorials is trained relaxed for a few steps. Then
`iwae_bound` of its hardened guide is evaluated on the first test images, with one bound
per image. Every row is a process of its own, and its memory is the largest that the
process has used, including the framework and the training; `before` is the same when
the bound begins. Chunks of two sizes at 500 particles show the effect of the chunk
size. In NumPyro, both sizes give the same number; in Pyro, the draws depend on the
chunks.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.report import table, write_csv

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tutorials"))

STEPS, IMAGES = 200, 100
# Numbers of particles, and sizes of chunks.
ROWS = ((500, 500), (500, 50), (50_000, 100))
HEADER = ("particles", "chunk", "nats_per_image", "before_mib", "peak_mib")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the bound, in a process of its own."""

    num_particles: int
    chunk_size: int
    bound: float
    before: float
    peak: float

    def row(self) -> list[Any]:
        memory = (f"{x:.0f}" for x in (self.before, self.peak))
        chunks = self.num_particles, self.chunk_size
        return [*chunks, f"{self.bound:.5f}", *memory]


def run(backends: Sequence[str], out: Path) -> None:
    for backend in backends:
        rows = [_in_a_process(backend, *sizes).row() for sizes in ROWS]
        write_csv(out / f"memory_of_iwae_{backend}.csv", backend, HEADER, rows)
        table(
            f"Bound of {IMAGES} images and peak memory of the process, {backend}",
            HEADER,
            rows,
        )


def _in_a_process(backend: str, *sizes: int) -> Evaluation:
    command = [sys.executable, "-m", __name__, backend, *map(str, sizes)]
    result = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return Evaluation(**json.loads(result.stdout.splitlines()[-1]))


def evaluate(backend: str, num_particles: int, chunk_size: int) -> dict[str, Any]:
    """Train, take the bound, and return the fields of an `Evaluation`."""
    module = import_module(f"benchmarks.on_{backend}.memory_of_iwae")
    bound: Callable[..., float] = module.trained(STEPS, IMAGES)
    before = peak()
    nats = bound(num_particles=num_particles, chunk_size=chunk_size) / IMAGES
    found = {"num_particles": num_particles, "chunk_size": chunk_size, "bound": nats}
    return {**found, "before": before, "peak": peak()}


def peak() -> float:
    """The most memory that this process has held, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    print(json.dumps(evaluate(sys.argv[1], *map(int, sys.argv[2:]))))
