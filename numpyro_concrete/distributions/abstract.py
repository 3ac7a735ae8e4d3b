"""What the family shares: parameters, shapes, and the scoring of own samples.

Counterpart: ``pyro_concrete.distributions.abstract``.
"""

import copy
from collections.abc import Callable
from typing import Any, ClassVar

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
    """Parameters, shapes and the scoring of own samples; no density."""

    reparametrized_params: ClassVar = ["temperature", "logits"]
    pytree_data_fields = ("temperature", "logits")

    # What a subclass says of itself.
    _class_dims: ClassVar[int]  # 1: one logit a class, 0: one logit, of the value one
    _noise: ClassVar[Callable[[Array], Array]]  # uniforms to noise
    _noise_dims: Size = ()  # leading axes of the noise: more than one draw of it
    _scores_noise: ClassVar[bool] = True  # whether own samples are scored by noise

    def __init__(
        self,
        temperature: ArrayLike,
        *,
        probs: ArrayLike | None = None,
        logits: ArrayLike | None = None,
        validate_args: bool | None = None,
    ) -> None:
        check_temperature(temperature)
        validate = self._validate_args if validate_args is None else validate_args
        logits = as_logits(
            type(self).__name__, probs, logits, self._class_dims, validate
        )
        batch_shape, event_shape = self._split(logits.shape)
        if isinstance(temperature, float | int):
            # A NumPy scalar stays known under jit, where the KL asks for equality.
            wide = jnp.promote_types(logits.dtype, jnp.float32)
            temperature = np.asarray(temperature, wide)
        batch_shape = batch_shape_with(temperature, batch_shape)
        self._set(temperature, logits, batch_shape)
        shapes = tuple(batch_shape), tuple(event_shape)
        super().__init__(*shapes, validate_args=validate_args)

    @classmethod
    def _split(cls, shape: Size) -> tuple[Size, Size]:
        """Batch shape and event shape of logits of this shape."""
        return (shape[:-1], shape[-1:]) if cls._class_dims else (shape, ())

    def _set(self, temperature: ArrayLike, logits: Array, batch_shape: Size) -> None:
        scalar = not jnp.ndim(temperature)
        self.temperature = (
            temperature if scalar else jnp.broadcast_to(temperature, batch_shape)
        )
        classes = logits.shape[logits.ndim - self._class_dims :]
        self.logits = jnp.broadcast_to(logits, (*batch_shape, *classes))

    def expand(self, batch_shape: Size) -> "AbstractConcrete":
        """Return this distribution with a larger batch shape."""
        batch_shape = tuple(batch_shape)
        sizes = zip(reversed(self.batch_shape), reversed(batch_shape), strict=False)
        fits = all(own in (1, new) for own, new in sizes)
        if not fits or len(batch_shape) < len(self.batch_shape):
            raise ValueError(
                f"Cannot broadcast distribution of shape {self.batch_shape} to shape "
                f"{batch_shape}"
            )
        new = copy.copy(self)
        new._batch_shape = batch_shape
        new._set(self.temperature, self.logits, new._batch_shape)
        return new

    @property
    def probs(self) -> Array:
        """Probabilities of the discrete variable that this one relaxes."""
        return softmax(self.logits) if self._class_dims else sigmoid(self.logits)

    @property
    def discrete(self) -> Distribution:
        """The limit of temperature zero: the discrete variable that it relaxes."""
        family = OneHotCategorical if self._class_dims else Bernoulli
        return family(logits=self.logits, validate_args=self._validate_args)

    def like(self, temperature: ArrayLike, logits: ArrayLike) -> "AbstractConcrete":
        """Return a distribution of this kind with other parameters."""
        return type(self)(temperature, logits=logits)

    def to_simplex(self, point: Array) -> Array:
        """Return a point as weights of the classes, on the last axis; a bit has two."""
        raise NotImplementedError

    def vertex(self, hard: Array) -> Array:
        """Return the point of a value of the discrete variable."""
        raise NotImplementedError

    @property
    def centre(self) -> Array:
        """The point at the probabilities of the discrete variable."""
        raise NotImplementedError

    def sample(self, key: Array, sample_shape: Size = ()) -> Array:
        return self.sample_with_intermediates(key, sample_shape)[0]

    def sample_with_intermediates(
        self, key: Array, sample_shape: Size = ()
    ) -> tuple[Array, list[Any]]:
        """Return a sample and its noise, by which `log_prob` scores it."""
        wide = jnp.promote_types(self.logits.dtype, jnp.float32)
        shape = (*self._noise_dims, *self.shape(tuple(sample_shape)))
        noise = type(self)._noise(random.uniform(key, shape, wide))
        return self._from_noise(noise), [noise] if self._scores_noise else []

    @validate_sample
    def log_prob(self, value: Array, intermediates: list[Any] | None = None) -> Array:
        if intermediates:
            return self._noise_log_density(intermediates[0])
        return self._log_density(value)

    def _from_noise(self, noise: Array) -> Array:
        raise NotImplementedError

    def _noise_log_density(self, noise: Array) -> Array:
        raise NotImplementedError

    def _log_density(self, value: Array) -> Array:
        raise NotImplementedError
