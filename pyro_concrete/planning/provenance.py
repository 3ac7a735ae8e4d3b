"""Which drawn values a tensor depends on, recorded below every operation of torch.

Pyro's own tracking is a tensor subclass, which loses what is written in place
(`table[z] = 1`) and what comes out of code that asks for a plain tensor. `Provenance`
records each storage that an operator reads or writes, and so misses neither.

Counterpart: ``numpyro_concrete.planning.provenance``, where JAX lists the operations.
"""

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_concrete.internals import (
    TorchDispatchMode,
    storage_key,
    tree_leaves,
    tree_map,
)

Names = frozenset[str]
# Tensors and other leaves in tuples, lists and dictionaries, or by themselves.
Tree = Any

_NO_NAMES: Names = frozenset()
_LIBRARIES = {"torch", "pyro"}
# This package, and the type checks that tests put around it.
_OWN_PACKAGES = {"pyro_concrete", "jaxtyping", "beartype"}
# Functions that read numbers without an operator.
_READERS = {torch.tensor, torch.as_tensor, Tensor.tolist, Tensor.numpy}


class Provenance(TorchDispatchMode):
    """Record the names of drawn values that each tensor depends on.

    Attributes:
        read: Values that the program has read as numbers of Python.
        scalars: Names in numbers that the running function has read.

    Example:
        >>> with Provenance() as provenance:
        ...     z = provenance.named(torch.tensor([2]), "z")
        ...     table = torch.zeros(3)
        ...     table[z] = 1.0
        ...     provenance.of(table[:1].exp())
        frozenset({'z'})

    Counterpart: none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: set[str] = set()
        self.scalars = _NO_NAMES
        self._function_mode = _ScalarReads(self)
        # Tensors are kept, or another could get the same storage.
        self._records: dict[int, tuple[Tensor, Names]] = {}

    def __enter__(self) -> "Provenance":
        super().__enter__()
        self._function_mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._function_mode.__exit__(*error)
        super().__exit__(*error)

    def of(self, *values: Tree) -> Names:
        """Return the names that the tensors in these values depend on."""
        names = _NO_NAMES
        for tensor in _tensors(values):
            record = self._records.get(_storage_id(tensor))
            if record is not None:
                names |= record[1]
        return names

    def add(self, tensor: Tensor, names: Names) -> None:
        """Record that a tensor depends on these names, too."""
        self._records[_storage_id(tensor)] = (tensor, names | self.of(tensor))

    def named(self, value: Tensor, name: str) -> Tensor:
        """Return a copy of a value that depends on this name alone."""
        copy = value.clone()
        self._records[_storage_id(copy)] = (copy, frozenset({name}))
        return copy

    def __torch_dispatch__(
        self, func: Callable, types: Tree, args: Tree = (), kwargs: Tree = None
    ) -> Tree:
        del types
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        names = self.of(args, kwargs)
        if names:
            if func is torch.ops.aten._local_scalar_dense.default:
                self.scalars |= names
            for tensor in (*_tensors(result), *_written_tensors(func, args, kwargs)):
                self.add(tensor, names)
        return result


class _ScalarReads(TorchFunctionMode):
    """Carry names over functions that read a tensor as a number, such as `table[z]`.

    An operator cannot tell that the number it receives was read from a tensor. But both
    happen in one function of torch, whose result therefore depends on what was read.
    """

    def __init__(self, provenance: Provenance) -> None:
        super().__init__()
        self.provenance = provenance

    def __torch_function__(
        self, func: Callable, types: Tree, args: Tree = (), kwargs: Tree = None
    ) -> Tree:
        del types
        provenance = self.provenance
        kwargs = kwargs or {}
        provenance.scalars = _NO_NAMES
        if func in _READERS:
            provenance.scalars = provenance.of(args, kwargs)
        result = func(*args, **kwargs)
        names = provenance.scalars
        provenance.scalars = _NO_NAMES
        if not names:
            return result
        if result is None:  # written in place
            provenance.add(args[0], names)
        elif any(True for _ in _tensors(result)):
            return self._with_names(result, args, names)
        elif _is_called_by_program():
            provenance.read |= names
        return result

    def _with_names(self, result: Tree, args: Tree, names: Names) -> Tree:
        """The result with these names, which a view must not give to its base."""
        bases = list(_tensors(args))
        base_storages = {_storage_id(base) for base in bases}

        def add_names(leaf: Tree) -> Tree:
            if not isinstance(leaf, Tensor):
                return leaf
            is_argument = any(leaf is base for base in bases)
            if not is_argument and _storage_id(leaf) in base_storages:
                leaf = leaf.clone()
            self.provenance.add(leaf, names)
            return leaf

        return tree_map(add_names, result)


def _storage_id(tensor: Tensor) -> int:
    try:
        return storage_key(tensor)
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return id(tensor)


def _tensors(values: Tree) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _written_tensors(func: Callable, args: Tree, kwargs: Tree) -> Iterator[Tensor]:
    """The arguments that an operator writes to."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return
    for i, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(args[i] if i < len(args) else kwargs.get(argument.name))


def _is_called_by_program() -> bool:
    """Whether user code asked for a number, and not a check inside of the libraries."""
    frame = sys._getframe(1)
    while frame is not None and _package(frame) in _OWN_PACKAGES:
        frame = frame.f_back
    return frame is not None and _package(frame) not in _LIBRARIES


def _package(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "").partition(".")[0]
