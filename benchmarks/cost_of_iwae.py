"""What is the runtime of a step of `IWAE`, relative to one written by hand?

The network `200H-784V` of the paper, with a batch of 64, is trained with m particles
for each image: relaxed with concrete scoring, and discrete by VIMCO. `IWAE` has the
network as a discrete model and guide; its peer is formulas on plain arrays, with the
same optimizer. Argument validation is off. The steps of the two take turns; a ratio is
the median over pairs of blocks, with quartiles. In Pyro, a step of the relaxed network
with `Trace_ELBO` and as many vectorized particles is measured against the same formulas
(`elbo`), to tell what `IWAE` itself adds.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.paper.cells import Network
from benchmarks.paper.training import BATCH, Training
from benchmarks.report import table, write_csv
from benchmarks.timing import calls_in, quartiles, ratios

NETWORK = Network.parse("200H-784V", 2)
CASES = tuple((estimator, m) for estimator in ("concrete", "score") for m in (1, 5, 50))
RATE = 1e-3
BLOCKS, BLOCK_SECONDS = 21, 0.3
HEADER = (
    *("estimator", "particles", "step", "over"),
    *("ratio", "lower_quartile", "upper_quartile"),
)


def training_of(estimator: str, num_particles: int) -> Training:
    """Return the settings of a step."""
    return Training(
        estimator=estimator,
        num_particles=num_particles,
        steps=1,
        seeds=(0,),
        rate=RATE,
        schedule="constant",
    )


def run(backends: Sequence[str], out: Path) -> None:
    for backend in backends:
        module = import_module(f"benchmarks.on_{backend}.cost_of_iwae")
        rows = []
        for estimator, num_particles in CASES:
            if (estimator, num_particles) == ("score", 1):
                continue  # NVIL, with a network for its baseline
            steps = module.steps(estimator, num_particles)
            plain = steps.pop("plain")
            for name, step in steps.items():
                calls = calls_in(step, BLOCK_SECONDS)
                found = ratios(step, plain, blocks=BLOCKS, calls=calls)
                case = [estimator, num_particles, name, "plain"]
                rows.append([*case, *quartiles(found)])
        write_csv(out / f"cost_of_iwae_{backend}.csv", backend, HEADER, rows)
        title = f"Time of a step of {NETWORK.name}, batch {BATCH}, {backend}"
        table(title, HEADER, rows)
