"""Objectives that the host lacks: of a discrete model, as it stands.

`iwae_bound` is the multi-sample bound in bounded memory, to evaluate by. `REBAR`,
`RLOO` and `DisARM` train: they are ELBOs as Pyro's are, and their gradients are those
of the discrete ELBO on average, without a bias.

Counterpart: ``numpyro_concrete.objectives``.
"""

from pyro_concrete.objectives.disarm import DisARM
from pyro_concrete.objectives.iwae import IWAE, iwae_bound
from pyro_concrete.objectives.rebar import REBAR
from pyro_concrete.objectives.rloo import RLOO

__all__ = [
    "IWAE",
    "REBAR",
    "RLOO",
    "DisARM",
    "iwae_bound",
]
