"""How far are the estimators of ELBO gradients from exact ones, and how noisy?

On small models whose discrete ELBO can be enumerated and whose relaxed one can be
integrated, each estimator of the test suite is evaluated many times in each backend.
The gradient is that in all parameters of model and guide, and a row has the norms of

- the exact gradient of the discrete ELBO, and of the estimator's mean;
- the bias: that mean minus the exact gradient, with its standard error, and its
  expectation by quadrature (0 for an unbiased estimator). A norm is not negative, so
  even an unbiased estimator shows a bias of about its standard error;

then the largest distance of a component from its own exact expectation, in standard
errors, and the total variance of the gradient from one draw.

The guide is relaxed at temperature 2/3 and the model at 1/2; straight-through
estimators have the temperature of their line in `tests/support/gradient_cases.py`. A
draw of REBAR evaluates the model twice, one of DisARM 1 + L times for L layers of
sites, one of local expectations once more for each further value of each element, any
other once; RLOO uses all draws of a batch for its baseline. All estimators begin with
the same noise. With `--only ESTIMATOR ...` the others keep their rows in the csv files.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import machine, read_csv, table, write_csv

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from backends import get_backend
from gradient_cases import PAIRS, exact, expected, measured

BATCHES, PARTICLES = 2000, 500
HEADER = (
    *("fixture", "estimator", "exact", "mean", "bias", "standard error"),
    *("expected bias", "largest z", "variance"),
)
TAKES_ROWS = True


def run(backends: Sequence[str], out: Path, only: Sequence[str] = ()) -> None:
    for backend in backends:
        machine(backend)  # sets the number of threads
        path = out / f"estimators_against_exact_{backend}.csv"
        rows = {tuple(row[:2]): row for row in read_csv(path)} if only else {}
        for fixture, estimator in PAIRS:
            if only and estimator not in only:
                continue
            numbers = _row(backend, fixture, estimator)
            rows[fixture, estimator] = [fixture, estimator, *numbers]
            write_csv(path, backend, HEADER, [rows[x] for x in PAIRS if x in rows])
        title = f"{BATCHES * PARTICLES} gradients a row, {backend}"
        table(title, HEADER, [rows[x] for x in PAIRS if x in rows])


def _row(backend: str, fixture: str, estimator: str) -> list[str]:
    sizes = {"batches": BATCHES, "particles": PARTICLES}
    found = measured(get_backend(backend), fixture, estimator, **sizes)
    truth, target = exact(fixture), expected(fixture, estimator)
    biases = [np.linalg.norm(mean - truth) for mean in (found.mean, target)]
    noisy = found.stderr > 1e-9
    z = np.abs(found.mean - target)[noisy] / found.stderr[noisy]
    vectors = (truth, found.mean, found.mean - truth, found.stderr)
    numbers = [*map(np.linalg.norm, vectors), biases[1]]
    return [*(f"{x:.5f}" for x in numbers), f"{z.max():.1f}", f"{found.variance:.4f}"]
