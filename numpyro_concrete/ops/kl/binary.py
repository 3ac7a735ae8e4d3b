"""The KL divergence of two binary Concretes.

Counterpart: ``pyro_concrete.ops.kl.binary``.
"""

import jax.numpy as jnp
from jax import Array
from jax.nn import softplus
from jaxtyping import Float

from concrete_core.kl.rules import logistic_rule
from numpyro_concrete.ops.kl.series import constant, coth_kl
from numpyro_concrete.ops.kl.temperatures import (
    floor_kl,
    ratio_in_table,
    temperature_ratio,
)
from numpyro_concrete.ops.precision import Temperature, promote_half


def logit_binary_concrete_kl(
    logits_p: Float[Array, "*#batch"],
    logits_q: Float[Array, "*#batch"],
    temperature_p: Temperature | None = None,
    temperature_q: Temperature | None = None,
) -> Float[Array, "*out"]:
    r"""Return the KL divergence of two binary Concretes, exactly.

    At equal temperatures it does not depend on them:

    .. math:: KL = d \coth(d/2) - 2,\qquad d = a_p - a_q.

    At others, with :math:`r = t_q/t_p`, :math:`v = a_q - r a_p` and a logistic L,

    .. math:: KL = D_2(r) + E\log\Bigl(1
        + \frac{\sinh^2(v/2)}{\cosh^2(r L/2)}\Bigr),\qquad
        D_2(r) = -\log r - 2 + 2 E\log\bigl(2\cosh(r L/2)\bigr).

    It is the same for the logit and for the unit interval. Differentiable in all four.

    Args:
        logits_p: Log-odds of one under the first distribution.
        logits_q: Log-odds of one under the second.
        temperature_p: Temperature of the first, > 0; scalar, or of the batch shape.
            Left out, with the other, the temperatures are equal.
        temperature_q: Temperature of the second.

    Returns:
        KL divergences in nats, of the batch shape; NaN where one temperature is more
        than `MAX_RATIO` times the other.

    Raises:
        ValueError: If one temperature is given without the other.

    Example:
        >>> round(float(logit_binary_concrete_kl(jnp.array(2.0), jnp.array(0.0))), 4)
        0.6261
        >>> zero = jnp.array(0.0)
        >>> round(float(logit_binary_concrete_kl(zero, zero, 2 / 3, 1 / 2)), 3)
        0.053

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. B.
        https://arxiv.org/abs/1611.00712
    """
    a = promote_half(logits_p)
    b = promote_half(logits_q)
    ratio = temperature_ratio(temperature_p, temperature_q, like=a - b)
    if ratio is None:
        return coth_kl(a - b)
    r, is_in_table = ratio_in_table(ratio)
    kl = floor_kl(r, num_classes=2) + binary_excess(b - r * a, r)
    return jnp.where(is_in_table, kl, jnp.nan)


def binary_excess(v: Array, ratio: Array) -> Array:
    """Return E log(1 + sinh(v/2)^2 / cosh(r L/2)^2), L logistic: what v adds."""
    rule = logistic_rule()
    column = (-1,) + (1,) * v.ndim
    noise = constant(rule.noise, v).reshape(column)
    weights = constant(rule.weights, v).reshape(column)
    # log(1 / (4 cosh(x)^2)) with x = r L / 2 > 0, where cosh would overflow.
    scaled_noise = ratio * noise
    log_sech = -scaled_noise - 2 * jnp.log1p(jnp.exp(-scaled_noise))
    # For small v, sinh keeps the digits; for large v it overflows, but
    # log(4 sinh(v/2)^2) = |v| + 2 log(1 - e^-|v|) does not.
    is_small = jnp.abs(v) < 1
    sinh = jnp.sinh(jnp.where(is_small, v, 0.0) / 2)
    for_small = jnp.log1p(4 * jnp.square(sinh) * jnp.exp(log_sech))
    size = jnp.where(is_small, 1.0, jnp.abs(v))
    log_sinh = size + 2 * jnp.log1p(-jnp.exp(-size))
    for_large = softplus(log_sech + log_sinh)
    return (weights * jnp.where(is_small, for_small, for_large)).sum(0)
