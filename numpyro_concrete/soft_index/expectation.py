"""Expectations over the values of draws: weighted sums that take infinite values.

Counterpart: none; torch has them in ``pyro_concrete.soft_index.algebra``.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from numpyro_concrete.ops.precision import FULL_PRECISION

# Up to here the terms of a sum are too few for a product of matrices of its own. With
# more it pays to have the result in memory, once for all that reads it.
_FEW = 2**12


def contract(
    table: np.ndarray | Array,
    weights: Sequence[Array],
    shape: Sequence[int],
    dtype: DTypeLike,
) -> Array:
    """Return the weighted sum of values over the axes of their factors.

    Shapes:
        table: `(K_1, ..., K_m) + shape`, with axes of size one allowed.
        weights: for each factor `(K_i,) + shape`, likewise.

    Args:
        table: The values, floats.
        weights: Weights of each factor.
        shape: Shape of the result.
        dtype: Type of the result.
    """
    table, restore = bounded(table, *weights)
    if len(weights) == 1 and _share_no_axis(table, weights[0]):
        total = _product(weights[0], table)
        return jnp.broadcast_to(restore(total), tuple(shape)).astype(dtype)
    total = jnp.asarray(table)
    for i in reversed(range(len(weights))):
        w = weights[i].reshape((1,) * i + weights[i].shape)
        total = (total * w).sum(i)
    return jnp.broadcast_to(restore(total), tuple(shape)).astype(dtype)


def _share_no_axis(table: np.ndarray | Array, weights: Array) -> bool:
    """Whether the weights and the values differ along different axes."""
    pairs = zip(weights.shape[1:], table.shape[1:], strict=True)
    return len(weights) == len(table) and all(1 in pair for pair in pairs)


def _product(weights: Array, table: np.ndarray | Array) -> Array:
    """Weighted sums of values that differ along other axes: a product of matrices."""
    total = mixed(weights, table)
    # Each axis of the result is one of the weights or one of the table; the other is 1.
    rank = weights.ndim - 1
    order = [a + i * rank for a in range(rank) for i in (0, 1)]
    pairs = zip(weights.shape[1:], table.shape[1:], strict=True)
    shape = tuple(m * n for m, n in pairs)
    return total.transpose(order).reshape(shape)


def mixed(weights: Array | np.ndarray, rows: Array | np.ndarray) -> Array:
    """Return weighted sums of rows: of `(K,) + own` and `(K,) + row`, `own + row`."""
    dtype = jnp.result_type(rows, weights)
    k = len(weights)
    shape = weights.shape[1:] + rows.shape[1:]
    weights = weights.astype(dtype)
    rows = rows.reshape(k, -1).astype(dtype)
    if isinstance(rows, np.ndarray) and ((rows != 0).sum(0) <= 1).all():
        # One weight each. The array keeps its shape: XLA sees which parts are not read.
        picked = jnp.moveaxis(_picked(weights, (rows != 0).argmax(0)), 0, -1)
        scale = rows.sum(0)
        if (scale != 1).any():
            picked = picked * scale
        return picked.reshape(shape)
    flat = weights.reshape(k, -1)
    # A sum fuses with what is around it; for a lone draw a product is faster.
    if flat.shape[1] > 1 and flat.size * rows.size // k <= _FEW:
        total = (flat[:, :, None] * rows[:, None]).sum(0)
    else:
        total = jnp.tensordot(flat, rows, axes=(0, 0), precision=FULL_PRECISION)
    return total.reshape(shape)


def _picked(weights: Array | np.ndarray, which: np.ndarray) -> Array | np.ndarray:
    """Return rows of weights: without a gather, which would not fuse, if it can be."""
    if np.array_equal(which, np.arange(len(weights))):
        return weights
    if len(which) == 1:
        return weights[int(which[0])][None]
    return weights[which]


def bounded(
    table: np.ndarray | Array, *weights: Array
) -> tuple[np.ndarray | Array, Callable[[Array], Array]]:
    """Return finite values, and the function that puts infinities back in their sum.

    An infinity counts as the largest log-probability that is finite, and NaN as one and
    a half times that: numbers that no table holds by chance, and that the sum meets
    exactly where they have all the weight. There it is the discrete program's; inside,
    it is finite.

    Args:
        table: The values, floats.
        weights: What they will be multiplied with. The sum has the type of all.
    """
    if isinstance(table, np.ndarray) and np.isfinite(table).all():
        return table, lambda total: total
    dtype = jnp.result_type(table, *weights)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return table, lambda total: total
    table = table.astype(dtype)
    bound = _bound(dtype)
    # One selection, for one is all that a gradient then goes through.
    fixed = lax.stop_gradient(table)
    stand_in = jnp.where(fixed < 0, -bound, jnp.where(fixed > 0, bound, 1.5 * bound))
    return jnp.where(jnp.isfinite(fixed), table, stand_in), _restored


def _bound(dtype: DTypeLike) -> np.ndarray:
    return np.asarray(-math.log(jnp.finfo(dtype).tiny), dtype)


@jax.custom_jvp
def _restored(total: Array) -> Array:
    """Put infinities back in a sum. Its gradient stays that of the finite sum."""
    bound = _bound(total.dtype)
    total = jnp.where(total == 1.5 * bound, jnp.nan, total)
    return jnp.where(jnp.abs(total) == bound, total * jnp.inf, total)


@_restored.defjvp
def _restored_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _restored(*primals), tangents[0]
