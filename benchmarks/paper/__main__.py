"""Train and evaluate a network of the paper: `python -m benchmarks.paper 200H~784V`."""

import argparse
import csv
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.cells import PAPER, Network
from benchmarks.paper.datasets import load
from benchmarks.report import machine

HEADER = (
    "network",
    "arity",
    "data",
    "estimator",
    "particles",
    "seed",
    "steps",
    "seconds",
    "rate",
    "train loss",
    "bound",
    "evaluated particles",
    "images",
    "nats",
    "stderr",
    "paper concrete",
    "paper vimco",
    "device",
    "versions",
)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.paper")
    options.add_argument("cell", help="network, such as 200H~784V")
    options.add_argument("--arity", type=int, default=2, help="values of a node")
    options.add_argument(
        "--estimator", choices=("concrete", "discrete", "score"), default="concrete"
    )
    options.add_argument("--particles", type=int, default=1, help="m of training")
    options.add_argument("--chunk", type=int, help="particles that run at a time")
    options.add_argument("--steps", type=int, default=500_000)
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--rate", type=float, help="largest learning rate")
    options.add_argument("--steps-at-once", type=int, default=10_000)
    options.add_argument("--dataset", default="mnist", help="mnist or random")
    options.add_argument("--data", type=Path, help="folder of the files of the data")
    options.add_argument(
        "--evaluate", type=int, nargs="*", default=[1, 5000], help="m of evaluation"
    )
    options.add_argument("--images", type=int, help="test images that are evaluated")
    options.add_argument("--chunk-evaluated", type=int, default=50)
    options.add_argument("--images-at-once", type=int, default=100)
    results = Path(__file__).parent.parent / "results" / "paper"
    options.add_argument("--out", type=Path, default=results)
    options.add_argument(
        "--checkpoints", type=Path, help="folder in which runs can be resumed"
    )
    options.add_argument("--params", type=Path, help="folder for final parameters")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Train a cell, evaluate it on test images and add rows to a csv file."""
    options = parser().parse_args(arguments)
    backend = import_module("benchmarks.paper.on_numpyro")
    network = Network.parse(options.cell, options.arity)
    images = load(options.dataset, options.data)
    programs = backend.programs_of(network, images.train)
    training = backend.Training(
        estimator=options.estimator,
        num_particles=options.particles,
        chunk_size=options.chunk,
        steps=options.steps,
        seeds=tuple(options.seeds),
        rate=options.rate or backend.default_rate(network),
        steps_at_once=options.steps_at_once,
    )
    name = _file_name(options)
    checkpoint = options.checkpoints and options.checkpoints / f"{name}.npz"
    start = time.perf_counter()
    for progress in backend.train(programs, training, images, checkpoint):
        losses = " ".join(f"{x:.2f}" for x in progress.losses)
        seconds = time.perf_counter() - start
        print(f"{name} step {progress.step} loss {losses} {seconds:.2f} s", flush=True)
    if options.params:
        options.params.mkdir(parents=True, exist_ok=True)
        np.savez(options.params / f"{name}.npz", **progress.params)
    for row in _rows(options, backend, programs, training, progress, images, seconds):
        print(", ".join(f"{key} {row[key]}" for key in HEADER[:15]), flush=True)
        _append(options.out / "cells_numpyro.csv", row)


def _file_name(options: argparse.Namespace) -> str:
    network = options.cell.replace("~", "n") + f"_{options.arity}"
    seeds = "-".join(map(str, options.seeds))
    return f"{network}_{options.estimator}_m{options.particles}_seed{seeds}"


def _rows(options, backend, programs, training, progress, images, seconds):
    """Yield a row for each seed and each number of particles of the evaluation."""
    facts = machine("numpyro")
    test = images.test[: options.images]
    if options.images:  # the test images are sorted by class
        order = np.random.default_rng(0).permutation(len(images.test))
        test = images.test[order[: options.images]]
    paper = PAPER.get((options.cell, options.particles), ("", ""))
    for index, seed in enumerate(training.seeds):
        params = backend.of_seed(progress.params, index)
        for num_particles in options.evaluate:
            bounds = backend.evaluate(
                programs,
                params,
                test,
                num_particles=num_particles,
                chunk_size=min(options.chunk_evaluated, num_particles),
                images_at_once=options.images_at_once,
            )
            values: dict[str, Any] = {
                "network": options.cell,
                "arity": options.arity,
                "data": options.dataset,
                "estimator": training.estimator,
                "particles": training.num_particles,
                "seed": seed,
                "steps": progress.step,
                "seconds": f"{seconds:.0f}",
                "rate": training.rate,
                "train loss": f"{progress.losses[index]:.2f}",
                "bound": "test",
                "evaluated particles": num_particles,
                "images": len(test),
                "nats": f"{bounds.mean:.3f}",
                "stderr": f"{bounds.stderr:.3f}",
                "paper concrete": paper[0] and -paper[0],
                "paper vimco": paper[1] and -paper[1],
                "device": facts.get("device", facts["processor"]),
                "versions": f"jax {facts['jax']}, numpyro {facts['numpyro']}",
            }
            yield values


def _append(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a csv file, under a header where the file is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
