r"""The Concrete family as Pyro distributions, thin over ``ops``.

Four spaces, one random variable. `ExpConcrete` (log-simplex) and `LogitBinaryConcrete`
(real line) are the ones to sample and score in a model: nothing underflows there.
`Concrete` and `BinaryConcrete` are the same variables on the simplex and the unit
interval, for reading and plotting.

A sample that a distribution drew with gradients is scored from its noise, without its
parameters: exact at any temperature, and with exactly zero gradient in the logits along
the sample's own path. Every other value (detached, drawn without gradients, changed) is
scored in full.

Counterpart: ``numpyro_concrete.distributions``.
"""

from pyro_concrete.distributions import kl as _kl  # noqa: F401 (registers the rules)
from pyro_concrete.distributions.abstract import AbstractConcrete
from pyro_concrete.distributions.binary import BinaryConcrete, LogitBinaryConcrete
from pyro_concrete.distributions.categorical import Concrete, ExpConcrete
from pyro_concrete.distributions.constraints import LogRatioTransform, log_simplex
from pyro_concrete.distributions.hard import AbstractHard, HardBinary, HardOneHot
from pyro_concrete.distributions.mass import ExpConcreteMass, LogitBinaryConcreteMass
from pyro_concrete.distributions.parameters import as_temperature, check_temperature

__all__ = [
    "AbstractConcrete",
    "AbstractHard",
    "BinaryConcrete",
    "Concrete",
    "ExpConcrete",
    "ExpConcreteMass",
    "HardBinary",
    "HardOneHot",
    "LogRatioTransform",
    "LogitBinaryConcrete",
    "LogitBinaryConcreteMass",
    "as_temperature",
    "check_temperature",
    "log_simplex",
]
