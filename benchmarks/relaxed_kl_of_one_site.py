"""Which KL divergence do the ELBOs of Pyro and NumPyro give for one relaxed site?

A guide and a model have one binary site each, with logits 2 and 0, at one temperature,
and no data: the negative ELBO is the KL divergence from guide to model. It is
2 coth(1) - 2 = 0.6261 at every temperature. The backends' own relaxed Bernoullis round
their samples to numbers in [0, 1]. Their estimates have a bias that grows as the
temperature decreases, upward in NumPyro and downward in Pyro, without a warning. A
plain Bernoulli with `relax` has no such bias. `TraceMeanField_ELBO` uses the exact KL
of two of our sites.

Each number is the mean of independent estimates with many particles, with the standard
error of that mean; a number without one has no noise.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from benchmarks.report import table, write_csv

GUIDE_LOGIT, MODEL_LOGIT = 2.0, 0.0
TRUTH = 2 / math.tanh((GUIDE_LOGIT - MODEL_LOGIT) / 2) - 2
TEMPERATURES = (1.0, 0.1, 0.05, 0.01)
ELBOS = ("Trace_ELBO", "TraceMeanField_ELBO", "TraceGraph_ELBO")
PARTICLES, REPETITIONS = 20_000, 10


@dataclass(frozen=True)
class Estimate:
    """A KL divergence at one temperature, as seen by an ELBO."""

    site: str
    elbo: str
    temperature: float
    mean: float
    stderr: float

    def __str__(self) -> str:
        noise = f" ± {self.stderr:.4f}" if self.stderr else ""
        return f"{self.mean:.4f}{noise}"


def run(backends: Sequence[str], out: Path) -> None:
    rows = []
    for backend in backends:
        module = import_module(f"benchmarks.on_{backend}.relaxed_kl_of_one_site")
        found = list(_estimates(module.SITES, module.kl_estimates))
        _write(out / f"relaxed_kl_of_one_site_{backend}.csv", backend, found)
        for start in range(0, len(found), len(TEMPERATURES)):
            part = found[start : start + len(TEMPERATURES)]
            rows.append([backend, part[0].site, part[0].elbo, *part])
    table(
        f"KL by ELBO of {REPETITIONS} times {PARTICLES} particles; true: {TRUTH:.4f}",
        ["backend", "site", "ELBO", *(f"temperature {t:g}" for t in TEMPERATURES)],
        rows,
    )


def _estimates(sites: Sequence[str], kl_estimates: Callable) -> Iterator[Estimate]:
    points = itertools.product(sites, ELBOS, TEMPERATURES)
    for seed, point in enumerate(points):
        kls = np.asarray(kl_estimates(*point, seed), np.float64)
        stderr = kls.std(ddof=1) / math.sqrt(len(kls))
        yield Estimate(*point, kls.mean(), stderr)


def _write(path: Path, backend: str, found: list[Estimate]) -> None:
    header = ["site", "elbo", "temperature", "kl", "standard_error", "true_kl"]
    rows = (
        [
            *(x.site, x.elbo, f"{x.temperature:g}"),
            *(f"{number:.5f}" for number in (x.mean, x.stderr, TRUTH)),
        ]
        for x in found
    )
    write_csv(path, backend, header, rows)
