"""The multi-sample bound of every data point of a data set, in chunks of data.

`iwae_bound_over_data` is what to report for a test set: `iwae_bound` for each data
point, with the mean over data points and its standard error.

Counterpart: ``numpyro_concrete.objectives.iwae_over_data``.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.poutine import block, replay, trace
from torch import Tensor, nn

from concrete_core.objectives.chunks import even_chunks, validate_chunks
from concrete_core.objectives.data_bounds import (
    Checkpoint,
    DataBounds,
    count_data_points,
    evaluate_in_chunks,
    fingerprint,
)
from concrete_core.objectives.programs import Programs
from concrete_core.types import Program
from pyro_concrete.objectives.discrete_draws import DiscreteDraws
from pyro_concrete.objectives.particles import Particles, summarize_particles

_MAX_SEED = 2**62


def iwae_bound_over_data(
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
    averages, ``module.eval()``. Terms outside of the plate, such as the prior of
    parameters that the guide fixes by a Delta, belong to no data point and are left
    out.

    With a `checkpoint`, the bounds so far are in a file after each chunk of data. The
    same call after an interruption goes on from there, and gives the result of an
    uninterrupted one.

    It has no gradient. Train with `IWAE`.

    Shapes:
        data: (data points, ...) each.
        result: `bounds` has shape (data points,).

    Args:
        model: Discrete model, as it was before `relax`.
        guide: Guide of the model: ``harden(guide)`` if it is relaxed.
        *data: Arguments of the model and the guide: tensors with the data points along
            their first dim. A chunk of them has the same number of elements of
            `plate`.
        plate: Name of the plate whose elements are the data points.
        num_particles: Number m of particles for each data point, >= 1.
        chunk_size: Largest number of particles to run at a time, >= 1; chunks are made
            even.
        data_chunk_size: Largest number of data points to run at a time, >= 1; chunks
            are made even. The draws depend on it, and on `chunk_size`.
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

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> likelihood = torch.tensor([0.2, 0.6])
        >>> def model(data):
        ...     with pyro.plate("data", len(data)):
        ...         z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        ...         pyro.sample("x", dist.Bernoulli(likelihood[z.long()]), obs=data)
        >>> def posterior(data):
        ...     probs = torch.where(data == 1, 3 / 4, 1 / 3)
        ...     with pyro.plate("data", len(data)):
        ...         pyro.sample("z", dist.Bernoulli(probs))
        >>> estimate = iwae_bound_over_data(
        ...     model, posterior, torch.tensor([1.0, 0.0, 1.0]),
        ...     plate="data", num_particles=10, data_chunk_size=2)
        >>> [round(float(x), 4) for x in estimate.bounds]  # the logs of 0.4, 0.6, 0.4
        [-0.9163, -0.5108, -0.9163]

    References:
        Burda, Grosse, Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8.
        https://arxiv.org/abs/1509.00519
        Maddison, Mnih, Teh (2017), The Concrete Distribution, section 5.
        https://arxiv.org/abs/1611.00712

    Counterpart: :func:`numpyro_concrete.iwae_bound_over_data`.
    """
    validate_chunks(num_particles, chunk_size)
    num_data = count_data_points(data)
    chunks = even_chunks(num_data, data_chunk_size)
    devices = {x.device for x in data if isinstance(x, Tensor) and x.is_cuda}

    def bounds_of_chunk(index: int, seed: int) -> np.ndarray:
        start = index * chunks.size
        rows = tuple(array[start : start + chunks.size] for array in data)
        programs = Programs(model, guide, rows, kwargs)
        with torch.no_grad(), torch.random.fork_rng(devices), DiscreteDraws():
            # A chunk has draws of its own, also after an interruption.
            torch.manual_seed(seed + index)
            particles = Particles(programs, plate=plate, vectorize=vectorize_particles)
            summary = summarize_particles(particles, num_particles, chunk_size, False)
        return summary.bounds.cpu().numpy()

    settings = {
        "num_particles": num_particles,
        "chunk_size": chunk_size,
        "data_chunk_size": chunks.size,
        "plate": plate,
    }
    seed = int(torch.randint(_MAX_SEED, (), device="cpu"))
    values: tuple[Any, ...] = ()
    if checkpoint is not None:
        first_rows = tuple(array[: chunks.size] for array in data)
        programs = Programs(model, guide, first_rows, kwargs)
        values = (*data, *kwargs.values(), *_parameters(programs))
    return evaluate_in_chunks(
        bounds_of_chunk,
        num_data,
        chunks,
        plate=plate,
        checkpoint=Checkpoint(
            path=None if checkpoint is None else Path(checkpoint),
            fingerprint=fingerprint(settings, map(_to_bytes, values)),
            seed=seed,
        ),
        progress_bar=progress_bar,
    )


def _parameters(programs: Programs) -> list[Any]:
    """Return the parameters that a model and its guide read, in a fixed order.

    Modules that are called without `pyro.module` show theirs in their state.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]), block():
        guide_trace = trace(programs.guide).get_trace(*programs.args, **programs.kwargs)
        model = replay(programs.model, trace=guide_trace)
        model_trace = trace(model).get_trace(*programs.args, **programs.kwargs)
    by_name = {
        name: site["value"]
        for program_trace in (model_trace, guide_trace)
        for name, site in program_trace.nodes.items()
        if site["type"] == "param"
    }
    for label, program in (("model", programs.model), ("guide", programs.guide)):
        if isinstance(program, nn.Module):
            for name, value in program.state_dict().items():
                by_name[f"{label}.{name}"] = value
    return [by_name[name] for name in sorted(by_name)]


def _to_bytes(value: Any) -> bytes:
    """Return the bytes of a tensor or a number; none of other objects."""
    if isinstance(value, (bool, int, float, str)):
        return repr(value).encode()
    if not isinstance(value, Tensor):
        return b""
    array = value.detach().cpu().contiguous().reshape(-1)
    return array.view(torch.uint8).numpy().tobytes()
