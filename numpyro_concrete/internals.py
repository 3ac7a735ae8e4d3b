"""What is private in JAX and quax, and used here: all of it.

An interpreter needs to know which trace is current, and to make another so; neither
library says so in public. pyproject.toml bounds their versions.

Counterpart: none; torch needs no more than its public names.
"""

from jax._src.core import (
    ClosedJaxpr,
    ShapedArray,
    Tracer,
    TraceTag,
    eval_trace,
    jaxpr_as_fun,
    set_current_trace,
    take_current_trace,
    trace_ctx,
    typeof,
)
from quax._compat import unpack_scan_args
from quax._trace import _QuaxTrace as QuaxTrace
from quax._trace import _QuaxTracer as QuaxTracer


def current_trace() -> object:
    """Return the trace that operations go to at present.

    Example:
        >>> current_trace() is trace_ctx.trace
        True
    """
    return trace_ctx.trace


__all__ = [
    "ClosedJaxpr",
    "QuaxTrace",
    "QuaxTracer",
    "ShapedArray",
    "TraceTag",
    "Tracer",
    "current_trace",
    "eval_trace",
    "jaxpr_as_fun",
    "set_current_trace",
    "take_current_trace",
    "typeof",
    "unpack_scan_args",
]
