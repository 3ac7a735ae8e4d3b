"""Train and evaluate a network of the paper: `python -m benchmarks.paper 200H~784V`."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.paper import results
from benchmarks.paper.cells import Network
from benchmarks.paper.datasets import Images, load
from benchmarks.paper.published import PUBLISHED, Cell, Published
from benchmarks.paper.training import (
    ESTIMATORS,
    SCHEDULES,
    Evaluation,
    Progress,
    Training,
    default_evaluations,
    default_rate,
)
from benchmarks.report import machine


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.paper")
    options.add_argument("cell", help="network, such as 200H~784V")
    options.add_argument("--backend", choices=("numpyro", "pyro"), default="numpyro")
    options.add_argument("--arity", type=int, default=2, help="values of a node")
    options.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        default="concrete",
        help="scoring of relaxed sites; or score: VIMCO, and NVIL for one particle",
    )
    options.add_argument("--particles", type=int, default=1, help="m of training")
    options.add_argument("--chunk", type=int, help="particles that run at a time")
    options.add_argument("--steps", type=int, default=500_000)
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--rate", type=float, help="largest learning rate")
    options.add_argument("--schedule", choices=SCHEDULES, default="cosine")
    options.add_argument("--weight-decay", type=float, default=0.0)
    options.add_argument(
        "--steps-at-once", type=int, default=10_000, help="steps between checkpoints"
    )
    options.add_argument("--dataset", default="mnist", help="mnist, omniglot or random")
    options.add_argument("--data", type=Path, help="folder of the files of the data")
    options.add_argument("--evaluate", type=int, nargs="*", help="m of evaluation")
    options.add_argument(
        "--splits", nargs="+", choices=("test", "train"), default=["test"]
    )
    options.add_argument("--images", type=int, help="images that are evaluated")
    options.add_argument("--chunk-evaluated", type=int, default=50)
    options.add_argument("--images-at-once", type=int, default=100)
    out = Path(__file__).parent.parent / "results" / "paper"
    options.add_argument("--out", type=Path, default=out)
    options.add_argument(
        "--checkpoints", type=Path, help="folder in which runs can be resumed"
    )
    options.add_argument("--params", type=Path, help="folder for final parameters")
    return options


@dataclass(frozen=True)
class Run:
    """Networks of one cell that are trained at once.

    Attributes:
        options: Options of the command.
        backend: Module of the backend.
        network: Their network.
        training: How they are trained.
        images: Their data.
    """

    options: argparse.Namespace
    backend: ModuleType
    network: Network
    training: Training
    images: Images

    @property
    def name(self) -> str:
        """Name of its files, in which all is that a state depends on."""
        training = self.training
        parts = [
            self.network.name.replace("~", "n"),
            f"{self.network.arity}ary",
            self.options.dataset,
            training.estimator,
            f"m{training.num_particles}",
            f"steps{training.steps}",
            f"{training.schedule}{training.rate:g}",
            f"decay{training.weight_decay:g}",
            f"seed{'-'.join(map(str, training.seeds))}",
            self.options.backend,
        ]
        return "_".join(parts)

    def file(self, suffix: str) -> Path | None:
        """Return the path of a checkpoint, or None if there are none."""
        folder = self.options.checkpoints
        return folder and folder / f"{self.name}{suffix}.npz"

    def execute(self) -> None:
        """Train, and evaluate each network on each split."""
        programs = self.backend.programs_of(self.network, self.images.train)
        progress = self._train(programs)
        if self.options.params:
            self.options.params.mkdir(parents=True, exist_ok=True)
            path = self.options.params / f"{self.name}.npz"
            np.savez(path, **{k: np.asarray(x) for k, x in progress.params.items()})
        for index, seed in enumerate(self.training.seeds):
            params = self.backend.of_seed(progress.params, index)
            for split, evaluation in self._evaluations():
                row = self._row(progress, index, seed, split, evaluation)
                self._evaluate(programs, params, split, evaluation, row)

    def _train(self, programs: Any) -> Progress:
        path = self.file("")
        for progress in self.backend.train(programs, self.training, self.images, path):
            losses = " ".join(f"{x:.2f}" for x in progress.losses)
            print(
                f"{self.name} step {progress.step} loss {losses} "
                f"{progress.seconds:.1f} s",
                flush=True,
            )
        return progress

    def _evaluations(self) -> Iterator[tuple[str, Evaluation]]:
        numbers = self.options.evaluate
        if numbers is None:
            numbers = default_evaluations(self.network)
        for split in self.options.splits:
            for num_particles in numbers:
                chunk_size = min(self.options.chunk_evaluated, num_particles)
                images_at_once = self.options.images_at_once
                yield split, Evaluation(num_particles, chunk_size, images_at_once)

    def _evaluate(
        self,
        programs: Any,
        params: Any,
        split: str,
        evaluation: Evaluation,
        row: dict[str, Any],
    ) -> None:
        """Add the row of a network, unless an earlier call has added it."""
        path = self.options.out / f"cells_{self.options.backend}.csv"
        if results.is_written(path, row):
            return
        suffix = f"_{split}{row['images']}_seed{row['seed']}"
        suffix += f"_evaluated{evaluation.num_particles}"
        checkpoint = self.file(suffix)
        images = self._evaluated_images(split)
        bounds = self.backend.evaluate(programs, params, images, evaluation, checkpoint)
        row |= {"nats": f"{bounds.mean:.3f}", "stderr": f"{bounds.stderr:.3f}"}
        print(", ".join(f"{key} {row[key]}" for key in results.HEADER[:17]), flush=True)
        results.append(path, row)

    def _evaluated_images(self, split: str) -> np.ndarray:
        images = getattr(self.images, split)
        if self.options.images is None:
            return images
        # The test images of MNIST are sorted by class.
        order = np.random.default_rng(0).permutation(len(images))
        return images[order[: self.options.images]]

    def _row(
        self,
        progress: Progress,
        index: int,
        seed: int,
        split: str,
        evaluation: Evaluation,
    ) -> dict[str, Any]:
        """Return a row without its bound."""
        training = self.training
        facts = machine(self.options.backend)
        num_images = len(getattr(self.images, split))
        cell = Cell(
            data=self.options.dataset,
            network=self.network.name,
            arity=self.network.arity,
            particles=training.num_particles,
        )
        published = PUBLISHED.get(cell, Published())
        if split == "train":
            published = Published()
        packages = {"numpyro": ("jax", "numpyro"), "pyro": ("torch", "pyro-ppl")}
        names = packages[self.options.backend]
        return cell._asdict() | {
            "estimator": training.estimator,
            "seed": seed,
            "steps": progress.step,
            "seconds": f"{progress.seconds:.0f}",
            "rate": training.rate,
            "schedule": training.schedule,
            "weight decay": training.weight_decay,
            "train loss": f"{progress.losses[index]:.2f}",
            "bound": split,
            "evaluated particles": evaluation.num_particles,
            "images": min(num_images, self.options.images or num_images),
            "paper concrete": _negative(published.concrete),
            "paper vimco": _negative(published.vimco),
            "device": facts.get("device", facts["processor"]),
            "versions": ", ".join(f"{name} {facts[name]}" for name in names),
        }


def _negative(nats: float | None) -> float | str:
    """Return a log-likelihood, or nothing where the paper has none."""
    return "" if nats is None else -nats


def main(arguments: list[str] | None = None) -> None:
    """Train a cell, evaluate it on test images and add rows to a csv file."""
    options = parser().parse_args(arguments)
    backend = import_module(f"benchmarks.paper.on_{options.backend}")
    network = Network.parse(options.cell, options.arity)
    images = load(options.dataset, options.data)
    groups = [options.seeds]
    if not backend.TRAINS_SEEDS_AT_ONCE:
        groups = [[seed] for seed in options.seeds]
    for seeds in groups:
        training = Training(
            estimator=options.estimator,
            num_particles=options.particles,
            chunk_size=options.chunk,
            steps=options.steps,
            seeds=tuple(seeds),
            rate=options.rate or default_rate(network),
            schedule=options.schedule,
            weight_decay=options.weight_decay,
            steps_at_once=options.steps_at_once,
        )
        Run(options, backend, network, training, images).execute()


if __name__ == "__main__":
    main()
