"""relax, ConcreteReparam and harden: discrete sites relaxed, and back.

A relaxed site `z` becomes two. `z_relaxed` is sampled in log space, and is what ELBOs
score and guides match; `z` is deterministic, and is what the program sees. `harden`
takes a relaxed program to the discrete one that it stands for.

Twin: ``numpyro_concrete.relaxation``.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro
import torch
from pyro.distributions import Delta, constraints
from pyro.distributions.torch_distribution import (
    ExpandedDistribution,
    MaskedDistribution,
    TorchDistribution,
    TorchDistributionMixin,
)
from pyro.infer.reparam.reparam import Reparam
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.markov_messenger import MarkovMessenger
from pyro.poutine.messenger import Messenger

# A site beside the program's own is sent through the stack by hand: see _send.
from pyro.poutine.runtime import _PYRO_STACK, default_process_message
from torch import Tensor
from torch.distributions import Bernoulli, Independent, OneHotCategorical

from pyro_concrete import ops
from pyro_concrete.distributions import (
    AbstractConcrete,
    ExpConcrete,
    ExpConcreteMass,
    LogitBinaryConcrete,
    LogitBinaryConcreteMass,
    check_temperature,
)
from pyro_concrete.soft_index import is_soft, plain, refusal, soft_index
from pyro_concrete.soft_parameters import is_soft_parameter, with_known_parameters
from pyro_concrete.supports import FiniteSupport, support_of

SUFFIX = "_relaxed"
LEFT_OUT = "_left_out"
# What scores a site of n values, and one of two.
FAMILIES = {
    "concrete": (ExpConcrete, LogitBinaryConcrete),
    "discrete": (ExpConcreteMass, LogitBinaryConcreteMass),
}

Sites = Collection[str] | Callable[[dict[str, Any]], bool]
Temperature = Tensor | float | Mapping[str, Tensor | float]
Truncate = int | float | Mapping[str, int | float]


def relax(
    fn: Callable | None = None,
    temperature: Temperature | None = None,
    *,
    sites: Sites | None = None,
    truncate: Truncate | None = None,
    scoring: str = "concrete",
) -> Any:
    """Relax the discrete sites of a model or guide, which stays as it is.

    Every latent site with a finite discrete support that is not observed, not marked
    ``infer={"enumerate": ...}`` and not opted out by ``infer={"relax": False}`` is
    replaced: ``z_relaxed`` is sampled from its Concrete relaxation in log space, and
    ``z`` becomes a deterministic site with the mean of the relaxed value. The program
    receives a point of the simplex at one-hot sites, and at all others a `SoftIndex`,
    which it can use as the integers that it expects: ``locs[z]``, ``z == 1``,
    ``torch.where(z > 2, a, b)``. Relax the model and the guide, each with a temperature
    of its own, and train them by any ELBO: with `Trace_ELBO` that is a true bound on
    the relaxed model's evidence (eq. 20); never compare it with a discrete ELBO.

    One site can be marked for itself, by ``infer={"relax": {"temperature": 0.5}}`` or
    with `config_relax`. A site that is named in `sites`, or marked for relaxation, is
    relaxed even if it is marked for enumeration, too.

    Shapes:
        temperature: scalar, or broadcastable to the batch shape of every site.

    Args:
        fn: Model or guide. Without it, a decorator and context manager is returned.
        temperature: Relaxation temperature, > 0, or a mapping of them by site. The
            paper's (model, guide) pairs are (1/2, 2/3) for two values, (2/3, 1) for
            four, (2/5, 2/3) for eight.
        sites: Names of the sites to relax, or a predicate on Pyro's site messages; by
            default every site that can be.
        truncate: For sites with an unbounded support, such as a Poisson: the largest
            value to keep, or, as a float in (0, 1), the largest mass to leave out,
            which is worked out at every call. A mapping by site, or one for all. The
            mass that is left out is the deterministic site ``z_left_out``.
        scoring: What scores a relaxed site: its "concrete" density, or the "discrete"
            log-probability read off at the soft point (eq. 21), with the discrete KL in
            `TraceMeanField_ELBO` (eq. 22). Discrete scoring is no bound, and is nearer
            to the discrete ELBO at low temperatures: a confident guide pays the
            discrete KL, not the larger one of two Concretes. Score the model and the
            guide alike.

    Returns:
        The relaxed program, with the arguments of `fn`.

    Raises:
        TypeError: If no temperature is given; and in the program, where it needs a
            drawn value (``if z:``, ``z.item()``, ``range(z)``), by site.
        ValueError: If the temperature is not positive or the scoring unknown, or at a
            site with an unbounded support that is not truncated, by name.
        NotImplementedError: At a site of vectors other than one-hot ones, by name.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(logits=torch.zeros(3)))
        ...     return torch.tensor([-1.0, 0.0, 1.0])[z]
        >>> trace = pyro.poutine.trace(relax(model, temperature=0.5)).get_trace()
        >>> [name for name in trace.nodes if name.startswith("z")]
        ['z_relaxed', 'z']

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Twin: :func:`numpyro_concrete.relax`.
    """
    messenger = RelaxMessenger(temperature, sites, truncate, scoring)
    return messenger if fn is None else messenger(fn)


def config_relax(
    fn: Callable | None = None,
    default: bool = True,
    *,
    temperature: Tensor | float | None = None,
    truncate: int | float | None = None,
) -> Any:
    """Mark the latent discrete sites of a program for `relax`.

    As `config_enumerate` does for enumeration: every latent discrete site without a
    mark for relaxation or enumeration gets ``infer={"relax": ...}``.

    Args:
        fn: Model or guide. Without it, a decorator and context manager is returned.
        default: Whether `relax` takes the sites.
        temperature: Relaxation temperature of these sites, > 0; by default that of
            `relax`.
        truncate: Truncation of these sites, as for `relax`.

    Returns:
        The program with marks, with the arguments of `fn`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Categorical(logits=torch.zeros(3)))
        >>> trace = pyro.poutine.trace(config_relax(model, temperature=0.5)).get_trace()
        >>> trace.nodes["z"]["infer"]
        {'relax': {'temperature': 0.5}}

    Twin: :func:`numpyro_concrete.config_relax`.
    """
    given = {"temperature": temperature, "truncate": truncate}
    marks = {key: value for key, value in given.items() if value is not None}
    messenger = ConfigMessenger(marks if default else False)
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
        truncate: Truncation of an unbounded support, as for `relax`.

    Raises:
        ValueError: If the temperature is not positive, or at a site with an unbounded
            support that is not truncated, by name.
        NotImplementedError: At a site of vectors other than one-hot ones, by name.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     return pyro.sample("z", dist.OneHotCategorical(logits=torch.zeros(3)))
        >>> config = {"z": ConcreteReparam(0.5)}
        >>> pyro.poutine.reparam(model, config=config)().shape
        torch.Size([3])

    Twin: :class:`numpyro_concrete.ConcreteReparam`.
    """

    def __init__(
        self, temperature: Tensor | float, *, truncate: int | float | None = None
    ) -> None:
        self.temperature = _checked(temperature)
        self.truncate = truncate

    def apply(self, msg: dict[str, Any]) -> dict[str, Any]:
        """Replace the message of one site, unless it is observed."""
        if msg["is_observed"]:
            return msg
        fn = _known(msg["fn"])
        site = _Site(msg["name"], fn, self.temperature, self.truncate)
        if len(site.values) < 2:
            return msg  # a constant
        point = pyro.sample(site.name + SUFFIX, site.relaxed, infer=site.infer)
        seen, value = site.value(point)
        fn = Deterministic(seen, fn.event_dim)
        return {"fn": fn, "value": value, "is_observed": True}


