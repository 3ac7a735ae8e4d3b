r"""Gradients of an ELBO in the logits of one discrete site, for one draw.

Pure functions of the logits a and of the scores z = a + noise, whose sign or argmax is
the discrete value. An objective multiplies each gradient, held constant, with the
logits, and so passes it on to the parameters that the logits depend on.

Counterpart: ``numpyro_concrete.objectives.logit_gradients``.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def binary_rebar_gradient(
    signal: Tensor, slope: Tensor, scores: Tensor, logits: Tensor
) -> Tensor:
    r"""Return the REBAR gradient in the log-odds of Bernoulli variables.

    REBAR evaluates its control variate c at relaxed scores z and at conditional ones
    :math:`\tilde z`, which are drawn given the value b. Here the noise of
    :math:`\tilde z` is coupled to that of z, so that :math:`\tilde z = z` and one
    relaxed evaluation has both. Their derivatives still differ. Where the noise is held
    fixed, z moves by 1 with the log-odds; where the conditional noise is,
    :math:`\tilde z` moves by :math:`(1 - e^{-|z|}) p`, with p the probability of b.
    The gradient is the score function plus the difference of the two paths:

    .. math:: s (b - \sigma(a)) + d \bigl(1 - (1 - e^{-|z|}) p\bigr)

    Shapes:
        all: broadcastable; the result has that of `scores`.

    Args:
        signal: Learning signal s: the ELBO minus the scaled control variate.
        slope: Derivative d of the scaled control variate in the scores.
        scores: Log-odds plus logistic noise. The value b is 1 where they are positive,
            and 0 elsewhere.
        logits: Log-odds a.

    Example:
        >>> half = binary_rebar_gradient(*map(torch.tensor, (2.0, 0.0, 3.0, 0.0)))
        >>> float(half)  # 2 (1 - 1/2)
        1.0

    References:
        Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein (2017), REBAR, eq. 5 and 8.
        https://arxiv.org/abs/1703.07370

    Counterpart:
    :func:`numpyro_concrete.objectives.logit_gradients.binary_rebar_gradient`.
    """
    sign = torch.where(scores > 0, 1, -1)
    prob = (sign * logits).sigmoid()
    # b - sigmoid(a), without cancellation where the value is nearly certain.
    score_function = sign * (-sign * logits).sigmoid()
    paths = 1 + torch.expm1(-scores.abs()) * prob
    return signal * score_function + slope * paths


def categorical_rebar_gradient(
    signal: Tensor, slope: Tensor, scores: Tensor, logits: Tensor
) -> Tensor:
    r"""Return the REBAR gradient in the logits of categorical variables.

    The noise is coupled as in `binary_rebar_gradient`. With i the class that was drawn,
    p the probabilities and :math:`r_j = \exp(z_j - z_i)`: where the noise is held
    fixed, :math:`z_j` moves by :math:`\delta_{jm}` with logit m; where the conditional
    noise is, by :math:`(1 - r_j) \delta_{jm} + r_j p_m`. Component m of the gradient is

    .. math:: s (e_i - p)_m + \sum_j d_j r_j (\delta_{jm} - p_m)

    Shapes:
        signal: (*batch), broadcastable.
        slope, scores, logits: (*batch, classes); the result has that of `scores`.

    Args:
        signal: Learning signal s: the ELBO minus the scaled control variate.
        slope: Derivative d of the scaled control variate in the scores.
        scores: Logits plus Gumbel noise. The class i is that of the largest.
        logits: Unnormalized log-probabilities.

    Example:
        >>> zeros, scores = torch.zeros(2), torch.tensor([0.0, 1.0])
        >>> categorical_rebar_gradient(torch.tensor(2.0), zeros, scores, zeros)
        tensor([-1.,  1.])

    References:
        Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein (2017), REBAR, eq. 5 and 8.
        https://arxiv.org/abs/1703.07370

    Counterpart:
    :func:`numpyro_concrete.objectives.logit_gradients.categorical_rebar_gradient`.
    """
    probs = logits.softmax(-1)
    drawn = one_hot(scores.argmax(-1), scores.shape[-1]).to(probs)
    score_function = signal[..., None] * (drawn - probs)
    scaled_slope = slope * (scores - scores.amax(-1, keepdim=True)).exp()  # d_j r_j
    paths = scaled_slope - probs * scaled_slope.sum(-1, keepdim=True)
    return score_function + paths


def disarm_gradient(
    elbo_difference: Tensor, scores: Tensor, antithetic_scores: Tensor, logits: Tensor
) -> Tensor:
    r"""Return the DisARM gradient in the log-odds of Bernoulli variables.

    .. math:: \tfrac12 (f(b) - f(b')) (b - b') \sigma(|a|)

    b and b' are drawn with the noise and with the opposite noise, so that each has the
    distribution of the site. The gradient is zero wherever they agree.

    Shapes:
        all: broadcastable; the result has that of `scores`.

    Args:
        elbo_difference: ELBO f of the value b minus that of the antithetic value b'.
        scores: Log-odds plus logistic noise.
        antithetic_scores: Log-odds minus the same noise.
        logits: Log-odds a.

    Example:
        >>> float(disarm_gradient(*map(torch.tensor, (2.0, 1.0, -1.0, 0.0))))
        0.5

    References:
        Dong, Mnih, Tucker (2020), DisARM, eq. 8.
        https://arxiv.org/abs/2006.10680

    Counterpart: :func:`numpyro_concrete.objectives.logit_gradients.disarm_gradient`.
    """
    value = torch.where(scores > 0, 1, 0)
    antithetic_value = torch.where(antithetic_scores > 0, 1, 0)
    score_function = (value - antithetic_value) * logits.abs().sigmoid()
    return elbo_difference * score_function / 2
