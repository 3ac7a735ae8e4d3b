"""What exact enumeration of chosen sites would cost, from the shapes alone.

TraceEnum_ELBO scores each site under every value of the enumerated sites that it
depends on (`EnumerationCost.factors`), and then contracts those log-probabilities
(`EnumerationCost.contractions`). Both are computed on sets of dims.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from concrete_core.planning.contraction import Dims, connected_components, contract
from concrete_core.planning.sites import SiteNode

_MAX_NAMED_SITES = 3


@dataclass(frozen=True)
class FactorTensor:
    """A tensor that enumeration makes: a log-probability, or a step of a contraction.

    Attributes:
        description: What it is, in words.
        sites: Enumerated sites that it has a dim for.
        num_elements: Number of its elements; infinite where the backend refuses.
        has_discrete_site: Whether a discrete site, enumerated or not, takes part in it.
    """

    description: str
    sites: frozenset[str]
    num_elements: int | float
    has_discrete_site: bool = True


class EnumerationCost:
    """The tensors that TraceEnum_ELBO makes of a model, for any choice of its sites.

    Args:
        nodes: Sites of the model, in its order.
        find_path: Path finder of `opt_einsum`, the one that the backend uses.

    Example:
        >>> parents, plates = frozenset({"coin"}), (("flips", 5),)
        >>> coin = SiteNode("coin", parents, support_size=2)
        >>> cost = EnumerationCost([coin, SiteNode("x", parents, plates)], None)
        >>> [tensor.num_elements for tensor in cost.factors({"coin"})]
        [2, 10]
        >>> cost.num_dims({"coin"})
        1
    """

    def __init__(self, nodes: Sequence[SiteNode], find_path: Callable | None) -> None:
        self.nodes = nodes
        self.find_path = find_path
        # Dims are numbers, so that paths do not depend on the hashes of strings.
        self._dim_of_site = {node.name: i for i, node in enumerate(nodes)}
        plate_sizes = dict(plate for node in nodes for plate in node.plates)
        self._dim_of_plate = {
            name: len(nodes) + i for i, name in enumerate(plate_sizes)
        }
        self._sizes = {i: node.support_size or 1 for i, node in enumerate(nodes)}
        for name, size in plate_sizes.items():
            self._sizes[self._dim_of_plate[name]] = size

    def factors(self, enumerated: Collection[str]) -> list[FactorTensor]:
        """Return the tensor of each site of the model."""
        tensors = []
        for node in self.nodes:
            what = "log-probability" if node.is_factor else "value"
            tensor = FactorTensor(
                description=f"the {what} of {node.name!r}",
                sites=node.parents & frozenset(enumerated),
                num_elements=self._num_elements(self._dims(node, enumerated)),
                has_discrete_site=bool(node.parents),
            )
            tensors.append(tensor)
        return tensors

    def contractions(self, enumerated: Collection[str]) -> list[FactorTensor]:
        """Return the tensors made on the way to marginalizing the enumerated sites."""
        plates = frozenset(self._dim_of_plate.values())
        terms = [self._dims(node, enumerated) for node in self.nodes if node.is_factor]
        terms = [dims for dims in terms if dims - plates]
        tensors = []
        for component in connected_components(terms, self._sizes.keys() - plates):
            contraction = contract(component.terms, plates, self._sizes, self.find_path)
            for dims in contraction.results:
                tensors.append(self._sum(dims - plates, self._num_elements(dims)))
            if contraction.tangled_sites:
                tensors.append(self._sum(contraction.tangled_sites, math.inf))
        return tensors

    def tensors(self, enumerated: Collection[str]) -> list[FactorTensor]:
        """Return the factors and, after them, what the contractions make."""
        return [*self.factors(enumerated), *self.contractions(enumerated)]

    def num_dims(self, enumerated: Collection[str]) -> int:
        """Return the number of enumeration dims that the backend allocates."""
        return max(self.allocate_dims(enumerated).values(), default=0)

    def allocate_dims(self, enumerated: Collection[str]) -> dict[str, int]:
        """Return the enumeration dim of each site, counted from one.

        As in the backends, a site takes the first dim that no conflicting site has.
        """
        dims: dict[str, int] = {}
        for node in self.nodes:
            if node.name in enumerated:
                taken = {dims[name] for name in node.conflicts if name in dims}
                candidates = range(1, len(dims) + 2)
                dims[node.name] = next(dim for dim in candidates if dim not in taken)
        return dims

    def _sum(self, site_dims: Dims, num_elements: int | float) -> FactorTensor:
        names = [self.nodes[dim].name for dim in sorted(site_dims)]
        description = "the sum"
        if names:
            description += f" over {', '.join(_abbreviate(names))}"
        return FactorTensor(description, frozenset(names), num_elements)

    def _dims(self, node: SiteNode, enumerated: Collection[str]) -> Dims:
        sites = {self._dim_of_site[name] for name in node.parents if name in enumerated}
        plates = {self._dim_of_plate[name] for name, _ in node.plates}
        return frozenset(sites | plates)

    def _num_elements(self, dims: Dims) -> int:
        return math.prod(self._sizes[dim] for dim in dims)


class TensorSummary:
    """The largest tensors among those that enumeration makes.

    Args:
        tensors: What enumeration makes.

    Attributes:
        largest: The largest of all.
        largest_of_site: The largest that has a dim for each site, by name.

    Example:
        >>> small = FactorTensor("small", frozenset({"z"}), 2)
        >>> large = FactorTensor("large", frozenset(), 5)
        >>> summary = TensorSummary([small, large])
        >>> summary.largest.description, summary.largest_of_site["z"].description
        ('large', 'small')
    """

    def __init__(self, tensors: Iterable[FactorTensor]) -> None:
        self.largest = FactorTensor("no tensor", frozenset(), 0)
        self.largest_of_site: dict[str, FactorTensor] = {}
        for tensor in tensors:
            self.largest = _larger(self.largest, tensor)
            for name in tensor.sites:
                current = self.largest_of_site.get(name, tensor)
                self.largest_of_site[name] = _larger(current, tensor)


def _larger(first: FactorTensor, second: FactorTensor) -> FactorTensor:
    """The larger of two tensors; of equals, the first."""
    return second if second.num_elements > first.num_elements else first


def _abbreviate(names: list[str]) -> list[str]:
    if len(names) <= _MAX_NAMED_SITES:
        return names
    return [*names[:2], "...", names[-1]]


def format_count(number: int | float, unit: str = " elements") -> str:
    """Return a number in words, rounded if it is large.

    Example:
        >>> format_count(4096), format_count(4**40), format_count(7, unit="")
        ('4,096 elements', '10^24.1 elements', '7')
    """
    if number == math.inf:
        return "infinitely many" + unit
    if number < 10**12:
        return f"{number:,.0f}{unit}"
    return f"10^{math.log10(number):.1f}{unit}"
