"""Two values: LogitBinaryConcrete on the reals, BinaryConcrete on [0, 1].

Counterpart: ``pyro_concrete.ops.binary``.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, sigmoid
from jaxtyping import Float

from numpyro_concrete.ops.precision import Temperature, log_temperature, promote_half


def logit_binary_concrete(
    noise: Float[Array, "*#batch"],
    temperature: Temperature,
    logits: Float[Array, "*#batch"],
) -> Float[Array, "*out"]:
    r"""Map logistic noise to the logit of a binary Concrete sample, (a + L) / t.

    Args:
        noise: Standard logistic noise.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Log-odds of one.

    Returns:
        Logits of the relaxed value, in the dtype of the parameter.

    Example:
        >>> float(logit_binary_concrete(jnp.array(1.0), 0.5, jnp.array(2.0)))
        6.0

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. B.
        https://arxiv.org/abs/1611.00712
    """
    return ((promote_half(logits) + promote_half(noise)) / temperature).astype(
        logits.dtype
    )


def logit_binary_concrete_log_density(
    value: Float[Array, "*#batch"],
    temperature: Temperature,
    logits: Float[Array, "*#batch"],
) -> Float[Array, "*out"]:
    r"""Return the log-density of the logit of a binary Concrete variable.

    .. math:: \log g(y) = \log t + s - 2\log(1 + e^s),\qquad s = a - t y

    Args:
        value: Real numbers.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Log-odds of one.

    Returns:
        Log-densities of the batch shape.

    Example:
        >>> zero = jnp.array(0.0)
        >>> round(float(logit_binary_concrete_log_density(zero, 1.0, zero)), 4)
        -1.3863

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. B.
        https://arxiv.org/abs/1611.00712
    """
    scores = promote_half(logits) - temperature * promote_half(value)
    return log_temperature(temperature) + _log_logistic(scores)


def logit_binary_concrete_noise_log_density(
    noise: Float[Array, "*batch"], temperature: Temperature
) -> Float[Array, "*out"]:
    r"""Return the log-density of the logit drawn with this logistic noise.

    .. math:: \log g(y(L)) = \log t - L - 2\log(1 + e^{-L})

    Args:
        noise: The logistic noise that made the sample.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.

    Returns:
        Log-densities of the batch shape.

    Example:
        >>> density = logit_binary_concrete_noise_log_density(jnp.array(0.0), 1.0)
        >>> round(float(density), 4)
        -1.3863
    """
    noise = promote_half(noise)
    return log_temperature(temperature) + _log_logistic(noise)


@jax.custom_jvp
def _log_logistic(x: Array) -> Array:
    """Return log sigmoid(x) + log sigmoid(-x), with one exponential."""
    size = jnp.abs(x)
    return -size - 2 * jnp.log1p(jnp.exp(-size))


@_log_logistic.defjvp
def _log_logistic_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    # The derivative of |x| has a jump at zero, so JAX's own would lose the curvature.
    (x,) = primals
    (tangent,) = tangents
    return _log_logistic(x), -jnp.tanh(x / 2) * tangent


def logit_binary_concrete_entropy(temperature: Temperature) -> Array | float:
    """Return the entropy of a LogitBinaryConcrete, 2 - log t, whatever its logits.

    Args:
        temperature: Relaxation temperature > 0.

    Returns:
        Entropy in nats, of the temperature's shape.

    Example:
        >>> float(logit_binary_concrete_entropy(jnp.array(1.0)))
        2.0
    """
    return 2 - log_temperature(temperature)


def binary_concrete_log_density(
    value: Float[Array, "*#batch"],
    temperature: Temperature,
    logits: Float[Array, "*#batch"],
) -> Float[Array, "*out"]:
    r"""Return the log-density of a binary Concrete variable on the unit interval.

    .. math:: \log p(x) = \log g(\operatorname{logit} x) - \log x - \log(1 - x)

    Args:
        value: Points in the unit interval; 0 and 1 are read as the nearest interior
            numbers of the dtype.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Log-odds of one.

    Returns:
        Log-densities of the batch shape.

    Example:
        >>> x, a = jnp.array(0.3), jnp.log(jnp.array(2.0))
        >>> round(float(binary_concrete_log_density(x, 2 / 3, a)), 4)
        -0.6031

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 24.
        https://arxiv.org/abs/1611.00712
    """
    value = clamp_probs(promote_half(value))
    log_one = jnp.log(value)
    log_zero = jnp.log1p(-value)
    log_g = logit_binary_concrete_log_density(log_one - log_zero, temperature, logits)
    return log_g - log_one - log_zero


def clamp_probs(value: Float[Array, "..."]) -> Float[Array, "..."]:
    """Move 0 and 1 to the nearest numbers of the dtype inside the unit interval.

    Args:
        value: Numbers in [0, 1].

    Returns:
        Numbers in (0, 1).

    Example:
        >>> bool(1 - clamp_probs(jnp.array(1.0)) > 0)
        True
    """
    info = jnp.finfo(value.dtype)
    return jnp.clip(value, info.tiny, 1 - info.eps / 2)


def logit_binary_concrete_log_mass(
    value: Float[Array, "*#batch"], logits: Float[Array, "*#batch"]
) -> Float[Array, "*#batch"]:
    r"""Return the log-probability of a Bernoulli, averaged with soft probabilities.

    .. math:: \sigma(y) \log p + \sigma(-y) \log(1 - p)

    At plus or minus infinity it is the log-probability of one or of zero. Elsewhere it
    is not a density, and a difference of two such numbers is not a bound.

    Shapes:
        value: ``(*batch)``, in logits.
        logits: ``(*batch)``, broadcastable.
        result: ``(*batch)``.

    Example:
        >>> mass = logit_binary_concrete_log_mass(jnp.zeros(()), jnp.zeros(()))
        >>> float(jnp.exp(mass))
        0.5

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 21.
        https://arxiv.org/abs/1611.00712
    """
    return sigmoid(value) * logits + log_sigmoid(-logits)
