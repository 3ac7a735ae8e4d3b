"""Discrete draws that carry the gradient of an estimator, scored by their mass.

What `relax` samples under an estimator whose program sees a hard value, with discrete
scoring. A draw is a vertex of the simplex, or a bit, exactly; its gradient in the
logits is the estimator's, and its log-probability is linear in it, so that an ELBO of
hard draws is the discrete one, with that gradient.

Counterpart: ``numpyro_concrete.distributions.hard``.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import register_kl
from torch.nn.functional import one_hot, softplus

from pyro_concrete.distributions.abstract import AbstractConcrete
from pyro_concrete.distributions.binary import LogitBinaryConcrete
from pyro_concrete.distributions.categorical import ExpConcrete
from pyro_concrete.distributions.constraints import Size, bits, vertices
from pyro_concrete.distributions.mass import kl_bernoulli, kl_categorical
from pyro_concrete.ops.noise import gumbel_, logistic_


class AbstractHard(AbstractConcrete):
    """A draw by an estimator, which may need several draws of noise."""

    _kept = ("estimator",)
    _scores_noise = False

    def __init__(
        self,
        temperature: Tensor | float | np.ndarray,
        *,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        estimator: Any,
        validate_args: bool | None = None,
    ) -> None:
        self.estimator = estimator
        super().__init__(
            temperature, probs=probs, logits=logits, validate_args=validate_args
        )

    def like(self, temperature: Tensor | float, logits: Tensor) -> "AbstractHard":
        return type(self)(temperature, logits=logits, estimator=self.estimator)

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def entropy(self) -> Tensor:
        """Return the entropy of the discrete variable, in nats."""
        return self.discrete.entropy()

    def to_simplex(self, point: Tensor) -> Tensor:
        if self._class_dims:
            return point
        return torch.stack([1 - point, point]).movedim(0, -1)

    def _to_bit(self, point: Tensor) -> Tensor:
        return point

    def vertex(self, hard: Tensor) -> Tensor:
        return hard.to(self.logits.dtype)

    @property
    def _noise_dims(self) -> Size:
        return (self.estimator.num_noises,)


class HardOneHot(AbstractHard):
    r"""One-hot draws of a categorical that carry the gradient of an estimator.

    .. math:: \log P(d) = \sum_k d_k \log p_k

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape + (K,)`.
        sample: `sample_shape + batch_shape + (K,)`, one-hot.

    Args:
        temperature: Temperature of the estimator, > 0.
        probs: Class weights >= 0. Exactly one of `probs`, `logits`.
        logits: Unnormalised log-probabilities, finite.
        estimator: Estimator of the gradient, as for `relax`.
        validate_args: As in Pyro.

    Example:
        >>> from pyro_concrete import ReinMax
        >>> d = HardOneHot(1.0, logits=torch.zeros(4, 3), estimator=ReinMax())
        >>> d.rsample((2,)).sum(-1)
        tensor([[1., 1., 1., 1.],
                [1., 1., 1., 1.]])

    Counterpart: :class:`numpyro_concrete.distributions.HardOneHot`.
    """

    arg_constraints: ClassVar = ExpConcrete.arg_constraints
    support = vertices
    _class_dims = 1
    _noise = staticmethod(gumbel_)

    @property
    def centre(self) -> Tensor:
        return one_hot(self.logits.argmax(-1), self.event_shape[0]).to(self.logits)

    def _from_noise(self, noise: Tensor) -> Tensor:
        return self.estimator.one_hot(noise, self.temperature, self.logits)

    def _log_density(self, value: Tensor) -> Tensor:
        return (value * self.logits.log_softmax(-1)).sum(-1)


class HardBit(AbstractHard):
    r"""Draws of a Bernoulli that carry the gradient of an estimator.

    .. math:: \log P(d) = d \log p + (1 - d) \log(1 - p)

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape`.
        sample: `sample_shape + batch_shape`, zeros and ones.

    Args:
        temperature: Temperature of the estimator, > 0.
        probs: Probability of one, in [0, 1]. Exactly one of `probs`, `logits`.
        logits: Log-odds, finite.
        estimator: Estimator of the gradient, as for `relax`.
        validate_args: As in Pyro.

    Example:
        >>> from pyro_concrete import ReinMax
        >>> d = HardBit(1.0, logits=torch.full((2,), 100.0), estimator=ReinMax())
        >>> d.rsample()
        tensor([1., 1.])

    Counterpart: :class:`numpyro_concrete.distributions.HardBit`.
    """

    arg_constraints: ClassVar = LogitBinaryConcrete.arg_constraints
    support = bits
    _class_dims = 0
    _noise = staticmethod(logistic_)

    @property
    def centre(self) -> Tensor:
        return (self.logits > 0).to(self.logits.dtype)

    def _from_noise(self, noise: Tensor) -> Tensor:
        return self.estimator.bit(noise, self.temperature, self.logits)

    def _log_density(self, value: Tensor) -> Tensor:
        return value * self.logits - softplus(self.logits)


register_kl(HardOneHot, HardOneHot)(kl_categorical)
register_kl(HardBit, HardBit)(kl_bernoulli)
