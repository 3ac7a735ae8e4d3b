"""The finite support of a discrete distribution, and its log-probabilities there.

Any distribution that can enumerate its support has one. An unbounded one has it after
truncation, which leaves out a mass that is told.

Counterpart: ``pyro_concrete.relaxation.finite_support``.
"""

import warnings
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.nn import log_softmax
from jax.scipy.special import logsumexp
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
from numpyro_concrete.soft_index.parameters import (
    SoftParameters,
    log_prob_or_impossible,
)

# Mass left out by a truncation from which on a warning says so.
_NOTABLE = 0.01
_LARGEST = 2**20


class Support(NamedTuple):
    """A finite support, and the log-probability of each of its values.

    Attributes:
        values: Values of the site, in the order of the classes.
        logits: Log-probabilities, the classes last; those left out are not made up for.
        left_out: Mass beyond a truncation, or None where there is none.
    """

    values: np.ndarray
    logits: Array
    left_out: Array | None = None


def support_of(
    name: str, fn: Distribution, truncate: int | float | None = None
) -> Support:
    """Return the finite support of a discrete distribution.

    Args:
        name: Name of the site, for errors.
        fn: Distribution without wrappers (`to_event`, `expand`, `mask`).
        truncate: For an unbounded support: the largest value to keep, or a float in
            (0, 1), the largest mass to leave out.

    Raises:
        ValueError: If the support is unbounded and is not truncated.
        NotImplementedError: If the values are vectors other than one-hot ones.

    Example:
        >>> from numpyro.distributions import Geometric
        >>> support = support_of("n", Geometric(0.5), truncate=7)
        >>> support.values.tolist(), round(float(support.left_out), 4)
        ([0, 1, 2, 3, 4, 5, 6, 7], 0.0039)

    Counterpart: :func:`pyro_concrete.relaxation.finite_support.support_of`.
    """
    if isinstance(fn, CategoricalProbs | CategoricalLogits | OneHotCategorical):
        return _classes_of(fn)
    if fn.event_dim:
        raise NotImplementedError(
            f"site {name!r} ~ {_name(fn)}: relax takes scalar and one-hot "
            "sites. Write it as several such sites, or leave it as it is with "
            "infer={'relax': False}"
        )
    values = _enumerated(name, fn)
    if values is not None:
        return Support(values, _logits(fn, values))
    first = getattr(_base(fn).support, "lower_bound", None)
    if first is None or truncate is None:
        raise ValueError(
            f"site {name!r} ~ {_name(fn)}: its support is not finite. Truncate "
            f"it, relax(..., truncate={{{name!r}: 50}}) for values up to 50, or leave "
            "it as it is with infer={'relax': False}"
        )
    return _truncated(name, fn, int(first), truncate)


def _classes_of(fn: Any) -> Support:
    if isinstance(fn, CategoricalProbs):
        logits = ops.categorical_logits(jnp.asarray(fn.probs))
    else:
        logits = jnp.asarray(fn.logits)
    return Support(np.arange(logits.shape[-1]), logits)


def _name(fn: Any) -> str:
    return _name(fn.base) if isinstance(fn, SoftParameters) else type(fn).__name__


def only_value(fn: Any) -> np.ndarray | None:
    """Return the value of a discrete distribution that has one, or None.

    Args:
        fn: Distribution without wrappers (`to_event`, `expand`, `mask`).

    Example:
        >>> only_value(CategoricalLogits(jnp.zeros((4, 1)))).item()
        0

    Counterpart: :func:`pyro_concrete.relaxation.finite_support.only_value`.
    """
    values = None if fn.event_dim else _enumerated("", fn)
    return np.asarray(values[0]) if values is not None and len(values) == 1 else None


def _base(fn: Any) -> Any:
    """The distribution of the values, with the largest of its soft parameters."""
    while True:
        if isinstance(fn, SoftParameters):
            fn = fn.base
        elif isinstance(fn, ZeroInflatedProbs):
            fn = fn.base_dist
        elif isinstance(fn, MixtureSameFamily):
            fn = fn.component_distribution
        else:
            return fn


def _enumerated(name: str, fn: Any) -> np.ndarray | None:
    base = _base(fn)
    if isinstance(base, BinomialProbs | BinomialLogits | BetaBinomial):
        # The hosts refuse counts that differ between batch elements.
        return np.arange(_bound(name, base.total_count, np.max, 0) + 1)
    if isinstance(base, DiscreteUniform):
        low, high = (
            _bound(name, base.low, np.min, 0),
            _bound(name, base.high, np.max, 0),
        )
        return np.arange(low, high + 1)
    if not getattr(base, "has_enumerate_support", False):
        return None
    try:
        values = base.enumerate_support(expand=False)
    except NotImplementedError:
        return None
    return np.asarray(values).reshape(-1)


