"""Discrete draws that carry the gradient of an estimator, scored by their mass.

What `relax` samples under an estimator whose program sees a hard value, with discrete
scoring. A draw is a vertex of the simplex, or a bit, exactly; its gradient in the
logits is the estimator's, and its log-probability is linear in it, so that an ELBO of
hard draws is the discrete one, with that gradient.

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
from numpyro_concrete.distributions.constraints import Size, bits, vertices
from numpyro_concrete.distributions.mass import kl_bernoulli, kl_categorical


class AbstractHard(AbstractConcrete):
    """A draw by an estimator, which may need several draws of noise."""

    _scores_noise = False
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
        validate_args: As in NumPyro.

    Example:
        >>> from numpyro_concrete import ReinMax
        >>> d = HardOneHot(1.0, logits=jnp.zeros((4, 3)), estimator=ReinMax())
        >>> d.sample(jax.random.key(0)).sum(-1).tolist()
        [1.0, 1.0, 1.0, 1.0]

    Counterpart: :class:`pyro_concrete.distributions.HardOneHot`.
    """

    arg_constraints: ClassVar = ExpConcrete.arg_constraints
    support = vertices
    _class_dims = 1
    _noise = staticmethod(ops.gumbel)

    @property
    def centre(self) -> Array:
        n, dtype = self.event_shape[0], self.logits.dtype
        return one_hot(self.logits.argmax(-1), n, dtype=dtype)

    def _from_noise(self, noise: Array) -> Array:
        return self.estimator.one_hot(noise, self.temperature, self.logits)

    def _log_density(self, value: Array) -> Array:
        return (value * log_softmax(self.logits)).sum(-1)


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
        validate_args: As in NumPyro.

    Example:
        >>> from numpyro_concrete import ReinMax
        >>> d = HardBit(1.0, logits=jnp.full((2,), 100.0), estimator=ReinMax())
        >>> d.sample(jax.random.key(0)).tolist()
        [1.0, 1.0]

    Counterpart: :class:`pyro_concrete.distributions.HardBit`.
    """

    arg_constraints: ClassVar = LogitBinaryConcrete.arg_constraints
    support = bits
    _class_dims = 0
    _noise = staticmethod(ops.logistic)

    @property
    def centre(self) -> Array:
        return (self.logits > 0).astype(self.logits.dtype)

    def _from_noise(self, noise: Array) -> Array:
        return self.estimator.bit(noise, self.temperature, self.logits)

    def _log_density(self, value: Array) -> Array:
        return value * self.logits - softplus(self.logits)


kl_divergence.register(HardOneHot, HardOneHot)(kl_categorical)
kl_divergence.register(HardBit, HardBit)(kl_bernoulli)
