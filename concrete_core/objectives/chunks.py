"""How many particles run at a time, and the arguments that say so."""

import math
from typing import NamedTuple


class Chunks(NamedTuple):
    """Particles in chunks of equal size, of which the last may be shorter.

    Attributes:
        count: Number of chunks, >= 1.
        size: Number of particles in a chunk, >= 1.
    """

    count: int
    size: int


def validate_chunks(num_particles: int, chunk_size: int | None) -> None:
    """Raise an error unless both numbers are at least one.

    Args:
        num_particles: Number of particles.
        chunk_size: Largest number of particles in a chunk, or None.

    Raises:
        ValueError: If a number is less than one.

    Example:
        >>> validate_chunks(10, 0)
        Traceback (most recent call last):
        ValueError: chunk_size must be at least 1, not 0
    """
    for name, number in (("num_particles", num_particles), ("chunk_size", chunk_size)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")


def even_chunks(num_particles: int, chunk_size: int | None = None) -> Chunks:
    """Return as few chunks as the largest size allows, all about equally large.

    Equal chunks need less memory than full ones with a remainder.

    Args:
        num_particles: Number of particles, >= 1.
        chunk_size: Largest number of particles in a chunk, >= 1. By default all
            particles are in one chunk.

    Raises:
        ValueError: If a number is less than one.

    Example:
        >>> even_chunks(1000, 300)
        Chunks(count=4, size=250)
        >>> even_chunks(1000)
        Chunks(count=1, size=1000)
    """
    validate_chunks(num_particles, chunk_size)
    if chunk_size is None:
        chunk_size = num_particles
    count = math.ceil(num_particles / chunk_size)
    return Chunks(count=count, size=math.ceil(num_particles / count))
