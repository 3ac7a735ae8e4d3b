"""Temperature as a function of the step of training, counted by the optimiser.

A schedule is a callable from the step to the temperature, as in optax. Give it to
`relax` or `AutoConcrete` in the place of a number, and let the optimiser count:
``SVI(model, guide, counted(optim), elbo)``. The count is a parameter,
``temperature_step``, so that model and guide share it, and whoever saves the state of
training saves it, too.

Counterpart: ``pyro_concrete.schedules``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpyro
from jax import Array
from jax.example_libraries.optimizers import Optimizer
from jax.typing import ArrayLike
from numpyro.distributions import constraints

# SVI takes an optimiser for NumPyro's own by its private base class.
from numpyro.optim import Minimize, _NumPyroOptim, optax_to_numpyro

STEP = "temperature_step"


@dataclass(frozen=True)
class Constant:
    """The same temperature at every step.

    Args:
        value: Temperature, > 0.

    Raises:
        ValueError: If it is not positive.

    Example:
        >>> float(Constant(0.5)(1000))
        0.5

    Counterpart: :class:`pyro_concrete.schedules.Constant`.
    """

    value: int | float

    def __post_init__(self) -> None:
        _check(value=self.value)

    def __call__(self, step: ArrayLike) -> Array:
        """Return the temperature at a step."""
        return jnp.full_like(_steps(step), self.value)


@dataclass(frozen=True)
class Linear:
    """From one temperature to another along a line.

    Args:
        start: Temperature at first, > 0.
        end: Temperature after `num_steps`, and from then on, > 0.
        num_steps: Steps from one to the other, >= 1.
        hold: Steps at `start` before that, >= 0.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> float(Linear(1.0, 0.5, num_steps=100)(50))
        0.75

    Counterpart: :class:`pyro_concrete.schedules.Linear`.
    """

    start: int | float
    end: int | float
    num_steps: int
    hold: int = 0

    def __post_init__(self) -> None:
        _check(start=self.start, end=self.end, num_steps=self.num_steps, hold=self.hold)

    def __call__(self, step: ArrayLike) -> Array:
        """Return the temperature at a step."""
        share = _share(step, self.num_steps, self.hold)
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True)
class Exponential:
    r"""From one temperature to another by the same factor at every step.

    .. math:: t = \max(\text{floor}, \text{start} \cdot e^{-r \cdot \text{step}})

    Args:
        start: Temperature at first, > 0.
        floor: Temperature after `num_steps`, and from then on, > 0.
        num_steps: Steps from one to the other, >= 1.
        hold: Steps at `start` before that, >= 0.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> float(Exponential(1.0, 0.25, num_steps=100)(50))
        0.5

    References:
        Jang, Gu, Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        sec. 4.1. https://arxiv.org/abs/1611.01144

    Counterpart: :class:`pyro_concrete.schedules.Exponential`.
    """

    start: int | float
    floor: int | float
    num_steps: int
    hold: int = 0

    def __post_init__(self) -> None:
        _check(
            start=self.start, floor=self.floor, num_steps=self.num_steps, hold=self.hold
        )

    def __call__(self, step: ArrayLike) -> Array:
        """Return the temperature at a step."""
        share = _share(step, self.num_steps, self.hold)
        return self.start * (self.floor / self.start) ** share


@dataclass(frozen=True)
class Steps:
    """One temperature after the other.

    Args:
        values: Temperatures > 0, by the step from which on they hold. The first step
            is 0.

    Raises:
        ValueError: If there is no temperature for step 0, or one is not positive.

    Example:
        >>> float(Steps({0: 1.0, 500: 0.5})(700))
        0.5

    Counterpart: :class:`pyro_concrete.schedules.Steps`.
    """

    values: Mapping[int, int | float]

    def __post_init__(self) -> None:
        if 0 not in self.values:
            raise ValueError("Steps needs a temperature for step 0, as in {0: 1.0}")
        _check(**{f"values[{step}]": value for step, value in self.values.items()})

    def __call__(self, step: ArrayLike) -> Array:
        """Return the temperature at a step."""
        step = _steps(step)
        first, *later = sorted(self.values.items())
        value = jnp.full_like(step, first[1])
        for start, temperature in later:
            value = jnp.where(step >= start, temperature, value)
        return value


@dataclass(frozen=True)
class Learned:
    """A temperature that is trained with the other parameters.

    Args:
        start: Temperature at first, > 0.
        name: Name of the parameter. Programs with the same name share it.

    Raises:
        ValueError: If it does not start positive.

    Example:
        >>> float(Learned(0.5)(0))
        0.5

    Counterpart: :class:`pyro_concrete.schedules.Learned`.
    """

    start: int | float
    name: str = "temperature"

    def __post_init__(self) -> None:
        _check(start=self.start)

    def __call__(self, _: ArrayLike) -> Array:
        """Return the parameter, whatever the step."""
        start = jnp.asarray(self.start, float)
        value: Any = numpyro.param(self.name, start, constraint=constraints.positive)
        return jnp.asarray(value)


@dataclass(frozen=True)
class Resolved:
    """A schedule whose temperature at this step is known, as inside of a scan."""

    schedule: Callable
    value: Any

    def __call__(self, _: ArrayLike) -> Any:
        """Return the temperature, whatever the step."""
        return self.value


class CountingOptim(_NumPyroOptim):
    """The optimiser that `counted` returns."""

    def __init__(self, optim: _NumPyroOptim) -> None:
        self.optim = optim

    def init(self, params: dict[str, Any]) -> Any:
        """Return the first state; the count is the optimiser's own."""
        return self.optim.init(_without_count(params))

    def get_params(self, state: Any) -> dict[str, Any]:
        """Return the parameters, and the count among them."""
        # A vector: a count that some other optimiser holds is a scalar.
        count = jnp.asarray(state[0], float).reshape(1)
        return {**self.optim.get_params(state), STEP: count}

    def update(self, g: dict[str, Any], state: Any, value: Any = None) -> Any:
        """Take a step of the optimiser."""
        return self.optim.update(_without_count(g), state, value=value)


