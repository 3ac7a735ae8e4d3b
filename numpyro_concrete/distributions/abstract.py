"""What the family shares: parameters, shapes, and the scoring of its own samples.

A sample is scored by its noise wherever the backend hands the noise on from
`sample_with_intermediates` to `log_prob`. That is exact, and needs no inverse of the
sampling map, only the noise and the temperature. A value that comes without its noise
is scored in full.

Counterpart: ``pyro_concrete.distributions.abstract``.
"""

import copy
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.nn import sigmoid, softmax
from jax.typing import ArrayLike
from numpyro.distributions import Bernoulli, Distribution
from numpyro.distributions.util import validate_sample

from numpyro_concrete.distributions.constraints import Size
from numpyro_concrete.distributions.one_hot import OneHotCategorical
from numpyro_concrete.distributions.parameters import (
    as_logits,
    batch_shape_with,
    check_temperature,
)


class AbstractConcrete(Distribution):
    """Parameters, shapes and the scoring of own samples; no density.

    A subclass sets `_class_dims` and `_uniform_to_noise`, and implements `_from_noise`,
    `_log_density` and, if it scores from noise, `_noise_log_density`. A subclass for
    `relax` also implements `to_simplex`, `vertex` and `center`.

    `probs` and `discrete` assume noise under which the argmax of noise plus logits has
    the probabilities softmax(logits); of one logit, the sign has sigmoid(logits).
    """

    reparametrized_params: ClassVar = ["temperature", "logits"]
    pytree_data_fields = ("temperature", "logits")

    # --- what a subclass declares
    # Number of class axes of the logits. 1: a logit for each class, on the last axis.
    # 0: one logit, the log-odds of one.
    _class_dims: ClassVar[int]
    # Maps independent uniforms on [0, 1), which may be 0, to the noise of the family.
    # Shape: _noise_shape + sample_shape + batch_shape, and (classes,) if there are.
    # Assign a staticmethod.
    _uniform_to_noise: ClassVar[Callable[[Array], Array]]
    # Leading axes of the noise, for a sample that needs more than one draw of it.
    _noise_shape: Size = ()
    # Whether own samples are scored from their noise; a mass scores them by value.
    _scores_from_noise: ClassVar[bool] = True

    def __init__(
        self,
        temperature: ArrayLike,
        *,
        probs: ArrayLike | None = None,
        logits: ArrayLike | None = None,
        validate_args: bool | None = None,
    ) -> None:
        check_temperature(temperature)
        should_validate = validate_args
        if should_validate is None:
            should_validate = self._validate_args
        logits = as_logits(
            type(self).__name__, probs, logits, self._class_dims, should_validate
        )
        batch_shape, event_shape = self._split_shape(logits.shape)
        if isinstance(temperature, float | int):
            # A NumPy scalar stays known under jit, where the KL of two distributions
            # asks whether their temperatures are equal.
            dtype = jnp.promote_types(logits.dtype, jnp.float32)
            temperature = np.asarray(temperature, dtype)
        batch_shape = batch_shape_with(temperature, batch_shape)
        self._set_parameters(temperature, logits, batch_shape)
        super().__init__(
            tuple(batch_shape), tuple(event_shape), validate_args=validate_args
        )

    @classmethod
    def _split_shape(cls, shape: Size) -> tuple[Size, Size]:
        """Return the batch shape and the event shape of logits of this shape."""
        if cls._class_dims:
            return shape[:-1], shape[-1:]
        return shape, ()

    def _set_parameters(
        self, temperature: ArrayLike, logits: Array, batch_shape: Size
    ) -> None:
        if jnp.ndim(temperature):
            temperature = jnp.broadcast_to(temperature, batch_shape)
        self.temperature = temperature
        class_shape = logits.shape[logits.ndim - self._class_dims :]
        self.logits = jnp.broadcast_to(logits, (*batch_shape, *class_shape))

    def expand(self, batch_shape: Size) -> "AbstractConcrete":
        """Return this distribution with a larger batch shape."""
        batch_shape = tuple(batch_shape)
        if not _can_expand(self.batch_shape, batch_shape):
            raise ValueError(
                f"Cannot broadcast distribution of shape {self.batch_shape} to shape "
                f"{batch_shape}"
            )
        new = copy.copy(self)
        new._batch_shape = batch_shape
        new._set_parameters(self.temperature, self.logits, batch_shape)
        return new

    @property
    def probs(self) -> Array:
        """Probabilities of the discrete variable that this one relaxes."""
        if self._class_dims:
            return softmax(self.logits)
        return sigmoid(self.logits)

    @property
    def discrete(self) -> Distribution:
        """The limit of temperature zero: the discrete variable that it relaxes."""
        family = OneHotCategorical if self._class_dims else Bernoulli
        return family(logits=self.logits, validate_args=self._validate_args)

    def like(self, temperature: ArrayLike, logits: ArrayLike) -> "AbstractConcrete":
        """Return a distribution of this family with other parameters."""
        return type(self)(temperature, logits=logits)

    def to_simplex(self, point: Array) -> Array:
        """Return the class probabilities of a sample, on the last axis; two if binary.

        Args:
            point: A sample, in the space of the distribution.
        """
        raise NotImplementedError

    def vertex(self, hard: Array) -> Array:
        """Return the sample that stands for a value of the discrete variable.

        Args:
            hard: One-hot vectors, or zeros and ones.
        """
        raise NotImplementedError

    @property
    def center(self) -> Array:
        """The sample at the probabilities of the discrete variable."""
        raise NotImplementedError

    def sample(self, key: Array, sample_shape: Size = ()) -> Array:
        return self.sample_with_intermediates(key, sample_shape)[0]

    def sample_with_intermediates(
        self, key: Array, sample_shape: Size = ()
    ) -> tuple[Array, list[Array]]:
        """Return a sample and its noise, by which `log_prob` scores it."""
        dtype = jnp.promote_types(self.logits.dtype, jnp.float32)
        shape = (*self._noise_shape, *self.shape(tuple(sample_shape)))
        noise = type(self)._uniform_to_noise(random.uniform(key, shape, dtype))
        value = self._from_noise(noise)
        if self._scores_from_noise:
            return value, [noise]
        return value, []

    @validate_sample
    def log_prob(self, value: Array, intermediates: list[Array] | None = None) -> Array:
        if intermediates:
            return self._noise_log_density(intermediates[0])
        return self._log_density(value)

    def _from_noise(self, noise: Array) -> Array:
        raise NotImplementedError

    def _noise_log_density(self, noise: Array) -> Array:
        """Return the log-density of the value made from this noise."""
        raise NotImplementedError

    def _log_density(self, value: Array) -> Array:
        raise NotImplementedError


def _can_expand(shape: Size, larger_shape: Size) -> bool:
    if len(larger_shape) < len(shape):
        return False
    sizes = zip(reversed(shape), reversed(larger_shape), strict=False)
    return all(size in (1, larger_size) for size, larger_size in sizes)
