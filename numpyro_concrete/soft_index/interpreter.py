"""The interpreter under which a program can hold soft values.

A JAX array cannot be subclassed, so the program runs under a trace that knows these
extra values. What meets no soft value goes to the surrounding trace as it is: compiled
code pays nothing for the interpreter.

Counterpart: none; torch dispatches on the value itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_concrete.soft_index import internals
from numpyro_concrete.soft_index.algebra import concrete, listed_jointly, typed
from numpyro_concrete.soft_index.draws import SharedDrawsError
from numpyro_concrete.soft_index.loops import RULES as LOOPS
from numpyro_concrete.soft_index.loops import (
    chosen,
    each_value,
    makes_floats,
    with_guards,
)
from numpyro_concrete.soft_index.rules import FOLDED, apply, joined
from numpyro_concrete.soft_index.single import (
    ELEMENTWISE_CALLS,
    ELEMENTWISE_FUNCTIONS,
    JOINT_CALLS,
    on_each_value,
    on_elements,
    reads_soft_tables,
)
from numpyro_concrete.soft_index.value import (
    Pieces,
    SoftIndex,
    SoftNumber,
    SoftReal,
    Values,
    average_of,
    exact,
    guarded,
    is_soft,
    named,
    refusal,
    unavailable,
)

_REPEATING = ("broadcast_in_dim", "convert_element_type")
_CALLS = {"jit": "jaxpr", "closed_call": "call_jaxpr", "remat2": "jaxpr"}


class _SoftTracer(internals.QuaxTracer):
    """A soft value in the hands of the program, which cannot read it as a number."""

    __slots__ = ()

    @property
    def site(self) -> str:
        return self.value.site  # ty: ignore[missing-attribute]

    def _read(self, what: str) -> np.ndarray:
        if isinstance(self.value, SoftIndex) and self.value.certain:
            return np.broadcast_to(self.value.table, self.value.extent)
        raise TypeError(refusal(self.site, what))

    def _read_float(self, what: str) -> np.ndarray:
        """The mean of a float, as of one that is no draw; JAX refuses it under jit."""
        if isinstance(self.value, SoftReal):
            return np.asarray(self.value.average)
        return self._read(what)

    def __bool__(self) -> bool:
        return bool(self._read("reading it as a truth value"))

    def __int__(self) -> int:
        return int(self._read("reading it as a Python number"))

    def __float__(self) -> float:
        return float(self._read_float("reading it as a Python number"))

    def __index__(self) -> int:
        return int(self._read("using it as a Python index or size"))

    def __hash__(self) -> int:
        self._read("hashing it")
        raise TypeError("unhashable type: array")

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return repr(
            joined(self.value) if isinstance(self.value, Pieces) else self.value
        )

    __str__ = __repr__

    def _origin_msg(self) -> str:
        # JAX ends its errors with it, as where a shape or size must be known.
        return "\n" + refusal(self.site, "reading it as a shape or size")

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return self._read_float("reading it as a NumPy array")

    def item(self, *_: Any) -> Any:
        return self._read_float("reading it as a Python number").item()

    def tolist(self) -> Any:
        return self._read_float("reading it as Python numbers").tolist()


class _SoftTrace(internals.QuaxTrace):
    """A trace in which soft values meet the rules, and others the surrounding trace.

    Attributes:
        repeated: By its identity, an array of integers that repeats another along axes
            of its own, and that other with these axes of size one.
    """

    __slots__ = ("repeated",)

    def process_primitive(
        self, primitive: Any, tracers: Sequence[Any], params: dict[str, Any]
    ) -> Any:
        values = [_value(t) for t in tracers]
        if not any(map(is_soft, values)):
            return self._plain(primitive, values, params)
        if primitive.name in _CALLS:
            return self._called(primitive, params, values)
        if primitive.name == "cond" and is_soft(values[0]):
            return self._branches(params["branches"], values)
        if primitive.name in LOOPS:
            return self._loop(primitive, values, params)
        with internals.set_current_trace(self.parent_trace):
            if primitive.name == "gather":
                values = [values[0], self._shortened(values[1])]
            return self.wrapped(apply(primitive, values, params))

    def _called(self, primitive: Any, params: dict[str, Any], values: list[Any]) -> Any:
        """Run a jitted function: its steps, or the whole for each value."""
        name, jaxpr = params.get("name", ""), params[_CALLS[primitive.name]]
        if name in ELEMENTWISE_CALLS or name in JOINT_CALLS:
            try:
                with internals.set_current_trace(self.parent_trace):
                    known = [exact(whole(x)) for x in values]
                    return self.wrapped(_whole_call(primitive, params, jaxpr, known))
            except TypeError:
                pass  # values that are not known, or too many of them
        return self._inlined(jaxpr, values)

    def _loop(self, primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
        """Run a loop on each joint value, or on integers with their weights.

        Floats that it carries are means then, which it cannot round or compare.
        """
        values = [whole(x) for x in values]
        with internals.set_current_trace(self.parent_trace):
            if primitive.name != "cond" and makes_floats(params):
                out = each_value(primitive, values, params)
                if out is not None:
                    return self.wrapped(out)
            values = with_guards(primitive, values, params)
            return self.wrapped(LOOPS[primitive.name](primitive, values, params))

    def _branches(self, branches: Sequence[Any], values: list[Any]) -> list[Any]:
        """Choose between the results of all branches by a soft value."""
        which, *operands = values
        cases = [map(_value, self._inlined(b, operands)) for b in branches]
        with internals.set_current_trace(self.parent_trace):
            out = [chosen(which, each) for each in zip(*cases, strict=True)]
        return self.wrapped(out)

    def stage_value(self, val: Any) -> Any:
        if isinstance(val, _SoftTracer):
            return val
        parent: Any = self.parent_trace
        return parent.stage_value(val)

    def process_custom_jvp_call(
        self,
        primitive: Any,
        fun: Any,
        jvp: Any,
        tracers: Sequence[Any],
        **params: Any,
    ) -> Any:
        return self._custom(primitive, (fun, jvp), tracers, params)

    def process_custom_vjp_call(
        self,
        primitive: Any,
        fun: Any,
        fwd: Any,
        bwd: Any,
        tracers: Sequence[Any],
        **params: Any,
    ) -> Any:
        return self._custom(primitive, (fun, fwd, bwd), tracers, params)

    def _custom(
        self, primitive: Any, functions: Any, tracers: Any, params: dict[str, Any]
    ) -> Any:
        values = [_value(t) for t in tracers]
        if primitive.name != "custom_jvp_call":
            # A rule for gradients, such as a straight-through one, is one of floats.
            values = [x.average if isinstance(x, SoftReal) else x for x in values]
        if any(map(is_soft, values)):
            if functions[0].__name__ in ELEMENTWISE_FUNCTIONS:
                with internals.set_current_trace(self.parent_trace):
                    return self.wrapped(_elementwise_call(functions[0], values))
            # The function of the support's values, which have no derivative.
            with internals.set_current_trace(self):
                return functions[0].call_wrapped(*self.wrapped(values))
        params = dict(params, subfuns=functions)
        avals = tuple(internals.typeof(x) for x in values)
        parent = self.parent_trace
        with internals.set_current_trace(parent):
            return primitive.bind_with_trace(parent, tuple(values), avals, params)

    def wrapped(self, out: Any) -> Any:
        """Return results as values of the program."""
        if isinstance(out, list | tuple):
            return [self.wrapped(x) for x in out]
        return _SoftTracer(self, out) if is_soft(out) else out

    def _plain(self, primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
        # Constants stay known under jit: z == 2 then has a known value.
        trace = self.parent_trace
        if primitive.name in FOLDED and _small(primitive, params):
            if all(concrete(x) is not None for x in values):
                trace = internals.eval_trace
        elif primitive.name == "jit" and _tiny(params["jaxpr"], values):
            return self._inlined(params["jaxpr"], values)
        with internals.set_current_trace(trace):
            out = primitive.bind(*values, **params)
            if primitive.name in _REPEATING and concrete(out) is None:
                self._repeat(out, values[0], params.get("broadcast_dimensions"))
        return out

    def _repeat(self, out: Any, x: Any, axes: Sequence[int] | None) -> None:
        """Note what an array of integers repeats, on these axes or on its own."""
        if not jnp.issubdtype(out.dtype, jnp.integer):
            return
        short = self._short(x)
        x = jnp.asarray(short.table if is_soft(short) else x)
        sizes = [1] * out.ndim
        for axis, n in zip(
            range(out.ndim) if axes is None else axes, x.shape, strict=True
        ):
            sizes[axis] = n
        self.repeated[id(out)] = out, x.reshape(sizes).astype(out.dtype)

    def _shortened(self, indices: Any) -> Any:
        """Indices of several axes, for a lookup: the plain ones in short."""
        by_axis = isinstance(indices, Pieces)
        if not by_axis or indices.axis < len(indices.aval().shape) - 1:
            return indices
        return Pieces(tuple(map(self._short, indices.parts)), indices.axis)

    def _short(self, x: Any) -> Any:
        """The same array with its repetitions left out, where that is shorter."""
        out, short = self.repeated.get(id(x), (None, None))
        if out is None or short.size == out.size:
            return x
        return SoftIndex(short, (), (), out.shape)

    def _inlined(self, jaxpr: Any, values: list[Any]) -> Any:
        if not isinstance(jaxpr, internals.ClosedJaxpr):
            jaxpr = internals.ClosedJaxpr(jaxpr, ())
        with internals.set_current_trace(self):
            return internals.jaxpr_as_fun(jaxpr)(*self.wrapped(values))


def _whole_call(
    primitive: Any, params: dict[str, Any], jaxpr: Any, values: list[Any]
) -> list[Any]:
    """What a jitted function gives for each value of its operands."""
    name = params["name"]
    elementwise = name in ELEMENTWISE_CALLS and len(jaxpr.out_avals) == 1
    if elementwise and not reads_soft_tables(name, values):
        function = internals.jaxpr_as_fun(jaxpr)
        shape = jaxpr.out_avals[0].shape
        return [on_elements(lambda *x: function(*x)[0], values, shape)]
    jointly = listed_jointly(values)
    if jointly is None:
        raise TypeError(refusal(named(*values), name))
    return on_each_value(primitive, jointly, params)


def _elementwise_call(function: Any, values: list[Any]) -> list[Any]:
    """What an elementwise function with its own derivative gives for each value."""
    values = [exact(whole(x), function.__name__) for x in values]
    shape = np.broadcast_shapes(*(typed(x).shape for x in values))
    return [on_elements(lambda *x: function.call_wrapped(*x)[0], values, shape)]


def _small(primitive: Any, params: dict[str, Any]) -> bool:
    if primitive.name in ("iota", "broadcast_in_dim"):
        return int(np.prod(params["shape"])) <= 2**16
    return True


def _tiny(jaxpr: Any, values: Sequence[Any]) -> bool:
    """Whether a jitted function is a few steps with constants, such as a remainder."""
    if len(jaxpr.jaxpr.eqns) > 16:
        return False
    known = (concrete(x) for x in values)
    return all(x is not None and x.size <= 16 for x in known)


def _value(x: Any) -> Any:
    return x.value if isinstance(x, _SoftTracer) else x


def whole(x: Any) -> Any:
    """Return a value that is in pieces as one."""
    return joined(x) if isinstance(x, Pieces) else x


def _real(soft: Any) -> Any:
    """A float with known values is an average in the hands of a program."""
    if not isinstance(soft, SoftIndex) or not jnp.issubdtype(
        soft.table.dtype, jnp.inexact
    ):
        return soft
    return average_of(soft.number(), [soft], soft.table.dtype, Values(lambda: soft))


def value_of(x: Any) -> Any:
    """Return what an interpreter's value is, whichever interpreter made it."""
    return whole(_value(x))


