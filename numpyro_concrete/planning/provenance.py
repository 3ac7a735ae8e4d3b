"""Which drawn values a result depends on, read from the program that JAX has traced.

Counterpart: ``pyro_concrete.planning.provenance``, where torch reports each operation.
"""

from collections.abc import Callable, Sequence

import jax
from jax import Array
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

Names = frozenset[str]

_PREFIX = "value of site "
_NO_NAMES: Names = frozenset()


def named(value: Array, name: str) -> Array:
    """Return a value that depends on this name alone, for `provenance_of`.

    It goes through a compiled function of its own that has the name, which the traced
    program shows.
    """

    def identity(value: Array) -> Array:
        return value

    identity.__name__ = _PREFIX + name
    return jax.jit(identity)(value)


def provenance_of(run: Callable) -> dict[str, Names]:
    """Return the names that each entry of a function's result depends on.

    Every operation depends on all that it reads, and a loop or branch as a whole on all
    that goes into it: names may be too many, and never too few.

    Args:
        run: Function without arguments that returns arrays by name. It is traced, and
            nothing is computed.

    Example:
        >>> def run():
        ...     z = named(jnp.array(2), "z")
        ...     return {"x": jnp.arange(3.0).at[z].set(1.0), "y": jnp.zeros(())}
        >>> provenance_of(run)
        {'x': frozenset({'z'}), 'y': frozenset()}

    Counterpart: none.
    """
    jaxpr, shapes = jax.make_jaxpr(run, return_shape=True)()
    names_of_leaves = iter(_names_of_outputs(jaxpr.jaxpr, []))
    names_of_entries = {}
    for key, tree in shapes.items():
        names = [next(names_of_leaves) for _ in jax.tree.leaves(tree)]
        names_of_entries[key] = _NO_NAMES.union(*names)
    return names_of_entries


def _names_of_outputs(jaxpr: Jaxpr, names_of_inputs: Sequence[Names]) -> list[Names]:
    names_of_vars = dict(zip(jaxpr.invars, names_of_inputs, strict=True))

    def names_of(atom: Var | Literal) -> Names:
        if isinstance(atom, Literal):
            return _NO_NAMES
        return names_of_vars.get(atom, _NO_NAMES)

    for equation in jaxpr.eqns:
        results = _names_of_results(equation, [names_of(a) for a in equation.invars])
        names_of_vars.update(zip(equation.outvars, results, strict=True))
    return [names_of(atom) for atom in jaxpr.outvars]


def _names_of_results(equation: JaxprEqn, operands: list[Names]) -> list[Names]:
    params = equation.params
    if equation.primitive.name in ("jit", "pjit"):
        if params["name"].startswith(_PREFIX):
            return [frozenset({params["name"].removeprefix(_PREFIX)})]
        return _names_of_outputs(params["jaxpr"].jaxpr, operands)
    return [_NO_NAMES.union(*operands)] * len(equation.outvars)
