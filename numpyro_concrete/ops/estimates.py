r"""Hard draws that carry a gradient: vertices forwards, an estimator's Jacobian back.

Each function returns a vertex of the simplex, or a bit, exactly. Its derivative in the
logits is that of the estimator: multiplied with the slope of a function at the vertex,
it is one sample of the gradient of the function's mean. All of them are biased.

Counterpart: ``pyro_concrete.ops.estimates``.
"""

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.nn import one_hot, sigmoid, softmax, softplus
from jax.scipy.special import logsumexp
from jaxtyping import Float

from numpyro_concrete.ops.binary import logit_binary_concrete
from numpyro_concrete.ops.categorical import exp_concrete
from numpyro_concrete.ops.precision import Temperature, per_class, wide


def straight_through(
    simplex: Float[Array, "*batch k"],
) -> Float[Array, "*batch k"]:
    r"""Return the nearest vertex of a point of the simplex, with the point's gradient.

    Args:
        simplex: Points of the simplex, such as a Concrete sample.

    Returns:
        One-hot vectors.

    Example:
        >>> straight_through(jnp.array([0.2, 0.5, 0.3])).tolist()
        [0.0, 1.0, 0.0]

    References:
        Jang, Gu, Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        sec. 2.2. https://arxiv.org/abs/1611.01144
    """
    return _vertex(simplex) + _passed(simplex)


