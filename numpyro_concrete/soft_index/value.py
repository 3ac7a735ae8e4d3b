"""SoftIndex and SoftNumber: what a program holds in the place of an integer.

Counterpart: ``pyro_concrete.soft_index``.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from numpyro_concrete import internals
from numpyro_concrete.soft_index.draws import Factor, Known, SharedDrawsError, fresh
from numpyro_concrete.soft_index.expectation import contract
from numpyro_concrete.soft_index.operators import Operators
from numpyro_concrete.soft_index.registry import Operand


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


def tokens(*operands: Operand) -> frozenset[int]:
    """Return the tokens of all draws that operands depend on."""
    draws: set[int] = set()
    for x in operands:
        if isinstance(x, AbstractAverage):
            draws |= x.tokens
        elif isinstance(x, SoftIndex):
            draws.update(*(f.tokens for f in x.factors))
        elif isinstance(x, Pieces):
            draws |= tokens(*x.parts)
    return frozenset(draws)


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
    result stays soft, with the same weights; a float result is the weighted sum. At
    one-hot probabilities every result is the discrete program's.

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
        unbounded: The same draws without the bounds that soft parameters set to them,
            which have no effect on values that a program draws.

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
    unbounded: "SoftIndex | None" = None

    @property
    def table(self) -> Operand:
        """The values as an array: NumPy's if they are known while tracing."""
        if isinstance(self.values, Known):
            return self.values.array
        return self.values

    @property
    def known(self) -> bool:
        """Whether the values are known while tracing."""
        return isinstance(self.values, Known)

    @property
    def compact(self) -> bool:
        """Whether the values are known and the same at every position."""
        n = len(self.factors)
        return self.known and math.prod(self.table.shape[n:]) == 1

    def draws(self) -> list[Factor]:
        """Return its factors, each at the positions where the values depend on it."""
        if not isinstance(self.values, Known):
            return [*self.factors]
        table = self.values.array
        axes = tuple(range(len(self.factors)))
        return [
            factor.where(np.asarray((table != table.take([0], axis)).any(axes)))
            for axis, factor in enumerate(self.factors)
        ]

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
        shown: dict[str, ArrayLike] = {}
        if self.compact:
            shown["values"] = self.table
        if len(self.weights) == 1:
            shown["probabilities"] = self.weights[0]
        return _shown("SoftIndex", self, **shown)


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """A term of a sum.

    Args:
        sign: 1 or -1.
        operand: What is added or subtracted.
    """

    sign: int
    operand: Operand


class Values:
    """The values behind an average, which are computed when they are needed.

    Args:
        compute: Returns the values, as a soft value.
        terms: The terms, if it is a sum.

    Attributes:
        operands: The soft values that they are computed from, if they are known.
    """

    __slots__ = ("_compute", "_known", "_terms", "_trace", "operands")

    def __init__(
        self,
        compute: "Callable[[], AbstractSoft | Array]",
        terms: Sequence[Term] = (),
    ) -> None:
        self._compute = compute
        self._terms = tuple(terms)
        self._known: AbstractSoft | Array | None = None
        self.operands: tuple[Operand, ...] = ()
        # Inside a loop, they still belong to the trace that the average belongs to.
        self._trace = internals.current_trace()

    def __call__(self) -> "AbstractSoft | Array":
        """Return the values; a plain array if they are certain."""
        if self._known is None:
            with internals.set_current_trace(self._trace):
                self._known = self._compute()
        return self._known

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of a sum whose values nothing has asked for yet.

        Others may depend on the values once they are known: the sum is one draw then.
        """
        if self._known is None:
            return self._terms
        return ()


def unavailable(error: SharedDrawsError) -> Values:
    """Return the values behind a sum of values that share draws: they raise an error.

    Args:
        error: The error.
    """

    def compute() -> SoftIndex:
        raise error

    return Values(compute)


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
    program_dtype: DTypeLike = eqx.field(static=True)
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

    def exact(self, operation: str = "an operation on each of its values") -> Operand:
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
        >>> from numpyro_concrete.soft_index.interpreter import evaluate
        >>> z = soft_index("z", [0, 1], jnp.array([0.25, 0.75]))
        >>> float(evaluate(lambda z: 1.0 - z, z))
        0.25
        >>> table = jnp.array([4.0, 8.0])
        >>> float(evaluate(lambda z: table[(1.0 - z).astype(int)], z))
        5.0

    Counterpart: :class:`pyro_concrete.soft_index.SoftReal`.
    """


def guarded(soft: SoftReal) -> SoftReal:
    """Return an average whose values are not known: nothing can round or compare it.

    Args:
        soft: The average.
    """
    return SoftReal(soft.average, soft.program_dtype, soft.sites, soft.tokens)


class Unknown(AbstractAverage):
    """What a comparison or sign of an average gives, if its values are not known.

    It is refused where it is used: validation makes such truths, and cannot read them.
    """

    def number(self) -> Array:
        """Refuse to be a number."""
        raise TypeError(refusal(self.site, "comparing a mean that has no values"))


def _shown(name: str, soft: AbstractSoft, **fields: ArrayLike) -> str:
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

    parts: tuple[Operand, ...]
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


def named(*operands: Operand) -> str:
    """Return the names of the sites that operands depend on."""
    names: dict[str, None] = {}
    for x in operands:
        if isinstance(x, SoftIndex):
            names |= dict.fromkeys(f.site for f in x.factors)
        elif isinstance(x, AbstractSoft):
            names[x.site] = None
    parts = dict.fromkeys(p for name in names for p in name.split(" and "))
    return " and ".join(parts)


def is_soft(x: Operand) -> bool:
    """Tell whether a value stands for an integer, rather than being an array.

    Example:
        >>> is_soft(soft_index("z", [0, 1], jnp.ones(2) / 2)), is_soft(jnp.zeros(3))
        (True, False)
    """
    return isinstance(x, AbstractSoft)


def exact(x: Operand, operation: str = "an operation on each of its values") -> Operand:
    """Return an operand with the values behind its mean; others as they are."""
    if isinstance(x, AbstractAverage):
        return x.exact(operation)
    return x


def average_of(
    mean: Array, like: Sequence[Operand], dtype: DTypeLike, values: Values | None
) -> AbstractAverage:
    """Return an average that depends on some operands.

    Args:
        mean: The mean.
        like: The operands.
        dtype: Type that the discrete program's value has.
        values: The values behind the mean; None if they are not known.
    """
    average_type = SoftReal if jnp.issubdtype(dtype, jnp.inexact) else SoftNumber
    if values is not None and not values.operands:
        values.operands = tuple(x for x in like if is_soft(x))
    return average_type(mean, jnp.dtype(dtype), named(*like), tokens(*like), values)
