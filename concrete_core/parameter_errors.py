"""The errors of parameters of a distribution, in the same words for both packages.

Each function returns the exception for the caller to raise.
"""

from collections.abc import Sequence
from typing import Any


def temperature_error(temperature: Any, site: str) -> ValueError:
    """Return the error of a temperature that is not positive and finite.

    Args:
        temperature: The temperature, for the message.
        site: Name of the sample site, or an empty string.

    Example:
        >>> str(temperature_error(0.0, "z")).split(",")[0]
        "temperature at site 'z' must be positive and finite"
    """
    location = f" at site {site!r}" if site else ""
    return ValueError(
        f"temperature{location} must be positive and finite, but is {temperature!r}; "
        "2/3 is a good first choice"
    )


def broadcast_error(
    temperature_shape: Sequence[int], batch_shape: Sequence[int]
) -> ValueError:
    """Return the error of a temperature that does not broadcast with the batch."""
    return ValueError(
        f"temperature of shape {tuple(temperature_shape)} does not broadcast with "
        f"the batch shape {tuple(batch_shape)}"
    )


def one_parameter_error() -> ValueError:
    """Return the error of a distribution with both parameters, or with neither."""
    return ValueError("give exactly one of probs and logits")


def num_classes_error(name: str, shape: Sequence[int], dim_word: str) -> ValueError:
    """Return the error of a parameter with fewer than two classes.

    Args:
        name: The distribution.
        shape: Shape of the parameter.
        dim_word: The backend's word for a dimension of an array.
    """
    return ValueError(
        f"a {name} needs two classes or more along the last {dim_word} of its "
        f"parameter, whose shape is {tuple(shape)}"
    )


def probs_error(name: str, upper: float) -> ValueError:
    """Return the error of probabilities outside of their range.

    Args:
        name: The distribution.
        upper: The largest number allowed.
    """
    return ValueError(f"{name} got probs outside [0, {upper:g}]")


def temperature_ratio_error(max_ratio: float) -> NotImplementedError:
    """Return the error of a KL whose temperatures are too far apart.

    The ELBOs of both backends catch it, and score a sample instead.

    Args:
        max_ratio: The largest ratio of two temperatures for which the KL is exact.
    """
    return NotImplementedError(
        "the KL of two Concretes is exact where no temperature is more than "
        f"{max_ratio} times the other"
    )
