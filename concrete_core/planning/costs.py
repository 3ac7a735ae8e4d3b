"""What exact enumeration of chosen sites would cost, from the shapes alone.

TraceEnum_ELBO scores each site under every value of the enumerated sites it depends on,
and sums those out, the deepest plates first. Here the same is done with sets in the
place of tensors: nothing is allocated, whatever it would have needed.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

Dims = frozenset[int]


class Node(NamedTuple):
    """What a plan knows of a site of a program.

    Attributes:
        name: Name of the site.
        parents: Latent discrete sites that its log-probability depends on directly,
            itself among them.
        plates: Names and sizes of its plates, and of other batch axes.
        scored: Whether it is a factor of the model; a deterministic value is not.
        scale: What its log-probability is multiplied by; None if not a plain number.
        avoid: Earlier sites whose enumeration dim it cannot share.
        support: Number of its values if it is latent and discrete; 0 if they are not
            finite; None at any other site.
        mark: "enumerate", "relax" or "leave", where the model says so; else None.
        refusal: Why the host cannot enumerate it, or None.
        obstacle: Why it cannot be relaxed, or None.
        advice: What its relaxation needs of the user, or None.
    """

    name: str
    parents: frozenset[str] = frozenset()
    plates: tuple[tuple[str, int], ...] = ()
    scored: bool = True
    scale: float | None = 1.0
    avoid: frozenset[str] = frozenset()
    support: int | None = None
    mark: str | None = None
    refusal: str | None = None
    obstacle: str | None = None
    advice: str | None = None


class Tensor(NamedTuple):
    """What enumeration makes of a site, or on the way of summing sites out.

    Attributes:
        what: What it is, in words.
        sites: Enumerated sites that it has a dim for.
        elements: Number of its elements; infinite where the host refuses.
        touched: Whether a discrete site, enumerated or not, takes part in it.
    """

    what: str
    sites: frozenset[str]
    elements: int | float
    touched: bool = True


class Costs:
    """What TraceEnum_ELBO makes of a program, for any choice of its sites.

    Args:
        nodes: Sites of the program, in its order.
        find_path: A path finder of `opt_einsum`, the one that the host uses.

    Example:
        >>> bit, coin = frozenset({"bit"}), (("flips", 5),)
        >>> nodes = Node("bit", bit, support=2), Node("flip", bit, coin)
        >>> costs = Costs(nodes, find_path=None)
        >>> [t.elements for t in costs.factors({"bit"})], costs.dims({"bit"})
        ([2, 10], 1)
    """

    def __init__(self, nodes: Sequence[Node], find_path: Callable | None) -> None:
        self.nodes = nodes
        self.find_path = find_path
        # Numbers for names: the paths do not depend on the hashes of strings then.
        self._sites = {node.name: i for i, node in enumerate(nodes)}
        sizes = dict(plate for node in nodes for plate in node.plates)
        self._plates = {name: len(nodes) + i for i, name in enumerate(sizes)}
        self._sizes = {self._plates[name]: size for name, size in sizes.items()}
        self._sizes |= {i: node.support or 1 for i, node in enumerate(nodes)}

    def factors(self, enumerated: Collection[str]) -> list[Tensor]:
        """Return the tensor of each site of the program."""
        found = []
        for node in self.nodes:
            kind = "log-probability" if node.scored else "value"
            elements = self._elements(self._dims(node, enumerated))
            sites = node.parents & frozenset(enumerated)
            what = f"the {kind} of {node.name!r}"
            found.append(Tensor(what, sites, elements, bool(node.parents)))
        return found

    def steps(self, enumerated: Collection[str]) -> list[Tensor]:
        """Return the tensors that summing the enumerated sites out makes on the way."""
        scored = [node for node in self.nodes if node.scored]
        terms = [self._dims(node, enumerated) for node in scored]
        known = frozenset(self._plates.values())
        terms = [dims for dims in terms if dims - known]
        found = []
        for component, _ in _components(terms, self._sizes.keys() - known):
            made, tangled = _contracted(component, known, self._sizes, self.find_path)
            found += [self._step(dims - known, self._elements(dims)) for dims in made]
            if tangled:
                found.append(self._step(tangled, math.inf))
        return found

    def dims(self, enumerated: Collection[str]) -> int:
        """Return the number of enumeration dims that the host allots."""
        return max(self.allotted(enumerated).values(), default=0)

    def allotted(self, enumerated: Collection[str]) -> dict[str, int]:
        """Return the enumeration dim of each site, counted from one."""
        at: dict[str, int] = {}
        for node in self.nodes:
            if node.name in enumerated:
                taken = {at[name] for name in node.avoid if name in at}
                at[node.name] = next(i for i in range(1, len(at) + 2) if i not in taken)
        return at

    def _step(self, dims: Dims, elements: int | float) -> Tensor:
        sites = [self.nodes[i].name for i in sorted(dims)]
        shown = sites if len(sites) < 4 else [*sites[:2], "...", sites[-1]]
        where = f" over {', '.join(shown)}" if sites else ""
        return Tensor("the sum" + where, frozenset(sites), elements)

    def _dims(self, node: Node, enumerated: Collection[str]) -> Dims:
        sites = {self._sites[name] for name in node.parents if name in enumerated}
        return frozenset(sites | {self._plates[name] for name, _ in node.plates})

    def _elements(self, dims: Dims) -> int:
        return math.prod(self._sizes[dim] for dim in dims)


def _contracted(
    terms: list[Dims], plates: Dims, sizes: dict[int, int], find_path: Callable | None
) -> tuple[list[Dims], Dims]:
    """What is made where connected terms are summed over their sites, plate by plate.

    A site is summed inside of its own plates, and what is left is multiplied over those
    that no other site of it is in. If that leaves no plate the cost is exponential, and
    the hosts refuse: then the sites that tangle the plates are returned, too.
    """
    made = []
    home: dict[int, Dims] = {}
    tree: dict[Dims, list[Dims]] = {}
    for dims in terms:
        tree.setdefault(dims & plates, []).append(dims)
        for site in dims - plates:
            home[site] = home.get(site, dims & plates) & dims
    outermost = frozenset.intersection(*tree)
    while home:
        leaf = max(tree, key=len)
        local = {site for site, place in home.items() if place == leaf}
        home = {site: place for site, place in home.items() if place != leaf}
        for group, summed in _components(tree.pop(leaf), local):
            made += _pairwise(group, summed, sizes, find_path)
            rest = frozenset().union(*group) - summed
            parent = frozenset().union(*(home[site] for site in rest - plates))
            if parent == leaf != outermost:
                return made, rest - plates
            if leaf != outermost:
                tree.setdefault(parent, []).append(rest - (leaf - parent))
    return made, frozenset()


def _pairwise(
    terms: list[Dims], summed: Dims, sizes: dict[int, int], find_path: Callable | None
) -> Iterator[Dims]:
    """The results of contracting terms, two at a time, in the order of a path."""
    path: Iterable[tuple[int, ...]] = [tuple(range(len(terms)))]
    if len(terms) > 2 and find_path is not None:
        output = frozenset().union(*terms) - summed
        path = find_path(terms, output, sizes)
    rest = list(terms)
    counts = Counter(dim for dims in rest for dim in dims)
    for step in path:
        taken = [rest.pop(i) for i in sorted(step, reverse=True)]
        counts.subtract(dim for dims in taken for dim in dims)
        result = frozenset().union(*taken)
        done = {dim for dim in result & summed if not counts[dim]}
        rest.append(result - done)
        counts.update(rest[-1])
        yield rest[-1]


def _components(
    terms: list[Dims], sites: Collection[int]
) -> list[tuple[list[Dims], Dims]]:
    """Terms that are to be summed together, and the sites to sum them over."""
    groups: list[tuple[list[Dims], Dims]] = []
    at: dict[int, int] = {}  # site -> its group
    for dims in terms:
        shared = dims.intersection(sites)
        joined = sorted({at[site] for site in shared if site in at})
        group = [term for i in joined for term in groups[i][0]]
        shared = shared.union(*(groups[i][1] for i in joined))
        for i in joined:
            groups[i] = ([], frozenset())
        at.update(dict.fromkeys(shared, len(groups)))
        groups.append(([*group, dims], shared))
    return [group for group in groups if group[0]]
