"""Temperature as a function of the step of training, counted by the optimiser.

A schedule is a callable from the step to the temperature, as in optax. Give it to
`relax` or `AutoConcrete` in the place of a number, and let the optimiser count:
``SVI(model, guide, counted(optim), elbo)``. The count is a parameter,
``temperature_step``, so that model and guide share it, and whoever saves the state of
training saves it, too.

Counterpart: ``numpyro_concrete.schedules``.
"""

import math
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from pyro.optim import PyroOptim

# Only the stack tells whether a program is being trained, and not evaluated.
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

STEP = "temperature_step"

# Optimisers that count, to tell a schedule that nobody moves.
_counting: weakref.WeakSet = weakref.WeakSet()


@dataclass(frozen=True)
class Constant:
    """The same temperature at every step.

    Args:
        value: Temperature, > 0.

    Raises:
        ValueError: If it is not positive.

    Example:
        >>> Constant(0.5)(1000)
        tensor(0.5000)

    Counterpart: :class:`numpyro_concrete.schedules.Constant`.
    """

    value: int | float

    def __post_init__(self) -> None:
        _check(value=self.value)

    def __call__(self, step: Tensor | int | float) -> Tensor:
        """Return the temperature at a step."""
        return torch.full_like(_steps(step), self.value)


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
        >>> Linear(1.0, 0.5, num_steps=100)(50)
        tensor(0.7500)

    Counterpart: :class:`numpyro_concrete.schedules.Linear`.
    """

    start: int | float
    end: int | float
    num_steps: int
    hold: int = 0

    def __post_init__(self) -> None:
        _check(start=self.start, end=self.end, num_steps=self.num_steps, hold=self.hold)

    def __call__(self, step: Tensor | int | float) -> Tensor:
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
        >>> Exponential(1.0, 0.25, num_steps=100)(50)
        tensor(0.5000)

    References:
        Jang, Gu, Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        sec. 4.1. https://arxiv.org/abs/1611.01144

    Counterpart: :class:`numpyro_concrete.schedules.Exponential`.
    """

    start: int | float
    floor: int | float
    num_steps: int
    hold: int = 0

    def __post_init__(self) -> None:
        _check(
            start=self.start, floor=self.floor, num_steps=self.num_steps, hold=self.hold
        )

    def __call__(self, step: Tensor | int | float) -> Tensor:
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
        >>> Steps({0: 1.0, 500: 0.5})(700)
        tensor(0.5000)

    Counterpart: :class:`numpyro_concrete.schedules.Steps`.
    """

    values: Mapping[int, int | float]

    def __post_init__(self) -> None:
        if 0 not in self.values:
            raise ValueError("Steps needs a temperature for step 0, as in {0: 1.0}")
        _check(**{f"values[{step}]": value for step, value in self.values.items()})

    def __call__(self, step: Tensor | int | float) -> Tensor:
        """Return the temperature at a step."""
        step = _steps(step)
        first, *later = sorted(self.values.items())
        value = torch.full_like(step, first[1])
        for start, temperature in later:
            value = torch.where(step >= start, temperature, value)
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
        >>> pyro.clear_param_store()
        >>> Learned(0.5)(0).item()
        0.5

    Counterpart: :class:`numpyro_concrete.schedules.Learned`.
    """

    start: int | float
    name: str = "temperature"

    def __post_init__(self) -> None:
        _check(start=self.start)

    def __call__(self, _: Tensor | int | float) -> Tensor:
        """Return the parameter, whatever the step."""
        start = torch.tensor(self.start)
        return pyro.param(self.name, start, constraint=constraints.positive)


class CountingOptim(PyroOptim):
    """The optimiser that `counted` returns."""

    def __init__(self, optim: PyroOptim) -> None:
        self.optim = optim
        _counting.add(self)

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Take a step of the optimiser, and count it."""
        count = _count()
        self.optim([p for p in params if p is not count], *args, **kwargs)
        with torch.no_grad():
            count += 1

    def __getattr__(self, name: str) -> Any:
        """Look up whatever else the optimiser has, such as `set_epoch`."""
        if name == "optim":
            raise AttributeError(name)
        return getattr(self.optim, name)

    def get_state(self) -> dict:
        """Return the state of the optimiser; the count is in the param store."""
        return self.optim.get_state()

    def set_state(self, state_dict: dict) -> None:
        """Set the state of the optimiser."""
        self.optim.set_state(state_dict)


def counted(optim: Any) -> CountingOptim:
    """Return an optimiser that counts its steps, for schedules of the temperature.

    The count is the parameter ``temperature_step`` in Pyro's param store: saved with
    it, restored with it, and zero again after `pyro.clear_param_store`. A training
    loop without Pyro's SVI counts by calling the result on no parameters.

    Args:
        optim: Any optimiser of Pyro.

    Raises:
        TypeError: If it is none.

    Example:
        >>> pyro.clear_param_store()
        >>> optim = counted(pyro.optim.Adam({"lr": 0.01}))
        >>> optim([])
        >>> pyro.param("temperature_step").item()
        1.0

    Counterpart: :func:`numpyro_concrete.schedules.counted`.
    """
    if not isinstance(optim, PyroOptim):
        raise TypeError(f"counted takes an optimiser of Pyro, not {optim!r}")
    return CountingOptim(optim)


def is_schedule(temperature: Any) -> bool:
    """Tell whether a temperature is a function of the step.

    Args:
        temperature: What was given as a temperature.

    Example:
        >>> is_schedule(0.5), is_schedule(Constant(0.5))
        (False, True)
    """
    return callable(temperature) and not isinstance(temperature, Tensor)


def at_this_step(temperature: Any) -> Any:
    """Return a temperature as it is now, in a running program.

    Args:
        temperature: Temperature, or a schedule.

    Raises:
        ValueError: If it is a schedule, the program is being trained, and nothing
            counts the steps.

    Example:
        >>> pyro.clear_param_store()
        >>> at_this_step(Linear(1.0, 0.5, num_steps=100))
        tensor(1.)
    """
    if not is_schedule(temperature):
        return temperature
    if isinstance(temperature, Learned):
        return temperature(0)
    if not _counting and any(getattr(x, "param_only", False) for x in _PYRO_STACK):
        raise ValueError(
            f"the temperature follows the schedule {temperature!r}, and no optimiser "
            "counts the steps: train with SVI(model, guide, "
            "schedules.counted(optim), ...)"
        )
    return temperature(pyro.param(STEP, torch.tensor(0.0)).detach())


def _count() -> Tensor:
    count: Any = pyro.get_param_store().setdefault(STEP, torch.tensor(0.0))
    return count.unconstrained()


def _steps(step: Tensor | int | float) -> Tensor:
    dtype = torch.get_default_dtype()
    return torch.as_tensor(step, dtype=dtype)


def _share(step: Tensor | int | float, num_steps: int, hold: int) -> Tensor:
    """The share of the way that is done, from 0 to 1."""
    return ((_steps(step) - hold) / num_steps).clamp(0.0, 1.0)


def _check(hold: int | float = 0, **numbers: int | float) -> None:
    for name, value in numbers.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, but is {value!r}")
    if not hold >= 0:
        raise ValueError(f"hold must be at least 0, but is {hold!r}")
