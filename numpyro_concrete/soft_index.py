"""SoftBit: the relaxed value of a two-valued site, which cannot be cast by mistake.

A relaxed Bernoulli is a number between 0 and 1. Compared, cast to a boolean or used as
an index it would lose its gradient and its meaning without a word. A `SoftBit` is that
number in the place of the integer that the program expects, with a guard: arithmetic
sees the number, and whatever would round it raises an error that names the site and the
ways out. At 0 and 1 every result equals the discrete program's.

A JAX array cannot be subclassed, so the program runs under an interpreter (quax) that
knows this one extra value. It works on the trace: compiled code pays nothing for it.

Twin: ``pyro_concrete.soft_index``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import quax
from jax import Array, lax
from jax.typing import ArrayLike

# The interpreter's boundary is not public in quax nor in jax: this is all of it, and
# `Interpreter` with its trace is the only user. pyproject.toml bounds both versions.
from jax._src import core  # isort: skip
from quax._trace import _QuaxTrace, _QuaxTracer  # isort: skip
from quax._values import _DenseArrayValue  # isort: skip


def refusal(site: str, operation: str) -> str:
    """Return the message for an operation that has no relaxation.

    Args:
        site: Name of the relaxed site.
        operation: What the program tried to do with its value.
    """
    return (
        f"site {site!r} is relaxed: its value is between 0 and 1, and {operation} "
        "would round it and lose the gradient. Leave the site out with "
        "infer={'relax': False} or enumerate it with infer={'enumerate': 'parallel'}; "
        "or, where the relaxed number itself is meant, take it with 1.0 * value"
    )


def _operator(function: Callable) -> Callable:
    def operator(self: "SoftBit", *others: Any) -> Any:
        if any(isinstance(x, SoftBit) for x in others):
            return quax.quaxify(function)(self, *others)
        # Shapes, axes and indices stay known, as constants.
        return quax.quaxify(lambda x: function(x, *others))(self)

    return operator


def _reflected(function: Callable) -> Callable:
    def operator(self: "SoftBit", other: Any) -> Any:
        return quax.quaxify(lambda x: function(other, x))(self)

    return operator


def _unreadable(self: Any, *_: Any) -> None:
    raise TypeError(refusal(self.site, "reading it as a Python number"))


class SoftBit(quax.ArrayValue):
    """A number in [0, 1] that stands for a bit: the relaxed value of a Bernoulli site.

    To the program it is an integer array, as the site's samples are. Where there is no
    interpreter, under `handlers.reparam`, it has the operators of an array, and JAX's
    functions refuse it as no array at all.

    Shapes:
        value: any; the shape of the site.

    Args:
        value: Relaxed value in [0, 1].
        site: Name of the sample site, for errors.

    Raises:
        TypeError: When it is compared, cast to a boolean, used as an index or
            condition, or read as a Python number.

    Example:
        >>> z = SoftBit(jnp.array(0.25), "z")
        >>> float(quax.quaxify(lambda z: 2.0 * z)(z))
        0.5
        >>> quax.quaxify(lambda z: z == 1)(z)
        Traceback (most recent call last):
        TypeError: site 'z' is relaxed: its value is between 0 and 1, and eq would ...

    Twin: :class:`pyro_concrete.soft_index.SoftBit`.
    """

    value: Array
    site: str = eqx.field(static=True)

    __add__ = __radd__ = _operator(jnp.add)
    __mul__ = __rmul__ = _operator(jnp.multiply)
    __sub__, __rsub__ = _operator(jnp.subtract), _reflected(jnp.subtract)
    __truediv__, __rtruediv__ = _operator(jnp.divide), _reflected(jnp.divide)
    __matmul__, __rmatmul__ = _operator(jnp.matmul), _reflected(jnp.matmul)
    __pow__, __neg__ = _operator(jnp.power), _operator(jnp.negative)
    __eq__, __ne__ = _operator(jnp.equal), _operator(jnp.not_equal)
    __lt__, __le__ = _operator(jnp.less), _operator(jnp.less_equal)
    __gt__, __ge__ = _operator(jnp.greater), _operator(jnp.greater_equal)
    __and__ = __rand__ = _operator(jnp.bitwise_and)
    __or__ = __ror__ = _operator(jnp.bitwise_or)
    __invert__ = _operator(jnp.invert)
    __getitem__ = _operator(lambda x, index: x[index])
    astype, reshape = _operator(jnp.astype), _operator(jnp.reshape)
    sum, mean = _operator(jnp.sum), _operator(jnp.mean)
    __bool__ = __int__ = __float__ = __index__ = item = tolist = _unreadable
    __hash__ = object.__hash__

    def aval(self) -> core.ShapedArray:
        """Return what the program sees: an integer array."""
        return core.ShapedArray(jnp.shape(self.value), jnp.result_type(int))

    def materialise(self) -> Array:
        """Refuse to become an integer array."""
        raise TypeError(refusal(self.site, "reading it as an integer"))

    @staticmethod
    def default(
        primitive: Any,
        values: Sequence[Any],
        params: dict[str, Any],
    ) -> "ArrayLike | SoftBit | list[SoftBit]":
        """Let arithmetic see the number, and refuse what would round it."""
        name = primitive.name
        site = " and ".join(
            dict.fromkeys(x.site for x in values if isinstance(x, SoftBit))
        )
        if name == "convert_element_type":
            return _convert(values[0], params["new_dtype"])
        if name in ("eq", "ne") and _same(*values):
            # x == x asks for NaN, as the hosts' validation does.
            return primitive.bind(values[0].value, values[1].value, **params)
        rule = _RULES.get(name)
        # The pick of a select and the indices of a lookup stay what they are.
        fixed = _FIXED.get(name, slice(0))
        if rule is None or any(isinstance(x, SoftBit) for x in values[fixed]):
            raise TypeError(refusal(site, name))
        dtype = jnp.result_type(*(x.value for x in values if isinstance(x, SoftBit)))
        numbers = [_number(x, dtype) for x in values]
        numbers[fixed] = values[fixed]
        result = rule(primitive, numbers, params)
        if primitive.multiple_results:
            return [SoftBit(x, site) for x in result]
        return SoftBit(result, site)


class _SoftTracer(_QuaxTracer):
    """A soft bit in the hands of the program, which cannot read it as a number."""

    __slots__ = ()

    @property
    def site(self) -> str:
        return self.value.site  # ty: ignore[missing-attribute]

    __bool__ = __int__ = __float__ = __index__ = item = tolist = _unreadable
    __array__ = _unreadable


class _SoftTrace(_QuaxTrace):
    """quax's trace, whose soft results say their site when they are misread."""

    __slots__ = ()

    def process_primitive(
        self, primitive: Any, tracers: Sequence[Any], params: dict[str, Any]
    ) -> Any:
        result = super().process_primitive(primitive, tracers, params)
        return jax.tree.map(self._named, result)

    def _named(self, x: Any) -> Any:
        soft = isinstance(x, _QuaxTracer) and isinstance(x.value, SoftBit)
        return _SoftTracer(self, x.value) if soft else x


