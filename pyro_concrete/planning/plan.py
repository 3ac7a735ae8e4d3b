"""plan_sites: what to enumerate and what to relax, as a plan that applies itself.

Counterpart: ``numpyro_concrete.planning.plan``.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from pyro import poutine

from concrete_core.planning.choice import Chooser, amount, refusals
from concrete_core.planning.costs import Costs, Node, Tensor
from pyro_concrete.planning.inspection import (
    ONE_SCALE,
    find_path,
    inspect_program,
)
from pyro_concrete.relaxation import relax


class Decision(NamedTuple):
    """What a plan has decided about a site: a row of its table.

    Attributes:
        name: Name of the site.
        support: Number of its values; 0 if they are not finite.
        plates: Names and sizes of its plates.
        decision: "enumerate", "relax", or "leave" for a site that stays as it is.
        cost: Elements of the largest tensor that has the site, were all enumerated;
            infinite if the host refuses.
        driver: What that tensor is.
        reason: Why this was decided.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Categorical(torch.ones(3)))
        >>> [row] = plan_sites(model).decisions
        >>> row.name, row.support, row.decision, row.cost
        ('z', 3, 'enumerate', 3)

    Counterpart: :class:`numpyro_concrete.planning.plan.Decision`.
    """

    name: str
    support: int
    plates: tuple[tuple[str, int], ...]
    decision: str
    cost: int | float
    driver: str
    reason: str


class Plan:
    """Which discrete sites of a model to enumerate, and which to relax.

    `print` it for a table of sites, costs and reasons; `apply` it to the model.

    Args:
        decisions: What was decided, for each latent discrete site.
        costs: Elements of the largest tensor, before and after.
        dims: Enumeration dims, before and after.
        drivers: What the largest tensors are, before and after.
        budget: Most elements of a tensor that was asked for.

    Attributes:
        sites: Names of all latent discrete sites, in the order of the program.
        enumerated: Names of those that are enumerated.
        relaxed: Names of those that are relaxed.
        cost_before: Elements of the largest tensor if all were enumerated; infinite if
            the host refuses to.
        cost_after: Elements of the largest tensor under the plan.
        dims_before: Enumeration dims if all were enumerated that the host takes.
        dims_after: Enumeration dims under the plan.
        driver_before: What the largest tensor is if all were enumerated.
        driver_after: What it is under the plan.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     return pyro.sample("z", dist.Categorical(torch.ones(3)))
        >>> plan = plan_sites(model)
        >>> isinstance(plan, Plan), plan.enumerated, plan.cost_after
        (True, ('z',), 3)

    Counterpart: :class:`numpyro_concrete.planning.Plan`.
    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        costs: tuple[int | float, int | float],
        dims: tuple[int, int],
        drivers: tuple[str, str],
        budget: int | float,
    ) -> None:
        self.decisions = tuple(decisions)
        self.sites = tuple(row.name for row in decisions)
        self.enumerated = self._where("enumerate")
        self.relaxed = self._where("relax")
        self.cost_before, self.cost_after = costs
        self.dims_before, self.dims_after = dims
        self.driver_before, self.driver_after = drivers
        self.budget = budget

    def apply(
        self, model: Callable, temperature: Any = None, **options: Any
    ) -> Callable:
        """Return the program with its sites marked and relaxed as planned.

        Train it by `TraceEnum_ELBO`, with a guide that has the relaxed sites and none
        of the enumerated ones: ``plan.apply(guide, temperature)`` relaxes a guide that
        was written for the discrete sites.

        Args:
            model: The planned model, or its guide.
            temperature: Relaxation temperature, > 0, as for `relax`; not needed if the
                plan relaxes nothing.
            options: Further arguments of `relax`, such as `truncate`.

        Returns:
            The program, with the arguments of `model`. Marks that are there stay.

        Raises:
            TypeError: If the plan relaxes sites and no temperature is given.

        Example:
            >>> import pyro, pyro.distributions as dist
            >>> def model():
            ...     return pyro.sample("z", dist.Categorical(torch.ones(3)))
            >>> hybrid = plan_sites(model).apply(model)
            >>> pyro.poutine.trace(hybrid).get_trace().nodes["z"]["infer"]
            {'enumerate': 'parallel'}
        """
        enumerated = frozenset(self.enumerated)

        def config(site: Any) -> Any:
            if site["type"] != "sample" or site["name"] not in enumerated:
                return {}
            return {"enumerate": site["infer"].get("enumerate") or "parallel"}

        hybrid = poutine.infer_config(model, config)
        if not self.relaxed:
            return hybrid
        return relax(hybrid, temperature, sites=self.relaxed, **options)

    def __str__(self) -> str:
        head = ("site", "support", "plates", "decision", "cost", "driven by", "why")
        body = [head, *map(_cells, self.decisions)]
        widths = [max(map(len, column)) for column in zip(*body, strict=True)]
        lines = [
            "  ".join(x.ljust(n) for x, n in zip(row, widths, strict=True)).rstrip()
            for row in body
        ]
        lines.insert(1, "  ".join("-" * n for n in widths))
        return "\n".join([*lines, "", *self._summary()])

    def __repr__(self) -> str:
        return (
            f"Plan(enumerated={self.enumerated}, relaxed={self.relaxed}, "
            f"cost_after={self.cost_after})"
        )

    def _summary(self) -> list[str]:
        before = "refused"
        if self.cost_before < math.inf:
            before = amount(self.cost_before)
        after = amount(self.cost_after)
        return [
            f"all enumerated: {before}, {self.driver_before}; dims: {self.dims_before}",
            f"as planned: {after}, {self.driver_after}; dims: {self.dims_after}",
            f"budget: {amount(self.budget)}",
        ]

    def _where(self, decision: str) -> tuple[str, ...]:
        return tuple(r.name for r in self.decisions if r.decision == decision)


