"""One site: which are relaxed, how, and what the program sees of them.

Counterpart: ``pyro_concrete.relaxation.site``.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import one_hot
from jax.typing import ArrayLike
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    RelaxedBernoulliLogits,
)
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
from numpyro_concrete.schedules import (
    ResolvedSchedule,
    current_temperature,
    is_schedule,
)
from numpyro_concrete.soft_index import (
    SoftIndex,
    soft_index,
)
from numpyro_concrete.soft_index.parameters import SoftlyMasked

SUFFIX = "_relaxed"
LEFT_OUT = "_left_out"
Sites = Collection[str] | Callable[[dict[str, Any]], bool]
Temperature = ArrayLike | Callable | Mapping[str, ArrayLike | Callable]
Truncate = int | float | Mapping[str, int | float]


@dataclass(frozen=True)
class Native:
    """A relaxation by NumPyro's own classes, of a site whose program expects floats.

    Attributes:
        discrete: The distribution that it relaxes.
        temperature: Its temperature.
        estimator: The estimator of its class, or None: that of `relax`.
    """

    discrete: Distribution
    temperature: Any
    estimator: AbstractEstimator | None


def native_of(leaf: Any) -> Native | None:
    """Return what a relaxed distribution of NumPyro's own stands for, or None."""
    if not is_native(type(leaf)):
        return None
    shape = leaf.batch_shape
    discrete = BernoulliLogits(jnp.broadcast_to(leaf.logits, shape))
    return Native(discrete=discrete, temperature=leaf.temperature, estimator=None)


def is_native(family: type) -> bool:
    """Tell whether a class of distributions is a relaxation of NumPyro's own."""
    return issubclass(family, RelaxedBernoulliLogits)


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
        has_own = native is not None and temperature is None
        self.estimator = estimator or Relaxed()
        self.families = select_families(self.estimator, scoring)
        now = current_temperature(temperature)
        if native is not None and has_own:
            now = native.temperature
        check_temperature(now, name)
        leaf = leaf_of(fn)
        self.name = name
        self.binary = isinstance(leaf, BernoulliProbs | BernoulliLogits)
        self.one_hot = isinstance(leaf, OneHotCategorical)
        self.left_out = None
        if self.binary:
            self.values, self.logits = np.arange(2), _bernoulli_logits(leaf)
        else:
            self.values, self.logits, self.left_out = support_of(name, leaf, truncate)
        self.relaxed: Any = None
        self.discrete = fn if self.left_out is None else rebuilt(fn, self._truncated)
        self.infer: dict[str, Any] = {}
        if is_schedule(temperature) or isinstance(temperature, int | float):
            known = isinstance(temperature, ResolvedSchedule)
            self.infer["_temperature"] = temperature.schedule if known else temperature
        if len(self.values) > 1:
            # A temperature of its own has the shape of the distribution inside.
            self.relaxed = rebuilt(fn, self._concrete, None if has_own else now)
            self.infer["_relaxed_from"] = self.discrete
            if not self.one_hot:
                self.infer["_values"] = tuple(self.values.tolist())

    def value(self, point: Array) -> Array | SoftIndex:
        """What the program sees of a point of the relaxed site."""
        simplex = self.estimator.model_value(leaf_of(self.relaxed).to_simplex(point))
        simplex = simplex.astype(jnp.result_type(self.logits))
        if self.one_hot:
            return simplex
        if self.native is not None:
            return simplex[..., 1]
        return soft_index(self.name, self.values, jnp.moveaxis(simplex, -1, 0))

    def discrete_value(self, point: Array) -> Array:
        """Return the value of the discrete site at a point of the relaxed one."""
        return discrete_value(leaf_of(self.relaxed), self.infer, point)

    def _concrete(self, _: Any, temperature: Any) -> AbstractConcrete:
        if temperature is None:
            assert self.native is not None
            temperature = self.native.temperature
        # Gradients in log space do not fit half precision.
        logits = ops.promote_half(self.logits)
        # An impossible value keeps a finite logit, and the relaxation a density there.
        bound = -math.log(jnp.finfo(logits.dtype).tiny)
        logits = jnp.where(jnp.isinf(logits), jnp.copysign(bound, logits), logits)
        # The host's check of a vector fails if there is none.
        checks = None if logits.size else False
        return self.families.choose(is_binary=self.binary)(
            temperature, logits=logits, validate_args=checks
        )

    def _truncated(self, _: Any, __: None) -> FiniteSupport:
        return FiniteSupport(self.values, self.logits)


