"""Bounds of the data points of a data set, which is evaluated in chunks.

`evaluate_in_chunks` asks a backend for the bounds of one chunk after the other, and
writes them to a file, so that an evaluation that was interrupted can go on. The file
names what it belongs to by a hash of the settings, the data and the parameters.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from concrete_core.objectives.chunks import Chunks

# Returns the bounds of the data points of a chunk, given its number and a seed.
BoundsOfChunk = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class DataBounds:
    """Bounds on the log-evidence of the data points of a data set, in nats.

    Attributes:
        bounds: Bound of each data point, of type float64: (data points,).

    Example:
        >>> estimate = DataBounds(np.array([-1.0, -3.0, -2.0]))
        >>> estimate.mean
        -2.0
        >>> round(estimate.stderr, 4)
        0.5774
    """

    bounds: np.ndarray

    @property
    def mean(self) -> float:
        """The mean over data points."""
        return float(self.bounds.mean())

    @property
    def stderr(self) -> float:
        """The standard error of the mean over data points; NaN for a single one.

        It includes the noise of the particles.
        """
        if len(self.bounds) < 2:
            return float("nan")
        return float(self.bounds.std(ddof=1) / len(self.bounds) ** 0.5)


@dataclass(frozen=True)
class Checkpoint:
    """A file with the bounds of the chunks so far.

    Attributes:
        path: Path of the file, or None for an evaluation that is not kept.
        fingerprint: Hash of what the bounds belong to.
        seed: Seed of the draws, unless the file has the one of an earlier call.
    """

    path: Path | None
    fingerprint: str
    seed: int = 0

    def restore(self) -> tuple[np.ndarray, int]:
        """Return the bounds in the file, if there is one, and the seed.

        Raises:
            ValueError: If the file belongs to other settings, data or parameters.
        """
        if self.path is None or not self.path.exists():
            return np.empty(0), self.seed
        with np.load(self.path) as file:
            if str(file["fingerprint"]) != self.fingerprint:
                raise ValueError(
                    f"the checkpoint {str(self.path)!r} is of an evaluation with other "
                    "settings, data or parameters. Remove it or choose another file"
                )
            return file["bounds"], int(file["seed"])

    def save(self, bounds: np.ndarray, seed: int) -> None:
        """Write the bounds so far; an interruption leaves the old file intact."""
        if self.path is None:
            return
        partial = self.path.with_name(f"{self.path.name}.partial")
        with partial.open("wb") as file:
            np.savez(file, bounds=bounds, seed=seed, fingerprint=self.fingerprint)
        partial.replace(self.path)


def fingerprint(settings: Mapping[str, Any], buffers: Iterable[bytes]) -> str:
    """Return a hash of settings and of the bytes of arrays.

    Args:
        settings: Numbers and names.
        buffers: Bytes of the arrays, such as the data and the parameters.

    Example:
        >>> len(fingerprint({"num_particles": 2}, [b"data"]))
        64
    """
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for buffer in buffers:
        digest.update(hashlib.sha256(buffer).digest())
    return digest.hexdigest()


def count_data_points(data: Sequence[Any]) -> int:
    """Return the number of data points, the length of all arrays.

    Args:
        data: Arrays with the data points along their first axis.

    Raises:
        ValueError: If there are no arrays, or arrays of several lengths.

    Example:
        >>> count_data_points([np.zeros((5, 2)), np.zeros(5)])
        5
    """
    shapes = [tuple(getattr(array, "shape", ())) for array in data]
    lengths = {shape[0] if shape else None for shape in shapes}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            "the positional arguments must be arrays with the data points along the "
            f"first axis, but have the shapes {shapes}. Pass others by keyword"
        )
    [length] = lengths
    if not length:
        raise ValueError("there are no data points")
    return length


def evaluate_in_chunks(
    bounds_of_chunk: BoundsOfChunk,
    num_data: int,
    chunks: Chunks,
    *,
    plate: str,
    checkpoint: Checkpoint,
    progress_bar: bool,
) -> DataBounds:
    """Return the bounds of all data points, one chunk after the other.

    Args:
        bounds_of_chunk: Function of the number of a chunk and of a seed.
        num_data: Number of data points.
        chunks: Chunks of the data, of which the last may be shorter.
        plate: Name of the plate whose elements are the data points.
        checkpoint: File in which the bounds are kept after each chunk.
        progress_bar: Whether to show the progress over data points.

    Raises:
        ValueError: If the elements of the plate are not the data points.
    """
    bounds, seed = checkpoint.restore()
    with tqdm(
        total=num_data,
        initial=len(bounds),
        unit="data point",
        disable=not progress_bar,
    ) as bar:
        while len(bounds) < num_data:
            index = len(bounds) // chunks.size
            new_bounds = np.asarray(bounds_of_chunk(index, seed), np.float64)
            expected = min(chunks.size, num_data - len(bounds))
            if new_bounds.shape != (expected,):
                raise ValueError(
                    f"plate {plate!r} has size {len(new_bounds)}, and {expected} data "
                    "points run at a time. Give it an element for each of them"
                )
            bounds = np.concatenate([bounds, new_bounds])
            checkpoint.save(bounds, seed)
            bar.update(expected)
    return DataBounds(bounds)
