"""The trace in which a model or guide runs where it can hold soft values.

A JAX array cannot be subclassed, so a soft value is a tracer. A primitive that meets
one goes to the rules. What meets none goes to the surrounding trace as it is: compiled
code pays nothing for the trace.

Counterpart: none; torch dispatches on the value itself.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_concrete import internals
from numpyro_concrete.soft_index import registry
from numpyro_concrete.soft_index.algebra import listed_jointly
from numpyro_concrete.soft_index.elementwise import ELEMENTWISE
from numpyro_concrete.soft_index.joining import join_pieces
from numpyro_concrete.soft_index.loops import (
    choose_case,
    each_value,
    makes_floats,
    with_guards,
)
from numpyro_concrete.soft_index.registry import Operand, Params, Primitive, Result
from numpyro_concrete.soft_index.rules import apply
from numpyro_concrete.soft_index.shapes import SHAPES
from numpyro_concrete.soft_index.single import (
    ELEMENTWISE_CALLS,
    ELEMENTWISE_FUNCTIONS,
    JOINT_CALLS,
    on_each_value,
    on_elements,
    reads_soft_tables,
)
from numpyro_concrete.soft_index.tables import known_array, typed, words
from numpyro_concrete.soft_index.value import (
    Pieces,
    SoftIndex,
    SoftReal,
    exact,
    is_soft,
    named,
    refusal,
)

# A value in the hands of the program: a tracer, an array or a number.
ProgramValue = Any
Jaxpr = internals.Jaxpr | internals.ClosedJaxpr

_REPEATING = ("broadcast_in_dim", "convert_element_type")
_LOOPS = ("scan", "while", "cond")
# Primitives that call a function, and the parameter that holds it.
_CALLS = {"jit": "jaxpr", "closed_call": "call_jaxpr", "remat2": "jaxpr"}
# What is computed at once where all operands are known while tracing, up to this size.
_FOLDED = words(ELEMENTWISE + SHAPES) | words("""
    convert_element_type select_n broadcast_in_dim concatenate stack iota
    reduce_and reduce_or reduce_max reduce_min reduce_sum reduce_prod
