"""Gradients in the logits of one site, from what a particle has cost.

Pure functions of the scores z = a + noise, whose sign or argmax is the discrete value.

Counterpart: ``numpyro_concrete.objectives.gradients``.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def binary_rebar(
    signal: Tensor, slope: Tensor, scores: Tensor, logits: Tensor
) -> Tensor:
    r"""Return the REBAR gradient in the log-odds of Bernoulli variables.

    The conditional noise of the control variate is coupled to the noise of the value,
    so that the conditional scores are the scores themselves: one relaxed evaluation
    has both. With p the probability of the bit b that was drawn,

    .. math:: s (b - \sigma(a)) + d \bigl(1 - (1 - e^{-|z|}) p\bigr),

    as z moves by 1 with the log-odds when the noise is held, and by
    :math:`(1 - e^{-|z|}) p` when the conditional noise is.

    Shapes:
        all: broadcastable; the result has that of `scores`.

    Args:
        signal: Cost s of the value, less the scaled control variate.
        slope: Derivative d of the scaled control variate in the scores.
        scores: Log-odds plus logistic noise; the bit is one where they are positive.
        logits: Log-odds a.

    Example:
        >>> half = binary_rebar(*map(torch.tensor, (2.0, 0.0, 3.0, 0.0)))
        >>> float(half)  # 2 (1 - 1/2)
        1.0

    References:
        Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein (2017), REBAR, eq. 5 and 8.
        https://arxiv.org/abs/1703.07370

    Counterpart: :func:`numpyro_concrete.objectives.gradients.binary_rebar`.
    """
    sign = torch.where(scores > 0, 1, -1)
    prob = (sign * logits).sigmoid()
    score = sign * (-sign * logits).sigmoid()
    return signal * score + slope * (1 + torch.expm1(-scores.abs()) * prob)


def categorical_rebar(
    signal: Tensor, slope: Tensor, scores: Tensor, logits: Tensor
) -> Tensor:
    r"""Return the REBAR gradient in the logits of categorical variables.

    The noise is coupled as in `binary_rebar`. With i the class that was drawn, p the
    probabilities and :math:`r_j = \exp(z_j - z_i)`,

    .. math:: s (e_i - p)_m + \sum_j d_j r_j (\delta_{jm} - p_m),

    as :math:`z_j` moves by :math:`\delta_{jm}` with logit m when the noise is held, and
    by :math:`(1 - r_j) \delta_{jm} + r_j p_m` when the conditional noise is.

    Shapes:
        signal: (*batch), broadcastable.
        slope, scores, logits: (*batch, classes); the result has that of `scores`.

    Args:
        signal: Cost s of the value, less the scaled control variate.
        slope: Derivative d of the scaled control variate in the scores.
        scores: Logits plus Gumbel noise; the class is that of the largest.
        logits: Unnormalised log-probabilities.

    Example:
        >>> zeros, scores = torch.zeros(2), torch.tensor([0.0, 1.0])
        >>> categorical_rebar(torch.tensor(2.0), zeros, scores, zeros)
        tensor([-1.,  1.])

    References:
        Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein (2017), REBAR, eq. 5 and 8.
        https://arxiv.org/abs/1703.07370

    Counterpart: :func:`numpyro_concrete.objectives.gradients.categorical_rebar`.
    """
    probs = logits.softmax(-1)
    vertex = one_hot(scores.argmax(-1), scores.shape[-1]).to(probs)
    weights = slope * (scores - scores.amax(-1, keepdim=True)).exp()
    score = signal[..., None] * (vertex - probs)
    return score + weights - probs * weights.sum(-1, keepdim=True)


def disarm(gap: Tensor, scores: Tensor, opposite: Tensor, logits: Tensor) -> Tensor:
    r"""Return the DisARM gradient in the log-odds of Bernoulli variables.

    .. math:: \tfrac12 (f(b) - f(b')) (b - b') \sigma(|a|)

    It is zero wherever the two draws agree.

    Shapes:
        all: broadcastable; the result has that of `scores`.

    Args:
        gap: Cost f of the value less that of the opposite one.
        scores: Log-odds plus logistic noise.
        opposite: Log-odds less the same noise.
        logits: Log-odds a.

    Example:
        >>> float(disarm(*map(torch.tensor, (2.0, 1.0, -1.0, 0.0))))
        0.5

    References:
        Dong, Mnih, Tucker (2020), DisARM, eq. 8.
        https://arxiv.org/abs/2006.10680

    Counterpart: :func:`numpyro_concrete.objectives.gradients.disarm`.
    """
    change = torch.where(scores > 0, 1, 0) - torch.where(opposite > 0, 1, 0)
    return gap * change * logits.abs().sigmoid() / 2


def compared(signals: Tensor, along: int) -> Tensor:
    """Return each particle's signal less the mean of the others'.

    Args:
        signals: Signals of at least two particles.
        along: The dim of the particles.

    Example:
        >>> compared(torch.tensor([1.0, 2.0, 6.0]), 0)
        tensor([-3.0000, -1.5000,  4.5000])

    Counterpart: :func:`numpyro_concrete.objectives.gradients.compared`.
    """
    n = signals.shape[along]
    return (signals - signals.mean(along, keepdim=True)) * (n / (n - 1))
