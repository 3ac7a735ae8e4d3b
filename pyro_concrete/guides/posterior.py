"""Class probabilities and quantiles of the discrete variables of Concrete factors.

By the Gumbel-max trick, these are those of a categorical variable with the logits of
the factor, whatever its temperature.

Counterpart: ``numpyro_concrete.guides.posterior``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_concrete.guides.sites import RelaxedSite


def class_probabilities(site: RelaxedSite, logits: Tensor) -> Tensor:
    """Return the probability of each class of a site.

    Shapes:
        logits: batch shape of the site, and the classes unless it is two-valued.
        result: batch shape of the site, and the classes; two-valued sites have two.

    Args:
        site: The relaxed site.
        logits: Logits of its factor.

    Counterpart: :func:`numpyro_concrete.guides.posterior.class_probabilities`.
    """
    if site.is_binary:
        return torch.stack([-logits, logits], -1).sigmoid()
    return logits.softmax(-1)


def discrete_quantiles(
    site: RelaxedSite, logits: Tensor, levels: Sequence[float] | Tensor
) -> Tensor:
    """Return the quantiles of a site: the least value v with P(z <= v) >= level.

    Shapes:
        result: the levels, and the shape of the discrete site.

    Args:
        site: The relaxed site.
        logits: Logits of its factor.
        levels: Levels, in [0, 1].

    Counterpart: :func:`numpyro_concrete.guides.posterior.discrete_quantiles`.
    """
    probs = class_probabilities(site, logits)
    cumulative = probs.cumsum(-1).clamp(max=1.0)
    level = torch.as_tensor(levels, dtype=probs.dtype, device=probs.device)
    level = level.reshape(-1, *(1,) * cumulative.dim())
    # Without the last class, which is reached whatever rounding makes of the sum.
    class_index = (cumulative[..., :-1] < level).sum(-1)
    if site.values is None:
        return one_hot(class_index, cumulative.shape[-1]).to(cumulative)
    return site.values[class_index]
