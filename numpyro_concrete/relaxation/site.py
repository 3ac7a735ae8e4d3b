"""One relaxed site: its distributions, and the value that its statement returns.

A `Site` is made of the distribution of a discrete site and of `SiteSettings`. It has
the two distributions that the handlers sample from: `Site.relaxed` in a relaxed
program, and `Site.discrete` in a hardened one. `Site.value` turns a sample of the first
into what the program receives. Distributions come in wrappers, such as `to_event`; the
leaf is the distribution inside of its wrappers (see `wrappers`).

Counterpart: ``pyro_concrete.relaxation.site``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import one_hot
from jax.typing import ArrayLike
from numpyro.distributions import Distribution, RelaxedBernoulliLogits
from numpyro.distributions.discrete import (
    BernoulliLogits,
    BernoulliProbs,
    CategoricalLogits,
)

from numpyro_concrete import ops
from numpyro_concrete.distributions import (
    AbstractConcrete,
    OneHotCategorical,
    check_temperature,
)
from numpyro_concrete.estimators import AbstractEstimator, Relaxed, select_families
from numpyro_concrete.relaxation.finite_support import FiniteSupport, support_of
from numpyro_concrete.relaxation.messages import (
    RELAX_RECORD,
    AnyDistribution,
    RelaxRecord,
)
from numpyro_concrete.relaxation.wrappers import align_with_leaf, leaf_of, with_leaf
from numpyro_concrete.schedules import (
    ResolvedSchedule,
    current_temperature,
    is_schedule,
)
from numpyro_concrete.soft_index import SoftIndex, soft_index

SiteTemperature = ArrayLike | Callable
SiteTruncate = int | float


@dataclass(frozen=True)
class BackendRelaxation:
    """What a relaxed distribution of NumPyro's own stands for.

    The program itself samples NumPyro's `RelaxedBernoulli`, and so expects floats.

    Attributes:
        discrete: The distribution that it relaxes.
        temperature: Its temperature.
        estimator: The estimator of its class, or None: that of `relax`.
    """

    discrete: Distribution
    temperature: ArrayLike
    estimator: AbstractEstimator | None


def backend_relaxation_of(leaf: AnyDistribution) -> BackendRelaxation | None:
    """Return what a relaxed distribution of NumPyro's own stands for, or None."""
    if not is_backend_relaxation(type(leaf)):
        return None
    logits = jnp.broadcast_to(leaf.logits, leaf.batch_shape)
    return BackendRelaxation(
        discrete=BernoulliLogits(logits), temperature=leaf.temperature, estimator=None
    )


def is_backend_relaxation(family: type) -> bool:
    """Tell whether a class of distributions is a relaxation of NumPyro's own."""
    return issubclass(family, RelaxedBernoulliLogits)


@dataclass(frozen=True)
class SiteSettings:
    """How to relax one site.

    Attributes:
        temperature: Temperature or schedule; None for that of a `BackendRelaxation`.
        truncate: Truncation of an unbounded support, as for `relax`.
        estimator: Estimator of the site; None for `Relaxed`.
        scoring: What scores it, as for `relax`; None for that of the estimator.
    """

    temperature: SiteTemperature | None
    truncate: SiteTruncate | None = None
    estimator: AbstractEstimator | None = None
    scoring: str | None = None


