"""Learning signals of the multi-sample bound, for values that have no path.

Pure functions of log-weights. With them the gradient of the bound in the parameters of
a discrete guide has no bias.

Counterpart: ``pyro_concrete.objectives.vimco``.
"""

import jax.numpy as jnp
from jax import Array, lax
from jax.nn import logsumexp


def vimco_signals(log_weights: Array) -> Array:
    r"""Return by how much each particle raises the multi-sample bound.

    .. math:: \log \frac1m \sum_j w_j - \log \frac1m \Bigl(\sum_{j \ne i} w_j
        + \bigl(\textstyle\prod_{j \ne i} w_j\bigr)^{1/(m-1)}\Bigr)

    The second term puts the geometric mean of the other weights in the place of the
    particle's own, and so does not depend on its value.

    Shapes:
        log_weights: (particles, ...), of at least two particles.
        result: that of `log_weights`.

    Example:
        >>> vimco_signals(jnp.log(jnp.array([3.0, 1.0]))).round(4)  # log 2, log 2/3
        Array([ 0.6931, -0.4055], dtype=float...)

    References:
        Mnih, Rezende (2016), Variational Inference for Monte Carlo Objectives, eq. 9
        and 10. https://arxiv.org/abs/1602.06725

    Counterpart: :func:`pyro_concrete.objectives.vimco.vimco_signals`.
    """
    none = jnp.full_like(log_weights[:1], -jnp.inf)
    # Sums over the particles before and those after each. To take its own weight away
    # from the sum of all would cancel, and has no value where a weight is zero.
    before = jnp.concatenate([none, lax.cumlogsumexp(log_weights, 0)[:-1]])
    after = lax.cumlogsumexp(log_weights, 0, reverse=True)[1:]
    others = jnp.logaddexp(before, jnp.concatenate([after, none]))
    zero = jnp.zeros_like(none)
    before = jnp.concatenate([zero, log_weights.cumsum(0)[:-1]])
    after = lax.cumsum(log_weights, 0, reverse=True)[1:]
    geometric_mean = before + jnp.concatenate([after, zero])
    geometric_mean = geometric_mean / (log_weights.shape[0] - 1)
    baseline = jnp.logaddexp(others, geometric_mean)
    # Any baseline is right, but for an infinite one, if all other weights are zero.
    baseline = jnp.where(jnp.isneginf(baseline), 0.0, baseline)
    return logsumexp(log_weights, 0) - baseline
