"""What torch's functions do with soft values: sums, products and linear maps.

A sum of soft integers is known by its mean, and the probabilities of its values are
computed when something needs the integers. Networks see the average.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_concrete.soft_index.algebra import (
    assigned,
    draws_of_elements,
)
from pyro_concrete.soft_index.elements import any_shared_across_positions
from pyro_concrete.soft_index.folds import (
    accumulated,
    accumulated_at_once,
    check_number_of_sums,
    dimensions,
    folded,
    reduced_at_once,
)
from pyro_concrete.soft_index.refusals import LostJointError, refusal
from pyro_concrete.soft_index.rules import (
    averaged,
    elementwise,
    exact,
    integral,
    is_whole,
    later,
    numbers,
    result_dtype,
    soft_integer,
    softs_of_integers,
)
from pyro_concrete.soft_index.trees import over_support
from pyro_concrete.soft_index.value import (
    Call,
    SoftIndex,
    SoftNumber,
    SoftReal,
    are_independent,
    average,
    exact_or_none,
    is_soft,
    of_averages,
    plain,
    rule,
    sites,
    soft_real,
    softs,
    tensors,
)

# A product of two soft matrices is exact up to this number of products of elements.
_MOST_PRODUCTS = 2**16
# A function of several positions is exact up to this number of joint values, ...
_MOST_JOINT_VALUES = 2**12
# ... and of numbers for all of them.
_MOST_NUMBERS = 2**20


# --- all values at once -------------------------------------------------------------


def jointly(call: Call) -> Any:
    """Apply a function to all joint values of the elements that it depends on.

    The result is None where these are unknown, or too many.
    """
    try:
        return _of_joint_values(call)
    except LostJointError:
        return None


def _of_joint_values(call: Call) -> Any:
    try:
        known = call.with_arguments(exact)
    except LostJointError:
        raise
    except TypeError:
        return None
    operands = softs(known.operands)
    draws = [draw for x in operands for draw in x.draws]
    elements = draws_of_elements(draws, _MOST_JOINT_VALUES)
    if elements is None:
        return None
    supports = [len(d.weights) for d in elements.values()]
    if math.prod(supports) * sum(x.numel() for x in operands) > _MOST_NUMBERS:
        return None

    def of_values(*values: Tensor) -> Any:
        remaining = iter(values)
        return known.on(lambda x: next(remaining) if is_soft(x) else x)

    values = [assigned(x.states, x.draws, x.shape, elements) for x in operands]
    results = over_support(of_values)(*values)

    def averages(values: Tensor) -> Any:
        shape = values.shape[1:]
        if not elements:
            return values[0]
        values = values.unflatten(0, supports)
        several = [*elements.values()]
        if values.is_floating_point():

            def whole() -> bool:
                are_whole = all(map(is_whole, numbers(call.operands)))
                return are_whole and bool((values == values.round()).all())

            return averaged(values, several, shape, whole)
        return soft_integer(values, several, shape)

    if isinstance(results, Tensor):
        return averages(results)
    if type(results) in (tuple, list):
        return tuple(averages(x) for x in results)
    return type(results)([averages(x) for x in results])  # a named tuple of torch


def of_all_values(call: Call) -> Any:
    """Apply a function to all joint values, or refuse it."""
    result = _of_joint_values(call)
    if result is None:
        raise TypeError(refusal(call.sites, f"{call.name} of so many joint values"))
    return result


# --- sums ---------------------------------------------------------------------------


@rule("sum nansum")
def _sum(call: Call) -> Any:
    x, dim, keepdim, dtype = call.arguments(
        "input", "dim", "keepdim", "dtype", dim=None, keepdim=False, dtype=None
    )
    if "axis" in call.kwargs:
        dim = call.kwargs["axis"]

    def values() -> SoftIndex:
        exact_x = x.exact()
        check_number_of_sums(exact_x, dim)
        terms = _for_sums(exact_x, dtype)
        at_once = reduced_at_once(torch.sum, terms, dim, keepdim)
        if at_once is not None:
            return at_once
        return folded(torch.add, terms, dim, keepdim).exact()

    return _reduced(call, x, values)


@rule("mean")
def _mean(call: Call) -> Any:
    x, dim = call.arguments("input", "dim", dim=None)
    result = call.on(_in_reals(call))
    count = math.prod(x.shape[d] for d in dimensions(dim, x.dim()))
    given = {
        **call.kwargs,
        **dict(zip(("dim", "keepdim"), call.args[1:], strict=False)),
    }
    if given.pop("dtype", None) is None and not x.dtype.is_floating_point:
        result = result.to(torch.get_default_dtype())
    values = later(lambda: (torch.sum(x, **given) / count).exact(), x)
    return soft_real(result, call.sites, values)


@rule("cumsum")
def _cumsum(call: Call) -> Any:
    x, dim, dtype = call.arguments("input", "dim", "dtype", dtype=None)

    def values() -> SoftIndex:
        exact_x = x.exact()
        check_number_of_sums(exact_x, dim)
        terms = _for_sums(exact_x, dtype)
        at_once = accumulated_at_once(torch.cumsum, terms, dim)
        if at_once is not None:
            return at_once
        return accumulated(torch.add, terms, dim).exact()

    return _reduced(call, x, values)


def _for_sums(x: SoftIndex, dtype: torch.dtype | None) -> Any:
    """Return what is added up: integers and truths as int64."""
    if dtype is None:
        dtype = x.dtype if x.is_floating_point() else torch.int64
    return x.to(dtype)


def _reduced(call: Call, x: Any, values: Callable[[], SoftIndex]) -> Any:
    if isinstance(x, SoftNumber) and x.dtype is torch.bool:
        raise TypeError(refusal(x.site, call.name))
    result = call.on(plain)
    values = later(values, x)
    if x.dtype.is_floating_point and result.dtype is x.dtype:
        return soft_real(result, x.site, values, functools.partial(is_whole, x))
    dtype = result_dtype(call)
    if dtype.is_floating_point:
        whole = functools.partial(is_whole, x)
        return soft_real(result.to(dtype), x.site, values, whole)
    return SoftNumber(result, dtype, x.site, values)


@rule("prod cumprod")
def _prod(call: Call) -> Any:
    x, dim, keepdim, dtype = call.arguments(
        "input", "dim", "keepdim", "dtype", dim=None, keepdim=False, dtype=None
    )
    exact_x = exact_or_none(x)
    if exact_x is not None and x.numel():
        factors = _for_sums(exact_x, dtype)
        if call.name == "prod":
            result = _product_of_elements(factors, dim, keepdim)
        else:
            result = accumulated_at_once(torch.cumprod, factors, dim)
            if result is None:
                result = accumulated(torch.mul, factors, dim)
        if exact_or_none(result) is not None:
            return _of_type_of(x, result)

    def values() -> SoftIndex:
        raise TypeError(refusal(call.sites, f"a function of {call.name}"))

    return _reduced(call, x, values)


def _of_type_of(x: Any, result: Any) -> Any:
    """Return values that were computed from those of a float as a float again."""
    if not isinstance(x, SoftReal) or not isinstance(result, SoftIndex):
        return result
    return soft_real(plain(result), result.site, lambda: result, x.whole)


def _product_of_elements(x: SoftIndex, dim: Any, keepdim: bool) -> Any:
    def product(y: Tensor, dims: list[int]) -> Tensor:
        for d in reversed(dims):
            y = y.prod(d)
        return y

    at_once = reduced_at_once(product, x, dim, keepdim)
    if at_once is not None:
        return at_once
    return folded(torch.mul, x, dim, keepdim)


@rule("diff")
def _diff(call: Call) -> Any:
    x, n, dim, prepend, append = call.arguments(
        "input", "n", "dim", "prepend", "append", n=1, dim=-1, prepend=None, append=None
    )
    parts = [part for part in (prepend, x, append) if part is not None]
    x = torch.cat(parts, dim) if len(parts) > 1 else x
    for _ in range(n):
        length = max(x.shape[dim] - 1, 0)
        later = x.narrow(dim, min(1, x.shape[dim]), length)
        earlier = x.narrow(dim, 0, length)
        x = later != earlier if x.dtype is torch.bool else later - earlier
    return x


@rule("trace")
def _trace(call: Call) -> Any:
    return torch.diagonal(call.args[0]).sum()


@rule("count_nonzero")
def _count_nonzero(call: Call) -> Any:
    x, dim = call.arguments("input", "dim", dim=None)
    return (x != 0).sum(dim)


# --- truths -------------------------------------------------------------------------


@rule("all any")
def _all_or_any(call: Call) -> Any:
    x, dim, keepdim = call.arguments("input", "dim", "keepdim", dim=None, keepdim=False)
    if isinstance(x, SoftNumber) and x.dtype is torch.bool:
        return of_averages(call)  # of a validation
    truths = x.exact().bool()
    states = truths.states.flatten(0, len(truths.draws) - 1)
    if bool((states == states[:1]).all()):
        return call.func(states[0].expand(x.shape), *call.args[1:], **call.kwargs)
    at_once = reduced_at_once(
        lambda y, dims: call.func(y, dim=tuple(dims)), truths, dim, keepdim
    )
    if at_once is not None:
        return at_once
    joint = jointly(call.with_arguments(lambda y: truths if y is x else y))
    if joint is not None:
        return joint
    function = torch.logical_and if call.name == "all" else torch.logical_or
    return folded(function, truths, dim, keepdim)


@rule("_is_all_true")
def _is_valid(call: Call) -> Tensor:
    """Whether arguments of a distribution are valid for some value of each element.

    Only torch's distributions call this function.
    """
    (x,) = call.args
    if not isinstance(x, SoftIndex):
        return call.on(average)
    possible = x.states
    for i in reversed(range(len(x.draws))):
        has_mass = x.draws[i].positions(x.dim()).detach() > 0
        possible = (possible & has_mass).any(i)
    return possible.all()


def share_a_draw(x: Any) -> bool:
    """Tell whether several positions of a soft value depend on one element."""
    if not is_soft(x):
        return False
    exact = x.exact()
    elements = [draw.elements for draw in exact.draws]
    return any_shared_across_positions(elements, x.shape)


# --- order --------------------------------------------------------------------------


@rule("max min amax amin")
def _extremum(call: Call) -> Any:
    two = len(call.args) == 2 and isinstance(call.args[1], Tensor)
    if two or isinstance(call.kwargs.get("other"), Tensor):
        return elementwise(call._replace(name=call.name + "imum"))
    if call.name in ("max", "min") and (call.kwargs or call.args[1:]):
        return of_all_values(call)
    x, dim, keepdim = call.arguments("input", "dim", "keepdim", dim=(), keepdim=False)
    exact_x = exact_or_none(x)
    if exact_x is None:
        raise TypeError(refusal(call.sites, f"{call.name} over positions"))
    is_largest = "max" in call.name
    at_once = reduced_at_once(
        torch.amax if is_largest else torch.amin, exact_x, dim, keepdim
    )
    if at_once is not None:
        return _of_type_of(x, at_once)
    result = jointly(call)
    if result is not None:
        return result
    function = torch.maximum if is_largest else torch.minimum
    result = folded(function, exact_x, dim, keepdim)
    if exact_or_none(result) is None:
        raise TypeError(refusal(call.sites, f"{call.name} over positions"))
    return _of_type_of(x, result)


@rule("""
    argmax argmin aminmax sort argsort msort topk kthvalue median nanmedian mode cummax
    cummin quantile nanquantile histc
