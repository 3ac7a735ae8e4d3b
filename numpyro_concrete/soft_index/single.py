"""Functions with a body of their own: they are applied to each value.

A function of a single draw can be anything. Of several draws at different positions it
has to be elementwise, as some of JAX's are whose bodies are loops.

Counterpart: none; torch's functions have no bodies to run.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special

from numpyro_concrete.soft_index.algebra import (
    Joint,
    concrete,
    finish,
    is_one_draw,
    run,
    tables_of,
    words,
)
from numpyro_concrete.soft_index.value import (
    Known,
    SoftIndex,
    named,
    refusal,
)

# More joint values are too many to run a loop for each.
LARGEST_LOOP = 64
# Elementwise functions of JAX whose bodies compute more than elementwise.
ELEMENTWISE_CALLS = words("searchsorted _interp polyval") | frozenset(
    dir(special)
) - words("logsumexp softmax log_softmax sph_harm sph_harm_y lpmn lpmn_values")
# Elementwise functions with a derivative of their own, whose bodies compute more.
ELEMENTWISE_FUNCTIONS = words("_owens_t_impl")
# Functions of JAX that mix their elements, and have products of matrices in them.
JOINT_CALLS = words("_lstsq _pinv cov _linspace linspace")
# These round in another way for several values at once, so that a comparison with their
# results could differ from the discrete program's.
_ONE_BY_ONE = words("_linspace")
# The others of their operands are tables, of which they read several elements.
_TABLES = {"searchsorted": [0], "_interp": [1, 2], "polyval": [0]}


def reads_soft_tables(name: str, values: Sequence[Any]) -> bool:
    """Tell whether an elementwise function has a table of soft values.

    Args:
        name: Name of the function.
        values: Its operands.
    """
    tables = [values[i] for i in _TABLES.get(name, []) if i < len(values)]
    return any(isinstance(x, SoftIndex) for x in tables)


def on_elements(
    function: Callable, values: Sequence[Any], shape: tuple[int, ...]
) -> Any:
    """Return what an elementwise function gives for soft values.

    Args:
        function: A function of arrays.
        values: Its operands. Those that are not soft do not have to broadcast.
        shape: Shape of the result.

    Raises:
        TypeError: If a soft operand has another shape.
    """
    softs = [x for x in values if isinstance(x, SoftIndex)]
    if not softs or any(x.extent != shape for x in softs):
        raise TypeError(refusal(named(*softs), "a function that mixes its elements"))
    tables, joint = tables_of(softs, shape)
    sizes = joint.sizes()
    full = [_broadcast(t, (*sizes, *shape)) for t in tables]
    left = iter([t.reshape(math.prod(sizes), *shape) for t in full])
    operands = [next(left) if isinstance(x, SoftIndex) else _known(x) for x in values]
    axes = [0 if isinstance(x, SoftIndex) else None for x in values]
    table = run(jax.vmap(function, tuple(axes)), *operands)
    return finish(table.reshape(*sizes, *shape), joint, shape)


def _broadcast(table: Any, shape: Sequence[int]) -> Any:
    known = isinstance(table, np.ndarray)
    return (np if known else jnp).broadcast_to(table, tuple(shape))


def _known(x: Any) -> Any:
    known = concrete(x)
    return x if known is None else known


# --- one draw -------------------------------------------------------------------------


def is_small(values: Sequence[Any]) -> bool:
    """Tell whether values are one draw at all positions, and have few joint values."""
    softs = [x for x in values if isinstance(x, SoftIndex)]
    if not all(map(is_one_draw, softs)):
        return False
    joint = Joint(())
    for x in softs:
        joint.add(_scalar(x))
    return math.prod(joint.sizes()) <= LARGEST_LOOP


def on_each_value(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    """Return what a primitive gives for values that are one draw at all positions.

    Args:
        primitive: The primitive of JAX.
        values: Its operands, of which the soft ones have no draw of a position's own.
        params: Its parameters.
    """

    def function(*x: Any) -> Any:
        return primitive.bind(*x, **params)

    one_by_one = params.get("name") in _ONE_BY_ONE
    results = on_each_draw(function, values, one_by_one)
    return results if primitive.multiple_results else results[0]


def on_each_draw(
    function: Callable, values: Sequence[Any], one_by_one: bool = False
) -> list[Any]:
    """Return the results of a function for values that are one draw at all positions.

    Args:
        function: Takes arrays; returns one or several.
        values: Its operands, of which the soft ones have no draw of a position's own.
        one_by_one: Whether it is called once for each joint value that is known.
    """
    joint = Joint(())
    where = [joint.add(_scalar(x)) if isinstance(x, SoftIndex) else None
             for x in values]  # fmt: skip
    joint.check()
    sizes = joint.sizes()
    operands = [
        _known(x) if axes is None else _spread(x, joint, axes)
        for x, axes in zip(values, where, strict=True)
    ]
    axes = tuple(None if at is None else 0 for at in where)
    if one_by_one and all(isinstance(x, np.ndarray) for x in operands):
        out = _called_for_each(function, operands, axes, math.prod(sizes))
    else:
        out = run(jax.vmap(function, axes, axis_size=math.prod(sizes)), *operands)
    several = out if isinstance(out, list | tuple) else [out]
    return [_result(x.reshape(*sizes, *x.shape[1:]), joint) for x in several]


def _called_for_each(
    function: Callable, operands: Sequence[np.ndarray], axes: Sequence[Any], count: int
) -> list[np.ndarray]:
    results = [
        run(
            function,
            *(
                x if axis is None else np.asarray(x[number])
                for x, axis in zip(operands, axes, strict=True)
            ),
        )
        for number in range(count)
    ]
    return [np.stack(several) for several in zip(*results, strict=True)]


def _scalar(soft: SoftIndex) -> SoftIndex:
    """The draws of a value, at no position."""
    weights = tuple(w.reshape(-1) for w in soft.weights)
    factors = tuple(f.at(f.ids.array.reshape(())) for f in soft.factors)
    sizes = tuple(map(len, weights))
    # Values that depend on all factors.
    table = np.arange(math.prod(sizes)).reshape(sizes)
    return SoftIndex(Known(table), weights, factors, ())


def _spread(soft: SoftIndex, joint: Joint, axes: list[int]) -> Any:
    """Values for every joint value of all draws, on one axis."""
    n = len(soft.factors)
    table = _broadcast(soft.table, (*soft.table.shape[:n], *soft.extent))
    sizes = joint.sizes()
    full = _broadcast(joint.spread(table, axes), (*sizes, *soft.extent))
    return full.reshape(math.prod(sizes), *soft.extent)


def _result(table: Any, joint: Joint) -> Any:
    shape = table.shape[len(joint.factors) :]
    ones = (1,) * len(shape)
    result = Joint(shape)
    result.weights = [w.reshape(len(w), *ones) for w in joint.weights]
    result.factors = [f.at(f.ids.array.reshape(ones)) for f in joint.factors]
    return finish(table, result, shape)
