"""The sites of a model as its guide keeps them, from the prototype trace.

A guide runs its model once, for a trace of its latent sites. They are continuous and
get a normal factor, relaxed and get a Concrete factor, discrete with one value and are
constant, or enumerated and left to the ELBO.

Counterpart: ``numpyro_concrete.guides.sites``.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.relaxation.finite_support import only_value
from pyro_concrete.relaxation.messages import (
    RELAX_RECORD,
    RelaxRecord,
    discrete_name,
    record_of,
)
from pyro_concrete.relaxation.site import Deterministic, SiteTemperature, is_discrete
from pyro_concrete.relaxation.wrappers import leaf_of

# Pyro declares neither the keys of relaxed sites nor the attributes of wrappers.
Message = Any  # of Pyro's handlers
Infer = Any  # of a message
WrappedDistribution = Any  # in to_event, expand and mask
Frames = Sequence[CondIndepStackFrame]


@dataclass(frozen=True)
class RelaxedSite:
    """A relaxed site of the model, and what its Concrete factor needs to know.

    Attributes:
        name: Name of the discrete site, without the suffix of the relaxed one.
        fn: Distribution of the relaxed site in the model, in its wrappers.
        point: Value of the relaxed site in the prototype trace.
        plates: Frames of the plates that the site is in.
        class_values: Values of the classes in order; None for two-valued sites, where
            they are 0 and 1, and for one-hot vectors.
        temperature: Temperature of the model's site if it is a schedule, a parameter
            or a number; None if `fn` alone has it.

    Counterpart: :class:`numpyro_concrete.guides.sites.RelaxedSite`.
    """

    name: str
    fn: TorchDistributionMixin
    point: Tensor
    plates: Frames
    class_values: Tensor | None
    temperature: SiteTemperature | None

    @classmethod
    def from_message(cls, message: Message) -> "RelaxedSite":
        """Return the relaxed site of a message in the prototype trace."""
        return cls(
            name=discrete_name(message["name"]),
            fn=message["fn"],
            point=message["value"],
            plates=message["cond_indep_stack"],
            class_values=record_of(message).values,
            temperature=record_of(message).temperature,
        )

    @functools.cached_property
    def leaf(self) -> AbstractConcrete:
        """The Concrete distribution inside of the wrappers."""
        return leaf_of(self.fn)

    @property
    def is_binary(self) -> bool:
        """Whether it has two values and one logit, instead of one logit a class."""
        return not self.leaf._class_dims

    @functools.cached_property
    def num_event_batch_dims(self) -> int:
        """Number of batch dims of the leaf that are event dims of the site."""
        return self.fn.event_dim - self.leaf._class_dims

    @property
    def values(self) -> Tensor | None:
        """Values of the classes in order; None for one-hot vectors."""
        if self.is_binary:
            return torch.arange(2).to(self.leaf.logits)
        return self.class_values

    @property
    def record(self) -> RelaxRecord:
        """What `harden` reads at the guide's site, to make it discrete."""
        return RelaxRecord(values=self.class_values)

    @property
    def infer(self) -> Infer:
        """The `infer` of the guide's site."""
        return {RELAX_RECORD: self.record}


@dataclass(frozen=True)
class ConstantSite:
    """A latent discrete site with one value, which has nothing to relax.

    Attributes:
        value: The value, with dims of size one for the plates.
        event_dim: Number of its dims that belong to one event.
        plates: Frames of the plates that the site is in.

    Counterpart: :class:`numpyro_concrete.guides.sites.ConstantSite`.
    """

    value: Tensor
    event_dim: int
    plates: Frames

    @classmethod
    def from_message(cls, message: Message) -> "ConstantSite":
        """Return the constant site of a message in the prototype trace."""
        fn = message["fn"]
        batch_shape = list(fn.batch_shape)
        for frame in message["cond_indep_stack"]:
            batch_shape[plate_dim(frame, event_dim=0)] = 1
        value = only_value(leaf_of(fn))
        assert value is not None
        return cls(
            value=value.expand((*batch_shape, *fn.event_shape)),
            event_dim=fn.event_dim,
            plates=message["cond_indep_stack"],
        )

    @property
    def fn(self) -> Deterministic:
        """The factor of the site, which plates expand."""
        return Deterministic(self.value, self.event_dim)


def is_latent(message: Message) -> bool:
    """Tell whether a message is a latent site that a guide has to sample."""
    if message["type"] != "sample" or message["is_observed"]:
        return False
    return not site_is_subsample(message) and not message["infer"].get("is_auxiliary")


def is_relaxed(message: Message) -> bool:
    """Tell whether a message is a relaxed site."""
    return isinstance(leaf_of(message["fn"]), AbstractConcrete)


def is_continuous(message: Message) -> bool:
    """Tell whether a message is a latent site with a normal factor."""
    if not is_latent(message) or is_discrete(message["fn"]):
        return False
    return not is_relaxed(message)


def is_constant(message: Message) -> bool:
    """Tell whether a latent site is discrete and has one value."""
    if not is_discrete(message["fn"]) or message["infer"].get("enumerate"):
        return False
    return only_value(leaf_of(message["fn"])) is not None


def is_subsampled(frame: CondIndepStackFrame) -> bool:
    """Tell whether a plate has fewer elements at a call than in all."""
    return frame.full_size is not None and frame.full_size != frame.size


def plate_dim(frame: CondIndepStackFrame, event_dim: int) -> int:
    """Return the dim of a plate in a tensor that has event dims as well."""
    assert frame.dim is not None  # SequentialPlateMessenger hides other plates
    return frame.dim - event_dim


def validate_discrete_sites(latent_sites: Mapping[str, Message]) -> None:
    """Raise an error at a discrete site for which a guide has no factor.

    Args:
        latent_sites: The latent sites of the model, by name.

    Raises:
        ValueError: If a site is discrete, and not relaxed, enumerated or constant.
    """
    for name, message in latent_sites.items():
        if not is_discrete(message["fn"]) or message["infer"].get("enumerate"):
            continue
        if not is_constant(message):
            raise ValueError(
                f"site {name!r} is discrete, and neither relaxed nor enumerated. "
                "Relax it, AutoConcrete(relax(model, temperature)), or mark it with "
                "infer={'enumerate': 'parallel'}"
            )


def validate_bijection(message: Message) -> None:
    """Raise an error at a site that no normal factor fits, such as a matching.

    Raises:
        NotImplementedError: If the support of the site has no bijection to the reals.
    """
    try:
        biject_to(message["fn"].support)
    except NotImplementedError:
        name = message["name"]
        family = type(leaf_of(message["fn"])).__name__
        raise NotImplementedError(
            f"site {name!r} of family {family} is neither relaxed nor continuous, so "
            "that AutoConcrete has no factor for it. Hide it, AutoConcrete(block("
            f"model, hide=[{name!r}])), and add a guide for it in an AutoGuideList"
        ) from None
