"""The family for n classes: ExpConcrete and Concrete.

Counterpart: ``numpyro_concrete.distributions.categorical``.
"""

from typing import Any, ClassVar

from torch import Tensor
from torch.distributions import constraints

from pyro_concrete import ops
from pyro_concrete.distributions.abstract import AbstractConcrete
from pyro_concrete.distributions.constraints import (
    finite_vector,
    log_simplex,
    rounded_simplex,
)
from pyro_concrete.ops.categorical import exp_concrete_draw
from pyro_concrete.ops.noise import gumbel_


class ExpConcrete(AbstractConcrete):
    r"""Log of a Concrete variable: the log-space relaxation of a one-hot categorical.

    .. math:: y_k = (a_k + G_k)/t - \log\sum_i \exp((a_i + G_i)/t)

    The site to sample and score for n classes. As the temperature falls to zero, exp(y)
    becomes a one-hot sample of the categorical with these logits; as it grows, the
    uniform point. The argmax is a categorical sample at every temperature. `log_prob`
    is the density over the log-ratios y_k - y_K.

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape + (K,)`.
        sample: `sample_shape + batch_shape + (K,)`, with logsumexp 0.

    Args:
        temperature: Relaxation temperature, > 0.
        probs: Class probabilities >= 0, of any sum. Exactly one of `probs`, `logits`.
        logits: Unnormalized log-probabilities, finite.
        validate_args: As in Pyro.

    Raises:
        ValueError: If neither or both of `probs` and `logits` are given, the
            temperature is not positive, shapes do not broadcast, or there are fewer
            than two classes.

    Numerics: finite in float32 from temperature 1e-3 with logits to 1000. Half
    precision is computed in float32, and its log-densities are returned so; in float16
    the gradient of a density in its value needs temperature * (K - 1) < 65504.

    Example:
        >>> d = ExpConcrete(0.5, logits=torch.zeros(4, 3))
        >>> d.rsample((2,)).shape, d.batch_shape, d.event_shape
        (torch.Size([2, 4, 3]), torch.Size([4]), torch.Size([3]))

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, app. C.3.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`numpyro_concrete.ExpConcrete`.
    """

    arg_constraints: ClassVar = {
        "temperature": constraints.positive,
        "logits": finite_vector,
    }
    support = log_simplex
    _class_dims = 1
    _uniform_to_noise = staticmethod(gumbel_)
    _fused_draw = staticmethod(exp_concrete_draw)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, over the log-ratios; the logits do not enter."""
        entropy: Any = ops.exp_concrete_entropy(self.temperature, self.event_shape[0])
        return entropy.expand(self.batch_shape)

    def to_simplex(self, point: Tensor) -> Tensor:
        return point.exp()

    def vertex(self, hard: Tensor) -> Tensor:
        return hard.to(self.logits.dtype).log()

    @property
    def center(self) -> Tensor:
        return self.logits.log_softmax(-1)

    def _from_noise(self, noise: Tensor) -> Tensor:
        return ops.exp_concrete(noise, self._temperature_value, self.logits)

    def _noise_log_density(self, noise: Tensor) -> Tensor:
        return ops.exp_concrete_noise_log_density(noise, self._temperature_value)

    def _log_density(self, value: Tensor) -> Tensor:
        return ops.exp_concrete_log_density(value, self._temperature_value, self.logits)


class Concrete(AbstractConcrete):
    r"""Concrete variable on the simplex: the relaxation of a one-hot categorical.

    .. math:: x_k = \frac{\exp((a_k + G_k)/t)}{\sum_i \exp((a_i + G_i)/t)}

    For reading and plotting; in an ELBO use `ExpConcrete`, whose samples do not
    underflow. `log_prob` is the density over x_1, ..., x_(K-1). At a temperature of at
    most 1/(K-1) it is log-convex: no mode in the interior.

    Shapes:
        temperature: scalar, or broadcastable to `batch_shape`.
        logits: `batch_shape + (K,)`.
        sample: `sample_shape + batch_shape + (K,)`, on the simplex.

    Args:
        temperature: Relaxation temperature, > 0.
        probs: Class probabilities >= 0, of any sum. Exactly one of `probs`, `logits`.
        logits: Unnormalized log-probabilities, finite.
        validate_args: As in Pyro.

    Raises:
        ValueError: If neither or both of `probs` and `logits` are given, the
            temperature is not positive, shapes do not broadcast, or there are fewer
            than two classes.

    Numerics: in float32, samples reach the boundary below temperature 0.2 or so. The
    distribution's own sample is still scored exactly; any other value on the boundary
    is scored as the nearest interior number, which is finite but biased.

    Example:
        >>> d = Concrete(0.5, probs=torch.tensor([0.2, 0.8]))
        >>> torch.allclose(d.rsample((3,)).sum(-1), torch.ones(3))
        True

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 10.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`numpyro_concrete.Concrete`.
    """

    arg_constraints: ClassVar = ExpConcrete.arg_constraints
    support = rounded_simplex
    _class_dims = 1
    _uniform_to_noise = staticmethod(gumbel_)

    def _from_noise(self, noise: Tensor) -> Tensor:
        return ops.exp_concrete(noise, self._temperature_value, self.logits).exp()

    def _noise_log_density(self, noise: Tensor) -> Tensor:
        log_value = ops.exp_concrete(noise, self._temperature_value, self.logits)
        log_kappa = ops.exp_concrete_noise_log_density(noise, self._temperature_value)
        return log_kappa - log_value.sum(-1)

    def _log_density(self, value: Tensor) -> Tensor:
        return ops.concrete_log_density(value, self._temperature_value, self.logits)
