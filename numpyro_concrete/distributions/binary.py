"""The family for two values: LogitBinaryConcrete and BinaryConcrete.

Counterpart: ``pyro_concrete.distributions.binary``.
"""

import math
from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, sigmoid
from jax.scipy.special import logit as to_logit
from numpyro.distributions import constraints

from numpyro_concrete import ops
from numpyro_concrete.distributions.abstract import AbstractConcrete


class LogitBinaryConcrete(AbstractConcrete):
    r"""Logit of a binary Concrete variable: the logit-space relaxation of a Bernoulli.

    .. math:: y = (a + L)/t

    The site to sample and score for two values: a logistic with location a/t and scale
    1/t. As the temperature falls to zero, sigmoid(y) becomes a Bernoulli sample with
    log-odds a; y > 0 is one at every temperature.

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape`.
        sample: `sample_shape + batch_shape`, real.

    Args:
        temperature: Relaxation temperature, > 0.
        probs: Probability of one, in [0, 1]. Exactly one of `probs`, `logits`.
        logits: Log-odds of one, finite.
        validate_args: As in NumPyro.

    Raises:
        ValueError: If neither or both of `probs` and `logits` are given, the
            temperature is not positive, or shapes do not broadcast.

    Numerics: finite in float32 from temperature 1e-3 with logits to 1000. Half
    precision is computed in float32, and its log-densities are returned so.

    Example:
        >>> d = LogitBinaryConcrete(0.5, logits=jnp.zeros(4))
        >>> d.sample(jax.random.key(0), (2,)).shape, d.batch_shape, d.event_shape
        ((2, 4), (4,), ())

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. B.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`pyro_concrete.LogitBinaryConcrete`.
    """

    arg_constraints: ClassVar = {
        "temperature": constraints.positive,
        "logits": constraints.real,
    }
    support = constraints.real
    _class_dims = 0
    _uniform_to_noise = staticmethod(ops.logistic)

    @property
    def mean(self) -> Array:
        return self.logits / self.temperature

    @property
    def variance(self) -> Array:
        variance = math.pi**2 / 3 / jnp.square(self.temperature)
        return jnp.broadcast_to(variance, self.batch_shape)

    def entropy(self) -> Array:
        """Return the entropy in nats, 2 - log t; the logits do not enter."""
        entropy = ops.logit_binary_concrete_entropy(self.temperature)
        return jnp.broadcast_to(entropy, self.batch_shape)

    def cdf(self, value: Array) -> Array:
        return sigmoid(self.temperature * value - self.logits)

    def icdf(self, q: Array) -> Array:
        return (self.logits + to_logit(q)) / self.temperature

    def to_simplex(self, point: Array) -> Array:
        # Each probability is computed without subtracting from one, which would round.
        # Lookups slice the first axis of the stack, so XLA can drop a class that is not
        # needed or has no gradient.
        return jnp.moveaxis(jnp.stack([sigmoid(-point), sigmoid(point)]), 0, -1)

    def vertex(self, hard: Array) -> Array:
        return jnp.where(hard, jnp.inf, -jnp.inf).astype(self.logits.dtype)

    @property
    def center(self) -> Array:
        return self.logits

    def _from_noise(self, noise: Array) -> Array:
        return ops.logit_binary_concrete(noise, self.temperature, self.logits)

    def _noise_log_density(self, noise: Array) -> Array:
        noise_density = ops.logit_binary_concrete_noise_log_density
        return noise_density(noise, self.temperature)

    def _log_density(self, value: Array) -> Array:
        return ops.logit_binary_concrete_log_density(
            value, self.temperature, self.logits
        )


class BinaryConcrete(AbstractConcrete):
    r"""Binary Concrete variable on the unit interval: the relaxation of a Bernoulli.

    .. math:: x = \frac{1}{1 + \exp(-(a + L)/t)}

    For reading and plotting; in an ELBO use `LogitBinaryConcrete`, whose samples do not
    saturate. At a temperature of at most 1 its density is log-convex: no interior mode.

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape`.
        sample: `sample_shape + batch_shape`, in [0, 1].

    Args:
        temperature: Relaxation temperature, > 0.
        probs: Probability of one, in [0, 1]. Exactly one of `probs`, `logits`.
        logits: Log-odds of one, finite.
        validate_args: As in NumPyro.

    Raises:
        ValueError: If neither or both of `probs` and `logits` are given, the
            temperature is not positive, or shapes do not broadcast.

    Numerics: in float32, 16 % of the samples round to exactly 0 or 1 at temperature
    0.1. The distribution's own sample is still scored exactly; any other value on the
    boundary is scored as the nearest interior number, which is finite but biased.

    Example:
        >>> d = BinaryConcrete(1.0, probs=jnp.array(0.5))
        >>> (jnp.abs(d.log_prob(jnp.array([0.1, 0.9]))) < 1e-6).tolist()
        [True, True]

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 24.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`pyro_concrete.BinaryConcrete`.
    """

    arg_constraints: ClassVar = LogitBinaryConcrete.arg_constraints
    support = constraints.unit_interval
    _class_dims = 0
    _uniform_to_noise = staticmethod(ops.logistic)

    def cdf(self, value: Array) -> Array:
        return sigmoid(self.temperature * to_logit(value) - self.logits)

    def icdf(self, q: Array) -> Array:
        return sigmoid((self.logits + to_logit(q)) / self.temperature)

    def _from_noise(self, noise: Array) -> Array:
        return sigmoid(ops.logit_binary_concrete(noise, self.temperature, self.logits))

    def _noise_log_density(self, noise: Array) -> Array:
        logit = ops.logit_binary_concrete(noise, self.temperature, self.logits)
        log_one = log_sigmoid(logit)
        log_zero = log_sigmoid(-logit)
        noise_density = ops.logit_binary_concrete_noise_log_density
        return noise_density(noise, self.temperature) - log_one - log_zero

    def _log_density(self, value: Array) -> Array:
        return ops.binary_concrete_log_density(value, self.temperature, self.logits)
