"""Functions that are applied to the averages of soft values.

A linear function needs no more than averages: its values are computed later, where they
are needed. Networks receive averages. What would compare or round one is an error.

Counterpart: ``numpyro_concrete.soft_index.averages``.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_concrete.internals import number_of_writes
from pyro_concrete.ops.precision import can_be_read
from pyro_concrete.soft_index.abstract import (
    RULES,
    AbstractSoft,
    AbstractSoftInteger,
    Call,
    each_result,
    is_soft,
    rule,
    site_names,
    soft_leaves,
    tensor_leaves,
)
from pyro_concrete.soft_index.function_names import (
    BENDING,
    CHECKS,
    CLOSED,
    COMPARING,
    DIVISION,
    ROUNDING,
)
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.trees import Argument, Tree, leaves
from pyro_concrete.soft_index.value import (
    SoftIndex,
    SoftNumber,
    SoftReal,
    average,
    plain,
    soft_real,
)


@rule("_without_rule")
def _without_rule(call: Call) -> Any:
    """Apply a function to averages of floats; refuse it for integers."""
    out_of_place = call.name.removesuffix("_")
    if out_of_place != call.name and out_of_place in RULES:
        return RULES["_in_place"](call._replace(name=out_of_place))
    if any(isinstance(x, AbstractSoftInteger) for x in soft_leaves(call.operands)):
        raise TypeError(refusal(call.sites, call.name))
    return apply_to_averages(call)


def apply_to_averages(call: Call) -> Any:
    """Apply a function to averages: of its results, no values are known."""
    site = call.sites

    def guarded(x: Argument) -> Argument:
        if not isinstance(x, Tensor):
            return x
        if x.is_floating_point():
            return soft_real(x, site)
        return SoftNumber(x, x.dtype, site)

    return each_result(guarded, call.run(average))


def apply_without_values(call: Call) -> Tensor:
    """Apply arithmetic to averages.

    Raises:
        TypeError: If the function would round or compare an average of whole numbers.
    """
    if call.name in CHECKS:
        return call.run(plain)  # of the averages, for what is not finite
    operands = soft_leaves(call.operands)
    if _needs_values(call, operands) and not _of_truths(call):
        raise TypeError(refusal(call.sites, call.name))
    if call.name in BENDING and any(map(is_whole, operands)):
        raise TypeError(refusal(call.sites, f"{call.name} of so many values"))
    if call.name in CLOSED and all(map(is_integral, numeric_leaves(call.operands))):
        return mean_of_integers(call.run(plain), call.operands)
    return apply_to_averages(call)


def _needs_values(call: Call, operands: Sequence[AbstractSoft]) -> bool:
    if call.name in ROUNDING:
        return True
    of_integers = any(isinstance(x, AbstractSoftInteger) for x in operands)
    return of_integers and call.name in COMPARING


def _of_truths(call: Call) -> bool:
    """Whether a function combines comparisons of averages, as validation does.

    Their result is refused where it is used.
    """
    operands = tensor_leaves(call.operands)
    return all(x.dtype is torch.bool for x in operands) and all(
        isinstance(x, SoftNumber) for x in soft_leaves(operands)
    )


def apply_linear(call: Call, values: Callable[[], SoftIndex]) -> Tensor:
    """Apply a linear function to averages; the values are computed when needed."""
    result = call.run(plain)
    values = deferred(values, *tensor_leaves(call.operands))
    if all(map(is_integral, numeric_leaves(call.operands))):
        return mean_of_integers(result, call.operands, values)
    if softs_of_integers(call.operands):
        result = result.to(result_dtype(call))
    if call.name in DIVISION:
        return soft_real(result, call.sites, values)
    return soft_real(result, call.sites, values, functools.partial(are_whole, call))


def deferred(
    values: Callable[[], SoftIndex], *operands: Tensor
) -> Callable[[], SoftIndex]:
    """Return a function that computes values, unless what they depend on has changed.

    Args:
        values: Computes them from the operands.
        operands: Tensors, soft and plain.
    """
    marks = [(x, _number_of_writes(x)) for x in operands]

    def unless_changed() -> SoftIndex:
        if any(_number_of_writes(x) != mark for x, mark in marks):
            operation = "a function of a tensor that was changed in place"
            raise RuntimeError(refusal(site_names(operands), operation))
        return values()

    return unless_changed


def _number_of_writes(x: Tensor) -> int:
    if isinstance(x, AbstractSoft):
        return x.writes
    if x.is_inference():
        return 0
    return number_of_writes(x)


def mean_of_integers(
    result: Tensor, operands: Tree, values: Callable[[], SoftIndex] | None = None
) -> Tensor:
    """Return an average that stands for integers in the discrete program."""
    types = [x.dtype for x in tensor_leaves(operands)]
    dtype = functools.reduce(torch.promote_types, types)
    if dtype is torch.bool:
        dtype = torch.int64
    if dtype.is_floating_point:
        is_known_whole = functools.partial(hold_whole_numbers, operands)
        return soft_real(result.to(dtype), site_names(operands), values, is_known_whole)
    return SoftNumber(result, dtype, site_names(operands), values)


def hold_whole_numbers(operands: Tree) -> bool:
    """Tell whether all operands hold whole numbers that are no parameters."""
    return all(map(is_whole, numeric_leaves(operands)))


def are_whole(call: Call) -> bool:
    """Tell whether all operands of a call hold whole numbers."""
    return hold_whole_numbers(call.operands)


def is_whole(x: Argument) -> bool:
    """Tell whether an operand holds whole numbers that are no parameters."""
    if isinstance(x, SoftReal):
        return x.are_whole()
    if is_integral(x):
        return True
    if not isinstance(x, Tensor):
        return x.is_integer()
    return not x.requires_grad and can_be_read(x) and bool((x == x.round()).all())


def is_integral(x: Argument) -> bool:
    """Tell whether an operand holds integers, whatever its type."""
    if isinstance(x, AbstractSoftInteger):
        return True
    if isinstance(x, Tensor):
        return not x.is_floating_point()
    return isinstance(x, int)


def numeric_leaves(tree: Tree) -> list[Argument]:
    """Return the tensors and Python's numbers among arguments."""
    return [x for x in leaves(tree) if isinstance(x, Tensor | int | float)]


def softs_of_integers(operands: Tree) -> list[AbstractSoft]:
    """Return the soft values whose type is not a floating one."""
    return [x for x in soft_leaves(operands) if not x.dtype.is_floating_point]


def result_dtype(call: Call) -> torch.dtype:
    """Return the type of the discrete program's result."""

    def of_one_element(x: Argument) -> Argument:
        is_number = isinstance(x, Tensor) and not x.dim() and not is_soft(x)
        if not isinstance(x, Tensor) or is_number:
            return x
        return torch.ones((1,) * x.dim(), dtype=x.dtype, device=x.device)

    return call.run(of_one_element).dtype


def averages_in_reals(call: Call) -> Callable:
    """Return what makes operands averages, and integers beside them floats."""
    dtype = plain(soft_leaves(call.operands)[0]).dtype

    def in_reals(x: Argument) -> Argument:
        x = plain(x)
        is_integer = isinstance(x, Tensor) and not x.is_floating_point()
        if is_integer:
            return x.to(dtype)
        return x

    return in_reals
