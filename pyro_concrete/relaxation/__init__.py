"""relax, ConcreteReparam and harden: relax discrete sites, and undo it.

A relaxed site ``z`` becomes two. ``z_relaxed`` is sampled in log space, and ELBOs score
it; ``z`` is deterministic, and the program receives its value. `harden` turns a relaxed
program into the discrete one that it stands for.

To follow a sample statement through the code, read in this order: `programs`, which
users call; `handlers`, which act on each statement; `surroundings`, by which a handler
knows whether a site is to run relaxed; and `site`, which makes the distributions of a
site from its `wrappers`, its `finite_support` and its `settings`.

Counterpart: ``numpyro_concrete.relaxation``.
"""

from pyro_concrete.relaxation.programs import (
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
