"""The log-space family, scored by the log-probability of the discrete variable.

`relax(..., scoring="discrete")` samples these. The samples are those of the Concrete.
The log-probability is that of the discrete variable, averaged with the probabilities of
the soft sample (eq. 21), and the KL divergence is the discrete one (eq. 22). An ELBO of
them is the discrete ELBO where the likelihood is linear in the soft sample.

Counterpart: ``numpyro_concrete.distributions.mass``.
"""

from torch import Tensor
from torch.distributions import Bernoulli, Categorical, kl_divergence, register_kl

from pyro_concrete import ops
from pyro_concrete.distributions.abstract import AbstractConcrete
from pyro_concrete.distributions.binary import LogitBinaryConcrete
from pyro_concrete.distributions.categorical import ExpConcrete
from pyro_concrete.distributions.constraints import (
    log_simplex_by_masses,
    real_by_masses,
)


class ExpConcreteMass(ExpConcrete):
    r"""Samples of an ExpConcrete, scored by the log-mass of its categorical.

    .. math:: \log P(y) = \sum_k \exp(y_k) \log p_k

    This is not a density, and an ELBO of it is not a bound. It approaches the discrete
    ELBO as the temperature goes to zero.

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape + (K,)`.
        sample: `sample_shape + batch_shape + (K,)`, with logsumexp 0.

    Args:
        temperature: Relaxation temperature, > 0.
        probs: Class probabilities >= 0, of any sum. Exactly one of `probs`, `logits`.
        logits: Unnormalized log-probabilities, finite.
        validate_args: As in Pyro.

    Example:
        >>> d = ExpConcreteMass(0.5, logits=torch.zeros(4, 3))
        >>> d.batch_shape, d.event_shape
        (torch.Size([4]), torch.Size([3]))

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 21 and 22.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`numpyro_concrete.distributions.ExpConcreteMass`.
    """

    support = log_simplex_by_masses
    _scores_from_noise = False

    def entropy(self) -> Tensor:
        """Return the entropy of the discrete variable, in nats."""
        return self.discrete.entropy()

    def _log_density(self, value: Tensor) -> Tensor:
        return ops.exp_concrete_log_mass(value, self.logits)


class LogitBinaryConcreteMass(LogitBinaryConcrete):
    r"""Samples of a LogitBinaryConcrete, scored by the log-mass of its Bernoulli.

    .. math:: \log P(y) = \sigma(y) \log p + \sigma(-y) \log(1 - p)

    This is not a density, and an ELBO of it is not a bound. It approaches the discrete
    ELBO as the temperature goes to zero.

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape`.
        sample: `sample_shape + batch_shape`, real.

    Args:
        temperature: Relaxation temperature, > 0.
        probs: Probability of one, in [0, 1]. Exactly one of `probs`, `logits`.
        logits: Log-odds, finite.
        validate_args: As in Pyro.

    Example:
        >>> d = LogitBinaryConcreteMass(0.5, logits=torch.zeros(4))
        >>> d.batch_shape
        torch.Size([4])

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 21 and 22.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`numpyro_concrete.distributions.LogitBinaryConcreteMass`.
    """

    support = real_by_masses
    _scores_from_noise = False

    def entropy(self) -> Tensor:
        """Return the entropy of the discrete variable, in nats."""
        return self.discrete.entropy()

    def _log_density(self, value: Tensor) -> Tensor:
        return ops.logit_binary_concrete_log_mass(value, self.logits)


@register_kl(ExpConcreteMass, ExpConcreteMass)
def kl_categorical(p: AbstractConcrete, q: AbstractConcrete) -> Tensor:
    """Return the KL divergence of the discrete variables of n values."""
    return kl_divergence(Categorical(logits=p.logits), Categorical(logits=q.logits))


@register_kl(LogitBinaryConcreteMass, LogitBinaryConcreteMass)
def kl_bernoulli(p: AbstractConcrete, q: AbstractConcrete) -> Tensor:
    """Return the KL divergence of the discrete variables of two values."""
    return kl_divergence(Bernoulli(logits=p.logits), Bernoulli(logits=q.logits))
