"""NumPyro's scan and cond, whose bodies a relaxed model or guide enters.

JAX needs one structure for the carry of all steps, and for the results of all branches.
So each leaf gets a form, soft or plain, that can hold what it is in any of them. Going
in, values take their forms; what comes out is made of soft values again.

Counterpart: none; programs in torch have Python loops and branches.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.tree_util import PyTreeDef
from numpyro.contrib.control_flow.cond import cond_wrapper
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.handlers import block, seed

from numpyro_concrete.soft_index import Interpreter, is_soft, plain
from numpyro_concrete.soft_index.carries import (
    Form,
    enter_forms,
    leave_forms,
    settle_forms,
)
from numpyro_concrete.soft_index.draws import new_token
from numpyro_concrete.soft_index.registry import Operand
from numpyro_concrete.soft_index.sequences import join_time, split_time

Message = dict[str, Any]
# A tree of JAX, with soft values as leaves.
Tree = Any
# What a scan or cond returns, and a handler makes the value of its message of.
Returned = Any
Receive = Callable[[Returned], Returned]

# Where the arguments of NumPyro's functions have their bodies.
_BODY_POSITIONS = {scan_wrapper: (0,), cond_wrapper: (1, 2)}


@runtime_checkable
class AbstractBodyHandler(Protocol):
    """What this module needs of the handler that enters a scan or cond."""

    interpreter: Interpreter

    def inside(self, body: Callable, msg: Message) -> Callable:
        """Return the body of a scan or cond, relaxed by itself."""
        ...


def wrap_bodies(msg: Message, wrap: Callable[[Callable], Callable]) -> None:
    """Let a handler reach the sites of a scan or cond, whose bodies others block.

    Args:
        msg: Message of the scan or cond, which is changed.
        wrap: Returns a body under the handler.
    """
    args = list(msg["args"])
    for position in _BODY_POSITIONS.get(msg["fn"], ()):
        args[position] = wrap(args[position])
    msg["args"] = tuple(args)


def enter_scan(messenger: AbstractBodyHandler, msg: Message) -> Receive:
    """Give the scan of a model or guide a carry in one form for all steps.

    Args:
        messenger: The handler that relaxes the body.
        msg: Message of the scan, whose arguments are changed.

    Returns:
        A function that makes soft values of what the scan returns.
    """
    body, init, xs, length, *options = msg["args"]
    first_token = new_token()
    init_leaves, carry_structure = _flatten(messenger.interpreter.drop(init))
    x_leaves, x_structure = _flatten(messenger.interpreter.drop(xs))
    x_leaves = split_time(x_leaves)
    if length is None:
        length = jnp.shape(jax.tree.leaves(x_leaves)[0])[0]
    relaxed_body = messenger.inside(body, msg)

    def step(carry_leaves: list[Operand], x: Tree) -> tuple[list[Operand], Tree]:
        carry = jax.tree.unflatten(carry_structure, carry_leaves)
        new_carry, y = relaxed_body(carry, x)
        return _leaves(new_carry), y

    def carry_after_first_step(carry_leaves: list[Operand]) -> list[Operand]:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), x_leaves)
        x = jax.tree.unflatten(x_structure, zeros)
        return _without_effects(step)(carry_leaves, x)[0]

    forms = settle_forms(
        carry_after_first_step, init_leaves, length=length, first_token=first_token
    )

    def enter(carry_leaves: list[Operand]) -> Tree:
        return jax.tree.unflatten(carry_structure, enter_forms(forms, carry_leaves))

    def body_with_forms(carry: Tree, x: Tree) -> tuple[Tree, Tree]:
        new_carry_leaves, y = step(_leaves(carry), x)
        return enter(new_carry_leaves), y

    init_with_forms = enter(init_leaves)
    split_xs = jax.tree.unflatten(x_structure, x_leaves)
    msg["args"] = (body_with_forms, init_with_forms, split_xs, length, *options)

    def receive(value: Returned) -> Returned:
        (step_count, rng_key, carry), (trace, ys) = value
        carry = jax.tree.unflatten(carry_structure, leave_forms(forms, _leaves(carry)))
        y_leaves, y_structure = _flatten(ys)
        y_leaves = join_time(y_leaves, length, first_token)
        ys = jax.tree.unflatten(y_structure, y_leaves)
        return (step_count, rng_key, carry), (trace, ys)

    return receive


def enter_cond(messenger: AbstractBodyHandler, msg: Message) -> Receive:
    """Give the branches of a model or guide results of one form.

    Args:
        messenger: The handler that relaxes the branches.
        msg: Message of the cond, whose arguments are changed.

    Returns:
        A function that makes soft values of what the cond returns.

    Raises:
        NotImplementedError: If a soft value chooses the branch; it names the site.
    """
    which, *branches, operand = msg["args"]
    if messenger.interpreter.holds_soft(which):
        raise NotImplementedError(
            f"site {which.site!r} is relaxed, and cond chooses by it between branches "
            "with sites of their own. Write the choice with jnp.where, or leave the "
            "site out with infer={'relax': False}"
        )
    operand = messenger.interpreter.drop(operand)
    relaxed_branches = [messenger.inside(branch, msg) for branch in branches]
    forms = _forms_of_results(relaxed_branches, operand)

    def with_forms(branch: Callable) -> Callable:
        def branch_with_forms(operand: Tree) -> Tree:
            leaves, structure = _flatten(branch(operand))
            return jax.tree.unflatten(structure, enter_forms(forms, leaves))

        return branch_with_forms

    msg["args"] = (plain(which), *map(with_forms, relaxed_branches), operand)

    def receive(value: Returned) -> Returned:
        result, trace = value
        leaves, structure = _flatten(result)
        return jax.tree.unflatten(structure, leave_forms(forms, leaves)), trace

    return receive


def _forms_of_results(branches: Sequence[Callable], operand: Tree) -> list[Form]:
    """Return the forms that can hold the results of any branch."""
    results = [
        _leaves(jax.eval_shape(_without_effects(branch), operand))
        for branch in branches
    ]
    forms = [Form(token=new_token()) for _ in results[0]]
    for leaves in results:
        forms = [form.join(x) for form, x in zip(forms, leaves, strict=True)]
    return forms


def _without_effects(body: Callable) -> Callable:
    """Return a body that is run for the shapes of its results, without effects."""

    def body_without_effects(*args: Tree) -> Tree:
        with block(), seed(rng_seed=0):
            return body(*args)

    return body_without_effects


def _flatten(tree: Tree) -> tuple[list[Operand], PyTreeDef]:
    return jax.tree.flatten(tree, is_leaf=is_soft)


def _leaves(tree: Tree) -> list[Operand]:
    return jax.tree.leaves(tree, is_leaf=is_soft)
