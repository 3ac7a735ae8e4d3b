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
from collections.abc import Iterator
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
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import lazy_property

from numpyro_concrete.soft_index import SoftIndex, is_soft, plain, refusal
from numpyro_concrete.soft_index.algebra import (
    Joint,
    enumerate_operands,
    flat_table,
    flat_weights,
    held,
    ranked,
    run,
)
from numpyro_concrete.soft_index.expectation import bounded, contract
from numpyro_concrete.soft_index.interpreter import value_of
from numpyro_concrete.soft_index.value import Known, SoftReal, exact

Path = tuple[Any, ...]


def is_soft_parameter(fn: Any) -> bool:
    """Tell whether a distribution, with its wrappers, has a soft parameter."""
    return any(True for _ in _soft_parameters(fn))


def with_known_parameters(fn: Any, site: str | None = None) -> Any:
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
        base, mask = with_known_parameters(fn.base_dist, site), value_of(fn._mask)
        if not is_soft(mask):
            return base.mask(mask)
        share = jnp.broadcast_to(mask.number(), base.batch_shape)
        return SoftlyMasked(base, share)
    known, integers = fn, {}
    for path, owner, soft in list(_soft_parameters(fn)):
        if _is_real(owner, path[-1], soft):
            known = _replaced(known, {path: plain(soft)})
            continue
        place = "" if site is None else f" at site {site!r}"
        soft = exact(soft, f"{type(owner).__name__}({path[-1]}=...){place}")
        if isinstance(soft, SoftIndex):
            integers[path] = _in_bounds(owner, path[-1], soft)
        else:
            known = _replaced(known, {path: soft})
    return averaged(known, integers) if integers else known


def _in_bounds(owner: Any, name: Any, soft: SoftIndex) -> SoftIndex:
    """Return a parameter whose values are possible ones.

    A difference of soft counts can be negative, with a probability that is zero at the
    values that a program draws. It counts as the nearest value that is possible.
    """
    constraint = getattr(owner, "arg_constraints", {}).get(name)
    low = getattr(constraint, "lower_bound", None)
    high = getattr(constraint, "upper_bound", None)
    table = soft.table
    if isinstance(low, int | float):
        table = run(lambda x: jnp.maximum(x, jnp.asarray(low, x.dtype)), table)
    if isinstance(high, int | float):
        table = run(lambda x: jnp.minimum(x, jnp.asarray(high, x.dtype)), table)
    return dataclasses.replace(soft, values=held(table))


def averaged(fn: Any, parameters: dict[Path, SoftIndex]) -> "SoftParameters":
    """Return the distribution that is averaged over some of its parameters.

    Args:
        fn: Distribution without wrappers.
        parameters: Soft parameters, by where they are.
    """
    rank = len(fn.batch_shape)
    joint = Joint(fn.batch_shape)
    softs = []
    for path, soft in parameters.items():
        if len(soft.extent) > rank:
            raise NotImplementedError(
                f"site {soft.site!r} is relaxed, and {type(fn).__name__} takes it as a "
                f"vector, {path[-1]}. Leave it out with infer={{'relax': False}}"
            )
        softs.append(ranked(soft, rank))
    where = [joint.add(x) for x in softs]
    joint.check()
    sizes, states = joint.sizes(), {}
    for path, soft, axes in zip(parameters, softs, where, strict=True):
        table = jnp.asarray(joint.spread(soft.table, axes))
        full = jnp.broadcast_to(table, sizes + soft.extent)
        states[path] = full.reshape(math.prod(sizes), *soft.extent)
    whole = SoftIndex(
        Known(np.zeros(())), tuple(joint.weights), tuple(joint.factors), joint.shape
    )
    weights = flat_weights(whole)
    largest = {p: _largest(x) for p, x in zip(parameters, softs, strict=True)}
    result = SoftParameters(_replaced(fn, largest), states, weights)
    result.parameters = parameters
    return result


