"""Which drawn values a tensor depends on, seen below every operation of torch.

The host's own tracking is a tensor subclass, which loses what is written in place
(`table[z] = 1`) and what comes out of code that asks for a plain tensor. This one notes
each storage that an operator reads or writes, and so misses neither.

Counterpart: ``numpyro_concrete.planning.provenance``, where JAX lists the operations.
"""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_LIBRARIES = {"torch", "pyro"}
# Our own, and the checks of types that tests put around it.
_OURS = {"pyro_concrete", "jaxtyping", "beartype"}
_PLAIN: frozenset[str] = frozenset()
# Functions that read numbers without an operator.
_READERS = {torch.tensor, torch.as_tensor, Tensor.tolist, Tensor.numpy}


class Provenance(TorchDispatchMode):
    """Note the names of drawn values that each tensor depends on.

    Attributes:
        read: Values that the program read as numbers of Python.

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
        self.scalars = _PLAIN  # names in numbers that the running function has read
        self._calls = _Calls(self)
        # The tensors are kept, or their storage would go to others.
        self._known: dict[int, tuple[Tensor, frozenset[str]]] = {}

    def __enter__(self) -> "Provenance":
        super().__enter__()
        self._calls.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._calls.__exit__(*error)
        super().__exit__(*error)

    def of(self, *values: Any) -> frozenset[str]:
        """Return the names that the tensors in these values depend on."""
        found = (self._known.get(_storage(x), (x, _PLAIN))[1] for x in _tensors(values))
        return _PLAIN.union(*found)

    def add(self, x: Tensor, names: frozenset[str]) -> None:
        """Note that a tensor depends on these names, too."""
        self._known[_storage(x)] = x, names | self.of(x)

    def named(self, value: Tensor, name: str) -> Tensor:
        """Return a copy of a value that depends on this name alone."""
        value = value.clone()
        self._known[_storage(value)] = value, frozenset({name})
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        names = self.of(args, kwargs)
        if names:
            if func is torch.ops.aten._local_scalar_dense.default:
                self.scalars |= names
            for x in (*_tensors(result), *_written(func, args, kwargs)):
                self.add(x, names)
        return result


class _Calls(TorchFunctionMode):
    """Carry names over functions that read a tensor as a number, such as `table[z]`."""

    def __init__(self, provenance: Provenance) -> None:
        super().__init__()
        self.provenance = provenance

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        known, kwargs = self.provenance, kwargs or {}
        known.scalars = known.of(args, kwargs) if func in _READERS else _PLAIN
        result = func(*args, **kwargs)
        names, known.scalars = known.scalars, _PLAIN
        if not names:
            return result
        if result is None:  # written in place
            known.add(args[0], names)
        elif any(True for _ in _tensors(result)):
            return self._noted(result, args, names)
        elif _asked_by_program():
            known.read |= names
        return result

    def _noted(self, result: Any, args: Any, names: frozenset[str]) -> Any:
        """The result with these names, which a view must not give to its base."""
        bases = list(_tensors(args))
        storages = {_storage(base) for base in bases}

        def note(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            is_view = _storage(x) in storages and all(x is not base for base in bases)
            x = x.clone() if is_view else x
            self.provenance.add(x, names)
            return x

        return tree_map(note, result)


def _storage(x: Tensor) -> int:
    try:
        return x.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse ones have none
        return id(x)


def _tensors(values: Any) -> Iterator[Tensor]:
    return (x for x in tree_leaves(values) if isinstance(x, Tensor))


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The arguments that an operator writes to."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return
    for i, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[i] if i < len(args) else kwargs.get(argument.name)
            yield from _tensors(given)


def _asked_by_program() -> bool:
    """Whether user code asked for a number, and not a check inside of the libraries."""
    frame = sys._getframe(1)
    while frame is not None and _package(frame) in _OURS:
        frame = frame.f_back
    return frame is not None and _package(frame) not in _LIBRARIES


def _package(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "").partition(".")[0]
