"""What the objectives read from the traces of a model and its guide.

A trace also has sites that are not random: deterministic sites and the subsamples of
plates. The objectives see the sites that have a probability. Of the guide they treat
those without reparameterized samples apart: no gradient flows through such a value, and
its log-probability has to carry the gradient as a score function.

Counterpart: ``numpyro_concrete.objectives.traces``.
"""

from typing import Any, cast

from pyro.distributions import Delta
from pyro.distributions.torch_distribution import (
    TorchDistributionMixin,
)
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from concrete_core.objectives import checks
from concrete_core.types import Message, Messages
from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.internals import is_deterministic
from pyro_concrete.relaxation.messages import RELAXED_SUFFIX
from pyro_concrete.relaxation.wrappers import leaf_of, without_masks


def all_sites(trace: Trace) -> Messages:
    """Return the sites of a trace by name, random or not."""
    return cast(Messages, trace.nodes)


def is_subsample(site: Message) -> bool:
    """Tell whether a site is the subsample of a plate."""
    return site_is_subsample(cast(Any, site))


def scored_sites(trace: Trace) -> Messages:
    """Return the sites of a trace that have a probability, by name."""
    return {
        name: site
        for name, site in all_sites(trace).items()
        if site["type"] == "sample"
        and not is_subsample(site)
        and not is_deterministic(site)
    }


def latent_values(sites: Messages) -> dict[str, Tensor]:
    """Return the values of the sites that are not observed, by name."""
    return {
        name: site["value"] for name, site in sites.items() if not site["is_observed"]
    }


def needs_score_function(site: Message) -> bool:
    """Tell whether a latent site has no reparameterized samples."""
    return not site["is_observed"] and not site["fn"].has_rsample


def unmasked_log_prob(fn: TorchDistributionMixin, value: Tensor) -> Tensor:
    """Return the log-probability that a value was drawn with, without the mask.

    A mask changes what the objective adds up, and not how likely the draw was: a score
    function needs the latter.
    """
    return without_masks(fn).log_prob(value)


def validate_same_sites(model: Messages, guide: Messages) -> None:
    """Raise an error unless the model and the guide have the same latent sites.

    Args:
        model: Scored sites of the model by name.
        guide: Scored sites of the guide by name.

    Raises:
        ValueError: If a latent site is in one of them only. The message names it.
    """
    checks.validate_matching_sites(
        model, guide, is_relaxed=_is_relaxed, relaxed_suffix=RELAXED_SUFFIX
    )


def validate_discrete_programs(model_trace: Trace, guide_trace: Trace) -> None:
    """Raise an error unless the sites match and the guide samples all of its own.

    Raises:
        ValueError: If a latent site is in one trace only. The message names it.
        NotImplementedError: If a site of the guide is marked for enumeration. The
            message names it.
    """
    guide = scored_sites(guide_trace)
    validate_same_sites(scored_sites(model_trace), guide)
    for name, site in guide.items():
        if not site["is_observed"] and site["infer"].get("enumerate"):
            raise NotImplementedError(checks.enumerated_site_message(name))


def is_fixed_by_guide(site: Message) -> bool:
    """Tell whether a site of the guide is a Delta, the same in every particle."""
    return isinstance(leaf_of(site["fn"]), Delta)


def _is_relaxed(site: Message) -> bool:
    return isinstance(leaf_of(site["fn"]), AbstractConcrete)
