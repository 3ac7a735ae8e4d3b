"""Distributions whose parameters are soft: scored for every value, and averaged.

A soft value in a parameter of real numbers is its mean, as in any function of reals.
In one of integers, such as the total count of a Binomial, the site is scored for
every value of the support, and the log-probabilities are averaged with the weights. A
soft mask scores the site with the probability that the mask is true.

Counterpart: ``pyro_concrete.soft_index.parameters``.
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpyro.distributions import (
    BetaBinomial,
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    constraints,
)
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.distributions.discrete import (
    BinomialLogits,
    BinomialProbs,
    DiscreteUniform,
    ZeroInflatedProbs,
)

from numpyro_concrete.internals import (
    set_batch_shape,
    without_validation,
    wrapper_mask,
)
from numpyro_concrete.soft_index.algebra import (
    Joint,
    enumerate_operands,
    joint_weights,
    ranked,
)
from numpyro_concrete.soft_index.expectation import contract
from numpyro_concrete.soft_index.interpreter import plain, value_of
from numpyro_concrete.soft_index.masks import SoftlyMasked
from numpyro_concrete.soft_index.merging import flat_table, flat_weights
from numpyro_concrete.soft_index.paths import (
    Path,
    SoftParameter,
    replace_parameters,
    soft_parameters,
)
from numpyro_concrete.soft_index.registry import Operand, Shape
from numpyro_concrete.soft_index.tables import apply_to_tables, held
from numpyro_concrete.soft_index.value import (
    AbstractSoft,
    SoftIndex,
    SoftReal,
    exact,
    is_soft,
    refusal,
)

# A sample, or a tree of what NumPyro keeps of how it was drawn.
Sample = Any
ObservedValue = Array | np.ndarray | float | int


def is_soft_parameter(fn: Distribution) -> bool:
    """Tell whether a distribution, with its wrappers, has a soft parameter."""
    return any(True for _ in soft_parameters(fn))


def with_known_parameters(fn: Distribution, site: str | None = None) -> Distribution:
    """Return a distribution whose parameters are plain, or averaged over.

    Args:
        fn: Distribution, with its wrappers (`to_event`, `expand`, `mask`).
        site: Name of its sample site, for errors.

    Raises:
        TypeError: At an integer parameter that has a mean but no support, such as a
            sum of relaxed sites.

    Example:
        >>> from numpyro.distributions import Binomial
        >>> from numpyro_concrete.soft_index import Interpreter, soft_index
        >>> count = soft_index("n", [2, 4], jnp.ones(2) / 2)
        >>> with Interpreter() as interpreter:
        ...     fn = Binomial(interpreter.lift(count), 0.5)
        >>> round(float(with_known_parameters(fn).log_prob(0) / jnp.log(0.5)), 4)
        3.0
    """
    if not is_soft_parameter(fn):
        return fn
    if isinstance(fn, Independent):
        base = with_known_parameters(fn.base_dist, site)
        return base.to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, ExpandedDistribution):
        return with_known_parameters(fn.base_dist, site).expand(fn.batch_shape)
    if isinstance(fn, MaskedDistribution):
        return _with_mask(with_known_parameters(fn.base_dist, site), wrapper_mask(fn))
    integers: dict[Path, SoftIndex] = {}
    for parameter in list(soft_parameters(fn)):
        value = _known_value(parameter, site)
        if isinstance(value, SoftIndex):
            integers[parameter.path] = _clip_to_constraint(parameter, value)
        else:
            fn = replace_parameters(fn, {parameter.path: value})
    if not integers:
        return fn
    return averaged(fn, integers)


def _with_mask(base: Distribution, mask: Operand) -> Distribution:
    soft_mask = value_of(mask)
    if not is_soft(soft_mask):
        return base.mask(soft_mask)
    return SoftlyMasked(base, jnp.broadcast_to(soft_mask.number(), base.batch_shape))


def _known_value(parameter: SoftParameter, site: str | None) -> Operand:
    """Return the mean of a real parameter, and the values of one of integers."""
    if parameter.is_real():
        return plain(parameter.value)
    operation = f"{type(parameter.owner).__name__}({parameter.name}=...)"
    if site is not None:
        operation += f" at site {site!r}"
    return exact(parameter.value, operation)


def _clip_to_constraint(parameter: SoftParameter, soft: SoftIndex) -> SoftIndex:
    """Return a parameter whose values are possible ones.

    A difference of soft counts can be negative, with a probability that is zero at the
    values that a model draws. It counts as the nearest value that is possible.
    """
    arg_constraints = getattr(parameter.owner, "arg_constraints", {})
    constraint = arg_constraints.get(parameter.name)
    low = getattr(constraint, "lower_bound", None)
    high = getattr(constraint, "upper_bound", None)
    table = soft.table
    if isinstance(low, int | float):
        table = apply_to_tables(
            lambda x: jnp.maximum(x, jnp.asarray(low, x.dtype)), table
        )
    if isinstance(high, int | float):
        table = apply_to_tables(
            lambda x: jnp.minimum(x, jnp.asarray(high, x.dtype)), table
        )
    return dataclasses.replace(soft, values=held(table))


def averaged(fn: Distribution, parameters: dict[Path, SoftIndex]) -> "SoftParameters":
    """Return the distribution that is averaged over some of its parameters.

    Args:
        fn: Distribution without wrappers.
        parameters: Soft parameters, by where they are.

    Raises:
        NotImplementedError: If a parameter is a vector; it names the site.
    """
    rank = len(fn.batch_shape)
    joint = Joint(fn.batch_shape)
    softs: dict[Path, SoftIndex] = {}
    factor_axes: dict[Path, list[int]] = {}
    for path, soft in parameters.items():
        if len(soft.extent) > rank:
            raise NotImplementedError(
                f"site {soft.site!r} is relaxed, and {type(fn).__name__} takes it as a "
                f"vector, {path[-1]}. Leave it out with infer={{'relax': False}}"
            )
        softs[path] = ranked(soft, rank)
        factor_axes[path] = joint.add(softs[path])
    joint.check()
    states = {
        path: _joint_values(soft, joint, factor_axes[path])
        for path, soft in softs.items()
    }
    largest = {path: _largest_value(soft) for path, soft in softs.items()}
    result = SoftParameters(
        replace_parameters(fn, largest), states, joint_weights(joint)
    )
    result.parameters = parameters
    return result


def _joint_values(soft: SoftIndex, joint: Joint, factor_axes: list[int]) -> Array:
    """Return the values of a parameter for all joint values, on its first axis."""
    sizes = joint.sizes()
    table = jnp.asarray(joint.spread(soft.table, factor_axes))
    table = jnp.broadcast_to(table, sizes + soft.extent)
    return table.reshape(math.prod(sizes), *soft.extent)


def _largest_value(soft: SoftIndex) -> np.ndarray | Array:
    largest = soft.table.max(tuple(range(len(soft.factors))))
    # What is known stays so under jit: it may bound the support of a site.
    if soft.known:
        return np.broadcast_to(largest, soft.extent)
    return jnp.broadcast_to(largest, soft.extent)


def within_bounds(fn: Distribution, value: SoftIndex) -> SoftIndex:
    """Return a value of a site within the bounds that soft parameters set to it.

    A site with a soft count has the values up to the largest count. For each value of
    the count, what lies beyond it, and has probability zero, becomes the count itself:
    `count - value` is never negative.

    Args:
        fn: Distribution of the site, without wrappers.
        value: Value of the site.
    """
    if not isinstance(fn, SoftParameters):
        return value
    unbounded = value
    for path, parameter in fn.parameters.items():
        clip = _CLIPS.get(path[-1])
        if clip is not None:
            table, joint = enumerate_operands(clip, [value, parameter], value.extent)
            factors = tuple(joint.factors)
            weights = tuple(joint.weights)
            value = SoftIndex(
                held(table), weights, factors, value.extent, unbounded=unbounded
            )
    return value


# What keeps a value within a bound, by the name of the parameter.
_CLIPS: dict[str | int, Callable] = {
    "total_count": jnp.minimum,
    "high": jnp.minimum,
    "low": jnp.maximum,
}


# --- soft observations ----------------------------------------------------------------


class SoftlyObserved(Distribution):
    r"""A distribution at a soft value, averaged over its values.

    .. math:: \log p(z) = \sum_k w_k \log p(k)

    Shapes:
        values: `(K,)` and a shape that broadcasts with `batch_shape`.
        weights: likewise.

    Args:
        base_dist: The distribution.
        values: Joint values of the observation.
        weights: Their weights.
    """

    pytree_data_fields = ("base_dist", "values", "weights")

    def __init__(self, base_dist: Distribution, values: Array, weights: Array) -> None:
        self.base_dist = base_dist
        self.values = values
        self.weights = weights
        super().__init__(
            base_dist.batch_shape, base_dist.event_shape, validate_args=False
        )

    @property
    def support(self) -> constraints.Constraint | None:
        return self.base_dist.support

    def sample(self, key: Array | None, sample_shape: Shape = ()) -> Sample:
        return self.base_dist.sample(key, sample_shape)

    def log_prob(self, value: Sample, intermediates: Sample = None) -> Array:
        del value, intermediates  # the mean of the observation
        log_probs = jnp.asarray(jax.vmap(self.base_dist.log_prob)(self.values))
        return _average(log_probs, self.weights)


def with_soft_value(fn: Distribution, value: AbstractSoft, site: str) -> Distribution:
    """Return a distribution that scores a soft value, averaged over its values.

    Args:
        fn: Distribution, with its wrappers (`to_event`, `expand`, `mask`).
        value: The soft value that a site observes.
        site: Name of the site, for errors.

    Raises:
        TypeError: If the values are not known, or the site is one of vectors.
    """
    if isinstance(fn, Independent):
        base = with_soft_value(fn.base_dist, value, site)
        return base.to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, ExpandedDistribution):
        return with_soft_value(fn.base_dist, value, site).expand(fn.batch_shape)
    if isinstance(fn, MaskedDistribution):
        return with_soft_value(fn.base_dist, value, site).mask(wrapper_mask(fn))
    if isinstance(fn, SoftlyMasked):
        return SoftlyMasked(with_soft_value(fn.base_dist, value, site), fn.share)
    if isinstance(value, SoftReal) and (fn.event_dim or value.values is None):
        return fn  # scored at the average
    operation = f"observing it at site {site!r}"
    exact_value = exact(value, operation)
    if not isinstance(exact_value, SoftIndex):
        return fn
    if fn.event_dim:
        raise TypeError(refusal(value.site, operation))
    table = jnp.asarray(flat_table(exact_value))
    values = jnp.broadcast_to(table, (*table.shape[:1], *exact_value.extent))
    return SoftlyObserved(fn, values, flat_weights(exact_value))


# --- soft parameters ------------------------------------------------------------------


class SoftParameters(Distribution):
    r"""A distribution with soft integer parameters, averaged over their values.

    .. math:: \log p(x) = \sum_k w_k \log p(x \mid k)

    At one-hot weights it is the distribution at that value. Between them it is not
    normalized. Its samples are those at the most probable value.

    Shapes:
        states: each `(K,)` and a shape with the rank of `batch_shape`.
        weights: `(K,)` and such a shape.
        sample: as of the distribution.

    Args:
        base: Distribution with the largest values of its soft parameters.
        states: Joint values of the soft parameters, by where they are.
        weights: Their weights.

    Counterpart: :class:`pyro_concrete.soft_index.parameters.SoftParameters`.
    """

    pytree_data_fields = ("base", "states", "weights")
    pytree_aux_fields = ("rank",)
    # The soft parameters themselves, while the site of the distribution is handled.
    parameters: ClassVar[dict[Path, SoftIndex]] = {}

    def __init__(
        self, base: Distribution, states: dict[Path, Array], weights: Array
    ) -> None:
        self.base = base
        self.weights = weights
        # The paths are no keys of a tree: JAX could not sort them.
        self.states = States(states)
        self.rank = len(base.batch_shape)
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint | None:
        return self.base.support

    @property
    def has_rsample(self) -> bool:
        return self.base.has_rsample

    @property
    def has_enumerate_support(self) -> bool:
        return self.base.has_enumerate_support

    def enumerate_support(self, expand: bool = True) -> Array:
        return self.base.enumerate_support(expand)

    def sample(self, key: Array | None, sample_shape: Shape = ()) -> Sample:
        return self._most_probable().sample(key, sample_shape)

    def log_prob(self, value: Sample, intermediates: Sample = None) -> Array:
        del intermediates  # the sample of one value has none for the others
        return _average(self._log_probs(value), self._values_first(self.weights))

    def mixture_log_prob(self, value: Sample) -> Array:
        r"""Return the log-probability of the mixture over the values of the parameters.

        .. math:: \log \sum_k w_k p(x \mid k)

        A latent site has these: it is normalized, and a value that is impossible for
        some of the parameters is no less probable for it.

        Args:
            value: A value of the site.
        """
        log_probs = self._log_probs(value)
        weights = _with_rank(self._values_first(self.weights), log_probs.ndim)
        # Log-sum-exp, in which impossible values and weights of zero have no gradient.
        largest = jnp.where(weights > 0, log_probs, -jnp.inf).max(0)
        largest = lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0))
        total = (weights * jnp.exp(log_probs - largest)).sum(0)
        is_possible = total > 0
        log_total = jnp.log(jnp.where(is_possible, total, 1)) + largest
        return jnp.where(is_possible, log_total, -jnp.inf)

    def _log_probs(self, value: Sample) -> Array:
        """Return the log-probability for each value of the parameters."""

        def log_prob(states: States) -> Array:
            return log_prob_or_impossible(
                replace_parameters(self.base, states.values), value
            )

        return jax.vmap(log_prob)(jax.tree.map(self._values_first, self.states))

    def _values_first(self, x: Array) -> Array:
        """Move the axis of the values before those that scan or vmap have added."""
        return jnp.moveaxis(x, x.ndim - 1 - self.rank, 0)

    def _most_probable(self) -> Distribution:
        best_state = self._values_first(self.weights).argmax(0)

        def take_best(x: Array) -> Array:
            values = self._values_first(x)
            shape = jnp.broadcast_shapes(best_state.shape, values.shape[1:])
            values = jnp.broadcast_to(values, values.shape[:1] + shape)
            index = jnp.broadcast_to(best_state, shape)
            return jnp.take_along_axis(values, index[None], 0)[0]

        best_values = jax.tree.map(take_best, self.states).values
        return replace_parameters(self.base, best_values)


@jax.tree_util.register_pytree_node_class
class States:
    """Values of the soft parameters, by where they are."""

    def __init__(self, values: dict[Path, Array]) -> None:
        self.values = values

    def tree_flatten(self) -> tuple[tuple[Array, ...], tuple[Path, ...]]:
        """Return the arrays, and where they are."""
        return tuple(self.values.values()), tuple(self.values)

    @classmethod
    def tree_unflatten(
        cls, paths: tuple[Path, ...], arrays: tuple[Array, ...]
    ) -> "States":
        """Return the values again."""
        return cls(dict(zip(paths, arrays, strict=True)))


def _average(log_probs: Array, weights: Array) -> Array:
    """Return the weighted sum of log-probabilities over their first axis."""
    weights = _with_rank(weights, log_probs.ndim)
    return contract(log_probs, [weights], log_probs.shape[1:], log_probs.dtype)


def _with_rank(weights: Array, rank: int) -> Array:
    """Return weights with axes of size one behind the first, up to a rank."""
    new_axes = (1,) * (rank - weights.ndim)
    return weights.reshape(weights.shape[:1] + new_axes + weights.shape[1:])


def log_prob_or_impossible(fn: Distribution, value: ObservedValue) -> Array:
    """Return the log-probability, minus infinity beyond the bounds of an element.

    The formula of a count is not finite there, or NaN.

    Args:
        fn: Distribution without wrappers.
        value: Values from the support of any element.
    """
    fn = without_validation(fn)
    if isinstance(fn, BinomialProbs | BinomialLogits | BetaBinomial):
        log_prob = fn.log_prob(jnp.clip(value, 0, fn.total_count))
        is_possible = (value >= 0) & (value <= fn.total_count)
        return jnp.where(is_possible, log_prob, -jnp.inf)
    if isinstance(fn, DiscreteUniform):
        is_possible = (value >= fn.low) & (value <= fn.high)
        return jnp.where(is_possible, fn.log_prob(value), -jnp.inf)
    if isinstance(fn, ZeroInflatedProbs):
        base_log_prob = log_prob_or_impossible(fn.base_dist, value)
        log_prob = jnp.log1p(-fn.gate) + base_log_prob
        log_prob_of_zero = jnp.logaddexp(jnp.log(fn.gate), log_prob)
        return jnp.where(value == 0, log_prob_of_zero, log_prob)
    return jnp.asarray(fn.log_prob(value))


# --- vmap -----------------------------------------------------------------------------


@promote_batch_shape.register
def _promote_soft_parameters(d: SoftParameters) -> SoftParameters:
    new = copy.copy(d)
    new.base = promote_batch_shape(d.base)
    set_batch_shape(new, new.base.batch_shape)
    return new


@promote_batch_shape.register
def _promote_softly_observed(d: SoftlyObserved) -> SoftlyObserved:
    new = copy.copy(d)
    new.base_dist = promote_batch_shape(d.base_dist)
    set_batch_shape(new, new.base_dist.batch_shape)
    return new
