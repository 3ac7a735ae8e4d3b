"""One site: which are relaxed, how, and what the program sees of them.

Counterpart: ``numpyro_concrete.relaxation.site``.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
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
    ExpandedDistribution,
    MaskedDistribution,
    TorchDistribution,
    TorchDistributionMixin,
)
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Independent,
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
from pyro_concrete.schedules import current_temperature
from pyro_concrete.soft_index import is_soft, refusal, soft_index
from pyro_concrete.soft_index.parameters import (
    is_soft_parameter,
    masked,
    with_known_parameters,
)

SUFFIX = "_relaxed"
LEFT_OUT = "_left_out"
Sites = Collection[str] | Callable[[dict[str, Any]], bool]
SiteTemperature = Tensor | float | np.ndarray | np.generic | Callable
Temperature = SiteTemperature | Mapping[str, SiteTemperature]
Truncate = int | float | Mapping[str, int | float]


class Deterministic(TorchDistribution):
    """The distribution of a deterministic site: it records a value and scores nothing.

    A masked Delta compares its value with itself, at a cost; and masked by `False` it
    scores float32 zeros, which TraceEnum_ELBO cannot add to float64.
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, value: Tensor, event_dim: int) -> None:
        self.value = value
        batch = value.dim() - event_dim
        super().__init__(value.shape[:batch], value.shape[batch:], validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, self.event_dim)

    @property
    def base_dist(self) -> TorchDistributionMixin:
        """The distribution that deterministic sites are known by, in a mask there."""
        return Delta(self.value, event_dim=self.event_dim)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Deterministic":
        value = self.value.expand(torch.Size(batch_shape) + self.event_shape)
        return Deterministic(value, self.event_dim)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.value.expand(torch.Size(sample_shape) + self.value.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        shape = value.shape[: value.dim() - self.event_dim]
        return self.value.new_zeros(()).expand(shape)

    def scores(self) -> dict[str, Any]:
        """What a trace computes for a site, and has to compute no more."""
        zero: Any = self.value.new_zeros(())
        zeros = zero.expand(self.batch_shape) if self.batch_shape else zero
        none: Any = 0  # what the host takes for an identical zero
        return {
            "unscaled_log_prob": zeros,
            "log_prob": zeros,
            "log_prob_sum": zero,
            "score_parts": ScoreParts(zeros, none, none),
        }


@dataclass(frozen=True)
class Native:
    """A relaxation by Pyro's own classes, of a site whose program expects floats.

    Attributes:
        discrete: The distribution that it relaxes.
        temperature: Its temperature.
        estimator: The estimator of its class, or None: that of `relax`.
    """

    discrete: TorchDistributionMixin
    temperature: Any
    estimator: AbstractEstimator | None


def native_of(leaf: Any) -> Native | None:
    """Return what a relaxed distribution of Pyro's own stands for, or None."""
    if not is_native(type(leaf)):
        return None
    hard = RelaxedBernoulliStraightThrough | RelaxedOneHotCategoricalStraightThrough
    family = dist.OneHotCategorical
    if isinstance(leaf, RelaxedBernoulli):
        family = dist.Bernoulli
    return Native(
        discrete=family(logits=leaf.logits, validate_args=False),
        temperature=leaf.temperature,
        estimator=StraightThrough() if isinstance(leaf, hard) else None,
    )


@functools.cache
def is_native(family: type) -> bool:
    """Tell whether a class of distributions is a relaxation of Pyro's own."""
    return issubclass(family, RelaxedBernoulli | RelaxedOneHotCategorical)


class Site:
    """How one site is relaxed: its distribution, and what the program sees of it.

    Args:
        name: Name of the site.
        fn: Its distribution, in its wrappers.
        temperature: Temperature or schedule; None for that of a `Native` distribution.
        truncate: Truncation of an unbounded support, as for `relax`.
        estimator: Estimator of the site.
        scoring: What scores it, as for `relax`.
    """

    def __init__(
        self,
        name: str,
        fn: Any,
        temperature: Any,
        truncate: int | float | None,
        estimator: AbstractEstimator | None = None,
        scoring: str | None = None,
    ) -> None:
        self.native = native = native_of(leaf_of(fn))
        if native is not None:
            fn = rebuilt(fn, lambda *_: native.discrete)
        temperature = as_temperature(temperature)
        now = current_temperature(temperature)
        has_own = native is not None and temperature is None
        if native is not None and has_own:
            now = native.temperature
        check_temperature(now, name)
        self.estimator = estimator or Relaxed()
        self.families = select_families(self.estimator, scoring)
        leaf = leaf_of(fn)
        self.name = name
        self.binary = isinstance(leaf, Bernoulli)
        self.one_hot = isinstance(leaf, OneHotCategorical)
        self.full = self.binary or isinstance(leaf, Categorical)
        self.left_out = None
        if self.binary:
            self.logits = leaf.logits
            self.values = torch.arange(2).to(self.logits)
        else:
            self.values, self.logits, self.left_out = support_of(name, leaf, truncate)
        self.relaxed: Any = None
        self.discrete = fn if self.left_out is None else rebuilt(fn, self._truncated)
        self.infer: Any = {}
        is_known = isinstance(temperature, Tensor) and not isinstance(
            temperature, Parameter
        )
        if not is_known and not has_own:
            self.infer["_temperature"] = temperature
        if len(self.values) > 1:
            # A temperature of its own has the shape of the distribution inside.
            self.relaxed = rebuilt(fn, self._concrete, None if has_own else now)
            self.infer["_relaxed_from"] = self.discrete
            if not self.one_hot:
                self.infer["_values"] = self.values

    def value(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """What handlers and the program see of a point of the relaxed site."""
        leaf, dtype = leaf_of(self.relaxed), self.logits.dtype
        simplex = self.estimator.model_value(leaf.to_simplex(point)).to(dtype)
        if self.one_hot:
            return simplex, simplex
        if self.binary:
            # Not a part of the weights: a gradient goes back through it at less cost.
            mean = self.estimator._binary_model_value(leaf._to_prob(point)).to(dtype)
            if self.native is not None:
                return mean, mean
        else:
            mean = simplex @ self.values.to(simplex)
        soft = soft_index(self.name, self.values, simplex.movedim(-1, 0))
        soft.known_range, soft.known_mean = self.full, mean
        soft.known_simplex = simplex
        return mean, soft

    def discrete_value(self, point: Tensor) -> Tensor:
        """Return the value of the discrete site at a point of the relaxed one."""
        return discrete_value(leaf_of(self.relaxed), self.infer, point)

    def _concrete(self, _: Any, temperature: Any) -> AbstractConcrete:
        if temperature is None:
            assert self.native is not None
            temperature = self.native.temperature
        # Gradients in log space do not fit half precision.
        logits = ops.promote_half(self.logits)
        if not known_finite(logits):
            # An impossible value keeps a finite logit, and a density there.
            bound = -math.log(torch.finfo(logits.dtype).tiny)
            logits = logits.nan_to_num(nan=torch.nan, posinf=bound, neginf=-bound)
        return self.families.choose(is_binary=self.binary)(temperature, logits=logits)

    def _truncated(self, _: Any, __: None) -> FiniteSupport:
        return FiniteSupport(self.values, self.logits)


def check_names(settings: Mapping[str, Any], seen: Collection[str]) -> None:
    """Raise a ValueError if a setting names a site that the program does not have.

    Args:
        settings: Settings of `relax`, by their names.
        seen: Names of the sites of the program.
    """
    for setting, value in settings.items():
        is_list = setting == "sites" and value is not None and not callable(value)
        if not is_list and not isinstance(value, Mapping):
            continue
        unknown = sorted(set(value) - set(seen))
        if unknown:
            raise ValueError(
                f"relax(..., {setting}=...) names {unknown}, and the program has no "
                f"such sample site. Name sites of the program, {sorted(seen)}"
            )


def check_relaxed_names(setting: str, value: Any, relaxed: Collection[str]) -> None:
    """Raise a ValueError if a guide's setting names a site that it does not relax.

    Args:
        setting: Name of the setting.
        value: Its value; a mapping has names of sites.
        relaxed: Names of the relaxed sites.
    """
    unknown = sorted(set(value) - set(relaxed)) if isinstance(value, Mapping) else []
    if unknown:
        raise ValueError(
            f"{setting} names no relaxed site: {unknown}; the model has "
            f"{sorted(relaxed)}"
        )


def check_marks(name: str, marks: Mapping[str, Any]) -> None:
    """Raise a ValueError if a site is marked with a setting that there is not."""
    unknown = sorted(set(marks) - {"temperature", "truncate", "estimator"})
    if unknown:
        raise ValueError(
            f"site {name!r} has infer={{'relax': ...}} with unknown {unknown}. Give "
            "'temperature', 'truncate' or 'estimator'"
        )


def check_sites(sites: Any) -> None:
    """Raise a TypeError if `sites` are neither names nor a predicate."""
    if isinstance(sites, str):
        raise TypeError(f"sites is a collection of names, such as [{sites!r}]")


def check_point(
    name: str, shape: Sequence, expected: Sequence, enumerated: bool = False
) -> None:
    """Raise a ValueError if the point that a guide has drawn is not one of the site.

    Under enumeration the site may have axes to the left, of the sites it depends on,
    which the guide's point does not have.
    """
    pairs = zip(reversed(shape), reversed(expected), strict=False)
    short = len(shape) < len(expected) and not enumerated
    if short or any(a != b and 1 not in (a, b) for a, b in pairs):
        raise ValueError(
            f"site {name!r}: the model's {name + SUFFIX!r} has shape "
            f"{tuple(expected)}, and it is set to a value of shape {tuple(shape)}. If "
            "a guide was set up for other data or classes, make a new one"
        )


def check_guide(name: str, own: Any, guidance: Any) -> None:
    """Raise a ValueError if the guide's site is not relaxed, or is of another kind.

    Args:
        name: Name of the site.
        own: Distribution of the relaxed site in the model.
        guidance: What the handlers around the model have for the site.
    """
    relaxed = name + SUFFIX
    if guidance.point is None and guidance.relaxed is None and guidance.has_latent:
        raise ValueError(
            f"site {name!r} is relaxed in the model, and the guide samples it without "
            "relaxation. Relax the guide as well, relax(guide, temperature), or use "
            "AutoConcrete(relaxed_model)"
        )
    if guidance.point is not None or guidance.relaxed is None:
        return
    own = leaf_of(own)
    other = leaf_of(guidance.relaxed["fn"])
    if isinstance(other, AbstractConcrete) and type(other) is not type(own):
        raise ValueError(
            f"site {relaxed!r} is {type(own).__name__} in the model and "
            f"{type(other).__name__} in the guide. Relax both alike: with the same "
            "estimator and scoring"
        )


def check_hardened(name: str, guidance: Any) -> None:
    """Raise a ValueError if the guide of a hardened model has a relaxed site."""
    if guidance.relaxed is not None:
        raise ValueError(
            f"site {name!r} is discrete in the model, and relaxed in the guide. Harden "
            "the guide as well, harden(guide), or train the relaxed model"
        )


def checked(temperature: Temperature | None) -> Temperature:
    """Return a temperature, or a mapping of them, that is positive as far as known."""
    if isinstance(temperature, Mapping):
        by_site: Any = {name: checked(value) for name, value in temperature.items()}
        return by_site
    temperature = as_temperature(temperature)
    if temperature is None:
        raise TypeError("relax needs a temperature, for example relax(model, 0.5)")
    if isinstance(temperature, Tensor) or not callable(temperature):
        check_temperature(temperature)
    return temperature


def of_site(setting: Any, name: str) -> Any:
    """Return the setting of one site, of one for all or a mapping."""
    return setting.get(name) if isinstance(setting, Mapping) else setting


def selected(msg: dict[str, Any], sites: Sites | None) -> bool:
    """Tell whether a message is a latent site that is to be relaxed."""
    if msg["is_observed"] or msg["value"] is not None or not can_relax(msg["fn"]):
        return False
    mark = msg["infer"].get("relax")
    if mark is False:
        return False
    if sites is not None:
        return bool(sites(msg)) if callable(sites) else msg["name"] in sites
    return bool(mark is not None or not msg["infer"].get("enumerate"))


def can_relax(fn: Any) -> bool:
    """Tell whether a distribution is discrete, or a relaxation of Pyro's own."""
    return is_discrete(fn) or is_native(type(leaf_of(fn)))


def is_discrete(fn: Any) -> bool:
    """Tell whether a distribution is one of discrete values."""
    if type(fn).__name__ == "_Subsample":
        return False
    try:
        return fn.support.is_discrete
    except (AttributeError, NotImplementedError):
        return False


def known(fn: Any, name: str | None = None) -> Any:
    """Return the distribution with soft parameters averaged over, or as it is."""
    leaf = leaf_of(fn)
    if is_soft(getattr(leaf, "size", None)):  # a plate
        raise TypeError(refusal(leaf.size.site, "using it as the size of a plate"))
    if not hasattr(leaf, "__dict__"):
        return fn
    if not is_soft_parameter(leaf) and not _is_softly_masked(fn):
        return fn
    return rebuilt(fn, lambda leaf, _: with_known_parameters(leaf, name))


def _is_softly_masked(fn: Any) -> bool:
    while _is_wrapper(type(fn)):
        if is_soft(getattr(fn, "_mask", None)):
            return True
        fn = fn.base_dist
    return False


def hard_of(fn: Any, infer: dict[str, Any]) -> Any:
    """Return the discrete distribution of a relaxed site, in the same wrappers."""
    known = infer.get("_relaxed_from")
    if known is not None:
        return known
    values = infer.get("_values")

    def discrete(leaf: AbstractConcrete, _: None) -> TorchDistributionMixin:
        if values is None or not leaf._class_dims:
            return leaf.discrete
        classes = torch.arange(len(values), device=values.device)
        if values.dtype == classes.dtype and bool((values == classes).all()):
            return Categorical(logits=leaf.logits)
        return FiniteSupport(values, leaf.logits)

    return rebuilt(fn, discrete)


def discrete_value(leaf: Any, infer: dict[str, Any], point: Tensor) -> Tensor:
    """Return the value of the discrete site at a point of a relaxed one.

    Args:
        leaf: The relaxed distribution, without wrappers.
        infer: What the relaxed site notes of itself.
        point: Its value.
    """
    index = leaf.to_simplex(point).argmax(-1)
    if not leaf._class_dims:
        return index.to(leaf.logits.dtype)
    values = infer.get("_values")
    if values is None:
        return one_hot(index, leaf.event_shape[-1]).to(leaf.logits.dtype)
    return values[index]


def leaf_of(fn: Any) -> Any:
    """Return the distribution inside of to_event, expand and mask."""
    while _is_wrapper(type(fn)):
        fn = fn.base_dist
    return fn


def is_wrapper(fn: Any) -> bool:
    """Tell whether a distribution is another one in to_event, expand or mask."""
    return _is_wrapper(type(fn))


@functools.cache
def _is_wrapper(family: type) -> bool:
    return issubclass(family, Independent | MaskedDistribution | ExpandedDistribution)


def rebuilt(fn: Any, rebuild: Callable, temperature: Any = None) -> Any:
    """Return the same wrappers around another distribution."""
    if isinstance(fn, Independent):
        n = fn.reinterpreted_batch_ndims
        if isinstance(temperature, Tensor) and temperature.dim():
            temperature = temperature.reshape(temperature.shape + (1,) * n)
        return rebuilt(fn.base_dist, rebuild, temperature).to_event(n)
    if isinstance(fn, MaskedDistribution):
        return masked(rebuilt(fn.base_dist, rebuild, temperature), fn._mask)
    if isinstance(fn, ExpandedDistribution):
        return rebuilt(fn.base_dist, rebuild, temperature).expand(fn.batch_shape)
    return rebuild(fn, temperature)
