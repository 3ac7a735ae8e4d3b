"""The KL divergence of two binary Concretes.

Counterpart: ``numpyro_concrete.ops.kl.binary``.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from concrete_core.kl.rules import logistic_rule
from pyro_concrete.ops.kl.series import constant, coth_kl
from pyro_concrete.ops.kl.temperatures import (
    floor_kl,
    ratio_in_table,
    temperature_ratio,
)
from pyro_concrete.ops.precision import Temperature, promote_half


def logit_binary_concrete_kl(
    logits_p: Float[Tensor, "*#batch"],
    logits_q: Float[Tensor, "*#batch"],
    temperature_p: Temperature | None = None,
    temperature_q: Temperature | None = None,
) -> Float[Tensor, "*out"]:
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
        >>> logit_binary_concrete_kl(torch.tensor(2.0), torch.tensor(0.0))
        tensor(0.6261)
        >>> zero = torch.tensor(0.0, dtype=torch.float64)
        >>> logit_binary_concrete_kl(zero, zero, 2 / 3, 1 / 2)
        tensor(0.0530, dtype=torch.float64)

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
    return torch.where(is_in_table, kl, math.nan)


def binary_excess(v: Tensor, ratio: Tensor) -> Tensor:
    """Return E log(1 + sinh(v/2)^2 / cosh(r L/2)^2), L logistic: what v adds."""
    rule = logistic_rule()
    column = (-1,) + (1,) * v.dim()
    noise = constant(rule.noise, v).reshape(column)
    weights = constant(rule.weights, v).reshape(column)
    # log(1 / (4 cosh(x)^2)) with x = r L / 2 > 0, where cosh would overflow.
    scaled_noise = ratio * noise
    log_sech = -scaled_noise - 2 * torch.log1p((-scaled_noise).exp())
    # For small v, sinh keeps the digits; for large v it overflows, but
    # log(4 sinh(v/2)^2) = |v| + 2 log(1 - e^-|v|) does not.
    is_small = v.abs() < 1
    sinh = torch.where(is_small, v, 0.0).div(2).sinh()
    for_small = torch.log1p(4 * sinh.square() * log_sech.exp())
    size = torch.where(is_small, 1.0, v.abs())
    log_sinh = size + 2 * torch.log1p(-(-size).exp())
    for_large = softplus(log_sech + log_sinh)
    return (weights * torch.where(is_small, for_small, for_large)).sum(0)
