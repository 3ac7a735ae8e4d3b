"""NumPyro's scan and cond, whose bodies a relaxed program enters.

Counterpart: none; programs in torch have Python loops and branches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.contrib.control_flow.cond import cond_wrapper
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.handlers import block, seed

from numpyro_concrete.soft_index import is_soft, plain
from numpyro_concrete.soft_index.carries import Form, left, settled
from numpyro_concrete.soft_index.draws import new_token
from numpyro_concrete.soft_index.sequences import join_time, split_time


def wrap_bodies(msg: dict[str, Any], wrap: Callable) -> None:
    """Let a handler reach the sites of a scan or cond, whose bodies others block."""
    args = list(msg["args"])
    for i in {scan_wrapper: (0,), cond_wrapper: (1, 2)}.get(msg["fn"], ()):
        args[i] = wrap(args[i])
    msg["args"] = tuple(args)


def _quietly(body: Callable) -> Callable:
    """A body that is run for the shapes of its results, without effects."""

    def quiet(*args: Any) -> Any:
        with block(), seed(rng_seed=0):
            return body(*args)

    return quiet


def _flat(tree: Any) -> tuple[list[Any], Any]:
    return jax.tree.flatten(tree, is_leaf=is_soft)


def enter_scan(messenger: Any, msg: dict[str, Any]) -> Callable:
    """Give the scan of a program a carry of plain arrays, and take it back."""
    f, init, xs, length, *rest = msg["args"]
    start = new_token()
    init, carry_tree = _flat(messenger.interpreter.drop(init))
    xs, xs_tree = _flat(messenger.interpreter.drop(xs))
    xs = split_time(xs)
    if length is None:
        length = jnp.shape(jax.tree.leaves(xs)[0])[0]
    body = messenger.inside(f, msg)

    def step(carry: list[Any], x: Any) -> tuple[list[Any], Any]:
        carry, y = body(jax.tree.unflatten(carry_tree, carry), x)
        return _flat(carry)[0], y

    def first(carry: list[Any]) -> list[Any]:
        x = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), xs)
        return _quietly(step)(carry, jax.tree.unflatten(xs_tree, x))[0]

    forms = settled(first, init, length=length, start=start)

    def stable(carry: Any, x: Any) -> Any:
        carry, y = step(_flat(carry)[0], x)
        entered = [f.enter(c) for f, c in zip(forms, carry, strict=True)]
        return jax.tree.unflatten(carry_tree, entered), y

    entered = [f.enter(x) for f, x in zip(forms, init, strict=True)]
    entered = jax.tree.unflatten(carry_tree, entered)
    xs = jax.tree.unflatten(xs_tree, xs)
    msg["args"] = (stable, entered, xs, length, *rest)

    def receive(value: Any) -> Any:
        (i, key, carry), (trace, ys) = value
        carry, ys = _flat(carry)[0], _flat(ys)
        carry = [left(f, c) for f, c in zip(forms, carry, strict=True)]
        ys = jax.tree.unflatten(ys[1], join_time(ys[0], length, start))
        return (i, key, jax.tree.unflatten(carry_tree, carry)), (trace, ys)

    return receive


def enter_cond(messenger: Any, msg: dict[str, Any]) -> Callable:
    """Give the branches of a program results of one form, and take them back."""
    which, *branches, operand = msg["args"]
    if messenger.interpreter.is_soft(which):
        raise NotImplementedError(
            f"site {which.site!r} is relaxed, and cond chooses by it between branches "
            "with sites of their own. Write the choice with jnp.where, or leave the "
            "site out with infer={'relax': False}"
        )
    operand = messenger.interpreter.drop(operand)
    bodies = [messenger.inside(f, msg) for f in branches]
    shapes = [_flat(jax.eval_shape(_quietly(f), operand)) for f in bodies]
    forms = [Form(token=new_token()) for _ in shapes[0][0]]
    for out, _ in shapes:
        forms = [f.join(x) for f, x in zip(forms, out, strict=True)]

    def formed(body: Callable) -> Callable:
        def branch(operand: Any) -> Any:
            out, tree = _flat(body(operand))
            out = [f.enter(x) for f, x in zip(forms, out, strict=True)]
            return jax.tree.unflatten(tree, out)

        return branch

    msg["args"] = (plain(which), *map(formed, bodies), operand)

    def receive(value: Any) -> Any:
        result, trace = value
        out, tree = _flat(result)
        out = [left(f, x) for f, x in zip(forms, out, strict=True)]
        return jax.tree.unflatten(tree, out), trace

    return receive