""")
def _ordered(call: Call) -> Any:
    return of_all_values(call)


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
    if any(map(is_whole, softs(call.operands))):
        return of_all_values(call)
    return of_averages(call)


# --- linear maps --------------------------------------------------------------------


@rule("matmul mm bmm mv dot vdot inner vecdot linalg_vecdot rmatmul linalg_matmul")
def _product(call: Call) -> Any:
    a, b = call.args[:2]
    if call.name == "rmatmul":
        a, b = b, a
    if call.name in ("inner", "vecdot", "linalg_vecdot"):
        return _linear_map(call) if not _both_soft(a, b) else _dots(call, a, b)
    if not _both_soft(a, b):
        return _linear_map(call, lambda: _products(a, b).exact())
    if _number_of_products(a, b) > _MOST_PRODUCTS:
        return _linear_map(call)
    return _products(a, b)


def _both_soft(a: Any, b: Any) -> bool:
    return is_soft(a) and is_soft(b)


def _dots(call: Call, a: Any, b: Any) -> Any:
    if call.name == "inner" and not (a.dim() and b.dim()):
        return a * b
    if call.name == "inner":
        return _products(a, b.unsqueeze(-1) if b.dim() == 1 else b.mT).squeeze(-1)
    return (a * b).sum(-1)


def _products(a: Any, b: Any) -> Any:
    """A matrix product as sums of products, of which all values are known."""
    if b.dim() == 1:
        return (a * b).sum(-1)
    if a.dim() == 1:
        return (a.unsqueeze(-1) * b).sum(-2)
    return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2)


def _number_of_products(a: Any, b: Any) -> int:
    return a.numel() * (b.shape[-1] if b.dim() > 1 else 1)


@rule("outer ger")
def _outer(call: Call) -> Any:
    a, b = call.args
    return a.unsqueeze(-1) * b


@rule("""
    kron tensordot einsum addmm addmv addbmm baddbmm addr chain_matmul multi_dot
    linalg_multi_dot block_diag linear
