"""A guide's factors at the latent sites of a model, under the masks of the model.

A model without masks need not run for its guide to be sampled. Under masks it has to:
masks may change with the data of a call, and with the values of other sites. So the
guide then runs the model, and `FactorMessenger` replaces the distributions of its
latent sites by factors. A masked element is sampled from the model itself, as from its
prior, and scored neither in the model nor in the guide.

Counterpart: ``pyro_concrete.guides.factors``.
"""

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array, random
from jax.typing import ArrayLike
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.distributions import (
    Distribution,
    Normal,
    TransformedDistribution,
    biject_to,
    constraints,
)
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.distributions.constraints import Constraint
from numpyro.primitives import Messenger

from concrete_core.guides import Argument
from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.guides.masks import has_flat_prior
from numpyro_concrete.guides.sites import Frames, Message
from numpyro_concrete.relaxation.control_flow import wrap_bodies
from numpyro_concrete.relaxation.messages import RELAX_RECORD, record_of, relaxed_name
from numpyro_concrete.relaxation.wrappers import (
    Mask,
    element_mask,
    with_leaf,
    without_masks,
)

Carry = Any  # of a scan


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

    Counterpart: :class:`pyro_concrete.guides.factors.ConcreteFactor`.
    """

    leaf: AbstractConcrete
    temperature: ArrayLike
    logits: Array

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
        mask = jnp.asarray(mask)
        mask = mask.reshape(mask.shape + (1,) * self.leaf._class_dims)
        if mask.dtype == bool:
            logits = jnp.where(mask, self.logits, prior.logits)
        else:
            # The same where the probabilities of a soft mask are 0 and 1.
            logits = mask * self.logits + (1 - mask) * prior.logits
        return self.leaf.like(self.temperature, logits)

    @property
    def step_parameters(self) -> tuple[Array, Array]:
        """Logits and temperatures with a first axis, along which a scan goes."""
        shape = self.logits.shape[: self.logits.ndim - self.leaf._class_dims]
        return self.logits, jnp.broadcast_to(self.temperature, shape)

    def at_step(self, logits: Array, temperature: Array) -> "ConcreteFactor":
        """Return the factor of one step of a scan, from the parameters of the step."""
        return ConcreteFactor(self.leaf, temperature, logits)


@dataclass(frozen=True)
class NormalFactor:
    """The normal factor of a continuous site, in unconstrained space.

    Attributes:
        loc: Location in unconstrained space.
        scale: Scale in unconstrained space, > 0.

    Counterpart: :class:`pyro_concrete.guides.factors.NormalFactor`.
    """

    loc: Array
    scale: Array

    def distribution(self, prior: Distribution, mask: Mask = True) -> Distribution:
        """Return the factor in the place of the leaf of the model's site.

        Args:
            prior: Leaf of the model's site, from which masked elements are sampled.
            mask: Mask of its elements.
        """
        transform = biject_to(prior.support)
        normal = Normal(self.loc, self.scale).to_event(transform.domain.event_dim)
        if prior.support is constraints.real and mask is True:
            return normal
        factor = TransformedDistribution(normal, transform)
        return PriorWhereMasked(factor, prior, mask)

    @property
    def step_parameters(self) -> tuple[Array, Array]:
        """Locations and scales with a first axis, along which a scan goes."""
        return self.loc, self.scale

    def at_step(self, loc: Array, scale: Array) -> "NormalFactor":
        """Return the factor of one step of a scan, from the parameters of the step."""
        return NormalFactor(loc, scale)


Factor = ConcreteFactor | NormalFactor


class FactorMessenger(Messenger):
    """Sample the factors of a guide at the latent sites of a model, under its masks.

    Args:
        factors: The factor of each latent site, by name.
        constants: Names of the latent sites with one value, which stay unchanged.
        plates: The plates of the guide by name, whose subsamples the model takes.
        scanned: Names of the factors with an element for each step of a scan.

    Counterpart: :class:`pyro_concrete.guides.factors.FactorMessenger`.
    """

    def __init__(
        self,
        factors: Mapping[str, Factor],
        constants: Collection[str],
        plates: Mapping[str, numpyro.plate],
        scanned: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.factors = factors
        self.plates = plates
        self.scanned = scanned
        self.values: dict[str, Array] = {}
        self._guide_sites = {*factors, *constants}

    def hides(self, msg: Message) -> bool:
        """Tell whether a message is neither a parameter nor a site of the guide's."""
        if msg["type"] in ("param", "control_flow"):
            return False
        if msg["type"] != "sample":
            return True
        # A scan under `harden` sends its discrete sites after its run.
        return not {msg["name"], relaxed_name(msg["name"])} & self._guide_sites

    def process_message(self, msg: Message) -> None:
        if msg["type"] == "plate":
            if msg["name"] in self.plates:
                msg["value"] = self._subsample_rows(msg["name"])
        elif msg["type"] == "control_flow":
            self._enter_bodies(msg)
        elif msg["type"] == "sample" and msg["value"] is None:
            self._replace_prior(msg)

    def postprocess_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and msg["name"] in self._guide_sites:
            self.values[msg["name"]] = msg["value"]

    def _subsample_rows(self, plate_name: str) -> Array:
        rows = self.plates[plate_name]._indices
        # Under enumeration they are in a tensor of funsor.
        return rows if isinstance(rows, Array) else rows.data

    def _subsampling_scale(self, frames: Frames) -> float:
        """The scale by subsamples: other scales of a model do not apply to a guide."""
        plates = [self.plates[f.name] for f in frames if f.name in self.plates]
        return math.prod((p.size / p.subsample_size for p in plates), start=1.0)

    def _replace_prior(self, msg: Message) -> None:
        """Put the factor of a latent site in the place of its distribution."""
        factor = self.factors.get(msg["name"])
        if msg["is_observed"] or factor is None:
            return
        # `harden` would take the discrete distribution of the model's site.
        if RELAX_RECORD in msg["infer"]:
            record = replace(record_of(msg), discrete=None)
            msg["infer"] = {**msg["infer"], RELAX_RECORD: record}
        msg["scale"] = self._subsampling_scale(msg["cond_indep_stack"])
        mask = element_mask(msg["fn"])
        if has_flat_prior(msg["fn"], mask):
            msg["fn"] = without_masks(msg["fn"])
            mask = True
        msg["fn"] = with_leaf(msg["fn"], lambda leaf: factor.distribution(leaf, mask))

    def _enter_bodies(self, msg: Message) -> None:
        """Let the factors reach the sites inside of a scan or cond."""
        if msg["fn"] is not scan_wrapper:
            wrap_bodies(msg, lambda body: self._with_factors(body, self.factors))
            return
        body, init, xs, length, *options = msg["args"]
        if length is None:
            length = jnp.shape(jax.tree.leaves(xs)[0])[0]
        # Other scans of the model may have other lengths, and none of these sites.
        parameters = {name: self.factors[name].step_parameters for name in self.scanned}
        parameters = {n: p for n, p in parameters.items() if len(p[0]) == length}

        def step(carry: Carry, inputs: tuple[Argument, Any]) -> tuple[Carry, Any]:
            x, step_parameters = inputs
            step_factors = {
                name: self.factors[name].at_step(*values)
                for name, values in step_parameters.items()
            }
            return self._with_factors(body, step_factors)(carry, x)

        msg["args"] = (step, init, (xs, parameters), length, *options)

    def _with_factors(self, body: Callable, factors: Mapping[str, Factor]) -> Callable:
        def sample_factors(*args: Argument) -> Any:
            with FactorMessenger(factors, (), self.plates):
                return body(*args)

        return sample_factors


