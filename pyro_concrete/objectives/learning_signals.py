r"""Learning signals: what multiplies the score function of each particle.

The score-function gradient of a particle's draw z is a signal times
:math:`\nabla \log q(z)`. A baseline that does not depend on the draw may be subtracted
from the signal, as the score function has mean zero. Both signals here take their
baseline from the other particles.

Counterpart: ``numpyro_concrete.objectives.learning_signals``.
"""

import torch
from torch import Tensor


def leave_one_out_signals(elbos: Tensor, particle_axis: int) -> Tensor:
    r"""Return each particle's ELBO minus the mean over the other particles.

    .. math:: f_k - \frac{1}{K-1} \sum_{j \ne k} f_j
        = \frac{K}{K-1} \Bigl(f_k - \frac1K \sum_j f_j\Bigr)

    The right side needs only one mean over all particles.

    Shapes:
        elbos: any, with at least two particles.
        result: that of `elbos`.

    Args:
        elbos: ELBO of each particle, or of each element of a plate.
        particle_axis: Dim of the particles.

    Example:
        >>> leave_one_out_signals(torch.tensor([1.0, 2.0, 6.0]), 0)
        tensor([-3.0000, -1.5000,  4.5000])

    References:
        Kool, van Hoof, Welling (2019), Buy 4 REINFORCE Samples, Get a Baseline for
        Free!, eq. 8. https://openreview.net/forum?id=r1lgTGL5DE

    Counterpart:
    :func:`numpyro_concrete.objectives.learning_signals.leave_one_out_signals`.
    """
    num_particles = elbos.shape[particle_axis]
    centered = elbos - elbos.mean(particle_axis, keepdim=True)
    return centered * (num_particles / (num_particles - 1))


def vimco_signals(log_weights: Tensor) -> Tensor:
    r"""Return by how much each particle raises the multi-sample bound.

    .. math:: \log \frac1m \sum_j w_j - \log \frac1m \Bigl(\sum_{j \ne i} w_j
        + \bigl(\textstyle\prod_{j \ne i} w_j\bigr)^{1/(m-1)}\Bigr)

    The second term, the baseline, has the geometric mean of the other weights in place
    of the particle's own weight, and so does not depend on the particle's draw.

    Shapes:
        log_weights: (particles, ...), of at least two particles.
        result: that of `log_weights`.

    Args:
        log_weights: Log-weights; -inf for a weight of zero.

    Example:
        >>> vimco_signals(torch.tensor([3.0, 1.0]).log())  # log 2, log 2/3
        tensor([ 0.6931, -0.4055])

    References:
        Mnih, Rezende (2016), Variational Inference for Monte Carlo Objectives, eq. 9
        and 10. https://arxiv.org/abs/1602.06725

    Counterpart: :func:`numpyro_concrete.objectives.learning_signals.vimco_signals`.
    """
    num_particles = log_weights.shape[0]
    # Both sums over j != i are put together from the particles before i and those after
    # it. Subtracting w_i from the sum over all would cancel, and is -inf - (-inf) where
    # a weight is zero.
    no_weight = torch.full_like(log_weights[:1], -torch.inf)
    log_sum_before = torch.cat([no_weight, log_weights.logcumsumexp(0)[:-1]])
    log_sum_after = torch.cat(
        [log_weights.flip(0).logcumsumexp(0).flip(0)[1:], no_weight]
    )
    log_sum_of_others = torch.logaddexp(log_sum_before, log_sum_after)
    no_sum = torch.zeros_like(no_weight)
    sum_before = torch.cat([no_sum, log_weights.cumsum(0)[:-1]])
    sum_after = torch.cat([log_weights.flip(0).cumsum(0).flip(0)[1:], no_sum])
    log_geometric_mean = (sum_before + sum_after) / (num_particles - 1)
    baseline = torch.logaddexp(log_sum_of_others, log_geometric_mean)
    # It is -inf if all other weights are zero. Any finite baseline is unbiased.
    baseline = torch.where(torch.isneginf(baseline), 0.0, baseline)
    return log_weights.logsumexp(0) - baseline
