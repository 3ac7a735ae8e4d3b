"""Functions of several positions, applied to all joint values of their elements.

Counterpart: ``numpyro_concrete.soft_index.averages``.
"""

import math
from typing import Any

from torch import Tensor

from pyro_concrete.soft_index.abstract import Call, is_soft, soft_leaves
from pyro_concrete.soft_index.algebra import draws_of_elements, states_at_joint_values
from pyro_concrete.soft_index.averages import is_whole, numeric_leaves
from pyro_concrete.soft_index.elements import any_shared_across_positions
from pyro_concrete.soft_index.refusals import LostJointError, refusal
from pyro_concrete.soft_index.states import (
    average_over_draws,
    soft_integer,
    with_support,
)
from pyro_concrete.soft_index.trees import over_support

# A function of several positions is exact up to this number of joint values, ...
_MOST_JOINT_VALUES = 2**12


# ... and of numbers for all of them.
_MOST_NUMBERS = 2**20


def apply_jointly(call: Call) -> Any:
    """Apply a function to all joint values of the elements that it depends on.

    The result is None where these are unknown, or too many.
    """
    try:
        return _apply_jointly(call)
    except LostJointError:
        return None


def _apply_jointly(call: Call) -> Any:
    try:
        known = call.with_arguments(with_support)
    except LostJointError:
        raise
    except TypeError:
        return None
    operands = soft_leaves(known.operands)
    draws = [draw for x in operands for draw in x.draws]
    elements = draws_of_elements(draws, _MOST_JOINT_VALUES)
    if elements is None:
        return None
    supports = [len(d.probabilities) for d in elements.values()]
    if math.prod(supports) * sum(x.numel() for x in operands) > _MOST_NUMBERS:
        return None

    def of_values(*values: Tensor) -> Any:
        remaining = iter(values)
        return known.run(lambda x: next(remaining) if is_soft(x) else x)

    values = [
        states_at_joint_values(x.states, x.draws, x.shape, elements) for x in operands
    ]
    results = over_support(of_values)(*values)

    def averages(values: Tensor) -> Any:
        shape = values.shape[1:]
        if not elements:
            return values[0]
        values = values.unflatten(0, supports)
        several = [*elements.values()]
        if values.is_floating_point():

            def whole() -> bool:
                are_whole = all(map(is_whole, numeric_leaves(call.operands)))
                return are_whole and bool((values == values.round()).all())

            return average_over_draws(values, several, shape, whole)
        return soft_integer(values, several, shape)

    if isinstance(results, Tensor):
        return averages(results)
    if type(results) in (tuple, list):
        return tuple(averages(x) for x in results)
    return type(results)([averages(x) for x in results])  # a named tuple of torch


def apply_to_all_values(call: Call) -> Any:
    """Apply a function to all joint values, or refuse it."""
    result = _apply_jointly(call)
    if result is None:
        raise TypeError(refusal(call.sites, f"{call.name} of so many joint values"))
    return result


def shares_a_draw(x: Any) -> bool:
    """Tell whether several positions of a soft value depend on one element."""
    if not is_soft(x):
        return False
    exact = x.exact()
    elements = [draw.elements for draw in exact.draws]
    return any_shared_across_positions(elements, x.shape)
