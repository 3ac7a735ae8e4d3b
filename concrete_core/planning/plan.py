"""A plan: which sites to enumerate and which to relax, with costs and reasons."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from concrete_core.planning.enumeration_cost import (
    EnumerationCost,
    FactorTensor,
    TensorSummary,
    format_count,
)
from concrete_core.planning.selection import GreedySelection, unsupported_sites
from concrete_core.planning.sites import (
    ENUMERATE,
    LEAVE,
    RELAX,
    InspectedModel,
    Plates,
    SiteNode,
)
from concrete_core.types import Program, Temperature


@dataclass(frozen=True)
class Decision:
    """What a plan has decided about a site: a row of its table.

    Attributes:
        name: Name of the site.
        support_size: Number of its values; 0 if they are not finite.
        plates: Names and sizes of its plates.
        decision: "enumerate", "relax", or "leave" for a site that is left unchanged.
        cost: Elements of the largest tensor that has the site, if all were enumerated;
            infinite if the backend cannot enumerate it.
        largest_tensor: What that tensor is; empty if there is none.
        reason: Why this was decided.

    Example:
        >>> row = Decision("z", 3, (), "enumerate", 3, "the log-probability of 'z'", "")
        >>> row.name, row.support_size, row.decision, row.cost
        ('z', 3, 'enumerate', 3)
    """

    name: str
    support_size: int
    plates: Plates
    decision: str
    cost: int | float
    largest_tensor: str
    reason: str


@dataclass(frozen=True)
class TotalCost:
    """What enumeration costs in all.

    Attributes:
        num_elements: Elements of the largest tensor; infinite if unsupported.
        largest_tensor: What that tensor is, or which site is unsupported and why.
        num_dims: Number of enumeration dims.
    """

    num_elements: int | float
    largest_tensor: str
    num_dims: int


class AbstractPlan(ABC):
    """Which discrete sites of a model to enumerate, and which to relax.

    Args:
        decisions: What was decided, for each latent discrete site.
        before: Cost if all sites were enumerated.
        after: Cost under the plan.
        budget: Largest number of elements of a tensor that was asked for. Times 4 or 8
            it is in bytes, for float32 or float64.
    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        before: TotalCost,
        after: TotalCost,
        budget: int | float,
    ) -> None:
        self.decisions = tuple(decisions)
        self.sites = tuple(row.name for row in decisions)
        self.enumerated = self._sites_with(ENUMERATE)
        self.relaxed = self._sites_with(RELAX)
        self.cost_before = before.num_elements
        self.cost_after = after.num_elements
        self.dims_before = before.num_dims
        self.dims_after = after.num_dims
        self.largest_tensor_before = before.largest_tensor
        self.largest_tensor_after = after.largest_tensor
        self.budget = budget

    @abstractmethod
    def apply(
        self, model: Program, temperature: Temperature = None, **options: Any
    ) -> Program:
        """Return the program with its sites enumerated and relaxed as planned."""

    def __str__(self) -> str:
        header = ("site", "support", "plates", "decision", "cost", "driven by", "why")
        rows = [header, *map(_table_cells, self.decisions)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = map(str.ljust, row, widths)
            lines.append("  ".join(cells).rstrip())
        rule = "  ".join("-" * width for width in widths)
        table = [lines[0], rule, *lines[1:]]
        return "\n".join([*table, "", *self._summary()])

    def __repr__(self) -> str:
        return (
            f"Plan(enumerated={self.enumerated}, relaxed={self.relaxed}, "
            f"cost_after={self.cost_after})"
        )

    def _summary(self) -> list[str]:
        cost_before = "unsupported"
        if self.cost_before < math.inf:
            cost_before = format_count(self.cost_before)
        return [
            f"all enumerated: {cost_before}, {self.largest_tensor_before}; "
            f"dims: {self.dims_before}",
            f"as planned: {format_count(self.cost_after)}, "
            f"{self.largest_tensor_after}; dims: {self.dims_after}",
            f"budget: {format_count(self.budget)}",
        ]

    def _sites_with(self, decision: str) -> tuple[str, ...]:
        return tuple(row.name for row in self.decisions if row.decision == decision)


@dataclass(frozen=True)
class PlannedSites:
    """What `plan_model` returns: the arguments of a plan."""

    decisions: list[Decision]
    before: TotalCost
    after: TotalCost


def validate_budget(budget: int | float) -> None:
    """Raise if a budget is not positive.

    Args:
        budget: Largest number of elements of a tensor.

    Raises:
        ValueError: If it is not positive.
    """
    if not budget > 0:
        raise ValueError(f"budget is a number of elements above zero, not {budget!r}")


def plan_model(
    model: InspectedModel, budget: int | float, max_dims: int | None
) -> PlannedSites:
    """Decide for each discrete site of a model whether to enumerate or to relax it.

    Args:
        model: The inspected model.
        budget: Largest number of elements of a tensor, > 0.
        max_dims: Largest number of enumeration dims; None for what the backend has.

    Raises:
        ValueError: If a site that is set to be enumerated is not supported or does not
            fit, or a tensor does not fit by its plates alone.
    """
    unsupported = unsupported_sites(model)
    _validate_settings(model.discrete_sites, unsupported)
    supported = [s for s in model.discrete_sites if s.name not in unsupported]
    selection = GreedySelection(
        EnumerationCost(model.nodes, model.find_path),
        movable=[s.name for s in supported if _is_movable(s)],
        fixed=[s.name for s in supported if _is_fixed(s)],
        budget=budget,
        max_dims=model.max_dims if max_dims is None else max_dims,
    )
    all_names = [site.name for site in supported]
    tensors_before = TensorSummary(selection.cost.tensors(all_names))
    selection.run()
    tensors_after = TensorSummary(selection.cost.tensors(selection.enumerated))
    decisions = [
        _decide(
            site,
            tensor=tensors_before.largest_of_site.get(site.name),
            unsupported=unsupported.get(site.name),
            over_budget=selection.reasons.get(site.name),
        )
        for site in model.discrete_sites
    ]
    cost_before = _total_cost(tensors_before, selection.cost.num_dims(all_names))
    if unsupported:
        # Each decision has its reason; here the first one is enough.
        name, reason = next(iter(unsupported.items()))
        cost_before = TotalCost(math.inf, f"{name!r}: {reason}", cost_before.num_dims)
    dims_after = selection.cost.num_dims(selection.enumerated)
    return PlannedSites(
        decisions=decisions,
        before=cost_before,
        after=_total_cost(tensors_after, dims_after),
    )


def enumeration_obstacle(
    model: InspectedModel, names: Sequence[str], budget: int | float
) -> str | None:
    """Return why these sites of a model cannot all be enumerated, or None.

    Args:
        model: The inspected model.
        names: Discrete sites to enumerate; those that the model lacks do not matter.
        budget: Largest number of elements of a tensor.
    """
    sites = [site.name for site in model.discrete_sites if site.name in names]
    unsupported = unsupported_sites(model)
    for name in sites:
        if name in unsupported:
            return f"site {name!r}: {unsupported[name]}"
    cost = EnumerationCost(model.nodes, model.find_path)
    for tensor in cost.tensors(sites):
        # A tensor without enumerated sites is as large without enumeration.
        if tensor.sites and tensor.num_elements > budget:
            size = format_count(tensor.num_elements)
            return (
                f"{tensor.description} would have {size}, over the budget of {budget:g}"
            )
    if cost.num_dims(sites) > model.max_dims:
        return f"more than {model.max_dims} enumeration dims would be needed"
    return None


def _is_movable(site: SiteNode) -> bool:
    """Whether the plan may choose between enumerating a site and relaxing it."""
    return site.setting is None and site.relaxation_obstacle is None


def _is_fixed(site: SiteNode) -> bool:
    """Whether a site is enumerated in any case: as set, or as it cannot be relaxed."""
    if site.setting is None:
        return site.relaxation_obstacle is not None
    return site.setting == ENUMERATE


def _validate_settings(
    sites: Sequence[SiteNode], unsupported: Mapping[str, str]
) -> None:
    for site in sites:
        if site.setting == ENUMERATE and site.name in unsupported:
            raise ValueError(
                f"site {site.name!r} is set to be enumerated, and cannot be "
                f"enumerated: {unsupported[site.name]}. Remove the setting"
            )


def _total_cost(tensors: TensorSummary, num_dims: int) -> TotalCost:
    largest = tensors.largest
    return TotalCost(largest.num_elements, largest.description, num_dims)


def _decide(
    site: SiteNode,
    *,
    tensor: FactorTensor | None,
    unsupported: str | None,
    over_budget: str | None,
) -> Decision:
    """The decision on a site.

    Args:
        site: The site.
        tensor: The largest tensor that has it, if all were enumerated.
        unsupported: Why the backend cannot enumerate it, or None.
        over_budget: Why the selection has relaxed it, or None.
    """
    decision, reason = _decision_and_reason(site, unsupported or over_budget)
    return Decision(
        name=site.name,
        support_size=site.support_size or 0,
        plates=site.plates,
        decision=decision,
        cost=math.inf if tensor is None else tensor.num_elements,
        largest_tensor="" if tensor is None else tensor.description,
        reason=reason,
    )


def _decision_and_reason(site: SiteNode, reason: str | None) -> tuple[str, str]:
    """What is done with a site and why, if `reason` speaks against enumeration."""
    if site.setting is not None:
        return site.setting, "set by the model"
    if reason is None:
        # A site that cannot be relaxed is enumerated for that reason, within the budget
        # or not.
        return ENUMERATE, site.relaxation_obstacle or "fits the budget"
    if site.relaxation_obstacle is not None:
        return LEAVE, _join_reasons(reason, site.relaxation_obstacle)
    # The advice says what the user has to add to relax it, such as a truncation.
    return RELAX, _join_reasons(reason, site.advice)


def _join_reasons(*reasons: str | None) -> str:
    """Join different reasons into one."""
    return "; ".join(dict.fromkeys(filter(None, reasons)))


def _table_cells(row: Decision) -> tuple[str, ...]:
    plates = ", ".join(f"{name} = {size}" for name, size in row.plates)
    cost = "unsupported" if row.cost == math.inf else format_count(row.cost, unit="")
    return (
        row.name,
        str(row.support_size or "unbounded"),
        plates,
        row.decision,
        cost,
        row.largest_tensor,
        row.reason,
    )
