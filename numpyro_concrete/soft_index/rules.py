"""How a primitive of JAX is applied to soft values, by a rule of one of the families.

Importing this module imports the families, each of which registers its rules. It
defines `apply_primitive`, through which they call each other.

Counterpart: ``pyro_concrete.soft_index.abstract``.
"""

from numpyro_concrete.soft_index import (  # noqa: F401  modules register their rules
    axes,
    elementwise,
    lookup,
    loops,
    shapes,
    writing,
)
from numpyro_concrete.soft_index.algebra import is_one_draw, listed_jointly
from numpyro_concrete.soft_index.averages import with_averages
from numpyro_concrete.soft_index.joining import join_pieces, with_exact_pieces
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
from numpyro_concrete.soft_index.tables import number_of, words
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    SoftIndex,
    is_soft,
    named,
    refusal,
)

# Their second operand is the indices of several axes, whose rules want them in pieces.
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
    operands = _join_operands(primitive, operands)
    if not any(map(is_soft, operands)):
        return primitive.bind(*operands, **params)
    if any(isinstance(x, AbstractAverage) for x in operands):
        return with_averages(primitive, operands, params)
    primitive_rule = RULES.get(primitive.name, _apply_to_constants)
    try:
        return primitive_rule(primitive, operands, params)
    except TypeError:
        # Where no rule holds, the primitive can be applied to each joint value.
        jointly = _few_joint_values(operands)
        if jointly is None:
            raise
        return on_each_value(primitive, jointly, params)


def _join_operands(primitive: Primitive, operands: list[Operand]) -> list[Operand]:
    """Join operands that are in pieces, except for indices of several axes."""
    if primitive.name not in _INDEXED:
        return [join_pieces(x) for x in operands]
    table, indices, *updates = operands
    return [join_pieces(table), indices, *map(join_pieces, updates)]


def _few_joint_values(operands: list[Operand]) -> list[Operand] | None:
    """Return operands that have no draw of a position's own, or None if they have."""
    softs = [x for x in operands if is_soft(x)]
    if all(isinstance(x, SoftIndex) and is_one_draw(x) for x in softs):
        return operands
    return listed_jointly(with_exact_pieces(operands))


def _apply_to_constants(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    """Apply a primitive that has no rule, which is refused where there is a draw."""
    if any(x.factors for x in operands if is_soft(x)):
        raise TypeError(refusal(named(*operands), primitive.name))
    constants = [x.materialise() if is_soft(x) else x for x in operands]
    return primitive.bind(*constants, **params)


# --- effects and gradients ------------------------------------------------------------


@rule("debug_callback debug_print")
def _print_mean(
    primitive: Primitive, operands: list[Operand], params: Params
) -> Result:
    means = [number_of(x) if is_soft(x) else x for x in operands]
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
