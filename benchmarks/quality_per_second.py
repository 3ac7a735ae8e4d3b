"""Which estimator has the best discrete test ELBO, after the same time of training?

The models of `cost_of_step`: the discrete autoencoder on scikit-learn's digits, and a
sigmoid belief net of 200, 200 and 784 binary units on the static binarized MNIST. Each
estimator trains from the same start, with the same optimizer and minibatches, for the
same time; compiling, the first step and evaluation do not count. A row is the discrete
ELBO of test images, in nats per image, after a fraction of that time. Its standard
error is over parts of the test images of one training; trainings differ by more.

Takes `--data`: a folder with static_binarized_mnist.npz (x_train, x_test, packed).
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from benchmarks.cost_of_step import BATCH
from benchmarks.report import table, write_csv

sys.path.insert(0, str(Path(__file__).parent.parent / "tutorials"))

NEEDS_DATA = True
SECONDS = 12
SHARES = (0.1, 0.25, 0.5, 1.0)
NUM_TEST, PARTS, PARTICLES, RATE = 360, 6, 8, 3e-3
ESTIMATORS = (
    "Relaxed",
    "Relaxed, discrete scoring",
    "StraightThrough",
    "GumbelRao",
    "ReinMax",
    "RLOO, 4 particles",
    "REBAR, 2 particles",
)
HEADER = ("data", "estimator", "share of time", "steps", "test elbo", "error")


def run(backends: Sequence[str], out: Path, data: Path) -> None:
    for backend in backends:
        module = import_module(f"benchmarks.on_{backend}.quality_per_second")
        rows = [
            [name, estimator, *row]
            for name, program, (train, test) in _data(data)
            for estimator in ESTIMATORS
            for row in _row(module.training(program, estimator), train, test)
        ]
        write_csv(out / f"quality_per_second_{backend}.csv", backend, HEADER, rows)
        table(f"Discrete test ELBO by time of training, {backend}", HEADER, rows)


def _data(folder: Path) -> Iterator[tuple[str, str, tuple[np.ndarray, np.ndarray]]]:
    digits = import_module("digits")
    yield "digits", "autoencoder", digits.load()
    file = np.load(folder / "static_binarized_mnist.npz")
    bits = (np.unpackbits(file[x], axis=-1) for x in ("x_train", "x_test"))
    train, test = (x.astype(np.float32) for x in bits)
    yield "static MNIST", "belief_net", (train, test[:NUM_TEST])


def _row(
    training: tuple[Callable, Callable], train: np.ndarray, test: np.ndarray
) -> Iterator[list]:
    step, elbo = training
    rng = np.random.default_rng(0)
    spent, steps = 0.0, 0
    step(train[:BATCH])
    for share in SHARES:
        while spent < share * SECONDS:
            batch = train[rng.integers(len(train), size=BATCH)]
            start = time.perf_counter()
            step(batch)
            spent += time.perf_counter() - start
            steps += 1
        parts = [elbo(x) / len(x) for x in np.split(test, PARTS)]
        error = np.std(parts, ddof=1) / PARTS**0.5
        yield [share, steps, f"{np.mean(parts):.2f}", f"{error:.2f}"]
