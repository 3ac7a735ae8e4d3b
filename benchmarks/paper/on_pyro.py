"""The networks of the paper as discrete Pyro models, their training and evaluation.

Programs are written as discrete models, and `relax` makes them Concrete ones. The names
of parameters and sites are those of `on_numpyro`. Seeds are trained one after another.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI
from pyro.optim import PyroLRScheduler
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

import benchmarks.on_pyro  # noqa: F401, which sets the number of threads
from benchmarks.paper.cells import Network
from benchmarks.paper.datasets import Images
from benchmarks.paper.training import (
    BASELINE_UNITS,
    BATCH,
    Evaluation,
    Progress,
    Training,
    independent_log_likelihood,
)
from pyro_concrete import IWAE, DataBounds, harden, iwae_bound_over_data, relax

Program = Callable[[Tensor], None]

TRAINS_SEEDS_AT_ONCE = False
MIN_PROB = 1e-3  # pixels that are always off in the training images


# --- the programs


@dataclass(frozen=True)
class Programs:
    """The discrete model and guide of a network.

    Attributes:
        network: The network.
        pixel_means: Means of the pixels that it explains, in the training images.
        input_means: Means of the pixels that it, or its guide, is given.
    """

    network: Network
    pixel_means: Tensor
    input_means: Tensor

    def model(self, images: Tensor) -> None:
        """Stochastic layers from the top down, then the pixels."""
        network = self.network
        inputs, outputs = _split(network, images)
        with pyro.plate("images", len(images)):
            above = self._top_layers(inputs)
            hidden = self._connect("pixels", above, network.units[-1])
            bias = torch.logit(self.pixel_means, MIN_PROB)
            logits = _dense("pixels", hidden, network.num_outputs, bias)
            pixels = dist.Bernoulli(logits=logits).to_event(1)
            pyro.sample("pixels", pixels, obs=outputs)

    def guide(self, images: Tensor) -> None:
        """Stochastic layers from the bottom up; of a conditional network, its prior."""
        network = self.network
        inputs, outputs = _split(network, images)
        with pyro.plate("images", len(images)):
            if network.is_conditional:
                self._top_layers(inputs)
                return
            below = 2 * (outputs - self.input_means)
            for depth in reversed(range(len(network.units))):
                units = network.units[depth]
                hidden = self._connect(f"guide_{depth}", below, units)
                below = self._sample_layer(f"guide_{depth}", depth, hidden)

    def guide_with_baseline(self, images: Tensor) -> None:
        """The guide, and a prediction of each image's log-weight from its pixels."""
        self.guide(images)
        _, outputs = _split(self.network, images)
        centered = 2 * (outputs - self.pixel_means)
        hidden = _dense("baseline_tanh", centered, BASELINE_UNITS).tanh()
        bias = torch.full((1,), independent_log_likelihood(self.pixel_means.numpy()))
        predictions = _dense("baseline", hidden, 1, bias)
        pyro.deterministic("baseline", predictions[:, 0])

    def _top_layers(self, inputs: Tensor) -> Tensor:
        """Sample the stochastic layers from the top down, and return the lowest."""
        network = self.network
        above = 2 * (inputs - self.input_means) if network.is_conditional else None
        for depth, units in enumerate(network.units):
            if above is not None:
                above = self._connect(f"model_{depth}", above, units)
            above = self._sample_layer(f"model_{depth}", depth, above)
        return above

    def _connect(self, name: str, x: Tensor, units: int) -> Tensor:
        """Two layers of tanh units, or nothing in a linear network."""
        if self.network.is_linear:
            return x
        for i in range(2):
            x = _dense(f"{name}_tanh_{i}", x, units).tanh()
        return x

    def _sample_layer(self, name: str, depth: int, x: Tensor | None) -> Tensor:
        """Sample a layer, given the one before it, as units in {-1, 1}."""
        units, arity = self.network.units[depth], self.network.arity
        num_bits = int(math.log2(arity))
        num_logits = units if arity == 2 else units // num_bits * arity
        if x is None:
            logits = pyro.param(f"{name}_bias", lambda: torch.zeros(num_logits))
        else:
            logits = _dense(name, x, num_logits)
        if arity == 2:
            z = pyro.sample(f"z_{depth}", dist.Bernoulli(logits=logits).to_event(1))
            return 2 * z - 1
        nodes = logits.unflatten(-1, (-1, arity))
        z = pyro.sample(f"z_{depth}", dist.OneHotCategorical(logits=nodes).to_event(1))
        corners = torch.tensor([*product((-1.0, 1.0), repeat=num_bits)])
        return (z @ corners).flatten(-2)


def programs_of(network: Network, images: np.ndarray) -> Programs:
    """Return the programs of a network for the training images."""
    means = torch.as_tensor(images.mean(0), dtype=torch.float32)
    inputs, outputs = _split(network, means)
    return Programs(network, outputs, inputs if network.is_conditional else outputs)


