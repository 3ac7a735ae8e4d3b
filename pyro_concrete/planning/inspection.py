"""The sites of a model as the planner needs them, from one run of it.

A handler records the sites while `Provenance` tracks which drawn values each
log-probability depends on. The rest is read off the distributions.

Counterpart: ``numpyro_concrete.planning.inspection``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import opt_einsum
import pyro
import torch
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent

from concrete_core.planning.sites import (
    InspectedModel,
    Plates,
    SiteNode,
    has_unnamed_axis,
    site_plates,
    site_setting,
)
from concrete_core.types import (
    Arguments,
    Distribution,
    Infer,
    KeywordArguments,
    Message,
    Program,
)
from pyro_concrete.internals import is_deterministic
from pyro_concrete.planning.provenance import Provenance
from pyro_concrete.relaxation.finite_support import support_of
from pyro_concrete.relaxation.site import is_discrete
from pyro_concrete.relaxation.wrappers import leaf_of

# Largest number of dims of a tensor: in any operation, and in the kernels of CUDA.
_MAX_TENSOR_DIMS = {"cpu": 64, "cuda": 25}
_INFINITE_SUPPORT = "its support is not finite"


@dataclass(frozen=True)
class _RecordedSite:
    """A site as one run has shown it.

    Attributes:
        message: Pyro's message of the site.
        infer: Its per-site settings, before handlers outside change them.
        is_latent: Whether it is drawn, and at random.
        depends_on: Names of the drawn values that its log-probability depends on.
        shape: Shape of its log-probability.
    """

    message: Message
    infer: Infer
    is_latent: bool
    depends_on: frozenset[str]
    shape: torch.Size

    @property
    def name(self) -> str:
        """Name of the site."""
        return self.message["name"]

    @property
    def is_discrete_latent(self) -> bool:
        """Whether it is drawn, at random, and discrete."""
        return self.is_latent and is_discrete(self.message["fn"])


@dataclass(frozen=True)
class _Support:
    """What the support of a site allows: see `SiteNode` for the attributes."""

    size: int
    relaxation_obstacle: str | None = None
    advice: str | None = None


class _Recorder(Messenger):
    """The effect handler that records the sites of a model."""

    def __init__(self, provenance: Provenance) -> None:
        super().__init__()
        self.provenance = provenance
        self.sites: list[_RecordedSite] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        is_random = not isinstance(leaf_of(msg["fn"]), Delta)
        is_latent = is_random and not msg["is_observed"]
        if is_latent:
            msg["value"] = self.provenance.named(msg["value"], msg["name"])
        log_prob = msg["fn"].log_prob(msg["value"])
        depends_on = self.provenance.of(log_prob, msg["mask"], msg["scale"])
        if _is_deterministic(msg):
            depends_on = self.provenance.of(msg["value"])
        site = _RecordedSite(
            message=dict(msg),
            infer=dict(msg["infer"]),
            is_latent=is_latent,
            depends_on=depends_on,
            shape=log_prob.shape,
        )
        self.sites.append(site)


def inspect_model(
    model: Program, args: Arguments, kwargs: KeywordArguments
) -> InspectedModel:
    """Run a model once, and return what the planner needs to know of its sites.

    Args:
        model: Model, or guide, without enumeration.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """
    store = pyro.get_param_store()
    provenance = Provenance()
    recorder = _Recorder(provenance)
    with store.scope(store.get_state()), torch.random.fork_rng():  # noqa: SIM117
        with provenance, recorder:
            model(*args, **kwargs)
    sites = recorder.sites
    conflicts = _dim_conflicts(sites)
    discrete = {site.name for site in sites if site.is_discrete_latent}
    nodes = [
        _node(
            site,
            parents=site.depends_on & discrete,
            conflicts=conflicts[site.name],
            is_read_as_number=site.name in provenance.read,
        )
        for site in sites
    ]
    return InspectedModel(
        nodes=tuple(nodes),
        max_dims=_max_dims(sites),
        find_path=opt_einsum.paths.auto,
        has_one_scale=True,
    )


def _node(
    site: _RecordedSite,
    *,
    parents: frozenset[str],
    conflicts: frozenset[str],
    is_read_as_number: bool,
) -> SiteNode:
    message = site.message
    plates = site_plates(message, site.shape, "dim")
    node = SiteNode(
        name=site.name,
        parents=parents,
        plates=plates,
        is_factor=not _is_deterministic(message),
        scale=_scale_as_number(message["scale"]),
        conflicts=conflicts,
    )
    if not site.is_discrete_latent:
        return node
    support = _support(site.name, message["fn"])
    relaxation_obstacle = support.relaxation_obstacle
    unsupported = _INFINITE_SUPPORT
    if support.size:
        unsupported = _reason_against_enumeration(message, plates)
    if is_read_as_number:
        unsupported = "the program reads its value as a number of Python"
        relaxation_obstacle = unsupported
    return replace(
        node,
        support_size=support.size,
        setting=site_setting(site.infer),
        unsupported=unsupported,
        relaxation_obstacle=relaxation_obstacle,
        advice=support.advice,
    )


def _support(name: str, fn: Distribution) -> _Support:
    leaf = leaf_of(fn)
    try:
        return _Support(len(support_of(name, leaf).values))
    except ValueError:
        return _Support(0, advice=f"cut its support off: truncate={{{name!r}: ...}}")
    except NotImplementedError:
        obstacle = f"relax takes no vectors of {type(leaf).__name__}"
    try:
        size = len(fn.enumerate_support(expand=False))
    except NotImplementedError:
        size = 0
    return _Support(size, relaxation_obstacle=obstacle)


def _reason_against_enumeration(message: Message, plates: Plates) -> str | None:
    """Why the backend cannot enumerate a site, whatever depends on it."""
    fn = message["fn"]
    if _is_independent(fn):
        return "to_event makes its elements one site"
    try:
        fn.enumerate_support(expand=False)
    except (NotImplementedError, ValueError) as error:
        reason = "the backend does not enumerate it"
        return f"{reason}: {error}" if str(error) else reason
    if has_unnamed_axis(message, plates):
        return "it has a batch axis that is no plate"
    return None


def _is_independent(fn: Distribution) -> bool:
    """Whether `to_event` is among the wrappers of a distribution."""
    while hasattr(fn, "base_dist"):
        if isinstance(fn, Independent) and fn.reinterpreted_batch_ndims:
            return True
        fn = fn.base_dist
    return False


def _is_deterministic(message: Message) -> bool:
    """Whether a site is deterministic, and has no batch dims of its own."""
    if not is_deterministic(message):
        return False
    return 0 < message["value"].dim() == message["fn"].event_dim


def _scale_as_number(scale: Tensor | float | int) -> float | None:
    if isinstance(scale, Tensor) and scale.numel() != 1:
        return None
    return float(scale)


def _dim_conflicts(sites: Sequence[_RecordedSite]) -> dict[str, frozenset[str]]:
    """The earlier sites whose enumeration dims each site cannot share.

    A site outside of `pyro.markov` keeps its dim. Inside, a dim is free again once its
    context is left; until then values carry the dims of the sites that they depend on.
    """
    conflicts: dict[str, frozenset[str]] = {}
    sites_in_value: dict[str, frozenset[str]] = {}
    markov_depths: dict[str, int] = {}
    outside_markov: frozenset[str] = frozenset()
    for site in sites:
        name = site.name
        scope = site.infer.get("_markov_scope")
        conflicts[name] = outside_markov
        if scope is not None:
            visible = [
                sites_in_value[earlier]
                for earlier, depth in scope.items()
                if markov_depths.get(earlier) == depth
            ]
            conflicts[name] |= frozenset().union(*visible)
            markov_depths[name] = site.infer["_markov_depth"]
        elif site.is_latent:
            outside_markov |= {name}
        sites_in_value[name] = frozenset({name}) if site.is_latent else site.depends_on
    return conflicts


def _max_dims(sites: Sequence[_RecordedSite]) -> int:
    """The dims that tensors have beside plates and the events of values."""
    devices = {site.message["value"].device.type for site in sites}
    limits = [_MAX_TENSOR_DIMS.get(device, 64) for device in devices]
    nesting = max((len(site.shape) for site in sites), default=0)
    event_dims = max((site.message["fn"].event_dim for site in sites), default=0)
    return min(limits, default=64) - nesting - max(event_dims, 1)
