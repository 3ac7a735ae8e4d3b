"""The sites of a model as its guide keeps them, from the prototype trace.

A guide runs its model once, for a trace of its latent sites. They are continuous and
get a normal factor, relaxed and get a Concrete factor, discrete with one value and are
constant, or enumerated and left to the ELBO.

Counterpart: ``pyro_concrete.guides.sites``.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import Delta, Distribution
from numpyro.primitives import CondIndepStackFrame

from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.relaxation.messages import (
    RELAX_RECORD,
    RelaxRecord,
    discrete_name,
    record_of,
)
from numpyro_concrete.relaxation.wrappers import leaf_of

Message = dict[str, Any]  # of NumPyro's handlers
Infer = dict[str, Any]  # of a message
WrappedDistribution = Any  # in to_event, expand and mask: NumPyro declares no base_dist
Frames = Sequence[CondIndepStackFrame]
SiteTemperature = ArrayLike | Callable

# Our mark of relaxed sites whose value is fixed while NumPyro searches for valid
# initial values: they look observed to it, and are latent.
FIXED = "_fixed_in_initialization"
# NumPyro's mark of sites that a scan has stacked.
_SCAN_INDEX = "_scan_current_index"


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
        temperature: Temperature of the model's site if it is a schedule or a number;
            None if `fn` alone has it.
        is_scanned: Whether the site has an element for each step of a scan.

    Counterpart: :class:`pyro_concrete.guides.sites.RelaxedSite`.
    """

    name: str
    fn: Distribution
    point: Array
    plates: Frames
    class_values: tuple[int | float, ...] | None
    temperature: SiteTemperature | None
    is_scanned: bool

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
            is_scanned=is_scanned(message),
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
        """Number of batch axes of the leaf that are event axes of the site."""
        return self.fn.event_dim - self.leaf._class_dims

    @property
    def values(self) -> Array | None:
        """Values of the classes in order; None for one-hot vectors."""
        if self.is_binary:
            return jnp.arange(2)
        if self.class_values is None:
            return None
        return jnp.asarray(np.array(self.class_values))

    @property
    def record(self) -> RelaxRecord:
        """What `harden` reads at the guide's site, to make it discrete."""
        return RelaxRecord(values=self.class_values)

    @property
    def infer(self) -> Infer:
        """The `infer` of the guide's site."""
        return {RELAX_RECORD: self.record}

    def point_at(self, value: Array) -> Array:
        """Return the point of the relaxed site that stands for a discrete value."""
        if not self.is_binary and self.class_values is not None:
            value = value[..., None] == np.array(self.class_values)
        return self.leaf.vertex(value)


@dataclass(frozen=True)
class ConstantSite:
    """A latent discrete site with one value, which has nothing to relax.

    Attributes:
        value: The value, with axes of size one for the plates.
        event_dim: Number of its axes that belong to one event.
        plates: Frames of the plates that the site is in.

    Counterpart: :class:`pyro_concrete.guides.sites.ConstantSite`.
    """

    value: np.ndarray
    event_dim: int
    plates: Frames

    @classmethod
    def from_message(cls, message: Message, value: np.ndarray) -> "ConstantSite":
        """Return the constant site of a message in the prototype trace."""
        fn = message["fn"]
        batch_shape = list(fn.batch_shape)
        for frame in message["cond_indep_stack"]:
            batch_shape[frame.dim] = 1
        return cls(
            value=np.broadcast_to(value, (*batch_shape, *fn.event_shape)),
            event_dim=fn.event_dim,
            plates=tuple(message["cond_indep_stack"]),
        )

    @property
    def fn(self) -> Delta:
        """The factor of the site, which plates expand."""
        return Delta(jnp.asarray(self.value), event_dim=self.event_dim)


def is_latent(message: Message) -> bool:
    """Tell whether a message is a latent site that a guide has to sample."""
    if message["type"] != "sample":
        return False
    return not message["is_observed"] or FIXED in message["infer"]


def is_relaxed(message: Message) -> bool:
    """Tell whether a message is a relaxed site."""
    return is_latent(message) and isinstance(leaf_of(message["fn"]), AbstractConcrete)


def is_continuous(message: Message) -> bool:
    """Tell whether a message is a latent site with a normal factor."""
    return is_latent(message) and not is_relaxed(message)


def is_scanned(message: Message) -> bool:
    """Tell whether a site has an element for each step of a scan."""
    return _SCAN_INDEX in message["infer"]
