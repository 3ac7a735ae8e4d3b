"""One relaxed site: its distributions, and the value that its statement returns.

A `Site` is made of the distribution of a discrete site and of `SiteSettings`. It has
the two distributions that the handlers sample from: `Site.relaxed` in a relaxed
program, and `Site.discrete` in a hardened one. `Site.value` turns a sample of the first
into what the program receives. Distributions come in wrappers, such as `to_event`; the
leaf is the distribution inside of its wrappers (see `wrappers`).

Counterpart: ``numpyro_concrete.relaxation.site``.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import (
    Categorical,
    Delta,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategoricalStraightThrough,
    constraints,
)
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.torch_distribution import (
    TorchDistribution,
    TorchDistributionMixin,
)
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    OneHotCategorical,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
)
from torch.nn import Parameter
from torch.nn.functional import one_hot

from pyro_concrete import ops
from pyro_concrete.distributions import (
    AbstractConcrete,
    as_temperature,
    check_temperature,
)
from pyro_concrete.estimators import (
    AbstractEstimator,
    Relaxed,
    StraightThrough,
    select_families,
)
from pyro_concrete.ops.precision import known_finite
from pyro_concrete.relaxation.finite_support import FiniteSupport, support_of
from pyro_concrete.relaxation.messages import (
    RELAX_RECORD,
    AnyDistribution,
    RelaxRecord,
    Shape,
)
from pyro_concrete.relaxation.wrappers import (
    align_with_leaf,
    leaf_of,
    with_leaf,
    wrappers_of,
)
from pyro_concrete.schedules import current_temperature
from pyro_concrete.soft_index import is_soft, refusal, soft_index
from pyro_concrete.soft_index.parameters import (
    is_soft_parameter,
    with_known_parameters,
)

SiteTemperature = Tensor | float | np.ndarray | np.generic | Callable
SiteTruncate = int | float


class Deterministic(TorchDistribution):
    """The distribution of a deterministic site: it records a value and scores nothing.

    The masked Delta of `pyro.deterministic` is not used: it compares its value with
    itself, which takes time, and scores float32 zeros, which TraceEnum_ELBO cannot add
    to float64.
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, value: Tensor, event_dim: int) -> None:
        self.value = value
        batch = value.dim() - event_dim
        super().__init__(value.shape[:batch], value.shape[batch:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, self.event_dim)

    @property
    def base_dist(self) -> TorchDistributionMixin:
        """The Delta by which Pyro recognizes deterministic sites."""
        return Delta(self.value, event_dim=self.event_dim)

    def expand(self, batch_shape: Shape, _instance: object = None) -> "Deterministic":
        value = self.value.expand(torch.Size(batch_shape) + self.event_shape)
        return Deterministic(value, self.event_dim)

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        return self.value.expand(torch.Size(sample_shape) + self.value.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        shape = value.shape[: value.dim() - self.event_dim]
        return self.value.new_zeros(()).expand(shape)

    def scores(self) -> dict[str, Any]:
        """Return what a trace computes for a site: with it, a trace computes nothing.

        Returns:
            Fields of the message of the site.
        """
        zero = self.value.new_zeros(())
        zeros = zero.expand(self.batch_shape) if self.batch_shape else zero
        identically_zero: Any = 0  # Pyro skips a term that is the number zero
        return {
            "unscaled_log_prob": zeros,
            "log_prob": zeros,
            "log_prob_sum": zero,
            "score_parts": ScoreParts(zeros, identically_zero, identically_zero),
        }


@dataclass(frozen=True)
class BackendRelaxation:
    """What a relaxed distribution of Pyro's own stands for.

    The program itself samples Pyro's `RelaxedBernoulli`, and so expects floats.

    Attributes:
        discrete: The distribution that it relaxes.
        temperature: Its temperature.
        estimator: The estimator of its class, or None: that of `relax`.
    """

    discrete: TorchDistributionMixin
    temperature: Tensor | float
    estimator: AbstractEstimator | None


def backend_relaxation_of(leaf: AnyDistribution) -> BackendRelaxation | None:
    """Return what a relaxed distribution of Pyro's own stands for, or None."""
    if not is_backend_relaxation(type(leaf)):
        return None
    straight_through = (
        RelaxedBernoulliStraightThrough | RelaxedOneHotCategoricalStraightThrough
    )
    family = dist.OneHotCategorical
    if isinstance(leaf, RelaxedBernoulli):
        family = dist.Bernoulli
    estimator = None
    if isinstance(leaf, straight_through):
        estimator = StraightThrough()
    return BackendRelaxation(
        discrete=family(logits=leaf.logits, validate_args=False),
        temperature=leaf.temperature,
        estimator=estimator,
    )


@functools.cache
def is_backend_relaxation(family: type) -> bool:
    """Tell whether a class of distributions is a relaxation of Pyro's own."""
    return issubclass(family, RelaxedBernoulli | RelaxedOneHotCategorical)


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
        temperature = as_temperature(settings.temperature)
        leaf_temperature = self._leaf_temperature(fn, temperature)
        leaf = leaf_of(fn)
        self.is_binary = isinstance(leaf, Bernoulli)
        self.is_one_hot = isinstance(leaf, OneHotCategorical)
        self._values_are_indices = self.is_binary or isinstance(leaf, Categorical)
        self.truncated_mass: Tensor | None = None
        if self.is_binary:
            self.logits = leaf.logits
            self.values = torch.arange(2).to(self.logits)
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
            values=None if self.is_one_hot else self.values,
            temperature=_temperature_for_guides(temperature),
        )
        self.infer: Any = {RELAX_RECORD: record}  # no key of Pyro's InferDict

    def value(self, sample: Tensor) -> Tensor:
        """Return what the program receives for a sample of the relaxed site."""
        leaf = leaf_of(self.relaxed)
        dtype = self.logits.dtype
        simplex = self.estimator.model_value(leaf.to_simplex(sample)).to(dtype)
        if self.is_one_hot:
            return simplex
        if self.is_binary:
            # Computed from the sample and not as simplex[..., 1], whose gradient would
            # first fill a tensor of both classes with zeros.
            mean = self.estimator._binary_model_value(leaf._to_prob(sample)).to(dtype)
            if self.native is not None:
                return mean
        else:
            mean = simplex @ self.values.to(simplex)
        # The classes come first in `soft_index`.
        soft = soft_index(self.name, self.values, simplex.movedim(-1, 0))
        # Optional, to save work: without these three the result is the same.
        soft.values_are_indices = self._values_are_indices
        soft.known_mean = mean
        soft.known_simplex = simplex
        return soft

    def discrete_value(self, sample: Tensor) -> Tensor:
        """Return the value of the discrete site at a sample of the relaxed one."""
        return discrete_value(leaf_of(self.relaxed), self.infer[RELAX_RECORD], sample)

    def _leaf_temperature(
        self, fn: AnyDistribution, temperature: SiteTemperature | None
    ) -> Tensor | float:
        """The temperature at this step, which broadcasts with the leaf."""
        if temperature is None and self.native is not None:
            # Of the batch shape of the leaf, not of the site.
            check_temperature(self.native.temperature, self.name)
            return self.native.temperature
        current = current_temperature(temperature)
        check_temperature(current, self.name)
        return align_with_leaf(fn, current)

    def _concrete(self, temperature: Tensor | float) -> AbstractConcrete:
        # Gradients in log space do not fit half precision.
        logits = ops.promote_half(self.logits)
        if not known_finite(logits):
            # An impossible value keeps a finite logit, so that the density is finite.
            bound = -math.log(torch.finfo(logits.dtype).tiny)
            logits = logits.nan_to_num(nan=torch.nan, posinf=bound, neginf=-bound)
        family = self.families.choose(is_binary=self.is_binary)
        return family(temperature, logits=logits)


def _temperature_for_guides(
    temperature: SiteTemperature | None,
) -> SiteTemperature | None:
    """Return the temperature that a guide must take over: a parameter or no tensor.

    None for a constant tensor, which the guide can read off the distribution.
    """
    is_constant = isinstance(temperature, Tensor)
    if is_constant and not isinstance(temperature, Parameter):
        return None
    return temperature


def can_relax(fn: AnyDistribution) -> bool:
    """Tell whether a distribution is discrete, or a relaxation of Pyro's own."""
    return is_discrete(fn) or is_backend_relaxation(type(leaf_of(fn)))


def is_discrete(fn: AnyDistribution) -> bool:
    """Tell whether a distribution is one of discrete values."""
    message: Any = {"type": "sample", "fn": fn}
    if site_is_subsample(message):
        return False
    try:
        return fn.support.is_discrete
    except (AttributeError, NotImplementedError):
        return False


def resolve_soft_parameters(fn: AnyDistribution, name: str) -> AnyDistribution:
    """Return a distribution that is averaged over its soft parameters.

    Args:
        fn: Distribution in its wrappers; without soft parameters it is returned.
        name: Name of the site, for errors.

    Raises:
        TypeError: If a soft value is the size of a plate.
    """
    leaf = leaf_of(fn)
    plate_size: Any = getattr(leaf, "size", None)
    if is_soft(plate_size):
        raise TypeError(refusal(plate_size.site, "using it as the size of a plate"))
    # A class with slots alone has no attributes that could be searched.
    if not hasattr(leaf, "__dict__"):
        return fn
    has_soft_mask = any(is_soft(getattr(x, "_mask", None)) for x in wrappers_of(fn))
    if not is_soft_parameter(leaf) and not has_soft_mask:
        return fn
    return with_leaf(fn, lambda leaf: with_known_parameters(leaf, name))


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

    def discrete_leaf(leaf: AbstractConcrete) -> TorchDistributionMixin:
        if values is None or not leaf._class_dims:
            return leaf.discrete
        classes = torch.arange(len(values), device=values.device)
        if values.dtype == classes.dtype and bool((values == classes).all()):
            return Categorical(logits=leaf.logits)
        return FiniteSupport(values, leaf.logits)

    return with_leaf(fn, discrete_leaf)


def discrete_value(
    leaf: AbstractConcrete, record: RelaxRecord, sample: Tensor
) -> Tensor:
    """Return the value of the discrete site at a sample of a relaxed one.

    Args:
        leaf: The relaxed distribution, without wrappers.
        record: The record of the relaxed site.
        sample: Its value.
    """
    index = leaf.to_simplex(sample).argmax(-1)
    if not leaf._class_dims:
        return index.to(leaf.logits.dtype)
    if record.values is None:
        return one_hot(index, leaf.event_shape[-1]).to(leaf.logits.dtype)
    return record.values[index]


def log_space_vertex(
    leaf: AbstractConcrete, record: RelaxRecord, value: Tensor
) -> Tensor:
    """Return the sample of a relaxed site that stands for a discrete value.

    Args:
        leaf: The relaxed distribution, without wrappers.
        record: The record of the relaxed site.
        value: The discrete value.
    """
    if leaf._class_dims and record.values is not None:
        value = value[..., None] == record.values
    return leaf.vertex(value)