def within_bounds(fn: Any, value: SoftIndex) -> SoftIndex:
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
    for path, soft in fn.parameters.items():
        bound = _BOUNDS.get(path[-1])
        if bound is not None:
            table, joint = enumerate_operands(bound, [value, soft], value.extent)
            factors, weights = tuple(joint.factors), tuple(joint.weights)
            value = SoftIndex(
                held(table), weights, factors, value.extent, unbounded=unbounded
            )
    return value


# What keeps a value within a bound, by the name of the parameter.
_BOUNDS = {"total_count": jnp.minimum, "high": jnp.minimum, "low": jnp.maximum}


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

    def __init__(self, base_dist: Any, values: Array, weights: Array) -> None:
        self.base_dist = base_dist
        self.values, self.weights = values, weights
        super().__init__(
            base_dist.batch_shape, base_dist.event_shape, validate_args=False
        )

    @property
    def support(self) -> Any:
        return self.base_dist.support

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Any:
        return self.base_dist.sample(key, sample_shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        del value, intermediates  # the mean of the observation
        terms = jax.vmap(self.base_dist.log_prob)(self.values)
        missing = terms.ndim - self.weights.ndim
        shape = (*self.weights.shape[:1], *(1,) * missing, *self.weights.shape[1:])
        weights = [self.weights.reshape(shape)]
        return contract(terms, weights, terms.shape[1:], terms.dtype)


def with_soft_value(fn: Any, value: Any, site: str) -> Any:
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
        return with_soft_value(fn.base_dist, value, site).mask(fn._mask)
    if isinstance(fn, SoftlyMasked):
        return SoftlyMasked(with_soft_value(fn.base_dist, value, site), fn.share)
    known = isinstance(value, SoftIndex) or value.values is not None
    if isinstance(value, SoftReal) and (fn.event_dim or not known):
        return fn  # scored at the average
    exact_value = exact(value, f"observing it at site {site!r}")
    if not isinstance(exact_value, SoftIndex):
        return fn
    if fn.event_dim:
        raise TypeError(refusal(value.site, f"observing it at site {site!r}"))
    table = jnp.asarray(flat_table(exact_value))
    values = jnp.broadcast_to(table, (*table.shape[:1], *exact_value.extent))
    return SoftlyObserved(fn, values, flat_weights(exact_value))


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

    def __init__(self, base: Any, states: dict[Path, Array], weights: Array) -> None:
        self.base, self.weights = base, weights
        # A tuple of pairs, for the paths are no keys that JAX could sort.
        self.states = States(states)
        self.rank = len(base.batch_shape)
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    @property
    def has_rsample(self) -> bool:
        return self.base.has_rsample

    @property
    def has_enumerate_support(self) -> bool:
        return self.base.has_enumerate_support

    def enumerate_support(self, expand: bool = True) -> Array:
        return self.base.enumerate_support(expand)

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Any:
        return self._most_probable().sample(key, sample_shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        del intermediates  # the sample of one value has none for the others

        def score(states: States) -> Array:
            return log_prob_or_impossible(_replaced(self.base, states.values), value)

        terms = jax.vmap(score)(jax.tree.map(self._first, self.states))
        weights = self._first(self.weights)
        missing = terms.ndim - weights.ndim
        weights = weights.reshape(
            weights.shape[:1] + (1,) * missing + weights.shape[1:]
        )
        return contract(terms, [weights], terms.shape[1:], terms.dtype)

    def mixture_log_prob(self, value: Any) -> Array:
        r"""Return the log-probability of the mixture over the values of the parameters.

        .. math:: \log \sum_k w_k p(x \mid k)

        A latent site has these: it is normalized, and a value that is impossible for
        some of the parameters is no less probable for it.
        """

        def score(states: States) -> Array:
            return log_prob_or_impossible(_replaced(self.base, states.values), value)

        terms = jax.vmap(score)(jax.tree.map(self._first, self.states))
        weights = self._first(self.weights)
        missing = terms.ndim - weights.ndim
        weights = weights.reshape(
            weights.shape[:1] + (1,) * missing + weights.shape[1:]
        )
        largest = jnp.where(weights > 0, terms, -jnp.inf).max(0)
        largest = lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0))
        total = (weights * jnp.exp(terms - largest)).sum(0)
        possible = total > 0
        return jnp.where(
            possible, jnp.log(jnp.where(possible, total, 1)) + largest, -jnp.inf
        )

    def _first(self, x: Array) -> Array:
        """The axis of the values in front of those that scan or vmap have added."""
        return jnp.moveaxis(x, x.ndim - 1 - self.rank, 0)

    def _most_probable(self) -> Any:
        best = self._first(self.weights).argmax(0)

        def at(x: Array) -> Array:
            x = self._first(x)
            shape = jnp.broadcast_shapes(best.shape, x.shape[1:])
            index = jnp.broadcast_to(best, shape)
            x = jnp.broadcast_to(x, x.shape[:1] + index.shape)
            return jnp.take_along_axis(x, index[None], 0)[0]

        return _replaced(self.base, jax.tree.map(at, self.states).values)


