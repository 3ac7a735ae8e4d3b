"""Kullback-Leibler divergences, relaxed and discrete.

KL(p || q) does not change under an invertible map, so the values below hold for
the log-space, logit-space and simplex forms of a Concrete alike.
"""

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, log_expit, log_softmax, polygamma

from .concrete import exp_concrete_log_density, logit_binary_concrete_log_density
from .quadrature import integrate_between, log_ratio_grid

# Digits by which equal nodes of a divided difference are moved apart, and kept.
_DIGITS = 30


def _divided_difference(nodes: list[mpmath.mpf]) -> mpmath.mpf:
    """Return the divided difference of w^(n-1) log w at n distinct nodes."""
    n = len(nodes)
    total = mpmath.mpf(0)
    for i, w in enumerate(nodes):
        others = [w - v for j, v in enumerate(nodes) if j != i]
        total += w ** (n - 1) * mpmath.log(w) / mpmath.fprod(others)
    return total


def exp_concrete_kl(logits_p: ArrayLike, logits_q: ArrayLike) -> NDArray:
    """Return KL(p || q) of two Concretes that share a temperature, any one.

    With w_k = beta_k / alpha_k it is sum_k -log w_k + n (F - gamma - digamma(n)),
    F the divided difference of w^(n-1) log w. Each node is moved by its own
    multiple of 1e-30, so that equal ones need no confluent formula; the digits
    that n-1 such differences cancel are carried along.

    Args:
        logits_p: Shape (..., n).
        logits_q: Shape (..., n), broadcast against `logits_p`.
    """

    def single(a: NDArray, b: NDArray) -> float:
        n = a.size
        with mpmath.workdps(_DIGITS * (n + 1)):
            shift = mpmath.mpf(10) ** -_DIGITS
            log_w = [
                mpmath.mpf(float(b[k])) - mpmath.mpf(float(a[k])) + k * shift
                for k in range(n)
            ]
            difference = _divided_difference([mpmath.exp(x) for x in log_w])
            constant = mpmath.euler + mpmath.digamma(n)
            return float(n * (difference - constant) - mpmath.fsum(log_w))

    return np.vectorize(single, signature="(n),(n)->()")(
        np.asarray(logits_p, dtype=float), np.asarray(logits_q, dtype=float)
    )


@np.vectorize
def logit_binary_concrete_unequal_kl(
    temperature_p: float, logits_p: float, temperature_q: float, logits_q: float
) -> float:
    """Return KL(p || q) of two binary Concretes by quadrature of their densities.

    The error is absolute, about 1e-14, so that a small value has few digits.
    """

    def integrand(y: float) -> float:
        log_p = logit_binary_concrete_log_density(y, temperature_p, logits_p)
        log_q = logit_binary_concrete_log_density(y, temperature_q, logits_q)
        return np.exp(log_p) * (log_p - log_q)

    # Sixty scales of p hold all of its mass; q turns at its own median.
    mean, reach = logits_p / temperature_p, 60 / temperature_p
    turn = np.clip(logits_q / temperature_q, mean - reach, mean + reach)
    return integrate_between(integrand, [mean - reach, mean, turn, mean + reach])


def logit_binary_concrete_kl(logits_p: ArrayLike, logits_q: ArrayLike) -> NDArray:
    """Return KL(p || q) of two binary Concretes that share a temperature."""
    return logit_binary_concrete_unequal_kl(1.0, logits_p, 1.0, logits_q)


def exp_concrete_kl_on_grid(
    temperature_p: float,
    logits_p: ArrayLike,
    temperature_q: float,
    logits_q: ArrayLike,
    **grid: float,
) -> float:
    """Return KL(p || q) by quadrature of the densities over log-ratios, n <= 4.

    Args:
        temperature_p: Scalar, > 0.
        logits_p: Shape (n,).
        temperature_q: Scalar, > 0.
        logits_q: Shape (n,).
        **grid: `width` and `step` of the grid.
    """
    points, volume = log_ratio_grid(temperature_p, logits_p, **grid)
    log_p = exp_concrete_log_density(points, temperature_p, logits_p)
    log_q = exp_concrete_log_density(points, temperature_q, logits_q)
    return float(np.sum(np.exp(log_p) * (log_p - log_q)) * volume)


