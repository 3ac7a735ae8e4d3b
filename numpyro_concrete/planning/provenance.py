"""Which drawn values a result depends on, read off the program that JAX has traced.

Counterpart: ``pyro_concrete.planning.provenance``, where torch tells of each operation.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array
from jax.extend.core import Literal

_MARK = "value of site "
_PLAIN: frozenset[str] = frozenset()


def named(value: Array, name: str) -> Array:
    """Return a value that depends on this name alone, for `provenance_of`.

    It goes through a function that is compiled for itself and has the name, which the
    traced program shows.
    """

    def mark(x: Array) -> Array:
        return x

    mark.__name__ = _MARK + name
    return jax.jit(mark)(value)


def provenance_of(run: Callable) -> dict[str, frozenset[str]]:
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
    leaves = iter(_outputs(jaxpr.jaxpr, []))
    result = {}
    for name, tree in shapes.items():
        own = [next(leaves) for _ in jax.tree.leaves(tree)]
        result[name] = _PLAIN.union(*own)
    return result


def _outputs(jaxpr: Any, inputs: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def names(x: Any) -> frozenset[str]:
        return _PLAIN if isinstance(x, Literal) else known.get(x, _PLAIN)

    for step in jaxpr.eqns:
        read = [names(x) for x in step.invars]
        known |= zip(step.outvars, _written(step, read), strict=True)
    return [names(x) for x in jaxpr.outvars]


def _written(step: Any, read: list[frozenset[str]]) -> list[frozenset[str]]:
    params = step.params
    if step.primitive.name in ("jit", "pjit"):
        if params["name"].startswith(_MARK):
            return [frozenset({params["name"].removeprefix(_MARK)})]
        return _outputs(params["jaxpr"].jaxpr, read)
    return [_PLAIN.union(*read)] * len(step.outvars)