""")
def _linear_map(call: Call, values: Callable[[], SoftIndex] | None = None) -> Any:
    operands = softs(call.operands)
    if len(operands) > 1 and not are_independent(operands):
        result = jointly(call)
        if result is not None:
            return result
        if call.name != "block_diag" and any(map(is_whole, operands)):
            return of_all_values(call)
    result = call.on(_in_reals(call))
    if not all(map(integral, numbers(call.operands))):
        return soft_real(result, sites(operands))
    dtype = result_dtype(call)
    if dtype is torch.bool:
        return of_all_values(call)
    values = None if values is None else later(values, *tensors(call.operands))
    if dtype.is_floating_point:
        return soft_real(result.to(dtype), call.sites, values)
    return SoftNumber(result, dtype, call.sites, values)


@rule("bilinear conv1d conv2d conv3d dropout")
def _network(call: Call) -> Any:
    if call.name == "dropout" and softs_of_integers(call.operands):
        raise TypeError(refusal(call.sites, "dropout of integers"))
    return soft_real(call.on(_in_reals(call)), call.sites)


@rule("copy_")
def _copied(call: Call) -> Any:
    target = call.args[0]
    if is_soft(target) or not target.is_floating_point():
        raise TypeError(refusal(call.sites, "writing it to integers"))
    return call.on(_in_reals(call))


@rule("""
    binary_cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss
    smooth_l1_loss huber_loss