""")  # fmt: skip
_LARGEST_FOLDED = 2**16
# Jitted functions of up to so many steps and elements are folded too, of integers up to
# more elements: they are indices, and which draws they select has to stay known.
_MOST_FOLDED_STEPS = 16
_LARGEST_FOLDED_OPERAND = 16
_LARGEST_FOLDED_INDEX = 2**14


# --- tracers --------------------------------------------------------------------------


class SoftTracer(internals.QuaxTracer):
    """A soft value in the hands of the program, which cannot read it as a number.

    Args:
        trace: The trace in which it is one.
        value: The soft value.
        has_weak_type: Whether the other operands of an operation decide its type, as
            with Python's numbers.
    """

    __slots__ = ("has_weak_type",)

    def __init__(
        self, trace: "SoftTrace", value: Operand, has_weak_type: bool = False
    ) -> None:
        super().__init__(trace, value)
        self.has_weak_type = has_weak_type

    @property
    def aval(self) -> internals.ShapedArray:
        aval: Any = super().aval
        return aval.update(weak_type=True) if self.has_weak_type else aval

    @property
    def site(self) -> str:
        return self.value.site  # ty: ignore[missing-attribute]

    def _read_integer(self, operation: str) -> np.ndarray:
        if isinstance(self.value, SoftIndex) and self.value.certain:
            return np.broadcast_to(self.value.table, self.value.extent)
        raise TypeError(refusal(self.site, operation))

    def _read_number(self, operation: str) -> np.ndarray:
        """Return the mean of a float, which is no draw; JAX refuses it under jit."""
        if isinstance(self.value, SoftReal):
            return np.asarray(self.value.average)
        return self._read_integer(operation)

    def __bool__(self) -> bool:
        return bool(self._read_integer("reading it as a truth value"))

    def __int__(self) -> int:
        return int(self._read_integer("reading it as a Python number"))

    def __float__(self) -> float:
        return float(self._read_number("reading it as a Python number"))

    def __index__(self) -> int:
        return int(self._read_integer("using it as a Python index or size"))

    def __hash__(self) -> int:
        self._read_integer("hashing it")
        raise TypeError("unhashable type: array")

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return repr(join_pieces(self.value))

    __str__ = __repr__

    def _origin_msg(self) -> str:
        # JAX ends its errors with it, as where a shape or size must be known.
        return "\n" + refusal(self.site, "reading it as a shape or size")

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        return self._read_number("reading it as a NumPy array")

    def item(self, *_: object) -> float:
        return self._read_number("reading it as a Python number").item()

    def tolist(self) -> list | float:
        return self._read_number("reading it as Python numbers").tolist()


def untraced(x: ProgramValue) -> Operand:
    """Return the soft value of a tracer; others as they are.

    Args:
        x: Any value.
    """
    if isinstance(x, SoftTracer):
        return x.value
    return x


# --- the trace ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Repetition:
    """An array of integers that repeats another along axes of its own.

    Args:
        array: The array; held, so that no other array gets its identity.
        source: What it repeats, with these axes of size one.
    """

    array: Array
    source: Array


class SoftTrace(internals.QuaxTrace):
    """A trace in which soft values meet the rules, and others the surrounding trace.

    Attributes:
        repetitions: Arrays that repeat another, by their identity.
    """

    __slots__ = ("repetitions",)

    def __init__(self, parent_trace: internals.Trace, tag: internals.TraceTag) -> None:
        super().__init__(parent_trace, tag)
        self.repetitions: dict[int, _Repetition] = {}

    def process_primitive(
        self, primitive: Primitive, tracers: Sequence[ProgramValue], params: Params
    ) -> Result:
        operands = [untraced(t) for t in tracers]
        if not any(map(is_soft, operands)):
            return self._apply_to_plain(primitive, operands, params)
        if primitive.name in _CALLS:
            return self._call(primitive, operands, params)
        if primitive.name == "cond" and is_soft(operands[0]):
            return self._choose_branch(params["branches"], operands)
        if primitive.name in _LOOPS:
            return self._loop(primitive, operands, params)
        with internals.set_current_trace(self.parent_trace):
            if primitive.name == "gather":
                operands = [operands[0], self._shorten_indices(operands[1])]
            result = apply(primitive, operands, params)
            return self.wrap(result, _has_weak_type(primitive, tracers, params))

    def wrap(self, result: Result, has_weak_type: bool = False) -> ProgramValue:
        """Return results as values of the program."""
        if isinstance(result, list | tuple):
            return [self.wrap(x, has_weak_type) for x in result]
        if is_soft(result):
            return SoftTracer(self, result, has_weak_type)
        return result

    def stage_value(self, val: ProgramValue) -> ProgramValue:
        if isinstance(val, SoftTracer):
            return val
        parent: Any = self.parent_trace
        return parent.stage_value(val)

    # --- functions, loops and branches ---

    def _call(
        self, primitive: Primitive, operands: list[Operand], params: Params
    ) -> list[ProgramValue]:
        """Run a jitted function: its steps, or the whole for each value."""
        name = params.get("name", "")
        jaxpr = params[_CALLS[primitive.name]]
        if name in ELEMENTWISE_CALLS or name in JOINT_CALLS:
            try:
                with internals.set_current_trace(self.parent_trace):
                    values = [exact(join_pieces(x)) for x in operands]
                    results = _call_on_values(primitive, values, params, jaxpr)
                    return self._wrap_results(results, jaxpr)
            except TypeError:
                pass  # values that are not known, or too many of them
        return self._run_steps(jaxpr, operands)

    def _run_steps(self, jaxpr: Jaxpr, operands: list[Operand]) -> list[ProgramValue]:
        if not isinstance(jaxpr, internals.ClosedJaxpr):
            jaxpr = internals.ClosedJaxpr(jaxpr, ())
        with internals.set_current_trace(self):
            results = internals.jaxpr_as_fun(jaxpr)(*self.wrap(operands))
            return self._wrap_results(map(untraced, results), jaxpr)

    def _wrap_results(
        self, results: Iterable[Operand], jaxpr: internals.ClosedJaxpr
    ) -> list[ProgramValue]:
        """Return results of a function as values, with the types that it has."""
        return [
            self.wrap(result, aval.weak_type)
            for result, aval in zip(results, jaxpr.out_avals, strict=True)
        ]

    def _loop(
        self, primitive: Primitive, operands: list[Operand], params: Params
    ) -> ProgramValue:
        """Run a loop on each joint value, or on integers with their weights.

        Floats that it carries are means then, which it cannot round or compare.
        """
        operands = [join_pieces(x) for x in operands]
        with internals.set_current_trace(self.parent_trace):
            if primitive.name != "cond" and makes_floats(params):
                results = each_value(primitive, operands, params)
                if results is not None:
                    return self.wrap(results)
            operands = with_guards(primitive, operands, params)
            loop_rule = registry.RULES[primitive.name]
            return self.wrap(loop_rule(primitive, operands, params))

    def _choose_branch(
        self, branches: Sequence[Jaxpr], operands: list[Operand]
    ) -> list[ProgramValue]:
        """Choose between the results of all branches by a soft value."""
        which, *arguments = operands
        results_by_branch = [
            map(untraced, self._run_steps(branch, arguments)) for branch in branches
        ]
        with internals.set_current_trace(self.parent_trace):
            results = [
                choose_case(which, cases)
                for cases in zip(*results_by_branch, strict=True)
            ]
        return self.wrap(results)

    # --- functions with derivatives of their own ---

    def process_custom_jvp_call(
        self,
        primitive: Primitive,
        fun: internals.WrappedFunction,
        jvp: internals.WrappedFunction,
        tracers: Sequence[ProgramValue],
        **params: Any,
    ) -> Result:
        operands = [untraced(t) for t in tracers]
        return self._call_custom(primitive, (fun, jvp), operands, params)

    def process_custom_vjp_call(
        self,
        primitive: Primitive,
        fun: internals.WrappedFunction,
        fwd: internals.WrappedFunction,
        bwd: Callable,
        tracers: Sequence[ProgramValue],
        **params: Any,
    ) -> Result:
        # A rule for gradients, such as a straight-through one, is one of floats.
        operands = [untraced(t) for t in tracers]
        operands = [x.average if isinstance(x, SoftReal) else x for x in operands]
        return self._call_custom(primitive, (fun, fwd, bwd), operands, params)

    def _call_custom(
        self,
        primitive: Primitive,
        functions: tuple[Any, ...],
        operands: list[Operand],
        params: Params,
    ) -> Result:
        has_soft_operands = any(map(is_soft, operands))
        if has_soft_operands and functions[0].__name__ in ELEMENTWISE_FUNCTIONS:
            with internals.set_current_trace(self.parent_trace):
                return self.wrap(_call_elementwise(functions[0], operands))
        if has_soft_operands or _captures_soft_values(functions[0]):
            # The function of the support's values, which have no derivative.
            with internals.set_current_trace(self):
                return functions[0].call_wrapped(*self.wrap(operands))
        params = {**params, "subfuns": functions}
        avals = tuple(internals.typeof(x) for x in operands)
        parent = self.parent_trace
        with internals.set_current_trace(parent):
            return primitive.bind_with_trace(parent, tuple(operands), avals, params)

    # --- plain operands ---

    def _apply_to_plain(
        self, primitive: Primitive, operands: list[Operand], params: Params
    ) -> Result:
        if primitive.name == "jit" and _is_folded_call(params["jaxpr"], operands):
            return self._run_steps(params["jaxpr"], operands)
        # Constants stay known under jit: z == 2 then has a known value.
        trace = self.parent_trace
        if _is_folded(primitive, operands, params):
            trace = internals.eval_trace
        with internals.set_current_trace(trace):
            result = primitive.bind(*operands, **params)
            if primitive.name in _REPEATING and known_array(result) is None:
                axes = params.get("broadcast_dimensions", range(result.ndim))
                self._note_repetition(result, operands[0], axes)
        return result

    def _note_repetition(
        self, result: Array, operand: Operand, axes: Sequence[int]
    ) -> None:
        """Note what an array of integers repeats, whose axes become these of it."""
        if not jnp.issubdtype(result.dtype, jnp.integer):
            return
        shorter = self._shorten(operand)
        source = jnp.asarray(shorter.table if is_soft(shorter) else operand)
        sizes = [1] * result.ndim
        for axis, size in zip(axes, source.shape, strict=True):
            sizes[axis] = size
        source = source.reshape(sizes).astype(result.dtype)
        self.repetitions[id(result)] = _Repetition(result, source)

    def _shorten_indices(self, indices: Operand) -> Operand:
        """Return indices of several axes, for a lookup, the plain ones in short."""
        if not isinstance(indices, Pieces):
            return indices
        if indices.axis < len(indices.aval().shape) - 1:
            return indices
        return Pieces(tuple(map(self._shorten, indices.parts)), indices.axis)

    def _shorten(self, x: Operand) -> Operand:
        """Return the same array with its repetitions left out, if that is shorter."""
        repetition = self.repetitions.get(id(x))
        if repetition is None or repetition.source.size == repetition.array.size:
            return x
        return SoftIndex(repetition.source, (), (), repetition.array.shape)


def _has_weak_type(
    primitive: Primitive, tracers: Sequence[ProgramValue], params: Params
) -> bool:
    """Whether JAX gives a weak type to the result of a primitive."""
    if primitive.name == "convert_element_type":
        return params["weak_type"]
    avals = [internals.typeof(x) for x in tracers]
    of_result = avals[1:] if primitive.name == "select_n" else avals
    if primitive.multiple_results or not all(x.weak_type for x in of_result):
        return False
    result, *_ = primitive.abstract_eval(*avals, **params)
    return result.weak_type


def _call_on_values(
    primitive: Primitive,
    values: list[Operand],
    params: Params,
    jaxpr: internals.ClosedJaxpr,
) -> list[Operand]:
    """Return what a jitted function gives for each value of its operands."""
    name = params["name"]
    is_elementwise = name in ELEMENTWISE_CALLS and len(jaxpr.out_avals) == 1
    if is_elementwise and not reads_soft_tables(name, values):
        function = internals.jaxpr_as_fun(jaxpr)
        shape = jaxpr.out_avals[0].shape
        return [on_elements(lambda *x: function(*x)[0], values, shape)]
    jointly = listed_jointly(values)
    if jointly is None:
        raise TypeError(refusal(named(*values), name))
    return on_each_value(primitive, jointly, params)


def _captures_soft_values(function: internals.WrappedFunction) -> bool:
    """Tell whether a function with derivatives of its own closes over soft values."""
    captured = internals.captured_tracers(function)
    return any(isinstance(x, SoftTracer) for x in captured)


def _call_elementwise(
    function: internals.WrappedFunction, operands: list[Operand]
) -> list[Operand]:
    """Return what an elementwise function with its own derivative gives for values."""
    values = [exact(join_pieces(x), function.__name__) for x in operands]
    shape = np.broadcast_shapes(*(typed(x).shape for x in values))
    return [on_elements(lambda *x: function.call_wrapped(*x)[0], values, shape)]


def _is_folded(
    primitive: Primitive, operands: Sequence[Operand], params: Params
) -> bool:
    """Whether a primitive is computed at once, as all operands are known."""
    if primitive.name not in _FOLDED:
        return False
    makes_array = primitive.name in ("iota", "broadcast_in_dim")
    if makes_array and math.prod(params["shape"]) > _LARGEST_FOLDED:
        return False
    return all(known_array(x) is not None for x in operands)


def _is_folded_call(jaxpr: internals.ClosedJaxpr, operands: Sequence[Operand]) -> bool:
    """Whether a jitted function is a few steps with constants, such as a remainder."""
    if len(jaxpr.jaxpr.eqns) > _MOST_FOLDED_STEPS:
        return False
    return all(map(_is_small_and_known, operands))


def _is_small_and_known(x: Operand) -> bool:
    array = known_array(x)
    if array is None:
        return False
    is_index = array.dtype.kind in "iub"
    return array.size <= (
        _LARGEST_FOLDED_INDEX if is_index else _LARGEST_FOLDED_OPERAND
    )
