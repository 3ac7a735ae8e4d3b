"""relax, ConcreteReparam and harden: discrete sites relaxed, and back.

A relaxed site `z` becomes two. `z_relaxed` is sampled in log space, and is what ELBOs
score and guides match; `z` is deterministic, and is what the program sees. `harden`
takes a relaxed program to the discrete one that it stands for.

Counterpart: ``pyro_concrete.relaxation``.
"""

from numpyro_concrete.relaxation.programs import (
    ConcreteReparam,
    config_relax,
    harden,
    relax,
)

__all__ = [
    "ConcreteReparam",
    "config_relax",
    "harden",
    "relax",
]
