"""Which sites to enumerate: those that the backend supports and the budget allows."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from concrete_core.planning.enumeration_cost import (
    EnumerationCost,
    FactorTensor,
    format_count,
)
from concrete_core.planning.sites import ENUMERATE, InspectedModel, SiteNode

# A site that the user has asked to enumerate outweighs any number of elements.
_ASKED_FOR = 2**60


def unsupported_sites(model: InspectedModel) -> dict[str, str]:
    """Return the discrete sites that the backend cannot enumerate, and why.

    Args:
        model: The inspected model.
    """
    reasons = {
        node.name: node.unsupported
        for node in model.nodes
        if node.unsupported is not None
    }
    discrete = {node.name: node for node in model.nodes if node.support_size}
    for child in model.nodes:
        if not child.is_factor:
            continue
        for name in child.parents & discrete.keys():
            reason = _conflict(discrete[name], child)
            if reason is not None:
                reasons.setdefault(name, reason)
    if model.has_one_scale:
        candidates = [
            site
            for name, site in discrete.items()
            if name not in reasons and site.setting in (None, ENUMERATE)
        ]
        reasons |= _sites_of_other_scales(candidates)
    return reasons


def _conflict(site: SiteNode, child: SiteNode) -> str | None:
    """Why a site cannot be enumerated, for the sake of a factor that depends on it."""
    child_plates = {name for name, _ in child.plates}
    for plate, _ in site.plates:
        if plate not in child_plates:
            return f"{child.name!r}, outside of plate {plate!r}, joins its elements"
    if site.scale is None or child.scale is None:
        return f"{child.name!r} is scaled by more than a plain number"
    if site.scale != child.scale:
        return (
            f"its scale is {site.scale:g} and that of {child.name!r} {child.scale:g}, "
            "as inside of a subsampled plate"
        )
    return None


def _sites_of_other_scales(sites: Sequence[SiteNode]) -> dict[str, str]:
    """The sites that do not have the most common scale, by number of elements."""
    weights: Counter[float] = Counter()
    for site in sites:
        weight = math.prod(size for _, size in site.plates)
        if site.setting == ENUMERATE:
            weight += _ASKED_FOR
        weights[site.scale or 0.0] += weight
    if len(weights) < 2:
        return {}
    ((common, _),) = weights.most_common(1)
    return {
        site.name: f"its scale is {site.scale:g} and that of other sites {common:g}"
        for site in sites
        if site.scale != common
    }


class GreedySelection:
    """Relax sites, the most helpful first, until enumeration of the others fits.

    Args:
        cost: What enumeration of any sites costs.
        movable: Sites that can be relaxed.
        fixed: Sites that are to be enumerated in any case.
        budget: Largest number of elements of a tensor.
        max_dims: Largest number of enumeration dims.

    Attributes:
        enumerated: Names of the sites that are enumerated.
        reasons: Why each site that is no longer among them was relaxed.
    """

    def __init__(
        self,
        cost: EnumerationCost,
        movable: Collection[str],
        fixed: Collection[str],
        budget: int | float,
        max_dims: int,
    ) -> None:
        self.cost = cost
        self.budget = budget
        self.max_dims = max_dims
        self.movable = set(movable)
        self.enumerated = self.movable | set(fixed)
        self.reasons: dict[str, str] = {}
        self._order = {node.name: i for i, node in enumerate(cost.nodes)}
        self._neighbors = _neighbors(cost.nodes)

    def run(self) -> None:
        """Move sites from `enumerated` to `reasons` until everything fits.

        Raises:
            ValueError: If a tensor does not fit and none of its sites can be relaxed.
        """
        while tensors := self._tensors_over_budget():
            self._relax_one_site_of_each(tensors)
        while names := self._sites_over_dims():
            self._relax_for_dims(names)

    def _tensors_over_budget(self) -> list[FactorTensor]:
        """The tensors over the budget: factors, or if these fit, contractions."""
        for tensors_of in (self.cost.factors, self.cost.contractions):
            too_large = [
                tensor
                for tensor in tensors_of(self.enumerated)
                if tensor.has_discrete_site and tensor.num_elements > self.budget
            ]
            if too_large:
                return too_large
        return []

    def _relax_one_site_of_each(self, tensors: list[FactorTensor]) -> None:
        counts = Counter(name for tensor in tensors for name in tensor.sites)
        relaxed: set[str] = set()
        for tensor in tensors:
            if tensor.sites & relaxed:
                continue  # smaller already
            name = self._most_helpful_site(tensor, counts)
            size = format_count(tensor.num_elements)
            self._relax(name, f"{tensor.description} would have {size}")
            relaxed.add(name)

    def _most_helpful_site(self, tensor: FactorTensor, counts: Counter[str]) -> str:
        """The site without which a tensor is smallest; of equals, a neighbor.

        Neighbors of relaxed sites come first, so that one and the same chain is relaxed
        at every time step.
        """
        movable = tensor.sites & self.movable
        if not movable:
            raise ValueError(self._budget_message(tensor))

        def rank(name: str) -> tuple[int, bool, int, int]:
            order = self._order[name]
            support_size = self.cost.nodes[order].support_size or 0
            return support_size, self._has_relaxed_neighbor(name), counts[name], order

        return max(movable, key=rank)

    def _has_relaxed_neighbor(self, name: str) -> bool:
        return not self._neighbors[name].isdisjoint(self.reasons)

    def _budget_message(self, tensor: FactorTensor) -> str:
        size = f"{tensor.description} has {format_count(tensor.num_elements)}"
        excess = f"more than the budget of {self.budget}"
        if not tensor.sites:
            return f"{size} by its plates alone, {excess}. Raise it, or subsample"
        names = sorted(tensor.sites, key=self._order.__getitem__)
        return (
            f"{size}, {excess}, and no site of it can be relaxed: "
            f"{', '.join(map(repr, names))}. Raise the budget, or remove the settings "
            "that ask for enumeration"
        )

    def _sites_over_dims(self) -> list[str]:
        """Sites of which one has to be relaxed for the dims to fit."""
        dims = self.cost.allocate_dims(self.enumerated)
        name = max(dims, key=dims.__getitem__, default=None)
        if name is None or dims[name] <= self.max_dims:
            return []
        conflicts = self.cost.nodes[self._order[name]].conflicts
        return [name, *(conflicts & dims.keys())]

    def _relax_for_dims(self, names: list[str]) -> None:
        movable = self.movable.intersection(names)
        if not movable:
            raise ValueError(
                f"{len(names)} sites set to be enumerated need a dim each, site "
                f"{names[0]!r} among them, and there are {self.max_dims} (max_dims). "
                "Remove such settings, or write the loop with markov"
            )
        largest: dict[str, int | float] = {}
        for tensor in self.cost.factors(self.enumerated):
            for name in tensor.sites:
                largest[name] = max(largest.get(name, 0), tensor.num_elements)

        def rank(name: str) -> tuple[bool, int | float, int]:
            return self._has_relaxed_neighbor(name), largest[name], self._order[name]

        self._relax(
            max(movable, key=rank),
            f"more than {self.max_dims} enumeration dims would be needed",
        )

    def _relax(self, name: str, reason: str) -> None:
        self.enumerated.discard(name)
        self.movable.discard(name)
        self.reasons[name] = reason


def _neighbors(nodes: Iterable[SiteNode]) -> dict[str, set[str]]:
    """The latent discrete sites that each one depends on, or that depend on it."""
    neighbors: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        if node.support_size:
            for parent in node.parents - {node.name}:
                neighbors[node.name].add(parent)
                neighbors[parent].add(node.name)
    return neighbors
