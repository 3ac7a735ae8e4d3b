"""The Concrete family: samples, densities, entropies and moments.

Equation numbers are those of Maddison, Mnih, Teh (2017), arXiv:1611.00712. In the
functions with classes, temperatures broadcast against the leading axes of the value
(no class axis); in the binary ones everything broadcasts.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import expit, gammaln, log_softmax, logit, logsumexp, softmax

from .quadrature import integrate_between

# Beyond this many scales a logistic variable has no mass that float64 can see.
_LOGISTIC_TAIL = 60.0


def _with_class_axis(temperature: ArrayLike) -> NDArray:
    return np.asarray(temperature, dtype=float)[..., None]


def exp_concrete_sample(
    gumbel: ArrayLike, temperature: ArrayLike, logits: ArrayLike
) -> NDArray:
    """Map Gumbel noise to a log-space sample (eq. 10 in logs; App. C.3)."""
    perturbed = np.asarray(logits) + np.asarray(gumbel)
    scaled = perturbed / _with_class_axis(temperature)
    return scaled - logsumexp(scaled, axis=-1, keepdims=True)


def exp_concrete_log_density(
    value: ArrayLike, temperature: ArrayLike, logits: ArrayLike
) -> NDArray:
    """Return log kappa, the log-density over the log-ratios y_k - y_n (App. C.3).

    Over y_1, ..., y_{n-1} instead of the log-ratios it would integrate to E[X_n].
    """
    value, logits = np.asarray(value), np.asarray(logits)
    n = value.shape[-1]
    terms = logits - _with_class_axis(temperature) * value
    constant = gammaln(n) + (n - 1) * np.log(temperature)
    return constant + terms.sum(-1) - n * logsumexp(terms, axis=-1)


def exp_concrete_own_log_density(gumbel: ArrayLike, temperature: ArrayLike) -> NDArray:
    """Return log kappa at the sample drawn from this noise, whatever the logits.

    The terms of log kappa become -G_k plus a constant, which cancels.
    """
    gumbel = np.asarray(gumbel)
    n = gumbel.shape[-1]
    constant = gammaln(n) + (n - 1) * np.log(temperature)
    return constant - gumbel.sum(-1) - n * logsumexp(-gumbel, axis=-1)


def concrete_log_density(
    value: ArrayLike, temperature: ArrayLike, logits: ArrayLike
) -> NDArray:
    """Return the log-density over x_1, ..., x_{n-1} of the simplex (eq. 11)."""
    value, logits = np.asarray(value), np.asarray(logits)
    n = value.shape[-1]
    t = _with_class_axis(temperature)
    numerator = (logits - (t + 1) * np.log(value)).sum(-1)
    denominator = n * logsumexp(logits - t * np.log(value), axis=-1)
    return gammaln(n) + (n - 1) * np.log(temperature) + numerator - denominator


def logit_binary_concrete_sample(
    logistic: ArrayLike, temperature: ArrayLike, logits: ArrayLike
) -> NDArray:
    """Map logistic noise to a sample in logit space (App. B, Def. 2)."""
    return (np.asarray(logits) + np.asarray(logistic)) / np.asarray(temperature)


def logit_binary_concrete_log_density(
    value: ArrayLike, temperature: ArrayLike, logits: ArrayLike
) -> NDArray:
    """Return the log-density of the logit of a binary Concrete (App. C.3)."""
    s = np.asarray(logits) - np.asarray(temperature) * np.asarray(value)
    return np.log(temperature) + s - 2 * np.logaddexp(0, s)


def binary_concrete_log_density(
    value: ArrayLike, temperature: ArrayLike, logits: ArrayLike
) -> NDArray:
    """Return the log-density on the unit interval (App. B, Def. 2)."""
    t, logits = np.asarray(temperature, dtype=float), np.asarray(logits)
    log_x, log_1mx = np.log(value), np.log1p(-np.asarray(value))
    numerator = np.log(t) + logits - (t + 1) * (log_x + log_1mx)
    return numerator - 2 * np.logaddexp(logits - t * log_x, -t * log_1mx)


def binary_concrete_cdf(
    value: ArrayLike, temperature: ArrayLike, logits: ArrayLike
) -> NDArray:
    """Return P(X <= value) on the unit interval: Def. 2 solved for the noise."""
    return expit(np.asarray(temperature) * logit(value) - np.asarray(logits))


def exp_concrete_pivot(
    value: ArrayLike, temperature: ArrayLike, logits: ArrayLike
) -> NDArray:
    """Return w, proportional to alpha_k x_k^-t: Dirichlet(1, ..., 1) at samples.

    At a sample w_k is E_k / sum_i E_i with E_k = exp(-G_k), unit exponentials.
    """
    t = _with_class_axis(temperature)
    return softmax(np.asarray(logits) - t * np.asarray(value), axis=-1)


def exp_concrete_score(
    value: ArrayLike, temperature: ArrayLike, logits: ArrayLike
) -> NDArray:
    """Return the gradient in the logits of log kappa at a fixed value: 1 - n w."""
    pivot = exp_concrete_pivot(value, temperature, logits)
    return 1 - pivot.shape[-1] * pivot


def exp_concrete_entropy(temperature: ArrayLike, n: int) -> NDArray:
    """Return the entropy over log-ratios, which does not depend on the logits.

    The pivot is uniform on a simplex of volume 1 / (n-1)!. Going from it to its
    log-ratios adds -sum_k E log w_k, and each E log w_k is minus the harmonic
    number H_{n-1}; dividing n-1 coordinates by the temperature takes off
    (n-1) log t.
    """
    harmonic = sum(1 / j for j in range(1, n))
    volume = 1 / math.factorial(n - 1)
    return math.log(volume) + n * harmonic - (n - 1) * np.log(temperature)


def logit_binary_concrete_entropy(temperature: ArrayLike) -> NDArray:
    """Return the entropy in logit space, that of a scaled logistic variable."""
    return stats.logistic(scale=1 / np.asarray(temperature, dtype=float)).entropy()


def argmax_probs(logits: ArrayLike) -> NDArray:
    """Return P(X_k is the largest), at every temperature (Prop. 1b)."""
    return np.exp(log_softmax(np.asarray(logits, dtype=float), axis=-1))


def logit_binary_concrete_mean(temperature: ArrayLike, logits: ArrayLike) -> NDArray:
    """Return the mean in logit space."""
    return np.asarray(logits) / np.asarray(temperature)


def logit_binary_concrete_variance(temperature: ArrayLike) -> NDArray:
    """Return the variance in logit space."""
    return np.pi**2 / (3 * np.asarray(temperature, dtype=float) ** 2)


@np.vectorize
def binary_concrete_mean(temperature: float, logits: float) -> float:
    """Return E[X] on the unit interval, by quadrature over the logistic noise."""

    def integrand(noise: float) -> float:
        density = expit(noise) * expit(-noise)
        return density * expit((logits + noise) / temperature)

    # The sample turns from 0 to 1 at noise -logits, abruptly when t is small.
    edges = [-_LOGISTIC_TAIL, 0, np.clip(-logits, -_LOGISTIC_TAIL, _LOGISTIC_TAIL)]
    return integrate_between(integrand, [*edges, _LOGISTIC_TAIL])


@np.vectorize
def binary_concrete_mean_at_one(logits: float) -> float:
    """Return E[X] at temperature one: alpha (alpha - 1 - log alpha) / (alpha-1)^2."""
    if logits == 0:
        return 0.5
    alpha = math.exp(logits)
    return alpha * (alpha - 1 - logits) / (alpha - 1) ** 2


def log_ratio_mean(temperature: ArrayLike, logits: ArrayLike) -> NDArray:
    """Return the mean of the log-ratios y_k - y_n, k < n."""
    logits = np.asarray(logits)
    return (logits[..., :-1] - logits[..., -1:]) / _with_class_axis(temperature)


def log_ratio_covariance(temperature: ArrayLike, n: int) -> NDArray:
    """Return the covariance of the log-ratios: pi^2 / (6 t^2) (I + 11^T)."""
    scale = np.pi**2 / (6 * np.asarray(temperature, dtype=float) ** 2)
    return scale[..., None, None] * (np.eye(n - 1) + np.ones((n - 1, n - 1)))
