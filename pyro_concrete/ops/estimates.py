r"""Hard draws that carry a gradient: vertices forwards, an estimator's Jacobian back.

Each function returns a vertex of the simplex, or a bit, exactly. Its derivative in the
logits is that of the estimator: multiplied with the slope of a function at the vertex,
it is one sample of the gradient of the function's mean. All of them are biased.

Counterpart: ``numpyro_concrete.ops.estimates``.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from pyro_concrete.ops.binary import logit_binary_concrete
from pyro_concrete.ops.categorical import exp_concrete
from pyro_concrete.ops.precision import Temperature, per_class, wide


def straight_through(
    simplex: Float[Tensor, "*batch k"],
) -> Float[Tensor, "*batch k"]:
    r"""Return the nearest vertex of a point of the simplex, with the point's gradient.

    Args:
        simplex: Points of the simplex, such as a Concrete sample.

    Returns:
        One-hot vectors.

    Example:
        >>> straight_through(torch.tensor([0.2, 0.5, 0.3]))
        tensor([0., 1., 0.])

    References:
        Jang, Gu, Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        sec. 2.2. https://arxiv.org/abs/1611.01144
    """
    return _vertex(simplex) + _passed(simplex)


def straight_through_bit(prob: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return the nearest bit of a probability of one, with the probability's gradient.

    Args:
        prob: Numbers in [0, 1], such as a binary Concrete sample.

    Returns:
        Zeros and ones.

    Example:
        >>> straight_through_bit(torch.tensor([0.2, 0.7]))
        tensor([0., 1.])

    References:
        Jang, Gu, Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        sec. 2.2. https://arxiv.org/abs/1611.01144
    """
    return (prob > 0.5).to(prob.dtype) + _passed(prob)


def conditional_gumbel(
    noise: Float[Tensor, "*sample k"],
    vertex: Float[Tensor, "*#batch k"],
    logits: Float[Tensor, "*#batch k"],
) -> Float[Tensor, "*out k"]:
    r"""Return a_k + G_k given that their largest is at a vertex.

    .. math:: a_i + G_i = g_i + \log\sum_k e^{a_k}, \qquad
        a_j + G_j = -\log(e^{-g_j - a_j} + e^{-a_i - G_i})

    with i the class of the vertex and g Gumbel noise. Differentiable in the logits.

    Args:
        noise: Standard Gumbel noise g.
        vertex: One-hot vectors.
        logits: Unnormalised log-probabilities.

    Returns:
        Scores whose argmax is the vertex.

    Example:
        >>> vertex = torch.tensor([0.0, 0.0, 1.0])
        >>> conditional_gumbel(torch.zeros(3), vertex, torch.zeros(3)).argmax().item()
        2

    References:
        Paulus, Maddison, Krause (2021), Rao-Blackwellizing the Straight-Through
        Gumbel-Softmax Gradient Estimator, eq. 9. https://arxiv.org/abs/2010.04838
    """
    noise, logits, chosen = wide(noise), wide(logits), vertex.detach() > 0.5
    noise, logits, chosen = torch.broadcast_tensors(noise, logits, chosen)
    own = torch.where(chosen, noise, 0.0).sum(-1, keepdim=True)
    top = own + logits.logsumexp(-1, keepdim=True)
    return torch.where(chosen, top, -torch.logaddexp(-noise - logits, -top))


