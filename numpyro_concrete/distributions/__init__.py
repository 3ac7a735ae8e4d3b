r"""The Concrete family as NumPyro distributions, thin over ``ops``.

Four spaces, one random variable. `ExpConcrete` (log-simplex) and `LogitBinaryConcrete`
(real line) are the ones to sample and score in a model: nothing underflows there.
`Concrete` and `BinaryConcrete` are the same variables on the simplex and the unit
interval, for reading and plotting.

A sample is scored from its noise wherever NumPyro hands the sampler's intermediates
back to `log_prob`, as its traces do: exact at any temperature, and with exactly zero
gradient in the logits along the sample's own path. A value that comes without its noise
is scored in full.

Counterpart: ``pyro_concrete.distributions``.
"""

from numpyro_concrete.distributions import batching as _batching  # noqa: F401
from numpyro_concrete.distributions import kl as _kl  # noqa: F401 (both register)
from numpyro_concrete.distributions.abstract import AbstractConcrete
from numpyro_concrete.distributions.binary import BinaryConcrete, LogitBinaryConcrete
from numpyro_concrete.distributions.categorical import Concrete, ExpConcrete
from numpyro_concrete.distributions.constraints import LogRatioTransform, log_simplex
from numpyro_concrete.distributions.hard import AbstractHard, HardBinary, HardOneHot
from numpyro_concrete.distributions.mass import ExpConcreteMass, LogitBinaryConcreteMass
from numpyro_concrete.distributions.one_hot import OneHotCategorical
from numpyro_concrete.distributions.parameters import check_temperature

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
    "OneHotCategorical",
    "check_temperature",
    "log_simplex",
]
