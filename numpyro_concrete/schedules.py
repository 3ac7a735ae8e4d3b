"""Temperature as a function of the step of training, counted by the optimizer.

A schedule is a callable from the step to the temperature, as in optax. Give it to
`relax` or `AutoConcrete` in place of a number, and let the optimizer count the steps:
``SVI(model, guide, count_steps(optim), elbo)``. The count is a parameter,
``temperature_step``, so that model and guide share it, and it is saved with the state
of training.

Counterpart: ``pyro_concrete.schedules``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpyro
from jax import Array
from jax.example_libraries.optimizers import Optimizer
from jax.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.optim import Minimize, optax_to_numpyro
from numpyro.primitives import Messenger

from concrete_core.schedules import (
    AbstractConstant,
    AbstractDefault,
    AbstractExponential,
    AbstractLearned,
    AbstractLinear,
    AbstractPiecewiseConstant,
    no_count_message,
)
from concrete_core.types import Params, Temperature
from numpyro_concrete.internals import NumPyroOptim, active_handlers

# A step of training, and whatever the optimizer keeps.
OptimState = Any

# Name of the parameter that counts the steps.
STEP_PARAM = "temperature_step"


class Constant(AbstractConstant):
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

    def __call__(self, step: ArrayLike) -> Array:
        """Return the temperature at a step."""
        return self.temperature_at(_as_array(step), jnp)


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
        >>> float(Linear(1.0, 0.5, num_steps=100)(50))
        0.75

    Counterpart: :class:`pyro_concrete.schedules.Linear`.
    """

    def __call__(self, step: ArrayLike) -> Array:
        """Return the temperature at a step."""
        return self.temperature_at(_as_array(step), jnp)


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
        >>> float(Exponential(1.0, 0.25, num_steps=100)(50))
        0.5

    References:
        Jang, Gu, Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        sec. 4.1. https://arxiv.org/abs/1611.01144

    Counterpart: :class:`pyro_concrete.schedules.Exponential`.
    """

    def __call__(self, step: ArrayLike) -> Array:
        """Return the temperature at a step."""
        return self.temperature_at(_as_array(step), jnp)


class PiecewiseConstant(AbstractPiecewiseConstant):
    """A temperature that changes at some steps, and is constant in between.

    Args:
        values: Temperatures, > 0, by the step at which each begins. The first step is
            0.

    Raises:
        ValueError: If there is no temperature for step 0, or one is not positive.

    Example:
        >>> float(PiecewiseConstant({0: 1.0, 500: 0.5})(700))
        0.5

    Counterpart: :class:`pyro_concrete.schedules.PiecewiseConstant`.
    """

    def __call__(self, step: ArrayLike) -> Array:
        """Return the temperature at a step."""
        return self.temperature_at(_as_array(step), jnp)


class Learned(AbstractLearned):
    """A temperature that is trained with the other parameters.

    Args:
        start: Initial temperature, > 0.
        name: Name of the parameter. Programs with the same name share it.

    Raises:
        ValueError: If the initial temperature is not positive.

    Example:
        >>> float(Learned(0.5)(0))
        0.5

    Counterpart: :class:`pyro_concrete.schedules.Learned`.
    """

    def __call__(self, _: ArrayLike) -> Array:
        """Return the parameter, whatever the step."""
        start = jnp.asarray(self.start, float)
        value: Any = numpyro.param(self.name, start, constraint=constraints.positive)
        return jnp.asarray(value)


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

    Counterpart: :class:`pyro_concrete.schedules.Default`.
    """

    def __call__(self, _: ArrayLike) -> Temperature:
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


@dataclass(frozen=True)
class ResolvedSchedule:
    """A schedule that is fixed at the current step, as needed inside of a scan."""

    schedule: Callable
    value: Temperature

    def __call__(self, _: ArrayLike) -> Temperature:
        """Return the temperature, whatever the step."""
        return self.value


class CountingOptim(NumPyroOptim):
    """The optimizer that `count_steps` returns."""

    def __init__(self, optim: NumPyroOptim) -> None:
        self.optim = optim

    def init(self, params: Params) -> OptimState:
        """Return the first state; the count is the optimizer's own."""
        return self.optim.init(_without_count(params))

    def get_params(self, state: OptimState) -> Params:
        """Return the parameters, and the count among them."""
        # A vector: a count that some other optimizer holds is a scalar.
        count = jnp.asarray(state[0], float).reshape(1)
        return {**self.optim.get_params(state), STEP_PARAM: count}

    def update(
        self, g: Params, state: OptimState, value: ArrayLike | None = None
    ) -> OptimState:
        """Take a step of the optimizer."""
        return self.optim.update(_without_count(g), state, value=value)


