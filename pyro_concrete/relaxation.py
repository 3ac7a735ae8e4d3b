"""relax, ConcreteReparam and harden: discrete sites relaxed, and back.

A relaxed site `z` becomes two. `z_relaxed` is sampled in log space, and is what ELBOs
score and guides match; `z` is deterministic, and is what the program sees. `harden`
takes a relaxed program to the discrete one that it stands for.

Twin: ``numpyro_concrete.relaxation``.
"""

import math
from collections.abc import Callable, Collection
from typing import Any

import pyro
import torch
from pyro.distributions import Delta
from pyro.distributions.torch_distribution import (
    ExpandedDistribution,
    MaskedDistribution,
    TorchDistributionMixin,
)
from pyro.infer.reparam.reparam import Reparam
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Bernoulli, Independent, OneHotCategorical

from pyro_concrete import ops
from pyro_concrete.distributions import (
    AbstractConcrete,
    ExpConcrete,
    LogitBinaryConcrete,
    check_temperature,
)
from pyro_concrete.soft_index import SoftBit, plain, refusal

SUFFIX = "_relaxed"

Sites = Collection[str] | Callable[[dict[str, Any]], bool]


def relax(
    fn: Callable | None = None,
    temperature: Tensor | float | None = None,
    *,
    sites: Sites | None = None,
) -> Any:
    """Relax the discrete sites of a model or guide, which stays as it is.

    Every latent site with a Bernoulli or OneHotCategorical distribution that is not
    observed, not marked ``infer={"enumerate": ...}`` and not opted out by
    ``infer={"relax": False}`` is replaced: ``z_relaxed`` is sampled from its Concrete
    relaxation in log space, and ``z`` becomes a deterministic site with the relaxed
    value, which the program receives. Relax the model and the guide, each with a
    temperature of its own, and train them by any ELBO: with `Trace_ELBO` that is a true
    bound on the relaxed model's evidence (eq. 20); never compare it with a discrete
    ELBO.

    Shapes:
        temperature: scalar, or broadcastable to the batch shape of every site.

    Args:
        fn: Model or guide. Without it, a decorator and context manager is returned.
        temperature: Relaxation temperature, > 0. The paper's (model, guide) pairs are
            (1/2, 2/3) for two values, (2/3, 1) for four, (2/5, 2/3) for eight.
        sites: Names of the sites to relax, or a predicate on Pyro's site messages; by
            default every site that can be.

    Returns:
        The relaxed program, with the arguments of `fn`.

    Raises:
        TypeError: If no temperature is given.
        ValueError: If the temperature is not positive.
        NotImplementedError: At a discrete site of another family, by name.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.OneHotCategorical(logits=torch.zeros(3)))
        ...     return z.sum()
        >>> trace = pyro.poutine.trace(relax(model, temperature=0.5)).get_trace()
        >>> [name for name in trace.nodes if name.startswith("z")]
        ['z_relaxed', 'z']

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Twin: :func:`numpyro_concrete.relax`.
    """
    messenger = RelaxMessenger(temperature, sites)
    return messenger if fn is None else messenger(fn)


def harden(fn: Callable) -> Callable:
    """Return the discrete program that a relaxed guide or model stands for.

    Each site ``z_relaxed`` with a Concrete distribution is replaced by its discrete
    site ``z``, and the program goes on with the hard value. The argmax of a Concrete
    sample is a sample of its categorical at every temperature, so this is exact: use
    ``Trace_ELBO().loss(model, harden(guide), ...)`` for the discrete ELBO of a model
    that was trained relaxed.

    Args:
        fn: A relaxed program: the result of `relax`, or one that samples from
            `ExpConcrete` or `LogitBinaryConcrete` at sites named ``..._relaxed``.

    Returns:
        The discrete program, with the arguments of `fn`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def guide():
        ...     fn = dist.Bernoulli(logits=torch.zeros(2)).to_event()
        ...     return pyro.sample("z", fn)
        >>> z = harden(relax(guide, temperature=0.5))()
        >>> plain(z).unique().tolist() in ([0.0], [1.0], [0.0, 1.0])
        True

    Twin: :func:`numpyro_concrete.harden`.
    """
    return HardenMessenger()(fn)


