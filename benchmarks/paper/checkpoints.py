"""States of JAX runs in files, so that a run that was cut off can go on."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import random


class Position(NamedTuple):
    """Where a run is.

    Attributes:
        step: Number of steps so far.
        seconds: Time that they took.
        losses: Mean loss of an image over the last steps: (seeds,).
    """

    step: int
    seconds: float
    losses: np.ndarray


def save(path: Path, position: Position, state: Any) -> None:
    """Write the position and a state, a pytree of arrays and random keys."""
    leaves = [np.asarray(_without_key_type(x)) for x in jax.tree.leaves(state)]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, *leaves, **position._asdict())
    partial.replace(path)  # a run that is cut off here leaves the old file whole


def restore(path: Path, state: Any) -> tuple[Position, Any] | None:
    """Return the position and the state in a file, or None if there is no file.

    Args:
        path: File that `save` wrote, or that is not there.
        state: A state of the same structure, such as the one at the start of the run.
    """
    if not path.exists():
        return None
    leaves, structure = jax.tree.flatten(state)
    with np.load(path) as file:
        saved = [file[f"arr_{i}"] for i in range(len(leaves))]
        position = Position(int(file["step"]), float(file["seconds"]), file["losses"])
    restored = [_like(x, old) for x, old in zip(saved, leaves, strict=True)]
    return position, jax.tree.unflatten(structure, restored)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(jax.numpy.asarray(leaf).dtype, jax.dtypes.prng_key)


def _without_key_type(leaf: Any) -> Any:
    return random.key_data(leaf) if _is_key(leaf) else leaf


def _like(saved: np.ndarray, leaf: Any) -> Any:
    if _is_key(leaf):
        return random.wrap_key_data(jax.numpy.asarray(saved))
    return jax.numpy.asarray(saved, jax.numpy.asarray(leaf).dtype)
