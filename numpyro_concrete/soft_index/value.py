"""SoftIndex and SoftNumber: what a program holds in the place of an integer.

Counterpart: ``pyro_concrete.soft_index``.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from numpyro_concrete import internals
from numpyro_concrete.soft_index.expectation import contract
from numpyro_concrete.soft_index.operators import Operators

_tokens = itertools.count()


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
        "meant, take it with numpyro_concrete.soft_index.plain(value)"
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
        ancestors: Tokens of the draws that these were made of, as a sum is.
    """

    site: str
    token: int
    ids: Known
    ancestors: frozenset[int] = frozenset()

    @property
    def tokens(self) -> frozenset[int]:
        """Tokens of all draws that these depend on."""
        return self.ancestors | {self.token}

    def at(self, ids: np.ndarray) -> "Factor":
        """Return the same draws at other positions."""
        return dataclasses.replace(self, ids=Known(ids))

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


def fresh(
    site: str, shape: Sequence[int], ancestors: frozenset[int] = frozenset()
) -> Factor:
    """Return the factor of draws that no other value knows.

    Args:
        site: Names of the sites.
        shape: Shape of the draws.
        ancestors: Tokens of the draws that they were made of.
    """
    return Factor(site, new_token(), positions(tuple(shape)), ancestors)


def tokens(*operands: Any) -> frozenset[int]:
    """Return the tokens of all draws that operands depend on."""
    own: set[int] = set()
    for x in operands:
        if isinstance(x, AbstractAverage):
            own |= x.tokens
        elif isinstance(x, SoftIndex):
            own.update(*(f.tokens for f in x.factors))
        elif isinstance(x, Pieces):
            own |= tokens(*x.parts)
    return frozenset(own)


def positions(shape: tuple[int, ...]) -> Known:
    """Return the number of each position of an array."""
    return Known(np.arange(math.prod(shape)).reshape(shape))


def _unreadable(self: Any, *_: Any) -> None:
    raise TypeError(refusal(self.site, "reading it as a Python number"))