def conditional_logistic(
    noise: Float[Tensor, "*sample"],
    bit: Float[Tensor, "*#batch"],
    logits: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*out"]:
    r"""Return a + L given whether it is positive.

    .. math:: \log(1 + e^{l} (1 + e^{a})) \quad\text{or}\quad
        -\log(1 + e^{-l} (1 + e^{-a}))

    for a bit of one or zero, with l logistic noise. Differentiable in the logits.

    Args:
        noise: Standard logistic noise l.
        bit: Zeros and ones.
        logits: Log-odds of one.

    Returns:
        Scores that are positive where the bit is one.

    Example:
        >>> bit, zero = torch.arange(2.0), torch.zeros(2)
        >>> score = conditional_logistic(zero, bit, torch.ones(2))
        >>> score > 0
        tensor([False,  True])

    References:
        Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein (2017), REBAR, app. C.
        https://arxiv.org/abs/1703.07370
    """
    sign = 2 * wide(bit.detach()) - 1
    return sign * softplus(sign * wide(noise) + softplus(sign * wide(logits)))


def gumbel_rao(
    noise: Float[Tensor, " draws *sample k"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch k"],
) -> Float[Tensor, "*sample k"]:
    """Return a vertex with the straight-through gradient, averaged over its noise.

    The gradient of a Concrete sample is averaged over further draws of the noise, given
    the vertex: the same mean as `straight_through`, and never a larger variance.

    Args:
        noise: Standard Gumbel noise: of the draw, and of each sample to average over.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Unnormalised log-probabilities.

    Returns:
        One-hot vectors.

    Example:
        >>> noise = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
        >>> gumbel_rao(noise, 0.5, torch.zeros(2))
        tensor([0., 1.])

    References:
        Paulus, Maddison, Krause (2021), Rao-Blackwellizing the Straight-Through
        Gumbel-Softmax Gradient Estimator, eq. 11. https://arxiv.org/abs/2010.04838
    """
    vertex = _vertex(wide(logits) + wide(noise[0])).to(logits.dtype)
    scores = conditional_gumbel(noise[1:], vertex, logits)
    given = (scores - wide(logits)).detach()
    soft = exp_concrete(given, temperature, logits).exp().mean(0)
    return vertex + _passed(soft)


def gumbel_rao_bit(
    noise: Float[Tensor, " draws *sample"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*sample"]:
    """Return a bit with the straight-through gradient, averaged over its noise.

    Args:
        noise: Standard logistic noise: of the draw, and of each sample to average over.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Log-odds of one.

    Returns:
        Zeros and ones.

    Example:
        >>> gumbel_rao_bit(torch.tensor([1.0, 0.0]), 0.5, torch.tensor(0.0))
        tensor(1.)

    References:
        Paulus, Maddison, Krause (2021), Rao-Blackwellizing the Straight-Through
        Gumbel-Softmax Gradient Estimator, eq. 11. https://arxiv.org/abs/2010.04838
    """
    bit = (wide(logits) + wide(noise[0]) > 0).to(logits.dtype)
    given = (conditional_logistic(noise[1:], bit, logits) - wide(logits)).detach()
    soft = logit_binary_concrete(given, temperature, logits).sigmoid().mean(0)
    return bit + _passed(soft)


def reinmax(
    noise: Float[Tensor, "*sample k"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch k"],
) -> Float[Tensor, "*sample k"]:
    r"""Return a vertex with a gradient that is exact for quadratic functions.

    .. math:: 2 J\bigl((D + p_t)/2\bigr) - J(p)/2, \qquad
        J(q) = \mathrm{diag}(q) - q q^\top

    is its Jacobian at the vertex D, with p = softmax(a) and p_t = softmax(a / t):
    Heun's rule along the way from the mean to the draw. It is exact at temperature 1.

    Args:
        noise: Standard Gumbel noise.
        temperature: Temperature > 0 of the midpoint; scalar, or of the batch shape.
        logits: Unnormalised log-probabilities.

    Returns:
        One-hot vectors.

    Example:
        >>> reinmax(torch.tensor([0.0, 1.0]), 1.0, torch.zeros(2))
        tensor([0., 1.])

    References:
        Liu, Dong, Liu, Yu, Gao (2023), Bridging Discrete and Backpropagation:
        Straight-Through and Beyond, alg. 2. https://arxiv.org/abs/2304.08612
    """
    scores = wide(logits)
    fixed = scores.detach()
    vertex = _vertex(fixed + wide(noise))
    middle = (vertex + (fixed / per_class(temperature)).softmax(-1)).detach() / 2
    step = scores - fixed
    change = 2 * _along(middle, step) - _along(fixed.softmax(-1), step) / 2
    return (vertex + change).to(logits.dtype)


def reinmax_bit(
    noise: Float[Tensor, "*sample"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*sample"]:
    """Return a bit with a gradient that is exact for quadratic functions.

    Args:
        noise: Standard logistic noise.
        temperature: Temperature > 0 of the midpoint; scalar, or of the batch shape.
        logits: Log-odds of one.

    Returns:
        Zeros and ones.

    Example:
        >>> reinmax_bit(torch.tensor(1.0), 1.0, torch.tensor(0.0))
        tensor(1.)

    References:
        Liu, Dong, Liu, Yu, Gao (2023), Bridging Discrete and Backpropagation:
        Straight-Through and Beyond, alg. 2. https://arxiv.org/abs/2304.08612
    """
    scores = wide(logits)
    fixed = scores.detach()
    bit = (fixed + wide(noise) > 0).to(fixed.dtype)
    middle = (bit + (fixed / temperature).sigmoid()).detach() / 2
    prob = fixed.sigmoid()
    slope = 2 * middle * (1 - middle) - prob * (1 - prob) / 2
    return (bit + slope * (scores - fixed)).to(logits.dtype)


def _vertex(scores: Tensor) -> Tensor:
    """The one-hot vector of the largest score."""
    return one_hot(scores.detach().argmax(-1), scores.shape[-1]).to(scores.dtype)


def _passed(x: Tensor) -> Tensor:
    """Zeros, exactly, with the gradient of x."""
    return x - x.detach()


def _along(simplex: Tensor, step: Tensor) -> Tensor:
    """The softmax Jacobian at a point, applied to a step of the logits."""
    return simplex * (step - (simplex * step).sum(-1, keepdim=True))
