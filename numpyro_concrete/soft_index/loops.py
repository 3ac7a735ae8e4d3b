"""Soft values in loops and branches: cond, while and scan.

A loop of few draws is run for each of their values. Any other carries soft values, in
a form that is the same in every step; ``carries.py`` finds it. ``sequences.py`` takes
apart what a scan runs through, and joins what its steps return.

Counterpart: none; Python's loops run as they are in torch.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from numpyro_concrete import internals
from numpyro_concrete.soft_index.algebra import listed_jointly
from numpyro_concrete.soft_index.carries import enter_forms, leave_forms, settle_forms
from numpyro_concrete.soft_index.draws import SharedDrawsError, new_token
from numpyro_concrete.soft_index.registry import (
    Operand,
    Params,
    Primitive,
    apply_primitive,
    interpret,
    rule,
)
from numpyro_concrete.soft_index.sequences import join_time, split_time
from numpyro_concrete.soft_index.single import is_small, on_each_value
from numpyro_concrete.soft_index.tables import known_array, typed
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

# Takes the operands of a loop and whether a sum of values that share draws is an error.
LoopRule = Callable[[list[Operand], Params, bool], list[Operand]]

# Loops of at most so many steps, and so many operations in all, can be unrolled.
_MOST_STEPS = 64
_MOST_OPERATIONS = 2048


# --- floats ---------------------------------------------------------------------------


def each_value(
    primitive: Primitive, operands: list[Operand], params: Params
) -> list[Operand] | None:
    """Return what a loop over floats gives for each value; None if it sees the means.

    Networks see the means, and so does a loop with more than a few joint values.

    Args:
        primitive: The primitive of the loop.
        operands: Its operands.
        params: Its parameters.
    """
    if _is_network(params):
        return None
    jointly = _few_joint_values(operands)
    if jointly is None:
        return None
    return on_each_value(primitive, jointly, params)


def _few_joint_values(operands: Sequence[Operand]) -> list[Operand] | None:
    """Return operands as functions of draws that have few joint values, or None."""
    try:
        values = [exact(x) for x in operands]
    except TypeError:
        return None
    if is_small(values):
        return values
    jointly = listed_jointly(values)
    if jointly is None or not is_small(jointly):
        return None
    return jointly


def makes_floats(params: Params) -> bool:
    """Tell whether a loop has results that are floats.

    Args:
        params: Its parameters.
    """
    dtypes = [x.dtype for x in _body(params).out_avals]
    return any(jnp.issubdtype(x, jnp.inexact) for x in dtypes)


def _body(params: Params) -> internals.ClosedJaxpr:
    name = "jaxpr" if "jaxpr" in params else "body_jaxpr"
    return params[name]


def _is_network(params: Params) -> bool:
    return _multiplies_matrices(_body(params).jaxpr)


def _multiplies_matrices(jaxpr: internals.Jaxpr) -> bool:
    names = ("dot_general", "conv_general_dilated")
    if any(eqn.primitive.name in names for eqn in jaxpr.eqns):
        return True
    return any(map(_multiplies_matrices, _inner_jaxprs(jaxpr)))


def _inner_jaxprs(jaxpr: internals.Jaxpr) -> Iterator[internals.Jaxpr]:
    for eqn in jaxpr.eqns:
        for param in eqn.params.values():
            if isinstance(param, internals.ClosedJaxpr):
                yield param.jaxpr
            elif isinstance(param, internals.Jaxpr):
                yield param


def with_guards(
    primitive: Primitive, operands: list[Operand], params: Params
) -> list[Operand]:
    """Return the operands of a loop, of which the carried floats become means.

    Args:
        primitive: The primitive of the loop.
        operands: Its operands.
        params: Its parameters.
    """
    if primitive.name == "cond":
        return [guarded(x) if isinstance(x, SoftReal) else x for x in operands]
    if primitive.name != "scan" or _is_network(params):
        return operands
    count = params["num_consts"] + params["num_carry"]
    return [*operands[:count], *map(_exact_or_guarded, operands[count:])]


def _exact_or_guarded(x: Operand) -> Operand:
    if not isinstance(x, SoftReal):
        return x
    try:
        return exact(x)
    except TypeError:
        return guarded(x)


# --- loops of few draws ---------------------------------------------------------------


def _for_each_value_if_few(primitives: str) -> Callable[[LoopRule], LoopRule]:
    """Return a decorator that registers the rule of a loop.

    A loop of few draws is run for each of their values, if no more is unknown. Any
    other goes to the rule, which carries soft values. Where values that a loop combines
    share draws, a short one is unrolled.
    """

    def register(loop_rule: LoopRule) -> LoopRule:
        @rule(primitives)
        def _(
            primitive: Primitive, operands: list[Operand], params: Params
        ) -> list[Operand]:
            if _is_small_and_known(operands):
                return on_each_value(primitive, operands, params)
            try:
                return loop_rule(operands, params, True)
            except (TypeError, NotImplementedError) as error:
                jointly = _few_joint_values(operands)
                if jointly is not None:
                    return on_each_value(primitive, jointly, params)
                if not isinstance(error, SharedDrawsError):
                    raise
            if _is_short_scan(primitive, params):
                return _unroll_scan(operands, params)
            return loop_rule(operands, params, False)

        return loop_rule

    return register


def _is_small_and_known(operands: Sequence[Operand]) -> bool:
    """Whether operands have few joint values, of which the loop depends on nothing."""
    if any(isinstance(x, AbstractAverage) for x in operands):
        return False
    if not is_small(operands):
        return False
    return all(known_array(x) is not None for x in operands if not is_soft(x))


def _is_short_scan(primitive: Primitive, params: Params) -> bool:
    """Whether a loop has so few operations that it can be unrolled."""
    if primitive.name != "scan" or not 0 < params["length"] <= _MOST_STEPS:
        return False
    return params["length"] * len(params["jaxpr"].eqns) <= _MOST_OPERATIONS


def _unroll_scan(operands: list[Operand], params: Params) -> list[Operand]:
    """Run a scan step by step, so that its draws keep their identity."""
    length = params["length"]
    body = internals.jaxpr_as_fun(params["jaxpr"])
    steps = list(range(length))
    if params["reverse"]:
        steps.reverse()

    def run_steps(*arguments: Operand) -> list[Operand]:
        consts, carry, xs = split_scan_operands(list(arguments), params)
        ys_by_step: dict[int, list[Operand]] = {}
        for step in steps:
            results = body(*consts, *carry, *(x[step] for x in xs))
            ys_by_step[step] = results[len(carry) :]
            carry = results[: len(carry)]
        ys = zip(*(ys_by_step[step] for step in range(length)), strict=True)
        return [*carry, *map(jnp.stack, ys)]

    return under_interpreter(run_steps)(*operands)


# --- the primitives -------------------------------------------------------------------


def under_interpreter(function: Callable) -> Callable[..., list[Operand]]:
    """Return a function of soft and plain values that runs under an interpreter."""

    def run(*operands: Operand) -> list[Operand]:
        return interpret(lambda *x: list(function(*x)), *operands)

    return run


def split_scan_operands(
    operands: list[Operand], params: Params
) -> tuple[list[Operand], list[Operand], list[Operand]]:
    """Return the constants, the first carry and the sequences of a scan."""
    consts, init, xs = internals.unpack_scan_args(operands, params)
    return list(consts), list(init), list(xs)


@_for_each_value_if_few("scan")
def _scan(operands: list[Operand], params: Params, strict: bool) -> list[Operand]:
    consts, init, xs = split_scan_operands(operands, params)
    body = under_interpreter(internals.jaxpr_as_fun(params["jaxpr"]))
    first_token = new_token()
    length = params["length"]
    sequences = split_time(xs)

    def step(
        carry: list[Operand], x: list[Operand]
    ) -> tuple[list[Operand], list[Operand]]:
        results = body(*consts, *carry, *x)
        return results[: len(init)], results[len(init) :]

    def carry_after_step(carry: list[Operand]) -> list[Operand]:
        # Only the shapes of the elements count.
        x = jax.tree.map(lambda xs: jnp.zeros(xs.shape[1:], xs.dtype), sequences)
        return step(carry, x)[0]

    forms = settle_forms(
        carry_after_step,
        init,
        length=length,
        first_token=first_token,
        jointly=True,
        strict=strict,
    )

    def step_with_forms(
        carry: list[Operand], x: list[Operand]
    ) -> tuple[list[Operand], list[Operand]]:
        new_carry, y = step(carry, x)
        return enter_forms(forms, new_carry), y

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    init_with_forms = enter_forms(forms, init)
    carry, ys = lax.scan(step_with_forms, init_with_forms, sequences, **options)
    return leave_forms(forms, carry) + join_time(ys, length, first_token)


@_for_each_value_if_few("while")
def _while(operands: list[Operand], params: Params, strict: bool) -> list[Operand]:
    body_start = params["cond_nconsts"]
    init_start = body_start + params["body_nconsts"]
    cond_consts = operands[:body_start]
    body_consts = operands[body_start:init_start]
    init = operands[init_start:]
    cond = under_interpreter(internals.jaxpr_as_fun(params["cond_jaxpr"]))
    body = under_interpreter(internals.jaxpr_as_fun(params["body_jaxpr"]))

    def step(carry: list[Operand]) -> list[Operand]:
        return body(*body_consts, *carry)

    forms = settle_forms(step, init, jointly=True, strict=strict)

    def step_with_forms(carry: list[Operand]) -> list[Operand]:
        return enter_forms(forms, step(carry))

    def should_continue(carry: list[Operand]) -> Array:
        (condition,) = cond(*cond_consts, *carry)
        if is_soft(condition):
            raise TypeError(refusal(named(condition), "ending a loop by it"))
        return condition

    init_with_forms = enter_forms(forms, init)
    carry = lax.while_loop(should_continue, step_with_forms, init_with_forms)
    return leave_forms(forms, carry)


@rule("cond")
def _cond(_: Primitive, operands: list[Operand], params: Params) -> list[Operand]:
    which, *arguments = operands
    branches = [
        under_interpreter(internals.jaxpr_as_fun(jaxpr)) for jaxpr in params["branches"]
    ]
    if not is_soft(which) and _can_switch(branches, arguments):
        return list(lax.switch(which, branches, *arguments))
    cases = [branch(*arguments) for branch in branches]
    return [choose_case(which, results) for results in zip(*cases, strict=True)]


def _can_switch(branches: Sequence[Callable], arguments: Sequence[Operand]) -> bool:
    """Whether all branches return the same form, and no soft integers."""
    results = [jax.eval_shape(branch, *arguments) for branch in branches]
    if len({jax.tree.structure(r) for r in results}) > 1:
        return False
    return not any(isinstance(x, SoftIndex) for x in results[0])


def choose_case(which: Operand, cases: Sequence[Operand]) -> Operand:
    """Return the result of the branch that a soft or plain index stands for."""
    if not is_soft(which) and not any(map(is_soft, cases)):
        return lax.select_n(which, *cases)
    shape = typed(cases[0]).shape
    if not is_soft(which):
        which = jnp.broadcast_to(which, shape)
    return apply_primitive(lax.select_n_p, [which, *cases], {})
