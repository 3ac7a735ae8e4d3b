"""Hard draws and their Jacobians, estimator by estimator, on injected noise.

Each oracle gives the class that is drawn and the matrix d value / d logits that the
estimator puts in the place of the true, absent one.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax

from .gradients import conditional_scores, softmax_jacobian


def vertex(scores: ArrayLike) -> NDArray:
    """Return the one-hot vector of the largest score."""
    scores = np.asarray(scores)
    return np.eye(len(scores))[scores.argmax()]


def straight_through_jacobian(
    gumbel: ArrayLike, temperature: float, logits: ArrayLike
) -> NDArray:
    """Return the Jacobian of the Concrete point with this noise (Jang et al.)."""
    point = softmax((np.asarray(logits) + gumbel) / temperature)
    return softmax_jacobian(point, temperature)


def conditional_gumbel(noise: ArrayLike, chosen: int, logits: ArrayLike) -> NDArray:
    """Return a + G given its argmax (Paulus et al., eq. 9), from Gumbel noise."""
    return conditional_scores(logits, np.exp(-np.asarray(noise)), chosen)


def conditional_logistic(noise: float, bit: int, logit: float) -> float:
    """Return a + L given its sign, by the inverse of its truncated distribution."""
    uniform, below = expit(noise), expit(-logit)
    uniform = below + uniform * (1 - below) if bit else uniform * below
    return logit + np.log(uniform) - np.log1p(-uniform)


def gumbel_rao_jacobian(
    noise: ArrayLike, temperature: float, logits: ArrayLike
) -> NDArray:
    """Return the mean Jacobian over points of the conditional (Paulus et al., eq. 11).

    Args:
        noise: Gumbel noise, of the draw and of each point: (1 + points, n).
    """
    noise, logits = np.asarray(noise), np.asarray(logits)
    chosen = int((logits + noise[0]).argmax())
    scores = [conditional_gumbel(row, chosen, logits) for row in noise[1:]]
    points = [softmax(row / temperature) for row in scores]
    return np.mean([softmax_jacobian(x, temperature) for x in points], 0)


def reinmax_jacobian(chosen: int, temperature: float, logits: ArrayLike) -> NDArray:
    """Return 2 J((e + p_t) / 2) - J(p) / 2 (Liu et al., alg. 2)."""
    logits = np.asarray(logits)
    middle = (np.eye(len(logits))[chosen] + softmax(logits / temperature)) / 2
    return 2 * softmax_jacobian(middle) - softmax_jacobian(softmax(logits)) / 2


def zgr_jacobian(chosen: int, logits: ArrayLike) -> NDArray:
    """Return the mean of straight-through's and DARN's Jacobians (Shekhovtsov, 2023).

    Straight-through at the mean passes J(p); DARN takes the slope times the way from
    the mean to the draw as the reward of a score function.
    """
    probs = softmax(np.asarray(logits))
    score = np.eye(len(probs))[chosen] - probs
    return (softmax_jacobian(probs) + np.outer(score, score)) / 2


def two_classes(logit: float) -> NDArray:
    """Return the logits of two classes of which the second has these log-odds."""
    return np.array([0.0, logit])


def of_bit(jacobian: NDArray) -> float:
    """Return the derivative of a bit in its log-odds, from that of two classes."""
    return jacobian[1, 1]
