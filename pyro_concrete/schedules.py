"""Temperature as a function of the step of training, counted by the optimizer.

A schedule is a callable from the step to the temperature, as in optax. Give it to
`relax` or `AutoConcrete` in place of a number, and let the optimizer count the steps:
``SVI(model, guide, count_steps(optim), elbo)``. The count is a parameter,
``temperature_step``, so that model and guide share it, and it is saved with the state
of training.

Counterpart: ``numpyro_concrete.schedules``.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor

from concrete_core.schedules import (
    AbstractConstant,
    AbstractDefault,
    AbstractExponential,
    AbstractLearned,
    AbstractLinear,
    AbstractPiecewiseConstant,
    no_count_message,
)
from concrete_core.types import Temperature
from pyro_concrete.internals import active_handlers

# Name of the parameter that counts the steps.
STEP_PARAM = "temperature_step"

# Optimizers that count steps: without one, a schedule would never move in training.
_counting_optimizers: weakref.WeakSet = weakref.WeakSet()


class Constant(AbstractConstant):
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

    def __call__(self, step: Tensor | int | float) -> Tensor:
        """Return the temperature at a step."""
        return self.temperature_at(_as_tensor(step), torch)


class Linear(AbstractLinear):
    """A temperature that changes along a line.

    Args:
        start: Initial temperature, > 0.
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

    def __call__(self, step: Tensor | int | float) -> Tensor:
        """Return the temperature at a step."""
        return self.temperature_at(_as_tensor(step), torch)


class Exponential(AbstractExponential):
    r"""A temperature that changes by a constant factor at every step.

    .. math:: t = \max(\text{floor}, \text{start} \cdot e^{-r \cdot \text{step}})

    Args:
        start: Initial temperature, > 0.
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

    def __call__(self, step: Tensor | int | float) -> Tensor:
        """Return the temperature at a step."""
        return self.temperature_at(_as_tensor(step), torch)


class PiecewiseConstant(AbstractPiecewiseConstant):
    """A temperature that changes at some steps, and is constant in between.

    Args:
        values: Temperatures, > 0, by the step at which each begins. The first step is
            0.

    Raises:
        ValueError: If there is no temperature for step 0, or one is not positive.

    Example:
        >>> PiecewiseConstant({0: 1.0, 500: 0.5})(700)
        tensor(0.5000)

    Counterpart: :class:`numpyro_concrete.schedules.PiecewiseConstant`.
    """

    def __call__(self, step: Tensor | int | float) -> Tensor:
        """Return the temperature at a step."""
        return self.temperature_at(_as_tensor(step), torch)


class Learned(AbstractLearned):
    """A temperature that is trained with the other parameters.

    Args:
        start: Initial temperature, > 0.
        name: Name of the parameter. Programs with the same name share it.

    Raises:
        ValueError: If the initial temperature is not positive.

    Example:
        >>> pyro.clear_param_store()
        >>> Learned(0.5)(0).item()
        0.5

    Counterpart: :class:`numpyro_concrete.schedules.Learned`.
    """

    def __call__(self, _: Tensor | int | float) -> Tensor:
        """Return the parameter, whatever the step."""
        start = torch.tensor(self.start)
        return pyro.param(self.name, start, constraint=constraints.positive)


class Default(AbstractDefault):
    """The temperature of soft samples that are given none.

    It is `value`, but falls from 1/2 to 0.1 over the relaxed steps of `RelaxedWarmup`,
    by a constant factor at every step, since the objective knows how many there are.

    Args:
        value: Temperature outside of a warmup, > 0.

    Raises:
        ValueError: If it is not positive.

    Example:
        >>> Default(0.2)(1000)
        0.2

    Counterpart: :class:`numpyro_concrete.schedules.Default`.
    """

    def __call__(self, _: Tensor | int | float) -> Temperature:
        """Return the temperature, which the objective sets in a warmup."""
        for handler in reversed(active_handlers()):
            if isinstance(handler, WarmupMessenger):
                if handler.temperature is None:
                    break
                return current_temperature(handler.temperature)
        return self.value


class WarmupMessenger(Messenger):
    """Set the temperature of `Default` schedules, in the steps of a warmup.

    Args:
        temperature: Temperature, or a schedule; None for that outside of a warmup.
    """

    def __init__(self, temperature: Temperature | None) -> None:
        super().__init__()
        self.temperature = temperature


class CountingOptim(PyroOptim):
    """The optimizer that `count_steps` returns."""

    def __init__(self, optim: PyroOptim) -> None:
        self.optim = optim
        _counting_optimizers.add(self)

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Take a step of the optimizer, and count it."""
        count = _count()
        self.optim([p for p in params if p is not count], *args, **kwargs)
        with torch.no_grad():
            count += 1

    def __getattr__(self, name: str) -> Any:
        """Look up whatever else the optimizer has, such as `set_epoch`."""
        if name == "optim":
            raise AttributeError(name)
        return getattr(self.optim, name)

    def get_state(self) -> dict:
        """Return the state of the optimizer; the count is in the param store."""
        return self.optim.get_state()

    def set_state(self, state_dict: dict) -> None:
        """Set the state of the optimizer."""
        self.optim.set_state(state_dict)


