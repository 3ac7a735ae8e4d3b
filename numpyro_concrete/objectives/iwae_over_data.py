"""The multi-sample bound of every data point of a data set, in chunks of data.

`iwae_bound_over_data` is what to report for a test set: `iwae_bound` for each data
point, with the mean over data points and its standard error.

Counterpart: ``pyro_concrete.objectives.iwae_over_data``.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.util import not_jax_tracer

from concrete_core.objectives.checks import depends_on_draws_message
from concrete_core.objectives.chunks import even_chunks, validate_chunks
from concrete_core.objectives.data_bounds import (
    Checkpoint,
    DataBounds,
    count_data_points,
    evaluate_in_chunks,
    fingerprint,
)
from concrete_core.objectives.programs import Programs
from concrete_core.types import Params, Program
from numpyro_concrete.objectives.particles import Particles, summarize_particles


def iwae_bound_over_data(
    rng_key: Array,
    params: Params,
    model: Program,
    guide: Program,
    *data: Any,
    plate: str,
    num_particles: int = 1000,
    chunk_size: int = 100,
    data_chunk_size: int = 100,
    vectorize_particles: bool = True,
    progress_bar: bool = False,
    checkpoint: str | Path | None = None,
    **kwargs: Any,
) -> DataBounds:
    r"""Estimate the multi-sample bound of each data point of a data set, in chunks.

    .. math:: \log \frac{1}{m} \sum_{i=1}^m \frac{p(x_n, z_{ni})}{q(z_{ni})}, \quad
        z_{ni} \sim q, \quad n = 1, \dots, N

    It is `iwae_bound` for each element of `plate`, with the mean over data points and
    its standard error: what papers report for a test set. The model and the guide are
    called with one chunk of the data after the other, so that the memory is that of
    `chunk_size` particles of `data_chunk_size` data points, whatever the number of
    both. Larger chunks are faster until they leave the cache of the processor.

    Each data point has the same bound in every chunk only if data points are
    independent given the parameters: evaluate batch normalization with its running
    averages. Terms outside of the plate, such as the prior of parameters that the guide
    fixes by a Delta, belong to no data point and are left out.

    With a `checkpoint`, the bounds so far are in a file after each chunk of data. The
    same call after an interruption goes on from there, and gives the result of an
    uninterrupted one.

    It has no gradient, and cannot run inside of ``jax.jit`` or ``jax.grad``. Train with
    `IWAE`.

    Shapes:
        data: (data points, ...) each.
        result: `bounds` has shape (data points,).

    Args:
        rng_key: Random key.
        params: Parameters of the model and the guide, constrained, and their mutable
            state, as for `iwae_bound`.
        model: Discrete model, as it was before `relax`.
        guide: Guide of the model: ``harden(guide)`` if it is relaxed.
        *data: Arguments of the model and the guide: arrays with the data points along
            their first axis. A chunk of them has the same number of elements of
            `plate`.
        plate: Name of the plate whose elements are the data points.
        num_particles: Number m of particles for each data point, >= 1.
        chunk_size: Largest number of particles to run at a time, >= 1; chunks are made
            even.
        data_chunk_size: Largest number of data points to run at a time, >= 1; chunks
            are made even. The draws depend on it.
        vectorize_particles: As in `iwae_bound`.
        progress_bar: Show the progress over data points.
        checkpoint: Path of the file with the bounds so far. It stays when the
            evaluation is complete, and the same call then returns its result.
        **kwargs: Keyword arguments of the model and the guide, the same for each chunk.

    Returns:
        The bounds, in nats, with their `mean` and its `stderr`.

    Raises:
        ValueError: Where `iwae_bound` raises one, if the data have different lengths or
            no data points, if the elements of `plate` are not the data points, or if
            the checkpoint is of other settings, data or parameters.
        TypeError: If it runs inside of ``jax.jit`` or ``jax.grad``.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> likelihood = jnp.array([0.2, 0.6])
        >>> def model(data):
        ...     with numpyro.plate("data", len(data)):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Bernoulli(likelihood[z]), obs=data)
        >>> def posterior(data):
        ...     probs = jnp.where(data == 1, 3 / 4, 1 / 3)
        ...     with numpyro.plate("data", len(data)):
        ...         numpyro.sample("z", dist.Bernoulli(probs))
        >>> estimate = iwae_bound_over_data(
        ...     jax.random.key(0), {}, model, posterior, jnp.array([1, 0, 1]),
        ...     plate="data", num_particles=10, data_chunk_size=2)
        >>> [round(float(x), 4) for x in np.exp(estimate.bounds)]  # the evidences
        [0.4, 0.6, 0.4]

    References:
        Burda, Grosse, Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8.
        https://arxiv.org/abs/1509.00519
        Maddison, Mnih, Teh (2017), The Concrete Distribution, section 5.
        https://arxiv.org/abs/1611.00712

    Counterpart: :func:`pyro_concrete.iwae_bound_over_data`.
    """
    validate_chunks(num_particles, chunk_size)
    num_data = count_data_points(data)
    chunks = even_chunks(num_data, data_chunk_size)
    _validate_outside_of_jit(rng_key, params, data)

    @jax.jit
    def summarize_chunk(
        key: Array, params: Params, rows: tuple[Array, ...]
    ) -> tuple[Array, Array]:
        programs = Programs(model, guide, rows, kwargs)
        particles = Particles(
            key, params, programs, plate=plate, vectorize=vectorize_particles
        )
        summary = summarize_particles(particles, num_particles, chunk_size, False)
        return summary.bounds, summary.outside_plate

    def bounds_of_chunk(index: int, _seed: int) -> np.ndarray:
        # The last chunk is filled up with copies of the last data point, so that the
        # model is compiled for one shape.
        start = index * chunks.size
        indices = np.minimum(np.arange(start, start + chunks.size), num_data - 1)
        rows = tuple(jnp.asarray(array[indices]) for array in data)
        key = random.fold_in(rng_key, index)
        bounds, outside_plate = summarize_chunk(key, params, rows)
        if jnp.isnan(outside_plate):
            raise ValueError(depends_on_draws_message(plate))
        if len(bounds) == chunks.size:
            bounds = bounds[: num_data - start]
        return np.asarray(bounds)

    settings = {
        "num_particles": num_particles,
        "chunk_size": chunk_size,
        "data_chunk_size": chunks.size,
        "plate": plate,
    }
    leaves: list[Any] = []
    if checkpoint is not None:
        leaves = jax.tree.leaves((rng_key, dict(params), data, kwargs))
    return evaluate_in_chunks(
        bounds_of_chunk,
        num_data,
        chunks,
        plate=plate,
        checkpoint=Checkpoint(
            path=None if checkpoint is None else Path(checkpoint),
            fingerprint=fingerprint(settings, map(_to_bytes, leaves)),
        ),
        progress_bar=progress_bar,
    )


def _to_bytes(leaf: Any) -> bytes:
    """Return the bytes of an array, random key or number; none of other objects."""
    if isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = random.key_data(leaf)
    array = np.asarray(leaf)
    return b"" if array.dtype == object else array.tobytes()


def _validate_outside_of_jit(*trees: Any) -> None:
    """Raise an error if an array has no value yet.

    Raises:
        TypeError: If one has none.
    """
    if not all(map(not_jax_tracer, jax.tree.leaves(trees))):
        raise TypeError(
            "iwae_bound_over_data takes the data in chunks outside of jax.jit, and has "
            "no gradient. Call it with arrays that have values, and train with IWAE"
        )
