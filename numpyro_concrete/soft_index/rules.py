"""The rule of every primitive of JAX: which one applies, and what does where none does.

This module imports the families of rules, so that each registers its own, and defines
`apply_primitive`, by which they call each other.

Counterpart: ``pyro_concrete.soft_index.rules``.
"""

from typing import Any

from numpyro_concrete.soft_index import (  # noqa: F401  modules register their rules
    axes,
    elementwise,
    lookup,
    loops,
    shapes,
    writing,
)
from numpyro_concrete.soft_index.algebra import is_one_draw, listed_jointly, words
from numpyro_concrete.soft_index.averages import with_averages
from numpyro_concrete.soft_index.joining import in_one, joined
from numpyro_concrete.soft_index.registry import (
    RULES,
    Operand,
    Params,
    Primitive,
    Result,
    apply_primitive,
    rule,
)
from numpyro_concrete.soft_index.single import on_each_value
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    Pieces,
    SoftIndex,
    is_soft,
    named,
    refusal,
)

# Indices of several axes, the second operand, come in pieces.
_INDEXED = words("gather scatter scatter-add scatter_add")


@apply_primitive.define
def apply(primitive: Primitive, operands: list[Operand], params: Params) -> Result:
    """Return what a primitive gives for soft operands.

    Args:
        primitive: The primitive of JAX.
        operands: Its operands, of which some are soft.
        params: Its parameters.

    Raises:
        TypeError: If the operation has no relaxation; it names the site.
    """
    operands = _joined_operands(primitive, operands)
    if not any(map(is_soft, operands)):
        return primitive.bind(*operands, **params)
    if any(isinstance(x, AbstractAverage) for x in operands):
        return with_averages(primitive, operands, params)
    softs = [x for x in operands if isinstance(x, SoftIndex)]
    if primitive.name not in RULES and all(x.certain for x in softs):
        constants = [x.materialise() if is_soft(x) else x for x in operands]
        return primitive.bind(*constants, **params)
    try:
        return RULES.get(primitive.name, _refuse)(primitive, operands, params)
    except TypeError:
        # Where no rule holds, the primitive can be applied to each joint value.
        jointly = _few_joint_values(operands)
        if jointly is None:
            raise
        return on_each_value(primitive, jointly, params)


def _joined_operands(primitive: Primitive, operands: list[Operand]) -> list[Operand]:
    """Join operands that are in pieces, except for indices, which stay apart."""
    if primitive.name not in _INDEXED:
        return [joined(x) if isinstance(x, Pieces) else x for x in operands]
    return [
        joined(x) if isinstance(x, Pieces) and position != 1 else x
        for position, x in enumerate(operands)
    ]


def _few_joint_values(operands: list[Operand]) -> list[Operand] | None:
    """Return operands that have no draw of a position's own, or None if they have."""
    softs = [x for x in operands if is_soft(x)]
    if all(isinstance(x, SoftIndex) and is_one_draw(x) for x in softs):
        return operands
    return listed_jointly(in_one(operands))


def _refuse(primitive: Primitive, operands: list[Operand], _: Params) -> Result:
    raise TypeError(refusal(named(*operands), primitive.name))


# --- effects and gradients ------------------------------------------------------------


@rule("debug_callback debug_print")
def _print_mean(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    means: list[Any] = [x.number() if is_soft(x) else x for x in operands]
    return primitive.bind(*means, **params)


@rule("pvary pcast stop_gradient")
def _change_weights(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    """Apply to the weights what changes no value, such as a stop of the gradient."""
    (soft,) = operands
    weights = tuple(primitive.bind(w, **params) for w in soft.weights)
    values = soft.values if soft.known else primitive.bind(soft.values, **params)
    return SoftIndex(values, weights, soft.factors, soft.extent)
