"""The networks of the paper as discrete NumPyro models, their training and evaluation.

Programs are written as discrete models, and `relax` makes them Concrete ones. A step is
one minibatch; thousands of steps are one compiled scan, and several seeds are trained
at once by `vmap`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax import Array, lax, random
from numpyro.infer import SVI
from numpyro.optim import optax_to_numpyro

from benchmarks.paper import checkpoints
from benchmarks.paper.cells import Network
from benchmarks.paper.datasets import Images
from numpyro_concrete import (
    IWAE,
    OneHotCategorical,
    harden,
    iwae_bound,
    relax,
)

Program = Callable[[Array], None]

BATCH = 64
# Largest learning rate; it falls to zero as half a period of a cosine.
RATES = {"linear": 1e-3, "non-linear": 5e-4}
MIN_PROB = 1e-3  # pixels that are always off in the training images
ESTIMATORS = ("concrete", "discrete", "score")


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
    pixel_means: Array
    input_means: Array

    def model(self, images: Array) -> None:
        """Stochastic layers from the top down, then the pixels."""
        network = self.network
        inputs, outputs = _split(network, images)
        with numpyro.plate("images", len(images)):
            above = self._top_layers(inputs)
            hidden = self._connect("pixels", above, network.units[-1])
            bias = _logit(self.pixel_means)
            logits = _dense("pixels", hidden, network.num_outputs, bias)
            pixels = dist.Bernoulli(logits=logits).to_event(1)
            numpyro.sample("pixels", pixels, obs=outputs)

    def guide(self, images: Array) -> None:
        """Stochastic layers from the bottom up; of a conditional network, its prior."""
        network = self.network
        inputs, outputs = _split(network, images)
        with numpyro.plate("images", len(images)):
            if network.num_inputs:
                self._top_layers(inputs)
                return
            below = 2 * (outputs - self.input_means)
            for depth in reversed(range(len(network.units))):
                units = network.units[depth]
                hidden = self._connect(f"guide_{depth}", below, units)
                below = self._sample_layer(f"guide_{depth}", depth, hidden)

    def _top_layers(self, inputs: Array) -> Array:
        """Sample the stochastic layers from the top down, and return the lowest."""
        network = self.network
        above = 2 * (inputs - self.input_means) if network.num_inputs else None
        for depth, units in enumerate(network.units):
            if above is not None:
                above = self._connect(f"model_{depth}", above, units)
            above = self._sample_layer(f"model_{depth}", depth, above)
        return above

    def _connect(self, name: str, x: Array, units: int) -> Array:
        """Two layers of tanh units, or nothing in a linear network."""
        if self.network.is_linear:
            return x
        for i in range(2):
            x = jnp.tanh(_dense(f"{name}_tanh_{i}", x, units))
        return x

    def _sample_layer(self, name: str, depth: int, x: Array | None) -> Array:
        """Sample a layer, given the one before it, as units in {-1, 1}."""
        units, arity = self.network.units[depth], self.network.arity
        num_bits = int(math.log2(arity))
        num_logits = units if arity == 2 else units // num_bits * arity
        if x is None:
            logits = numpyro.param(f"{name}_bias", jnp.zeros(num_logits))
        else:
            logits = _dense(name, x, num_logits)
        if arity == 2:
            z = numpyro.sample(f"z_{depth}", dist.Bernoulli(logits=logits).to_event(1))
            return 2 * z - 1
        nodes = logits.reshape(*logits.shape[:-1], -1, arity)
        z = numpyro.sample(f"z_{depth}", OneHotCategorical(logits=nodes).to_event(1))
        corners = jnp.array([*product((-1.0, 1.0), repeat=num_bits)])
        codes = z @ corners
        return codes.reshape(*codes.shape[:-2], -1)


def programs_of(network: Network, images: np.ndarray) -> Programs:
    """Return the programs of a network for the training images."""
    means = jnp.asarray(images.mean(0))
    inputs, outputs = _split(network, means)
    return Programs(network, outputs, inputs if network.num_inputs else outputs)


def _split(network: Network, images: Array) -> tuple[Array, Array]:
    """Return the pixels that a network is given, and those that it explains."""
    return images[..., : network.num_inputs], images[..., network.num_inputs :]


def _dense(name: str, x: Array, size: int, bias: Array | None = None) -> Array:
    """An affine layer; weights start as Glorot and Bengio's, biases at zero."""
    shape = x.shape[-1], size
    start = lambda key: jax.nn.initializers.glorot_uniform()(key, shape)  # noqa: E731
    weight = numpyro.param(f"{name}_weight", start)
    start_bias = jnp.zeros(size) if bias is None else bias
    return x @ weight + numpyro.param(f"{name}_bias", start_bias)


def _logit(probs: Array) -> Array:
    probs = jnp.clip(probs, MIN_PROB, 1 - MIN_PROB)
    return jnp.log(probs) - jnp.log1p(-probs)


