"""Results that are known for every joint value of their draws.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_concrete.internals import Shape
from pyro_concrete.soft_index.abstract import AbstractSoft, Call
from pyro_concrete.soft_index.algebra import (
    LARGEST_SUPPORT,
    Draw,
    expectation,
    joint_name,
    merge_equal_values,
    number_of_states,
)
from pyro_concrete.soft_index.refusals import SharedDrawsError, refusal
from pyro_concrete.soft_index.trees import Argument
from pyro_concrete.soft_index.value import SoftIndex, SoftReal, soft_real

# More joint values than this are merged where they are equal, for a sum, ...
MERGE_FROM = 64


# ... and for other functions, as what is merged forgets which elements it was made of;
MERGE_OTHERS_FROM = 2**10


# but so many numbers are always merged, ...
MERGE_NUMBERS_FROM = 2**16


# ... and more joint values than this are too many.
MOST_JOINT_STATES = LARGEST_SUPPORT**2


def with_support(x: Argument) -> Argument:
    """Return a soft value with its support, and anything else unchanged."""
    return x.exact() if isinstance(x, AbstractSoft) else x


def with_supports_or_none(call: Call) -> Call | None:
    """Return a call with the supports of its arguments, or None if one has none.

    Raises:
        SharedDrawsError: If an argument combines values whose joint distribution is not
            known.
    """
    try:
        return call.with_arguments(with_support)
    except SharedDrawsError:
        raise
    except TypeError:
        return None


def average_over_draws(
    values: Tensor,
    draws: Sequence[Draw],
    shape: Shape,
    are_whole: Callable[[], bool] | None = None,
) -> SoftReal:
    """Return the average of floats that are known for every value of the draws."""
    average = expectation(values, draws)
    if average.shape != shape:
        average = average.expand(shape)
    site = joint_name(draws)
    real = soft_real(average, site, lambda: soft_integer(values, draws, shape))
    if are_whole is not None:
        real.are_whole = are_whole
    return real


def soft_integer(
    values: Tensor,
    draws: Sequence[Draw],
    shape: Shape,
    most: int = MERGE_FROM,
) -> SoftIndex:
    """Return a soft value; where its support has grown, equal values become one."""
    states = number_of_states(draws)
    if len(draws) > 1 and states > most and not values.requires_grad:
        distinct, draw = merge_equal_values(values, draws)
        if len(distinct) < min(states, LARGEST_SUPPORT + 1):
            return SoftIndex(distinct, (draw,), shape)
    return SoftIndex(values, draws, shape)


def check_size(draws: Sequence[Draw]) -> None:
    """Refuse an operation whose joint support would not fit."""
    states = number_of_states(draws)
    if states > MOST_JOINT_STATES:
        operation = f"an operation on {states} joint values"
        raise TypeError(refusal(joint_name(draws), operation))


def with_possible_values(x: Argument) -> Argument:
    """Return a soft value whose values of probability zero are other, possible ones."""
    if type(x) is not SoftIndex:
        return x
    states = x.states
    count = len(x.draws)
    for i, draw in enumerate(x.draws):
        probabilities = draw.positions(x.dim()).detach()
        probable = probabilities.argmax(0, keepdim=True)
        trailing = (1,) * (count - 1 - i)
        size = len(probabilities)
        leading = (1,) * i
        shape = torch.broadcast_shapes(
            states.shape, (*leading, size, *trailing, *probabilities.shape[1:])
        )
        states = states.expand(shape)
        indices = probable.reshape(*leading, 1, *trailing, *probable.shape[1:])
        indices = indices.expand(*shape[:i], 1, *shape[i + 1 :])
        impossible = (probabilities == 0).reshape(
            *leading, size, *trailing, *probabilities.shape[1:]
        )
        states = torch.where(impossible, states.gather(i, indices), states)
    return SoftIndex(states, x.draws, x.shape)


def largest_value(x: SoftIndex) -> int:
    """Return the largest value that some element can have."""
    if not x.numel():
        return -1
    has_mass = torch.ones((), dtype=torch.bool, device=x.device)
    count = len(x.draws)
    for i, draw in enumerate(x.draws):
        mass = draw.positions(x.dim()).detach() > 0
        trailing = (1,) * (count - 1 - i)
        has_mass = has_mass & mass.reshape(len(mass), *trailing, *mass.shape[1:])
    states, has_mass = torch.broadcast_tensors(x.states, has_mass)
    return int(states[has_mass].max())