def plan_sites(
    model: Callable,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    budget: int | float = 2**24,
    max_dims: int | None = None,
) -> Plan:
    """Plan which discrete sites of a model to enumerate, and which to relax.

    The model runs once, without enumeration. From the shapes and the dependencies of
    its sites follows what `TraceEnum_ELBO` would make if it enumerated all of them: the
    log-probability of each site, under every value of the sites that it depends on, and
    the tensors of the contraction that sums them out. None of it is computed. Sites are
    moved to relaxation until all of that fits the budget: of each tensor that is too
    large the one that shrinks it most, those first that are neighbours of sites relaxed
    before; then the ones for which there are no dims.

    What the host refuses to enumerate is relaxed, with the reason: sites that are
    joined by `to_event`, or across their plate, or scaled otherwise than what depends
    on them, as a global site above a subsampled plate is. Marks at sites are kept:
    ``infer={"enumerate": "parallel"}`` is enumerated, ``infer={"relax": False}`` stays
    as it is. Elements of a plate are taken to be independent, as the host does.

    Args:
        model: Model. A param that it creates is not kept.
        args: Positional arguments of the model.
        kwargs: Keyword arguments of the model.
        budget: Most elements of a tensor, > 0. Intermediate values of the program, and
            the gradients, are not counted: leave room for a few tensors of this size.
        max_dims: Most enumeration dims; by default what the host has besides those of
            plates and events: of 64 on the CPU, 25 on CUDA.

    Returns:
        The plan: print it, and apply it to the model.

    Raises:
        ValueError: If the budget is not positive; if a tensor is larger than the budget
            by its plates alone; or if a site that is marked for enumeration does not
            fit or is refused.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     a = pyro.sample("a", dist.Categorical(torch.ones(50)))
        ...     b = pyro.sample("b", dist.Categorical(torch.ones(40)))
        ...     loc = (a + b).float()
        ...     pyro.sample("x", dist.Normal(loc, 1.0), obs=torch.tensor(3.0))
        >>> plan = plan_sites(model, budget=1000)
        >>> plan.relaxed, plan.enumerated, plan.cost_before, plan.cost_after
        (('a',), ('b',), 2000, 40)

    References:
        Obermeyer et al. (2019), Tensor Variable Elimination for Plated Factor Graphs.
        https://arxiv.org/abs/1902.03210

    Counterpart: :func:`numpyro_concrete.planning.plan_sites`.
    """
    if not budget > 0:
        raise ValueError(f"budget is a number of elements above zero, not {budget!r}")
    program = inspect_program(model, args, kwargs or {})
    refused = refusals(program.nodes, one_scale=ONE_SCALE)
    sites = [node for node in program.nodes if node.support is not None]
    _check_marks(sites, refused)
    possible = [site for site in sites if site.name not in refused]
    chooser = Chooser(
        Costs(program.nodes, find_path),
        free=[s.name for s in possible if s.mark is None and not s.obstacle],
        forced=[s.name for s in possible if s.mark == "enumerate" or _is_stuck(s)],
        budget=budget,
        max_dims=program.max_dims if max_dims is None else max_dims,
    )
    all_sites = [site.name for site in possible]
    before = _Bill(chooser.costs, all_sites)
    chooser.run()
    after = _Bill(chooser.costs, chooser.enumerated)
    cost, driver = before.largest.elements, before.largest.what
    if refused:
        name = next(iter(refused))
        cost, driver = math.inf, f"{name!r}: {refused[name]}"
    return Plan(
        [_decided(site, refused, chooser, before) for site in sites],
        (cost, after.largest.elements),
        (before.dims, after.dims),
        (driver, after.largest.what),
        budget,
    )