""")
def _loss(call: Call) -> Any:
    names = ("input", "target", "weight", "reduction")
    if call.args[(3 if call.name.startswith("binary") else 2) :]:
        raise TypeError(refusal(call.sites, f"{call.name} in this form"))
    # torch has the first one twice, once with numbers for the names of reductions.
    has_numbers = call.func is torch.binary_cross_entropy_with_logits
    none = 0 if has_numbers else "none"
    score, target, weight, reduction = call.arguments(
        *names, weight=None, reduction=0 if has_numbers else "mean"
    )
    old = ("size_average", "reduce")
    options = {k: v for k, v in call.kwargs.items() if k not in names + old}

    def of_each(score: Tensor, target: Tensor) -> Tensor:
        score, target = torch.broadcast_tensors(score, target)
        if call.name.startswith("binary"):
            target = target.to(score.dtype)
        return call.func(score, target, reduction=none, **options)

    if softs((score, target)):
        losses = elementwise(Call(call.name, of_each, (score, target), {}))
    else:
        losses = of_each(score, target)
    losses = losses if weight is None else losses * weight
    if reduction in ("none", 0):
        return losses
    return losses.sum() if reduction in ("sum", 2) else losses.mean()


def _in_reals(call: Call) -> Callable:
    """Return what makes operands averages, and integers beside them floats."""
    dtype = plain(softs(call.operands)[0]).dtype

    def in_reals(x: Any) -> Any:
        x = plain(x)
        whole = isinstance(x, Tensor) and not x.is_floating_point()
        return x.to(dtype) if whole else x

    return in_reals
