"""A guide's factors at the latent sites of a model, under the masks of the model.

A model without masks need not run for its guide to be sampled. Under masks it has to:
masks may change with the data of a call, and with the values of other sites. So the
guide then runs the model, and `FactorMessenger` replaces the distributions of its
latent sites by factors. A masked element is sampled from the model itself, as from its
prior, and scored neither in the model nor in the guide.

Counterpart: ``numpyro_concrete.guides.factors``.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import pyro
import torch
from pyro.distributions import Normal, TransformedDistribution
from pyro.distributions.torch_distribution import (
    TorchDistribution,
    TorchDistributionMixin,
)
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint

from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.distributions.constraints import Size
from pyro_concrete.guides.masks import has_flat_prior
from pyro_concrete.guides.sites import Frames, Message
from pyro_concrete.internals import subsample_of
from pyro_concrete.relaxation.messages import RELAX_RECORD, record_of
from pyro_concrete.relaxation.wrappers import (
    Mask,
    element_mask,
    with_leaf,
    without_masks,
)


@dataclass(frozen=True)
class ConcreteFactor:
    r"""The Concrete factor of a relaxed site.

    A two-valued site has the logistic reparameterization: with L ~ Logistic(0, 1),
    y = (a + L) / t is Logistic with location a / t and scale 1 / t. A site of K classes
    has Gumbel noise G instead, y = (a + G) / t - logsumexp((a + G) / t).

    The noise scores the sample, so that the entropy is closed and does not depend on
    the logits: 2 - log t at a two-valued site, and with Euler's constant g and the
    digamma function psi, -log (K - 1)! - (K - 1) log t + K g + K psi(K) at others.

    Attributes:
        leaf: A distribution of the family of the site.
        temperature: Temperature t, a scalar or of the batch shape of the logits.
        logits: Logits a.

    Counterpart: :class:`numpyro_concrete.guides.factors.ConcreteFactor`.
    """

    leaf: AbstractConcrete
    temperature: Tensor | float
    logits: Tensor

    def distribution(
        self, prior: AbstractConcrete, mask: Mask = True
    ) -> AbstractConcrete:
        """Return the factor in the place of the leaf of the model's site.

        Args:
            prior: Leaf of the model's site, from which masked elements are sampled.
            mask: Mask of its elements.
        """
        if mask is True:
            return self.leaf.like(self.temperature, self.logits)
        mask = torch.as_tensor(mask, device=self.logits.device)
        mask = mask.reshape(mask.shape + (1,) * self.leaf._class_dims)
        logits = torch.where(mask, self.logits, prior.logits)
        return self.leaf.like(self.temperature, logits)


@dataclass(frozen=True)
class NormalFactor:
    """The normal factor of a continuous site, in unconstrained space.

    Attributes:
        loc: Location in unconstrained space.
        scale: Scale in unconstrained space, > 0.

    Counterpart: :class:`numpyro_concrete.guides.factors.NormalFactor`.
    """

    loc: Tensor
    scale: Tensor

    def distribution(
        self, prior: TorchDistributionMixin, mask: Mask = True
    ) -> TorchDistributionMixin:
        """Return the factor in the place of the leaf of the model's site.

        Args:
            prior: Leaf of the model's site, from which masked elements are sampled.
            mask: Mask of its elements.
        """
        # With a cache, the density of a sample needs no inverse.
        transform = biject_to(prior.support).with_cache()
        normal = Normal(self.loc, self.scale).to_event(transform.domain.event_dim)
        factor = TransformedDistribution(normal, [transform])
        if mask is True:
            return factor
        return PriorWhereMasked(factor, prior, mask)


Factor = ConcreteFactor | NormalFactor


class FactorMessenger(Messenger):
    """Sample the factors of a guide at the latent sites of a model, under its masks.

    Args:
        factors: The factor of each latent site, by name.
        constants: Names of the latent sites with one value, which stay unchanged.
        plates: The plates of the guide by name, whose subsamples the model takes.

    Counterpart: :class:`numpyro_concrete.guides.factors.FactorMessenger`.
    """

    def __init__(
        self,
        factors: Mapping[str, Factor],
        constants: Collection[str],
        plates: Mapping[str, pyro.plate],
    ) -> None:
        super().__init__()
        self.factors = factors
        self.plates = plates
        self.values: dict[str, Tensor] = {}
        self._guide_sites = {*factors, *constants}

    def hides(self, msg: Message) -> bool:
        """Tell whether a site is not one of the guide's."""
        return msg["name"] not in self._guide_sites

    def __enter__(self) -> "FactorMessenger":
        self.values = {}
        return super().__enter__()

    def _pyro_sample(self, msg: Message) -> None:
        if site_is_subsample(msg):
            if msg["name"] in self.plates:
                msg["value"] = subsample_of(self.plates[msg["name"]])
            return
        factor = self.factors.get(msg["name"])
        if factor is None or msg["is_observed"] or msg["value"] is not None:
            return
        # `harden` would take the discrete distribution of the model's site.
        if RELAX_RECORD in msg["infer"]:
            record = replace(record_of(msg), discrete=None)
            msg["infer"] = {**msg["infer"], RELAX_RECORD: record}
        msg["scale"] = self._subsampling_scale(msg["cond_indep_stack"])
        mask = element_mask(msg["fn"], msg["mask"])
        if has_flat_prior(msg["fn"], mask):
            msg["fn"] = without_masks(msg["fn"])
            msg["mask"] = None
            mask = True
        msg["fn"] = with_leaf(msg["fn"], lambda leaf: factor.distribution(leaf, mask))

    def _subsampling_scale(self, frames: Frames) -> float:
        """The scale by subsamples: other scales of a model do not apply to a guide."""
        plates = [self.plates[f.name] for f in frames if f.name in self.plates]
        return math.prod((p.size / p.subsample_size for p in plates), start=1.0)

    def _pyro_post_sample(self, msg: Message) -> None:
        if msg["name"] in self._guide_sites:
            self.values[msg["name"]] = msg["value"]