class ConfigMessenger(Messenger):
    """The effect handler behind `config_relax`."""

    def __init__(self, mark: dict[str, Any] | bool) -> None:
        super().__init__()
        self.mark = mark

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        latent = not msg["is_observed"] and _is_discrete(msg["fn"])
        if latent and not msg["infer"].get("enumerate"):
            msg["infer"].setdefault("relax", self.mark)


class RelaxMessenger(Messenger):
    """The effect handler behind `relax`."""

    def __init__(
        self,
        temperature: Temperature | None,
        sites: Sites | None = None,
        truncate: Truncate | None = None,
        scoring: str = "concrete",
    ) -> None:
        super().__init__()
        self.temperature = _checked(temperature)
        self.sites = sites
        self.truncate = truncate
        if scoring not in FAMILIES:
            raise ValueError(f"scoring is one of {[*FAMILIES]}, not {scoring!r}")
        self.scoring = scoring

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_soft(msg["value"]):
            self._lower(msg)
        msg["fn"] = _known(msg["fn"])
        if not _selected(msg, self.sites):
            return
        marks = msg["infer"].get("relax")
        marks = marks if isinstance(marks, dict) else {}
        name = msg["name"]
        temperature = marks.get("temperature", _of_site(self.temperature, name))
        if temperature is None:
            raise ValueError(f"relax has no temperature for site {name!r}")
        truncate = marks.get("truncate", _of_site(self.truncate, name))
        site = _Site(name, msg["fn"], temperature, truncate, self.scoring)
        if len(site.values) < 2:
            return  # a constant
        point = _send(self, msg, name + SUFFIX, site.relaxed, site.infer)
        if site.left_out is not None:
            fn = Deterministic(site.left_out, 0)
            _send(self, msg, name + LEFT_OUT, fn, _AUXILIARY, site.left_out)
        self._show(msg, *site.value(point))
        msg["infer"]["_relaxed"] = True

    def _lower(self, msg: dict[str, Any]) -> None:
        """Let a deterministic site record a mean; refuse a soft value as data."""
        if not msg["infer"].get("_deterministic"):
            operation = f"observing it at site {msg['name']!r}"
            raise TypeError(refusal(msg["value"].site, operation))
        self._show(msg, plain(msg["value"]), msg["value"])

    def _show(self, msg: dict[str, Any], seen: Tensor, value: Tensor) -> None:
        """Make a site deterministic: handlers get the mean, the program the value."""
        msg["fn"] = Deterministic(seen, msg["fn"].event_dim)
        msg["value"] = seen
        msg["is_observed"] = True
        msg["infer"] = {**_markov(msg), **_AUXILIARY, "_seen": (self, seen, value)}

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        owner, seen, value = msg["infer"].get("_seen", (None, None, None))
        if owner is not self:
            return
        if msg["value"] is not seen and not _same(msg["value"], seen):
            raise ValueError(
                f"site {msg['name']!r} is relaxed, and a handler around relax sets it "
                "to another value. Put that handler inside, relax(condition(model, "
                f"data), ...), or set {msg['name'] + SUFFIX!r} in log space"
            )
        # Traces have seen the plain mean by now; the program gets the soft value.
        msg["value"] = value


