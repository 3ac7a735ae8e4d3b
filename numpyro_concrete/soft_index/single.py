"""Functions with a body of their own: they are applied to each value.

A function of a single draw can be anything. Of several draws at different positions it
has to be elementwise, as some of JAX's are whose bodies are loops.

Counterpart: none; torch's functions have no bodies to run.
"""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.scipy import special

from numpyro_concrete.soft_index.algebra import Joint, finish, is_one_draw, tables_of
from numpyro_concrete.soft_index.draws import Known
from numpyro_concrete.soft_index.registry import (
    Operand,
    Params,
    Primitive,
    Result,
    Shape,
    as_result,
)
from numpyro_concrete.soft_index.tables import (
    Table,
    apply_to_tables,
    as_table,
    broadcast_table,
    words,
)
from numpyro_concrete.soft_index.value import SoftIndex, named, refusal

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
# Positions of the operands that are tables, of which these read several elements.
_TABLE_POSITIONS = {"searchsorted": [0], "_interp": [1, 2], "polyval": [0]}


# --- elementwise functions ------------------------------------------------------------


def reads_soft_tables(name: str, operands: Sequence[Operand]) -> bool:
    """Tell whether an elementwise function has a table of soft values.

    Args:
        name: Name of the function.
        operands: Its operands.
    """
    positions = _TABLE_POSITIONS.get(name, [])
    return any(
        isinstance(x, SoftIndex) for i, x in enumerate(operands) if i in positions
    )


def on_elements(
    function: Callable, operands: Sequence[Operand], shape: Shape
) -> Operand:
    """Return what an elementwise function gives for soft values.

    Args:
        function: A function of arrays.
        operands: Its operands. Those that are not soft do not have to broadcast.
        shape: Shape of the result.

    Raises:
        TypeError: If a soft operand has another shape.
    """
    softs = [x for x in operands if isinstance(x, SoftIndex)]
    if not softs or any(x.extent != shape for x in softs):
        raise TypeError(refusal(named(*softs), "a function that mixes its elements"))
    tables, joint = tables_of(softs, shape)
    sizes = joint.sizes()
    states = math.prod(sizes)
    soft_arrays = [
        broadcast_table(table, (*sizes, *shape)).reshape(states, *shape)
        for table in tables
    ]
    table = _map_over_states(function, operands, soft_arrays, states)
    return finish(table.reshape(*sizes, *shape), joint, shape)


def _map_over_states(
    function: Callable,
    operands: Sequence[Operand],
    soft_arrays: Sequence[Table],
    states: int,
    one_by_one: bool = False,
) -> Result:
    """Apply a function to the joint values of soft operands, on their first axis."""
    arrays: list[Table] = []
    axes: list[int | None] = []
    next_soft_array = iter(soft_arrays)
    for operand in operands:
        if isinstance(operand, SoftIndex):
            arrays.append(next(next_soft_array))
            axes.append(0)
        else:
            arrays.append(as_table(operand))
            axes.append(None)
    if one_by_one and all(isinstance(x, np.ndarray) for x in arrays):
        return _call_for_each_state(function, arrays, axes, states)
    return apply_to_tables(jax.vmap(function, tuple(axes), axis_size=states), *arrays)


def _call_for_each_state(
    function: Callable,
    arrays: Sequence[np.ndarray],
    axes: Sequence[int | None],
    states: int,
) -> list[np.ndarray]:
    """Apply a function to known arrays, one joint value after the other."""

    def call(state: int) -> list[np.ndarray]:
        slices = [
            x if axis is None else np.asarray(x[state])
            for x, axis in zip(arrays, axes, strict=True)
        ]
        return apply_to_tables(function, *slices)

    results = [call(state) for state in range(states)]
    return [np.stack(tables) for tables in zip(*results, strict=True)]


# --- one draw -------------------------------------------------------------------------


def is_small(operands: Sequence[Operand]) -> bool:
    """Tell whether operands are one draw at all positions with few joint values.

    Args:
        operands: Soft and plain operands.
    """
    softs = [x for x in operands if isinstance(x, SoftIndex)]
    if not all(map(is_one_draw, softs)):
        return False
    joint = Joint(())
    for soft in softs:
        joint.add(_without_positions(soft))
    return math.prod(joint.sizes()) <= LARGEST_LOOP


def on_each_value(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    """Return what a primitive gives for values that are one draw at all positions.

    Args:
        primitive: The primitive of JAX.
        operands: Its operands, of which the soft ones have no draw of a position's own.
        params: Its parameters.
    """

    def function(*x: Table) -> Result:
        return primitive.bind(*x, **params)

    one_by_one = params.get("name") in _ONE_BY_ONE
    results = on_each_draw(function, operands, one_by_one)
    return as_result(primitive, results)


def on_each_draw(
    function: Callable, operands: Sequence[Operand], one_by_one: bool = False
) -> list[Operand]:
    """Return the results of a function for values that are one draw at all positions.

    Args:
        function: Takes arrays; returns one or several.
        operands: Its operands, of which the soft ones have no draw of a position's own.
        one_by_one: Whether it is called once for each joint value that is known.

    Raises:
        TypeError: If there are more joint values than can be listed.
    """
    joint = Joint(())
    softs = [x for x in operands if isinstance(x, SoftIndex)]
    factor_axes = [joint.add(_without_positions(soft)) for soft in softs]
    joint.check()
    sizes = joint.sizes()
    soft_arrays = [
        _values_by_state(soft, joint, axes)
        for soft, axes in zip(softs, factor_axes, strict=True)
    ]
    states = math.prod(sizes)
    result = _map_over_states(function, operands, soft_arrays, states, one_by_one)
    tables = result if isinstance(result, list | tuple) else [result]
    return [_with_draws(t.reshape(*sizes, *t.shape[1:]), joint) for t in tables]


def _without_positions(soft: SoftIndex) -> SoftIndex:
    """Return the draws of a value, at no position."""
    weights = tuple(w.reshape(-1) for w in soft.weights)
    factors = tuple(f.at(f.ids.array.reshape(())) for f in soft.factors)
    sizes = tuple(map(len, weights))
    # Values that depend on all factors.
    values = Known(np.arange(math.prod(sizes)).reshape(sizes))
    return SoftIndex(values, weights, factors, ())


def _values_by_state(soft: SoftIndex, joint: Joint, factor_axes: list[int]) -> Table:
    """Return a soft operand's values for all joint values of all draws, on one axis."""
    factor_sizes = soft.table.shape[: len(soft.factors)]
    table = broadcast_table(soft.table, (*factor_sizes, *soft.extent))
    sizes = joint.sizes()
    full_shape = (*sizes, *soft.extent)
    full_table = broadcast_table(joint.spread(table, factor_axes), full_shape)
    return full_table.reshape(math.prod(sizes), *soft.extent)


def _with_draws(table: Table, joint: Joint) -> Operand:
    """Return a result as a soft value whose draws stand at all of its positions."""
    shape = table.shape[len(joint.factors) :]
    no_positions = (1,) * len(shape)
    draws = Joint(shape)
    draws.weights = [w.reshape(len(w), *no_positions) for w in joint.weights]
    draws.factors = [f.at(f.ids.array.reshape(no_positions)) for f in joint.factors]
    return finish(table, draws, shape)