def read(x: Any) -> Any:
    """Return the value in a form that any trace can hold: a tree of plain arrays.

    Floats become means with a guard. A count becomes its values, where they are known.
    """
    soft = value_of(x)
    if isinstance(soft, SoftReal):
        return guarded(soft)
    if not isinstance(soft, SoftNumber) or soft.values is None:
        return soft
    try:
        return soft.exact()
    except SharedDrawsError as error:
        values = unavailable(error)
        return SoftNumber(soft.average, soft.dtype, soft.sites, soft.tokens, values)
    except TypeError:
        return SoftNumber(soft.average, soft.dtype, soft.sites, soft.tokens)


class Interpreter:
    """The trace under which a program can hold soft values; a context manager.

    Example:
        >>> from numpyro_concrete.soft_index import soft_index
        >>> with Interpreter() as interpreter:
        ...     z = interpreter.lift(soft_index("z", [0, 1], jnp.array([0.75, 0.25])))
        ...     result = interpreter.lower(2.0 * z)
        >>> float(result)
        0.5
    """

    def __enter__(self) -> "Interpreter":
        self._take = internals.take_current_trace()
        self._trace = _SoftTrace(self._take.__enter__(), internals.TraceTag())
        self._trace.repeated = {}
        self._set = internals.set_current_trace(self._trace)
        self._set.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._set.__exit__(*error)
        self._take.__exit__(*error)

    def outside(self) -> Any:
        """Return a context manager for work in the surrounding trace."""
        return internals.set_current_trace(self._trace.parent_trace)

    def lift(self, tree: Any) -> Any:
        """Return soft values as values that the program can compute with."""
        return jax.tree.map(
            lambda x: _SoftTracer(self._trace, _real(x)) if is_soft(x) else x,
            tree,
            is_leaf=is_soft,
        )

    def drop(self, tree: Any) -> Any:
        """Return the values of the program with soft values in the place of tracers."""
        if not any(self.is_soft(x) for x in jax.tree.leaves(tree)):
            return tree
        with self.outside():
            return jax.tree.map(read, tree)

    def is_soft(self, x: Any) -> bool:
        """Tell whether a value of the program depends on soft integers."""
        return isinstance(x, _SoftTracer)

    def lower(self, tree: Any) -> Any:
        """Return the values of the program as plain arrays: soft ones as their mean."""
        if not any(self.is_soft(x) for x in jax.tree.leaves(tree)):
            return tree
        with self.outside():
            return jax.tree.map(plain, tree)


