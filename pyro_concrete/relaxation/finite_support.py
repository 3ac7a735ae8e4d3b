"""The finite support of a discrete distribution, and its log-probabilities there.

Any distribution that can enumerate its support has one. An unbounded one has it after
truncation, which leaves out a mass that is told.

Counterpart: ``numpyro_concrete.relaxation.finite_support``.
"""

import copy
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

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

# Mass left out by a truncation from which on a warning says so.
_NOTABLE = 0.01
_LARGEST = 2**20


class Support(NamedTuple):
    """A finite support, and the log-probability of each of its values.

    Attributes:
        values: Values of the site, in the order of the classes.
        logits: Log-probabilities, the classes last; those left out are not made up for.
        left_out: Mass beyond a truncation, or None where there is none.
    """

    values: Shaped[Tensor, " classes"]
    logits: Float[Tensor, "*batch classes"]
    left_out: Float[Tensor, "*batch"] | None = None


def support_of(
    name: str, fn: TorchDistributionMixin, truncate: int | float | None = None
) -> Support:
    """Return the finite support of a discrete distribution.

    Args:
        name: Name of the site, for errors.
        fn: Distribution without wrappers (`to_event`, `expand`, `mask`).
        truncate: For an unbounded support: the largest value to keep, or a float in
            (0, 1), the largest mass to leave out.

    Raises:
        ValueError: If the support is unbounded and is not truncated.
        NotImplementedError: If the values are vectors other than one-hot ones.

    Example:
        >>> from pyro.distributions import Geometric
        >>> support = support_of("n", Geometric(torch.tensor(0.5)), truncate=7)
        >>> support.values.tolist(), round(float(support.left_out), 4)
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 0.0039)

    Counterpart: :func:`numpyro_concrete.relaxation.finite_support.support_of`.
    """
    if isinstance(fn, Categorical | OneHotCategorical):
        return Support(
            torch.arange(fn.logits.shape[-1], device=fn.logits.device), fn.logits
        )
    if fn.event_dim:
        raise NotImplementedError(
            f"site {name!r} ~ {type(fn).__name__}: relax takes scalar and one-hot "
            "sites. Write it as several such sites, or leave it as it is with "
            "infer={'relax': False}"
        )
    base = _base(fn)
    values = finite_values(base)
    if values is not None:
        return Support(values, _logits(fn, values))
    first = getattr(base.support, "lower_bound", None)
    if first is None or truncate is None:
        raise ValueError(
            f"site {name!r} ~ {type(fn).__name__}: its support is not finite. Truncate "
            f"it, relax(..., truncate={{{name!r}: 50}}) for values up to 50, or leave "
            "it as it is with infer={'relax': False}"
        )
    return _truncated(name, fn, int(first), truncate)


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
        one_hot = isinstance(fn, OneHotCategorical)
        return fn.logits.new_ones(1) if one_hot else fn.logits.new_zeros(()).long()
    values = None if fn.event_dim else finite_values(_base(fn))
    return values[0] if values is not None and len(values) == 1 else None


def _base(fn: Any) -> Any:
    """The distribution that has the values, inside of mixtures."""
    while isinstance(fn, ZeroInflatedDistribution | MixtureSameFamily):
        zeros = isinstance(fn, ZeroInflatedDistribution)
        fn = fn.base_dist if zeros else fn.component_distribution
    return fn


def finite_values(fn: Any) -> Tensor | None:
    """Return the finitely many values of any batch element, or None.

    Args:
        fn: Distribution without wrappers.

    Example:
        >>> finite_values(Binomial(torch.tensor([1.0, 2.0]), torch.tensor(0.5)))
        tensor([0., 1., 2.])
    """
    if isinstance(fn, Binomial | BetaBinomial):
        # The backends refuse counts that differ between batch elements.
        count = int(fn.total_count.max()) if fn.total_count.numel() else 0
        return _range(fn, 0, count)
    try:
        return fn.enumerate_support(expand=False).flatten()
    except NotImplementedError:
        return None


