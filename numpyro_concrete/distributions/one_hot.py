"""OneHotCategorical, which NumPyro lacks.

Counterpart: :class:`pyro.distributions.OneHotCategorical`.
"""

import copy
from typing import ClassVar

import jax.numpy as jnp
from jax import Array, random
from jax.nn import log_softmax, one_hot, softmax
from jax.typing import ArrayLike
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import validate_sample

from numpyro_concrete.distributions.constraints import Size
from numpyro_concrete.distributions.parameters import as_logits


class _OneHot(constraints.ParameterFreeConstraint):
    """Vectors of zeros with a single one."""

    is_discrete = True
    event_dim = 1

    def __call__(self, x: Array) -> Array:
        """Tell for each vector whether it is one-hot."""
        return ((x == 0) | (x == 1)).all(-1) & (x.sum(-1) == 1)

    def feasible_like(self, prototype: Array) -> Array:
        """Return the vector of the first class."""
        return jnp.zeros_like(prototype).at[..., 0].set(1)


class OneHotCategorical(Distribution):
    r"""One-hot vector of a categorical draw.

    .. math:: P(x = e_k) = \operatorname{softmax}(a)_k

    Samples have the dtype of the parameter, as their relaxation does: their product
    with a matrix is a row of the matrix.

    Shapes:
        logits: `batch_shape + (K,)`.
        sample: `sample_shape + batch_shape + (K,)`, zeros and a one.

    Args:
        probs: Class probabilities >= 0, of any sum. Exactly one of `probs`, `logits`.
        logits: Unnormalized log-probabilities, finite.
        validate_args: As in NumPyro.

    Raises:
        ValueError: If neither or both of `probs` and `logits` are given, or there are
            fewer than two classes.

    Example:
        >>> d = OneHotCategorical(probs=jnp.array([0.25, 0.75]))
        >>> round(float(d.log_prob(jnp.array([0.0, 1.0]))), 4)
        -0.2877

    Counterpart: :class:`pyro.distributions.OneHotCategorical`.
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}
    pytree_data_fields = ("logits",)
    support = _OneHot()
    has_enumerate_support = True

    def __init__(
        self,
        probs: ArrayLike | None = None,
        logits: ArrayLike | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        should_validate = validate_args
        if should_validate is None:
            should_validate = self._validate_args
        self.logits = as_logits("OneHotCategorical", probs, logits, 1, should_validate)
        shape = self.logits.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Size) -> "OneHotCategorical":
        """Return this distribution with a larger batch shape."""
        # NumPyro's ExpandedDistribution drops the event axis of enumerated values.
        new = copy.copy(self)
        new._batch_shape = tuple(batch_shape)
        new.logits = jnp.broadcast_to(self.logits, new.shape())
        return new

    @property
    def probs(self) -> Array:
        """Normalized probabilities."""
        return softmax(self.logits)

    @property
    def mean(self) -> Array:
        return self.probs

    @property
    def variance(self) -> Array:
        return self.probs * (1 - self.probs)

    @property
    def mode(self) -> Array:
        return self._one_hot(self.logits.argmax(-1))

    def entropy(self) -> Array:
        """Return the entropy in nats."""
        return -(self.probs * log_softmax(self.logits)).sum(-1)

    def sample(self, key: Array, sample_shape: Size = ()) -> Array:
        index = random.categorical(
            key, self.logits, shape=(*sample_shape, *self.batch_shape)
        )
        return self._one_hot(index)

    @validate_sample
    def log_prob(self, value: Array, intermediates: list | None = None) -> Array:
        return (value * log_softmax(self.logits)).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Array:
        n = self.event_shape[0]
        values = jnp.eye(n, dtype=self.logits.dtype)
        values = values.reshape((n,) + (1,) * len(self.batch_shape) + (n,))
        if not expand:
            return values
        return jnp.broadcast_to(values, (n, *self.shape()))

    def _one_hot(self, index: Array) -> Array:
        return one_hot(index, self.event_shape[0], dtype=self.logits.dtype)
