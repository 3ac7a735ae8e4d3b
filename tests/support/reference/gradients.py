"""Derivatives: exact discrete gradients, and what biased estimators give instead.

The expectations of one-sample estimators are sums over their n outcomes, so that a
claim of bias, or of none, is checked without sampling.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, softmax

from .concrete import exp_concrete_pivot


def enumerated_expectation(logits: ArrayLike, outcomes: ArrayLike) -> NDArray:
    """Return E f_k for k ~ Categorical(logits), with `outcomes` f of shape (..., n)."""
    return np.sum(softmax(logits, axis=-1) * np.asarray(outcomes), axis=-1)


def enumerated_gradient(logits: ArrayLike, outcomes: ArrayLike) -> NDArray:
    """Return the gradient in the logits of E f_k: sum_k f_k p_k (e_k - p)."""
    probs = softmax(logits, axis=-1)
    vertices = np.eye(probs.shape[-1])
    weights = np.asarray(outcomes) * probs
    return np.sum(weights[..., None] * (vertices - probs[..., None, :]), axis=-2)


def softmax_jacobian(probs: ArrayLike, temperature: ArrayLike = 1.0) -> NDArray:
    """Return (diag x - x x^T) / t, the Jacobian in the logits of softmax(. / t).

    At a Concrete sample x of temperature t it is dx / dlogits along the path.
    """
    probs = np.asarray(probs, dtype=float)
    outer = probs[..., :, None] * probs[..., None, :]
    diagonal = probs[..., None] * np.eye(probs.shape[-1])
    return (diagonal - outer) / np.asarray(temperature, dtype=float)[..., None, None]


def straight_through_gradient(logits: ArrayLike, slopes: ArrayLike) -> NDArray:
    """Return the mean of the straight-through estimator at temperature one.

    Args:
        logits: Shape (n,).
        slopes: Shape (n, n); row k is the gradient of f at the vertex e_k.
    """
    probs = softmax(logits)
    return softmax_jacobian(probs) @ (probs @ np.asarray(slopes))


def reinmax_gradient(logits: ArrayLike, slopes: ArrayLike) -> NDArray:
    """Return the mean of ReinMax (Liu et al., 2023), the Heun rule, at t = 1.

    Outcome k contributes (2 J((p + e_k) / 2) - J(p) / 2) times the slope there, J
    the softmax Jacobian.

    Args:
        logits: Shape (n,).
        slopes: Shape (n, n); row k is the gradient of f at the vertex e_k.
    """
    probs = softmax(logits)
    midpoints = (probs + np.eye(probs.size)) / 2
    jacobians = 2 * softmax_jacobian(midpoints) - softmax_jacobian(probs) / 2
    return np.einsum("k,kij,kj->i", probs, jacobians, np.asarray(slopes))


def binary_mean_slope(logit: float, temperature: float) -> tuple[float, float, float]:
    """Return the slope of the binary Concrete's mean, to second order, and a bound.

    With S logistic and F its distribution function, E X = E F(logit - t S). By Taylor's
    formula it is p - (pi^2/6) t^2 p (1-p) (2p-1), and what is left out is at most
    t^4 E S^4 / 24 times the largest fourth derivative; here all is derived once more.

    Returns:
        The discrete slope p (1-p), the leading term of the bias, and the bound.
    """
    p = 1 / (1 + np.exp(-logit))
    slope = p * (1 - p)
    third = slope * (1 - 6 * slope)  # of F, whose fifth derivative is at most 1/4
    t2 = temperature**2
    bound = 7 * np.pi**4 / 15 / 24 * t2**2 / 4
    return slope, np.pi**2 / 6 * t2 * third, bound


def conditional_scores(
    logits: ArrayLike, exponentials: ArrayLike, chosen: int
) -> NDArray:
    """Return logits plus Gumbel noise given its argmax, from Exp(1) noise E.

    The largest is -log E_i + LSE(a), and the others -log(E_j e^-a_j + E_i e^-LSE(a)).
    """
    a, e = np.asarray(logits, dtype=float), np.asarray(exponentials, dtype=float)
    total = logsumexp(a)
    scores = -np.log(e * np.exp(-a) + e[chosen] * np.exp(-total))
    scores[chosen] = total - np.log(e[chosen])
    return scores


def concrete_log_density_hessian(
    value: ArrayLike, temperature: float, logits: ArrayLike
) -> NDArray:
    """Return the Hessian in x, all n coordinates free, of eq. 11's logarithm.

    Convexity on the simplex (Prop. 1d) concerns directions that sum to zero.
    """
    value = np.asarray(value, dtype=float)
    n, t = value.shape[-1], temperature
    pivot = exp_concrete_pivot(np.log(value), t, logits)
    slope = t * pivot / value
    diagonal = (t + 1) * (1 - n * t * pivot) / value**2
    return diagonal[..., None] * np.eye(n) + n * slope[..., None] * slope[..., None, :]


def central_difference(
    function: Callable[[NDArray], ArrayLike], point: NDArray, step: float = 1e-5
) -> NDArray:
    """Return the Jacobian at an array, its last axes those differentiated in."""
    point = np.asarray(point, dtype=float)
    shifts = step * np.eye(point.size).reshape(-1, *point.shape)
    rises = [np.subtract(function(point + h), function(point - h)) for h in shifts]
    jacobian = np.stack(rises, axis=-1) / (2 * step)
    return jacobian.reshape(jacobian.shape[:-1] + point.shape)