# --- training


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        estimator: "concrete" or "discrete" scoring of relaxed sites, or "score": the
            discrete programs by VIMCO, and for one particle by the score function with
            the other images of the minibatch as the baseline.
        num_particles: Number of particles for each image.
        chunk_size: Particles that are run at a time.
        steps: Number of steps of the whole run.
        seeds: One seed for each network that is trained.
        steps_at_once: Number of steps of one compiled scan, after which a state is
            saved.
        rate: Largest learning rate.
    """

    estimator: str
    num_particles: int
    steps: int
    seeds: tuple[int, ...]
    rate: float
    chunk_size: int | None = None
    steps_at_once: int = 10_000

    def loss(self) -> Any:
        """Return the loss of `SVI`."""
        return IWAE(self.num_particles, plate="images", chunk_size=self.chunk_size)

    def programs(self, programs: Programs) -> tuple[Program, Program]:
        """Return the model and the guide that are trained."""
        if self.estimator == "score":
            return programs.model, programs.guide
        model_temperature, guide_temperature = programs.network.temperatures
        relaxed = partial(relax, scoring=self.estimator)
        return (
            relaxed(programs.model, model_temperature),
            relaxed(programs.guide, guide_temperature),
        )


@dataclass(frozen=True)
class Progress:
    """Where a run is: the step, and the mean loss of an image since the last one."""

    step: int
    losses: np.ndarray
    params: dict[str, Array]


def train(
    programs: Programs, training: Training, images: Images, checkpoint: Path | None
) -> Iterator[Progress]:
    """Train from the start, or from a checkpoint, and yield after each scan.

    Yields:
        The progress, with losses of shape (seeds,) and parameters with a leading axis
        of seeds.
    """
    schedule = optax.cosine_decay_schedule(training.rate, training.steps)
    optimizer = optax_to_numpyro(optax.adam(schedule))
    svi = SVI(*training.programs(programs), optimizer, training.loss())
    data = jnp.asarray(images.train)
    batch_size = min(BATCH, len(data))

    def update(state: Any, key: Array) -> tuple[Any, Array]:
        rows = random.randint(key, (batch_size,), 0, len(data))
        with numpyro.validation_enabled(False):
            state, loss = svi.update(state, data[rows].astype(float))
        return state, loss / batch_size

    def scanned(state: Any, key: Array, num_steps: int) -> tuple[Any, Array]:
        keys = random.split(key, num_steps)
        state, losses = lax.scan(update, state, keys)
        return state, losses.mean()

    def run(state: Any, start: Array, num_steps: int) -> tuple[Any, Array]:
        fold = lambda seed: random.fold_in(random.key(seed), start)  # noqa: E731
        keys = jax.vmap(fold)(jnp.array(training.seeds))
        return jax.vmap(partial(scanned, num_steps=num_steps))(state, keys)

    run = jax.jit(run, static_argnames="num_steps", donate_argnums=0)
    first = data[:batch_size].astype(float)
    state = _stack([svi.init(random.key(x), first) for x in training.seeds])
    step = 0
    if checkpoint is not None:
        step, state = checkpoints.restore(checkpoint, state)
    while step < training.steps:
        num_steps = min(training.steps_at_once, training.steps - step)
        state, losses = run(state, step, num_steps=num_steps)
        step += num_steps
        if checkpoint is not None:
            checkpoints.save(checkpoint, step, state)
        params = jax.vmap(svi.get_params)(state)
        yield Progress(step, np.asarray(losses), params)


def _stack(states: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


# --- evaluation


@dataclass(frozen=True)
class Bounds:
    """Means over images of a bound on the discrete log-likelihood, in nats.

    Attributes:
        mean: Mean over images.
        stderr: Its standard error over images.
    """

    mean: float
    stderr: float


def evaluate(
    programs: Programs,
    params: dict[str, Array],
    images: np.ndarray,
    *,
    num_particles: int,
    chunk_size: int = 50,
    images_at_once: int = 100,
) -> Bounds:
    """Return the bound of the discrete programs, at one network's parameters."""
    guide = harden(relax(programs.guide, 1.0))
    settings: dict[str, Any] = {"plate": "images", "per_element": True}
    settings |= {"num_particles": num_particles, "chunk_size": chunk_size}

    @jax.jit
    def bounds(key: Array, rows: Array) -> Array:
        precise = jax.default_matmul_precision("highest")
        with numpyro.validation_enabled(False), precise:
            data = rows.astype(float)
            return iwae_bound(key, params, programs.model, guide, data, **settings)

    count = max(1, len(images) // images_at_once)
    parts = np.array_split(images, count)
    values = [
        np.asarray(bounds(random.key(i), jnp.asarray(x))) for i, x in enumerate(parts)
    ]
    flat = np.concatenate(values).astype(np.float64)
    return Bounds(float(flat.mean()), float(flat.std(ddof=1) / len(flat) ** 0.5))


def of_seed(params: dict[str, Array], index: int) -> dict[str, Array]:
    """Return the parameters of one of the networks that were trained at once."""
    return jax.tree.map(lambda x: x[index], params)


def default_rate(network: Network) -> float:
    """Return the largest learning rate for a network."""
    return RATES["linear" if network.is_linear else "non-linear"]
