"""SoftIndex and SoftNumber: what a program holds in the place of an integer.

Twin: ``pyro_concrete.soft_index``.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from numpyro_concrete.soft_index import internals
from numpyro_concrete.soft_index.operators import Operators

_tokens = itertools.count()
# Up to here the terms of a sum are too few for a product of matrices of its own. With
# more it pays to have the result in memory, once for all that reads it.
_FEW = 2**12


def refusal(site: str, operation: str) -> str:
    """Return the message for an operation that has no relaxation.

    Args:
        site: Name of the relaxed site.
        operation: What the program tried to do with its value.

    Example:
        >>> print(refusal("z", "sort"))
        site 'z' is relaxed: its value is soft, and sort needs one that is drawn. ...
    """
    return (
        f"site {site!r} is relaxed: its value is soft, and {operation} needs one that "
        "is drawn. Leave the site out with infer={'relax': False} or enumerate it with "
        "infer={'enumerate': 'parallel'}; or, where the mean of the soft value is "
        "meant, take it with 1.0 * value"
    )


@jax.tree_util.register_static
class Known:
    """A NumPy array that is known while JAX traces: hashable, and no leaf of a tree."""

    __slots__ = ("_hash", "array")

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self._hash: int | None = None

    def __hash__(self) -> int:
        if self._hash is None:
            x = self.array
            self._hash = hash((x.shape, x.dtype.str, x.tobytes()))
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Known):
            return False
        x, y = self.array, other.array
        return x is y or (x.dtype == y.dtype and np.array_equal(x, y, equal_nan=True))


@dataclasses.dataclass(frozen=True)
class Factor:
    """Which draw stands at a position: the identity of one set of weights.

    Args:
        site: Name of the sample site, for errors.
        token: Equal for two factors that come from one array of draws.
        ids: Which of those draws, for each position; its shape broadcasts to the value.
    """

    site: str
    token: int
    ids: Known

    def same(self, other: "Factor", shape: Sequence[int]) -> bool:
        """Tell whether two factors are the same draw at every position."""
        if self.token != other.token:
            return False
        x, y = self.ids.array, other.ids.array
        if x is y or (x.shape == y.shape and np.array_equal(x, y)):
            return True
        return np.array_equal(np.broadcast_to(x, shape), np.broadcast_to(y, shape))


def new_token() -> int:
    """Return a token that no draw has; later ones are greater."""
    return next(_tokens)


def fresh(site: str, shape: Sequence[int]) -> Factor:
    """Return the factor of draws that no other value knows."""
    return Factor(site, new_token(), positions(tuple(shape)))


def positions(shape: tuple[int, ...]) -> Known:
    """Return the number of each position of an array."""
    return Known(np.arange(math.prod(shape)).reshape(shape))


class AbstractSoft(Operators):
    """What stands for an integer in a relaxed program."""

    def materialise(self) -> ArrayLike:
        """Refuse to become an integer array."""
        raise TypeError(refusal(self.site, "reading it as an integer"))

    @property
    def site(self) -> str:
        """The names of the sites that it depends on, for errors."""
        raise NotImplementedError

    def number(self) -> Array:
        """Return the relaxed number."""
        raise NotImplementedError


class SoftIndex(AbstractSoft):
    """An integer that is a convex combination of integers.

    Each operation on it is applied to every value of its support. An integer or boolean
    result stays soft, with the same weights; a float result is the weighted sum. At a
    vertex, where one weight is one, every result is the discrete program's.

    Shapes:
        values: `(K_1, ..., K_m) + shape`, with axes of size one where values do not
            depend on the position; m is the number of factors.
        weights: for each factor `(K_i,) + shape`, likewise.

    Args:
        values: The support, jointly over the factors.
        weights: Weights of each factor, which sum to one over the first axis.
        factors: Identity of each factor: operands of one draw combine along it, others
            by the product of their supports.
        extent: Shape of the integer array that it stands for.

    Raises:
        TypeError: When an operation has no relaxation; it names the site.

    Example:
        >>> z = soft_index("z", [0, 1, 2], jnp.array([0.5, 0.25, 0.25]))
        >>> float(z * 2.0), float(1.0 * (z == 2))
        (1.5, 0.25)

    Twin: :class:`pyro_concrete.soft_index.SoftIndex`.
    """

    values: Known | Array
    weights: tuple[Array, ...]
    factors: tuple[Factor, ...] = eqx.field(static=True)
    extent: tuple[int, ...] = eqx.field(static=True)

    @property
    def table(self) -> Any:
        """The values as an array: NumPy's if they are known while tracing."""
        return self.values.array if isinstance(self.values, Known) else self.values

    @property
    def known(self) -> bool:
        """Whether the values are known while tracing."""
        return isinstance(self.values, Known)

    @property
    def compact(self) -> bool:
        """Whether the values are known and the same at every position."""
        n = len(self.factors)
        return self.known and math.prod(self.table.shape[n:]) == 1

    @property
    def certain(self) -> bool:
        """Whether it is no draw at all, but a constant."""
        return not self.factors

    @property
    def site(self) -> str:
        """The names of the sites that it depends on, for errors."""
        return named(self)

    def aval(self) -> internals.ShapedArray:
        """Return what the program sees: an integer array."""
        return internals.ShapedArray(self.extent, self.table.dtype)

    def materialise(self) -> ArrayLike:
        """Return a constant as an array, and refuse to round a draw."""
        if not self.certain:
            return super().materialise()
        return jnp.broadcast_to(jnp.asarray(self.table), self.extent)

    def number(self) -> Array:
        """Return the relaxed number: the weighted sum of the values."""
        if self.certain:
            return jnp.asarray(self.materialise())
        dtype = jnp.result_type(*self.weights)
        table = self.table.astype(dtype)
        return contract(table, self.weights, self.extent, dtype)