class AbstractSoft(Operators):
    """What stands for an integer in a relaxed program."""

    __bool__ = __int__ = __float__ = __index__ = item = tolist = _unreadable

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
        possible: The integers that it can be, if that is all that is known of its
            values while tracing.

    Raises:
        TypeError: When an operation has no relaxation; it names the site.

    Example:
        >>> z = soft_index("z", [0, 1, 2], jnp.array([0.5, 0.25, 0.25]))
        >>> float(z * 2.0), float(1.0 * (z == 2))
        (1.5, 0.25)

    Counterpart: :class:`pyro_concrete.soft_index.SoftIndex`.
    """

    values: Known | Array
    weights: tuple[Array, ...]
    factors: tuple[Factor, ...] = eqx.field(static=True)
    extent: tuple[int, ...] = eqx.field(static=True)
    possible: Known | None = eqx.field(static=True, default=None)

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
        if jnp.issubdtype(self.table.dtype, jnp.inexact):
            dtype = self.table.dtype
        return contract(self.table.astype(dtype), self.weights, self.extent, dtype)

    def __repr__(self) -> str:
        """Show the site, the shape, the support and the probabilities if known."""
        shown: dict[str, Any] = {"values": self.table} if self.compact else {}
        if len(self.weights) == 1:
            shown["probabilities"] = self.weights[0]
        return _shown("SoftIndex", self, **shown)


class Values:
    """The values behind an average, which are computed when they are needed.

    Args:
        compute: Returns the values, as a soft value.
        terms: The signed terms of a sum, `(sign, operand)`.
    """

    __slots__ = ("_compute", "_known", "_terms", "_trace")

    def __init__(
        self,
        compute: "Callable[[], SoftIndex | Array]",
        terms: "Sequence[tuple[int, Any]]" = (),
    ) -> None:
        self._compute = compute
        self._terms = tuple(terms)
        self._known: SoftIndex | Array | None = None
        # Inside a loop, they still belong to the trace that the average belongs to.
        self._trace = internals.current_trace()

    def __call__(self) -> "SoftIndex | Array":
        """Return the values; a plain array if they are certain."""
        if self._known is None:
            with internals.set_current_trace(self._trace):
                self._known = self._compute()
        return self._known

    @property
    def terms(self) -> "tuple[tuple[int, Any], ...]":
        """The terms of a sum whose values nothing has asked for yet.

        Others may depend on the values once they are known: the sum is one draw then.
        """
        return self._terms if self._known is None else ()


class AbstractAverage(AbstractSoft):
    """A value that is held as its mean, and knows the values behind it.

    Args:
        average: The mean.
        program_dtype: Type that the discrete program's value has.
        sites: Names of the relaxed sites, for errors.
        tokens: Those of the draws that it depends on.
        values: The values behind the mean; None if they are not known.
    """

    average: Array
    program_dtype: Any = eqx.field(static=True)
    sites: str = eqx.field(static=True)
    tokens: frozenset[int] = eqx.field(static=True, default=frozenset())
    values: Values | None = eqx.field(static=True, default=None)

    @property
    def site(self) -> str:
        """The names of the sites that it depends on, for errors."""
        return self.sites

    def aval(self) -> internals.ShapedArray:
        """Return what the program sees: an array of its type."""
        return internals.ShapedArray(jnp.shape(self.average), self.program_dtype)

    def number(self) -> Array:
        """Return the mean."""
        return self.average

    def exact(self, operation: str = "an operation on each of its values") -> Any:
        """Return the values behind the mean, soft or, if they are certain, plain.

        Args:
            operation: What needs them, for errors.

        Raises:
            TypeError: If they are not known.
        """
        if self.values is None:
            raise TypeError(refusal(self.site, operation))
        return self.values()

    def __repr__(self) -> str:
        """Show the sites, the shape, and the mean where it is known."""
        return _shown(type(self).__name__, self, mean=self.average)


class SoftNumber(AbstractAverage):
    """An integer that is known by its mean, and exactly where that is asked for.

    A sum of soft integers is one: arithmetic uses the mean, and what needs the integers
    uses the probabilities of all sums, which are computed then. Where the sum has more
    than some hundreds of values, that is an error.

    Shapes:
        average: any.

    Args:
        average: Mean of the integers.
        program_dtype: Type that the discrete program's integers have.
        sites: Names of the relaxed sites, for errors.
        tokens: Those of the draws that it depends on.
        values: The integers behind the mean; None if they are not known.

    Raises:
        TypeError: When the values are needed and not known.

    Example:
        >>> n = SoftNumber(jnp.array(2.5), jnp.int32, "z")
        >>> float(n * 2.0)
        5.0

    Counterpart: :class:`pyro_concrete.soft_index.SoftNumber`.
    """


class SoftReal(AbstractAverage):
    """A float that depends on soft integers: their average, which knows its values.

    A function that is linear uses the average. Another elementwise function is applied
    to every value, and so is what compares, rounds or converts to integers. Networks
    see the average: the result of a matrix product is a plain array.

    Example:
        >>> z = soft_index("z", [0, 1], jnp.array([0.25, 0.75]))
        >>> x = 1.0 - z
        >>> float(x), float(jnp.array([4.0, 8.0])[x.astype(int)])
        (0.25, 5.0)

    Counterpart: :class:`pyro_concrete.soft_index.SoftReal`.
    """


def guarded(soft: SoftReal) -> SoftReal:
    """Return an average whose values are not known: nothing can round or compare it.

    Args:
        soft: The average.
    """
    return SoftReal(soft.average, soft.program_dtype, soft.sites)


class Unknown(AbstractAverage):
    """What a comparison or sign of an average gives, if its values are not known.

    It is refused where it is used: validation makes such truths, and cannot read them.
    """

    def number(self) -> Array:
        """Refuse to be a number."""
        raise TypeError(refusal(self.site, "comparing a mean that has no values"))


def _shown(name: str, soft: AbstractSoft, **fields: Any) -> str:
    """A text that shows what is known of a soft value."""
    aval = soft.aval()
    parts = [f"site={soft.site!r}", f"shape={aval.shape}", f"dtype={aval.dtype}"]
    for key, x in fields.items():
        if not isinstance(x, internals.Tracer):
            parts.append(f"{key}={np.array2string(np.asarray(x), separator=', ')}")
    return f"{name}({', '.join(parts)})"


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


def exact(x: Any, operation: str = "an operation on each of its values") -> Any:
    """Return an operand with the values behind its mean; others as they are."""
    return x.exact(operation) if isinstance(x, AbstractAverage) else x


def average_of(mean: Array, like: Sequence[Any], dtype: Any, values: Any) -> Any:
    """Return an average that depends on some operands.

    Args:
        mean: The mean.
        like: The operands.
        dtype: Type that the discrete program's value has.
        values: The values behind the mean; None if they are not known.
    """
    kind = SoftReal if jnp.issubdtype(dtype, jnp.inexact) else SoftNumber
    return kind(mean, jnp.dtype(dtype), named(*like), tokens(*like), values)
