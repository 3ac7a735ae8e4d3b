"""Distributions of soft values and parameters: scored for every value, and averaged.

A soft value in a parameter of real numbers is its mean, as in any network. In one of
integers, such as the total count of a Binomial, the site is scored for every value of
the support, and the log-probabilities are averaged with the probabilities; so is a site
that observes a soft value.

Counterpart: ``numpyro_concrete.soft_index.parameters``.
"""

import copy
from collections.abc import Iterable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.torch_distribution import MaskedDistribution, TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint

from pyro_concrete.internals import Shape, intercept_construction, with_parameters
from pyro_concrete.ops.precision import can_be_read
from pyro_concrete.relaxation.finite_support import finite_values, log_probs
from pyro_concrete.soft_index.abstract import AbstractSoft, is_soft
from pyro_concrete.soft_index.algebra import Draw, aligned_states, expectation, union
from pyro_concrete.soft_index.refusals import SharedDrawsError, refusal
from pyro_concrete.soft_index.trees import Argument, Tree
from pyro_concrete.soft_index.value import SoftIndex, SoftReal, exact_or_none, plain

_NESTED = (Distribution, Transform, list, tuple)
# The parameters that a constructor keeps as they are given, but for broadcasting.
# Others are transformed, and the inverse of an average is not the average inverse.
# Probabilities of a Categorical are kept where they are normalized.
_KEPT_PARAMETERS: dict[type, tuple[str, ...]] = {
    dist.Bernoulli: ("probs", "logits"),
    dist.Binomial: ("probs", "logits"),
    dist.Categorical: ("probs",),
    dist.Exponential: ("rate",),
    dist.Gamma: ("concentration", "rate"),
    dist.Geometric: ("probs", "logits"),
    dist.Laplace: ("loc", "scale"),
    dist.Normal: ("loc", "scale"),
    dist.Poisson: ("rate",),
}


def _at_averaged_parameters(
    cls: Any, args: tuple, kwargs: dict[str, Any]
) -> Any | None:
    """Construct a distribution at the averages of its soft parameters.

    A constructor validates parameters, and normalizes probabilities: up to a dozen
    operations, which would be applied to every value. Where the parameters of each
    value are valid, the averages are as well. The soft values are put back afterward,
    for programs that read them.

    Args:
        cls: Class of the distribution.
        args: Positional arguments of its constructor.
        kwargs: Keyword arguments.

    Returns:
        The distribution, or None if it has to be constructed from what is given.
    """
    # Asked at each distribution of a program, and at those inside of it.
    if SoftReal not in map(type, args) and SoftReal not in map(type, kwargs.values()):
        return None
    kept = _KEPT_PARAMETERS.get(cls, ())
    arguments = dict(zip(cls.__signature__.parameters, args, strict=False)) | kwargs
    softs = {x: arguments[x] for x in kept if type(arguments.get(x)) is SoftReal}
    if not softs or (cls is dist.Categorical and not _is_normalized(softs["probs"])):
        return None
    averages = {name: soft.number for name, soft in softs.items()}
    fn = cls(**arguments | averages)
    for name, soft in softs.items():
        setattr(fn, name, soft.expand(getattr(fn, name).shape))
    return fn


def _is_normalized(probs: SoftReal) -> bool:
    """Whether the probabilities of each value are known to add up to one."""
    try:
        exact = exact_or_none(probs)
    except SharedDrawsError:
        return False
    if exact is None or not can_be_read(exact.states):
        return False
    error = (exact.states.detach().to(probs.dtype).sum(-1) - 1).abs()
    return bool((error <= 4 * torch.finfo(error.dtype).eps).all())


intercept_construction(_at_averaged_parameters)


def is_soft_parameter(fn: Any) -> bool:
    """Tell whether a distribution, without wrappers, has a soft parameter."""
    if isinstance(fn, SoftParameters):
        return False
    return _any_soft(vars(fn).values())


def _any_soft(values: Iterable[Argument]) -> bool:
    for x in values:
        if isinstance(x, Tensor):
            if is_soft(x):
                return True
        elif isinstance(x, _NESTED) and _any_soft(_parts(x)):
            return True
    return False


def _parts(x: Tree) -> Iterable[Argument]:
    if isinstance(x, list | tuple):
        return x
    return () if isinstance(x, SoftParameters) else getattr(x, "__dict__", {}).values()


