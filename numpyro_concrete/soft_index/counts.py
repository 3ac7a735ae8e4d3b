"""Counts and extremes of independent draws, exactly: sums, maxima, any and all.

A sum of independent draws has the convolution of their probabilities. Its values are
those of a lattice, the multiples of a step from the smallest sum on.

Counterpart: ``pyro_concrete.soft_index.folds``.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from numpyro_concrete.soft_index.draws import Known, are_independent_along, derived
from numpyro_concrete.soft_index.expectation import mixed
from numpyro_concrete.soft_index.merging import LARGEST_MATRIX, flat_table, flat_weights
from numpyro_concrete.soft_index.tables import Table, broadcast_table
from numpyro_concrete.soft_index.value import SoftIndex, named, refusal

# A sum of independent draws is exact up to this number of values.
LARGEST_SUPPORT = 512


@dataclasses.dataclass(frozen=True)
class Lattice:
    """Probabilities of the values `first + step * arange(len(probs))`.

    Args:
        first: The smallest value.
        step: Distance of two values.
        probs: Probabilities, `(K,) + shape`.
    """

    first: float
    step: float
    probs: Array

    @property
    def values(self) -> np.ndarray:
        """The values, floats."""
        return self.first + self.step * np.arange(len(self.probs))


def convolved(p: Array, q: Array) -> Array:
    """Return the probabilities of a sum: `(A,) + s` and `(B,) + s` to `(A+B-1,) + s`.

    Row i of the outer product is shifted by i: padded to A + B columns and read in rows
    of A + B - 1. That is a few operations, whatever the sizes.
    """
    if len(p) > len(q):
        return convolved(q, p)
    rows = len(p)
    columns = rows + len(q)
    products = p[:, None] * q[None]
    shape = products.shape[2:]
    padded = jnp.pad(products, [(0, 0), (0, rows), *[(0, 0)] * len(shape)])
    flat = padded.reshape(rows * columns, *shape)[: rows * (columns - 1)]
    return flat.reshape(rows, columns - 1, *shape).sum(0)


# --- the values of one operand --------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Split:
    """The draws of a value along some axes.

    Args:
        common: Probabilities of the joint values of the draws that are the same along
            the axes, `(C,) + shape`.
        tables: Values for each of these and of the others, `(C, V) + shape`.
        probs: Probabilities of the joint values of the others, `(V,) + shape`.
    """

    common: Array
    tables: Table
    probs: Array


def split_along(soft: SoftIndex, axes: Sequence[int]) -> Split | None:
    """Return the draws that differ along axes apart from those that do not.

    None if the ones that differ are not independent of each other.
    """
    numbers = range(len(soft.factors))
    ids = [factor.ids.array for factor in soft.factors]
    fixed = [i for i in numbers if all(ids[i].shape[a] == 1 for a in axes)]
    varying = [i for i in numbers if i not in fixed]
    factors = [soft.factors[i] for i in varying]
    if not are_independent_along(factors, axes, soft.extent):
        return None
    count = len(numbers)
    table = soft.table.transpose(*fixed, *varying, *range(count, soft.table.ndim))
    shape = table.shape[count:]
    fixed_weights = [soft.weights[i] for i in fixed]
    varying_weights = [soft.weights[i] for i in varying]
    sizes = [len(w) for w in (*fixed_weights, *varying_weights)]
    table = broadcast_table(table, (*sizes, *shape))
    fixed_size = math.prod(sizes[: len(fixed)])
    table = table.reshape(fixed_size, math.prod(sizes[len(fixed) :]), *shape)
    rank = len(soft.extent)
    return Split(
        common=_product(fixed_weights, rank),
        tables=table,
        probs=_product(varying_weights, rank),
    )


def _product(weights: Sequence[Array], rank: int) -> Array:
    """Probabilities of joint values, `(K_1 * ... * K_m,) + shape`."""
    total = jnp.ones((1,) * (rank + 1), jnp.result_type(*weights) if weights else float)
    for w in weights:
        total = total[:, None] * w[None]
        total = total.reshape(-1, *total.shape[2:])
    return total


def _probs_of(tables: Table, probs: Array, support: np.ndarray) -> Array:
    """Probabilities of the values of a support.

    Shapes:
        tables: `(C, V) + shape`.
        probs: `(V,) + shape`.
        result: `(U, C) + shape`.
    """
    hit = tables[None] == support.reshape((-1,) + (1,) * tables.ndim)
    hit = hit.astype(probs.dtype)
    if math.prod(tables.shape[2:]) == 1:
        return mixed(hit.reshape(hit.shape[:3]).transpose(2, 0, 1), probs)
    return (hit * probs[None, None]).sum(2)


def _lattice_of(table: Table) -> tuple[float, float, int] | None:
    """First value, step and size of the lattice of known values."""
    if not isinstance(table, np.ndarray) or not np.isfinite(table).all():
        return None
    values = np.unique(table.astype(float))
    if not len(values):
        return None
    if len(values) == 1:
        return float(values[0]), 1.0, 1
    steps = np.diff(values)
    step = _common_step(steps)
    if step is None:
        return None
    return float(values[0]), step, round((values[-1] - values[0]) / step) + 1


def _common_step(steps: np.ndarray) -> float | None:
    rounded = np.round(steps)
    if (rounded == steps).all() and (steps < 2**53).all():
        return float(np.gcd.reduce(rounded.astype(np.int64)))
    # Multiples of a fraction, such as halves, are a lattice too.
    step = float(steps.min())
    parts = steps / step
    if np.allclose(parts, np.round(parts), rtol=0, atol=1e-9):
        return step
    return None


# --- sums -----------------------------------------------------------------------------


def lattice_of(soft: SoftIndex) -> Lattice | None:
    """Return the probabilities of a value on its lattice, or None if it has none."""
    bounds = _lattice_of(soft.table)
    if bounds is None or bounds[2] > LARGEST_SUPPORT:
        return None
    first, step, size = bounds
    support = (first + step * np.arange(size)).astype(soft.table.dtype)
    probs = _probs_of(flat_table(soft)[None], flat_weights(soft), support)
    return Lattice(first, step, probs[:, 0])


def sum_of(x: SoftIndex, y: SoftIndex) -> SoftIndex | None:
    """Return the sum of values of different draws, or None if it is too large."""
    a = lattice_of(x)
    b = lattice_of(y)
    if a is None or b is None:
        return None
    step = _step_of_both(a, b)
    p = _refined(a, step)
    q = _refined(b, step)
    if p is None or q is None or len(p) + len(q) - 1 > LARGEST_SUPPORT:
        return None
    lattice = Lattice(a.first + b.first, step, convolved(p, q))
    shape = np.broadcast_shapes(x.extent, y.extent)
    return soft_of(lattice, [x, y], shape, x.table.dtype)


def _step_of_both(a: Lattice, b: Lattice) -> float:
    steps = [x.step for x in (a, b) if len(x.probs) > 1] or [1.0]
    if all(step == round(step) for step in steps):
        return float(math.gcd(*map(int, steps)))
    return min(steps)


def _refined(lattice: Lattice, step: float) -> Array | None:
    """Probabilities on a lattice of a smaller step."""
    ratio = lattice.step / step
    times = round(ratio)
    if len(lattice.probs) == 1:
        return lattice.probs
    if abs(times - ratio) > 1e-9 or times * len(lattice.probs) > 2 * LARGEST_SUPPORT:
        return None
    if times == 1:
        return lattice.probs
    widths = [(0, 0, times - 1)] + [(0, 0, 0)] * (lattice.probs.ndim - 1)
    return lax.pad(lattice.probs, jnp.zeros((), lattice.probs.dtype), widths)


def soft_of(
    lattice: Lattice,
    of: Sequence[SoftIndex],
    shape: Sequence[int],
    dtype: DTypeLike,
    move: Callable | None = None,
) -> SoftIndex:
    """Return a value of draws that are made of others.

    Args:
        lattice: Its probabilities.
        of: The values that it is made of.
        shape: Its shape.
        dtype: Its type.
        move: What becomes of the ids of their draws, see `derived`.
    """
    return _fresh(lattice.values, lattice.probs, of, shape, dtype, move)


def _fresh(
    values: np.ndarray,
    probs: Array,
    of: Sequence[SoftIndex],
    shape: Sequence[int],
    dtype: DTypeLike,
    move: Callable | None = None,
) -> SoftIndex:
    table = values.astype(dtype).reshape((-1,) + (1,) * len(shape))
    factors = [factor for soft in of for factor in soft.draws()]
    moves = None
    if move is not None:
        moves = [move] * len(factors)
    factor = derived(named(*of), probs.shape[1:], factors, moves)
    return SoftIndex(Known(table), (probs,), (factor,), tuple(shape))


def _draws_along(axes: Sequence[int], ids: np.ndarray) -> np.ndarray:
    """Ids `(n,) + shape` of all draws along axes, which are left out: `(m,) + rest`."""
    lines = np.moveaxis(ids, [1 + a for a in axes], range(1, 1 + len(axes)))
    return lines.reshape(-1, *lines.shape[1 + len(axes) :])


def _draws_up_to(
    axis: int, length: int, reverse: bool, ids: np.ndarray
) -> np.ndarray | None:
    """Ids `(n,) + shape` of the draws up to each place along an axis, or from it on.

    None if they are too many to list.
    """
    if ids.size * length > LARGEST_MATRIX:
        return None
    steps = np.arange(length)
    full = np.moveaxis(ids, 1 + axis, 1)
    full = np.broadcast_to(full, (len(ids), length, *full.shape[2:]))
    counts = steps[:, None] <= steps
    if reverse:
        counts = counts.T
    counts = counts.reshape(1, length, length, *(1,) * (full.ndim - 2))
    ids = np.where(counts, full[:, :, None], -1)
    ids = ids.reshape(-1, *ids.shape[2:])
    return np.moveaxis(ids, 1, 1 + axis)


def total(soft: SoftIndex, axes: Sequence[int], dtype: DTypeLike) -> SoftIndex:
    """Return the sum along axes.

    Raises:
        TypeError: If the draws are not independent, or the sum has too many values.
    """
    bounds = _lattice_of(soft.table)
    split = split_along(soft, axes)
    length = math.prod(soft.extent[a] for a in axes)
    if bounds is None or split is None or not length:
        raise TypeError(refusal(soft.site, "the values of a sum of it"))
    first, step, size = bounds
    if (size - 1) * length + 1 > LARGEST_SUPPORT:
        raise TypeError(
            refusal(soft.site, f"a sum of more than {LARGEST_SUPPORT} values")
        )
    support = (first + step * np.arange(size)).astype(soft.table.dtype)
    probs = _probs_of(split.tables, split.probs, support)
    terms = _terms(probs, soft.extent, axes)
    while terms.shape[-1] > 1:
        terms = _pairs_added(terms)
    probs = _averaged(terms[..., 0], split.common, axes)
    shape = [n for a, n in enumerate(soft.extent) if a not in axes]
    lattice = Lattice(first * length, step, probs)
    return soft_of(lattice, [soft], shape, dtype, partial(_draws_along, axes))


def _terms(probs: Array, extent: Sequence[int], axes: Sequence[int]) -> Array:
    """Probabilities with the axes of the sum, as one, at the end."""
    n = probs.ndim - len(extent)
    sizes = [extent[a] if a in axes else probs.shape[n + a] for a in range(len(extent))]
    full = jnp.broadcast_to(probs, (*probs.shape[:n], *sizes))
    last = jnp.moveaxis(full, [n + a for a in axes], range(-len(axes), 0))
    shape = last.shape[: last.ndim - len(axes)]
    return last.reshape(*shape, math.prod(extent[a] for a in axes))


def _pairs_added(terms: Array) -> Array:
    """Add neighbors along the last axis, `(K, ..., n)` to `(2 K - 1, ..., n / 2)`.

    An odd one is added to the first value of the lattice, which adds no step.
    """
    if terms.shape[-1] % 2:
        first_value = jnp.zeros_like(terms[..., :1]).at[0].set(1)
        terms = jnp.concatenate([terms, first_value], -1)
    return convolved(terms[..., ::2], terms[..., 1::2])


def _averaged(probs: Array, common: Array, axes: Sequence[int]) -> Array:
    """Average the probabilities `(U, C) + shape` over the draws in common."""
    common = common.squeeze(tuple(1 + a for a in axes))
    return (probs * common[None]).sum(1)


def running_total(
    soft: SoftIndex, axis: int, reverse: bool, dtype: DTypeLike
) -> SoftIndex:
    """Return the cumulative sum along an axis.

    Raises:
        TypeError: As for `total`.
    """
    # Each sum is a lattice of its own; with zero among its values all are one.
    bounds = soft.known and _lattice_of(np.append(soft.table, 0))
    split = split_along(soft, (axis,))
    length = soft.extent[axis]
    if not bounds or split is None or not length or len(split.common) > 1:
        raise TypeError(refusal(soft.site, "the values of a sum of it"))
    low, step, size = bounds
    if (size - 1) * length + 1 > LARGEST_SUPPORT:
        raise TypeError(
            refusal(soft.site, f"a sum of more than {LARGEST_SUPPORT} values")
        )
    support = (low + step * np.arange(size)).astype(soft.table.dtype)
    probs = _probs_of(split.tables, split.probs, support)[:, 0]
    terms = jnp.moveaxis(_terms(probs, soft.extent, (axis,)), -1, 0)
    zero = round(-low / step)
    largest = (size - 1) * length + 1
    start = jnp.zeros((largest, *terms.shape[2:]), terms.dtype).at[zero * length].set(1)

    def add(sums: Array, term: Array) -> tuple[Array, Array]:
        longer = convolved(sums, term)
        sums = lax.slice_in_dim(longer, zero, zero + largest)
        return sums, sums

    _, sums = lax.scan(add, start, terms, reverse=reverse)
    probs = jnp.moveaxis(sums, 0, 1 + axis)
    lattice = Lattice(low * length, step, probs)
    move = partial(_draws_up_to, axis, length, reverse)
    return soft_of(lattice, [soft], soft.extent, dtype, move)


# --- extremes -------------------------------------------------------------------------


def extreme(
    soft: SoftIndex, axes: Sequence[int], largest: bool, running: bool = False
) -> SoftIndex:
    """Return the maximum or minimum along axes; of truths it is `any` or `all`.

    Args:
        soft: The value.
        axes: The axes.
        largest: Whether it is the maximum.
        running: Whether it is the cumulative one, along a single axis.

    Raises:
        TypeError: If the draws are not independent or their values are not known.
    """
    split = split_along(soft, axes)
    if split is None:
        raise TypeError(refusal(soft.site, "any, all, max or min of dependent draws"))
    support, probs = _sorted_probs(soft, split)
    if not largest:
        probs = probs[::-1]
    probs = _extreme_probs(probs, split.common, soft.extent, axes, running)
    if not largest:
        probs = probs[::-1]
    shape = [n for a, n in enumerate(soft.extent) if running or a not in axes]
    move = partial(_draws_along, axes)
    if running:
        move = partial(_draws_up_to, axes[0], soft.extent[axes[0]], False)
    return _fresh(support, probs, [soft], shape, soft.table.dtype, move)


def _extreme_probs(
    probs: Array,
    common: Array,
    extent: Sequence[int],
    axes: Sequence[int],
    running: bool,
) -> Array:
    """Probabilities that each value, from the least extreme one on, is the extreme."""
    # The probability that all are up to a value is a product.
    below = jnp.cumsum(probs[:-1], 0)
    sizes = [n if a in axes else below.shape[2 + a] for a, n in enumerate(extent)]
    below = jnp.broadcast_to(below, (*below.shape[:2], *sizes))
    if running:
        below = jnp.cumprod(below, 2 + axes[0])
    else:
        below = below.prod(tuple(2 + a for a in axes))
        common = common.squeeze(tuple(1 + a for a in axes))
    ends = [jnp.zeros_like(below[:1]), below, jnp.ones_like(below[:1])]
    return (jnp.diff(jnp.concatenate(ends), axis=0) * common[None]).sum(1)


def _sorted_probs(soft: SoftIndex, split: Split) -> tuple[np.ndarray, Array]:
    """Values from the smallest on, and their probabilities `(U, C) + shape`."""
    if soft.table.dtype == bool:
        support = np.array([False, True])
        return support, _probs_of(split.tables, split.probs, support)
    if not soft.known:
        raise TypeError(refusal(soft.site, "max or min of values known at run time"))
    support = np.unique(soft.table)
    if len(support) > LARGEST_SUPPORT:
        raise TypeError(refusal(soft.site, f"more than {LARGEST_SUPPORT} values"))
    return support, _probs_of(split.tables, split.probs, support)
