"""What a warmup is given, and how it ends by default."""

# A step of an unbiased finish by local expectations takes at most this many runs.
MOST_LOCAL_RUNS = 10


def validate_warmup(num_steps: int) -> None:
    """Raise an error if a warmup has a negative number of steps.

    Raises:
        ValueError: If it has.

    Example:
        >>> validate_warmup(0)
    """
    if not num_steps >= 0:
        raise ValueError(
            f"num_steps of the warmup must be at least 0, but is {num_steps!r}"
        )