@jax.tree_util.register_pytree_node_class
class States:
    """Values of the soft parameters, by where they are."""

    def __init__(self, values: dict[Path, Any]) -> None:
        self.values = values

    def tree_flatten(self) -> tuple[tuple, tuple]:
        """Return the arrays, and where they are."""
        return tuple(self.values.values()), tuple(self.values)

    @classmethod
    def tree_unflatten(cls, paths: tuple, arrays: tuple) -> "States":
        """Return the values again."""
        return cls(dict(zip(paths, arrays, strict=True)))


def log_prob_or_impossible(fn: Any, value: Any) -> Array:
    """Return the log-probability, minus infinity beyond the bounds of an element.

    The formula of a count is not finite there, or NaN.

    Args:
        fn: Distribution without wrappers.
        value: Values from the support of any element.
    """
    fn = _unchecked(fn)
    if isinstance(fn, BinomialProbs | BinomialLogits | BetaBinomial):
        inside = fn.log_prob(jnp.clip(value, 0, fn.total_count))
        return jnp.where((value >= 0) & (value <= fn.total_count), inside, -jnp.inf)
    if isinstance(fn, DiscreteUniform):
        possible = (value >= fn.low) & (value <= fn.high)
        return jnp.where(possible, fn.log_prob(value), -jnp.inf)
    if isinstance(fn, ZeroInflatedProbs):
        return _of_zero_inflated(fn, value)
    return fn.log_prob(value)


def _of_zero_inflated(fn: Any, value: Any) -> Array:
    scores = jnp.log1p(-fn.gate) + log_prob_or_impossible(fn.base_dist, value)
    return jnp.where(value == 0, jnp.logaddexp(jnp.log(fn.gate), scores), scores)


def _unchecked(fn: Any) -> Any:
    new = copy.copy(fn)
    new._validate_args = False
    return new


