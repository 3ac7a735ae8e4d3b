"""Two values: LogitBinaryConcrete on the reals, BinaryConcrete on [0, 1].

Twin: ``numpyro_concrete.ops.binary``.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_concrete.ops.precision import Temperature, log, wide

# d coth(d/2) - 2 = sum_k c_k d^(2k) for |d| < 2 pi; c_k = 2 B_(2k) / (2k)!
_COTH_SERIES = (
    1 / 6,
    -1 / 360,
    1 / 15120,
    -1 / 604800,
    1 / 23950080,
    -691 / 653837184000,
    1 / 37362124800,
    -3617 / 5335311421440000,
)


def logit_binary_concrete(
    noise: Float[Tensor, "*#batch"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*out"]:
    r"""Map logistic noise to the logit of a binary Concrete sample, (a + L) / t.

    Args:
        noise: Standard logistic noise.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Log-odds of one.

    Returns:
        Logits of the relaxed value, in the dtype of the parameter.

    Example:
        >>> logit_binary_concrete(torch.tensor(1.0), 0.5, torch.tensor(2.0))
        tensor(6.)

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. B.
        https://arxiv.org/abs/1611.00712
    """
    return ((wide(logits) + wide(noise)) / temperature).to(logits.dtype)


def logit_binary_concrete_log_density(
    value: Float[Tensor, "*#batch"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*out"]:
    r"""Return the log-density of the logit of a binary Concrete variable.

    .. math:: \log g(y) = \log t + s - 2\log(1 + e^s),\qquad s = a - t y

    Args:
        value: Real numbers.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Log-odds of one.

    Returns:
        Log-densities of the batch shape.

    Example:
        >>> zero = torch.tensor(0.0)
        >>> logit_binary_concrete_log_density(zero, 1.0, zero).exp()
        tensor(0.2500)

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. B.
        https://arxiv.org/abs/1611.00712
    """
    scores = wide(logits) - temperature * wide(value)
    return log(temperature) + logsigmoid(scores) + logsigmoid(-scores)


def logit_binary_concrete_noise_log_density(
    noise: Float[Tensor, "*batch"], temperature: Temperature
) -> Float[Tensor, "*out"]:
    r"""Return the log-density of the logit drawn with this logistic noise.

    .. math:: \log g(y(L)) = \log t - L - 2\log(1 + e^{-L})

    Args:
        noise: The logistic noise that made the sample.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.

    Returns:
        Log-densities of the batch shape.

    Example:
        >>> logit_binary_concrete_noise_log_density(torch.tensor(0.0), 1.0).exp()
        tensor(0.2500)
    """
    noise = wide(noise)
    return log(temperature) + logsigmoid(noise) + logsigmoid(-noise)


def logit_binary_concrete_entropy(temperature: Temperature) -> Tensor | float:
    """Return the entropy of a LogitBinaryConcrete, 2 - log t, whatever its logits.

    Args:
        temperature: Relaxation temperature > 0.

    Returns:
        Entropy in nats, of the temperature's shape.

    Example:
        >>> logit_binary_concrete_entropy(torch.tensor(1.0))
        tensor(2.)
    """
    return 2 - log(temperature)


def logit_binary_concrete_kl(
    logits_p: Float[Tensor, "*#batch"], logits_q: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*out"]:
    r"""Return the KL divergence of two binary Concretes of equal temperature, exactly.

    .. math:: KL = d \coth(d/2) - 2,\qquad d = a_p - a_q

    It is the same at every temperature, and for the logit and the unit interval.

    Args:
        logits_p: Log-odds of one under the first distribution.
        logits_q: Log-odds of one under the second.

    Returns:
        KL divergences in nats, of the batch shape.

    Example:
        >>> logit_binary_concrete_kl(torch.tensor(2.0), torch.tensor(0.0))
        tensor(0.6261)
    """
    d = wide(logits_p) - wide(logits_q)
    small = d.abs() < 1
    square = torch.where(small, d, 0.0).square()
    series = torch.zeros_like(square)
    for coefficient in reversed(_COTH_SERIES):
        series = (series + coefficient) * square
    d = torch.where(small, 1.0, d)  # keeps the gradient of the other branch finite
    return torch.where(small, series, d / torch.tanh(d / 2) - 2)


def binary_concrete_log_density(
    value: Float[Tensor, "*#batch"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*out"]:
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
        >>> x = torch.tensor(0.3, dtype=torch.float64)
        >>> binary_concrete_log_density(x, 2 / 3, torch.log(torch.tensor(2.0)).double())
        tensor(-0.6031, dtype=torch.float64)

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 24.
        https://arxiv.org/abs/1611.00712
    """
    value = unit_interior(wide(value))
    log_one, log_zero = value.log(), torch.log1p(-value)
    log_g = logit_binary_concrete_log_density(log_one - log_zero, temperature, logits)
    return log_g - log_one - log_zero


def unit_interior(value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Move 0 and 1 to the nearest numbers of the dtype inside the unit interval.

    Args:
        value: Numbers in [0, 1].

    Returns:
        Numbers in (0, 1).

    Example:
        >>> 1 - unit_interior(torch.tensor(1.0)) > 0
        tensor(True)
    """
    info = torch.finfo(value.dtype)
    return value.clamp(info.tiny, 1 - info.eps / 2)


def logit_binary_concrete_log_mass(
    value: Float[Tensor, "*batch"], logits: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch"]:
    r"""Log-probability of a Bernoulli, read off at a point of the real line.

    .. math:: \sigma(y) \log p + \sigma(-y) \log(1 - p)

    At plus or minus infinity it is the log-probability of that bit. Between them it is
    no density, and differences of two such numbers are no bound on anything.

    Shapes:
        value: (*batch), in logits.
        logits: (*batch), broadcastable.
        result: (*batch).

    Example:
        >>> mass = logit_binary_concrete_log_mass(torch.zeros(()), torch.zeros(()))
        >>> float(torch.exp(mass))
        0.5

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 21.
        https://arxiv.org/abs/1611.00712
    """
    return value.sigmoid() * logits + logsigmoid(-logits)
