"""Losses that Pyro does not have: multi-sample bounds and unbiased gradients.

`RLOO`, `LocalExpectations`, `DisARM` and `REBAR` are losses for `SVI` with a discrete
model and guide. Like Pyro's ELBOs they estimate the discrete ELBO, with unbiased
gradients. `RelaxedWarmup` trains relaxed first and then with one of them. `IWAE` is the
multi-sample bound as a loss, for relaxed and discrete models, and `iwae_bound`
evaluates it in bounded memory.

From the bottom up: `traces` and `elbo_terms` read what ran, `particles` draws weighted
particles, `guide_draws` and `coupled_runs` run a particle several times on one noise,
`learning_signals` and `logit_gradients` are the formulas, and the remaining modules are
the objectives.

Counterpart: ``numpyro_concrete.objectives``.
"""

from concrete_core.objectives.data_bounds import DataBounds
from pyro_concrete.objectives.disarm import DisARM
from pyro_concrete.objectives.iwae import IWAE, iwae_bound
from pyro_concrete.objectives.iwae_over_data import iwae_bound_over_data
from pyro_concrete.objectives.local_expectations import LocalExpectations
from pyro_concrete.objectives.rebar import REBAR
from pyro_concrete.objectives.rloo import RLOO
from pyro_concrete.objectives.warmup import RelaxedWarmup

__all__ = [
    "IWAE",
    "REBAR",
    "RLOO",
    "DataBounds",
    "DisARM",
    "LocalExpectations",
    "RelaxedWarmup",
    "iwae_bound",
    "iwae_bound_over_data",
]