def with_known_parameters(fn: Any, site: str | None = None) -> Any:
    """Return a distribution whose parameters are plain, or averaged over.

    Args:
        fn: Distribution without wrappers (`to_event`, `expand`, `mask`).
        site: Name of its sample site, for errors.

    Raises:
        TypeError: At an integer parameter that has a mean but no support, such as a
            sum of very many relaxed sites.
    """
    averaged = copy.copy(fn)
    parameters = {}
    constraints = getattr(fn, "arg_constraints", {})
    for name, value in vars(fn).items():
        if not _any_soft((value,)):
            continue
        constraint = constraints.get(name)
        if not is_soft(value):
            setattr(averaged, name, _known_parts(value, site))
        elif name.startswith("_") or _is_real(constraint, value):
            setattr(averaged, name, plain(value))
        else:
            parameters[name] = _in_bounds(_exact(fn, name, value, site), constraint)
            setattr(averaged, name, parameters[name])
    if not parameters:
        return averaged
    return SoftParameters(averaged, parameters)


def _known_parts(x: Tree, site: str | None) -> Tree:
    if isinstance(x, list | tuple):
        return type(x)([_known_parts(y, site) for y in x])
    if is_soft(x):
        return plain(x)
    if _any_soft((x,)):
        return with_known_parameters(x, site)
    return x


def _is_real(constraint: Constraint | None, value: Tensor) -> bool:
    if constraint is None:
        return isinstance(value, SoftReal)
    try:
        return not constraint.is_discrete
    except NotImplementedError:  # depends on other parameters, which are real
        return True


def _exact(fn: Any, name: str, value: AbstractSoft, site: str | None) -> SoftIndex:
    exact = exact_or_none(value)
    if exact is None:
        location = "" if site is None else f" at site {site!r}"
        operation = f"{type(fn).__name__}({name}=...){location}"
        raise TypeError(refusal(value.site, operation))
    return exact


def _in_bounds(x: SoftIndex, constraint: Constraint | None) -> SoftIndex:
    """Return a parameter whose values are possible ones.

    A difference of soft counts can be negative, with a probability that is zero at the
    values that a program draws. It counts as the nearest value that is possible.
    """
    bounds = {}
    for key, name in (("min", "lower_bound"), ("max", "upper_bound")):
        if isinstance(getattr(constraint, name, None), int | float):
            bounds[key] = getattr(constraint, name)
    if not bounds:
        return x
    return SoftIndex(x.states.clamp(**bounds), x.draws, x.shape)


def with_soft_value(fn: Any, value: AbstractSoft, site: str) -> Any:
    """Return a distribution that scores a soft value, averaged over its values.

    Args:
        fn: Distribution without wrappers, whose parameters are known.
        value: The soft value that a site observes.
        site: Name of the site, for errors.

    Raises:
        TypeError: If the values are not known, or a vector has one probability.
    """
    exact = exact_or_none(value)
    if exact is not None and not fn.event_dim:
        if isinstance(fn, SoftParameters):
            return SoftParameters(fn.base, fn.parameters, fn.batch_shape, exact)
        return SoftParameters(fn, {}, fn.batch_shape, exact)
    if isinstance(value, SoftReal):
        return fn  # scored at the average
    raise TypeError(refusal(value.site, f"observing it at site {site!r}"))


