"""What torch's functions do with soft values: sums, products of elements, and truths.

A sum of soft integers is known by its mean, and the probabilities of its values are
computed when something needs the integers.

Counterpart: ``numpyro_concrete.soft_index.sums``.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from pyro_concrete.soft_index.abstract import Call, Dims, Results, rule
from pyro_concrete.soft_index.averages import (
    apply_to_averages,
    averages_in_reals,
    deferred,
    is_whole,
    result_dtype,
)
from pyro_concrete.soft_index.folds import (
    accumulate,
    accumulate_at_once,
    check_number_of_sums,
    dimensions,
    fold,
    reduce_at_once,
)
from pyro_concrete.soft_index.joint import apply_jointly
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.value import (
    SoftIndex,
    SoftNumber,
    SoftReal,
    average,
    exact_or_none,
    plain,
    soft_real,
)


@rule("sum nansum")
def _sum(call: Call) -> Results:
    x, dim, keepdim, dtype = call.arguments(
        "input", "dim", "keepdim", "dtype", dim=None, keepdim=False, dtype=None
    )
    if "axis" in call.kwargs:
        dim = call.kwargs["axis"]

    def values() -> SoftIndex:
        exact_x = x.exact()
        check_number_of_sums(exact_x, dim)
        terms = _for_sums(exact_x, dtype)
        at_once = reduce_at_once(torch.sum, terms, dim, keepdim)
        if at_once is not None:
            return at_once
        return fold(torch.add, terms, dim, keepdim).exact()

    return _reduced(call, x, values)


@rule("mean")
def _mean(call: Call) -> Results:
    x, dim = call.arguments("input", "dim", dim=None)
    result = call.run(averages_in_reals(call))
    count = math.prod(x.shape[d] for d in dimensions(dim, x.dim()))
    options = {
        **call.kwargs,
        **dict(zip(("dim", "keepdim"), call.args[1:], strict=False)),
    }
    if options.pop("dtype", None) is None and not x.dtype.is_floating_point:
        result = result.to(torch.get_default_dtype())
    values = deferred(lambda: (torch.sum(x, **options) / count).exact(), x)
    return soft_real(result, call.sites, values)


@rule("cumsum")
def _cumsum(call: Call) -> Results:
    x, dim, dtype = call.arguments("input", "dim", "dtype", dtype=None)

    def values() -> SoftIndex:
        exact_x = x.exact()
        check_number_of_sums(exact_x, dim)
        terms = _for_sums(exact_x, dtype)
        at_once = accumulate_at_once(torch.cumsum, terms, dim)
        if at_once is not None:
            return at_once
        return accumulate(torch.add, terms, dim).exact()

    return _reduced(call, x, values)


def _for_sums(x: SoftIndex, dtype: torch.dtype | None) -> SoftIndex:
    """Return what is added up: integers and truths as int64."""
    if dtype is None:
        dtype = torch.int64
        if x.is_floating_point():
            dtype = x.dtype
    return cast("SoftIndex", x.to(dtype))


def _reduced(call: Call, x: Any, values: Callable[[], SoftIndex]) -> Tensor:
    if isinstance(x, SoftNumber) and x.dtype is torch.bool:
        raise TypeError(refusal(x.site, call.name))
    result = call.run(plain)
    values = deferred(values, x)
    if x.dtype.is_floating_point and result.dtype is x.dtype:
        return soft_real(result, x.site, values, functools.partial(is_whole, x))
    dtype = result_dtype(call)
    if dtype.is_floating_point:
        are_values_whole = functools.partial(is_whole, x)
        return soft_real(result.to(dtype), x.site, values, are_values_whole)
    return SoftNumber(result, dtype, x.site, values)


@rule("prod cumprod")
def _prod(call: Call) -> Results:
    x, dim, keepdim, dtype = call.arguments(
        "input", "dim", "keepdim", "dtype", dim=None, keepdim=False, dtype=None
    )
    exact_x = exact_or_none(x)
    if exact_x is not None and x.numel():
        factors = _for_sums(exact_x, dtype)
        if call.name == "prod":
            result = _product_of_elements(factors, dim, keepdim)
        else:
            result = accumulate_at_once(torch.cumprod, factors, dim)
            if result is None:
                result = accumulate(torch.mul, factors, dim)
        if exact_or_none(result) is not None:
            return of_type_of(x, result)

    def values() -> SoftIndex:
        raise TypeError(refusal(call.sites, f"a function of {call.name}"))

    return _reduced(call, x, values)


def _product_of_elements(x: SoftIndex, dim: Dims, keepdim: bool) -> Tensor:
    def product(y: Tensor, dims: list[int]) -> Tensor:
        for d in reversed(dims):
            y = y.prod(d)
        return y

    at_once = reduce_at_once(product, x, dim, keepdim)
    if at_once is not None:
        return at_once
    return fold(torch.mul, x, dim, keepdim)


def of_type_of(x: Tensor, result: Tensor) -> Tensor:
    """Return values that were computed from those of a float as a float again."""
    if not isinstance(x, SoftReal) or not isinstance(result, SoftIndex):
        return result
    return soft_real(plain(result), result.site, lambda: result, x.are_whole)


@rule("diff")
def _diff(call: Call) -> Results:
    x, n, dim, prepend, append = call.arguments(
        "input", "n", "dim", "prepend", "append", n=1, dim=-1, prepend=None, append=None
    )
    parts = [part for part in (prepend, x, append) if part is not None]
    if len(parts) > 1:
        x = torch.cat(parts, dim)
    for _ in range(n):
        length = max(x.shape[dim] - 1, 0)
        later = x.narrow(dim, min(1, x.shape[dim]), length)
        earlier = x.narrow(dim, 0, length)
        x = later != earlier if x.dtype is torch.bool else later - earlier
    return x


@rule("trace")
def _trace(call: Call) -> Results:
    return torch.diagonal(call.args[0]).sum()


@rule("count_nonzero")
def _count_nonzero(call: Call) -> Results:
    x, dim = call.arguments("input", "dim", dim=None)
    return (x != 0).sum(dim)


# --- truths -------------------------------------------------------------------------


@rule("all any")
def _all_or_any(call: Call) -> Results:
    x, dim, keepdim = call.arguments("input", "dim", "keepdim", dim=None, keepdim=False)
    if isinstance(x, SoftNumber) and x.dtype is torch.bool:
        return apply_to_averages(call)  # of a validation
    truths = x.exact().bool()
    states = truths.states.flatten(0, len(truths.draws) - 1)
    if bool((states == states[:1]).all()):
        return call.func(states[0].expand(x.shape), *call.args[1:], **call.kwargs)
    at_once = reduce_at_once(
        lambda y, dims: call.func(y, dim=tuple(dims)), truths, dim, keepdim
    )
    if at_once is not None:
        return at_once
    joint = apply_jointly(call.with_arguments(lambda y: truths if y is x else y))
    if joint is not None:
        return joint
    function = torch.logical_and if call.name == "all" else torch.logical_or
    return fold(function, truths, dim, keepdim)


@rule("_is_all_true")
def _is_valid(call: Call) -> Tensor:
    """Whether arguments of a distribution are valid for some value of each element.

    Only torch's distributions call this function.
    """
    (x,) = call.args
    if not isinstance(x, SoftIndex):
        return call.run(average)
    possible = x.states
    for i in reversed(range(len(x.draws))):
        has_mass = x.draws[i].positions(x.dim()).detach() > 0
        possible = (possible & has_mass).any(i)
    return possible.all()
