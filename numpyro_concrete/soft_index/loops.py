"""Soft values in loops and branches: cond, while and scan.

A loop's carry has one form for every step. An integer that becomes soft is soft from
the start, with all its weight on its value; a carried value has one factor, over the
values that it takes in any step.

Counterpart: none; Python's loops run as they are in torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from numpyro_concrete import internals
from numpyro_concrete.soft_index.algebra import listed_jointly
from numpyro_concrete.soft_index.carries import left, settled
from numpyro_concrete.soft_index.draws import SharedDrawsError, new_token
from numpyro_concrete.soft_index.registry import apply_primitive, interpret, rule
from numpyro_concrete.soft_index.sequences import join_time, split_time
from numpyro_concrete.soft_index.single import is_small, on_each_value
from numpyro_concrete.soft_index.tables import concrete, typed
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    SoftIndex,
    SoftReal,
    exact,
    guarded,
    is_soft,
    named,
    refusal,
)

# Loops of at most so many steps, and so many operations in all, can be unrolled.
_MOST_STEPS = 64
_MOST_OPERATIONS = 2048


# --- floats ---------------------------------------------------------------------------


def each_value(
    primitive: Any, values: list[Any], params: dict[str, Any]
) -> list[Any] | None:
    """Return what a loop over floats gives for each value; None if it sees the means.

    Networks see the means, and so does a loop with more than a few joint values.

    Args:
        primitive: The primitive of the loop.
        values: Its operands.
        params: Its parameters.
    """
    jointly = None if _is_network(params) else _few(values)
    return None if jointly is None else on_each_value(primitive, jointly, params)


def _few(values: Sequence[Any]) -> list[Any] | None:
    """Operands as functions of draws that have few joint values, or None."""
    try:
        operands = [exact(x) for x in values]
    except TypeError:
        return None
    if is_small(operands):
        return operands
    jointly = listed_jointly(operands)
    if jointly is None or not is_small(jointly):
        return None
    return jointly


def makes_floats(params: dict[str, Any]) -> bool:
    """Tell whether a loop has results that are floats.

    Args:
        params: Its parameters.
    """
    dtypes = [x.dtype for x in _body(params).out_avals]
    return any(jnp.issubdtype(x, jnp.inexact) for x in dtypes)


def _body(params: dict[str, Any]) -> Any:
    return params["jaxpr"] if "jaxpr" in params else params["body_jaxpr"]


def _is_network(params: dict[str, Any]) -> bool:
    return _multiplies_matrices(_body(params).jaxpr)


def _multiplies_matrices(jaxpr: Any) -> bool:
    inner = (
        getattr(x, "jaxpr", x)
        for eqn in jaxpr.eqns
        for x in eqn.params.values()
        if isinstance(x, internals.ClosedJaxpr) or hasattr(x, "eqns")
    )
    names = ("dot_general", "conv_general_dilated")
    if any(eqn.primitive.name in names for eqn in jaxpr.eqns):
        return True
    return any(map(_multiplies_matrices, inner))


def with_guards(primitive: Any, values: list[Any], params: dict[str, Any]) -> list[Any]:
    """Return the operands of a loop, of which the carried floats become means.

    Args:
        primitive: The primitive of the loop.
        values: Its operands.
        params: Its parameters.
    """
    if primitive.name == "cond":
        return [guarded(x) if isinstance(x, SoftReal) else x for x in values]
    if primitive.name != "scan" or _is_network(params):
        return values
    n = params["num_consts"] + params["num_carry"]
    return [*values[:n], *map(_known_or_guarded, values[n:])]


def _known_or_guarded(x: Any) -> Any:
    if not isinstance(x, SoftReal):
        return x
    try:
        return exact(x)
    except TypeError:
        return guarded(x)


# --- the primitives -------------------------------------------------------------------


def under_interpreter(function: Callable) -> Callable:
    """Return a function of soft and plain values that runs under an interpreter."""

    def run(*args: Any) -> list[Any]:
        return interpret(lambda *x: list(function(*x)), *args)

    return run


def _scan(
    _: Any, values: list[Any], params: dict[str, Any], strict: bool = False
) -> list[Any]:
    consts, init, xs = unpacked(values, params)
    body = under_interpreter(internals.jaxpr_as_fun(params["jaxpr"]))
    start = new_token()
    count = len(init)
    length = params["length"]
    sequences = split_time(xs)

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        out = body(*consts, *carry, *x)
        return out[:count], out[count:]

    first = _first(sequences)
    forms = settled(
        lambda carry: step(carry, first())[0],
        init,
        length=length,
        start=start,
        jointly=True,
        strict=strict,
    )

    def stable(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        carry, y = step(carry, x)
        return [f.enter(c) for f, c in zip(forms, carry, strict=True)], y

    entered = [f.enter(x) for f, x in zip(forms, init, strict=True)]
    options = {k: params[k] for k in ("length", "reverse", "unroll")}
    carry, ys = lax.scan(stable, entered, sequences, **options)
    results = [left(f, c) for f, c in zip(forms, carry, strict=True)]
    return results + join_time(ys, length, start)


def _unrolled(_: Any, values: list[Any], params: dict[str, Any]) -> list[Any]:
    """Run a scan step by step, so that its draws keep their identity."""
    length = params["length"]
    body = internals.jaxpr_as_fun(params["jaxpr"])
    steps = range(length - 1, -1, -1) if params["reverse"] else range(length)

    def run(*arguments: Any) -> list[Any]:
        consts, carry, xs = unpacked(list(arguments), params)
        rows: dict[int, list[Any]] = {}
        for step in steps:
            out = body(*consts, *carry, *(x[step] for x in xs))
            rows[step] = out[len(carry) :]
            carry = out[: len(carry)]
        columns = zip(*(rows[step] for step in range(length)), strict=True)
        return [*carry, *map(jnp.stack, columns)]

    return under_interpreter(run)(*values)


def _is_short(primitive: Any, params: dict[str, Any]) -> bool:
    """Whether a loop has so few operations that it can be unrolled."""
    if primitive.name != "scan" or not 0 < params["length"] <= _MOST_STEPS:
        return False
    return params["length"] * len(params["jaxpr"].eqns) <= _MOST_OPERATIONS


def unpacked(values: list[Any], params: dict[str, Any]) -> tuple[list, list, list]:
    """Return the constants, the first carry and the sequences of a scan."""
    consts, init, xs = internals.unpack_scan_args(values, params)
    return list(consts), list(init), list(xs)


def _first(sequences: list[Any]) -> Callable[[], list[Any]]:
    """Make the elements of one step, for their shapes only."""

    def zeros() -> list[Any]:
        return jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), sequences)

    return zeros


def _is_small_and_known(values: Sequence[Any]) -> bool:
    """Whether operands have few joint values, of which the loop depends on nothing."""
    if any(isinstance(x, AbstractAverage) for x in values) or not is_small(values):
        return False
    return all(concrete(x) is not None for x in values if not is_soft(x))


def _of_few_draws(loop_rule: Callable) -> Callable:
    """A loop of few draws is run for each of their values, if no more is unknown.

    Other loops carry one factor for each value. Where values that they combine share
    draws, short ones are unrolled.
    """

    def of_few_draws(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
        if _is_small_and_known(values):
            return on_each_value(primitive, values, params)
        try:
            return loop_rule(primitive, values, params, strict=True)
        except (TypeError, NotImplementedError) as error:
            jointly = _few(values)
            if jointly is not None:
                return on_each_value(primitive, jointly, params)
            if not isinstance(error, SharedDrawsError):
                raise
        if _is_short(primitive, params):
            return _unrolled(primitive, values, params)
        return loop_rule(primitive, values, params)

    return of_few_draws


def _while(
    _: Any, values: list[Any], params: dict[str, Any], strict: bool = False
) -> list[Any]:
    n = params["cond_nconsts"]
    m = n + params["body_nconsts"]
    asks = under_interpreter(internals.jaxpr_as_fun(params["cond_jaxpr"]))
    body = under_interpreter(internals.jaxpr_as_fun(params["body_jaxpr"]))
    init = values[m:]

    def step(carry: list[Any]) -> list[Any]:
        return body(*values[n:m], *carry)

    forms = settled(step, init, jointly=True, strict=strict)

    def stable(carry: list[Any]) -> list[Any]:
        return [f.enter(c) for f, c in zip(forms, step(carry), strict=True)]

    def goes_on(carry: list[Any]) -> Array:
        (condition,) = asks(*values[:n], *carry)
        if is_soft(condition):
            raise TypeError(refusal(named(condition), "ending a loop by it"))
        return condition

    entered = [f.enter(x) for f, x in zip(forms, init, strict=True)]
    carry = lax.while_loop(goes_on, stable, entered)
    return [left(f, c) for f, c in zip(forms, carry, strict=True)]


def _cond(_: Any, values: list[Any], params: dict[str, Any]) -> list[Any]:
    which, *operands = values
    functions = [
        under_interpreter(internals.jaxpr_as_fun(j)) for j in params["branches"]
    ]
    if not is_soft(which):
        shapes = [jax.eval_shape(f, *operands) for f in functions]
        trees = {jax.tree.structure(s) for s in shapes}
        if len(trees) == 1 and not any(isinstance(x, SoftIndex) for x in shapes[0]):
            return list(lax.switch(which, functions, *operands))
    cases = [f(*operands) for f in functions]
    return [chosen(which, results) for results in zip(*cases, strict=True)]


def chosen(which: Any, cases: Sequence[Any]) -> Any:
    """Return the result of the branch that a soft or plain index stands for."""
    if not is_soft(which) and not any(map(is_soft, cases)):
        return lax.select_n(which, *cases)
    shape = typed(cases[0]).shape
    if not is_soft(which):
        which = jnp.broadcast_to(which, shape)
    return apply_primitive(lax.select_n_p, [which, *cases], {})


rule("scan")(_of_few_draws(_scan))
rule("while")(_of_few_draws(_while))
rule("cond")(_cond)