class SoftParameters(TorchDistribution):
    r"""A distribution with soft integer parameters, averaged over their values.

    .. math:: \log p(x) = \sum_k w_k \log p(x \mid k)

    At one-hot probabilities it is the distribution at that value. Between them it is
    not normalized. Its samples are those at the most probable value.

    Shapes:
        sample: as of the distribution.

    Args:
        base: Distribution with parameters that are `SoftIndex`.
        parameters: These parameters, by name.
        batch_shape: Batch shape, by default that of the distribution.
        observation: A soft value that is scored in place of the mean of it.

    Example:
        >>> from pyro.distributions import Binomial
        >>> from pyro_concrete.soft_index import soft_index
        >>> count = soft_index("n", torch.tensor([2.0, 4.0]), torch.ones(2) / 2)
        >>> fn = with_known_parameters(Binomial(count, torch.tensor(0.5)))
        >>> fn.log_prob(torch.tensor(0.0)) / torch.log(torch.tensor(0.5))
        tensor(3.)

    Counterpart: :class:`numpyro_concrete.soft_index.parameters.SoftParameters`.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(
        self,
        base: Any,
        parameters: dict[str, SoftIndex],
        batch_shape: Shape | None = None,
        observation: SoftIndex | None = None,
    ) -> None:
        self.base = base
        self.parameters = parameters
        self.observation = observation
        if batch_shape is None:
            batch_shape = base.batch_shape
        super().__init__(torch.Size(batch_shape), base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return self.base.has_rsample

    @property
    def has_enumerate_support(self) -> bool:
        return self.base.has_enumerate_support

    @property
    def support(self) -> Any:
        return self._largest().support

    def expand(self, batch_shape: Shape, _instance: Any = None) -> "SoftParameters":
        return SoftParameters(self.base, self.parameters, batch_shape, self.observation)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        return self._most_probable(sample_shape).sample()

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        return self._most_probable(sample_shape).rsample()

    def log_prob(self, value: Tensor) -> Tensor:
        return expectation(*self._log_probs_of_each(value))

    def mixture_log_prob(self, value: Tensor) -> Tensor:
        r"""Return the log-probability of the mixture over the soft parameters.

        .. math:: \log \sum_k w_k p(x \mid k)

        A relaxed site has these: between one-hot probabilities they are normalized,
        and a value that is impossible for some counts only is no impossible one.
        """
        terms, draws = self._log_probs_of_each(value)
        probability = expectation(terms.exp(), draws)
        is_possible = probability > 0
        # The slope of the logarithm at zero is infinite.
        log_probability = torch.where(is_possible, probability, 1.0).log()
        return log_probability.masked_fill(~is_possible, -torch.inf)

    def _log_probs_of_each(self, value: Tensor) -> tuple[Tensor, tuple[Draw, ...]]:
        """Log-probabilities at every joint value, the draws' dimensions first."""
        soft_values = [*self.parameters.values()]
        observation = self.observation
        if observation is not None:
            soft_values.append(observation)
        draws = union(x.draws for x in soft_values)
        rank = max(len(self.batch_shape), value.dim() - len(self.event_shape))
        lifted = {
            name: aligned_states(x.states, x.draws, draws, rank)
            for name, x in self.parameters.items()
        }
        leading = (1,) * (rank - len(self.batch_shape))
        supports = [len(d.probabilities) for d in draws]
        shape = (*supports, *leading, *self.batch_shape)
        if observation is not None:
            value = aligned_states(observation.states, observation.draws, draws, rank)
            shape = torch.broadcast_shapes(shape, observation.shape)
        terms = log_probs(with_parameters(self.base, lifted, shape), value)
        return terms.expand(torch.broadcast_shapes(terms.shape, shape)), draws

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = finite_values(self._largest())
        if values is None:
            raise NotImplementedError
        values = values.reshape(-1, *(1,) * len(self.batch_shape))
        if not expand:
            return values
        return values.expand(-1, *self.batch_shape)

    def _largest(self) -> Any:
        largest = {
            name: x.states.flatten(0, len(x.draws) - 1).amax(0).expand(x.shape)
            for name, x in self.parameters.items()
        }
        return with_parameters(self.base, largest, self.base.batch_shape)

    def _most_probable(self, sample_shape: Shape) -> Any:
        probable = {name: _mode(x) for name, x in self.parameters.items()}
        fn = with_parameters(self.base, probable, self.base.batch_shape)
        return fn.expand((*sample_shape, *self.batch_shape))


class MaskedSoftly(MaskedDistribution):
    """A distribution that is scored with the probability that its mask is true.

    Shapes:
        mask: broadcasts with the batch shape.

    Args:
        base_dist: The distribution.
        mask: A soft truth.

    Example:
        >>> from pyro.distributions import Normal
        >>> from pyro_concrete.soft_index import soft_index
        >>> z = soft_index("z", torch.arange(2), torch.tensor([0.25, 0.75]))
        >>> zero, fn = torch.tensor(0.0), Normal(0.0, 1.0)
        >>> MaskedSoftly(fn, z == 1).log_prob(zero) / fn.log_prob(zero)
        tensor(0.7500)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        return plain(super().log_prob(value))

    def score_parts(self, value: Tensor) -> ScoreParts:
        return ScoreParts(*map(plain, super().score_parts(value)))


def masked(fn: Distribution, mask: Tensor | bool) -> Any:
    """Return a distribution under a mask that may be soft."""
    if is_soft(mask):
        return MaskedSoftly(fn, mask)
    # Every distribution of Pyro has `mask`, by a mixin of its own.
    masked_fn: Any = fn
    return masked_fn.mask(mask)


def _mode(x: SoftIndex) -> Tensor:
    """The value at the most probable draws, for each position."""
    states = x.states.expand(*x.states.shape[: len(x.draws)], *x.shape)
    for draw in x.draws:
        most_probable = draw.positions(x.dim()).expand(-1, *x.shape).argmax(0)
        most_probable = most_probable.expand(1, *states.shape[1:])
        states = states.gather(0, most_probable).squeeze(0)
    return states