def count_steps(optim: Any) -> CountingOptim:
    """Return an optimizer that counts its steps, for schedules of the temperature.

    The count is the parameter ``temperature_step``, which is a part of the state of
    SVI: saved with it, restored with it.

    Args:
        optim: Any optimizer that NumPyro's SVI takes: its own, or one of optax.

    Raises:
        TypeError: If it is something else, or `Minimize`, which takes many steps at
            once.

    Example:
        >>> optim = count_steps(numpyro.optim.Adam(0.01))
        >>> optim.get_params(optim.init({}))["temperature_step"].shape
        (1,)

    Counterpart: :func:`pyro_concrete.schedules.count_steps`.
    """
    if isinstance(optim, Minimize):
        raise TypeError(
            "count_steps cannot count the steps of Minimize, which takes many at once"
        )
    if isinstance(optim, NumPyroOptim):
        return CountingOptim(optim)
    if isinstance(optim, Optimizer):
        return CountingOptim(NumPyroOptim(lambda *args: args, *optim))
    if hasattr(optim, "init") and hasattr(optim, "update"):
        return CountingOptim(optax_to_numpyro(optim))
    raise TypeError(
        f"count_steps takes an optimizer of NumPyro or optax, not {optim!r}"
    )


def is_schedule(temperature: Temperature) -> bool:
    """Tell whether a temperature is a function of the step.

    Args:
        temperature: Temperature, or a schedule.

    Example:
        >>> is_schedule(0.5), is_schedule(Constant(0.5))
        (False, True)
    """
    return callable(temperature)


def current_temperature(temperature: Temperature) -> Temperature:
    """Return the temperature at the current step, in a running program.

    Args:
        temperature: Temperature, or a schedule.

    Raises:
        ValueError: If it is a schedule, the program is being trained, and nothing
            counts the steps.

    Example:
        >>> float(current_temperature(Linear(1.0, 0.5, num_steps=100)))
        1.0
    """
    if not is_schedule(temperature):
        return temperature
    if isinstance(temperature, Default | Learned | ResolvedSchedule):
        return temperature(0)
    # Before training it is this Python number, which an optimizer makes an array.
    count: Any = numpyro.param(STEP_PARAM, 0.0)
    if isinstance(count, float):
        return temperature(count)
    reason = f"the temperature follows the schedule {temperature!r}"
    return temperature(current_step({STEP_PARAM: count}, reason))


def current_step(params: Params, reason: str) -> Array:
    """Return the number of steps that the optimizer has counted.

    Shapes:
        result: ().

    Args:
        params: Parameters, as an optimizer returns them.
        reason: Why the step is needed, for the error.

    Raises:
        ValueError: If no optimizer counts the steps.

    Example:
        >>> optim = count_steps(numpyro.optim.Adam(0.01))
        >>> float(current_step(optim.get_params(optim.init({})), "of a change"))
        0.0
    """
    count = params.get(STEP_PARAM)
    # An optimizer that does not count holds the parameter as a scalar.
    if count is None or jnp.ndim(count) == 0:
        raise ValueError(no_count_message(reason))
    return jnp.reshape(count, ())


def resolve_schedules(temperature: Temperature) -> Temperature:
    """Return a temperature, with every schedule fixed at the current step.

    Args:
        temperature: Temperature, schedule, or a mapping of them by site.

    Example:
        >>> resolve_schedules({"z": 0.5, "w": Constant(1.0)})["w"].value.item()
        1.0
    """
    if isinstance(temperature, Mapping):
        return {name: resolve_schedules(value) for name, value in temperature.items()}
    if is_schedule(temperature):
        return ResolvedSchedule(temperature, current_temperature(temperature))
    return temperature


def _without_count(params: Params) -> Params:
    return {name: param for name, param in params.items() if name != STEP_PARAM}


def _as_array(step: ArrayLike) -> Array:
    return jnp.asarray(step, float)
