"""Uniforms to noise, and probabilities to logits, finite at the boundary.

Counterpart: ``numpyro_concrete.ops.noise``.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def gumbel(uniform: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Map uniforms on [0, 1) to standard Gumbel noise, never infinite.

    Args:
        uniform: Uniform draws; an exact 0 is read as half of the smallest step.

    Returns:
        Gumbel noise of the same shape, -log(-log(1 - u)).

    Example:
        >>> gumbel(torch.tensor([0.0, 0.5])).isfinite()
        tensor([True, True])
    """
    return gumbel_(uniform.clone())


def gumbel_(uniform: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Do the same in place: large arrays cost more to allocate than to compute.

    Args:
        uniform: Uniform draws, which become the noise.

    Example:
        >>> gumbel_(torch.tensor([0.0, 0.5])).isfinite()
        tensor([True, True])
    """
    return exponential_(uniform).log_().neg_()


def exponential_(uniform: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Map uniforms on [0, 1) to standard exponential noise, never zero, in place.

    Args:
        uniform: Uniform draws, which become the noise.

    Example:
        >>> exponential_(torch.tensor([0.5]))
        tensor([0.6931])
    """
    # -log(1 - u) is exact for small u: the upper tail of the Gumbel.
    return positive_uniform_(uniform).neg_().log1p_().neg_()


def logistic(uniform: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Map uniforms on [0, 1) to standard logistic noise, never infinite.

    Args:
        uniform: Uniform draws; an exact 0 is read as half of the smallest step.

    Returns:
        Logistic noise of the same shape, log u - log(1 - u).

    Example:
        >>> logistic(torch.tensor([0.5]))
        tensor([0.])
    """
    return logistic_(uniform.clone())


def logistic_(uniform: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Do the same in place: large arrays cost more to allocate than to compute.

    Args:
        uniform: Uniform draws, which become the noise.

    Example:
        >>> logistic_(torch.tensor([0.5]))
        tensor([0.])
    """
    uniform = positive_uniform_(uniform)
    log_one_minus_u = uniform.neg().log1p_()
    return uniform.log_().sub_(log_one_minus_u)


def categorical_logits(probs: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch k"]:
    """Return log-probabilities, finite where a probability is zero.

    Args:
        probs: Class probabilities >= 0, of any sum.

    Returns:
        Normalized log-probabilities, at least the log of the smallest normal number.

    Example:
        >>> categorical_logits(torch.tensor([1.0, 1.0])).exp()
        tensor([0.5000, 0.5000])
    """
    probs = probs / probs.sum(-1, keepdim=True)
    return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()


def bernoulli_logits(probs: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return log-odds of probabilities, finite at exactly 0 and 1.

    Args:
        probs: Probabilities of one, in [0, 1].

    Returns:
        log p - log(1 - p), each logarithm at least that of the smallest normal number.

    Example:
        >>> bernoulli_logits(torch.tensor([0.0, 0.5, 1.0])).isfinite()
        tensor([True, True, True])
    """
    tiny = torch.finfo(probs.dtype).tiny
    return probs.clamp_min(tiny).log() - (1 - probs).clamp_min(tiny).log()


def positive_uniform_(uniform: Tensor) -> Tensor:
    """Replace, in place, 0 by half of the smallest step of the generator.

    Args:
        uniform: Uniform draws on [0, 1).

    Example:
        >>> positive_uniform_(torch.zeros(())) > 0
        tensor(True)
    """
    return uniform.clamp_min_(torch.finfo(uniform.dtype).eps / 4)