def log_probs(fn: Any, values: Tensor) -> Tensor:
    """Return log-probabilities of values that need not be in the support.

    Args:
        fn: Distribution without wrappers.
        values: Values that broadcast with its batch shape.

    Example:
        >>> fn = Binomial(torch.tensor(1.0), torch.tensor(0.5))
        >>> log_probs(fn, torch.tensor([1.0, 2.0])).exp()
        tensor([0.5000, 0.0000])
    """
    unchecked = copy.copy(fn)
    unchecked._validate_args = False
    if not isinstance(fn, Binomial | BetaBinomial):
        return unchecked.log_prob(values)
    # Counts beyond this element's own are impossible, and their formula is not finite.
    count = fn.total_count
    possible = (values <= count) & (values >= 0)
    counted = torch.minimum(values, count).clamp(min=0)
    return unchecked.log_prob(counted).masked_fill(~possible, -torch.inf)


def _logits(fn: Any, values: Tensor) -> Tensor:
    if isinstance(fn, MixtureSameFamily):
        return _mixture_logits(fn, values)
    terms = values.reshape(-1, *(1,) * len(fn.batch_shape))
    # Of soft parameters, a latent site has the mixture over their values.
    mixture_log_prob = getattr(fn, "mixture_log_prob", None)
    if mixture_log_prob is not None:
        return mixture_log_prob(terms).movedim(0, -1)
    return log_probs(fn, terms).movedim(0, -1)


def _mixture_logits(fn: MixtureSameFamily, values: Tensor) -> Tensor:
    mixing: Any = fn.mixture_distribution
    shares = mixing.logits.unsqueeze(-1)
    terms = _logits(fn.component_distribution, values)
    # A value that no component has would have a gradient of NaN.
    possible = (terms > -torch.inf).any(-2, keepdim=True)
    logits = (shares + terms.where(possible, 0.0)).logsumexp(-2)
    return logits.masked_fill(~possible.squeeze(-2), -torch.inf)


def _truncated(name: str, fn: Any, first: int, truncate: int | float) -> Support:
    # A scalar of an array library has no Python type to tell a mass by.
    truncate = getattr(truncate, "item", lambda: truncate)()
    by_mass = isinstance(truncate, float)
    if not (0 < truncate < 1 if by_mass else truncate >= first):
        raise ValueError(
            f"site {name!r}: truncate is the largest value to keep (an integer from "
            f"{first} on) or the largest mass to leave out (a float between 0 and 1), "
            f"not {truncate!r}"
        )
    if by_mass:
        truncate = _largest_value(name, fn, first, truncate)
    values = _range(fn, first, int(truncate))
    logits = _logits(fn, values)
    left_out = (1 - logits.logsumexp(-1).exp()).clamp(min=0)
    known = not torch._C._get_tracing_state()
    if known and left_out.numel() and bool(left_out.max() > _NOTABLE):
        warnings.warn(
            f"site {name!r}: truncation at {int(truncate)} leaves out more than "
            f"{_NOTABLE:.0%} of the mass; see the site '{name}_left_out'",
            stacklevel=2,
        )
    return Support(values, logits, left_out)


def _largest_value(name: str, fn: Any, first: int, mass: float) -> int:
    """The smallest truncation that leaves out no more than this mass."""
    size = 16
    while size <= _LARGEST:
        logits = _logits(fn, _range(fn, first, first + size - 1)).detach()
        left_out = 1 - logits.exp().cumsum(-1).flatten(0, -2).min(0).values
        enough = (left_out <= mass).nonzero()
        if len(enough):
            return first + int(enough[0])
        size *= 2
    raise ValueError(f"site {name!r}: no truncation leaves out as little as {mass}")


def _range(fn: Any, first: int, last: int) -> Tensor:
    """Values in the type of the samples, which is that of the parameters."""
    like = next(_parameters(fn), torch.empty(()))
    return torch.arange(first, last + 1, dtype=like.dtype, device=like.device)


def _parameters(fn: Any) -> Iterator[Tensor]:
    for x in vars(fn).values():
        if isinstance(x, Tensor) and x.is_floating_point():
            yield x
        elif isinstance(x, TorchDistributionMixin):
            yield from _parameters(x)


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
        self.values, self.logits = values, logits
        super().__init__(torch.Size(logits.shape[:-1]), validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.nonnegative_integer

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FiniteSupport":
        logits = self.logits.expand(*batch_shape, -1)
        return FiniteSupport(self.values, logits)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.values[Categorical(logits=self.logits).sample(sample_shape)]

    def log_prob(self, value: Tensor) -> Tensor:
        hit = value.unsqueeze(-1) == self.values
        log_probs = self.logits.log_softmax(-1)
        return torch.where(hit, log_probs, -torch.inf).amax(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = self.values.reshape(-1, *(1,) * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values