def straight_through_bit(prob: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Return the nearest bit of a probability of one, with the probability's gradient.

    Args:
        prob: Numbers in [0, 1], such as a binary Concrete sample.

    Returns:
        Zeros and ones.

    Example:
        >>> straight_through_bit(jnp.array([0.2, 0.7])).tolist()
        [0.0, 1.0]

    References:
        Jang, Gu, Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        sec. 2.2. https://arxiv.org/abs/1611.01144
    """
    return (prob > 0.5).astype(prob.dtype) + _passed(prob)


def conditional_gumbel(
    noise: Float[Array, "*sample k"],
    vertex: Float[Array, "*#batch k"],
    logits: Float[Array, "*#batch k"],
) -> Float[Array, "*out k"]:
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
        >>> vertex = jnp.array([0.0, 0.0, 1.0])
        >>> int(conditional_gumbel(jnp.zeros(3), vertex, jnp.zeros(3)).argmax())
        2

    References:
        Paulus, Maddison, Krause (2021), Rao-Blackwellizing the Straight-Through
        Gumbel-Softmax Gradient Estimator, eq. 9. https://arxiv.org/abs/2010.04838
    """
    noise, logits, chosen = wide(noise), wide(logits), stop_gradient(vertex) > 0.5
    noise, logits, chosen = jnp.broadcast_arrays(noise, logits, chosen)
    own = jnp.where(chosen, noise, 0.0).sum(-1, keepdims=True)
    top = own + logsumexp(logits, axis=-1, keepdims=True)
    return jnp.where(chosen, top, -jnp.logaddexp(-noise - logits, -top))


def conditional_logistic(
    noise: Float[Array, "*sample"],
    bit: Float[Array, "*#batch"],
    logits: Float[Array, "*#batch"],
) -> Float[Array, "*out"]:
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
        >>> bit, zero = jnp.arange(2.0), jnp.zeros(2)
        >>> score = conditional_logistic(zero, bit, jnp.ones(2))
        >>> (score > 0).tolist()
        [False, True]

    References:
        Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein (2017), REBAR, app. C.
        https://arxiv.org/abs/1703.07370
    """
    sign = 2 * wide(stop_gradient(bit)) - 1
    return sign * softplus(sign * wide(noise) + softplus(sign * wide(logits)))


def gumbel_rao(
    noise: Float[Array, " draws *sample k"],
    temperature: Temperature,
    logits: Float[Array, "*#batch k"],
) -> Float[Array, "*sample k"]:
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
        >>> noise = jnp.array([[0.0, 1.0], [0.0, 0.0]])
        >>> gumbel_rao(noise, 0.5, jnp.zeros(2)).tolist()
        [0.0, 1.0]

    References:
        Paulus, Maddison, Krause (2021), Rao-Blackwellizing the Straight-Through
        Gumbel-Softmax Gradient Estimator, eq. 11. https://arxiv.org/abs/2010.04838
    """
    vertex = _vertex(wide(logits) + wide(noise[0])).astype(logits.dtype)
    scores = conditional_gumbel(noise[1:], vertex, logits)
    given = stop_gradient(scores - wide(logits))
    soft = jnp.exp(exp_concrete(given, temperature, logits)).mean(0)
    return vertex + _passed(soft)


def gumbel_rao_bit(
    noise: Float[Array, " draws *sample"],
    temperature: Temperature,
    logits: Float[Array, "*#batch"],
) -> Float[Array, "*sample"]:
    """Return a bit with the straight-through gradient, averaged over its noise.

    Args:
        noise: Standard logistic noise: of the draw, and of each sample to average over.
        temperature: Relaxation temperature > 0; scalar, or of the batch shape.
        logits: Log-odds of one.

    Returns:
        Zeros and ones.

    Example:
        >>> float(gumbel_rao_bit(jnp.array([1.0, 0.0]), 0.5, jnp.array(0.0)))
        1.0

    References:
        Paulus, Maddison, Krause (2021), Rao-Blackwellizing the Straight-Through
        Gumbel-Softmax Gradient Estimator, eq. 11. https://arxiv.org/abs/2010.04838
    """
    bit = (wide(logits) + wide(noise[0]) > 0).astype(logits.dtype)
    scores = conditional_logistic(noise[1:], bit, logits)
    given = stop_gradient(scores - wide(logits))
    soft = sigmoid(logit_binary_concrete(given, temperature, logits)).mean(0)
    return bit + _passed(soft)


def reinmax(
    noise: Float[Array, "*sample k"],
    temperature: Temperature,
    logits: Float[Array, "*#batch k"],
) -> Float[Array, "*sample k"]:
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
        >>> reinmax(jnp.array([0.0, 1.0]), 1.0, jnp.zeros(2)).tolist()
        [0.0, 1.0]

    References:
        Liu, Dong, Liu, Yu, Gao (2023), Bridging Discrete and Backpropagation:
        Straight-Through and Beyond, alg. 2. https://arxiv.org/abs/2304.08612
    """
    scores = wide(logits)
    fixed = stop_gradient(scores)
    vertex = _vertex(fixed + wide(noise))
    middle = stop_gradient(vertex + softmax(fixed / per_class(temperature))) / 2
    step = scores - fixed
    change = 2 * _along(middle, step) - _along(softmax(fixed), step) / 2
    return (vertex + change).astype(logits.dtype)


def reinmax_bit(
    noise: Float[Array, "*sample"],
    temperature: Temperature,
    logits: Float[Array, "*#batch"],
) -> Float[Array, "*sample"]:
    """Return a bit with a gradient that is exact for quadratic functions.

    Args:
        noise: Standard logistic noise.
        temperature: Temperature > 0 of the midpoint; scalar, or of the batch shape.
        logits: Log-odds of one.

    Returns:
        Zeros and ones.

    Example:
        >>> float(reinmax_bit(jnp.array(1.0), 1.0, jnp.array(0.0)))
        1.0

    References:
        Liu, Dong, Liu, Yu, Gao (2023), Bridging Discrete and Backpropagation:
        Straight-Through and Beyond, alg. 2. https://arxiv.org/abs/2304.08612
    """
    scores = wide(logits)
    fixed = stop_gradient(scores)
    bit = (fixed + wide(noise) > 0).astype(fixed.dtype)
    middle = stop_gradient(bit + sigmoid(fixed / temperature)) / 2
    prob = sigmoid(fixed)
    slope = 2 * middle * (1 - middle) - prob * (1 - prob) / 2
    return (bit + slope * (scores - fixed)).astype(logits.dtype)


def _vertex(scores: Array) -> Array:
    """The one-hot vector of the largest score."""
    return one_hot(scores.argmax(-1), scores.shape[-1], dtype=scores.dtype)


def _passed(x: Array) -> Array:
    """Zeros, exactly, with the gradient of x."""
    return x - stop_gradient(x)


def _along(simplex: Array, step: Array) -> Array:
    """The softmax Jacobian at a point, applied to a step of the logits."""
    return simplex * (step - (simplex * step).sum(-1, keepdims=True))