class _Bill:
    """What enumeration of some sites costs, in all and for each of them."""

    def __init__(self, costs: Costs, enumerated: Collection[str]) -> None:
        tensors = [*costs.factors(enumerated), *costs.steps(enumerated)]
        self.largest = Tensor("no tensor", frozenset(), 0)
        self.of: dict[str, Tensor] = {}
        for tensor in tensors:
            self.largest = _larger(self.largest, tensor)
            for name in tensor.sites:
                self.of[name] = _larger(self.of.get(name, tensor), tensor)
        self.dims = costs.dims(enumerated)


def _larger(a: Tensor, b: Tensor) -> Tensor:
    return b if b.elements > a.elements else a


def _is_stuck(site: Node) -> bool:
    """Whether a site can be enumerated but not relaxed."""
    return site.mark is None and site.obstacle is not None


def _check_marks(sites: Sequence[Node], refused: Mapping[str, str]) -> None:
    for site in sites:
        if site.mark == "enumerate" and site.name in refused:
            raise ValueError(
                f"site {site.name!r} is marked for enumeration, and cannot be "
                f"enumerated: {refused[site.name]}. Take the mark off"
            )


def _decided(
    site: Node, refused: Mapping[str, str], chooser: Chooser, before: _Bill
) -> Decision:
    decision, reason = _choice(site, refused, chooser.reasons)
    cost, driver = math.inf, "refused"
    if site.name in before.of:
        tensor = before.of[site.name]
        cost, driver = tensor.elements, tensor.what
    support = site.support or 0
    return Decision(site.name, support, site.plates, decision, cost, driver, reason)


def _choice(
    site: Node, refused: Mapping[str, str], moved: Mapping[str, str]
) -> tuple[str, str]:
    """What is done with a site, and why."""
    if site.mark is not None:
        return site.mark, "marked so"
    reason = refused.get(site.name) or moved.get(site.name)
    if reason is None:
        return "enumerate", site.obstacle or "fits the budget"
    if site.obstacle is not None:
        return "leave", "; ".join(dict.fromkeys([reason, site.obstacle]))
    return "relax", "; ".join(filter(None, [reason, site.advice]))


def _cells(row: Decision) -> tuple[str, ...]:
    plates = ", ".join(f"{name} = {size}" for name, size in row.plates)
    cost = "refused" if row.cost == math.inf else amount(row.cost, "")
    support = str(row.support or "unbounded")
    driver = "" if row.driver == "refused" else row.driver
    return row.name, support, plates, row.decision, cost, driver, row.reason
