"""What a relaxation did to a program: numbers to look at before and after training.

`relaxation_gap` compares the relaxed program with the discrete one; `gradient_report`
compares the ways to train it, by the bias, noise and cost of their gradients.

Counterpart: ``pyro_concrete.diagnostics``.
"""

from concrete_core.diagnostics.report import GradientReport
from numpyro_concrete.diagnostics.gap import RelaxationGap, SiteEntropy, relaxation_gap
from numpyro_concrete.diagnostics.gradients import gradient_report

__all__ = [
    "GradientReport",
    "RelaxationGap",
    "SiteEntropy",
    "gradient_report",
    "relaxation_gap",
]
