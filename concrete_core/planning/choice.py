"""Which sites to enumerate: what the host refuses, and what exceeds the budget."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from concrete_core.planning.costs import Costs, Node, Tensor


def refusals(nodes: Sequence[Node], *, one_scale: bool) -> dict[str, str]:
    """Return the discrete sites that the host cannot enumerate, and why.

    Args:
        nodes: Sites of the program, in its order.
        one_scale: Whether all enumerated sites share one scale in the host, and not
            only those that depend on each other.
    """
    found = {n.name: n.refusal for n in nodes if n.refusal is not None}
    sites = {node.name: node for node in nodes if node.support}
    for child in (node for node in nodes if node.scored):
        for name in child.parents & sites.keys():
            reason = _conflict(sites[name], child)
            if reason is not None:
                found.setdefault(name, reason)
    if one_scale:
        rest = [site for name, site in sites.items() if name not in found]
        found |= _other_scales([site for site in rest if site.mark in (None, _ON)])
    return found


_ON = "enumerate"


def _conflict(site: Node, child: Node) -> str | None:
    """Why the dependence of one site on another rules out enumeration."""
    outside = [name for name, _ in site.plates if name not in dict(child.plates)]
    if outside:
        plate = outside[0]
        return f"{child.name!r}, outside of plate {plate!r}, joins its elements"
    if site.scale is None or child.scale is None:
        return f"{child.name!r} is scaled by more than a plain number"
    if site.scale != child.scale:
        return (
            f"its scale is {site.scale:g} and that of {child.name!r} {child.scale:g}, "
            "as inside of a subsampled plate"
        )
    return None


def _other_scales(sites: Sequence[Node]) -> dict[str, str]:
    """The sites that do not have the scale of most, in a host that takes but one."""
    weights: Counter[float] = Counter()
    for site in sites:
        elements = 1
        for _, size in site.plates:
            elements *= size
        # A scale that the user has marked for comes first.
        weights[site.scale or 0.0] += elements + (site.mark == _ON) * 2**60
    if len(weights) < 2:
        return {}
    ((common, _),) = weights.most_common(1)
    return {
        site.name: f"its scale is {site.scale:g} and that of other sites {common:g}"
        for site in sites
        if site.scale != common
    }


class Chooser:
    """The greedy choice of the sites to relax until enumeration of the rest fits.

    Args:
        costs: What enumeration of any sites costs.
        free: Sites that can be relaxed.
        forced: Sites that are to be enumerated in any case.
        budget: Most elements of a tensor.
        max_dims: Most enumeration dims.
    """

    def __init__(
        self,
        costs: Costs,
        free: Collection[str],
        forced: Collection[str],
        budget: int | float,
        max_dims: int,
    ) -> None:
        self.costs, self.budget, self.max_dims = costs, budget, max_dims
        self.free = set(free)
        self.enumerated = self.free | set(forced)
        self.order = {node.name: i for i, node in enumerate(costs.nodes)}
        self.edges = _edges(costs.nodes)
        self.reasons: dict[str, str] = {}

    def run(self) -> None:
        """Move sites from `enumerated` to `reasons` until all fits."""
        while over := self._over_budget():
            self._relax_one_of_each(over)
        while excess := self._over_dims():
            self._relax_for_dims(excess)

    def _over_budget(self) -> list[Tensor]:
        """The tensors over the budget: of sites first, then of the sums of the rest."""
        for tensors in (self.costs.factors, self.costs.steps):
            found = [
                tensor
                for tensor in tensors(self.enumerated)
                if tensor.touched and tensor.elements > self.budget
            ]
            if found:
                return found
        return []

    def _relax_one_of_each(self, over: list[Tensor]) -> None:
        counts = Counter(name for tensor in over for name in tensor.sites)
        chosen: set[str] = set()
        for tensor in over:
            if tensor.sites & chosen:
                continue  # smaller already
            name = self._smallest_without(tensor, counts)
            self._move(name, f"{tensor.what} would have {amount(tensor.elements)}")
            chosen.add(name)

    def _smallest_without(self, tensor: Tensor, counts: Counter[str]) -> str:
        """The site that shrinks a tensor most, and of equals one that hangs together.

        A neighbour of relaxed sites comes first: the same chain is then relaxed at each
        time step, and not another one at each.
        """
        movable = tensor.sites & self.free
        if not movable:
            raise ValueError(self._unmet(tensor))

        def rank(name: str) -> tuple[int, bool, int, int]:
            size = self.costs.nodes[self.order[name]].support or 0
            return size, self._is_near(name), counts[name], self.order[name]

        return max(movable, key=rank)

    def _is_near(self, name: str) -> bool:
        return not self.edges[name].isdisjoint(self.reasons)

    def _unmet(self, tensor: Tensor) -> str:
        size = f"{tensor.what} has {amount(tensor.elements)}"
        more = f"more than the budget of {self.budget}"
        if not tensor.sites:
            return f"{size} by its plates alone, {more}. Raise it, or subsample"
        names = ", ".join(map(repr, sorted(tensor.sites, key=self.order.__getitem__)))
        return (
            f"{size}, {more}, and no site of it can be relaxed: {names}. Raise the "
            "budget, or take the marks for enumeration off"
        )

    def _over_dims(self) -> list[str]:
        """Sites of which one must go, for their dims to fit."""
        at = self.costs.allotted(self.enumerated)
        name, dim = max(at.items(), key=lambda x: x[1], default=("", 0))
        if dim <= self.max_dims:
            return []
        avoid = self.costs.nodes[self.order[name]].avoid
        return [name, *(avoid & at.keys())]

    def _relax_for_dims(self, names: list[str]) -> None:
        movable = self.free.intersection(names)
        if not movable:
            raise ValueError(
                f"{len(names)} sites marked for enumeration need a dim each, site "
                f"{names[0]!r} among them, and there are {self.max_dims} (max_dims). "
                "Take marks off, or mark the loop with markov"
            )
        largest: dict[str, int | float] = {}
        for tensor in self.costs.factors(self.enumerated):
            for name in tensor.sites:
                largest[name] = max(largest.get(name, 0), tensor.elements)

        def rank(name: str) -> tuple[bool, int | float, int]:
            return self._is_near(name), largest[name], self.order[name]

        self._move(
            max(movable, key=rank),
            f"more than {self.max_dims} enumeration dims would be needed",
        )

    def _move(self, name: str, reason: str) -> None:
        self.enumerated.discard(name)
        self.free.discard(name)
        self.reasons[name] = reason


def _edges(nodes: Iterable[Node]) -> dict[str, set[str]]:
    """The latent discrete sites that each one depends on, or that depend on it."""
    edges: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        if node.support:
            for parent in node.parents - {node.name}:
                edges[node.name].add(parent)
                edges[parent].add(node.name)
    return edges


def amount(number: int | float, unit: str = " elements") -> str:
    """Return a number in words, rounded if it is large."""
    if number == math.inf:
        return "infinitely many" + unit
    if number < 10**12:
        return f"{number:,.0f}{unit}"
    return f"10^{math.log10(number):.1f}{unit}"