class SoftlyMasked(Distribution):
    """A distribution that is scored with the probability that its mask is true.

    Shapes:
        share: the batch shape.

    Args:
        base_dist: The distribution.
        share: Probability that the mask is true.
    """

    pytree_data_fields = ("base_dist", "share")

    def __init__(self, base_dist: Any, share: Array) -> None:
        self.base_dist, self.share = base_dist, share
        shapes = base_dist.batch_shape, base_dist.event_shape
        super().__init__(*shapes, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base_dist.support

    @property
    def has_rsample(self) -> bool:
        return self.base_dist.has_rsample

    @property
    def has_enumerate_support(self) -> bool:
        return self.base_dist.has_enumerate_support

    def enumerate_support(self, expand: bool = True) -> Array:
        return self.base_dist.enumerate_support(expand)

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Any:
        return self.base_dist.sample(key, sample_shape)

    def sample_with_intermediates(
        self, key: Array | None, sample_shape: tuple[int, ...] = ()
    ) -> Any:
        return self.base_dist.sample_with_intermediates(key, sample_shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        if intermediates:
            score = self.base_dist.log_prob(value, intermediates)
        else:
            score = self.base_dist.log_prob(value)
        finite, restore = bounded(score)
        return restore(self.share * finite)


@promote_batch_shape.register
def _promote_soft_parameters(d: SoftParameters) -> SoftParameters:
    new: Any = copy.copy(d)
    new.base = promote_batch_shape(d.base)
    new._batch_shape = new.base.batch_shape
    return new


@promote_batch_shape.register
def _promote_softly_observed(d: SoftlyObserved) -> SoftlyObserved:
    new: Any = copy.copy(d)
    new.base_dist = promote_batch_shape(d.base_dist)
    new._batch_shape = new.base_dist.batch_shape
    return new


@promote_batch_shape.register
def _promote_softly_masked(d: SoftlyMasked) -> SoftlyMasked:
    new: Any = copy.copy(d)
    new.base_dist = promote_batch_shape(d.base_dist)
    new._batch_shape = new.base_dist.batch_shape
    return new


# --- where the parameters are ---------------------------------------------------------


def _soft_parameters(owner: Any, path: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    """Where soft parameters are, in whose hands, and what they are."""
    for key, value in _items(owner):
        soft = value_of(value)
        if is_soft(soft) and not _is_cached(owner, key):
            yield (*path, key), owner, soft
        else:
            yield from _soft_parameters(value, (*path, key))


def _items(owner: Any) -> Any:
    if isinstance(owner, Distribution | Transform | constraints.Constraint):
        return list(vars(owner).items()) if hasattr(owner, "__dict__") else []
    return list(enumerate(owner)) if isinstance(owner, list | tuple) else []


def _is_cached(owner: Any, key: Any) -> bool:
    return (
        isinstance(key, str)
        and isinstance(getattr(type(owner), key, None), lazy_property)
        and key not in getattr(owner, "arg_constraints", {})
    )


def _replaced(owner: Any, values: dict[Path, Any]) -> Any:
    """The same distribution with other parameters."""
    # Its leaves are not mapped: some distributions would lose what is no leaf.
    groups: dict[Any, dict[Path, Any]] = {}
    for (key, *rest), value in values.items():
        groups.setdefault(key, {})[tuple(rest)] = value
    if isinstance(owner, list | tuple):
        new = list(owner)
        for key, inner in groups.items():
            new[key] = inner[()] if () in inner else _replaced(owner[key], inner)
        return type(owner)(new)
    new = copy.copy(owner)
    fields = vars(new)
    for key, value in list(fields.items()):
        if _is_cached(owner, key) and is_soft(value_of(value)):
            del fields[key]
    for key, inner in groups.items():
        fields[key] = inner[()] if () in inner else _replaced(fields[key], inner)
    if isinstance(new, Distribution):
        fields["_validate_args"] = False
    return new


def _is_real(owner: Any, name: Any, soft: Any) -> bool:
    """Whether a parameter is a real number, so that a mean can stand for it."""
    constraint = getattr(owner, "arg_constraints", {}).get(name)
    try:
        if constraint is not None:
            return not constraint.is_discrete
    except NotImplementedError:
        # It depends on other parameters, as the bounds of an interval do.
        return not _is_discrete(owner)
    if isinstance(owner, Distribution) and not name.startswith("_"):
        return jnp.issubdtype(soft.aval().dtype, jnp.inexact)  # it may be an index
    return soft.aval().dtype != bool


def _is_discrete(fn: Any) -> bool:
    try:
        return bool(fn.is_discrete)
    except (AttributeError, NotImplementedError, TypeError):
        return False


def _largest(soft: SoftIndex) -> np.ndarray | Array:
    n = len(soft.factors)
    largest = soft.table.max(tuple(range(n)))
    # What is known stays so under jit: it may bound the support of a site.
    broadcast = np.broadcast_to if soft.known else jnp.broadcast_to
    return broadcast(largest, soft.extent)
