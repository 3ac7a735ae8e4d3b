"""What torch's functions do with soft values: extrema, sorting, and statistics.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""

from typing import Any

import torch
from torch import Tensor

from pyro_concrete.soft_index.abstract import Call, rule, soft_leaves
from pyro_concrete.soft_index.averages import (
    apply_to_averages,
    is_whole,
    softs_of_integers,
)
from pyro_concrete.soft_index.elementwise import elementwise
from pyro_concrete.soft_index.folds import fold, reduce_at_once
from pyro_concrete.soft_index.joint import apply_jointly, apply_to_all_values
from pyro_concrete.soft_index.reductions import _of_type_of
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.value import exact_or_none


@rule("max min amax amin")
def _extremum(call: Call) -> Any:
    two = len(call.args) == 2 and isinstance(call.args[1], Tensor)
    if two or isinstance(call.kwargs.get("other"), Tensor):
        return elementwise(call._replace(name=call.name + "imum"))
    if call.name in ("max", "min") and (call.kwargs or call.args[1:]):
        return apply_to_all_values(call)
    x, dim, keepdim = call.arguments("input", "dim", "keepdim", dim=(), keepdim=False)
    exact_x = exact_or_none(x)
    if exact_x is None:
        raise TypeError(refusal(call.sites, f"{call.name} over positions"))
    is_largest = "max" in call.name
    at_once = reduce_at_once(
        torch.amax if is_largest else torch.amin, exact_x, dim, keepdim
    )
    if at_once is not None:
        return _of_type_of(x, at_once)
    result = apply_jointly(call)
    if result is not None:
        return result
    function = torch.maximum if is_largest else torch.minimum
    result = fold(function, exact_x, dim, keepdim)
    if exact_or_none(result) is None:
        raise TypeError(refusal(call.sites, f"{call.name} over positions"))
    return _of_type_of(x, result)


@rule("""
    argmax argmin aminmax sort argsort msort topk kthvalue median nanmedian mode cummax
    cummin quantile nanquantile histc
""")
def _ordered(call: Call) -> Any:
    return apply_to_all_values(call)


@rule("""
    softmax log_softmax softmin logsumexp special_logsumexp special_softmax
    special_log_softmax logcumsumexp var std var_mean std_mean norm linalg_norm
    linalg_vector_norm normalize dist cdist pdist cosine_similarity pairwise_distance
    renorm cov corrcoef
""")
def _smooth(call: Call) -> Any:
    """Apply a smooth function to averages of reals; of whole numbers, to all values."""
    if softs_of_integers(call.operands):
        raise TypeError(refusal(call.sites, f"{call.name} of integers"))
    if any(map(is_whole, soft_leaves(call.operands))):
        return apply_to_all_values(call)
    return apply_to_averages(call)
