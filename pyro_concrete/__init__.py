"""Concrete relaxations of discrete latent variables, for Pyro.

Counterpart: ``numpyro_concrete``.
"""

from concrete_core import __version__ as __version__
from pyro_concrete import plots, schedules
from pyro_concrete.citations import cite
from pyro_concrete.diagnostics import GradientReport, gradient_report, relaxation_gap
from pyro_concrete.distributions import (
    BinaryConcrete,
    Concrete,
    ExpConcrete,
    LogitBinaryConcrete,
)
from pyro_concrete.estimators import ZGR, GumbelRao, ReinMax, Relaxed, StraightThrough
from pyro_concrete.guides import AutoConcrete
from pyro_concrete.objectives import (
    IWAE,
    REBAR,
    RLOO,
    DataBounds,
    DisARM,
    LocalExpectations,
    RelaxedWarmup,
    iwae_bound,
    iwae_bound_over_data,
)
from pyro_concrete.planning import Plan, plan_sites
from pyro_concrete.relaxation import ConcreteReparam, config_relax, harden, relax

__all__ = [
    "IWAE",
    "REBAR",
    "RLOO",
    "ZGR",
    "AutoConcrete",
    "BinaryConcrete",
    "Concrete",
    "ConcreteReparam",
    "DataBounds",
    "DisARM",
    "ExpConcrete",
    "GradientReport",
    "GumbelRao",
    "LocalExpectations",
    "LogitBinaryConcrete",
    "Plan",
    "ReinMax",
    "Relaxed",
    "RelaxedWarmup",
    "StraightThrough",
    "cite",
    "config_relax",
    "gradient_report",
    "harden",
    "iwae_bound",
    "iwae_bound_over_data",
    "plan_sites",
    "plots",
    "relax",
    "relaxation_gap",
    "schedules",
]
