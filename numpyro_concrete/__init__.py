"""Concrete relaxations of discrete latent variables, for NumPyro.

Counterpart: ``pyro_concrete``.
"""

from concrete_core import __version__ as __version__
from numpyro_concrete import plots, schedules
from numpyro_concrete.citations import cite
from numpyro_concrete.diagnostics import GradientReport, gradient_report, relaxation_gap
from numpyro_concrete.distributions import (
    BinaryConcrete,
    Concrete,
    ExpConcrete,
    LogitBinaryConcrete,
    OneHotCategorical,
)
from numpyro_concrete.estimators import (
    ZGR,
    GumbelRao,
    ReinMax,
    Relaxed,
    StraightThrough,
)
from numpyro_concrete.guides import AutoConcrete
from numpyro_concrete.objectives import (
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
from numpyro_concrete.planning import Plan, plan_sites
from numpyro_concrete.relaxation import ConcreteReparam, config_relax, harden, relax

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
    "OneHotCategorical",
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
