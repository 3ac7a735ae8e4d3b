"""The private API of NumPyro, JAX and quax that this package uses.

Each function says why no public name serves. This was written from the source of
NumPyro 0.22, JAX 0.10.2 and quax 0.4.6; pyproject.toml bounds the versions. Where two
versions differ, branch inside of the function, so that callers need not know.

Counterpart: ``pyro_concrete.internals``.
"""

import contextlib
import copy
import functools
from collections.abc import Generator
from typing import Any, TypeVar

# An interpreter needs to know which trace is current, and to make another so; it reads
# the shapes of what it traces, and runs the bodies of functions and loops. Inside of
# `take_current_trace`, which gives the current trace, operations are evaluated at once.
from jax._src.core import (
    ClosedJaxpr,
    Jaxpr,
    ShapedArray,
    Trace,
    Tracer,
    TraceTag,
    eval_trace,
    jaxpr_as_fun,
    set_current_trace,
    take_current_trace,
    trace_ctx,
    typeof,
)
from jax.extend.linear_util import WrappedFun as WrappedFunction
from numpyro.distributions import Distribution, MaskedDistribution
from numpyro.infer.util import _unconstrain_reparam

# SVI takes an optimizer for NumPyro's own by its private base class.
from numpyro.optim import _NumPyroOptim as NumPyroOptim
from numpyro.primitives import _PYRO_STACK, Messenger

# In public, quax has its array types, but not the trace in which they are values.
# `unpack_scan_args` hides how versions of JAX differ in the arguments of a scan.
from quax._compat import unpack_scan_args
from quax._trace import _QuaxTrace as QuaxTrace
from quax._trace import _QuaxTracer as QuaxTracer

# What is re-exported from the libraries, under its own name or a public one.
__all__ = [
    "ClosedJaxpr",
    "Jaxpr",
    "NumPyroOptim",
    "QuaxTrace",
    "QuaxTracer",
    "ShapedArray",
    "Trace",
    "TraceTag",
    "Tracer",
    "WrappedFunction",
    "eval_trace",
    "jaxpr_as_fun",
    "set_current_trace",
    "take_current_trace",
    "typeof",
    "unpack_scan_args",
]

SomeDistribution = TypeVar("SomeDistribution", bound=Distribution)

# The module of NumPyro's handler of enumeration, by its name, since it needs funsor.
_ENUMERATION = "numpyro.contrib.funsor.enum_messenger"

# --- traces ---------------------------------------------------------------------------


def current_trace() -> Trace:
    """Return the trace that operations go to at present.

    Example:
        >>> current_trace() is trace_ctx.trace
        True
    """
    return trace_ctx.trace


def captured_tracers(function: WrappedFunction) -> Generator[Tracer]:
    """Return the tracers that a function with derivatives of its own has captured.

    They are among the variables that it closes over, and its arguments that have no
    derivative (`nondiff_argnums`), which JAX keeps in the transformations around it.
    JAX does not tell which they are before it runs the function.
    """
    pending: list[Any] = [function.f, function.transforms]
    seen: set[int] = set()
    while pending:
        x = pending.pop()
        if isinstance(x, Tracer):
            yield x
        elif id(x) not in seen:
            seen.add(id(x))
            pending += _held_by(x)


def _held_by(x: Any) -> list[Any]:
    """Return what a container, a function or a wrapper of an argument holds."""
    if isinstance(x, tuple | list):
        return list(x)
    if isinstance(x, dict):
        return list(x.values())
    if isinstance(x, functools.partial):
        return [x.func, *x.args, *x.keywords.values()]
    if hasattr(x, "val"):  # JAX's own wrapper of arguments without a derivative
        return [x.val]
    held = []
    for cell in getattr(x, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # where it is still empty
            held.append(cell.cell_contents)
    return held


# --- handlers -------------------------------------------------------------------------


def active_handlers() -> list[Messenger]:
    """Return the handlers around the running program, the outermost first.

    This is NumPyro's own list, which changes as handlers are entered.

    A handler in NumPyro knows nothing of the others. `relax` has to: it samples a
    second site past those inside of it, and runs discrete inside of `harden` and
    Predictive.
    """
    return _PYRO_STACK


@contextlib.contextmanager
def only_handlers_around(handler: Messenger) -> Generator[None]:
    """Send statements only to the handlers around this one.

    ``numpyro.primitives.apply_stack`` takes no list of handlers.
    """
    index = _PYRO_STACK.index(handler)
    left_out = _PYRO_STACK[index:]
    del _PYRO_STACK[index:]
    try:
        yield
    finally:
        _PYRO_STACK.extend(left_out)


def is_enumeration(handler: Messenger) -> bool:
    """Tell whether a handler is the one by which NumPyro enumerates sites."""
    return type(handler).__module__ == _ENUMERATION


def moves_in_unconstrained_space(handler: Messenger, name: str) -> bool:
    """Tell whether a handler gives a site its value from unconstrained space.

    NumPyro's samplers and guides do so, to move the value by its density.

    Args:
        handler: The handler.
        name: Name of the site.
    """
    function: Any = getattr(handler, "substitute_fn", None)
    is_unconstraining = getattr(function, "func", None) is _unconstrain_reparam
    return is_unconstraining and name in function.args[0]


# --- distributions --------------------------------------------------------------------


def wrapper_mask(fn: MaskedDistribution) -> Any:
    """Return the mask of a masked distribution, which has no public name."""
    return fn._mask


def without_validation(fn: SomeDistribution) -> SomeDistribution:
    """Return a distribution that does not validate values.

    `validate_args` is an argument of constructors; a distribution that exists already
    keeps it in a private attribute.
    """
    unvalidated = copy.copy(fn)
    unvalidated._validate_args = False
    return unvalidated


def set_batch_shape(fn: Distribution, batch_shape: tuple[int, ...]) -> None:
    """Change what a distribution says of its batch shape, as under `vmap`.

    A distribution that exists already keeps it in a private attribute.
    """
    fn._batch_shape = batch_shape
