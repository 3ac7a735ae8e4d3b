"""Functions of several positions, applied to all joint values of their elements.

Counterpart: ``numpyro_concrete.soft_index.averages``.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pyro_concrete.soft_index.abstract import (
    AbstractSoft,
    Call,
    Results,
    each_result,
    is_soft,
    soft_leaves,
)
from pyro_concrete.soft_index.algebra import (
    Draw,
    draws_of_elements,
    number_of_states,
    states_at_joint_values,
)
from pyro_concrete.soft_index.averages import are_whole
from pyro_concrete.soft_index.elements import any_shared_across_positions
from pyro_concrete.soft_index.refusals import SharedDrawsError, refusal
from pyro_concrete.soft_index.states import (
    average_over_draws,
    soft_integer,
    with_supports_or_none,
)
from pyro_concrete.soft_index.trees import over_support

# A function of several positions is exact up to this number of joint values, ...
_MOST_JOINT_VALUES = 2**12


# ... and of numbers for all of them.
_MOST_NUMBERS = 2**20


def apply_jointly(call: Call) -> Results | None:
    """Apply a function to all joint values of the elements that it depends on.

    The result is None where these are unknown, or too many.
    """
    try:
        return _apply_jointly(call)
    except SharedDrawsError:
        return None


def _apply_jointly(call: Call) -> Results | None:
    exact_call = with_supports_or_none(call)
    if exact_call is None:
        return None
    operands = soft_leaves(exact_call.operands)
    draws = [draw for x in operands for draw in x.draws]
    draw_of_element = draws_of_elements(draws, _MOST_JOINT_VALUES)
    if draw_of_element is None:
        return None
    elements = [*draw_of_element.values()]
    numbers = number_of_states(elements) * sum(x.numel() for x in operands)
    if numbers > _MOST_NUMBERS:
        return None

    def of_values(*values: Tensor) -> Any:
        replacements = iter(values)
        return exact_call.run(lambda x: next(replacements) if is_soft(x) else x)

    values = [
        states_at_joint_values(x.states, x.draws, x.shape, draw_of_element)
        for x in operands
    ]
    are_operands_whole = functools.partial(are_whole, call)
    return each_result(
        lambda x: _over_elements(x, elements, are_operands_whole),
        over_support(of_values)(*values),
    )


def _over_elements(
    values: Tensor, elements: Sequence[Draw], are_operands_whole: Callable[[], bool]
) -> Tensor:
    """Return a soft value from its values at the joint values of elements, flat."""
    if not elements:
        return values[0]
    shape = values.shape[1:]
    values = values.unflatten(0, [len(draw.probabilities) for draw in elements])
    if not values.is_floating_point():
        return soft_integer(values, elements, shape)

    def are_values_whole() -> bool:
        return are_operands_whole() and bool((values == values.round()).all())

    return average_over_draws(values, elements, shape, are_values_whole)


def apply_to_all_values(call: Call) -> Results:
    """Apply a function to all joint values of the elements that it depends on.

    Raises:
        TypeError: Where these are unknown, or too many.
    """
    result = _apply_jointly(call)
    if result is None:
        raise TypeError(refusal(call.sites, f"{call.name} of so many joint values"))
    return result


def shares_a_draw(x: Tensor) -> bool:
    """Tell whether several positions of a soft value depend on one element."""
    if not isinstance(x, AbstractSoft):
        return False
    elements = [draw.elements for draw in x.exact().draws]
    return any_shared_across_positions(elements, x.shape)
