"""Discrete samples that carry the gradient of an estimator, scored by their mass.

`relax` samples these for an estimator with one-hot values and discrete scoring. A
sample is exactly one-hot, or zero or one. Its gradient in the logits is that of the
estimator, and its log-probability is linear in it, so the ELBO is the discrete one,
with that gradient.

Counterpart: ``pyro_concrete.distributions.hard``.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jax.nn import log_softmax, one_hot, softplus
from jax.typing import ArrayLike
from numpyro.distributions.kl import kl_divergence

from numpyro_concrete import ops
from numpyro_concrete.distributions.abstract import AbstractConcrete
from numpyro_concrete.distributions.binary import LogitBinaryConcrete
from numpyro_concrete.distributions.categorical import ExpConcrete
from numpyro_concrete.distributions.constraints import (
    Size,
    differentiable_boolean,
    differentiable_one_hot,
)
from numpyro_concrete.distributions.mass import kl_bernoulli, kl_categorical


class AbstractHard(AbstractConcrete):
    """Samples of an estimator, which may need several draws of noise."""

    _scores_from_noise = False
    pytree_aux_fields = ("estimator",)

    def __init__(
        self,
        temperature: ArrayLike,
        *,
        probs: ArrayLike | None = None,
        logits: ArrayLike | None = None,
        estimator: Any,
        validate_args: bool | None = None,
    ) -> None:
        self.estimator = estimator
        super().__init__(
            temperature, probs=probs, logits=logits, validate_args=validate_args
        )

    def like(self, temperature: ArrayLike, logits: ArrayLike) -> "AbstractHard":
        return type(self)(temperature, logits=logits, estimator=self.estimator)

    @property
    def mean(self) -> Array:
        return self.probs

    @property
    def variance(self) -> Array:
        return self.probs * (1 - self.probs)

    def entropy(self) -> Array:
        """Return the entropy of the discrete variable, in nats."""
        return self.discrete.entropy()

    def to_simplex(self, point: Array) -> Array:
        if self._class_dims:
            return point
        return jnp.stack([1 - point, point], -1)

    def vertex(self, hard: Array) -> Array:
        return jnp.asarray(hard).astype(self.logits.dtype)

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
        validate_args: As in NumPyro.

    Example:
        >>> from numpyro_concrete import ReinMax
        >>> d = HardOneHot(1.0, logits=jnp.zeros((4, 3)), estimator=ReinMax())
        >>> d.sample(jax.random.key(0)).sum(-1).tolist()
        [1.0, 1.0, 1.0, 1.0]

    Counterpart: :class:`pyro_concrete.distributions.HardOneHot`.
    """

    arg_constraints: ClassVar = ExpConcrete.arg_constraints
    support = differentiable_one_hot
    _class_dims = 1
    _uniform_to_noise = staticmethod(ops.gumbel)

    @property
    def center(self) -> Array:
        largest = self.logits.argmax(-1)
        return one_hot(largest, self.event_shape[0], dtype=self.logits.dtype)

    def _from_noise(self, noise: Array) -> Array:
        return self.estimator.draw_one_hot(noise, self.temperature, self.logits)

    def _log_density(self, value: Array) -> Array:
        return (value * log_softmax(self.logits)).sum(-1)


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
        validate_args: As in NumPyro.

    Example:
        >>> from numpyro_concrete import ReinMax
        >>> d = HardBinary(1.0, logits=jnp.full((2,), 100.0), estimator=ReinMax())
        >>> d.sample(jax.random.key(0)).tolist()
        [1.0, 1.0]

    Counterpart: :class:`pyro_concrete.distributions.HardBinary`.
    """

    arg_constraints: ClassVar = LogitBinaryConcrete.arg_constraints
    support = differentiable_boolean
    _class_dims = 0
    _uniform_to_noise = staticmethod(ops.logistic)

    @property
    def center(self) -> Array:
        return (self.logits > 0).astype(self.logits.dtype)

    def _from_noise(self, noise: Array) -> Array:
        return self.estimator.draw_binary(noise, self.temperature, self.logits)

    def _log_density(self, value: Array) -> Array:
        return value * self.logits - softplus(self.logits)


kl_divergence.register(HardOneHot, HardOneHot)(kl_categorical)
kl_divergence.register(HardBinary, HardBinary)(kl_bernoulli)
