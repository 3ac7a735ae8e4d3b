"""What torch's functions do with soft values: matrix products and networks.

Networks receive the average. A product of two soft tensors is a sum of products.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_concrete.soft_index.abstract import (
    Call,
    Results,
    are_independent,
    is_soft,
    rule,
    site_names,
    soft_leaves,
    tensor_leaves,
)
from pyro_concrete.soft_index.averages import (
    averages_in_reals,
    deferred,
    is_integral,
    is_whole,
    numeric_leaves,
    result_dtype,
    softs_of_integers,
)
from pyro_concrete.soft_index.joint import apply_jointly, apply_to_all_values
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.value import SoftIndex, SoftNumber, soft_real

# A product of two soft matrices is exact up to this number of products of elements.
_MOST_PRODUCTS = 2**16


@rule("matmul mm bmm mv dot vdot inner vecdot linalg_vecdot rmatmul linalg_matmul")
def _product(call: Call) -> Results:
    a, b = call.args[:2]
    if call.name == "rmatmul":
        a, b = b, a
    if call.name in ("inner", "vecdot", "linalg_vecdot"):
        if _both_soft(a, b):
            return _dots(call, a, b)
        return _linear_map(call)
    if not _both_soft(a, b):
        return _linear_map(call, lambda: _products(a, b).exact())
    if _number_of_products(a, b) > _MOST_PRODUCTS:
        return _linear_map(call)
    return _products(a, b)


def _both_soft(a: Tensor, b: Tensor) -> bool:
    return is_soft(a) and is_soft(b)


def _dots(call: Call, a: Tensor, b: Tensor) -> Tensor:
    if call.name == "inner" and not (a.dim() and b.dim()):
        return a * b
    if call.name == "inner":
        columns = b.unsqueeze(-1) if b.dim() == 1 else b.mT
        return _products(a, columns).squeeze(-1)
    return (a * b).sum(-1)


def _products(a: Tensor, b: Tensor) -> Any:
    """A matrix product as sums of products, of which all values are known."""
    if b.dim() == 1:
        return (a * b).sum(-1)
    if a.dim() == 1:
        return (a.unsqueeze(-1) * b).sum(-2)
    return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2)


def _number_of_products(a: Tensor, b: Tensor) -> int:
    return a.numel() * (b.shape[-1] if b.dim() > 1 else 1)


@rule("outer ger")
def _outer(call: Call) -> Results:
    a, b = call.args
    return a.unsqueeze(-1) * b


@rule("""
    kron tensordot einsum addmm addmv addbmm baddbmm addr chain_matmul multi_dot
    linalg_multi_dot block_diag linear
""")
def _linear_map(call: Call, values: Callable[[], SoftIndex] | None = None) -> Results:
    operands = soft_leaves(call.operands)
    if len(operands) > 1 and not are_independent(operands):
        result = apply_jointly(call)
        if result is not None:
            return result
        if call.name != "block_diag" and any(map(is_whole, operands)):
            return apply_to_all_values(call)
    result = call.run(averages_in_reals(call))
    if not all(map(is_integral, numeric_leaves(call.operands))):
        return soft_real(result, site_names(operands))
    dtype = result_dtype(call)
    if dtype is torch.bool:
        return apply_to_all_values(call)
    if values is not None:
        values = deferred(values, *tensor_leaves(call.operands))
    if dtype.is_floating_point:
        return soft_real(result.to(dtype), call.sites, values)
    return SoftNumber(result, dtype, call.sites, values)


@rule("bilinear conv1d conv2d conv3d dropout")
def _network(call: Call) -> Results:
    if call.name == "dropout" and softs_of_integers(call.operands):
        raise TypeError(refusal(call.sites, "dropout of integers"))
    return soft_real(call.run(averages_in_reals(call)), call.sites)