def _split(network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels that a network is given, and those that it explains."""
    return images[..., : network.num_inputs], images[..., network.num_inputs :]


def _dense(name: str, x: Tensor, size: int, bias: Tensor | None = None) -> Tensor:
    """An affine layer; weights start as Glorot and Bengio's, biases at zero."""
    shape = x.shape[-1], size
    start = lambda: torch.nn.init.xavier_uniform_(torch.empty(shape))  # noqa: E731
    weight = pyro.param(f"{name}_weight", start)
    start_bias = torch.zeros(size) if bias is None else bias
    return x @ weight + pyro.param(f"{name}_bias", lambda: start_bias.clone())


# --- training


def loss_of(training: Training) -> IWAE:
    """Return the loss of `SVI`."""
    return IWAE(
        training.num_particles,
        plate="images",
        chunk_size=training.chunk_size,
        baseline="baseline" if training.has_baseline else None,
    )


def trained_programs(programs: Programs, training: Training) -> tuple[Program, Program]:
    """Return the model and the guide that are trained."""
    if training.has_baseline:
        return programs.model, programs.guide_with_baseline
    if training.estimator == "score":
        return programs.model, programs.guide
    model_temperature, guide_temperature = programs.network.temperatures
    relaxed = partial(relax, scoring=training.estimator)
    return (
        relaxed(programs.model, model_temperature),
        relaxed(programs.guide, guide_temperature),
    )


def optimizer_of(training: Training) -> PyroLRScheduler:
    """Return Adam with the learning rates and the weight decay."""

    def share(step: int) -> float:
        if training.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(step / training.steps, 1.0)))

    def arguments(name: str) -> dict[str, float]:
        # The loss is a sum over the minibatch.
        is_weight = name.endswith("_weight")
        decay = training.weight_decay * BATCH if is_weight else 0.0
        return {"lr": training.rate, "weight_decay": decay}

    options = {"optimizer": Adam, "optim_args": arguments, "lr_lambda": share}
    return PyroLRScheduler(LambdaLR, options)


@dataclass
class _Run:
    """A run of one seed, whose parameters are in Pyro's store.

    Attributes:
        svi: Model, guide, optimizer and loss.
        training: How they are trained.
        data: Training images.
        step: Number of steps so far.
        seconds: Time that they took.
        loss: Mean loss of an image over the last steps.
    """

    svi: SVI
    training: Training
    data: Tensor
    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0

    def advance(self) -> None:
        """Run the steps up to the next checkpoint."""
        start = time.perf_counter()
        remaining = self.training.steps - self.step
        num_steps = min(self.training.steps_at_once, remaining)
        batch_size = min(BATCH, len(self.data))
        total = 0.0
        for _ in range(num_steps):
            rows = torch.randint(len(self.data), (batch_size,))
            total += self.svi.step(self.data[rows].float()) / batch_size
            self.svi.optim.step()
        self.loss = total / num_steps
        self.step += num_steps
        self.seconds += time.perf_counter() - start

    def progress(self) -> Progress:
        store = pyro.get_param_store()
        params = {name: x.detach().numpy()[None].copy() for name, x in store.items()}
        return Progress(self.step, self.seconds, np.array([self.loss]), params)

    def save(self, path: Path) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.loss,
            "params": pyro.get_param_store().get_state(),
            "optimizer": self.svi.optim.get_state(),
            "generator": torch.get_rng_state(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_path = path.with_suffix(".partial")
        torch.save(state, partial_path)
        partial_path.replace(path)  # a run that is cut off leaves the old file whole

    def restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=False)
        self.step, self.seconds = state["step"], state["seconds"]
        self.loss = state["loss"]
        pyro.get_param_store().set_state(state["params"])
        self.svi.optim.set_state(state["optimizer"])
        torch.set_rng_state(state["generator"])


def train(
    programs: Programs, training: Training, images: Images, checkpoint: Path | None
) -> Iterator[Progress]:
    """Train from the start, or from a checkpoint, and yield at each checkpoint.

    Yields:
        The progress, with losses of shape (1,) and parameters with a leading axis of
        length one.
    """
    [seed] = training.seeds
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    model, guide = trained_programs(programs, training)
    svi = SVI(model, guide, optimizer_of(training), loss_of(training))
    run = _Run(svi, training, torch.as_tensor(images.train))
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
        yield run.progress()
    while run.step < training.steps:
        with pyro.validation_enabled(False):
            run.advance()
        if checkpoint is not None:
            run.save(checkpoint)
        yield run.progress()


# --- evaluation


def evaluate(
    programs: Programs,
    params: Mapping[str, np.ndarray],
    images: np.ndarray,
    evaluation: Evaluation,
    checkpoint: Path | None,
) -> DataBounds:
    """Return the bounds of the discrete programs, at one network's parameters."""
    guide = harden(relax(programs.guide, 1.0))
    pyro.clear_param_store()
    for name, value in params.items():
        pyro.param(name, torch.as_tensor(value))

    def in_floats(program: Program) -> Program:
        return lambda rows: program(rows.float())

    pyro.set_rng_seed(0)
    with pyro.validation_enabled(False):
        return iwae_bound_over_data(
            in_floats(programs.model),
            in_floats(guide),
            torch.as_tensor(images),
            plate="images",
            num_particles=evaluation.num_particles,
            chunk_size=evaluation.chunk_size,
            data_chunk_size=evaluation.images_at_once,
            checkpoint=checkpoint,
        )


def of_seed(params: Mapping[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """Return the parameters of one of the networks."""
    return {name: x[index] for name, x in params.items()}
