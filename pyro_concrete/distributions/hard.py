"""Discrete samples that carry the gradient of an estimator, scored by their mass.

`relax` samples these for an estimator with one-hot values and discrete scoring. A
sample is exactly one-hot, or zero or one. Its gradient in the logits is that of the
estimator, and its log-probability is linear in it, so the ELBO is the discrete one,
with that gradient.

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
from pyro_concrete.distributions.constraints import (
    Size,
    differentiable_boolean,
    differentiable_one_hot,
)
from pyro_concrete.distributions.mass import kl_bernoulli, kl_categorical
from pyro_concrete.ops.noise import gumbel_, logistic_


class AbstractHard(AbstractConcrete):
    """Samples of an estimator, which may need several draws of noise."""

    _extra_attributes = ("estimator",)
    _scores_from_noise = False

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

    def _to_prob(self, point: Tensor) -> Tensor:
        return point

    def vertex(self, hard: Tensor) -> Tensor:
        return hard.to(self.logits.dtype)

    @property
    def _noise_shape(self) -> Size:
        return (self.estimator.num_noise_draws,)


class HardOneHot(AbstractHard):
    r"""One-hot samples of a categorical that carry the gradient of an estimator.

    .. math:: \log P(d) = \sum_k d_k \log p_k

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape + (K,)`.
        sample: `sample_shape + batch_shape + (K,)`, one-hot.

    Args:
        temperature: Temperature of the estimator, > 0.
        probs: Class probabilities >= 0, of any sum. Exactly one of `probs`, `logits`.
        logits: Unnormalized log-probabilities, finite.
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
    support = differentiable_one_hot
    _class_dims = 1
    _uniform_to_noise = staticmethod(gumbel_)

    @property
    def center(self) -> Tensor:
        return one_hot(self.logits.argmax(-1), self.event_shape[0]).to(self.logits)

    def _from_noise(self, noise: Tensor) -> Tensor:
        return self.estimator.draw_one_hot(noise, self.temperature, self.logits)

    def _log_density(self, value: Tensor) -> Tensor:
        return (value * self.logits.log_softmax(-1)).sum(-1)


class HardBinary(AbstractHard):
    r"""Samples of a Bernoulli that carry the gradient of an estimator.

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
        >>> d = HardBinary(1.0, logits=torch.full((2,), 100.0), estimator=ReinMax())
        >>> d.rsample()
        tensor([1., 1.])

    Counterpart: :class:`numpyro_concrete.distributions.HardBinary`.
    """

    arg_constraints: ClassVar = LogitBinaryConcrete.arg_constraints
    support = differentiable_boolean
    _class_dims = 0
    _uniform_to_noise = staticmethod(logistic_)

    @property
    def center(self) -> Tensor:
        return (self.logits > 0).to(self.logits.dtype)

    def _from_noise(self, noise: Tensor) -> Tensor:
        return self.estimator.draw_binary(noise, self.temperature, self.logits)

    def _log_density(self, value: Tensor) -> Tensor:
        return value * self.logits - softplus(self.logits)


register_kl(HardOneHot, HardOneHot)(kl_categorical)
register_kl(HardBinary, HardBinary)(kl_bernoulli)