def _bound(name: str, bound: Any, extreme: Any, empty: int) -> int:
    if not not_jax_tracer(bound):
        raise ValueError(
            f"site {name!r}: the bounds of its support are known only at run time. "
            "Give them as constants, or leave the site as it is with "
            "infer={'relax': False}"
        )
    return int(extreme(bound)) if np.size(bound) else empty


def _logits(fn: Any, values: np.ndarray) -> Array:
    if isinstance(fn, MixtureSameFamily):
        return _mixture_logits(fn, values)
    terms = values.reshape((-1,) + (1,) * len(fn.batch_shape))
    # Of soft parameters, a latent site has the mixture over their values.
    mixture = getattr(fn, "mixture_log_prob", None)
    if mixture is None:
        scores = log_prob_or_impossible(fn, jnp.asarray(terms))
    else:
        scores = mixture(jnp.asarray(terms))
    scores = jnp.broadcast_to(scores, (len(values), *fn.batch_shape))
    return jnp.moveaxis(scores, 0, -1)


def _mixture_logits(fn: MixtureSameFamily, values: np.ndarray) -> Array:
    shares = log_softmax(_classes_of(fn.mixing_distribution).logits)[..., None]
    terms = _logits(fn.component_distribution, values)
    # A value that no component has would have a gradient of NaN.
    possible = (terms > -jnp.inf).any(-2, keepdims=True)
    logits = logsumexp(shares + jnp.where(possible, terms, 0.0), -2)
    return jnp.where(possible.squeeze(-2), logits, -jnp.inf)


def _truncated(name: str, fn: Any, first: int, truncate: int | float) -> Support:
    # A scalar of an array library has no Python type to tell a mass by.
    truncate = getattr(truncate, "item", lambda: truncate)()
    by_mass = isinstance(truncate, float)
    if not (0 < truncate < 1 if by_mass else truncate >= first):
        raise ValueError(
            f"site {name!r}: truncate is the largest value to keep (an integer from "
            f"{first} on) or the largest mass to leave out (a float between 0 and 1), "
            f"not {truncate!r}"
        )
    if by_mass:
        truncate = _largest_value(name, fn, first, truncate)
    # Some of the backend's distributions, such as Geometric, have floats as samples.
    dtype = jax.eval_shape(lambda: _base(fn).sample(random.key(0))).dtype
    values = np.arange(first, int(truncate) + 1, dtype=dtype)
    logits = _logits(fn, values)
    left_out = jnp.clip(1 - jnp.exp(logsumexp(logits, -1)), 0)
    if not_jax_tracer(left_out) and (np.asarray(left_out) > _NOTABLE).any():
        warnings.warn(
            f"site {name!r}: truncation at {int(truncate)} leaves out more than "
            f"{_NOTABLE:.0%} of the mass; see the site '{name}_left_out'",
            stacklevel=2,
        )
    return Support(values, logits, left_out)


def _largest_value(name: str, fn: Any, first: int, mass: float) -> int:
    """The smallest truncation that leaves out no more than this mass."""
    size = 16
    while size <= _LARGEST:
        # Constants of the program are known under jit, too.
        with jax.ensure_compile_time_eval():
            logits = _logits(fn, np.arange(first, first + size))
        if not not_jax_tracer(logits):
            raise ValueError(
                f"site {name!r}: its parameters are known only at run time, so it "
                f"cannot be truncated by mass. Give the largest value, "
                f"truncate={{{name!r}: 50}}"
            )
        kept = np.exp(np.asarray(logits)).cumsum(-1).reshape(-1, size)
        enough = np.flatnonzero((1 - kept).max(0, initial=0) <= mass)
        if len(enough):
            return first + int(enough[0])
        size *= 2
    raise ValueError(f"site {name!r}: no truncation leaves out as little as {mass}")


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

    def __init__(self, values: Any, logits: Array) -> None:
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
        hit = jnp.expand_dims(value, -1) == jnp.array(self.values)
        return jnp.where(hit, log_softmax(self.logits), -jnp.inf).max(-1)

    def enumerate_support(self, expand: bool = True) -> Array:
        values = jnp.array(self.values).reshape((-1,) + (1,) * len(self.batch_shape))
        shape = (len(self.values), *self.batch_shape)
        return jnp.broadcast_to(values, shape) if expand else values


@promote_batch_shape.register
def _promote_finite_support(d: FiniteSupport) -> FiniteSupport:
    return FiniteSupport(d.values, d.logits)
