"""BibTeX entries, and the search for the methods that a program is made of."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

# A part of a program, which can be anything.
Part = Any
# What is cited, by the class or function that stands for it.
KeysByObject = Mapping[Part, tuple[str, ...]]

_SOFTWARE = "concrete_ppl"

# Where wrappers, handlers, guides and SVI keep what they are made of.
_PART_ATTRIBUTES = (
    "__wrapped__",
    "__self__",
    "func",
    "args",
    "keywords",
    "fn",
    "config",
    "model",
    "guide",
    "loss",
)


class Bibliography(str):
    """BibTeX entries: a string that an interactive prompt shows without quotes.

    Args:
        text: The entries.

    Example:
        >>> Bibliography("@misc{concrete_ppl,}").keys
        ('concrete_ppl',)
    """

    __slots__ = ()

    def __new__(cls, text: str) -> "Bibliography":
        """Return the text as entries."""
        return super().__new__(cls, text)

    def __repr__(self) -> str:
        return str(self)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the entries, in their order."""
        return tuple(re.findall(r"^@\w+\{(\w+)", self, flags=re.MULTILINE))

    def select(self, keys: Iterable[str]) -> "Bibliography":
        r"""Return the entries of some keys, in the order of this bibliography.

        Args:
            keys: Keys of the entries.

        Example:
            >>> Bibliography("@misc{a,}\n\n@misc{b,}\n").select({"b"})
            @misc{b,}
        """
        entries = self.strip().split("\n\n")
        selected = [
            entry for key, entry in zip(self.keys, entries, strict=True) if key in keys
        ]
        return Bibliography("\n\n".join(selected) + "\n")


def all_references() -> Bibliography:
    """Return the entries of ``references.bib``, which lies beside this file.

    Example:
        >>> all_references().keys[-1]
        'concrete_ppl'
    """
    path = resources.files("concrete_core").joinpath("references.bib")
    return Bibliography(path.read_text("utf-8"))


def cite_programs(
    programs: Sequence[Part],
    keys_by_object: KeysByObject,
    parts_of: Callable[[Part], Iterable[Part]],
) -> Bibliography:
    """Return the entries of the methods that programs use, and of this software.

    Args:
        programs: What is cited; without any, all entries are returned.
        keys_by_object: What is cited, by class or function.
        parts_of: Further parts of an object, which only the backend knows.

    Raises:
        TypeError: If one of them has nothing of this package in it.
    """
    references = all_references()
    if not programs:
        return references
    keys = {_SOFTWARE}
    for program in programs:
        keys |= _keys_of_program(program, keys_by_object, parts_of)
    return references.select(keys)


def _keys_of_program(
    program: Part,
    keys_by_object: KeysByObject,
    parts_of: Callable[[Part], Iterable[Part]],
) -> set[str]:
    """The keys of a program and of everything that it is made of."""
    has_part_of_ours = False
    keys: set[str] = set()
    visited: dict[int, Part] = {}  # holds the parts, or an id could come again
    pending = [program]
    while pending:
        part = pending.pop()
        if id(part) in visited:
            continue
        visited[id(part)] = part
        part_keys = _keys_of_part(part, keys_by_object)
        if part_keys is not None:
            has_part_of_ours = True
            keys.update(part_keys)
        pending += _parts(part)
        pending += parts_of(part)
    if not has_part_of_ours:
        raise TypeError(
            f"cite finds nothing of this package in {program!r}: pass what relax has "
            "returned, a guide, an estimator, an objective, or an SVI of these"
        )
    return keys


def _keys_of_part(part: Part, keys_by_object: KeysByObject) -> tuple[str, ...] | None:
    if inspect.isroutine(part):
        return keys_by_object.get(part)
    for cls in inspect.getmro(part if inspect.isclass(part) else type(part)):
        if cls in keys_by_object:
            return keys_by_object[cls]
    return None


def _parts(part: Part) -> Iterator[Part]:
    """What a program is made of, as the common wrappers of Python keep it."""
    if isinstance(part, str | bytes) or inspect.isclass(part) or inspect.ismodule(part):
        return
    if isinstance(part, Mapping):
        yield from part.values()
    elif isinstance(part, tuple | list):
        yield from part
    else:
        for attribute in _PART_ATTRIBUTES:
            if hasattr(part, attribute):
                yield getattr(part, attribute)
