"""n classes: ExpConcrete on the log-simplex, Concrete on the simplex.

Counterpart: ``numpyro_concrete.ops.categorical``.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax, pad

from concrete_core.special import harmonic_number
from pyro_concrete.ops.fused import (
    MANY,
    draw_exp_concrete,
    log_softmax_,
    score_exp_concrete,
)
from pyro_concrete.ops.precision import (
    Temperature,
    is_plain,
    log_temperature,
    promote_half,
    with_class_dim,
)


def exp_concrete(
    noise: Float[Tensor, "*#batch k"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch k"],
) -> Float[Tensor, "*out k"]:
    r"""Map Gumbel noise to the log of a Concrete sample.

    .. math:: y_k = (a_k + G_k)/t - \log\sum_i \exp((a_i + G_i)/t)

    Args:
        noise: Standard Gumbel noise.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Unnormalized log-probabilities.

    Returns:
        Points y with logsumexp(y) = 0, in the dtype of the logits.

    Example:
        >>> exp_concrete(torch.zeros(3), 0.5, torch.zeros(3)).exp()
        tensor([0.3333, 0.3333, 0.3333])

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. C.3.
        https://arxiv.org/abs/1611.00712
    """
    scores = promote_half(logits) + promote_half(noise)
    if isinstance(temperature, Tensor):
        scores = scores / with_class_dim(temperature)
    else:
        # In place: large arrays cost more to allocate than to compute.
        scores.div_(temperature)
    if not scores.requires_grad and is_plain():
        return log_softmax_(scores).to(logits.dtype)
    return log_softmax(scores, -1).to(logits.dtype)


def exp_concrete_draw(
    uniform: Float[Tensor, "*out k"],
    temperature: float,
    logits: Float[Tensor, "*#out k"],
) -> tuple[Float[Tensor, "*out k"], Float[Tensor, "*out"]]:
    """Return the log of a Concrete sample and its log-density there, at once.

    For plain autograd. The density is tied to the logits by a gradient of zero.

    Args:
        uniform: Uniform draws on [0, 1), which are overwritten.
        temperature: Relaxation temperature > 0.
        logits: Unnormalized log-probabilities, of single precision at least.

    Example:
        >>> value, log_density = exp_concrete_draw(
        ...     torch.full((3,), 0.5), 0.5, torch.zeros(3)
        ... )
        >>> value.exp()
        tensor([0.3333, 0.3333, 0.3333])
    """
    constant = _log_constant(logits.shape[-1], temperature)
    return draw_exp_concrete(logits, (uniform,), temperature, constant)


def exp_concrete_log_density(
    value: Float[Tensor, "*#batch k"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch k"],
) -> Float[Tensor, "*out"]:
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
        >>> y = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log()
        >>> a = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64).log()
        >>> exp_concrete_log_density(y, 1.0, a)
        tensor(-3.4136, dtype=torch.float64)

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. C.3.
        https://arxiv.org/abs/1611.00712
    """
    logits = promote_half(logits)
    value = promote_half(value)
    constant = _log_constant(logits.shape[-1], temperature)
    if isinstance(temperature, Tensor):
        scores = logits - with_class_dim(temperature) * value
    elif value.numel() > MANY and value.device.type == "cpu" and is_plain():
        return score_exp_concrete(logits, value, temperature, constant)
    else:
        scores = torch.add(logits, value, alpha=-temperature)
    # The sum of a log-softmax is sum(s) - n LSE(s) without its cancellation.
    return constant + log_softmax(scores, -1).sum(-1)


