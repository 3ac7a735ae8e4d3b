"""The finite support of a discrete distribution, and its log-probabilities there.

Any distribution that can enumerate its support has one. An unbounded one has it after a
truncation, and `Support.truncated_mass` has the probability of the values beyond.

Counterpart: ``pyro_concrete.relaxation.finite_support``.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.nn import log_softmax
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike
from numpyro.distributions import (
    BetaBinomial,
    Distribution,
    MixtureSameFamily,
    constraints,
)
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.distributions.discrete import (
    BinomialLogits,
    BinomialProbs,
    CategoricalLogits,
    CategoricalProbs,
    DiscreteUniform,
    ZeroInflatedProbs,
)
from numpyro.util import not_jax_tracer

from numpyro_concrete import ops
from numpyro_concrete.distributions import OneHotCategorical
from numpyro_concrete.relaxation.messages import AnyDistribution, truncated_mass_name
from numpyro_concrete.soft_index.parameters import (
    SoftParameters,
    log_prob_or_impossible,
)

# A warning says so if the truncated probability is larger than this.
_NOTABLE_MASS = 0.01
# Number of values beyond which no truncation by mass is looked for.
_MOST_VALUES = 2**20


class Support(NamedTuple):
    """A finite support, and the log-probability of each of its values.

    Attributes:
        values: Values of the site, in the order of the classes.
        logits: Log-probabilities, the classes last; not normalized after a truncation.
        truncated_mass: Truncated probability, or None where there is no truncation.
    """

    values: np.ndarray
    logits: Array
    truncated_mass: Array | None = None


def support_of(
    name: str, fn: Distribution, truncate: int | float | None = None
) -> Support:
    """Return the finite support of a discrete distribution.

    Args:
        name: Name of the site, for errors.
        fn: Distribution without wrappers (`to_event`, `expand`, `mask`).
        truncate: For an unbounded support: the largest value to keep, or a float in
            (0, 1), the largest probability to truncate.

    Raises:
        ValueError: If the support is unbounded and is not truncated.
        NotImplementedError: If the values are vectors other than one-hot ones.

    Example:
        >>> from numpyro.distributions import Geometric
        >>> support = support_of("n", Geometric(0.5), truncate=7)
        >>> support.values.tolist(), round(float(support.truncated_mass), 4)
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 0.0039)

    Counterpart: :func:`pyro_concrete.relaxation.finite_support.support_of`.
    """
    if isinstance(fn, CategoricalProbs | CategoricalLogits | OneHotCategorical):
        return _classes_of(fn)
    if fn.event_dim:
        raise NotImplementedError(
            f"site {name!r} ~ {_family_name(fn)}: relax takes scalar and one-hot "
            "sites. Write it as several such sites, or leave it unrelaxed with "
            "infer={'relax': False}"
        )
    values = _finite_values(name, fn)
    if values is not None:
        return Support(values=values, logits=_logits(fn, values))
    lower_bound = getattr(_component_of(fn).support, "lower_bound", None)
    if lower_bound is None or truncate is None:
        raise ValueError(
            f"site {name!r} ~ {_family_name(fn)}: its support is not finite. Truncate "
            f"it, relax(..., truncate={{{name!r}: 50}}) for values up to 50, or leave "
            "it unrelaxed with infer={'relax': False}"
        )
    return _truncated(name, fn, int(lower_bound), truncate)


def _classes_of(fn: AnyDistribution) -> Support:
    if isinstance(fn, CategoricalProbs):
        logits = ops.categorical_logits(jnp.asarray(fn.probs))
    else:
        logits = jnp.asarray(fn.logits)
    return Support(values=np.arange(logits.shape[-1]), logits=logits)


def _family_name(fn: Distribution) -> str:
    if isinstance(fn, SoftParameters):
        return _family_name(fn.base)
    return type(fn).__name__


def only_value(fn: Distribution) -> np.ndarray | None:
    """Return the value of a discrete distribution that has one, or None.

    Args:
        fn: Distribution without wrappers (`to_event`, `expand`, `mask`).

    Example:
        >>> only_value(CategoricalLogits(jnp.zeros((4, 1)))).item()
        0

    Counterpart: :func:`pyro_concrete.relaxation.finite_support.only_value`.
    """
    if fn.event_dim:
        return None
    values = _finite_values("", fn)
    if values is None or len(values) > 1:
        return None
    return np.asarray(values[0])


def _component_of(fn: AnyDistribution) -> AnyDistribution:
    """The distribution that has the values, at the largest of its soft parameters."""
    while True:
        if isinstance(fn, SoftParameters):
            fn = fn.base
        elif isinstance(fn, ZeroInflatedProbs):
            fn = fn.base_dist
        elif isinstance(fn, MixtureSameFamily):
            fn = fn.component_distribution
        else:
            return fn


def _finite_values(name: str, fn: Distribution) -> np.ndarray | None:
    """The finitely many values of any batch element, or None."""
    component = _component_of(fn)
    if isinstance(component, BinomialProbs | BinomialLogits | BetaBinomial):
        # `enumerate_support` raises if counts differ between batch elements.
        return np.arange(_bound(name, component.total_count, np.max) + 1)
    if isinstance(component, DiscreteUniform):
        low = _bound(name, component.low, np.min)
        high = _bound(name, component.high, np.max)
        return np.arange(low, high + 1)
    if not getattr(component, "has_enumerate_support", False):
        return None
    try:
        values = component.enumerate_support(expand=False)
    except NotImplementedError:
        return None
    return np.asarray(values).reshape(-1)


def _bound(name: str, bound: ArrayLike, extreme: Callable[[ArrayLike], Any]) -> int:
    """The bound of a support over all batch elements; 0 if there are none."""
    if not not_jax_tracer(bound):
        raise ValueError(
            f"site {name!r}: the bounds of its support are known only at run time. "
            "Give them as constants, or leave the site unrelaxed with "
            "infer={'relax': False}"
        )
    return int(extreme(bound)) if np.size(bound) else 0


def _logits(fn: AnyDistribution, values: np.ndarray) -> Array:
    """The log-probabilities of values at each batch element, the values last."""
    if isinstance(fn, MixtureSameFamily):
        return _mixture_logits(fn, values)
    column = jnp.asarray(values.reshape((-1,) + (1,) * len(fn.batch_shape)))
    # With soft parameters, a latent site has the mixture over their values.
    mixture_log_prob = getattr(fn, "mixture_log_prob", None)
    if mixture_log_prob is None:
        log_probs = log_prob_or_impossible(fn, column)
    else:
        log_probs = mixture_log_prob(column)
    log_probs = jnp.broadcast_to(log_probs, (len(values), *fn.batch_shape))
    return jnp.moveaxis(log_probs, 0, -1)


def _mixture_logits(fn: MixtureSameFamily, values: np.ndarray) -> Array:
    log_weights = log_softmax(_classes_of(fn.mixing_distribution).logits)[..., None]
    component_logits = _logits(fn.component_distribution, values)
    # logsumexp has a gradient of NaN at a value that no component has.
    is_possible = (component_logits > -jnp.inf).any(-2, keepdims=True)
    logits = log_weights + jnp.where(is_possible, component_logits, 0.0)
    return jnp.where(is_possible.squeeze(-2), logsumexp(logits, -2), -jnp.inf)


def _truncated(
    name: str, fn: AnyDistribution, first: int, truncate: int | float
) -> Support:
    last = _last_value(name, fn, first, truncate)
    # Some of NumPyro's distributions, such as Geometric, have floats as samples.
    dtype = jax.eval_shape(lambda: _component_of(fn).sample(random.key(0))).dtype
    values = np.arange(first, last + 1, dtype=dtype)
    logits = _logits(fn, values)
    truncated_mass = jnp.clip(1 - jnp.exp(logsumexp(logits, -1)), 0)
    can_be_read = not_jax_tracer(truncated_mass)
    if can_be_read and (np.asarray(truncated_mass) > _NOTABLE_MASS).any():
        warnings.warn(
            f"site {name!r}: truncation at {last} leaves out more than "
            f"{_NOTABLE_MASS:.0%} of the probability. See the site "
            f"{truncated_mass_name(name)!r}, or truncate at a larger value",
            stacklevel=2,
        )
    return Support(values=values, logits=logits, truncated_mass=truncated_mass)


def _last_value(
    name: str, fn: AnyDistribution, first: int, truncate: int | float
) -> int:
    """The largest value to keep."""
    # A scalar of NumPy or JAX is no Python number, whose type says which is meant.
    truncate = getattr(truncate, "item", lambda: truncate)()
    if isinstance(truncate, float) and 0 < truncate < 1:
        return _last_value_by_mass(name, fn, first, truncate)
    if isinstance(truncate, float) or truncate < first:
        raise ValueError(
            f"site {name!r}: truncate is the largest value to keep (an integer from "
            f"{first} on) or the largest probability to truncate (a float between 0 "
            f"and 1), not {truncate!r}"
        )
    return int(truncate)


def _last_value_by_mass(name: str, fn: AnyDistribution, first: int, mass: float) -> int:
    """The smallest truncation that leaves out no more than this probability."""
    size = 16
    while size <= _MOST_VALUES:
        # Under jit, too, the constants of the program have values.
        with jax.ensure_compile_time_eval():
            logits = _logits(fn, np.arange(first, first + size))
        if not not_jax_tracer(logits):
            raise ValueError(
                f"site {name!r}: its parameters are known only at run time, so it "
                f"cannot be truncated by mass. Give the largest value, "
                f"truncate={{{name!r}: 50}}"
            )
        cumulative = np.exp(np.asarray(logits)).cumsum(-1).reshape(-1, size)
        truncated_mass = (1 - cumulative).max(0, initial=0)
        is_enough = np.flatnonzero(truncated_mass <= mass)
        if len(is_enough):
            return first + int(is_enough[0])
        size *= 2
    raise ValueError(
        f"site {name!r}: no truncation leaves out as little as {mass}. Give the "
        "largest value to keep"
    )


class FiniteSupport(Distribution):
    """A discrete distribution over given values, such as a truncated Poisson.

    Shapes:
        values: (classes,).
        logits: (*batch_shape, classes).

    Args:
        values: Values of the support, distinct.
        logits: Unnormalized log-probabilities.

    Example:
        >>> FiniteSupport([2, 4], jnp.zeros((3, 2))).batch_shape
        (3,)

    Counterpart: :class:`pyro_concrete.relaxation.finite_support.FiniteSupport`.
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}
    pytree_data_fields = ("logits",)
    pytree_aux_fields = ("values",)
    support = constraints.nonnegative_integer
    has_enumerate_support = True

    def __init__(self, values: Sequence | np.ndarray, logits: Array) -> None:
        self.values = tuple(np.asarray(values).tolist())
        self.logits = logits
        super().__init__(jnp.shape(logits)[:-1], validate_args=False)

    def expand(self, batch_shape: tuple[int, ...]) -> "FiniteSupport":
        """Return this distribution with a larger batch shape."""
        shape = (*batch_shape, len(self.values))
        return FiniteSupport(self.values, jnp.broadcast_to(self.logits, shape))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        shape = (*sample_shape, *self.batch_shape)
        index = random.categorical(key, self.logits, shape=shape)
        return jnp.array(self.values)[index]

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        del intermediates
        is_value = jnp.expand_dims(value, -1) == jnp.array(self.values)
        return jnp.where(is_value, log_softmax(self.logits), -jnp.inf).max(-1)

    def enumerate_support(self, expand: bool = True) -> Array:
        values = jnp.array(self.values).reshape((-1,) + (1,) * len(self.batch_shape))
        if not expand:
            return values
        return jnp.broadcast_to(values, (len(self.values), *self.batch_shape))


@promote_batch_shape.register
def _promote_finite_support(d: FiniteSupport) -> FiniteSupport:
    return FiniteSupport(d.values, d.logits)