class Interpreter:
    """The trace under which a program can hold soft bits; a context manager.

    Example:
        >>> with Interpreter() as interpreter:
        ...     z = interpreter.lift(SoftBit(jnp.array(0.25), "z"))
        ...     result = interpreter.lower(2.0 * z)
        >>> float(result)
        0.5
    """

    def __enter__(self) -> "Interpreter":
        self._take = core.take_current_trace()
        self._trace = _SoftTrace(self._take.__enter__(), core.TraceTag())
        self._set = core.set_current_trace(self._trace)
        self._set.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._set.__exit__(*error)
        self._take.__exit__(*error)

    def outside(self) -> Any:
        """Return a context manager for work in the surrounding trace."""
        return core.set_current_trace(self._trace.parent_trace)

    def lift(self, soft: SoftBit) -> Array:
        """Return a soft bit as a value that the program can compute with."""
        return _SoftTracer(self._trace, soft)

    def is_soft(self, x: Any) -> bool:
        """Tell whether a value of the program is a soft bit."""
        return self._ours(x) and isinstance(x.value, SoftBit)

    def lower(self, tree: Any) -> Any:
        """Return the values of the program as plain arrays of the surrounding trace."""
        if not any(self._ours(x) for x in jax.tree.leaves(tree)):
            return tree
        return jax.tree.map(self._plain, tree)

    def _ours(self, x: Any) -> bool:
        return isinstance(x, _QuaxTracer) and x._trace.tag is self._trace.tag

    def _plain(self, x: Any) -> Any:
        if not self._ours(x):
            return x
        dense = type(x.value) is _DenseArrayValue
        return x.value.array if dense else x.value.value


# --- rules: primitives that keep an integer an integer ------------------------------


def _as_it_is(
    primitive: Any, numbers: Sequence[Array], params: dict[str, Any]
) -> Array:
    return primitive.bind(*numbers, **params)


def _dot(_: Any, numbers: Sequence[Array], params: dict[str, Any]) -> Array:
    return lax.dot_general(numbers[0], numbers[1], params["dimension_numbers"])


def _sum(_: Any, numbers: Sequence[Array], params: dict[str, Any]) -> Array:
    return numbers[0].sum(params["axes"])


def _gather(_: Any, numbers: Sequence[Array], params: dict[str, Any]) -> Array:
    kept = ("dimension_numbers", "slice_sizes", "mode")
    return lax.gather(numbers[0], numbers[1], **{k: params[k] for k in kept})


_NAMES = """
    add sub mul neg integer_pow cumsum broadcast_in_dim reshape squeeze transpose rev
    slice dynamic_slice concatenate pad select_n copy split tile stack unstack
"""
_RULES: dict[str, Callable] = {
    **dict.fromkeys(_NAMES.split(), _as_it_is),
    "dot_general": _dot,
    "reduce_sum": _sum,
    "gather": _gather,
}
_FIXED = {"select_n": slice(1), "gather": slice(1, 2), "dynamic_slice": slice(1, None)}


def _same(a: ArrayLike | SoftBit, b: ArrayLike | SoftBit) -> bool:
    both = isinstance(a, SoftBit) and isinstance(b, SoftBit)
    return both and a.value is b.value


def _convert(soft: SoftBit, dtype: Any) -> ArrayLike | SoftBit:
    if jnp.issubdtype(dtype, jnp.floating):
        return soft.value.astype(dtype)
    if jnp.issubdtype(dtype, jnp.integer):
        return soft
    raise TypeError(refusal(soft.site, f"a cast to {jnp.dtype(dtype)}"))


def _number(x: ArrayLike | SoftBit, dtype: Any) -> Array:
    """The operand as a number of the precision that soft bits have."""
    return jnp.asarray(x.value if isinstance(x, SoftBit) else x, dtype)
