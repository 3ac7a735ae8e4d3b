"""Operations along axes: sums, products, extremes, orders.

Along axes where a value is one draw, the operation is applied to each of its values.
Draws at different places are independent.

Counterpart: ``pyro_concrete.soft_index.counts``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_concrete.soft_index.algebra import (
    Table,
    finish,
    listed_jointly,
    placed,
    run,
    tables_of,
    typed,
    words,
)
from numpyro_concrete.soft_index.counts import extreme, running_total, total
from numpyro_concrete.soft_index.draws import are_independent_along
from numpyro_concrete.soft_index.value import (
    SoftIndex,
    Values,
    average_of,
    exact,
    named,
    refusal,
)

_ADDS = ("reduce_sum", "cumsum")
_PRODUCTS = ("reduce_prod", "cumprod")
# The extremes: whether they are the largest, and whether they are cumulative.
_EXTREMES = {
    "reduce_or": (True, False),
    "reduce_and": (False, False),
    "reduce_max": (True, False),
    "reduce_min": (False, False),
    "cummax": (True, True),
    "cummin": (False, True),
}


def along_axes(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    """Return what a primitive along axes gives for soft values."""
    name = primitive.name
    axes = axes_of(params)
    if all(_same_draws(x, axes) for x in values if isinstance(x, SoftIndex)):
        return _each_draw(primitive, values, axes, params)
    if name not in _ADDS:
        jointly = listed_jointly(values)
        if jointly is not None:
            return _each_draw(primitive, jointly, axes, params)
    if len(values) > 1:
        raise TypeError(refusal(named(*values), name))
    (soft,) = values
    if name in _ADDS:
        return _sum(primitive, soft, axes, params)
    whole = not jnp.issubdtype(soft.table.dtype, jnp.inexact)
    independent = are_independent_along(soft.factors, axes, soft.extent)
    if name in _PRODUCTS and whole and independent:
        # The mean of a product of independent draws is the product of their means.
        mean = _of_means(primitive, soft, params)
        return average_of(mean, [soft], soft.table.dtype, None)
    if name in _EXTREMES:
        largest, running = _EXTREMES[name]
        if not (running and params["reverse"]):
            return extreme(soft, axes, largest, running)
    raise TypeError(refusal(soft.site, name))


def axes_of(params: dict[str, Any]) -> tuple[int, ...]:
    """Return the axes of a primitive."""
    axes = next(params[k] for k in ("axes", "axis", "dimension") if k in params)
    return tuple(axes) if isinstance(axes, Sequence) else (axes,)


def _same_draws(soft: SoftIndex, axes: Sequence[int]) -> bool:
    """Whether each factor is one draw along these axes, so that values can reduce."""
    return all(w.shape[1 + a] == 1 for w in soft.weights for a in axes)


def _sum(
    primitive: Any, soft: SoftIndex, axes: Sequence[int], params: dict[str, Any]
) -> Any:
    dtype = soft.table.dtype

    def compute() -> Any:
        jointly = listed_jointly([soft])
        if jointly is not None:
            return exact(_each_draw(primitive, jointly, axes, params))
        if primitive.name == "reduce_sum":
            return total(soft, axes, dtype)
        return running_total(soft, axes[0], params["reverse"], dtype)

    mean = _of_means(primitive, soft, params)
    return average_of(mean, [soft], dtype, Values(compute))


def _of_means(primitive: Any, soft: SoftIndex, params: dict[str, Any]) -> Any:
    if primitive.name == "reduce_sum":
        return soft.number().sum(axes_of(params))
    return primitive.bind(soft.number(), **params)


def _broadcast(table: Table, shape: Sequence[int]) -> Table:
    known = isinstance(table, np.ndarray)
    return (np if known else jnp).broadcast_to(table, tuple(shape))


def _each_draw(
    primitive: Any, values: list[Any], axes: Sequence[int], params: dict[str, Any]
) -> Any:
    shape = typed(values[0]).shape
    tables, joint = tables_of(values, shape)
    lead = joint.sizes()
    full = list(np.broadcast_shapes(*(t.shape for t in tables)))
    for a in axes:
        full[len(lead) + a] = shape[a]
    tables = [_broadcast(t, full) for t in tables]
    flat = [t.reshape(math.prod(lead), *full[len(lead) :]) for t in tables]
    out = run(jax.vmap(lambda *x: primitive.bind(*x, **params)), *flat)
    results = out if primitive.multiple_results else [out]
    results = [x.reshape(lead + x.shape[1:]) for x in results]
    drops = results[0].ndim - len(lead) < len(shape)
    shape = [n for a, n in enumerate(shape) if not (drops and a in axes)]

    def dropped(x: Table, offset: int) -> Table:
        if not drops:
            return x
        at = [0 if a in axes else slice(None) for a in range(x.ndim - offset)]
        x = x[(slice(None),) * offset + tuple(at)]
        return np.asarray(x) if isinstance(x, np.generic) else x

    joint = placed(joint, shape, dropped)
    results = [finish(x, joint, shape) for x in results]
    return results if primitive.multiple_results else results[0]


RULES: dict[str, Callable] = dict.fromkeys(
    words("""
    reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor
    argmax argmin cumsum cumprod cummax cummin cumlogsumexp sort
"""),
    along_axes,
)
