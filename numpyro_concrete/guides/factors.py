"""A guide's factors at the latent sites of a model, under the masks of the model.

A model without masks need not run for its guide to be sampled. Under masks it has to:
masks may change with the data of a call, and with the values of other sites. So the
guide then runs the model, and samples its own factors at the latent sites. What is
masked is sampled from the model itself and scored by neither program, as if the element
were not there.

Counterpart: ``pyro_concrete.guides.factors``.
"""

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, random
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.distributions import (
    Distribution,
    Independent,
    MaskedDistribution,
    Normal,
    TransformedDistribution,
    biject_to,
    constraints,
)
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.primitives import Messenger

from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.relaxation.control_flow import wrap_bodies
from numpyro_concrete.relaxation.site import SUFFIX, is_wrapper, leaf_of, rebuilt
from numpyro_concrete.soft_index.parameters import SoftlyMasked

# A mask of the elements of a leaf: True for all of them, or an array. A soft mask is an
# array of probabilities.
Mask = Array | bool


class FactorMessenger(Messenger):
    """Sample the factors of a guide at the latent sites of a model, under its masks.

    Args:
        factors: For each latent site by name, what gives its factor for the leaf of the
            model's distribution and for the mask of its elements.
        constants: Names of the latent sites with one value, which are left as they are.
        plates: The plates of the guide by name, whose subsamples the model takes.
        steps: Names of the factors that have one for each step of a scan.

    Counterpart: :class:`pyro_concrete.guides.factors.FactorMessenger`.
    """

    def __init__(
        self,
        factors: Mapping[str, "ConcreteFactor | NormalFactor"],
        constants: Collection[str],
        plates: Mapping[str, Any],
        steps: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.factors = factors
        self.exposed = {*factors, *constants}
        self.plates = plates
        self.steps = steps
        self.values: dict[str, Array] = {}

    def hides(self, msg: dict[str, Any]) -> bool:
        """Whether a message is none of the guide's."""
        if msg["type"] in ("param", "control_flow"):
            return False
        if msg["type"] != "sample":
            return True
        # A scan under `harden` sends its discrete sites after its run.
        return not {msg["name"], msg["name"] + SUFFIX} & self.exposed

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "plate":
            msg["value"] = self._rows(msg["name"], msg["value"])
        elif msg["type"] == "control_flow":
            self._enter(msg)
        elif msg["type"] == "sample" and msg["value"] is None:
            self._replace(msg)

    def _rows(self, name: str, rows: Array | None) -> Array | None:
        """The rows of the guide's own plate of this name, if it has one."""
        if name not in self.plates:
            return rows
        indices = self.plates[name]._indices
        # Under enumeration they are in a tensor of funsor.
        return indices if isinstance(indices, Array) else indices.data

    def _scale(self, frames: Any) -> float:
        """The scale by subsamples alone: others of a model are not of its guide."""
        plates = [self.plates[f.name] for f in frames if f.name in self.plates]
        return math.prod((x.size / x.subsample_size for x in plates), start=1.0)

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.exposed:
            self.values[msg["name"]] = msg["value"]

    def _replace(self, msg: dict[str, Any]) -> None:
        factor = self.factors.get(msg["name"])
        if msg["is_observed"] or factor is None:
            return
        # What `harden` has to know, and not of the model's site.
        infer = msg["infer"]
        msg["infer"] = {k: v for k, v in infer.items() if k != "_relaxed_from"}
        msg["scale"] = self._scale(msg["cond_indep_stack"])
        mask = mask_of(msg["fn"])
        if is_flat(msg["fn"], mask):
            msg["fn"] = rebuilt(without_masks(msg["fn"]), lambda x, _: factor(x, True))
        else:
            msg["fn"] = rebuilt(msg["fn"], lambda leaf, _: factor(leaf, mask))

    def _enter(self, msg: dict[str, Any]) -> None:
        """Let the factors reach the sites inside of a scan or cond."""
        if msg["fn"] is not scan_wrapper:
            wrap_bodies(msg, self._around)
            return
        body, init, xs, length, *rest = msg["args"]
        if length is None:
            length = jnp.shape(jax.tree.leaves(xs)[0])[0]
        stacked = {name: self.factors[name].parameters for name in self.steps}
        of_steps = {k: x for k, x in stacked.items() if len(x[0]) == length}

        def step(carry: Any, x: Any) -> Any:
            x, parameters = x
            now = {k: self.factors[k].at(*p) for k, p in parameters.items()}
            return self._around(body, now)(carry, x)

        msg["args"] = (step, init, (xs, of_steps), length, *rest)

    def _around(self, body: Callable, factors: Any = None) -> Callable:
        def sampled(*args: Any) -> Any:
            now = self.factors if factors is None else factors
            with FactorMessenger(now, (), self.plates):
                return body(*args)

        return sampled


class PartlyPrior(Distribution):
    """A factor whose masked elements are sampled from the model's distribution.

    Shapes:
        kept: broadcastable to `batch_shape`.

    Args:
        factor: Distribution of the elements that count.
        prior: Distribution of those that are masked, of the same event shape.
        kept: True at the elements that count.

    Counterpart: :class:`pyro_concrete.guides.factors.PartlyPrior`.
    """

    pytree_data_fields = ("factor", "prior", "kept")

    def __init__(self, factor: Distribution, prior: Distribution, kept: Mask) -> None:
        self.factor = factor
        self.prior = prior.expand(factor.batch_shape)
        self.kept = jnp.asarray(kept)
        shapes = factor.batch_shape, factor.event_shape
        super().__init__(*shapes, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return self.factor.has_rsample and self.prior.has_rsample

    @property
    def support(self) -> Any:
        return self.prior.support

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        keys = random.split(key)
        own = self.factor.sample(keys[0], sample_shape)
        prior = self.prior.sample(keys[1], sample_shape)
        kept = self.kept.reshape(self.kept.shape + (1,) * self.event_dim)
        return jnp.where(kept, own, prior)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        del intermediates
        return jnp.asarray(self.factor.log_prob(value))


@promote_batch_shape.register
def _promote_partly_prior(d: PartlyPrior) -> PartlyPrior:
    new: Any = copy.copy(d)
    new.prior = promote_batch_shape(d.prior)
    # NumPyro does not know that of transformed distributions.
    new.factor = copy.copy(d.factor)
    new._batch_shape = new.factor._batch_shape = new.prior.batch_shape
    return new


@dataclass(frozen=True)
class ConcreteFactor:
    """The factor of a relaxed site.

    Attributes:
        leaf: A distribution of the family of the site.
        temperature: Temperature, a scalar or of the batch shape of the logits.
        logits: Logits.

    Counterpart: :class:`pyro_concrete.guides.factors.ConcreteFactor`.
    """

    leaf: AbstractConcrete
    temperature: Any
    logits: Array

    def __call__(self, prior: AbstractConcrete, mask: Mask) -> AbstractConcrete:
        """Return it for the leaf of the model's site and the mask of its elements."""
        if mask is True:
            return self.leaf.like(self.temperature, self.logits)
        kept = jnp.asarray(mask)
        kept = kept.reshape(kept.shape + (1,) * self.leaf._class_dims)
        if kept.dtype == bool:
            logits = jnp.where(kept, self.logits, prior.logits)
        else:
            # At the corners of a soft mask this is the same.
            logits = kept * self.logits + (1 - kept) * prior.logits
        return self.leaf.like(self.temperature, logits)

    @property
    def parameters(self) -> tuple[Array, ...]:
        """Arrays of the batch shape, of which a scan takes one at each step."""
        shape = self.logits.shape[: self.logits.ndim - self.leaf._class_dims]
        return self.logits, jnp.broadcast_to(self.temperature, shape)

    def at(self, logits: Array, temperature: Array) -> "ConcreteFactor":
        """Return the factor of one step."""
        return ConcreteFactor(self.leaf, temperature, logits)


@dataclass(frozen=True)
class NormalFactor:
    """The factor of a continuous site.

    Attributes:
        loc: Location in unconstrained space.
        scale: Scale in unconstrained space.

    Counterpart: :class:`pyro_concrete.guides.factors.NormalFactor`.
    """

    loc: Array
    scale: Array

    def __call__(self, prior: Distribution, mask: Mask) -> Distribution:
        """Return it for the leaf of the model's site and the mask of its elements."""
        transform = biject_to(prior.support)
        own = Normal(self.loc, self.scale).to_event(transform.domain.event_dim)
        if prior.support is constraints.real and mask is True:
            return own
        return PartlyPrior(TransformedDistribution(own, transform), prior, mask)

    @property
    def parameters(self) -> tuple[Array, ...]:
        """Arrays of the batch shape, of which a scan takes one at each step."""
        return self.loc, self.scale

    def at(self, loc: Array, scale: Array) -> "NormalFactor":
        """Return the factor of one step."""
        return NormalFactor(loc, scale)


def mask_of(fn: Any) -> Mask:
    """Return the mask of the elements of a leaf; True if nothing is masked.

    Args:
        fn: Distribution in its wrappers.
    """
    mask: Any = True
    while is_wrapper(fn):
        if isinstance(fn, Independent) and not isinstance(mask, bool):
            mask = mask.reshape(mask.shape + (1,) * fn.reinterpreted_batch_ndims)
        elif isinstance(fn, MaskedDistribution):
            mask = _both(mask, fn._mask)
        elif isinstance(fn, SoftlyMasked):
            mask = _both(mask, fn.share)
        fn = fn.base_dist
    return mask


def _both(one: Mask, other: Mask) -> Mask:
    """One mask and another, where soft masks are probabilities."""
    if isinstance(one, bool):
        return other if one else False
    if isinstance(other, bool):
        return one if other else False
    return jnp.asarray(one) * jnp.asarray(other)


def without_masks(fn: Any) -> Any:
    """Return a distribution without the masks among its wrappers."""
    if isinstance(fn, MaskedDistribution | SoftlyMasked):
        return without_masks(fn.base_dist)
    if isinstance(fn, Independent):
        base = without_masks(fn.base_dist)
        return base.to_event(fn.reinterpreted_batch_ndims)
    return fn


def is_flat(fn: Any, mask: Mask) -> bool:
    """Tell whether a site has a flat prior: continuous, and ``.mask(False)``."""
    return mask is False and not isinstance(leaf_of(fn), AbstractConcrete)


def is_masked(site: dict[str, Any]) -> bool:
    """Tell whether elements of a latent site may be left out by a mask."""
    mask = mask_of(site["fn"])
    return mask is not True and not is_flat(site["fn"], mask)