def exp_concrete_unequal_kl(
    temperature_p: float, logits_p: ArrayLike, temperature_q: float, logits_q: ArrayLike
) -> float:
    """Return KL(p || q) at any two temperatures and any number of classes.

    With r = t_q / t_p, v_k = beta_k alpha_k^-r and E_k unit exponentials it is
    (n-1) log(t_p / t_q) - n gamma (1-r) - n digamma(n) - sum_k log v_k
    + n E log sum_k v_k E_k^r. The expectation uses log S, the integral over
    s > 0 of (exp(-s) - exp(-s S)) / s, with u = log s as its variable.

    Args:
        temperature_p: Scalar, > 0.
        logits_p: Shape (n,).
        temperature_q: Scalar, > 0.
        logits_q: Shape (n,).
    """
    logits_p, logits_q = np.asarray(logits_p), np.asarray(logits_q)
    n, r = logits_p.size, temperature_q / temperature_p
    log_v = logits_q - r * logits_p
    # The expectation over E = exp(z) is a trapezoid sum, scaled to total weight one.
    z = np.arange(-800, 96) / 16
    weight = np.exp(z - np.exp(z))
    weight /= weight.sum()

    def integrand(u: float) -> float:
        laplace = np.exp(-np.exp(u + log_v[:, None] + r * z)) @ weight
        return np.exp(-np.exp(u)) - laplace.prod()

    low, high = -40 - log_v.max(), 40 * max(1, r / n) - log_v.min()
    expected_log = integrate_between(integrand, [min(low, -40.0), 0.0, max(high, 5.0)])
    euler, psi = np.euler_gamma, float(mpmath.digamma(n))
    constant = (n - 1) * np.log(1 / r) - n * euler * (1 - r) - n * psi
    return float(constant - log_v.sum() + n * expected_log)


def exp_concrete_kl_nearby(difference: ArrayLike, ratio_less_one: float) -> float:
    """Return the leading term of the KL for logits and temperatures almost equal.

    With d = b - r a and e = t_q / t_p - 1 it is half of a quadratic form,
    ((n-1) e^2 + n E Var_w(d + e log w)) / 2 with w ~ Dirichlet(1, ..., 1). Its relative
    error is of the order |d| + |e|.

    Args:
        difference: d, of shape (n,).
        ratio_less_one: e.
    """
    d = np.asarray(difference, dtype=float)
    n = d.size

    def log_moments(weight: int, total: int) -> tuple[float, float]:
        # Mean and variance of log w_k under Dirichlets with these parameters.
        mean = float(digamma(weight) - digamma(total))
        return mean, float(polygamma(1, weight) - polygamma(1, total))

    mean, variance = log_moments(2, n + 1)
    of_squares = mean**2 + variance
    mean, variance = log_moments(3, n + 2)
    equal = 2 / (n + 1) * (mean**2 + variance)
    mean, _ = log_moments(2, n + 2)
    unequal = (n - 1) / (n + 1) * (mean**2 - float(polygamma(1, n + 2)))
    of_logs = of_squares - equal - unequal
    of_logits = np.var(d) * n / (n + 1)  # and no cross term, by symmetry
    e = ratio_less_one
    return float((n - 1) * e**2 + n * (of_logits + e**2 * of_logs)) / 2


def categorical_kl(logits_p: ArrayLike, logits_q: ArrayLike) -> NDArray:
    """Return KL(p || q) of two categoricals: sum_k p_k log(p_k / q_k)."""
    log_p = log_softmax(np.asarray(logits_p, dtype=float), axis=-1)
    log_q = log_softmax(np.asarray(logits_q, dtype=float), axis=-1)
    return np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)


def bernoulli_kl(logits_p: ArrayLike, logits_q: ArrayLike) -> NDArray:
    """Return KL(p || q) of two Bernoullis, summed over their two outcomes."""
    a, b = np.asarray(logits_p, dtype=float), np.asarray(logits_q, dtype=float)
    success = np.exp(log_expit(a)) * (log_expit(a) - log_expit(b))
    failure = np.exp(log_expit(-a)) * (log_expit(-a) - log_expit(-b))
    return success + failure