class PriorWhereMasked(TorchDistribution):
    """A factor whose masked elements are sampled from the model's distribution.

    Shapes:
        factor_mask: broadcastable to `batch_shape`.

    Args:
        factor: Distribution of the elements that are not masked.
        prior: Distribution of the masked elements, of the same event shape.
        factor_mask: True at the elements of `factor`.

    Counterpart: :class:`numpyro_concrete.guides.factors.PriorWhereMasked`.
    """

    arg_constraints: ClassVar = {}

    def __init__(
        self,
        factor: TorchDistributionMixin,
        prior: TorchDistributionMixin,
        factor_mask: Mask,
    ) -> None:
        self.factor = factor
        self.prior = prior.expand(factor.batch_shape)
        self.factor_mask = factor_mask
        super().__init__(factor.batch_shape, factor.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return self.factor.has_rsample and self.prior.has_rsample

    @property
    def support(self) -> Constraint:
        return self.prior.support

    def expand(
        self, batch_shape: Size, _instance: TorchDistribution | None = None
    ) -> "PriorWhereMasked":
        factor = self.factor.expand(batch_shape)
        prior = self.prior.expand(batch_shape)
        return PriorWhereMasked(factor, prior, self.factor_mask)

    def rsample(self, sample_shape: Size = ()) -> Tensor:
        if self.has_rsample:
            factor_sample = self.factor.rsample(sample_shape)
            prior_sample = self.prior.rsample(sample_shape)
        else:
            factor_sample = self.factor.sample(sample_shape)
            prior_sample = self.prior.sample(sample_shape)
        mask = torch.as_tensor(self.factor_mask, device=factor_sample.device)
        mask = mask.reshape(mask.shape + (1,) * self.event_dim)
        return torch.where(mask, factor_sample, prior_sample)

    def sample(self, sample_shape: Size = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.factor.log_prob(value)
