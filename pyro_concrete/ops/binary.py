"""Two values: LogitBinaryConcrete on the reals, BinaryConcrete on [0, 1].

Counterpart: ``numpyro_concrete.ops.binary``.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_concrete.ops.fused import draw_logit_binary_concrete
from pyro_concrete.ops.precision import Temperature, log_temperature, promote_half


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
    return ((promote_half(logits) + promote_half(noise)) / temperature).to(logits.dtype)


def logit_binary_concrete_draw(
    uniform: Float[Tensor, "*out"],
    temperature: float,
    logits: Float[Tensor, "*#out"],
) -> tuple[Float[Tensor, "*out"], Float[Tensor, "*out"]]:
    """Return the logit of a binary Concrete sample and its log-density there, at once.

    For plain autograd. The density is tied to the logits by a gradient of zero.

    Args:
        uniform: Uniform draws on [0, 1), which are overwritten.
        temperature: Relaxation temperature > 0.
        logits: Log-odds of one, of single precision at least.

    Example:
        >>> value, log_density = logit_binary_concrete_draw(
        ...     torch.tensor(0.5), 0.5, torch.tensor(2.0)
        ... )
        >>> value
        tensor(4.)
    """
    constant = math.log(temperature)
    return draw_logit_binary_concrete(logits, (uniform,), temperature, constant)


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
    scores = promote_half(logits) - temperature * promote_half(value)
    return log_temperature(temperature) + logsigmoid(scores) + logsigmoid(-scores)


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
    noise = promote_half(noise)
    return log_temperature(temperature) + logsigmoid(noise) + logsigmoid(-noise)


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
    return 2 - log_temperature(temperature)


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
    value = clamp_probs(promote_half(value))
    log_one = value.log()
    log_zero = torch.log1p(-value)
    log_g = logit_binary_concrete_log_density(log_one - log_zero, temperature, logits)
    return log_g - log_one - log_zero


def clamp_probs(value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Move 0 and 1 to the nearest numbers of the dtype inside the unit interval.

    Args:
        value: Numbers in [0, 1].

    Returns:
        Numbers in (0, 1).

    Example:
        >>> 1 - clamp_probs(torch.tensor(1.0)) > 0
        tensor(True)
    """
    info = torch.finfo(value.dtype)
    return value.clamp(info.tiny, 1 - info.eps / 2)


def logit_binary_concrete_log_mass(
    value: Float[Tensor, "*#batch"], logits: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*#batch"]:
    r"""Return the log-probability of a Bernoulli, averaged with soft probabilities.

    .. math:: \sigma(y) \log p + \sigma(-y) \log(1 - p)

    At plus or minus infinity it is the log-probability of one or of zero. Elsewhere it
    is not a density, and a difference of two such numbers is not a bound.

    Shapes:
        value: ``(*batch)``, in logits.
        logits: ``(*batch)``, broadcastable.
        result: ``(*batch)``.

    Example:
        >>> mass = logit_binary_concrete_log_mass(torch.zeros(()), torch.zeros(()))
        >>> float(torch.exp(mass))
        0.5

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 21.
        https://arxiv.org/abs/1611.00712
    """
    return value.sigmoid() * logits + logsigmoid(-logits)