def plain(x: Any) -> Any:
    """Return a value of the program as plain numbers: a constant, or the mean.

    This is how a program asks for the mean of a soft value.

    Args:
        x: Any value.

    Example:
        >>> from numpyro_concrete.soft_index import soft_index
        >>> float(plain(soft_index("z", [0, 1], jnp.array([0.25, 0.75]))))
        0.75

    Counterpart: :func:`pyro_concrete.soft_index.plain`.
    """
    soft = value_of(x)
    if not is_soft(soft):
        return x
    if isinstance(soft, SoftIndex) and soft.certain:
        return soft.materialise()
    return soft.number()


def evaluate(function: Callable, *args: Any) -> Any:
    """Return what a function gives for soft values, outside of any program.

    Args:
        function: A function of JAX.
        args: Its arguments, of which some are soft.

    Example:
        >>> from numpyro_concrete.soft_index import soft_index
        >>> z = soft_index("z", [0, 1], jnp.array([0.75, 0.25]))
        >>> float(evaluate(jnp.exp, evaluate(lambda z: 0 * z, z)))
        1.0
    """
    with Interpreter() as interpreter:
        result = interpreter.drop(function(*interpreter.lift(args)))
    return jax.tree.map(
        lambda x: x.average if isinstance(x, SoftReal) else x, result, is_leaf=is_soft
    )