class ConcreteReparam(Reparam):
    """Relax one site of a model, in the convention of Pyro's reparameterizers.

    The same as `relax` for the site that `poutine.reparam` is configured with. Pyro's
    reparameterizers cannot mark sites as auxiliary: for guides, use `relax`.

    Shapes:
        temperature: scalar, or broadcastable to the batch shape of the site.

    Args:
        temperature: Relaxation temperature, > 0.

    Raises:
        ValueError: If the temperature is not positive.
        NotImplementedError: At a site of another family than Bernoulli and
            OneHotCategorical, by name.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     return pyro.sample("z", dist.OneHotCategorical(logits=torch.zeros(3)))
        >>> config = {"z": ConcreteReparam(0.5)}
        >>> pyro.poutine.reparam(model, config=config)().shape
        torch.Size([3])

    Twin: :class:`numpyro_concrete.ConcreteReparam`.
    """

    def __init__(self, temperature: Tensor | float) -> None:
        self.temperature = _checked(temperature)

    def apply(self, msg: dict[str, Any]) -> dict[str, Any]:
        """Replace the message of one site, unless it is observed."""
        if msg["is_observed"]:
            return msg
        value = _sample_relaxed(msg["name"], msg["fn"], self.temperature)
        fn = _deterministic(value, msg["fn"].event_dim)
        value = _seen(value, msg["fn"], msg["name"])
        return {"fn": fn, "value": value, "is_observed": True}


class RelaxMessenger(Messenger):
    """The effect handler behind `relax`."""

    def __init__(
        self, temperature: Tensor | float | None, sites: Sites | None = None
    ) -> None:
        super().__init__()
        self.temperature = _checked(temperature)
        self.sites = sites

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if isinstance(msg["value"], SoftBit):
            _refuse_observation(msg)
        if not _selected(msg, self.sites):
            return
        fn, name = msg["fn"], msg["name"]
        value = _sample_relaxed(name, fn, self.temperature)
        msg["fn"] = _deterministic(value, fn.event_dim)
        msg["value"] = value
        msg["is_observed"] = True
        # Auxiliary, or SVI would look for it among the latent sites of the model.
        msg["infer"] = {
            "_deterministic": True,
            "is_auxiliary": True,
            "_relaxed": (self, fn, value),
        }

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        owner, fn, value = msg["infer"].get("_relaxed", (None, None, None))
        if owner is not self:
            return
        if msg["value"] is not value and not _same(msg["value"], value):
            raise ValueError(
                f"site {msg['name']!r} is relaxed, and a handler around relax sets it "
                "to another value. Put that handler inside, relax(condition(model, "
                f"data), ...), or set {msg['name'] + SUFFIX!r} in log space"
            )
        # Traces have seen the plain number by now; the program gets the guarded one.
        msg["value"] = _seen(value, fn, msg["name"])


