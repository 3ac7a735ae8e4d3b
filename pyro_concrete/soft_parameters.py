"""Distributions whose parameters are soft: scored for every value, and averaged.

A soft value in a parameter of real numbers is its mean, as in any function of reals.
In one of integers, such as the total count of a Binomial, the site is scored for
every value of the support, and the log-probabilities are averaged with the weights.

Twin: ``numpyro_concrete.soft_parameters``.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_concrete.soft_index import SoftIndex, is_soft, plain, refusal
from pyro_concrete.soft_index.algebra import lined_up, total, union


def is_soft_parameter(fn: Any) -> bool:
    """Tell whether a distribution, without wrappers, has a soft parameter."""
    return any(map(is_soft, vars(fn).values()))


def with_known_parameters(fn: Any) -> Any:
    """Return a distribution whose parameters are plain, or averaged over.

    Args:
        fn: Distribution without wrappers (`to_event`, `expand`, `mask`).

    Raises:
        TypeError: At an integer parameter that has a mean but no support, such as a
            sum of relaxed sites.
    """
    known = copy.copy(fn)
    for name, value in vars(fn).items():
        if not is_soft(value):
            continue
        if name.startswith("_") or _is_real(fn.arg_constraints.get(name)):
            setattr(known, name, plain(value))
        elif not isinstance(value, SoftIndex):
            operation = f"{type(fn).__name__}({name}=...)"
            raise TypeError(refusal(value.site, operation))
    return SoftParameters(known) if is_soft_parameter(known) else known


class SoftParameters(TorchDistribution):
    r"""A distribution with soft integer parameters, averaged over their values.

    .. math:: \log p(x) = \sum_k w_k \log p(x \mid k)

    At one-hot weights it is the distribution at that value. Between them it is not
    normalized. Its samples are those at the most probable value.

    Shapes:
        sample: as of the distribution.

    Args:
        base: Distribution with parameters that are `SoftIndex`.

    Example:
        >>> from pyro.distributions import Binomial
        >>> from pyro_concrete.soft_index import soft_index
        >>> count = soft_index("n", torch.tensor([2.0, 4.0]), torch.ones(2) / 2)
        >>> fn = with_known_parameters(Binomial(count, torch.tensor(0.5)))
        >>> fn.log_prob(torch.tensor(0.0)) / torch.log(torch.tensor(0.5))
        tensor(3.)

    Twin: :class:`numpyro_concrete.soft_parameters.SoftParameters`.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, base: Any, batch_shape: Any = None) -> None:
        self.base = base
        self.parameters = {
            name: x for name, x in vars(base).items() if isinstance(x, SoftIndex)
        }
        batch_shape = base.batch_shape if batch_shape is None else batch_shape
        super().__init__(batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return self.base.has_rsample

    @property
    def has_enumerate_support(self) -> bool:
        return self.base.has_enumerate_support

    @property
    def support(self) -> Any:
        return self._largest().support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SoftParameters":
        return SoftParameters(self.base, torch.Size(batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self._most_probable(sample_shape).sample()

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self._most_probable(sample_shape).rsample()

    def log_prob(self, value: Tensor) -> Tensor:
        draws = union(x.draws for x in self.parameters.values())
        rank = max(len(self.batch_shape), value.dim() - len(self.event_shape))
        lifted = {
            name: lined_up(x.states, x.draws, draws, rank)
            for name, x in self.parameters.items()
        }
        ones = (1,) * (rank - len(self.batch_shape))
        shape = (*(len(d.weights) for d in draws), *ones, *self.batch_shape)
        terms = _replaced(self.base, lifted, shape).log_prob(value)
        return total(terms.expand(torch.broadcast_shapes(terms.shape, shape)), draws)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self._largest().enumerate_support(expand)

    def _largest(self) -> Any:
        largest = {
            name: x.states.flatten(0, len(x.draws) - 1).amax(0).expand(x.shape)
            for name, x in self.parameters.items()
        }
        return _replaced(self.base, largest, self.batch_shape)

    def _most_probable(self, sample_shape: Any) -> Any:
        probable = {name: _mode(x) for name, x in self.parameters.items()}
        fn = _replaced(self.base, probable, self.base.batch_shape)
        return fn.expand((*sample_shape, *self.batch_shape))


def _is_real(constraint: Any) -> bool:
    try:
        return constraint is not None and not constraint.is_discrete
    except NotImplementedError:  # depends on other parameters, which are real
        return True


def _replaced(base: Any, parameters: dict, batch_shape: Sequence[int]) -> Any:
    """The same distribution with other parameters, in another batch shape."""
    other = copy.copy(base)
    vars(other).update(parameters)
    other._batch_shape = torch.Size(batch_shape)
    other._validate_args = False
    return other


def _mode(x: SoftIndex) -> Tensor:
    """The value at the most probable draws, for each position."""
    states = x.states.expand(*x.states.shape[: len(x.draws)], *x.shape)
    for draw in x.draws:
        at = draw.positions(x.dim()).expand(-1, *x.shape).argmax(0)
        at = at.expand(1, *states.shape[1:])
        states = states.gather(0, at).squeeze(0)
    return states
