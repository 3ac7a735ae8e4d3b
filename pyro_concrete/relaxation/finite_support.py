"""The finite support of a discrete distribution, and its log-probabilities there.

Any distribution that can enumerate its support has one. An unbounded one has it after a
truncation, and `Support.truncated_mass` has the probability of the values beyond.

Counterpart: ``numpyro_concrete.relaxation.finite_support``.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from pyro.distributions import BetaBinomial, ZeroInflatedDistribution
from pyro.distributions.torch_distribution import (
    TorchDistribution,
    TorchDistributionMixin,
)
from torch import Tensor
from torch.distributions import (
    Binomial,
    Categorical,
    MixtureSameFamily,
    OneHotCategorical,
    constraints,
)

from pyro_concrete.internals import without_validation
from pyro_concrete.relaxation.messages import (
    AnyDistribution,
    Shape,
    truncated_mass_name,
)

# A warning says so if the truncated probability is larger than this.
_NOTABLE_MASS = 0.01
# Number of values beyond which no truncation by mass is looked for.
_MOST_VALUES = 2**20


class Support(NamedTuple):
    """A finite support, and the log-probability of each of its values.

    Attributes:
        values: Values of the site, in the order of the classes.
        logits: Log-probabilities, the classes last; not normalized after a truncation.
        truncated_mass: Truncated probability, or None where there is no truncation.
    """

    values: Shaped[Tensor, " classes"]
    logits: Float[Tensor, "*batch classes"]
    truncated_mass: Float[Tensor, "*batch"] | None = None


def support_of(
    name: str, fn: TorchDistributionMixin, truncate: int | float | None = None
) -> Support:
    """Return the finite support of a discrete distribution.

    Args:
        name: Name of the site, for errors.
        fn: Distribution without wrappers (`to_event`, `expand`, `mask`).
        truncate: For an unbounded support: the largest value to keep, or a float in
            (0, 1), the largest probability to truncate.

    Raises:
        ValueError: If the support is unbounded and is not truncated.
        NotImplementedError: If the values are vectors other than one-hot ones.

    Example:
        >>> from pyro.distributions import Geometric
        >>> support = support_of("n", Geometric(torch.tensor(0.5)), truncate=7)
        >>> support.values.tolist(), round(float(support.truncated_mass), 4)
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 0.0039)

    Counterpart: :func:`numpyro_concrete.relaxation.finite_support.support_of`.
    """
    if isinstance(fn, Categorical | OneHotCategorical):
        classes = torch.arange(fn.logits.shape[-1], device=fn.logits.device)
        return Support(values=classes, logits=fn.logits)
    if fn.event_dim:
        raise NotImplementedError(
            f"site {name!r} ~ {type(fn).__name__}: relax takes scalar and one-hot "
            "sites. Write it as several such sites, or leave it unrelaxed with "
            "infer={'relax': False}"
        )
    component = _component_of(fn)
    values = finite_values(component)
    if values is not None:
        return Support(values=values, logits=_logits(fn, values))
    lower_bound = getattr(component.support, "lower_bound", None)
    if lower_bound is None or truncate is None:
        raise ValueError(
            f"site {name!r} ~ {type(fn).__name__}: its support is not finite. Truncate "
            f"it, relax(..., truncate={{{name!r}: 50}}) for values up to 50, or leave "
            "it unrelaxed with infer={'relax': False}"
        )
    return _truncated(name, fn, int(lower_bound), truncate)


def only_value(fn: TorchDistributionMixin) -> Tensor | None:
    """Return the value of a discrete distribution that has one, or None.

    Args:
        fn: Distribution without wrappers (`to_event`, `expand`, `mask`).

    Example:
        >>> from pyro.distributions import Categorical
        >>> only_value(Categorical(torch.ones(4, 1)))
        tensor(0)

    Counterpart: :func:`numpyro_concrete.relaxation.finite_support.only_value`.
    """
    if isinstance(fn, Categorical | OneHotCategorical):
        if fn.logits.shape[-1] > 1:
            return None
        if isinstance(fn, OneHotCategorical):
            return fn.logits.new_ones(1)
        return fn.logits.new_zeros(()).long()
    if fn.event_dim:
        return None
    values = finite_values(_component_of(fn))
    if values is None or len(values) > 1:
        return None
    return values[0]


def _component_of(fn: AnyDistribution) -> AnyDistribution:
    """The distribution that has the values, inside of mixtures."""
    while True:
        if isinstance(fn, ZeroInflatedDistribution):
            fn = fn.base_dist
        elif isinstance(fn, MixtureSameFamily):
            fn = fn.component_distribution
        else:
            return fn


def finite_values(fn: AnyDistribution) -> Tensor | None:
    """Return the finitely many values of any batch element, or None.

    Args:
        fn: Distribution without wrappers.

    Example:
        >>> finite_values(Binomial(torch.tensor([1.0, 2.0]), torch.tensor(0.5)))
        tensor([0., 1., 2.])
    """
    if isinstance(fn, Binomial | BetaBinomial):
        # `enumerate_support` raises if counts differ between batch elements.
        largest = int(fn.total_count.max()) if fn.total_count.numel() else 0
        return _values_between(fn, 0, largest)
    try:
        return fn.enumerate_support(expand=False).flatten()
    except NotImplementedError:
        return None


def log_probs(fn: AnyDistribution, values: Tensor) -> Tensor:
    """Return log-probabilities of values that need not be in the support.

    Args:
        fn: Distribution without wrappers.
        values: Values that broadcast with its batch shape.

    Example:
        >>> fn = Binomial(torch.tensor(1.0), torch.tensor(0.5))
        >>> log_probs(fn, torch.tensor([1.0, 2.0])).exp()
        tensor([0.5000, 0.0000])
    """
    unvalidated = without_validation(fn)
    if not isinstance(fn, Binomial | BetaBinomial):
        return unvalidated.log_prob(values)
    # Counts beyond an element's total are impossible, and the formula of their
    # log-probability is not finite: evaluate it at a possible count, then mask it.
    total = fn.total_count
    is_possible = (values <= total) & (values >= 0)
    possible_values = torch.minimum(values, total).clamp(min=0)
    log_prob = unvalidated.log_prob(possible_values)
    return log_prob.masked_fill(~is_possible, -torch.inf)


def _logits(fn: AnyDistribution, values: Tensor) -> Tensor:
    """The log-probabilities of values at each batch element, the values last."""
    if isinstance(fn, MixtureSameFamily):
        return _mixture_logits(fn, values)
    column = values.reshape(-1, *(1,) * len(fn.batch_shape))
    # With soft parameters, a latent site has the mixture over their values.
    mixture_log_prob = getattr(fn, "mixture_log_prob", None)
    if mixture_log_prob is not None:
        return mixture_log_prob(column).movedim(0, -1)
    return log_probs(fn, column).movedim(0, -1)


def _mixture_logits(fn: MixtureSameFamily, values: Tensor) -> Tensor:
    mixing: AnyDistribution = fn.mixture_distribution
    log_weights = mixing.logits.unsqueeze(-1)
    component_logits = _logits(fn.component_distribution, values)
    # logsumexp has a gradient of NaN at a value that no component has.
    is_possible = (component_logits > -torch.inf).any(-2, keepdim=True)
    logits = log_weights + component_logits.where(is_possible, 0.0)
    return logits.logsumexp(-2).masked_fill(~is_possible.squeeze(-2), -torch.inf)


def _truncated(
    name: str, fn: AnyDistribution, first: int, truncate: int | float
) -> Support:
    last = _last_value(name, fn, first, truncate)
    values = _values_between(fn, first, last)
    logits = _logits(fn, values)
    truncated_mass = (1 - logits.logsumexp(-1).exp()).clamp(min=0)
    can_be_read = not torch.jit.is_tracing() and truncated_mass.numel() > 0
    if can_be_read and bool(truncated_mass.max() > _NOTABLE_MASS):
        warnings.warn(
            f"site {name!r}: truncation at {last} leaves out more than "
            f"{_NOTABLE_MASS:.0%} of the probability. See the site "
            f"{truncated_mass_name(name)!r}, or truncate at a larger value",
            stacklevel=2,
        )
    return Support(values=values, logits=logits, truncated_mass=truncated_mass)


def _last_value(
    name: str, fn: AnyDistribution, first: int, truncate: int | float
) -> int:
    """The largest value to keep."""
    # A scalar of NumPy or torch is no Python number, whose type says which is meant.
    truncate = getattr(truncate, "item", lambda: truncate)()
    if isinstance(truncate, float) and 0 < truncate < 1:
        return _last_value_by_mass(name, fn, first, truncate)
    if isinstance(truncate, float) or truncate < first:
        raise ValueError(
            f"site {name!r}: truncate is the largest value to keep (an integer from "
            f"{first} on) or the largest probability to truncate (a float between 0 "
            f"and 1), not {truncate!r}"
        )
    return int(truncate)


def _last_value_by_mass(name: str, fn: AnyDistribution, first: int, mass: float) -> int:
    """The smallest truncation that leaves out no more than this probability."""
    size = 16
    while size <= _MOST_VALUES:
        values = _values_between(fn, first, first + size - 1)
        probs = _logits(fn, values).detach().exp()
        truncated_mass = 1 - probs.cumsum(-1).flatten(0, -2).min(0).values
        is_enough = (truncated_mass <= mass).nonzero()
        if len(is_enough):
            return first + int(is_enough[0])
        size *= 2
    raise ValueError(
        f"site {name!r}: no truncation leaves out as little as {mass}. Give the "
        "largest value to keep"
    )


def _values_between(fn: AnyDistribution, first: int, last: int) -> Tensor:
    """Values in the type of the samples, which is that of the parameters."""
    parameter = next(_parameters(fn), torch.empty(()))
    return torch.arange(first, last + 1, dtype=parameter.dtype, device=parameter.device)


def _parameters(fn: AnyDistribution) -> Iterator[Tensor]:
    for attribute in vars(fn).values():
        if isinstance(attribute, Tensor) and attribute.is_floating_point():
            yield attribute
        elif isinstance(attribute, TorchDistributionMixin):
            yield from _parameters(attribute)


class FiniteSupport(TorchDistribution):
    """A discrete distribution over given values, such as a truncated Poisson.

    Shapes:
        values: (classes,).
        logits: (*batch_shape, classes).

    Args:
        values: Values of the support, distinct.
        logits: Unnormalized log-probabilities.

    Example:
        >>> FiniteSupport(torch.tensor([2.0, 4.0]), torch.zeros(3, 2)).batch_shape
        torch.Size([3])

    Counterpart: :class:`numpyro_concrete.relaxation.finite_support.FiniteSupport`.
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012
    has_enumerate_support = True

    def __init__(self, values: Tensor, logits: Tensor) -> None:
        self.values = values
        self.logits = logits
        super().__init__(torch.Size(logits.shape[:-1]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative_integer

    def expand(self, batch_shape: Shape, _instance: object = None) -> "FiniteSupport":
        logits = self.logits.expand(*batch_shape, -1)
        return FiniteSupport(self.values, logits)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        return self.values[Categorical(logits=self.logits).sample(sample_shape)]

    def log_prob(self, value: Tensor) -> Tensor:
        is_value = value.unsqueeze(-1) == self.values
        log_probs = self.logits.log_softmax(-1)
        return torch.where(is_value, log_probs, -torch.inf).amax(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = self.values.reshape(-1, *(1,) * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values
