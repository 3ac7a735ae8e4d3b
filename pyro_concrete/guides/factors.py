"""A guide's factors at the latent sites of a model, under the masks of the model.

A model without masks need not run for its guide to be sampled. Under masks it has to:
masks may change with the data of a call, and with the values of other sites. So the
guide then runs the model, and samples its own factors at the latent sites. What is
masked is sampled from the model itself and scored by neither program, as if the element
were not there.

Counterpart: ``numpyro_concrete.guides.factors``.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Normal, TransformedDistribution
from pyro.distributions.torch_distribution import (
    MaskedDistribution,
    TorchDistribution,
    TorchDistributionMixin,
)
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent, biject_to

from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.relaxation.site import is_wrapper, leaf_of, rebuilt

# A mask of the elements of a leaf: a bool for all of them, or a tensor.
Mask = Tensor | bool


class FactorMessenger(Messenger):
    """Sample the factors of a guide at the latent sites of a model, under its masks.

    Args:
        factors: For each latent site by name, what gives its factor for the leaf of the
            model's distribution and for the mask of its elements.
        constants: Names of the latent sites with one value, which are left as they are.
        plates: The plates of the guide by name, whose subsamples the model takes.

    Counterpart: :class:`numpyro_concrete.guides.factors.FactorMessenger`.
    """

    def __init__(
        self,
        factors: Mapping[str, "ConcreteFactor | NormalFactor"],
        constants: Collection[str],
        plates: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.factors = factors
        self.exposed = {*factors, *constants}
        self.plates = plates
        self.values: dict[str, Tensor] = {}

    def hides(self, msg: Any) -> bool:
        """Whether a site is none of the guide's."""
        return msg["name"] not in self.exposed

    def __enter__(self) -> Any:
        self.values = {}
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if site_is_subsample(msg):
            msg["value"] = self._rows(name, msg["value"])
            return
        if msg["is_observed"] or msg["value"] is not None or name not in self.factors:
            return
        # What `harden` has to know, and not of the model's site.
        msg["infer"].pop("_relaxed_from", None)
        msg["scale"] = self._scale(msg["cond_indep_stack"])
        mask = mask_of(msg["fn"], msg["mask"])
        factor = self.factors[name]
        if is_flat(msg["fn"], mask):
            msg["fn"] = rebuilt(without_masks(msg["fn"]), lambda x, _: factor(x, True))
            msg["mask"] = None
        else:
            msg["fn"] = rebuilt(msg["fn"], lambda leaf, _: factor(leaf, mask))

    def _rows(self, name: str, rows: Tensor | None) -> Tensor | None:
        """The rows of the guide's own plate of this name, if it has one."""
        return self.plates[name]._indices if name in self.plates else rows

    def _scale(self, frames: Any) -> float:
        """The scale by subsamples alone: others of a model are not of its guide."""
        plates = [self.plates[f.name] for f in frames if f.name in self.plates]
        return math.prod((x.size / x.subsample_size for x in plates), start=1.0)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.exposed:
            self.values[msg["name"]] = msg["value"]


class PartlyPrior(TorchDistribution):
    """A factor whose masked elements are sampled from the model's distribution.

    Shapes:
        kept: broadcastable to `batch_shape`.

    Args:
        factor: Distribution of the elements that count.
        prior: Distribution of those that are masked, of the same event shape.
        kept: True at the elements that count.

    Counterpart: :class:`numpyro_concrete.guides.factors.PartlyPrior`.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(
        self,
        factor: TorchDistributionMixin,
        prior: TorchDistributionMixin,
        kept: Mask,
    ) -> None:
        self.factor = factor
        self.prior = prior.expand(factor.batch_shape)
        self.kept = kept
        super().__init__(factor.batch_shape, factor.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return self.factor.has_rsample and self.prior.has_rsample

    @property
    def support(self) -> Any:
        return self.prior.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PartlyPrior":
        factor = self.factor.expand(batch_shape)
        return PartlyPrior(factor, self.prior.expand(batch_shape), self.kept)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        draw = "rsample" if self.has_rsample else "sample"
        own = getattr(self.factor, draw)(sample_shape)
        prior = getattr(self.prior, draw)(sample_shape)
        kept = torch.as_tensor(self.kept, device=own.device)
        return torch.where(kept.reshape(kept.shape + (1,) * self.event_dim), own, prior)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.factor.log_prob(value)


@dataclass(frozen=True)
class ConcreteFactor:
    """The factor of a relaxed site.

    Attributes:
        leaf: A distribution of the family of the site.
        temperature: Temperature, a scalar or of the batch shape of the logits.
        logits: Logits.

    Counterpart: :class:`numpyro_concrete.guides.factors.ConcreteFactor`.
    """

    leaf: AbstractConcrete
    temperature: Any
    logits: Tensor

    def __call__(self, prior: AbstractConcrete, mask: Mask) -> AbstractConcrete:
        """Return it for the leaf of the model's site and the mask of its elements."""
        if mask is True:
            return self.leaf.like(self.temperature, self.logits)
        kept = torch.as_tensor(mask, device=self.logits.device)
        kept = kept.reshape(kept.shape + (1,) * self.leaf._class_dims)
        logits = torch.where(kept, self.logits, prior.logits)
        return self.leaf.like(self.temperature, logits)


@dataclass(frozen=True)
class NormalFactor:
    """The factor of a continuous site.

    Attributes:
        loc: Location in unconstrained space.
        scale: Scale in unconstrained space.

    Counterpart: :class:`numpyro_concrete.guides.factors.NormalFactor`.
    """

    loc: Tensor
    scale: Tensor

    def __call__(
        self, prior: TorchDistributionMixin, mask: Mask
    ) -> TorchDistributionMixin:
        """Return it for the leaf of the model's site and the mask of its elements."""
        # With a cache, the density of a sample needs no inverse.
        transform = biject_to(prior.support).with_cache()
        normal = Normal(self.loc, self.scale).to_event(transform.domain.event_dim)
        own = TransformedDistribution(normal, [transform])
        return own if mask is True else PartlyPrior(own, prior, mask)


def mask_of(fn: Any, mask: Mask | None = None) -> Mask:
    """Return the mask of the elements of a leaf; True if nothing is masked.

    Args:
        fn: Distribution in its wrappers.
        mask: Mask around all of them, as of a handler.
    """
    mask = True if mask is None else mask
    while is_wrapper(fn):
        if isinstance(fn, Independent) and isinstance(mask, Tensor):
            ones = (1,) * fn.reinterpreted_batch_ndims
            mask = mask.reshape(mask.shape + ones)
        elif isinstance(fn, MaskedDistribution):
            mask = fn._mask & mask
        fn = fn.base_dist
    return mask


def without_masks(fn: Any) -> Any:
    """Return a distribution without the masks among its wrappers."""
    if isinstance(fn, MaskedDistribution):
        return without_masks(fn.base_dist)
    if isinstance(fn, Independent):
        base = without_masks(fn.base_dist)
        return base.to_event(fn.reinterpreted_batch_ndims)
    return fn


def is_flat(fn: Any, mask: Mask) -> bool:
    """Tell whether a site has a flat prior: continuous, and ``.mask(False)``."""
    return mask is False and not isinstance(leaf_of(fn), AbstractConcrete)


def is_masked(site: Mapping[str, Any]) -> bool:
    """Tell whether elements of a latent site may be left out by a mask."""
    mask = mask_of(site["fn"], site["mask"])
    return mask is not True and not is_flat(site["fn"], mask)
