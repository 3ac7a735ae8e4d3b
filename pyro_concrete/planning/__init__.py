"""plan_sites: what of a model to enumerate exactly, and what to relax.

A plan is made from one run of the model: its sites and what they depend on
(`inspection`), the tensors that enumeration would make of them (`costs`), and a greedy
choice of the sites to relax until those fit a budget (`choice`).

Counterpart: ``numpyro_concrete.planning``.
"""

from pyro_concrete.planning.plan import Plan, plan_sites

__all__ = ["Plan", "plan_sites"]
