"""Tables of values, which are NumPy's as long as they are known while tracing.

Counterpart: none; torch's tensors are always known.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_concrete import internals
from numpyro_concrete.soft_index.draws import Known
from numpyro_concrete.soft_index.registry import Operand
from numpyro_concrete.soft_index.value import is_soft

# Known arrays stay known up to this size.
LARGEST_KNOWN_ARRAY = 2**16

# An array of NumPy if it is known while tracing, else of JAX.
Table = Any


def words(text: str) -> frozenset[str]:
    """Return the words of a text, such as names of primitives."""
    return frozenset(text.split())


def typed(x: Operand) -> internals.ShapedArray:
    """Return the shape and type of an operand, soft or plain."""
    if is_soft(x):
        return x.aval()
    return internals.typeof(x)


def is_inexact(x: Operand) -> bool:
    """Tell whether an operand, soft or plain, is of floats."""
    return jnp.issubdtype(typed(x).dtype, jnp.inexact)


def known_array(x: Operand) -> np.ndarray | None:
    """Return a plain operand that is known while tracing, and not large, or None."""
    if is_soft(x) or isinstance(x, internals.Tracer):
        return None
    aval = internals.typeof(x)
    if aval.size > LARGEST_KNOWN_ARRAY or jnp.issubdtype(
        aval.dtype, jax.dtypes.extended
    ):
        return None
    return np.asarray(x, aval.dtype)


def as_table(x: Operand) -> Table:
    """Return a plain operand: as NumPy's array if it is known while tracing."""
    constant = known_array(x)
    if constant is None:
        return x
    return constant


def number_of(x: Operand) -> Array:
    """Return an operand as a number: the mean of a soft one."""
    if is_soft(x):
        return x.number()
    return jnp.asarray(x)


def without_repeats(x: np.ndarray) -> np.ndarray:
    """Return a known array with axes of size one where it is the same all along."""
    for axis in range(x.ndim if x.size > 1 else 0):
        first = x.take([0], axis)
        if (x == first).all():
            x = first
    return x


def apply_to_tables(function: Callable, *tables: Table) -> Any:
    """Apply a function of JAX; of known tables the results are known, too."""
    if not all(isinstance(x, np.ndarray) for x in tables):
        return function(*tables)
    with internals.set_current_trace(internals.eval_trace):
        return jax.tree.map(np.asarray, function(*tables))


def held(table: Table) -> Known | Array:
    """Return values as a soft value holds them."""
    if isinstance(table, np.ndarray):
        return Known(table)
    return table


def broadcast_table(table: Table, shape: Sequence[int]) -> Table:
    """Return a table in another shape, known while tracing if it was.

    Args:
        table: An array of NumPy or JAX.
        shape: Shape with which it broadcasts.
    """
    if isinstance(table, np.ndarray):
        return np.broadcast_to(table, tuple(shape))
    return jnp.broadcast_to(table, tuple(shape))