class SoftNumber(AbstractSoft):
    """The mean of an integer whose support is too large to list, such as a sum of bits.

    Arithmetic with floats gives the plain number; integer operations that are linear
    keep the guard; whatever would round it raises an error that names the site.

    Shapes:
        value: any.

    Args:
        value: The mean.
        sites: Name of the sample site, for errors.

    Raises:
        TypeError: When it is compared, cast to a boolean, used as an index or
            condition, or read as a Python number.

    Example:
        >>> n = SoftNumber(jnp.array(2.5), "z")
        >>> float(n * 2.0)
        5.0

    Twin: :class:`pyro_concrete.soft_index.SoftNumber`.
    """

    value: Array
    sites: str = eqx.field(static=True)

    @property
    def site(self) -> str:
        """The names of the sites that it depends on, for errors."""
        return self.sites

    def aval(self) -> internals.ShapedArray:
        """Return what the program sees: an integer array."""
        return internals.ShapedArray(jnp.shape(self.value), jnp.result_type(int))

    def number(self) -> Array:
        """Return the number."""
        return self.value


class Pieces(AbstractSoft):
    """Arrays that the program has joined along an axis, of which some are soft.

    Indices of several axes come so: the lookup that follows wants them one by one.
    """

    parts: tuple[Any, ...]
    axis: int = eqx.field(static=True)

    @property
    def site(self) -> str:
        """The names of the sites that it depends on, for errors."""
        return named(*self.parts)

    def aval(self) -> internals.ShapedArray:
        """Return what the program sees: an integer array."""
        shapes = [x.aval() if is_soft(x) else internals.typeof(x) for x in self.parts]
        shape = list(shapes[0].shape)
        shape[self.axis] = sum(s.shape[self.axis] for s in shapes)
        return internals.ShapedArray(tuple(shape), shapes[0].dtype)


def soft_index(
    site: str, values: ArrayLike | Sequence[int], weights: ArrayLike
) -> SoftIndex:
    """Return the soft value of a site.

    Shapes:
        values: `(K,)`.
        weights: `(K,) + shape`.

    Args:
        site: Name of the sample site, for errors.
        values: The integers of its support.
        weights: Their weights, which sum to one over the first axis.

    Example:
        >>> soft_index("z", [0, 1, 2], jnp.ones((3, 4)) / 3).shape
        (4,)
    """
    weights = jnp.asarray(weights)
    table = np.asarray(values)
    shape = weights.shape[1:]
    table = table.astype(jnp.result_type(table)).reshape((-1,) + (1,) * len(shape))
    return SoftIndex(Known(table), (weights,), (fresh(site, shape),), shape)


def named(*operands: Any) -> str:
    """Return the names of the sites that operands depend on."""
    names: dict[str, None] = {}
    for x in operands:
        if isinstance(x, SoftIndex):
            names |= dict.fromkeys(f.site for f in x.factors)
        elif isinstance(x, AbstractSoft):
            names[x.site] = None
    parts = dict.fromkeys(p for name in names for p in name.split(" and "))
    return " and ".join(parts)


def is_soft(x: Any) -> bool:
    """Tell whether a value stands for an integer, rather than being an array.

    Example:
        >>> is_soft(soft_index("z", [0, 1], jnp.ones(2) / 2)), is_soft(jnp.zeros(3))
        (True, False)
    """
    return isinstance(x, AbstractSoft)


