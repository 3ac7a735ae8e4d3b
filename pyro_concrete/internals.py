"""The private API of Pyro and torch that this package uses.

Each function says why no public name serves. All were read in Pyro 1.9.2 and torch
2.13.

Counterpart: ``numpyro_concrete.internals``.
"""

import contextlib
import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

# torch documents its trees, and has them in a private module alone.
from torch.utils._pytree import register_pytree_node as register_pytree_node

_Distribution = TypeVar("_Distribution")

# --- soft integers --------------------------------------------------------------------


def tensor_without_data(
    cls: type, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Any:
    """Return a tensor of a subclass that has a shape and a type, and no data.

    torch documents tensor subclasses without data, and has no public constructor.
    """
    return Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)


def number_of_writes(x: Tensor) -> int:
    """Return how often a plain tensor was written into.

    Autograd counts this, and shows it to nobody else.
    """
    return x._version


def is_tracing() -> bool:
    """Tell whether ``torch.jit.trace`` runs, without a graph break under a compiler."""
    return torch._C._get_tracing_state() is not None


@contextlib.contextmanager
def untraced() -> Generator[None]:
    """Compute constants without a tracer that would record them.

    torch pauses its tracer in the same way, in a private function.
    """
    state = torch._C._get_tracing_state()
    if state is None:
        yield
        return
    torch._C._set_tracing_state(None)  # ty: ignore[missing-attribute]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # ty: ignore[missing-attribute]


def without_torch_function() -> AbstractContextManager:
    """Return a context in which subclasses are plain tensors.

    The public ``torch.overrides`` has no such context for one call.
    """
    return torch._C.DisableTorchFunctionSubclass()


def with_parameters(
    fn: _Distribution, parameters: Mapping[str, Tensor], batch_shape: Sequence[int]
) -> _Distribution:
    """Return a distribution with other parameters, in another batch shape.

    `expand` changes the shape of parameters that have dimensions for the values of
    soft integers; the attributes of a copy do not.
    """
    replaced: Any = copy.copy(fn)
    vars(replaced).update(parameters)
    replaced._batch_shape = torch.Size(batch_shape)
    replaced._validate_args = False
    return replaced
