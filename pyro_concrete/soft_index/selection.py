"""What torch's functions do with soft values: selection and concatenation.

Where several tensors are put together, each element of the result keeps its values, its
probabilities and its identity.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_concrete.soft_index.abstract import (
    Call,
    Results,
    rule,
    soft_leaves,
    tensor_leaves,
)
from pyro_concrete.soft_index.algebra import expectation, merged_draw, union
from pyro_concrete.soft_index.averages import apply_linear, are_whole, is_integral
from pyro_concrete.soft_index.elementwise import elementwise
from pyro_concrete.soft_index.joining import join_tensors
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.states import with_support
from pyro_concrete.soft_index.trees import Argument, joint_shape
from pyro_concrete.soft_index.value import SoftIndex, SoftNumber, soft_real


@rule("where")
def _where(call: Call) -> Tensor:
    condition, *branches = (*call.args, *call.kwargs.values())
    if len(branches) != 2:
        raise TypeError(refusal(call.sites, "where with one argument"))
    if call.func is Tensor.where:
        branches = [condition, branches[1]]
        condition = (*call.args, *call.kwargs.values())[1]
    call = Call("where", torch.where, (condition, *branches), {})
    if isinstance(condition, SoftNumber):
        condition = condition.exact()
    if isinstance(condition, SoftIndex):
        return _where_soft(call)
    return _where_plain(call)


def _where_plain(call: Call) -> Tensor:
    """Choose among the elements of soft branches by a plain condition."""
    condition, *branches = call.args
    have_supports = _have_integer_supports(branches)
    if have_supports and len(union(x.draws for x in soft_leaves(branches))) == 1:
        return elementwise(call)
    shape = joint_shape(*(x.shape for x in tensor_leaves(call.args)))

    # The condition takes part, so that the result has its shape.
    def choose(first: Argument, second: Argument) -> Tensor:
        return torch.where(condition, first, second)

    def values() -> SoftIndex:
        return join_tensors(choose, [with_support(x) for x in branches], shape)

    return values() if have_supports else apply_linear(call, values)


def _have_integer_supports(tensors: Sequence[Argument]) -> bool:
    """Tell whether all tensors hold integers, and the soft ones have supports."""
    have_averages = any(isinstance(x, SoftNumber) for x in tensors)
    return not have_averages and all(map(is_integral, tensors))


def _where_soft(call: Call) -> Tensor:
    condition, *branches = call.args
    has_many_values = len(condition.draws) > 1 or condition.states.numel() > 2
    if soft_leaves(branches) or all(map(is_integral, branches)) or not has_many_values:
        return elementwise(call)
    # The branches take part twice, not once for every value of the condition.
    chosen = elementwise(call._replace(args=(_two_valued(condition), *branches)))
    return soft_real(
        chosen.number,
        chosen.site,
        lambda: elementwise(call).exact(),
        functools.partial(are_whole, call),
    )


def _two_valued(condition: SoftIndex) -> SoftIndex:
    """Return a boolean as a draw of two values."""
    dtype = condition.draws[0].probabilities.dtype
    true = expectation(condition.states.to(dtype), condition.draws)
    probabilities = torch.stack([1 - true, true])
    truths = torch.tensor([False, True], device=condition.device)
    return SoftIndex(
        truths, (merged_draw(probabilities, condition.draws),), condition.shape
    )


@rule("masked_fill")
def _masked_fill(call: Call) -> Results:
    x, mask, value = call.arguments("input", "mask", "value")
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    return torch.where(mask, value, x)


@rule("triu tril")
def _triangle(call: Call) -> Results:
    x, *options = call.args
    is_kept = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device)
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    return torch.where(call.func(is_kept, *options, **call.kwargs), x, zero)


@rule("diag diag_embed diagflat")
def _diagonal(call: Call) -> Results:
    x, *options = call.args
    if call.name == "diag" and x.dim() == 2:
        return torch.diagonal(x, *options, **call.kwargs)
    # Where each element comes from; the first place is that of the zeros.
    sources = torch.arange(1, x.numel() + 1, device=x.device).reshape(x.shape)
    zero = torch.zeros(1, dtype=x.dtype, device=x.device)
    return torch.cat([zero, x.reshape(-1)])[call.func(sources, *options, **call.kwargs)]


@rule("""
    stack cat concat concatenate hstack vstack row_stack column_stack dstack
    cartesian_prod
""")
def _concatenated(call: Call) -> Results:
    parts = call.args[0] if isinstance(call.args[0], tuple | list) else call.args
    options = call.args[1:] if parts is call.args[0] else ()

    def join(*several: Argument) -> Tensor:
        several = several if parts is call.args else (several,)
        return call.func(*several, *options, **call.kwargs)

    def values() -> SoftIndex:
        return join_tensors(join, [with_support(x) for x in parts])

    return values() if _have_integer_supports(parts) else apply_linear(call, values)
