"""What the family shares: parameters, shapes, and the scoring of own samples.

Counterpart: ``numpyro_concrete.distributions.abstract``.
"""

from collections.abc import Callable
from typing import Any, ClassVar

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
from pyro_concrete.ops.precision import (
    is_plain,
    known_finite,
    promote_half,
    read_number,
)


def _expanded(x: Tensor, shape: Size) -> Tensor:
    # A leaf of the graph stays one where it can: other tensors do not deepcopy.
    return x if x.shape == tuple(shape) else x.expand(tuple(shape))


class AbstractConcrete(TorchDistribution):
    """Parameters, shapes and the scoring of own samples; no density."""

    has_rsample = True
    # A value, its version, and what gives its log-density.
    _own: tuple[Tensor, int, Callable[[], Tensor]] | None = None

    _t: Tensor | float  # the temperature, a number if it was given as one

    # What a subclass says of itself.
    _class_dims: ClassVar[int]  # 1: one logit a class, 0: one logit, of the value one
    _noise: ClassVar[Callable[[Tensor], Tensor]]  # uniforms to noise, in place
    # Uniforms, a number as temperature, and logits to a value and its log-density.
    _at_once: ClassVar[Callable[[Tensor, float, Tensor], Any] | None] = None
    _kept: ClassVar[tuple[str, ...]] = ()  # attributes that `expand` leaves as they are
    _noise_dims: Size = ()  # leading dims of the noise: more than one draw of it
    _scores_noise: ClassVar[bool] = True  # whether own samples are scored by noise

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
        validate = self._validate_args if validate_args is None else validate_args
        logits = as_logits(
            type(self).__name__, probs, logits, self._class_dims, validate
        )
        batch_shape, event_shape = self._split(logits.shape)
        # As it was given: what the KL compares, and what a guide starts from.
        self._root = temperature
        batch_shape = batch_shape_with(temperature, batch_shape)
        constant = isinstance(temperature, Tensor) and not temperature.requires_grad
        number = read_number(temperature) if constant else temperature
        self._set(number, logits, batch_shape)
        shapes = torch.Size(batch_shape), torch.Size(event_shape)
        # The host looks at every element; a finite sum says as much, and costs less.
        looks = validate and not self._is_plainly_valid()
        super().__init__(*shapes, validate_args=looks)
        self._validate_args = validate

    def _is_plainly_valid(self) -> bool:
        number = read_number(self._t)
        return isinstance(number, float) and number > 0 and known_finite(self.logits)

    @classmethod
    def _split(cls, shape: Size) -> tuple[Size, Size]:
        """Batch shape and event shape of logits of this shape."""
        return (shape[:-1], shape[-1:]) if cls._class_dims else (shape, ())

    def _set(
        self, temperature: Tensor | float, logits: Tensor, batch_shape: Size
    ) -> None:
        classes = logits.shape[logits.dim() - self._class_dims :]
        batched = isinstance(temperature, Tensor) and temperature.dim()
        self._t: Any = _expanded(temperature, batch_shape) if batched else temperature
        self.logits = _expanded(logits, (*batch_shape, *classes))

    @property
    def temperature(self) -> Tensor:
        """The temperature; a number becomes a tensor where it is asked for as one."""
        if isinstance(self._t, Tensor):
            return self._t
        dtype = torch.promote_types(self.logits.dtype, torch.float32)
        return self.logits.new_full((), self._t, dtype=dtype)

    def expand(self, batch_shape: Size, _instance: Any = None) -> "AbstractConcrete":
        """Return this distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        new._root = self._root
        for name in self._kept:
            setattr(new, name, getattr(self, name))
        new._set(self._t, self.logits, batch_shape)
        super(AbstractConcrete, new).__init__(
            batch_shape, self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last sample behind: it belongs to the graph of its process."""
        return {name: x for name, x in self.__dict__.items() if name != "_own"}

    @property
    def probs(self) -> Tensor:
        """Probabilities of the discrete variable that this one relaxes."""
        logits = self.logits
        return logits.softmax(-1) if self._class_dims else logits.sigmoid()

    @property
    def discrete(self) -> TorchDistributionMixin:
        """The limit of temperature zero: the discrete variable that it relaxes."""
        family = OneHotCategorical if self._class_dims else Bernoulli
        return family(logits=self.logits, validate_args=self._validate_args)

    def like(self, temperature: Tensor | float, logits: Tensor) -> "AbstractConcrete":
        """Return a distribution of this kind with other parameters."""
        return type(self)(temperature, logits=logits)

    def to_simplex(self, point: Tensor) -> Tensor:
        """Return a point as weights of the classes, on the last dim; a bit has two."""
        raise NotImplementedError

    def _to_bit(self, point: Tensor) -> Tensor:
        """The weight of one, of a point of two values."""
        raise NotImplementedError

    def vertex(self, hard: Tensor) -> Tensor:
        """Return the point of a value of the discrete variable."""
        raise NotImplementedError

    @property
    def centre(self) -> Tensor:
        """The point at the probabilities of the discrete variable."""
        raise NotImplementedError

    def rsample(self, sample_shape: Size = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        shape = (*self._noise_dims, *shape)
        dtype = torch.promote_types(self.logits.dtype, torch.float32)
        uniform = torch.rand(shape, dtype=dtype, device=self.logits.device)
        value, density = self._drawn(uniform)
        # Only a value that carries gradients moves with its parameters. A compiler
        # cannot see whether a value was changed in place; there it is scored in full.
        attached = value.requires_grad and not torch.compiler.is_compiling()
        own = attached and self._scores_noise
        self._own = (value, value._version, density) if own else None
        return value

    def _drawn(self, uniform: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """A value, and what gives its log-density."""
        logits = self.logits
        attached = logits.requires_grad and torch.is_grad_enabled()
        number = not isinstance(self._t, Tensor)
        if self._at_once is not None and attached and number and is_plain():
            value, density = self._at_once(uniform, self._t, promote_half(logits))
            return value.to(logits.dtype), lambda: density
        noise = type(self)._noise(uniform)
        return self._from_noise(noise), lambda: self._tied_density(noise)

    def _tied_density(self, noise: Tensor) -> Tensor:
        """The log-density, tied to the logits, which cancel, by a gradient of zero."""
        anchor = self.logits.sum(-1) if self._class_dims else self.logits
        return torch.add(self._noise_log_density(noise), anchor, alpha=0)

    def log_prob(self, value: Tensor) -> Tensor:
        own = self._own
        if own is not None and value is own[0] and value._version == own[1]:
            return own[2]()
        if self._validate_args:
            self._validate_sample(value)
        return self._log_density(value)

    def _from_noise(self, noise: Tensor) -> Tensor:
        raise NotImplementedError

    def _noise_log_density(self, noise: Tensor) -> Tensor:
        raise NotImplementedError

    def _log_density(self, value: Tensor) -> Tensor:
        raise NotImplementedError