# --- the weighted sum -----------------------------------------------------------------


def contract(
    table: np.ndarray | Array,
    weights: Sequence[Array],
    shape: Sequence[int],
    dtype: Any,
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
    n = len(weights)
    table, restore = bounded(table)
    if n == 1 and _share_no_axis(table, weights[0]):
        total = _product(weights[0], table)
        return jnp.broadcast_to(restore(total), tuple(shape)).astype(dtype)
    total = jnp.asarray(table)
    for i in reversed(range(n)):
        w = weights[i].reshape((1,) * i + weights[i].shape)
        total = (total * w).sum(i)
    return jnp.broadcast_to(restore(total), tuple(shape)).astype(dtype)


def _share_no_axis(table: np.ndarray | Array, weights: Array) -> bool:
    """Whether the weights and the values differ along different axes."""
    pairs = zip(weights.shape[1:], table.shape[1:], strict=True)
    return len(weights) == len(table) and all(1 in pair for pair in pairs)


def _product(weights: Array, table: np.ndarray | Array) -> Array:
    """Weighted sums of values that differ along other axes: a product of matrices."""
    own, others = weights.shape[1:], table.shape[1:]
    total = mixed(weights, table)
    # Each axis of the result is one of the weights or one of the table; the other is 1.
    rank = len(own)
    order = [a + i * rank for a in range(rank) for i in (0, 1)]
    shape = tuple(m * n for m, n in zip(own, others, strict=True))
    return total.transpose(order).reshape(shape)


def mixed(weights: Array | np.ndarray, rows: Array | np.ndarray) -> Array:
    """Return weighted sums of rows: of `(K,) + own` and `(K,) + row`, `own + row`."""
    dtype = jnp.result_type(rows, weights)
    k, shape = len(weights), weights.shape[1:] + rows.shape[1:]
    weights, rows = weights.astype(dtype), rows.reshape(k, -1).astype(dtype)
    if isinstance(rows, np.ndarray) and ((rows != 0).sum(0) <= 1).all():
        # One weight each. The array keeps its shape: XLA sees which parts are not read.
        picked = jnp.moveaxis(_picked(weights, (rows != 0).argmax(0)), 0, -1)
        scale = rows.sum(0)
        return (picked if (scale == 1).all() else picked * scale).reshape(shape)
    flat = weights.reshape(k, -1)
    # A sum fuses with what is around it; for a lone draw a product is faster.
    if flat.shape[1] > 1 and flat.size * rows.size // k <= _FEW:
        total = (flat[:, :, None] * rows[:, None]).sum(0)
    else:
        precise = lax.Precision.HIGHEST
        total = jnp.tensordot(flat, rows, axes=(0, 0), precision=precise)
    return total.reshape(shape)


def _picked(weights: Array | np.ndarray, which: np.ndarray) -> Array | np.ndarray:
    """Return rows of weights: without a gather, which would not fuse, if it can be."""
    if np.array_equal(which, np.arange(len(weights))):
        return weights
    return weights[int(which[0])][None] if len(which) == 1 else weights[which]


def bounded(table: np.ndarray | Array) -> tuple[Any, Any]:
    """Return finite values, and the function that puts infinities back in their sum.

    An infinity counts as the largest log-probability that is finite, and NaN as one and
    a half times that: numbers that no table holds by chance, and that the sum meets
    exactly where they have all the weight. There it is the discrete program's; inside,
    it is finite.
    """
    if isinstance(table, np.ndarray) and np.isfinite(table).all():
        return table, lambda total: total
    bound = _bound(table.dtype)
    # One selection, for one is all that a gradient then goes through.
    fixed = lax.stop_gradient(table)
    known = jnp.where(fixed < 0, -bound, jnp.where(fixed > 0, bound, 1.5 * bound))
    return jnp.where(jnp.isfinite(fixed), table, known), _restored


def _bound(dtype: Any) -> np.ndarray:
    return np.asarray(-math.log(jnp.finfo(dtype).tiny), dtype)


@jax.custom_jvp
def _restored(total: Array) -> Array:
    """Put infinities back in a sum. Its gradient stays that of the finite sum."""
    bound = _bound(total.dtype)
    total = jnp.where(total == 1.5 * bound, jnp.nan, total)
    return jnp.where(jnp.abs(total) == bound, total * jnp.inf, total)


@_restored.defjvp
def _restored_jvp(primals: Any, tangents: Any) -> Any:
    return _restored(*primals), tangents[0]
