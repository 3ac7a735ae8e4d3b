"""plan_sites: what to enumerate and what to relax, as a plan that applies itself.

The planner is in `concrete_core.planning`. Here are the two steps that run a model of
the backend: its inspection, and the application of the plan.

Counterpart: ``numpyro_concrete.planning.plan``.
"""

from typing import Any

from pyro import poutine

from concrete_core.planning.plan import (
    AbstractPlan,
    Decision,
    plan_model,
    validate_budget,
)
from concrete_core.types import Arguments, KeywordArguments, Program, Temperature
from pyro_concrete.planning.inspection import inspect_model
from pyro_concrete.relaxation import relax

__all__ = ["Decision", "Plan", "plan_sites"]


class Plan(AbstractPlan):
    """Which discrete sites of a model to enumerate, and which to relax.

    `print` it for a table of sites, costs and reasons; `apply` it to the model.

    Args:
        decisions: What was decided, for each latent discrete site.
        before: Cost if all sites were enumerated.
        after: Cost under the plan.
        budget: Largest number of elements of a tensor that was asked for.

    Attributes:
        decisions: A row for each latent discrete site, in the order of the model.
        sites: Names of all latent discrete sites, in the order of the model.
        enumerated: Names of those that are enumerated.
        relaxed: Names of those that are relaxed.
        cost_before: Elements of the largest tensor if all were enumerated; infinite if
            the backend refuses to.
        cost_after: Elements of the largest tensor under the plan.
        dims_before: Enumeration dims if all were enumerated that the backend supports.
        dims_after: Enumeration dims under the plan.
        largest_tensor_before: What the largest tensor is if all were enumerated.
        largest_tensor_after: What it is under the plan.
        budget: Largest number of elements of a tensor that was asked for.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     return pyro.sample("z", dist.Categorical(torch.ones(3)))
        >>> plan = plan_sites(model)
        >>> isinstance(plan, Plan), plan.enumerated, plan.cost_after
        (True, ('z',), 3)

    Counterpart: :class:`numpyro_concrete.planning.Plan`.
    """

    def apply(
        self, model: Program, temperature: Temperature = None, **options: Any
    ) -> Program:
        """Return the program with its sites enumerated and relaxed as planned.

        Train it with `TraceEnum_ELBO` and a guide that has the relaxed sites and none
        of the enumerated ones: ``plan.apply(guide, temperature)`` relaxes a guide that
        was written for the discrete sites.

        Args:
            model: The planned model, or its guide.
            temperature: Relaxation temperature, > 0, as for `relax`.
            **options: Further arguments of `relax`, such as `truncate`.

        Returns:
            The program, with the arguments of `model`. Its per-site settings are kept.

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


def plan_sites(
    model: Program,
    *,
    args: Arguments = (),
    kwargs: KeywordArguments | None = None,
    budget: int | float = 2**24,
    max_dims: int | None = None,
) -> Plan:
    """Plan which discrete sites of a model to enumerate, and which to relax.

    The model runs once, without enumeration. The shapes and dependencies of its sites
    tell what `TraceEnum_ELBO` would make if it enumerated all of them: the
    log-probability of each site, under every value of the sites that it depends on, and
    the intermediate results of the contraction that marginalizes them out. None of it
    is computed. Sites are then relaxed until all of it fits the budget: of each tensor
    that is too large the site that shrinks it most, neighbors of relaxed sites first;
    and then the sites for which there are no dims.

    What the backend cannot enumerate is relaxed, with the reason: sites that are joined
    by `to_event` or across their plate, and sites whose scale differs from that of what
    depends on them, such as a global site above a subsampled plate.

    Per-site settings are kept: ``infer={"enumerate": "parallel"}`` is enumerated,
    ``infer={"relax": False}`` is left unchanged. Elements of a plate are taken to be
    independent, as in the backend.

    Args:
        model: Model. Parameters that it creates are discarded.
        args: Positional arguments of the model.
        kwargs: Keyword arguments of the model.
        budget: Largest number of elements of a tensor, > 0. Intermediate values of the
            program, and the gradients, are not counted: leave room for a few tensors of
            this size.
        max_dims: Largest number of enumeration dims; by default what the backend has
            beside those of plates and events, of 64 on the CPU and 25 on CUDA.

    Returns:
        The plan: print it, and apply it to the model.

    Raises:
        ValueError: If the budget is not positive; if a tensor is larger than the budget
            by its plates alone; or if a site that is set to be enumerated does not fit
            or is not supported.

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
    validate_budget(budget)
    inspected = inspect_model(model, args, kwargs or {})
    planned = plan_model(inspected, budget=budget, max_dims=max_dims)
    return Plan(planned.decisions, planned.before, planned.after, budget)
