"""What a warmup is given, and how it ends by default."""

import math
from numbers import Real

# A step of an unbiased finish by local expectations takes at most this many runs.
MOST_LOCAL_RUNS = 10


def validate_warmup(num_steps: object) -> None:
    """Raise an error unless the number of steps of a warmup is finite, and >= 0.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is negative or not finite.

    Example:
        >>> validate_warmup(0)
    """
    if not isinstance(num_steps, Real):
        raise TypeError(
            f"num_steps of the warmup must be a number, but is {num_steps!r}"
        )
    if not 0 <= float(num_steps) < math.inf:
        raise ValueError(
            "num_steps of the warmup must be finite, and at least 0, but is "
            f"{num_steps!r}"
        )
