"""Diagnostics: numbers to look at before and after training a relaxed program.

`relaxation_gap` compares the relaxed program with the discrete one; `gradient_report`
compares estimators by the bias, variance and time of their gradients.

Counterpart: ``numpyro_concrete.diagnostics``.
"""

from concrete_core.diagnostics.report import GradientReport
from pyro_concrete.diagnostics.gap import RelaxationGap, SiteEntropy, relaxation_gap
from pyro_concrete.diagnostics.report import gradient_report

__all__ = [
    "GradientReport",
    "RelaxationGap",
    "SiteEntropy",
    "gradient_report",
    "relaxation_gap",
]
