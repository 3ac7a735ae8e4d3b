"""Temperature schedules: their parameters, ranges and formulas.

The formulas use operators alone and a namespace `xp` of array functions, torch or
jax.numpy. A backend's class turns the step into an array and calls its formula.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

# An array of torch or JAX; arithmetic is all that the formulas need.
Array = Any
# The functions of torch or jax.numpy.
ArrayNamespace = Any

Number = int | float


def validate_positive(**numbers: Number) -> None:
    """Raise if one of some named numbers is not positive and finite.

    Raises:
        ValueError: With its name.

    Example:
        >>> validate_positive(start=0.5, end=0.0)
        Traceback (most recent call last):
        ValueError: end must be positive and finite, but is 0.0
    """
    for name, value in numbers.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, but is {value!r}")


def validate_hold(hold: Number) -> None:
    """Raise if a number of steps to hold is negative.

    Args:
        hold: Number of steps.

    Raises:
        ValueError: If it is.
    """
    if not hold >= 0:
        raise ValueError(f"hold must be at least 0, but is {hold!r}")


def no_count_message(reason: str) -> str:
    """Say that the step of training is needed, and that no optimizer counts it.

    Args:
        reason: Why it is needed.
    """
    return (
        f"{reason}, and no optimizer counts the steps: train with "
        "SVI(model, guide, schedules.count_steps(optim), ...)"
    )


@dataclass(frozen=True)
class AbstractConstant:
    """The parameter of a constant temperature."""

    value: Number

    def __post_init__(self) -> None:
        validate_positive(value=self.value)

    def temperature_at(self, step: Array, xp: ArrayNamespace) -> Array:
        """Return the temperature, with the shape of the step."""
        return xp.full_like(step, self.value)


@dataclass(frozen=True)
class AbstractLinear:
    """The parameters of a temperature that changes along a line."""

    start: Number
    end: Number
    num_steps: int
    hold: int = 0

    def __post_init__(self) -> None:
        validate_positive(start=self.start, end=self.end, num_steps=self.num_steps)
        validate_hold(self.hold)

    def temperature_at(self, step: Array, xp: ArrayNamespace) -> Array:
        """Return ``start + (end - start) * progress``."""
        progress = _progress(step, self.hold, self.num_steps, xp)
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class AbstractExponential:
    """The parameters of a temperature that changes by a constant factor."""

    start: Number
    floor: Number
    num_steps: int
    hold: int = 0

    def __post_init__(self) -> None:
        validate_positive(start=self.start, floor=self.floor, num_steps=self.num_steps)
        validate_hold(self.hold)

    def temperature_at(self, step: Array, xp: ArrayNamespace) -> Array:
        """Return ``start * (floor / start) ** progress``."""
        progress = _progress(step, self.hold, self.num_steps, xp)
        return self.start * (self.floor / self.start) ** progress


@dataclass(frozen=True)
class AbstractPiecewiseConstant:
    """The parameters of a temperature that changes at some steps."""

    values: Mapping[int, Number]

    def __post_init__(self) -> None:
        if 0 not in self.values:
            name = type(self).__name__
            raise ValueError(f"{name} needs a temperature for step 0, as in {{0: 1.0}}")
        by_name = {f"values[{step}]": value for step, value in self.values.items()}
        validate_positive(**by_name)

    def temperature_at(self, step: Array, xp: ArrayNamespace) -> Array:
        """Return the temperature of the last entry that is not after the step."""
        (_, initial), *later = sorted(self.values.items())
        temperature = xp.full_like(step, initial)
        for start, value in later:
            temperature = xp.where(step >= start, value, temperature)
        return temperature


@dataclass(frozen=True)
class AbstractDefault:
    """The parameter of a temperature that nobody has chosen.

    Attributes:
        value: Temperature outside of a warmup, > 0.
        warmup_start: Temperature at the first step of a warmup.
        warmup_end: Temperature at its last step.
    """

    value: Number
    warmup_start: ClassVar[Number] = 0.5
    warmup_end: ClassVar[Number] = 0.1

    def __post_init__(self) -> None:
        validate_positive(value=self.value)


@dataclass(frozen=True)
class AbstractLearned:
    """The parameters of a learned temperature."""

    start: Number
    name: str = "temperature"

    def __post_init__(self) -> None:
        validate_positive(start=self.start)


def _progress(step: Array, hold: int, num_steps: int, xp: ArrayNamespace) -> Array:
    """The part of the steps that is done, from 0 to 1."""
    return xp.clip((step - hold) / num_steps, 0.0, 1.0)