class PriorWhereMasked(Distribution):
    """A factor whose masked elements are sampled from the model's distribution.

    Shapes:
        factor_mask: broadcastable to `batch_shape`.

    Args:
        factor: Distribution of the elements that are not masked.
        prior: Distribution of the masked elements, of the same event shape.
        factor_mask: True at the elements of `factor`.

    Counterpart: :class:`pyro_concrete.guides.factors.PriorWhereMasked`.
    """

    pytree_data_fields = ("factor", "prior", "factor_mask")

    def __init__(
        self, factor: Distribution, prior: Distribution, factor_mask: Mask
    ) -> None:
        self.factor = factor
        self.prior = prior.expand(factor.batch_shape)
        self.factor_mask = jnp.asarray(factor_mask)
        super().__init__(factor.batch_shape, factor.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return self.factor.has_rsample and self.prior.has_rsample

    @property
    def support(self) -> Constraint | None:
        return self.prior.support

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        factor_key, prior_key = random.split(key)
        factor_sample = self.factor.sample(factor_key, sample_shape)
        prior_sample = self.prior.sample(prior_key, sample_shape)
        event_ones = (1,) * self.event_dim
        mask = self.factor_mask.reshape(self.factor_mask.shape + event_ones)
        return jnp.where(mask, factor_sample, prior_sample)

    def log_prob(self, value: Array, intermediates: Any = None) -> Array:
        del intermediates
        return jnp.asarray(self.factor.log_prob(value))


@promote_batch_shape.register
def _promote_batch_shape(d: PriorWhereMasked) -> PriorWhereMasked:
    promoted: Any = copy.copy(d)
    promoted.prior = promote_batch_shape(d.prior)
    # NumPyro does not know how to do that for transformed distributions.
    promoted.factor = copy.copy(d.factor)
    promoted.factor._batch_shape = promoted.prior.batch_shape
    promoted._batch_shape = promoted.prior.batch_shape
    return promoted
