"""The family for n classes: ExpConcrete and Concrete.

Counterpart: ``pyro_concrete.distributions.categorical``.
"""

from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jax.nn import log_softmax
from numpyro.distributions import constraints

from numpyro_concrete import ops
from numpyro_concrete.distributions.abstract import AbstractConcrete
from numpyro_concrete.distributions.constraints import log_simplex, rounded_simplex


class ExpConcrete(AbstractConcrete):
    r"""Log of a Concrete variable: the log-space relaxation of a one-hot categorical.

    .. math:: y_k = (a_k + G_k)/t - \log\sum_i \exp((a_i + G_i)/t)

    The site to sample and score for n classes. As the temperature falls to zero, exp(y)
    becomes a one-hot sample of the categorical with these logits; as it grows, the
    uniform point. The argmax is a categorical sample at every temperature. `log_prob`
    is the density over the log-ratios y_k - y_K.

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape + (K,)`.
        sample: `sample_shape + batch_shape + (K,)`, with logsumexp 0.

    Args:
        temperature: Relaxation temperature, > 0.
        probs: Class probabilities >= 0, of any sum. Exactly one of `probs`, `logits`.
        logits: Unnormalized log-probabilities, finite.
        validate_args: As in NumPyro.

    Raises:
        ValueError: If neither or both of `probs` and `logits` are given, the
            temperature is not positive, shapes do not broadcast, or there are fewer
            than two classes.

    Numerics: finite in float32 from temperature 1e-3 with logits to 1000. Half
    precision is computed in float32, and its log-densities are returned so; in float16
    the gradient of a density in its value needs temperature * (K - 1) < 65504.

    Example:
        >>> d = ExpConcrete(0.5, logits=jnp.zeros((4, 3)))
        >>> d.sample(jax.random.key(0), (2,)).shape, d.batch_shape, d.event_shape
        ((2, 4, 3), (4,), (3,))

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. C.3.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`pyro_concrete.ExpConcrete`.
    """

    arg_constraints: ClassVar = {
        "temperature": constraints.positive,
        "logits": constraints.real_vector,
    }
    support = log_simplex
    _class_dims = 1
    _uniform_to_noise = staticmethod(ops.gumbel)

    def entropy(self) -> Array:
        """Return the entropy in nats, over the log-ratios; the logits do not enter."""
        entropy = ops.exp_concrete_entropy(self.temperature, self.event_shape[0])
        return jnp.broadcast_to(entropy, self.batch_shape)

    def to_simplex(self, point: Array) -> Array:
        return jnp.exp(point)

    def vertex(self, hard: Array) -> Array:
        return jnp.log(jnp.asarray(hard).astype(self.logits.dtype))

    @property
    def center(self) -> Array:
        return log_softmax(self.logits)

    def _from_noise(self, noise: Array) -> Array:
        return ops.exp_concrete(noise, self.temperature, self.logits)

    def _noise_log_density(self, noise: Array) -> Array:
        return ops.exp_concrete_noise_log_density(noise, self.temperature)

    def _log_density(self, value: Array) -> Array:
        return ops.exp_concrete_log_density(value, self.temperature, self.logits)


class Concrete(AbstractConcrete):
    r"""Concrete variable on the simplex: the relaxation of a one-hot categorical.

    .. math:: x_k = \frac{\exp((a_k + G_k)/t)}{\sum_i \exp((a_i + G_i)/t)}

    For reading and plotting; in an ELBO use `ExpConcrete`, whose samples do not
    underflow. `log_prob` is the density over x_1, ..., x_(K-1). At a temperature of at
    most 1/(K-1) it is log-convex: no mode in the interior.

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape + (K,)`.
        sample: `sample_shape + batch_shape + (K,)`, on the simplex.

    Args:
        temperature: Relaxation temperature, > 0.
        probs: Class probabilities >= 0, of any sum. Exactly one of `probs`, `logits`.
        logits: Unnormalized log-probabilities, finite.
        validate_args: As in NumPyro.

    Raises:
        ValueError: If neither or both of `probs` and `logits` are given, the
            temperature is not positive, shapes do not broadcast, or there are fewer
            than two classes.

    Numerics: in float32, samples reach the boundary below temperature 0.2 or so. The
    distribution's own sample is still scored exactly; any other value on the boundary
    is scored as the nearest interior number, which is finite but biased.

    Example:
        >>> d = Concrete(0.5, probs=jnp.array([0.2, 0.8]))
        >>> x = d.sample(jax.random.key(0), (3,))
        >>> bool(jnp.allclose(x.sum(-1), 1.0))
        True

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 10.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`pyro_concrete.Concrete`.
    """

    arg_constraints: ClassVar = ExpConcrete.arg_constraints
    support = rounded_simplex
    _class_dims = 1
    _uniform_to_noise = staticmethod(ops.gumbel)

    def _from_noise(self, noise: Array) -> Array:
        return jnp.exp(ops.exp_concrete(noise, self.temperature, self.logits))

    def _noise_log_density(self, noise: Array) -> Array:
        log_value = ops.exp_concrete(noise, self.temperature, self.logits)
        log_kappa = ops.exp_concrete_noise_log_density(noise, self.temperature)
        return log_kappa - log_value.sum(-1)

    def _log_density(self, value: Array) -> Array:
        return ops.concrete_log_density(value, self.temperature, self.logits)
