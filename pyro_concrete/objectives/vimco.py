"""Learning signals of the multi-sample bound, for values that have no path.

Pure functions of log-weights. With them the gradient of the bound in the parameters of
a discrete guide has no bias.

Counterpart: ``numpyro_concrete.objectives.vimco``.
"""

import torch
from torch import Tensor


def vimco_signals(log_weights: Tensor) -> Tensor:
    r"""Return by how much each particle raises the multi-sample bound.

    .. math:: \log \frac1m \sum_j w_j - \log \frac1m \Bigl(\sum_{j \ne i} w_j
        + \bigl(\textstyle\prod_{j \ne i} w_j\bigr)^{1/(m-1)}\Bigr)

    The second term puts the geometric mean of the other weights in the place of the
    particle's own, and so does not depend on its value.

    Shapes:
        log_weights: (particles, ...), of at least two particles.
        result: that of `log_weights`.

    Example:
        >>> vimco_signals(torch.tensor([3.0, 1.0]).log())  # log 2, log 2/3
        tensor([ 0.6931, -0.4055])

    References:
        Mnih, Rezende (2016), Variational Inference for Monte Carlo Objectives, eq. 9
        and 10. https://arxiv.org/abs/1602.06725

    Counterpart: :func:`numpyro_concrete.objectives.vimco.vimco_signals`.
    """
    none = torch.full_like(log_weights[:1], -torch.inf)
    # Sums over the particles before and those after each. To take its own weight away
    # from the sum of all would cancel, and has no value where a weight is zero.
    before = torch.cat([none, log_weights.logcumsumexp(0)[:-1]])
    after = log_weights.flip(0).logcumsumexp(0).flip(0)[1:]
    others = torch.logaddexp(before, torch.cat([after, none]))
    zero = torch.zeros_like(none)
    before = torch.cat([zero, log_weights.cumsum(0)[:-1]])
    after = log_weights.flip(0).cumsum(0).flip(0)[1:]
    geometric_mean = before + torch.cat([after, zero])
    geometric_mean = geometric_mean / (log_weights.shape[0] - 1)
    baseline = torch.logaddexp(others, geometric_mean)
    # Any baseline is right, but for an infinite one, if all other weights are zero.
    baseline = torch.where(torch.isneginf(baseline), 0.0, baseline)
    return log_weights.logsumexp(0) - baseline
