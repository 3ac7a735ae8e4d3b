"""What a discrete site influences: terms of the ELBO, and later sites of the guide."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from concrete_core.objectives.programs import Frame


class Term(NamedTuple):
    """The log-probability of one site of the model or the guide.

    Attributes:
        frames: Plates that the site is in.
        sources: Discrete sites of the guide that it depends on.
    """

    frames: tuple[Frame, ...]
    sources: frozenset[str]


def ancestors(parents: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """Return all sites that each site depends on, directly or through others.

    Args:
        parents: For each site, the sites that it depends on directly, all of which come
            before it in the mapping.

    Example:
        >>> sorted(ancestors({"a": (), "b": ("a",), "c": ("b",)})["c"])
        ['a', 'b']
    """
    ancestors_by_site: dict[str, frozenset[str]] = {}
    for name, names_of_parents in parents.items():
        through_parents = (ancestors_by_site[parent] for parent in names_of_parents)
        ancestors_by_site[name] = frozenset(names_of_parents).union(*through_parents)
    return ancestors_by_site


def independent_plates(
    name: str, frames: Iterable[Frame], terms: Iterable[Term]
) -> tuple[Frame, ...]:
    """Return the plates of a site that all terms that depend on it are in, too.

    Its elements along such a plate share no term: each has its own.

    Args:
        name: Name of the site.
        frames: Plates that it is in.
        terms: Terms of the ELBO.

    Example:
        >>> from types import SimpleNamespace
        >>> rows = SimpleNamespace(name="rows", dim=-1)
        >>> term_of_z = Term(frames=(rows,), sources=frozenset("z"))
        >>> term_of_x = Term(frames=(), sources=frozenset("z"))
        >>> len(independent_plates("z", [rows], [term_of_z]))
        1
        >>> independent_plates("z", [rows], [term_of_z, term_of_x])
        ()
    """
    dependent_terms = [term for term in terms if name in term.sources]
    return tuple(
        frame
        for frame in frames
        if frame.dim is not None
        and all(_is_in_plate(term, frame) for term in dependent_terms)
    )


def _is_in_plate(term: Term, plate: Frame) -> bool:
    """Tell whether the elements of a term are those of a plate, at the same dim."""
    return any(
        frame.name == plate.name and frame.dim == plate.dim for frame in term.frames
    )
