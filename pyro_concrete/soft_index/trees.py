"""Shapes, and the leaves of arguments, at less cost than torch's own functions.

Counterpart: none; JAX traces a program once.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyro_concrete.internals import Shape

# Nested tuples, lists and dictionaries of anything, as the arguments of a function are.
Tree: TypeAlias = Any
# A tensor, soft or plain, a number, or anything else that a function takes.
Argument: TypeAlias = Any

# A tuple, as Python finds out more quickly about one of its classes than of a union.
_CONTAINERS = (tuple, list, dict)


def joint_shape(*shapes: Shape) -> Any:
    """Return the shape that shapes broadcast to."""
    # torch's own takes ten times as long to find that there is nothing to do.
    shapes = tuple(x for x in shapes if len(x)) or shapes
    if all(x == shapes[0] for x in shapes):
        return shapes[0]
    return torch.broadcast_shapes(*shapes)


def leaves(tree: Tree) -> list[Argument]:
    """Return what is in nested tuples, lists and dictionaries, as arguments are."""
    # torch's own pytrees do this ten times slower, at every operation.
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, _CONTAINERS):
        return [tree]
    found: list[Argument] = []
    for x in tree:
        if isinstance(x, _CONTAINERS):
            found += leaves(x)
        else:
            found.append(x)
    return found


def map_leaves(transform: Callable, tree: Tree) -> Tree:
    """Return nested tuples, lists and dictionaries with their leaves transformed."""
    if isinstance(tree, dict):
        return {key: map_leaves(transform, x) for key, x in tree.items()}
    if not isinstance(tree, _CONTAINERS) or isinstance(tree, torch.Size):
        return transform(tree)
    return type(tree)(
        [
            map_leaves(transform, x) if isinstance(x, _CONTAINERS) else transform(x)
            for x in tree
        ]
    )


def over_support(func: Callable) -> Callable:
    """Return a function of tensors that is applied along their first dimension."""

    def one_by_one(*tensors: Tensor) -> Any:
        results = [func(*several) for several in zip(*tensors, strict=True)]
        if isinstance(results[0], Tensor):
            return torch.stack(results)
        return tuple(torch.stack(pieces) for pieces in zip(*results, strict=True))

    def together(*tensors: Tensor) -> Any:
        try:
            return torch.vmap(func)(*tensors)
        except RuntimeError as error:
            if "atching rule not implemented" not in str(error):
                raise
            return one_by_one(*tensors)

    return together
