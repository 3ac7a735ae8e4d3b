"""The registry of rules: what each primitive of JAX does with soft values.

This is the bottom of the package: it imports none of the other modules. Modules above
it register their rules under the names of primitives. A rule calls what is above it,
such as the rules of other primitives, through a :class:`Callback`.

The contract of a rule:

- Its operands are `SoftIndex`, plain arrays or, for indices of several axes, `Pieces`;
  at least one is soft. ``averages.py`` handles averages before.
- It returns the result for every value of the draws: soft, an average, or plain.
- If it has none, it raises ``TypeError(refusal(sites, operation))``. The primitive is
  then applied to each joint value if there are few, and else the error is the user's.
- A primitive without a rule is refused if an operand is a draw.
- Jitted functions, branches and loops have no rules of this kind, or are prepared
  before: they are dispatched in ``trace.py``.
- A new module of rules must be imported in ``rules.py``.

Counterpart: ``pyro_concrete.soft_index.value``, which has the decorator ``rule``.
"""

from collections.abc import Callable
from typing import Any

from jax.extend.core import Primitive

# A soft value, an array of JAX or NumPy, or a Python number.
Operand = Any
# One operand, or a list of them where the primitive has several results.
Result = Any
# The parameters of a primitive, by name.
Params = dict[str, Any]
Shape = tuple[int, ...]
# What computes the result of a primitive for operands of which some are soft.
Rule = Callable[[Primitive, list[Operand], Params], Result]

RULES: dict[str, Rule] = {}


def rule(primitives: str) -> Callable[[Rule], Rule]:
    """Return a decorator that registers a function as the rule of some primitives.

    Args:
        primitives: Names of the primitives, separated by spaces.

    Raises:
        ValueError: If one of them already has a rule.
    """

    def register(function: Rule) -> Rule:
        for name in primitives.split():
            if name in RULES:
                raise ValueError(f"the primitive {name!r} already has a rule")
            RULES[name] = function
        return function

    return register


def as_list(primitive: Primitive, result: Result) -> list[Operand]:
    """Return the results of a primitive as a list, also where it has only one.

    Args:
        primitive: The primitive of JAX.
        result: What it returns.
    """
    if primitive.multiple_results:
        return list(result)
    return [result]


def as_result(primitive: Primitive, results: list[Operand]) -> Result:
    """Return a list of results as the primitive does: one, unless it has several.

    Args:
        primitive: The primitive of JAX.
        results: All of its results.
    """
    if primitive.multiple_results:
        return results
    return results[0]


class Callback:
    """A function that modules can call although it is defined above them.

    Example:
        >>> double = Callback()
        >>> @double.define
        ... def _(x):
        ...     return 2 * x
        >>> double(3)
        6
    """

    def __init__(self) -> None:
        self._function: Callable | None = None

    def define(self, function: Callable) -> Callable:
        """Set the function that a call runs; a decorator."""
        self._function = function
        return function

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        if self._function is None:
            raise RuntimeError("import numpyro_concrete.soft_index first")
        return self._function(*args)


# `apply_primitive(primitive, operands, params)` applies the rule of a primitive.
apply_primitive = Callback()
# `evaluate(function, *operands)` runs a function of JAX under an interpreter of its
# own, and makes averages of floats plain: for results that leave the soft values.
evaluate = Callback()
# `interpret(function, *operands)` does the same, and keeps averages soft, so that what
# follows can still use their values.
interpret = Callback()