class Site:
    """How one site is relaxed: its distributions, and what the program receives.

    Args:
        name: Name of the site.
        fn: Its distribution, in its wrappers.
        settings: How to relax it.

    Attributes:
        estimator: Estimator of the site.
        families: Distributions that sample and score it.
        native: What a relaxed distribution of the backend's own stands for, or None.
        is_binary: Whether it has two values and one logit.
        is_one_hot: Whether its values are one-hot vectors.
        values: Values of the support, in the order of the classes.
        logits: Log-probabilities of the values, the classes last; of a binary site the
            log-odds.
        is_constant: Whether there is only one value, so that there is nothing to relax.
        truncated_mass: Truncated probability, or None without a truncation.
        discrete: The discrete distribution, truncated, in the wrappers.
        relaxed: The relaxed distribution in the wrappers; None for a constant.
        infer: What the relaxed site carries in `infer`.
    """

    def __init__(self, name: str, fn: AnyDistribution, settings: SiteSettings) -> None:
        self.name = name
        self.estimator = settings.estimator or Relaxed()
        self.families = select_families(self.estimator, settings.scoring)
        self.native = native = backend_relaxation_of(leaf_of(fn))
        if native is not None:
            fn = with_leaf(fn, lambda _: native.discrete)
        leaf_temperature = self._leaf_temperature(fn, settings.temperature)
        leaf = leaf_of(fn)
        self.is_binary = isinstance(leaf, BernoulliProbs | BernoulliLogits)
        self.is_one_hot = isinstance(leaf, OneHotCategorical)
        self.truncated_mass: Array | None = None
        if self.is_binary:
            self.logits = _bernoulli_logits(leaf)
            self.values = np.arange(2)
        else:
            support = support_of(name, leaf, settings.truncate)
            self.logits = support.logits
            self.values = support.values
            self.truncated_mass = support.truncated_mass
        self.is_constant = len(self.values) < 2
        self.discrete = fn
        if self.truncated_mass is not None:
            self.discrete = with_leaf(
                fn, lambda _: FiniteSupport(self.values, self.logits)
            )
        self.relaxed: AnyDistribution = None
        if not self.is_constant:
            self.relaxed = with_leaf(fn, lambda _: self._concrete(leaf_temperature))
        record = RelaxRecord(
            discrete=self.discrete,
            values=None if self.is_one_hot else tuple(self.values.tolist()),
            temperature=_temperature_for_guides(settings.temperature),
        )
        self.infer = {RELAX_RECORD: record}

    def value(self, sample: Array) -> Array | SoftIndex:
        """Return what the program receives for a sample of the relaxed site."""
        simplex = self.estimator.model_value(leaf_of(self.relaxed).to_simplex(sample))
        simplex = simplex.astype(jnp.result_type(self.logits))
        if self.is_one_hot:
            return simplex
        if self.native is not None:
            return simplex[..., 1]
        # The classes come first in `soft_index`.
        return soft_index(self.name, self.values, jnp.moveaxis(simplex, -1, 0))

    def discrete_value(self, sample: Array) -> Array:
        """Return the value of the discrete site at a sample of the relaxed one."""
        return discrete_value(leaf_of(self.relaxed), self.infer[RELAX_RECORD], sample)

    def _leaf_temperature(
        self, fn: AnyDistribution, temperature: SiteTemperature | None
    ) -> ArrayLike:
        """The temperature at this step, which broadcasts with the leaf."""
        if temperature is None and self.native is not None:
            # Of the batch shape of the leaf, not of the site.
            check_temperature(self.native.temperature, self.name)
            return self.native.temperature
        current = current_temperature(temperature)
        check_temperature(current, self.name)
        return align_with_leaf(fn, current)

    def _concrete(self, temperature: ArrayLike) -> AbstractConcrete:
        # Gradients in log space do not fit half precision.
        logits = ops.promote_half(self.logits)
        # An impossible value keeps a finite logit, so that the density is finite.
        bound = -math.log(jnp.finfo(logits.dtype).tiny)
        logits = jnp.where(jnp.isinf(logits), jnp.copysign(bound, logits), logits)
        # NumPyro's check of vectors fails if there are none.
        validate_args = None if logits.size else False
        family = self.families.choose(is_binary=self.is_binary)
        return family(temperature, logits=logits, validate_args=validate_args)


def _bernoulli_logits(leaf: BernoulliProbs | BernoulliLogits) -> Array:
    if isinstance(leaf, BernoulliProbs):
        # NumPyro's logits of a probability of one are infinite.
        return ops.bernoulli_logits(jnp.asarray(leaf.probs))
    return jnp.asarray(leaf.logits)


def _temperature_for_guides(
    temperature: SiteTemperature | None,
) -> SiteTemperature | None:
    """Return the temperature that a guide must take over: a schedule or a number.

    None for an array, which the guide can read off the distribution.
    """
    if isinstance(temperature, ResolvedSchedule):
        return temperature.schedule
    if is_schedule(temperature) or isinstance(temperature, int | float):
        return temperature
    return None


def can_relax(fn: AnyDistribution) -> bool:
    """Tell whether a distribution is discrete, or a relaxation of NumPyro's own."""
    return is_discrete(fn) or is_backend_relaxation(type(leaf_of(fn)))


def is_discrete(fn: Distribution) -> bool:
    """Tell whether a distribution is one of discrete values."""
    support = fn.support
    try:
        return support is not None and support.is_discrete
    except NotImplementedError:
        return False


def discrete_distribution(fn: AnyDistribution, record: RelaxRecord) -> AnyDistribution:
    """Return the discrete distribution of a relaxed site, in the same wrappers.

    Args:
        fn: Distribution of the relaxed site.
        record: The record of the relaxed site.
    """
    # A guide that replaces the relaxed distribution leaves the discrete one out.
    if record.discrete is not None:
        return record.discrete
    values = record.values

    def discrete_leaf(leaf: AbstractConcrete) -> Distribution:
        if values is None or not leaf._class_dims:
            return leaf.discrete
        if values == tuple(range(len(values))):
            return CategoricalLogits(leaf.logits)
        return FiniteSupport(np.array(values), leaf.logits)

    return with_leaf(fn, discrete_leaf)


def discrete_value(leaf: AbstractConcrete, record: RelaxRecord, sample: Array) -> Array:
    """Return the value of the discrete site at a sample of a relaxed one.

    Args:
        leaf: The relaxed distribution, without wrappers.
        record: The record of the relaxed site.
        sample: Its value.
    """
    index = leaf.to_simplex(sample).argmax(-1)
    if not leaf._class_dims:
        return index.astype(jnp.result_type(int))
    if record.values is None:
        return one_hot(index, leaf.event_shape[-1], dtype=leaf.logits.dtype)
    return jnp.asarray(np.array(record.values))[index]


def log_space_vertex(
    leaf: AbstractConcrete, record: RelaxRecord, value: Array
) -> Array:
    """Return the sample of a relaxed site that stands for a discrete value.

    Args:
        leaf: The relaxed distribution, without wrappers.
        record: The record of the relaxed site.
        value: The discrete value.
    """
    if leaf._class_dims and record.values is not None:
        value = value[..., None] == np.array(record.values)
    return leaf.vertex(value)
