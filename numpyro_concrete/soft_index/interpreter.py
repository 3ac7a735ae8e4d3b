"""The interpreter under which a model or guide can hold soft values.

It makes tracers of the soft values that a function takes, and soft or plain values of
the tracers that it returns. What tracers do in between is in ``trace.py``.

Five functions convert the values of a program, of which the soft ones are tracers:

========================  =========================================================
`value_of`                the soft value itself, whichever interpreter made it
`read`                    the same, in a form that crosses into another trace: the
                          values behind an average are computed or left out
`Interpreter.drop`        `read`, for a tree, in the surrounding trace
`plain`                   the mean as a plain array
`Interpreter.as_means`    `plain`, for a tree, in the surrounding trace
========================  =========================================================

Counterpart: none; torch dispatches on the value itself.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from numpyro_concrete import internals
from numpyro_concrete.soft_index import registry
from numpyro_concrete.soft_index.draws import SharedDrawsError
from numpyro_concrete.soft_index.joining import join_pieces
from numpyro_concrete.soft_index.registry import Operand
from numpyro_concrete.soft_index.trace import (
    ProgramValue,
    SoftTrace,
    SoftTracer,
    untraced,
)
from numpyro_concrete.soft_index.value import (
    SoftIndex,
    SoftNumber,
    SoftReal,
    Values,
    average_of,
    guarded,
    is_soft,
    unavailable,
)

# A tree of JAX: of values of the program, or of soft and plain values.
Tree = Any


# --- values of the program ------------------------------------------------------------


def value_of(x: ProgramValue) -> Operand:
    """Return what an interpreter's value is, whichever interpreter made it.

    Args:
        x: Any value.
    """
    return join_pieces(untraced(x))


def read(x: ProgramValue) -> Operand:
    """Return the soft value in a form that any trace can hold: a tree of plain arrays.

    The functions that compute the values behind an average belong to one trace, and are
    left out. So a float becomes its mean, with a guard that raises an error where its
    values are needed. A count becomes its values, if they can be computed now.

    Args:
        x: Any value.
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
        return SoftNumber(
            soft.average, soft.program_dtype, soft.sites, soft.tokens, values
        )
    except TypeError:
        # There are too many values, which nothing may ask for.
        return SoftNumber(soft.average, soft.program_dtype, soft.sites, soft.tokens)


def _as_real(soft: Operand) -> Operand:
    """Return a soft value; a float with known values as an average of them.

    Programs hold floats as averages only, and `SoftIndex` only for integers.
    """
    if not isinstance(soft, SoftIndex):
        return soft
    dtype = soft.table.dtype
    if not jnp.issubdtype(dtype, jnp.inexact):
        return soft
    return average_of(soft.number(), [soft], dtype, Values(lambda: soft))


class Interpreter:
    """The trace under which a program can hold soft values; a context manager.

    Example:
        >>> from numpyro_concrete.soft_index import soft_index
        >>> with Interpreter() as interpreter:
        ...     z = interpreter.lift(soft_index("z", [0, 1], jnp.array([0.75, 0.25])))
        ...     result = interpreter.as_means(2.0 * z)
        >>> float(result)
        0.5
    """

    def __enter__(self) -> "Interpreter":
        self._contexts = contextlib.ExitStack()
        parent_trace = self._contexts.enter_context(internals.take_current_trace())
        self._trace = SoftTrace(parent_trace, internals.TraceTag())
        self._contexts.enter_context(internals.set_current_trace(self._trace))
        return self

    def __exit__(self, *error: Any) -> None:
        self._contexts.__exit__(*error)

    def outside(self) -> contextlib.AbstractContextManager:
        """Return a context manager for work in the surrounding trace."""
        return internals.set_current_trace(self._trace.parent_trace)

    def lift(self, tree: Tree) -> Tree:
        """Return soft values as values that the program can compute with."""
        return jax.tree.map(
            lambda x: SoftTracer(self._trace, _as_real(x)) if is_soft(x) else x,
            tree,
            is_leaf=is_soft,
        )

    def drop(self, tree: Tree) -> Tree:
        """Return the values of the program with soft values in the place of tracers."""
        if not any(self.holds_soft(x) for x in jax.tree.leaves(tree)):
            return tree
        with self.outside():
            return jax.tree.map(read, tree)

    def holds_soft(self, x: ProgramValue) -> bool:
        """Tell whether a value of the program depends on soft integers."""
        return isinstance(x, SoftTracer)

    def as_means(self, tree: Tree) -> Tree:
        """Return the values of the program as plain arrays: soft ones as their mean."""
        if not any(self.holds_soft(x) for x in jax.tree.leaves(tree)):
            return tree
        with self.outside():
            return jax.tree.map(plain, tree)


def plain(x: ProgramValue) -> ProgramValue:
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


@registry.evaluate.define
def evaluate(function: Callable, *args: Tree) -> Tree:
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
    return jax.tree.map(
        lambda x: x.average if isinstance(x, SoftReal) else x,
        interpret(function, *args),
        is_leaf=is_soft,
    )


@registry.interpret.define
def interpret(function: Callable, *args: Tree) -> Tree:
    """Return what a function gives for soft values; averages of floats stay soft.

    Args:
        function: A function of JAX.
        args: Its arguments, of which some are soft.
    """
    with Interpreter() as interpreter:
        return interpreter.drop(function(*interpreter.lift(args)))
