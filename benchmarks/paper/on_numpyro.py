"""The networks of the paper as discrete NumPyro models, their training and evaluation.

Programs are written as discrete models, and `relax` makes them Concrete ones. A step is
one minibatch; thousands of steps are one compiled scan, and several seeds are trained
at once by `vmap`.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
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
from benchmarks.paper.training import (
    BASELINE_UNITS,
    BATCH,
    Evaluation,
    Progress,
    Training,
    independent_log_likelihood,
)
from numpyro_concrete import (
    IWAE,
    DataBounds,
    OneHotCategorical,
    harden,
    iwae_bound_over_data,
    relax,
)

Program = Callable[[Array], None]

TRAINS_SEEDS_AT_ONCE = True
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
            if network.is_conditional:
                self._top_layers(inputs)
                return
            below = 2 * (outputs - self.input_means)
            for depth in reversed(range(len(network.units))):
                units = network.units[depth]
                hidden = self._connect(f"guide_{depth}", below, units)
                below = self._sample_layer(f"guide_{depth}", depth, hidden)

    def guide_with_baseline(self, images: Array) -> None:
        """The guide, and a prediction of each image's log-weight from its pixels."""
        self.guide(images)
        _, outputs = _split(self.network, images)
        centered = 2 * (outputs - self.pixel_means)
        hidden = jnp.tanh(_dense("baseline_tanh", centered, BASELINE_UNITS))
        bias = jnp.full(1, independent_log_likelihood(self.pixel_means))
        predictions = _dense("baseline", hidden, 1, bias)
        numpyro.deterministic("baseline", predictions[:, 0])

    def _top_layers(self, inputs: Array) -> Array:
        """Sample the stochastic layers from the top down, and return the lowest."""
        network = self.network
        above = 2 * (inputs - self.input_means) if network.is_conditional else None
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
    return Programs(network, outputs, inputs if network.is_conditional else outputs)


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


def optimizer_of(training: Training) -> Any:
    """Return Adam with the learning rates and the weight decay."""
    rate: Any = training.rate
    if training.schedule == "cosine":
        rate = optax.cosine_decay_schedule(training.rate, training.steps)
    # The loss is a sum over the minibatch.
    decay = optax.add_decayed_weights(training.weight_decay * BATCH, mask=_are_weights)
    return optax_to_numpyro(optax.chain(decay, optax.adam(rate)))


def _are_weights(params: Mapping[str, Any]) -> dict[str, bool]:
    return {name: name.endswith("_weight") for name in params}


def train(
    programs: Programs, training: Training, images: Images, checkpoint: Path | None
) -> Iterator[Progress]:
    """Train from the start, or from a checkpoint, and yield after each scan.

    Yields:
        The progress, with losses of shape (seeds,) and parameters with a leading axis
        of seeds.
    """
    svi = SVI(
        *trained_programs(programs, training), optimizer_of(training), loss_of(training)
    )
    data = jnp.asarray(images.train)
    batch_size = min(BATCH, len(data))

    def update(state: Any, key: Array) -> tuple[Any, Array]:
        rows = random.randint(key, (batch_size,), 0, len(data))
        with numpyro.validation_enabled(False):
            state, loss = svi.update(state, data[rows].astype(float))
        return state, loss / batch_size

    def scanned(
        state: Any, seed: Array, start: Array, num_steps: int
    ) -> tuple[Any, Array]:
        # A step has a key of its own, however many steps are run at once.
        steps = start + jnp.arange(num_steps)
        keys = jax.vmap(partial(random.fold_in, random.key(seed)))(steps)
        state, losses = lax.scan(update, state, keys)
        return state, losses.mean()

    def run(state: Any, start: Array, num_steps: int) -> tuple[Any, Array]:
        seeds = jnp.array(training.seeds)
        scanned_steps = partial(scanned, start=start, num_steps=num_steps)
        return jax.vmap(scanned_steps)(state, seeds)

    run = jax.jit(run, static_argnames="num_steps", donate_argnums=0)
    params_of = jax.vmap(svi.get_params)
    first = data[:batch_size].astype(float)
    state = _stack([svi.init(random.key(x), first) for x in training.seeds])
    position = checkpoints.Position(0, 0.0, np.zeros(len(training.seeds)))
    restored = checkpoint and checkpoints.restore(checkpoint, state)
    if restored:
        position, state = restored
        yield Progress(*position, params_of(state))
    while position.step < training.steps:
        start = time.perf_counter()
        num_steps = min(training.steps_at_once, training.steps - position.step)
        state, losses = run(state, position.step, num_steps=num_steps)
        losses = np.asarray(losses)
        position = checkpoints.Position(
            step=position.step + num_steps,
            seconds=position.seconds + time.perf_counter() - start,
            losses=losses,
        )
        if checkpoint is not None:
            checkpoints.save(checkpoint, position, state)
        yield Progress(*position, params_of(state))


def _stack(states: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


# --- evaluation


def evaluate(
    programs: Programs,
    params: Mapping[str, Array],
    images: np.ndarray,
    evaluation: Evaluation,
    checkpoint: Path | None,
) -> DataBounds:
    """Return the bounds of the discrete programs, at one network's parameters."""
    guide = harden(relax(programs.guide, 1.0))

    def in_floats(program: Program) -> Program:
        return lambda rows: program(rows.astype(float))

    precise = jax.default_matmul_precision("highest")
    with numpyro.validation_enabled(False), precise:
        return iwae_bound_over_data(
            random.key(0),
            params,
            in_floats(programs.model),
            in_floats(guide),
            images,
            plate="images",
            num_particles=evaluation.num_particles,
            chunk_size=evaluation.chunk_size,
            data_chunk_size=evaluation.images_at_once,
            checkpoint=checkpoint,
        )


def of_seed(params: Mapping[str, Array], index: int) -> dict[str, Array]:
    """Return the parameters of one of the networks that were trained at once."""
    return {name: x[index] for name, x in params.items()}
