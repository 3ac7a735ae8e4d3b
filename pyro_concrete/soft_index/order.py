"""What torch's functions do with soft values: extrema, sorting, and statistics.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_concrete.soft_index.abstract import Call, Results, rule, soft_leaves
from pyro_concrete.soft_index.averages import (
    apply_to_averages,
    is_whole,
    softs_of_integers,
)
from pyro_concrete.soft_index.elementwise import elementwise
from pyro_concrete.soft_index.folds import fold, reduce_at_once
from pyro_concrete.soft_index.joint import apply_jointly, apply_to_all_values
from pyro_concrete.soft_index.reductions import of_type_of
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.value import exact_or_none


@rule("max min amax amin")
def _extremum(call: Call) -> Results:
    two = len(call.args) == 2 and isinstance(call.args[1], Tensor)
    if two or isinstance(call.kwargs.get("other"), Tensor):
        return elementwise(call._replace(name=call.name + "imum"))
    if call.name in ("max", "min") and (call.kwargs or call.args[1:]):
        return apply_to_all_values(call)
    return _extremum_over_positions(call)


def _extremum_over_positions(call: Call) -> Results:
    x, dim, keepdim = call.arguments("input", "dim", "keepdim", dim=(), keepdim=False)
    exact_x = exact_or_none(x)
    if exact_x is None:
        raise TypeError(refusal(call.sites, f"{call.name} over positions"))
    extremum = _LARGEST if "max" in call.name else _SMALLEST
    at_once = reduce_at_once(extremum.along, exact_x, dim, keepdim)
    if at_once is not None:
        return of_type_of(x, at_once)
    result = apply_jointly(call)
    if result is not None:
        return result
    result = fold(extremum.of_two, exact_x, dim, keepdim)
    if exact_or_none(result) is None:
        raise TypeError(refusal(call.sites, f"{call.name} over positions"))
    return of_type_of(x, result)


class _Extremum(NamedTuple):
    """The functions for an extremum along dimensions, and of two tensors."""

    along: Callable[[Tensor, list[int]], Tensor]
    of_two: Callable[[Tensor, Tensor], Tensor]


_LARGEST = _Extremum(Tensor.amax, torch.maximum)
_SMALLEST = _Extremum(Tensor.amin, torch.minimum)


@rule("""
    argmax argmin aminmax sort argsort msort topk kthvalue median nanmedian mode cummax
    cummin quantile nanquantile histc
""")
def _ordered(call: Call) -> Results:
    return apply_to_all_values(call)


@rule("""
    softmax log_softmax softmin logsumexp special_logsumexp special_softmax
    special_log_softmax logcumsumexp var std var_mean std_mean norm linalg_norm
    linalg_vector_norm normalize dist cdist pdist cosine_similarity pairwise_distance
    renorm cov corrcoef
""")
def _smooth(call: Call) -> Results:
    """Apply a smooth function to averages of reals; of whole numbers, to all values."""
    if softs_of_integers(call.operands):
        raise TypeError(refusal(call.sites, f"{call.name} of integers"))
    if any(map(is_whole, soft_leaves(call.operands))):
        return apply_to_all_values(call)
    return apply_to_averages(call)
