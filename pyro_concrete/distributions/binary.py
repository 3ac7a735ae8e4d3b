"""The family for two values: LogitBinaryConcrete and BinaryConcrete.

Counterpart: ``numpyro_concrete.distributions.binary``.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyro_concrete import ops
from pyro_concrete.distributions.abstract import AbstractConcrete
from pyro_concrete.distributions.constraints import finite
from pyro_concrete.ops.binary import logit_binary_concrete_draw
from pyro_concrete.ops.noise import logistic_


class LogitBinaryConcrete(AbstractConcrete):
    r"""Logit of a binary Concrete variable: the logit-space relaxation of a Bernoulli.

    .. math:: y = (a + L)/t

    The site to sample and score for two values: a logistic with location a/t and scale
    1/t. As the temperature falls to zero, sigmoid(y) becomes a Bernoulli sample with
    log-odds a; y > 0 is one at every temperature.

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape`.
        sample: `sample_shape + batch_shape`, real.

    Args:
        temperature: Relaxation temperature, > 0.
        probs: Probability of one, in [0, 1]. Exactly one of `probs`, `logits`.
        logits: Log-odds of one, finite.
        validate_args: As in Pyro.

    Raises:
        ValueError: If neither or both of `probs` and `logits` are given, the
            temperature is not positive, or shapes do not broadcast.

    Numerics: finite in float32 from temperature 1e-3 with logits to 1000. Half
    precision is computed in float32, and its log-densities are returned so.

    Example:
        >>> d = LogitBinaryConcrete(0.5, logits=torch.zeros(4))
        >>> d.rsample((2,)).shape, d.batch_shape, d.event_shape
        (torch.Size([2, 4]), torch.Size([4]), torch.Size([]))

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. B.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`numpyro_concrete.LogitBinaryConcrete`.
    """

    arg_constraints: ClassVar = {
        "temperature": constraints.positive,
        "logits": finite,
    }
    support = constraints.real
    _class_dims = 0
    _uniform_to_noise = staticmethod(logistic_)
    _fused_draw = staticmethod(logit_binary_concrete_draw)

    @property
    def mean(self) -> Tensor:
        return self.logits / self.temperature

    @property
    def variance(self) -> Tensor:
        return (math.pi**2 / 3 / self.temperature.square()).expand(self.batch_shape)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, 2 - log t; the logits do not enter."""
        entropy: Any = ops.logit_binary_concrete_entropy(self.temperature)
        return entropy.expand(self.batch_shape)

    def cdf(self, value: Tensor) -> Tensor:
        return (self.temperature * value - self.logits).sigmoid()

    def icdf(self, value: Tensor) -> Tensor:
        return (self.logits + value.logit()) / self.temperature

    def to_simplex(self, point: Tensor) -> Tensor:
        # Each probability is computed without subtracting from one, which would round.
        # Stacked along the first dim, those of one class are adjacent in memory.
        return torch.stack([(-point).sigmoid(), point.sigmoid()]).movedim(0, -1)

    def _to_prob(self, point: Tensor) -> Tensor:
        return point.sigmoid()

    def vertex(self, hard: Tensor) -> Tensor:
        return (2 * hard.to(self.logits.dtype) - 1) * torch.inf

    @property
    def center(self) -> Tensor:
        return self.logits

    def _from_noise(self, noise: Tensor) -> Tensor:
        return ops.logit_binary_concrete(noise, self._temperature_value, self.logits)

    def _noise_log_density(self, noise: Tensor) -> Tensor:
        noise_density = ops.logit_binary_concrete_noise_log_density
        return noise_density(noise, self._temperature_value)

    def _log_density(self, value: Tensor) -> Tensor:
        return ops.logit_binary_concrete_log_density(
            value, self._temperature_value, self.logits
        )


class BinaryConcrete(AbstractConcrete):
    r"""Binary Concrete variable on the unit interval: the relaxation of a Bernoulli.

    .. math:: x = \frac{1}{1 + \exp(-(a + L)/t)}

    For reading and plotting; in an ELBO use `LogitBinaryConcrete`, whose samples do not
    saturate. At a temperature of at most 1 its density is log-convex: no interior mode.

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape`.
        sample: `sample_shape + batch_shape`, in [0, 1].

    Args:
        temperature: Relaxation temperature, > 0.
        probs: Probability of one, in [0, 1]. Exactly one of `probs`, `logits`.
        logits: Log-odds of one, finite.
        validate_args: As in Pyro.

    Raises:
        ValueError: If neither or both of `probs` and `logits` are given, the
            temperature is not positive, or shapes do not broadcast.

    Numerics: in float32, 16 % of the samples round to exactly 0 or 1 at temperature
    0.1. The distribution's own sample is still scored exactly; any other value on the
    boundary is scored as the nearest interior number, which is finite but biased.

    Example:
        >>> d = BinaryConcrete(1.0, probs=torch.tensor(0.5))
        >>> d.log_prob(torch.tensor([0.1, 0.9])).abs() < 1e-6
        tensor([True, True])

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 24.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`numpyro_concrete.BinaryConcrete`.
    """

    arg_constraints: ClassVar = LogitBinaryConcrete.arg_constraints
    support = constraints.unit_interval
    _class_dims = 0
    _uniform_to_noise = staticmethod(logistic_)

    def cdf(self, value: Tensor) -> Tensor:
        return (self.temperature * value.logit() - self.logits).sigmoid()

    def icdf(self, value: Tensor) -> Tensor:
        return ((self.logits + value.logit()) / self.temperature).sigmoid()

    def _from_noise(self, noise: Tensor) -> Tensor:
        return ops.logit_binary_concrete(
            noise, self._temperature_value, self.logits
        ).sigmoid()

    def _noise_log_density(self, noise: Tensor) -> Tensor:
        logit = ops.logit_binary_concrete(noise, self._temperature_value, self.logits)
        log_one = logsigmoid(logit)
        log_zero = logsigmoid(-logit)
        noise_density = ops.logit_binary_concrete_noise_log_density
        return noise_density(noise, self._temperature_value) - log_one - log_zero

    def _log_density(self, value: Tensor) -> Tensor:
        return ops.binary_concrete_log_density(
            value, self._temperature_value, self.logits
        )
