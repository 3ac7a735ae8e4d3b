"""n classes: ExpConcrete on the log-simplex, Concrete on the simplex.

Counterpart: ``pyro_concrete.ops.categorical``.
"""

import math

import jax.numpy as jnp
from jax import Array
from jax.nn import log_softmax
from jaxtyping import Float

from concrete_core.special import harmonic_number
from numpyro_concrete.ops.precision import (
    Temperature,
    log_temperature,
    promote_half,
    with_class_dim,
)


def exp_concrete(
    noise: Float[Array, "*#batch k"],
    temperature: Temperature,
    logits: Float[Array, "*#batch k"],
) -> Float[Array, "*out k"]:
    r"""Map Gumbel noise to the log of a Concrete sample.

    .. math:: y_k = (a_k + G_k)/t - \log\sum_i \exp((a_i + G_i)/t)

    Args:
        noise: Standard Gumbel noise.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Unnormalized log-probabilities.

    Returns:
        Points y with logsumexp(y) = 0, in the dtype of the logits.

    Example:
        >>> jnp.exp(exp_concrete(jnp.zeros(2), 0.5, jnp.zeros(2))).tolist()
        [0.5, 0.5]

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. C.3.
        https://arxiv.org/abs/1611.00712
    """
    scores = (promote_half(logits) + promote_half(noise)) / with_class_dim(temperature)
    return log_softmax(scores, -1).astype(logits.dtype)


def exp_concrete_log_density(
    value: Float[Array, "*#batch k"],
    temperature: Temperature,
    logits: Float[Array, "*#batch k"],
) -> Float[Array, "*out"]:
    r"""Return the log-density of the log of a Concrete variable.

    .. math:: \log\kappa(y) = \log (n-1)! + (n-1)\log t + \sum_k (a_k - t y_k)
        - n \log\sum_k \exp(a_k - t y_k)

    The density is with respect to the log-ratios y_k - y_n (k < n), over which it
    integrates to one.

    Args:
        value: Points with logsumexp(value) = 0.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Unnormalized log-probabilities.

    Returns:
        Log-densities of the batch shape.

    Example:
        >>> y = jnp.log(jnp.array([0.6, 0.3, 0.1]))
        >>> a = jnp.log(jnp.array([2.0, 0.5, 1.0]))
        >>> round(float(exp_concrete_log_density(y, 1.0, a)), 4)
        -3.4136

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. C.3.
        https://arxiv.org/abs/1611.00712
    """
    scores = promote_half(logits) - with_class_dim(temperature) * promote_half(value)
    constant = _log_constant(scores.shape[-1], temperature)
    # The sum of a log-softmax is sum(s) - n LSE(s) without its cancellation.
    return constant + log_softmax(scores, -1).sum(-1)


def exp_concrete_noise_log_density(
    noise: Float[Array, "*batch k"], temperature: Temperature
) -> Float[Array, "*out"]:
    r"""Return the log-density of the ExpConcrete point drawn with this Gumbel noise.

    .. math:: \log\kappa(y(G)) = \log (n-1)! + (n-1)\log t - \sum_k G_k
        - n \log\sum_k \exp(-G_k)

    The logits cancel: along its own path the density of a sample does not depend on
    them.

    Args:
        noise: The Gumbel noise that made the sample.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.

    Returns:
        Log-densities of the batch shape.

    Example:
        >>> round(float(exp_concrete_noise_log_density(jnp.zeros(2), 1.0)), 4)
        -1.3863
    """
    noise = promote_half(noise)
    n = noise.shape[-1]
    # Gumbels are no larger than some tens: their exponentials need no shift.
    log_sum = jnp.log(jnp.exp(-noise).sum(-1))
    return _log_constant(n, temperature) - noise.sum(-1) - n * log_sum


