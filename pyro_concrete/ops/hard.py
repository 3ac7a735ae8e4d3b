r"""One-hot and binary samples that carry the gradient of an estimator.

Each function returns a discrete sample, exactly. Its derivative in the logits is that
of the estimator: times the slope of a function at the sample, it is one sample
of the gradient of the function's mean. All of them are biased.

Counterpart: ``numpyro_concrete.ops.hard``.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from pyro_concrete.ops.binary import logit_binary_concrete
from pyro_concrete.ops.categorical import exp_concrete
from pyro_concrete.ops.precision import Temperature, promote_half, with_class_dim


def straight_through(
    simplex: Float[Tensor, "*batch k"],
) -> Float[Tensor, "*batch k"]:
    r"""Return the nearest one-hot vector, with the gradient of the soft sample.

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
    return _one_hot_argmax(simplex) + _zero_with_gradient(simplex)


def straight_through_binary(prob: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return zero or one, whichever is nearer, with the gradient of the soft sample.

    Args:
        prob: Numbers in [0, 1], such as a binary Concrete sample.

    Returns:
        Zeros and ones.

    Example:
        >>> straight_through_binary(torch.tensor([0.2, 0.7]))
        tensor([0., 1.])

    References:
        Jang, Gu, Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        sec. 2.2. https://arxiv.org/abs/1611.01144
    """
    return (prob > 0.5).to(prob.dtype) + _zero_with_gradient(prob)


def conditional_gumbel(
    noise: Float[Tensor, "*sample k"],
    sample: Float[Tensor, "*#batch k"],
    logits: Float[Tensor, "*#batch k"],
) -> Float[Tensor, "*out k"]:
    r"""Return a_k + G_k given the class at which they are largest.

    .. math:: a_i + G_i = g_i + \log\sum_k e^{a_k}, \qquad
        a_j + G_j = -\log(e^{-g_j - a_j} + e^{-a_i - G_i})

    with i the class of the sample and g Gumbel noise. Differentiable in the logits.

    Args:
        noise: Standard Gumbel noise g.
        sample: One-hot vectors.
        logits: Unnormalized log-probabilities.

    Returns:
        Scores whose argmax is the class of the sample.

    Example:
        >>> sample = torch.tensor([0.0, 0.0, 1.0])
        >>> conditional_gumbel(torch.zeros(3), sample, torch.zeros(3)).argmax().item()
        2

    References:
        Paulus, Maddison, Krause (2021), Rao-Blackwellizing the Straight-Through
        Gumbel-Softmax Gradient Estimator, eq. 9. https://arxiv.org/abs/2010.04838
    """
    noise, logits, is_chosen = torch.broadcast_tensors(
        promote_half(noise), promote_half(logits), sample.detach() > 0.5
    )
    chosen_noise = torch.where(is_chosen, noise, 0.0).sum(-1, keepdim=True)
    # The maximum is a Gumbel variable at LSE(a), whichever class attains it. The others
    # are Gumbels truncated below it.
    largest = chosen_noise + logits.logsumexp(-1, keepdim=True)
    truncated = -torch.logaddexp(-noise - logits, -largest)
    return torch.where(is_chosen, largest, truncated)


def conditional_logistic(
    noise: Float[Tensor, "*sample"],
    sample: Float[Tensor, "*#batch"],
    logits: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*out"]:
    r"""Return a + L given whether it is positive.

    .. math:: \log(1 + e^{l} (1 + e^{a})) \quad\text{or}\quad
        -\log(1 + e^{-l} (1 + e^{-a}))

    for a sample of one or zero, with l logistic noise. Differentiable in the logits.

    Args:
        noise: Standard logistic noise l.
        sample: Zeros and ones.
        logits: Log-odds of one.

    Returns:
        Scores that are positive where the sample is one.

    Example:
        >>> sample = torch.tensor([0.0, 1.0])
        >>> score = conditional_logistic(torch.zeros(2), sample, torch.ones(2))
        >>> score > 0
        tensor([False,  True])

    References:
        Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein (2017), REBAR, app. C.
        https://arxiv.org/abs/1703.07370
    """
    # Positive scores are those of a sample of one; the other case mirrors them.
    sign = 2 * promote_half(sample.detach()) - 1
    return sign * softplus(
        sign * promote_half(noise) + softplus(sign * promote_half(logits))
    )


def gumbel_rao(
    noise: Float[Tensor, " draws *sample k"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch k"],
) -> Float[Tensor, "*sample k"]:
    """Return a one-hot sample with a straight-through gradient averaged over noise.

    The gradient of a Concrete sample is averaged over further draws of the noise, given
    the class: the same mean as `straight_through`, and never a larger variance.

    Args:
        noise: Standard Gumbel noise: of the draw, and of each sample to average over.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Unnormalized log-probabilities.

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
    sample = _one_hot_argmax(promote_half(logits) + promote_half(noise[0])).to(
        logits.dtype
    )
    scores = conditional_gumbel(noise[1:], sample, logits)
    conditional_noise = (scores - promote_half(logits)).detach()
    soft_sample = exp_concrete(conditional_noise, temperature, logits).exp().mean(0)
    return sample + _zero_with_gradient(soft_sample)


def gumbel_rao_binary(
    noise: Float[Tensor, " draws *sample"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*sample"]:
    """Return a binary sample with a straight-through gradient averaged over noise.

    Args:
        noise: Standard logistic noise: of the draw, and of each sample to average over.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Log-odds of one.

    Returns:
        Zeros and ones.

    Example:
        >>> gumbel_rao_binary(torch.tensor([1.0, 0.0]), 0.5, torch.tensor(0.0))
        tensor(1.)

    References:
        Paulus, Maddison, Krause (2021), Rao-Blackwellizing the Straight-Through
        Gumbel-Softmax Gradient Estimator, eq. 11. https://arxiv.org/abs/2010.04838
    """
    sample = (promote_half(logits) + promote_half(noise[0]) > 0).to(logits.dtype)
    scores = conditional_logistic(noise[1:], sample, logits)
    conditional_noise = (scores - promote_half(logits)).detach()
    soft_logit = logit_binary_concrete(conditional_noise, temperature, logits)
    soft_sample = soft_logit.sigmoid().mean(0)
    return sample + _zero_with_gradient(soft_sample)


def reinmax(
    noise: Float[Tensor, "*sample k"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch k"],
) -> Float[Tensor, "*sample k"]:
    r"""Return a one-hot sample with a gradient that is exact for quadratic functions.

    .. math:: 2 J\bigl((D + p_t)/2\bigr) - J(p)/2, \qquad
        J(q) = \mathrm{diag}(q) - q q^\top

    is its Jacobian at the sample D, with p = softmax(a) and p_t = softmax(a / t). This
    is Heun's rule on the line from the mean to the sample, exact at temperature 1.

    Args:
        noise: Standard Gumbel noise.
        temperature: Temperature > 0 of the midpoint; scalar, or of the batch shape.
        logits: Unnormalized log-probabilities.

    Returns:
        One-hot vectors.

    Example:
        >>> reinmax(torch.tensor([0.0, 1.0]), 1.0, torch.zeros(2))
        tensor([0., 1.])

    References:
        Liu, Dong, Liu, Yu, Gao (2023), Bridging Discrete and Backpropagation:
        Straight-Through and Beyond, alg. 2. https://arxiv.org/abs/2304.08612
    """
    scores = promote_half(logits)
    fixed_scores = scores.detach()
    sample = _one_hot_argmax(fixed_scores + promote_half(noise))
    probs = fixed_scores.softmax(-1)
    tempered_probs = (fixed_scores / with_class_dim(temperature)).softmax(-1)
    midpoint = (sample + tempered_probs).detach() / 2
    # Zero, with the gradient of the scores: the Jacobian is that of `change`.
    step = scores - fixed_scores
    at_midpoint = _softmax_jacobian_product(midpoint, step)
    at_mean = _softmax_jacobian_product(probs, step)
    change = 2 * at_midpoint - at_mean / 2
    return (sample + change).to(logits.dtype)


def reinmax_binary(
    noise: Float[Tensor, "*sample"],
    temperature: Temperature,
    logits: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*sample"]:
    """Return a binary sample with a gradient that is exact for quadratic functions.

    Args:
        noise: Standard logistic noise.
        temperature: Temperature > 0 of the midpoint; scalar, or of the batch shape.
        logits: Log-odds of one.

    Returns:
        Zeros and ones.

    Example:
        >>> reinmax_binary(torch.tensor(1.0), 1.0, torch.tensor(0.0))
        tensor(1.)

    References:
        Liu, Dong, Liu, Yu, Gao (2023), Bridging Discrete and Backpropagation:
        Straight-Through and Beyond, alg. 2. https://arxiv.org/abs/2304.08612
    """
    scores = promote_half(logits)
    fixed_scores = scores.detach()
    sample = (fixed_scores + promote_half(noise) > 0).to(fixed_scores.dtype)
    prob = fixed_scores.sigmoid()
    tempered_prob = (fixed_scores / temperature).sigmoid()
    midpoint = (sample + tempered_prob).detach() / 2
    slope = 2 * midpoint * (1 - midpoint) - prob * (1 - prob) / 2
    return (sample + slope * (scores - fixed_scores)).to(logits.dtype)


def _one_hot_argmax(scores: Tensor) -> Tensor:
    """The one-hot vector of the largest score."""
    return one_hot(scores.detach().argmax(-1), scores.shape[-1]).to(scores.dtype)


def _zero_with_gradient(x: Tensor) -> Tensor:
    """Exact zeros with the gradient of x."""
    return x - x.detach()


def _softmax_jacobian_product(probs: Tensor, step: Tensor) -> Tensor:
    """(diag(p) - p p^T) step, the Jacobian of a softmax with probabilities p."""
    return probs * (step - (probs * step).sum(-1, keepdim=True))