class HardenMessenger(Messenger):
    """The effect handler behind `harden`."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if "_relaxed" in msg["infer"]:
            msg["stop"] = True  # its discrete site has been sampled already
            return
        if msg["is_observed"] or msg["value"] is not None:
            return
        name = msg["name"].removesuffix(SUFFIX)
        if name == msg["name"] or not isinstance(_leaf(msg["fn"]), AbstractConcrete):
            return
        infer = msg["infer"]
        fn = infer.get("_relaxed_from") or _rebuilt(msg["fn"], _discrete)
        hard = _send(self, msg, name, fn, {"relax": False})
        if isinstance(_leaf(msg["fn"]), LogitBinaryConcrete):
            msg["value"] = (2 * hard - 1) * torch.inf
        else:
            values = infer.get("_values")
            one_hot = hard if values is None else hard[..., None] == values
            msg["value"] = one_hot.to(_leaf(msg["fn"]).logits.dtype).log()
        msg["stop"] = True


class Deterministic(TorchDistribution):
    """The distribution of a deterministic site: it records a value and scores nothing.

    A masked Delta compares its value with itself, at a cost; and masked by `False` it
    scores float32 zeros, which TraceEnum_ELBO cannot add to float64.
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, value: Tensor, event_dim: int) -> None:
        self.value = value
        batch = value.dim() - event_dim
        super().__init__(value.shape[:batch], value.shape[batch:], validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, self.event_dim)

    @property
    def base_dist(self) -> TorchDistributionMixin:
        """The distribution that deterministic sites are known by, in a mask there."""
        return Delta(self.value, event_dim=self.event_dim)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Deterministic":
        value = self.value.expand(torch.Size(batch_shape) + self.event_shape)
        return Deterministic(value, self.event_dim)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.value.expand(torch.Size(sample_shape) + self.value.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        shape = value.shape[: value.dim() - self.event_dim]
        return self.value.new_zeros(()).expand(shape)


# --- one site -----------------------------------------------------------------------

# Auxiliary, or SVI would look for it among the latent sites of the model.
_AUXILIARY = {"_deterministic": True, "is_auxiliary": True}


class _Site:
    """How one site is relaxed: its distribution, and what the program sees of it."""

    def __init__(
        self,
        name: str,
        fn: Any,
        temperature: Any,
        truncate: int | float | None,
        scoring: str = "concrete",
    ) -> None:
        check_temperature(temperature)
        self.families = FAMILIES[scoring]
        leaf = _leaf(fn)
        self.name = name
        self.binary = isinstance(leaf, Bernoulli)
        self.one_hot = isinstance(leaf, OneHotCategorical)
        self.left_out = None
        if self.binary:
            self.logits = leaf.logits
            self.values = torch.arange(2).to(self.logits)
        else:
            self.values, self.logits, self.left_out = support_of(name, leaf, truncate)
        self.relaxed: Any = None
        self.infer: Any = {}
        if len(self.values) > 1:
            self._relax(fn, temperature)

    def _relax(self, fn: Any, temperature: Tensor | float) -> None:
        self.relaxed = _rebuilt(fn, self._concrete, temperature)
        hard = fn if self.left_out is None else _rebuilt(fn, self._truncated)
        self.infer["_relaxed_from"] = hard
        if not self.one_hot:
            self.infer["_values"] = self.values

    def value(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """What handlers and the program see of a point in log space."""
        dtype = self.logits.dtype
        if self.binary:
            mean = point.sigmoid().to(dtype)
            weights = torch.stack([(-point).sigmoid().to(dtype), mean])
        else:
            simplex = point.exp().to(dtype)
            if self.one_hot:
                return simplex, simplex
            weights, mean = simplex.movedim(-1, 0), simplex @ self.values.to(simplex)
        return mean, soft_index(self.name, self.values, weights)

    def _concrete(self, _: Any, temperature: Tensor | float) -> AbstractConcrete:
        # Gradients in log space do not fit half precision.
        logits = ops.wide(self.logits)
        # An impossible value keeps a finite logit, and the relaxation a density there.
        bound = -math.log(torch.finfo(logits.dtype).tiny)
        logits = logits.nan_to_num(nan=torch.nan, posinf=bound, neginf=-bound)
        return self.families[self.binary](temperature, logits=logits)

    def _truncated(self, _: Any, __: None) -> FiniteSupport:
        return FiniteSupport(self.values, self.logits)


def _send(
    messenger: Messenger,
    msg: dict[str, Any],
    name: str,
    fn: Any,
    infer: dict[str, Any],
    value: Tensor | None = None,
) -> Tensor:
    """Sample another site at the place of a message.

    Like a sample statement there, but past the handlers inside of this one that choose,
    rename or count sites: they have let the message pass already.
    """
    own = _PYRO_STACK.index(messenger)
    inside = [x for x in _PYRO_STACK[own:] if not _goes_by_name(x)]
    infer = {**_markov(msg), **infer}
    stack = _PYRO_STACK[:own] + inside
    fresh = {"cond_indep_stack": (), "scale": 1.0, "mask": None, "done": False}
    fresh |= {"stop": False, "continuation": None, "is_observed": value is not None}
    other: Any = {**msg, **fresh}
    other |= {"name": name, "fn": fn, "value": value, "infer": dict(infer)}
    passed = []
    for handler in reversed(stack):
        passed.append(handler)
        handler._process_message(other)
        if other["stop"]:
            break
    default_process_message(other)
    for handler in reversed(passed):
        handler._postprocess_message(other)
    if other["continuation"] is not None:
        other["continuation"](other)
    return other["value"]


def _goes_by_name(handler: Messenger) -> bool:
    renames = "autoname" in type(handler).__module__
    return renames or isinstance(handler, BlockMessenger | MarkovMessenger)


def _markov(msg: dict[str, Any]) -> dict[str, Any]:
    """What pyro.markov has noted of a site, which another in its place shares."""
    return {k: v for k, v in msg["infer"].items() if k.startswith("_markov")}


def _checked(temperature: Temperature | None) -> Temperature:
    if isinstance(temperature, Mapping):
        for value in temperature.values():
            _checked(value)
        return temperature
    if temperature is None or (
        callable(temperature) and not isinstance(temperature, Tensor)
    ):
        raise TypeError("relax needs a temperature, for example relax(model, 0.5)")
    check_temperature(temperature)
    return temperature


def _of_site(setting: Any, name: str) -> Any:
    return setting.get(name) if isinstance(setting, Mapping) else setting


def _selected(msg: dict[str, Any], sites: Sites | None) -> bool:
    """Whether a message is a latent discrete site that is to be relaxed."""
    if msg["is_observed"] or msg["value"] is not None or not _is_discrete(msg["fn"]):
        return False
    mark = msg["infer"].get("relax")
    if mark is False:
        return False
    if sites is not None:
        return bool(sites(msg)) if callable(sites) else msg["name"] in sites
    return bool(mark is not None or not msg["infer"].get("enumerate"))


def _is_discrete(fn: Any) -> bool:
    if type(fn).__name__ == "_Subsample":
        return False
    try:
        return fn.support.is_discrete
    except (AttributeError, NotImplementedError):
        return False


def _known(fn: Any) -> Any:
    """The distribution with soft parameters averaged over, or as it is."""
    leaf = _leaf(fn)
    if is_soft(getattr(leaf, "size", None)):  # a plate
        raise TypeError(refusal(leaf.size.site, "using it as the size of a plate"))
    if not hasattr(leaf, "__dict__") or not is_soft_parameter(leaf):
        return fn
    return _rebuilt(fn, lambda leaf, _: with_known_parameters(leaf))


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


def _same(given: Any, value: Tensor) -> bool:
    """Whether a handler set the value that the site has anyway, as Predictive does."""
    given = plain(given)
    if not isinstance(given, Tensor) or given.numel() != value.numel():
        return False
    return torch.allclose(given.reshape(value.shape).to(value.dtype), value)