def exp_concrete_entropy(temperature: Temperature, num_classes: int) -> Array | float:
    r"""Return the entropy of an ExpConcrete, which does not depend on its logits.

    .. math:: H = n H_{n-1} - \log (n-1)! - (n-1)\log t,\qquad H_{n-1} = \sum_{j<n} 1/j

    Args:
        temperature: Relaxation temperature > 0.
        num_classes: Number of classes n >= 2.

    Returns:
        Entropy in nats, with respect to the log-ratios, of the temperature's shape.

    Example:
        >>> float(exp_concrete_entropy(jnp.array(1.0), 2))
        2.0
    """
    # E sum G + n E LSE(-G) = n (Euler's constant + digamma(n)) = n H_(n-1)
    mean = num_classes * harmonic_number(num_classes - 1)
    constant = mean - math.lgamma(num_classes)
    return constant - (num_classes - 1) * log_temperature(temperature)


def concrete_log_density(
    value: Float[Array, "*#batch k"],
    temperature: Temperature,
    logits: Float[Array, "*#batch k"],
) -> Float[Array, "*out"]:
    r"""Return the log-density of a Concrete variable on the simplex.

    .. math:: \log p(x) = \log\kappa(\log x) - \sum_k \log x_k

    The density is with respect to x_1, ..., x_(n-1), as in TFP.

    Args:
        value: Points on the simplex; zeros are read as the smallest normal number.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Unnormalized log-probabilities.

    Returns:
        Log-densities of the batch shape.

    Example:
        >>> x = jnp.array([0.6, 0.3, 0.1])
        >>> a = jnp.log(jnp.array([2.0, 0.5, 1.0]))
        >>> round(float(concrete_log_density(x, 1.0, a)), 4)
        0.6038

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 10.
        https://arxiv.org/abs/1611.00712
    """
    value = promote_half(value)
    log_value = jnp.log(jnp.maximum(value, jnp.finfo(value.dtype).tiny))
    log_kappa = exp_concrete_log_density(log_value, temperature, logits)
    return log_kappa - log_value.sum(-1)


def log_ratios(value: Float[Array, "*batch k"]) -> Float[Array, "*batch j"]:
    """Return the log-ratios to the last class: the coordinates of the log-simplex.

    Args:
        value: Points with logsumexp(value) = 0.

    Returns:
        Unconstrained coordinates, one fewer than the classes.

    Example:
        >>> log_ratios(jnp.log(jnp.array([0.25, 0.25]))).tolist()
        [0.0]
    """
    return value[..., :-1] - value[..., -1:]


def from_log_ratios(ratios: Float[Array, "*batch j"]) -> Float[Array, "*batch k"]:
    """Return the point of the log-simplex that has these log-ratios.

    Args:
        ratios: Unconstrained coordinates.

    Returns:
        Points with logsumexp equal to 0, one class more than the coordinates.

    Example:
        >>> jnp.exp(from_log_ratios(jnp.zeros(1))).tolist()
        [0.5, 0.5]
    """
    last = jnp.zeros_like(ratios[..., :1])
    return log_softmax(jnp.concatenate([ratios, last], -1), -1)


def _log_constant(num_classes: int, temperature: Temperature) -> Array | float:
    """Log (n-1)! + (n-1) log t."""
    return math.lgamma(num_classes) + (num_classes - 1) * log_temperature(temperature)


def exp_concrete_log_mass(
    value: Float[Array, "*#batch classes"], logits: Float[Array, "*#batch classes"]
) -> Float[Array, "*#batch"]:
    r"""Return the log-probability of a categorical, averaged with soft probabilities.

    .. math:: \sum_k \exp(y_k) \log p_k

    For a one-hot sample it is the log-probability of that class. Elsewhere it is not a
    density, and a difference of two such numbers is not a bound.

    Shapes:
        value: ``(*batch, classes)``, with logsumexp 0.
        logits: ``(*batch, classes)``, broadcastable.
        result: ``(*batch)``.

    Example:
        >>> center = jnp.log(jnp.array([0.5, 0.5]))
        >>> mass = exp_concrete_log_mass(center, jnp.zeros(2))
        >>> float(jnp.exp(mass))
        0.5

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 21.
        https://arxiv.org/abs/1611.00712
    """
    return (jnp.exp(value) * log_softmax(logits)).sum(-1)