def counted(optim: Any) -> CountingOptim:
    """Return an optimiser that counts its steps, for schedules of the temperature.

    The count is the parameter ``temperature_step``, which is a part of the state of
    SVI: saved with it, restored with it.

    Args:
        optim: Any optimiser that NumPyro's SVI takes: its own, or one of optax.

    Raises:
        TypeError: If it is none, or `Minimize`, which takes many steps in one.

    Example:
        >>> optim = counted(numpyro.optim.Adam(0.01))
        >>> optim.get_params(optim.init({}))["temperature_step"].shape
        (1,)

    Counterpart: :func:`pyro_concrete.schedules.counted`.
    """
    if isinstance(optim, Minimize):
        raise TypeError("Minimize takes many steps in one, which nobody can count")
    if isinstance(optim, _NumPyroOptim):
        return CountingOptim(optim)
    if isinstance(optim, Optimizer):
        return CountingOptim(_NumPyroOptim(lambda *args: args, *optim))
    if hasattr(optim, "init") and hasattr(optim, "update"):
        return CountingOptim(optax_to_numpyro(optim))
    raise TypeError(f"counted takes an optimiser of NumPyro or optax, not {optim!r}")


def is_schedule(temperature: Any) -> bool:
    """Tell whether a temperature is a function of the step.

    Args:
        temperature: What was given as a temperature.

    Example:
        >>> is_schedule(0.5), is_schedule(Constant(0.5))
        (False, True)
    """
    return callable(temperature)


def at_this_step(temperature: Any) -> Any:
    """Return a temperature as it is now, in a running program.

    Args:
        temperature: Temperature, or a schedule.

    Raises:
        ValueError: If it is a schedule, the program is being trained, and nothing
            counts the steps.

    Example:
        >>> float(at_this_step(Linear(1.0, 0.5, num_steps=100)))
        1.0
    """
    if not is_schedule(temperature):
        return temperature
    if isinstance(temperature, Learned | Resolved):
        return temperature(0)
    # Before training it is this Python number, which an optimiser makes an array.
    count: Any = numpyro.param(STEP, 0.0)
    if not isinstance(count, float) and jnp.ndim(count) == 0:
        raise ValueError(
            f"the temperature follows the schedule {temperature!r}, and no optimiser "
            "counts the steps: train with SVI(model, guide, "
            "schedules.counted(optim), ...)"
        )
    return temperature(jnp.reshape(count, ()))


def resolved(temperature: Any) -> Any:
    """Return the settings of a program with every schedule at this step.

    Args:
        temperature: Temperature, schedule, or a mapping of them by site.

    Example:
        >>> resolved({"z": 0.5, "w": Constant(1.0)})["w"].value.item()
        1.0
    """
    if isinstance(temperature, Mapping):
        return {name: resolved(x) for name, x in temperature.items()}
    if is_schedule(temperature):
        return Resolved(temperature, at_this_step(temperature))
    return temperature


def _without_count(params: dict[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in params.items() if name != STEP}


def _steps(step: ArrayLike) -> Array:
    return jnp.asarray(step, float)


def _share(step: ArrayLike, num_steps: int, hold: int) -> Array:
    """The share of the way that is done, from 0 to 1."""
    return jnp.clip((_steps(step) - hold) / num_steps, 0.0, 1.0)


def _check(hold: int | float = 0, **numbers: int | float) -> None:
    for name, value in numbers.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, but is {value!r}")
    if not hold >= 0:
        raise ValueError(f"hold must be at least 0, but is {hold!r}")
