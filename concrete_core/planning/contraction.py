"""Tensor variable elimination with sets in place of tensors.

TraceEnum_ELBO multiplies factors and sums enumerated sites out of them, the deepest
plates first (Obermeyer et al. 2019, algorithm 1). Here a tensor is the set of its dims:
sites and plates, as numbers. Nothing is allocated, however large it would be.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

Dims = frozenset[int]


@dataclass(frozen=True)
class Component:
    """Terms that are contracted together, and the sites to sum them over."""

    terms: list[Dims]
    sites: Dims


@dataclass(frozen=True)
class Contraction:
    """The tensors of a contraction.

    Attributes:
        results: Dims of each intermediate result.
        tangled_sites: Sites that make the cost exponential in the size of a plate, so
            that backends refuse them; empty if there are none.
    """

    results: list[Dims]
    tangled_sites: Dims = frozenset()


def contract(
    terms: list[Dims],
    plates: Dims,
    sizes: Mapping[int, int],
    find_path: Callable | None,
) -> Contraction:
    """Return what contracting connected terms makes, plate by plate.

    A site is eliminated inside of its own plates; the result is then multiplied over
    the plates that none of its remaining sites is in. If there is no such plate, the
    cost is exponential in its size.

    Args:
        terms: Dims of each factor.
        plates: Those dims that are plates; the others are sites.
        sizes: Size of each dim.
        find_path: Path finder of `opt_einsum`, or None for one step.

    Example:
        >>> terms = [frozenset({0}), frozenset({0, 1})]
        >>> contract(terms, frozenset(), {0: 2, 1: 3}, find_path=None)
        Contraction(results=[frozenset()], tangled_sites=frozenset())
    """
    results: list[Dims] = []
    plates_of_site: dict[int, Dims] = {}
    terms_by_plates: dict[Dims, list[Dims]] = {}
    for dims in terms:
        terms_by_plates.setdefault(dims & plates, []).append(dims)
        for site in dims - plates:
            plates_of_site[site] = plates_of_site.get(site, dims & plates) & dims
    outermost = frozenset.intersection(*terms_by_plates)
    while plates_of_site:
        leaf = max(terms_by_plates, key=len)
        leaf_sites = {
            site for site, in_plates in plates_of_site.items() if in_plates == leaf
        }
        for site in leaf_sites:
            del plates_of_site[site]
        for component in connected_components(terms_by_plates.pop(leaf), leaf_sites):
            results += _pairwise(component, sizes, find_path)
            message = _union(component.terms) - component.sites
            sites = message - plates
            parent = _union(plates_of_site[site] for site in sites)
            if leaf == outermost:
                continue
            if parent == leaf:
                return Contraction(results, tangled_sites=sites)
            message -= leaf - parent
            terms_by_plates.setdefault(parent, []).append(message)
    return Contraction(results)


def connected_components(terms: list[Dims], sites: Collection[int]) -> list[Component]:
    """Return the terms that share some of these sites, component by component.

    Args:
        terms: Dims of each term.
        sites: Sites that connect terms.
    """
    components: list[Component | None] = []
    component_of_site: dict[int, int] = {}
    for dims in terms:
        shared = dims.intersection(sites)
        touching = sorted(
            {component_of_site[site] for site in shared if site in component_of_site}
        )
        merged_terms: list[Dims] = []
        merged_sites = shared
        for index in touching:
            component = components[index]
            if component is not None:
                merged_terms += component.terms
                merged_sites |= component.sites
            components[index] = None
        component_of_site.update(dict.fromkeys(merged_sites, len(components)))
        components.append(Component([*merged_terms, dims], merged_sites))
    return [component for component in components if component is not None]


def _pairwise(
    component: Component, sizes: Mapping[int, int], find_path: Callable | None
) -> Iterator[Dims]:
    """The results of contracting terms, two at a time, in the order of a path."""
    terms = list(component.terms)
    path: Iterable[tuple[int, ...]] = [tuple(range(len(terms)))]
    if len(terms) > 2 and find_path is not None:
        output = _union(terms) - component.sites
        path = find_path(terms, output, sizes)
    # A site is eliminated as soon as no other term has it.
    counts = Counter(dim for dims in terms for dim in dims)
    for step in path:
        operands = [terms.pop(i) for i in sorted(step, reverse=True)]
        counts.subtract(dim for dims in operands for dim in dims)
        product = _union(operands)
        finished = {dim for dim in product & component.sites if not counts[dim]}
        result = product - finished
        terms.append(result)
        counts.update(result)
        yield result


def _union(sets: Iterable[Dims]) -> Dims:
    return frozenset().union(*sets)
