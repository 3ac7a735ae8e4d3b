"""How does the bias of a relaxed gradient decrease with the temperature?

The gradient is that of the mean of one binary site in its logit, p (1-p), with `relax`
at the same temperature for model and guide. The table has the bias measured in each
backend, the exact bias by quadrature, and the leading term
-(pi^2/6) t^2 d/da p (1-p) (2p-1) for p = sigmoid(a). The remainder after the leading
term is of order t^4, and at most the last column.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import machine, table, write_csv

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from backends import get_backend
from gradient_cases import exact_slope_of_a_mean, slopes_of_a_mean
from gradient_fixtures import MEAN_OF_A_BIT
from reference.gradients import binary_mean_slope

TEMPERATURES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18)
BATCHES, PARTICLES = 800, 10_000
HEADER = (
    *("temperature", "bias", "standard error", "quadrature", "leading term"),
    *("z", "left out at most"),
)


def run(backends: Sequence[str], out: Path) -> None:
    name = "bias_of_temperature"
    for backend in backends:
        machine(backend)  # sets the number of threads
        rows = [_row(backend, t) for t in TEMPERATURES]
        write_csv(out / f"{name}_{backend}.csv", backend, HEADER, rows)
        table(f"{BATCHES * PARTICLES} slopes a row, {backend}", HEADER, rows)


def _row(backend: str, t: float) -> list[str]:
    found = slopes_of_a_mean(get_backend(backend), t, BATCHES, PARTICLES)
    discrete, leading, left_out = binary_mean_slope(float(MEAN_OF_A_BIT.params["a"]), t)
    bias, stderr = found.mean[0] - discrete, found.stderr[0]
    integrated = exact_slope_of_a_mean(t) - discrete
    numbers = (bias, stderr, integrated, leading)
    z = abs(bias - integrated) / stderr
    return [f"{t:g}", *(f"{x:.5f}" for x in numbers), f"{z:.1f}", f"{left_out:.5f}"]