def _bernoulli_logits(leaf: Any) -> Array:
    # The host's logits of a probability of one are infinite.
    probs = isinstance(leaf, BernoulliProbs)
    if probs:
        return ops.bernoulli_logits(jnp.asarray(leaf.probs))
    return jnp.asarray(leaf.logits)


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
        for value in temperature.values():
            checked(value)
        return temperature
    if temperature is None:
        raise TypeError("relax needs a temperature, for example relax(model, 0.5)")
    if not callable(temperature):
        check_temperature(temperature)
    return temperature


def of_site(setting: Any, name: str) -> Any:
    """Return the setting of one site, of one for all or a mapping."""
    return setting.get(name) if isinstance(setting, Mapping) else setting


def selected(msg: dict[str, Any], sites: Sites | None) -> bool:
    """Tell whether a message is a latent site that is to be relaxed."""
    if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
        return False
    mark = msg["infer"].get("relax")
    if mark is False or not can_relax(msg["fn"]):
        return False
    if sites is not None:
        return bool(sites(msg)) if callable(sites) else msg["name"] in sites
    return bool(mark is not None or not msg["infer"].get("enumerate"))


def can_relax(fn: Any) -> bool:
    """Tell whether a distribution is discrete, or a relaxation of NumPyro's own."""
    return is_discrete(fn) or is_native(type(leaf_of(fn)))


def is_discrete(fn: Distribution) -> bool:
    """Tell whether a distribution is one of discrete values."""
    support = fn.support
    try:
        return support is not None and support.is_discrete
    except NotImplementedError:
        return False


def hard_of(fn: Any, infer: dict[str, Any]) -> Any:
    """Return the discrete distribution of a relaxed site, in the same wrappers."""
    known = infer.get("_relaxed_from")
    if known is not None:
        return known
    values = infer.get("_values")

    def discrete(leaf: AbstractConcrete, _: None) -> Distribution:
        if values is None or not leaf._class_dims:
            return leaf.discrete
        if values == tuple(range(len(values))):
            return CategoricalLogits(leaf.logits)
        return FiniteSupport(np.array(values), leaf.logits)

    return rebuilt(fn, discrete)


def discrete_value(leaf: Any, infer: dict[str, Any], point: Array) -> Array:
    """Return the value of the discrete site at a point of a relaxed one.

    Args:
        leaf: The relaxed distribution, without wrappers.
        infer: What the relaxed site notes of itself.
        point: Its value.
    """
    index = leaf.to_simplex(point).argmax(-1)
    if not leaf._class_dims:
        return index.astype(jnp.result_type(int))
    values = infer.get("_values")
    if values is None:
        return one_hot(index, leaf.event_shape[-1], dtype=leaf.logits.dtype)
    return jnp.asarray(np.array(values))[index]


def leaf_of(fn: Any) -> Any:
    """Return the distribution inside of to_event, expand and mask."""
    while is_wrapper(fn):
        fn = fn.base_dist
    return fn


def is_wrapper(fn: Any) -> bool:
    """Tell whether a distribution is another one in to_event, expand or mask."""
    wrappers = Independent | MaskedDistribution | ExpandedDistribution | SoftlyMasked
    return isinstance(fn, wrappers)


def rebuilt(fn: Any, rebuild: Callable, temperature: ArrayLike | None = None) -> Any:
    """Return the same wrappers around another distribution."""
    if isinstance(fn, Independent):
        n = fn.reinterpreted_batch_ndims
        if temperature is not None and jnp.ndim(temperature):
            temperature = jnp.expand_dims(temperature, tuple(range(-n, 0)))
        return rebuilt(fn.base_dist, rebuild, temperature).to_event(n)
    if isinstance(fn, MaskedDistribution):
        return rebuilt(fn.base_dist, rebuild, temperature).mask(fn._mask)
    if isinstance(fn, SoftlyMasked):
        return SoftlyMasked(rebuilt(fn.base_dist, rebuild, temperature), fn.share)
    if isinstance(fn, ExpandedDistribution):
        return rebuilt(fn.base_dist, rebuild, temperature).expand(fn.batch_shape)
    return rebuild(fn, temperature)
