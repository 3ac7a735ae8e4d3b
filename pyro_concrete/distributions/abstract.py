"""What the family shares: parameters, shapes, and the scoring of its own samples.

A distribution scores the last sample that it drew by the noise of the sample. That is
exact, and needs no inverse of the sampling map, only the noise and the temperature. So
`rsample` caches the sample together with a function
that gives its log-density, and `log_prob` looks whether it is asked about that sample.
Every other value is scored in full.

Counterpart: ``numpyro_concrete.distributions.abstract``.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from pyro.distributions import Bernoulli, OneHotCategorical, TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_concrete.distributions.constraints import Size
from pyro_concrete.distributions.parameters import (
    as_logits,
    as_temperature,
    batch_shape_with,
    check_temperature,
)
from pyro_concrete.internals import number_of_writes
from pyro_concrete.ops.precision import (
    Temperature,
    is_plain,
    known_finite,
    promote_half,
    read_number,
)

# From uniforms, a temperature and logits to a sample and its log-density.
FusedDraw: TypeAlias = Callable[[Tensor, float, Tensor], tuple[Tensor, Tensor]]


class _Draw(NamedTuple):
    """A sample, and a function that gives its log-density."""

    value: Tensor
    log_density: Callable[[], Tensor]


class _CachedDraw(NamedTuple):
    """The last sample, and how often it had been changed in place when it was drawn."""

    draw: _Draw
    version: int

    def is_draw_of(self, value: Tensor) -> bool:
        """Tell whether a value is the sample, unchanged since it was drawn."""
        return value is self.draw.value and number_of_writes(value) == self.version


class AbstractConcrete(TorchDistribution):
    """Parameters, shapes and the scoring of own samples; no density.

    A subclass sets `_class_dims` and `_uniform_to_noise`, and implements `_from_noise`,
    `_log_density` and, if it scores from noise, `_noise_log_density`. A subclass for
    `relax` also implements `to_simplex`, `vertex`, `center` and, if binary, `_to_prob`.

    `probs` and `discrete` assume noise under which the argmax of noise plus logits has
    the probabilities softmax(logits); of one logit, the sign has sigmoid(logits).
    """

    has_rsample = True

    # --- what a subclass declares
    # Number of class dims of the logits. 1: a logit for each class, on the last dim. 0:
    # one logit, the log-odds of one.
    _class_dims: ClassVar[int]
    # Maps independent uniforms on [0, 1), which may be 0, in place to the noise of the
    # family. Shape: _noise_shape + sample_shape + batch_shape, and (classes,) if there
    # are. Assign a staticmethod.
    _uniform_to_noise: ClassVar[Callable[[Tensor], Tensor]]
    # A faster draw for numbers as temperatures and plain autograd, if there is one: a
    # staticmethod.
    _fused_draw: ClassVar[FusedDraw | None] = None
    # Attributes beside the parameters, which `expand` hands on.
    _extra_attributes: ClassVar[tuple[str, ...]] = ()
    # Leading dims of the noise, for a sample that needs more than one draw of it.
    _noise_shape: Size = ()
    # Whether own samples are scored from their noise; a mass scores them by value.
    _scores_from_noise: ClassVar[bool] = True

    # --- what an instance holds, beside `logits`
    # The temperature as it was given: the KL compares it, and a guide starts from it.
    _original_temperature: Temperature
    # The temperature to compute with: a number if it is a known scalar.
    _temperature_value: Temperature
    _cached_draw: _CachedDraw | None = None

    def __init__(
        self,
        temperature: Tensor | float | np.ndarray,
        *,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        temperature = as_temperature(temperature)
        check_temperature(temperature)
        if validate_args is None:
            validate_args = self._validate_args
        logits = as_logits(
            type(self).__name__, probs, logits, self._class_dims, validate_args
        )
        batch_shape, event_shape = self._split_shape(logits.shape)
        batch_shape = batch_shape_with(temperature, batch_shape)
        self._original_temperature = temperature
        self._set_parameters(_number_if_constant(temperature), logits, batch_shape)
        # Pyro checks every element. One sum is finite only if every logit is, and costs
        # less.
        super().__init__(
            torch.Size(batch_shape),
            torch.Size(event_shape),
            validate_args=validate_args and not self._has_plainly_valid_parameters(),
        )
        self._validate_args = validate_args

    def _has_plainly_valid_parameters(self) -> bool:
        number = read_number(self._temperature_value)
        return isinstance(number, float) and number > 0 and known_finite(self.logits)

    @classmethod
    def _split_shape(cls, shape: Size) -> tuple[Size, Size]:
        """Return the batch shape and the event shape of logits of this shape."""
        if cls._class_dims:
            return shape[:-1], shape[-1:]
        return shape, ()

    def _set_parameters(
        self, temperature: Temperature, logits: Tensor, batch_shape: Size
    ) -> None:
        if isinstance(temperature, Tensor) and temperature.dim():
            temperature = _expand(temperature, batch_shape)
        self._temperature_value = temperature
        class_shape = logits.shape[logits.dim() - self._class_dims :]
        self.logits = _expand(logits, (*batch_shape, *class_shape))

    @property
    def temperature(self) -> Tensor:
        """The temperature; a number becomes a tensor where it is asked for as one."""
        if isinstance(self._temperature_value, Tensor):
            return self._temperature_value
        dtype = torch.promote_types(self.logits.dtype, torch.float32)
        return self.logits.new_full((), self._temperature_value, dtype=dtype)

    def expand(self, batch_shape: Size, _instance: Any = None) -> "AbstractConcrete":
        """Return this distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        new._original_temperature = self._original_temperature
        for name in self._extra_attributes:
            setattr(new, name, getattr(self, name))
        new._set_parameters(self._temperature_value, self.logits, batch_shape)
        super(AbstractConcrete, new).__init__(
            batch_shape, self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last sample out: it belongs to the graph of its process."""
        return {k: v for k, v in self.__dict__.items() if k != "_cached_draw"}

    @property
    def probs(self) -> Tensor:
        """Probabilities of the discrete variable that this one relaxes."""
        if self._class_dims:
            return self.logits.softmax(-1)
        return self.logits.sigmoid()

    @property
    def discrete(self) -> TorchDistributionMixin:
        """The limit of temperature zero: the discrete variable that it relaxes."""
        family = OneHotCategorical if self._class_dims else Bernoulli
        return family(logits=self.logits, validate_args=self._validate_args)

    def like(self, temperature: Temperature, logits: Tensor) -> "AbstractConcrete":
        """Return a distribution of this family with other parameters."""
        return type(self)(temperature, logits=logits)

    def to_simplex(self, point: Tensor) -> Tensor:
        """Return the class probabilities of a sample, on the last dim; two if binary.

        Args:
            point: A sample, in the space of the distribution.
        """
        raise NotImplementedError

    def _to_prob(self, point: Tensor) -> Tensor:
        """Return the probability of one, of a sample of a binary variable."""
        raise NotImplementedError

    def vertex(self, hard: Tensor) -> Tensor:
        """Return the sample that stands for a value of the discrete variable.

        Args:
            hard: One-hot vectors, or zeros and ones.
        """
        raise NotImplementedError

    @property
    def center(self) -> Tensor:
        """The sample at the probabilities of the discrete variable."""
        raise NotImplementedError

    def rsample(self, sample_shape: Size = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        dtype = torch.promote_types(self.logits.dtype, torch.float32)
        uniform = torch.rand(
            (*self._noise_shape, *shape), dtype=dtype, device=self.logits.device
        )
        draw = self._draw(uniform)
        self._cached_draw = None
        # A sample without gradient keeps its value when the parameters change, so it is
        # scored in full. So is every sample under a compiler, which cannot know whether
        # a value was changed in place.
        moves = draw.value.requires_grad and not torch.compiler.is_compiling()
        if moves and self._scores_from_noise:
            self._cached_draw = _CachedDraw(draw, number_of_writes(draw.value))
        return draw.value

    def _draw(self, uniform: Tensor) -> _Draw:
        temperature = self._temperature_value
        carries_gradient = self.logits.requires_grad and torch.is_grad_enabled()
        is_number = not isinstance(temperature, Tensor)
        if self._fused_draw and carries_gradient and is_number and is_plain():
            logits = promote_half(self.logits)
            value, log_density = self._fused_draw(uniform, temperature, logits)
            return _Draw(value.to(self.logits.dtype), lambda: log_density)
        noise = type(self)._uniform_to_noise(uniform)
        return _Draw(self._from_noise(noise), lambda: self._tied_log_density(noise))

    def _tied_log_density(self, noise: Tensor) -> Tensor:
        """Return the log-density of a sample, with a gradient of zero in the logits."""
        # The logits cancel. Their graph stays connected, for code that asks for it.
        anchor = self.logits.sum(-1) if self._class_dims else self.logits
        return torch.add(self._noise_log_density(noise), anchor, alpha=0)

    def log_prob(self, value: Tensor) -> Tensor:
        cached = self._cached_draw
        if cached is not None and cached.is_draw_of(value):
            return cached.draw.log_density()
        if self._validate_args:
            self._validate_sample(value)
        return self._log_density(value)

    def _from_noise(self, noise: Tensor) -> Tensor:
        raise NotImplementedError

    def _noise_log_density(self, noise: Tensor) -> Tensor:
        """Return the log-density of the value made from this noise."""
        raise NotImplementedError

    def _log_density(self, value: Tensor) -> Tensor:
        raise NotImplementedError


def _number_if_constant(temperature: Temperature) -> Temperature:
    """Return a scalar tensor without gradient as a number, where it can be read."""
    if isinstance(temperature, Tensor) and not temperature.requires_grad:
        return read_number(temperature)
    return temperature


def _expand(x: Tensor, shape: Size) -> Tensor:
    # A leaf of the graph stays one where it can: other tensors do not deepcopy.
    if x.shape == tuple(shape):
        return x
    return x.expand(tuple(shape))
