"""Elementwise functions: applied to every joint value of the operands.

Counterpart: none; in Pyro they are in rules.py.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_concrete.soft_index.algebra import (
    MERGED,
    Joint,
    common_values,
    concrete,
    enumerate_operands,
    finish,
    run,
    typed,
    words,
)
from numpyro_concrete.soft_index.expectation import bounded, contract
from numpyro_concrete.soft_index.joining import (
    have_one_draw,
    is_inexact,
    moved_together,
)
from numpyro_concrete.soft_index.registry import rule
from numpyro_concrete.soft_index.sums import sum_of_draws
from numpyro_concrete.soft_index.value import (
    Known,
    SoftIndex,
    SoftReal,
    Values,
    average_of,
    exact,
    is_soft,
)

ELEMENTWISE = """
    abs acos acosh add and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil
    clamp clz copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1
    floor ge gt igamma igammac imag integer_pow is_finite le le_to lgamma log log1p
    log2 logistic lt lt_to max min mul mulhi ne neg nextafter not one_minus_square
    optimization_barrier or polygamma population_count pow real reduce_precision
    regularized_incomplete_beta rem round rsqrt shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square sub tan tanh xor zeta
"""


def bound(primitive: Any, params: dict[str, Any]) -> Callable:
    """Return a primitive as a function; NumPy's, if it is known and all operands are.

    NumPy has nothing to compile, which counts where the program runs without jit.
    """

    def function(*x: Any) -> Any:
        if all(isinstance(y, np.ndarray) for y in x):
            if primitive.name == "convert_element_type":
                return x[0].astype(params["new_dtype"])
            if primitive.name in _NUMPY:
                with np.errstate(all="ignore"):
                    return _NUMPY[primitive.name](*x)
        return primitive.bind(*x, **params)

    return function


def _numpy_select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    default = np.zeros((), cases[0].dtype)
    return np.select([which == i for i in range(len(cases))], cases, default)


_NUMPY: dict[str, Callable] = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "select_n": _numpy_select,
}


@rule(ELEMENTWISE)
def _elementwise(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    shape = np.broadcast_shapes(*(typed(x).shape for x in values))
    if primitive.name in ("add", "sub") and _is_crowded_sum(values):
        return sum_of_draws(primitive, values, shape)
    function = finite_slopes(primitive, bound(primitive, params))
    table, joint = enumerate_operands(function, values, shape)
    if primitive.multiple_results:
        return [finish(t, joint, shape) for t in table]
    return finish(table, joint, shape)


def _is_crowded_sum(values: Sequence[Any]) -> bool:
    """Whether different draws have so many joint values that their sum is a count."""
    x, y = values
    if not (is_soft(x) and is_soft(y)) or is_inexact(x):
        return False
    if not {f.token for f in x.factors}.isdisjoint(f.token for f in y.factors):
        return False
    sizes = [len(w) for soft in values for w in soft.weights]
    return x.known and y.known and math.prod(sizes) > MERGED


# The slopes of these are infinite at values where they may be finite, or NaN.
_STEEP = words("""
    div log log1p sqrt rsqrt cbrt pow integer_pow acos acosh asin atanh atan2
    lgamma digamma erf_inv rem igamma igammac zeta polygamma
""")


def finite_slopes(primitive: Any, function: Callable) -> Callable:
    """Return an elementwise function whose slopes are zero where they are not finite.

    A value of probability zero has no part in a gradient, and zero times an infinite
    slope would be NaN.
    """
    if primitive.name not in _STEEP:
        return function

    def steep(*x: Any) -> Any:
        traced = [i for i, y in enumerate(x) if isinstance(y, jax.Array)]
        if not any(is_inexact(x[i]) for i in traced):
            return function(*x)
        return _with_finite_slopes(function, x)

    return steep


def _with_finite_slopes(function: Callable, operands: Sequence[Any]) -> Array:
    floats = [i for i, x in enumerate(operands) if is_inexact(x)]

    def of_floats(*x: Array) -> Array:
        full = list(operands)
        for i, y in zip(floats, x, strict=True):
            full[i] = y
        return function(*full)

    sloped = jax.custom_jvp(of_floats)

    @sloped.defjvp
    def slopes(primals: Any, tangents: Any) -> Any:
        total = jnp.zeros_like(of_floats(*primals))
        for i, tangent in enumerate(tangents):
            ones = [jnp.ones_like(p) if i == j else jnp.zeros_like(p)
                    for j, p in enumerate(primals)]  # fmt: skip
            slope = jax.jvp(of_floats, primals, tuple(ones))[1]
            total += jnp.where(jnp.isfinite(slope), slope, 0) * tangent
        return of_floats(*primals), total

    return sloped(*(jnp.asarray(operands[i]) for i in floats))


@rule("convert_element_type")
def _convert(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    (soft,) = values
    table = run(bound(primitive, params), soft.table)
    joint = _joint_of(soft)
    joint.factors, joint.weights = list(soft.factors), list(soft.weights)
    return finish(table, joint, soft.extent)


@rule("select_n")
def _select(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    which, *cases = values
    shape = typed(cases[0]).shape
    if len(cases) == 1:
        return cases[0]
    if not is_soft(which):
        known = concrete(which)
        if known is not None and known.size and (known == known.flat[0]).all():
            return cases[int(known.flat[0])]
        if not have_one_draw(cases, shape):
            return moved_together(lambda *x: primitive.bind(which, *x), cases)
    elif not any(map(is_soft, cases)) and is_inexact(cases[0]):
        return _mixture(primitive, which, cases)
    result = _elementwise(primitive, values, params)
    if isinstance(result, SoftIndex) and not result.known:
        support = common_values(cases)
        possible = None if support is None else Known(support)
        return dataclasses.replace(result, possible=possible)
    return result


def _mixture(primitive: Any, which: SoftIndex, cases: Sequence[Any]) -> SoftReal:
    """Weigh plain branches by the probability that each is chosen."""
    shape, dtype = typed(cases[0]).shape, typed(cases[0]).dtype
    probs = jnp.result_type(*which.weights)
    shares = [
        contract(run(lambda t, i=i: t == i, which.table).astype(probs),
                 which.weights, which.extent, probs)
        for i in range(len(cases))
    ]  # fmt: skip
    pairs = [bounded(jnp.asarray(x), *shares) for x in cases]
    mean = sum(w * x for w, (x, _) in zip(shares, pairs, strict=True))
    mean = jnp.broadcast_to(pairs[0][1](mean), shape).astype(dtype)
    values = Values(lambda: exact(_elementwise(primitive, [which, *cases], {})))
    return average_of(mean, [which], dtype, values)


def _joint_of(soft: SoftIndex) -> Joint:
    joint = Joint(soft.extent)
    joint.add(soft)
    return joint