def count_steps(optim: Any) -> CountingOptim:
    """Return an optimizer that counts its steps, for schedules of the temperature.

    The count is the parameter ``temperature_step`` in Pyro's param store: saved with
    it, restored with it, and zero again after `pyro.clear_param_store`. A training
    loop without Pyro's SVI counts by calling the result on no parameters.

    Args:
        optim: Any optimizer of Pyro.

    Raises:
        TypeError: If it is something else.

    Example:
        >>> pyro.clear_param_store()
        >>> optim = count_steps(pyro.optim.Adam({"lr": 0.01}))
        >>> optim([])
        >>> pyro.param("temperature_step").item()
        1.0

    Counterpart: :func:`numpyro_concrete.schedules.count_steps`.
    """
    if not isinstance(optim, PyroOptim):
        raise TypeError(f"count_steps takes an optimizer of Pyro, not {optim!r}")
    return CountingOptim(optim)


def is_schedule(temperature: Temperature) -> bool:
    """Tell whether a temperature is a function of the step.

    Args:
        temperature: Temperature, or a schedule.

    Example:
        >>> is_schedule(0.5), is_schedule(Constant(0.5))
        (False, True)
    """
    return callable(temperature) and not isinstance(temperature, Tensor)


def current_temperature(temperature: Temperature) -> Temperature:
    """Return the temperature at the current step, in a running program.

    Args:
        temperature: Temperature, or a schedule.

    Raises:
        ValueError: If it is a schedule, the program is being trained, and nothing
            counts the steps.

    Example:
        >>> pyro.clear_param_store()
        >>> current_temperature(Linear(1.0, 0.5, num_steps=100))
        tensor(1.)
    """
    if not is_schedule(temperature):
        return temperature
    if isinstance(temperature, Default | Learned):
        return temperature(0)
    return temperature(
        current_step(f"the temperature follows the schedule {temperature!r}")
    )


def current_step(reason: str) -> Tensor:
    """Return the number of steps that the optimizer has counted.

    Shapes:
        result: (), without gradient.

    Args:
        reason: Why it is needed, for the error.

    Raises:
        ValueError: If parameters are being trained and nothing counts the steps.

    Example:
        >>> pyro.clear_param_store()
        >>> current_step("the temperature changes")
        tensor(0.)
    """
    if _is_training() and not _counting_optimizers:
        raise ValueError(no_count_message(reason))
    return pyro.param(STEP_PARAM, torch.tensor(0.0)).detach()


def _is_training() -> bool:
    """Whether an ELBO is being computed: it traces parameters alone first."""
    return any(getattr(handler, "param_only", False) for handler in active_handlers())


def _count() -> Tensor:
    count: Any = pyro.get_param_store().setdefault(STEP_PARAM, torch.tensor(0.0))
    return count.unconstrained()


def _as_tensor(step: Tensor | int | float) -> Tensor:
    return torch.as_tensor(step, dtype=torch.get_default_dtype())
