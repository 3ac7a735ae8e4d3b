"""plan_sites: what of a model to enumerate exactly, and what to relax.

A plan is made from one run of the model: `inspection` records its sites and what they
depend on, with the help of `provenance`. The planner itself, which computes what
enumeration would cost and selects the sites to relax, is in `concrete_core.planning`.

Counterpart: ``pyro_concrete.planning``.
"""

from numpyro_concrete.planning.plan import Plan, plan_sites

__all__ = ["Plan", "plan_sites"]