def exp_concrete_noise_log_density(
    noise: Float[Tensor, "*batch k"], temperature: Temperature
) -> Float[Tensor, "*out"]:
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
        >>> exp_concrete_noise_log_density(torch.zeros(2), 1.0)
        tensor(-1.3863)
    """
    noise = promote_half(noise)
    n = noise.shape[-1]
    # Gumbels are no larger than some tens: their exponentials need no shift.
    log_sum = noise.neg().exp_().sum(-1).log()
    return _log_constant(n, temperature) - noise.sum(-1) - n * log_sum


def exp_concrete_entropy(temperature: Temperature, num_classes: int) -> Tensor | float:
    r"""Return the entropy of an ExpConcrete, which does not depend on its logits.

    .. math:: H = n H_{n-1} - \log (n-1)! - (n-1)\log t,\qquad H_{n-1} = \sum_{j<n} 1/j

    Args:
        temperature: Relaxation temperature > 0.
        num_classes: Number of classes n >= 2.

    Returns:
        Entropy in nats, with respect to the log-ratios, of the temperature's shape.

    Example:
        >>> exp_concrete_entropy(torch.tensor(1.0), 2)
        tensor(2.)
    """
    # E sum G + n E LSE(-G) = n (Euler's constant + digamma(n)) = n H_(n-1)
    mean = num_classes * harmonic_number(num_classes - 1)
    constant = mean - math.lgamma(num_classes)
    return constant - (num_classes - 1) * log_temperature(temperature)


def concrete_log_density(
    value: Float[Tensor, "*#batch k"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch k"],
) -> Float[Tensor, "*out"]:
    r"""Return the log-density of a Concrete variable on the simplex.

    .. math:: \log p(x) = \log\kappa(\log x) - \sum_k \log x_k

    The density is with respect to x_1, ..., x_(n-1), as in torch.

    Args:
        value: Points on the simplex; zeros are read as the smallest normal number.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Unnormalized log-probabilities.

    Returns:
        Log-densities of the batch shape.

    Example:
        >>> x = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
        >>> a = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64).log()
        >>> concrete_log_density(x, 1.0, a)
        tensor(0.6038, dtype=torch.float64)

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 10.
        https://arxiv.org/abs/1611.00712
    """
    value = promote_half(value)
    log_value = value.clamp_min(torch.finfo(value.dtype).tiny).log()
    log_kappa = exp_concrete_log_density(log_value, temperature, logits)
    return log_kappa - log_value.sum(-1)


def log_ratios(value: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch j"]:
    """Return the log-ratios to the last class: the coordinates of the log-simplex.

    Args:
        value: Points with logsumexp(value) = 0.

    Returns:
        Unconstrained coordinates, one fewer than the classes.

    Example:
        >>> log_ratios(torch.tensor([0.5, 0.25, 0.25]).log())
        tensor([0.6931, 0.0000])
    """
    return value[..., :-1] - value[..., -1:]


def from_log_ratios(ratios: Float[Tensor, "*batch j"]) -> Float[Tensor, "*batch k"]:
    """Return the point of the log-simplex that has these log-ratios.

    Args:
        ratios: Unconstrained coordinates.

    Returns:
        Points with logsumexp equal to 0, one class more than the coordinates.

    Example:
        >>> from_log_ratios(torch.zeros(1)).exp()
        tensor([0.5000, 0.5000])
    """
    return log_softmax(pad(ratios, (0, 1)), -1)


def _log_constant(num_classes: Any, temperature: Temperature) -> Any:
    """Log (n-1)! + (n-1) log t; a tracer has tensors for sizes."""
    return math.lgamma(num_classes) + (num_classes - 1) * log_temperature(temperature)


def exp_concrete_log_mass(
    value: Float[Tensor, "*#batch classes"], logits: Float[Tensor, "*#batch classes"]
) -> Float[Tensor, "*#batch"]:
    r"""Return the log-probability of a categorical, averaged with soft probabilities.

    .. math:: \sum_k \exp(y_k) \log p_k

    For a one-hot sample it is the log-probability of that class. Elsewhere it is not a
    density, and a difference of two such numbers is not a bound.

    Shapes:
        value: ``(*batch, classes)``, with logsumexp 0.
        logits: ``(*batch, classes)``, broadcastable.
        result: ``(*batch)``.

    Example:
        >>> center = torch.log(torch.tensor([0.5, 0.5]))
        >>> mass = exp_concrete_log_mass(center, torch.zeros(2))
        >>> float(torch.exp(mass))
        0.5

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 21.
        https://arxiv.org/abs/1611.00712
    """
    return (value.exp() * logits.log_softmax(-1)).sum(-1)