class HardenMessenger(Messenger):
    """The effect handler behind `harden`."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if "_relaxed" in msg["infer"]:
            msg["stop"] = True  # its discrete site has been sampled already
            return
        if msg["is_observed"] or msg["value"] is not None:
            return
        site = msg["name"].removesuffix(SUFFIX)
        if site == msg["name"] or not isinstance(_leaf(msg["fn"]), AbstractConcrete):
            return
        fn = msg["infer"].get("_relaxed_from") or _rebuilt(msg["fn"], _discrete)
        infer: Any = {"relax": False}
        hard = pyro.sample(site, fn, infer=infer)
        binary = isinstance(_leaf(msg["fn"]), LogitBinaryConcrete)
        msg["value"] = (2 * hard - 1) * torch.inf if binary else hard.log()
        msg["stop"] = True


# --- one site -----------------------------------------------------------------------


def _checked(temperature: Tensor | float | None) -> Tensor | float:
    if temperature is None or (
        callable(temperature) and not isinstance(temperature, Tensor)
    ):
        raise TypeError("relax needs a temperature, for example relax(model, 0.5)")
    check_temperature(temperature)
    return temperature


def _selected(msg: dict[str, Any], sites: Sites | None) -> bool:
    """Whether a message is a latent discrete site that is to be relaxed."""
    if msg["is_observed"] or msg["value"] is not None or not _is_discrete(msg["fn"]):
        return False
    if msg["infer"].get("enumerate") or msg["infer"].get("relax") is False:
        return False
    if sites is None:
        return True
    return bool(sites(msg)) if callable(sites) else msg["name"] in sites


def _is_discrete(fn: Any) -> bool:
    if type(fn).__name__ == "_Subsample":
        return False
    try:
        return fn.support.is_discrete
    except (AttributeError, NotImplementedError):
        return False


def _sample_relaxed(
    name: str, fn: TorchDistributionMixin, temperature: Tensor | float
) -> Tensor:
    """Sample the auxiliary site and return its value in [0, 1]."""
    leaf = _leaf(fn)
    if not isinstance(leaf, Bernoulli | OneHotCategorical):
        raise NotImplementedError(
            f"site {name!r} ~ {type(leaf).__name__}: relax takes Bernoulli and "
            "OneHotCategorical so far; other families come with integer support. Write "
            "the site as one of these, enumerate it with infer={'enumerate': "
            "'parallel'}, or leave it as it is with infer={'relax': False}"
        )
    relaxed = _rebuilt(fn, _relaxed, temperature)
    infer: Any = {"_relaxed_from": fn}
    point = pyro.sample(name + SUFFIX, relaxed, infer=infer)
    value = point.sigmoid() if isinstance(leaf, Bernoulli) else point.exp()
    return value.to(leaf.logits.dtype)


def _relaxed(
    leaf: TorchDistributionMixin, temperature: Tensor | float
) -> AbstractConcrete:
    family = LogitBinaryConcrete if isinstance(leaf, Bernoulli) else ExpConcrete
    # Gradients in log space do not fit half precision.
    logits = ops.wide(leaf.logits)
    # An impossible value keeps a finite logit, and the relaxation a density there.
    bound = -math.log(torch.finfo(logits.dtype).tiny)
    logits = logits.nan_to_num(nan=torch.nan, posinf=bound, neginf=-bound)
    return family(temperature, logits=logits)


def _discrete(leaf: AbstractConcrete, _: None) -> TorchDistributionMixin:
    return leaf.discrete


def _leaf(fn: Any) -> Any:
    """The distribution inside of to_event, expand and mask."""
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return fn


def _rebuilt(fn: Any, rebuild: Callable, temperature: Any = None) -> Any:
    """The same wrappers around another distribution."""
    if isinstance(fn, Independent):
        n = fn.reinterpreted_batch_ndims
        if isinstance(temperature, Tensor) and temperature.dim():
            temperature = temperature.reshape(temperature.shape + (1,) * n)
        return _rebuilt(fn.base_dist, rebuild, temperature).to_event(n)
    if isinstance(fn, MaskedDistribution):
        return _rebuilt(fn.base_dist, rebuild, temperature).mask(fn._mask)
    if isinstance(fn, ExpandedDistribution):
        return _rebuilt(fn.base_dist, rebuild, temperature).expand(fn.batch_shape)
    return rebuild(fn, temperature)


def _deterministic(value: Tensor, event_dim: int) -> TorchDistributionMixin:
    """A distribution that scores nothing, in the precision of the value."""
    # mask(False) scores float32 zeros, which TraceEnum_ELBO cannot add to float64.
    hidden = torch.zeros((), dtype=torch.bool, device=value.device)
    return Delta(value, event_dim=event_dim).mask(hidden)


def _seen(value: Tensor, fn: TorchDistributionMixin, name: str) -> Tensor:
    """What the program sees: one-hot sites plain, two-valued ones guarded."""
    return SoftBit(value, name) if isinstance(_leaf(fn), Bernoulli) else value


def _same(given: Any, value: Tensor) -> bool:
    """Whether a handler set the value that the site has anyway, as Predictive does."""
    given = plain(given)
    if not isinstance(given, Tensor) or given.numel() != value.numel():
        return False
    return torch.allclose(given.reshape(value.shape).to(value.dtype), value)


def _refuse_observation(msg: dict[str, Any]) -> None:
    """Let deterministic sites read a soft bit; refuse it as data."""
    if not msg["infer"].get("_deterministic"):
        soft = msg["value"]
        raise TypeError(refusal(soft.site, f"observing it at site {msg['name']!r}"))
    msg["value"] = plain(msg["value"])
