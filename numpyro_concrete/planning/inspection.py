"""The sites of a model as the planner needs them, from one run of it.

A handler records the sites while JAX traces the run; `provenance_of` reads from the
traced program which drawn values each log-probability depends on. The rest is read off
the distributions.

Counterpart: ``pyro_concrete.planning.inspection``.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import opt_einsum
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.distributions import Delta, Independent
from numpyro.handlers import seed, substitute
from numpyro.infer.initialization import init_to_sample
from numpyro.primitives import Messenger

from concrete_core.planning.sites import (
    InspectedModel,
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
from numpyro_concrete.planning.provenance import named, provenance_of
from numpyro_concrete.relaxation.finite_support import support_of
from numpyro_concrete.relaxation.site import is_discrete
from numpyro_concrete.relaxation.wrappers import leaf_of

NameToDim = dict[str, int]

# Largest number of dims that NumPyro's stack of enumeration dims holds.
_MAX_STACK_DIMS = 25
_STACK_MODULE = "numpyro.contrib.funsor.enum_messenger"
_INFINITE_SUPPORT = "its support is not finite"


@dataclass(frozen=True)
class _Support:
    """What the support of a site allows: see `SiteNode` for the attributes."""

    size: int
    unsupported: str | None = None
    relaxation_obstacle: str | None = None
    advice: str | None = None


@dataclass(frozen=True)
class _RecordedSite:
    """A site as one run has shown it.

    Attributes:
        message: NumPyro's message of the site.
        infer: Its per-site settings, before handlers outside change them.
        shape: Shape of its log-probability.
        is_in_loop: Whether it is inside of `scan` or `cond`.
        support: What its support allows if it is latent and discrete; else None.
        conflicts: Earlier sites whose enumeration dim it cannot share.
    """

    message: Message
    infer: Infer
    shape: tuple[int, ...]
    is_in_loop: bool
    support: _Support | None = None
    conflicts: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Name of the site."""
        return self.message["name"]


class _Recorder(Messenger):
    """The effect handler that records the sites of a model.

    Attributes:
        sites: Sites in the order of the model.
        log_probs: Log-probability of each site, or the value of a deterministic one.
    """

    def __init__(self, fn: Callable) -> None:
        super().__init__(fn)
        self.sites: list[_RecordedSite] = []
        self.log_probs: dict[str, Any] = {}
        self._names_in_loops: set[str] = set()
        self._scopes = _MarkovScopes()

    def postprocess_message(self, msg: Message) -> None:
        if msg["type"] == "control_flow":
            result = msg["value"][1]
            loop_trace = result[0] if msg["fn"] is scan_wrapper else result
            self._names_in_loops |= loop_trace.trace.keys()
        elif msg["type"] == "deterministic":
            self.log_probs[msg["name"]] = msg["value"]
            self._record(msg, shape=())
        elif msg["type"] == "sample":
            self._record_sample(msg)

    def _record_sample(self, msg: Message) -> None:
        fn = msg["fn"]
        name = msg["name"]
        is_random = not isinstance(leaf_of(fn), Delta)
        is_latent = is_random and not msg["is_observed"]
        if is_latent:
            msg["value"] = named(msg["value"], name)
        intermediates = msg.get("intermediates")
        if intermediates:
            log_prob = fn.log_prob(msg["value"], intermediates)
        else:
            log_prob = fn.log_prob(msg["value"])
        self.log_probs[name] = log_prob
        shape = np.shape(log_prob)
        if not (is_latent and is_discrete(fn)):
            self._record(msg, shape=shape)
            return
        conflicts = self._scopes.enter(name)
        self._record(msg, shape=shape, support=_support(name, fn), conflicts=conflicts)

    def _record(self, msg: Message, **attributes: Any) -> None:
        site = _RecordedSite(
            message=dict(msg),
            infer=dict(msg.get("infer") or {}),
            is_in_loop=msg["name"] in self._names_in_loops,
            **attributes,
        )
        self.sites.append(site)


@dataclass(frozen=True)
class _MarkovFrames:
    """Frames of `markov` at a site, each as its enumeration dims by site.

    Attributes:
        visible: Frames whose sites keep their dims here.
        entered: Frames that the site is added to.
    """

    visible: list[NameToDim]
    entered: list[NameToDim]


class _MarkovScopes:
    """The sites whose enumeration dims each site cannot share, because of `markov`.

    Each step of a `markov` loop has a frame, which sees the frames before it. Sites
    outside of loops are in the global one, and keep their dims.
    """

    def __init__(self) -> None:
        # Frames are kept, or another could get the same id.
        self._records: dict[int, tuple[NameToDim, set[str]]] = {}
        self._outermost: NameToDim = {}

    def enter(self, name: str) -> frozenset[str]:
        """Return the sites that are visible here, and add a site to them."""
        frames = self._frames()
        visible_names = map(self._names_in, frames.visible + frames.entered)
        conflicts = frozenset().union(*visible_names)
        for frame in frames.entered:
            self._names_in(frame).add(name)
        return conflicts

    def _frames(self) -> _MarkovFrames:
        # A model that uses markov has imported this module; others need no funsor.
        module = sys.modules.get(_STACK_MODULE)
        if module is None:
            return _MarkovFrames(visible=[], entered=[self._outermost])
        stack = module._DIM_STACK
        current = stack.current_frame
        visible = [stack.global_frame, *current.parents, *current.iter_parents]
        entered = [current]
        if current.keep:
            entered += current.parents
        return _MarkovFrames(
            visible=[self._outermost, *(frame.name_to_dim for frame in visible)],
            entered=[frame.name_to_dim for frame in entered],
        )

    def _names_in(self, frame: NameToDim) -> set[str]:
        _, names = self._records.setdefault(id(frame), (frame, set()))
        return names


def inspect_model(
    model: Program, args: Arguments, kwargs: KeywordArguments
) -> InspectedModel:
    """Run a model once, and return what the planner needs to know of its sites.

    Args:
        model: Model, or guide, without enumeration.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """
    # Improper priors cannot be sampled.
    seeded = substitute(seed(model, 0), substitute_fn=init_to_sample)
    recorder = _Recorder(seeded)

    def log_probs() -> dict[str, Any]:
        recorder(*args, **kwargs)
        return recorder.log_probs

    depends_on = provenance_of(log_probs)
    sites = recorder.sites
    discrete = {site.name for site in sites if site.support is not None}
    has_loop = any(site.is_in_loop for site in sites)
    nodes = [
        _node(site, parents=depends_on[site.name] & discrete, has_loop=has_loop)
        for site in sites
    ]
    nesting = max((len(site.shape) for site in sites), default=0)
    return InspectedModel(
        nodes=tuple(nodes),
        max_dims=_MAX_STACK_DIMS - nesting,
        find_path=opt_einsum.paths.greedy,
        has_one_scale=False,
    )


def _node(site: _RecordedSite, *, parents: frozenset[str], has_loop: bool) -> SiteNode:
    message = site.message
    plates = site_plates(message, site.shape, "axis")
    node = SiteNode(
        name=site.name,
        parents=parents,
        plates=plates,
        is_factor=message["type"] != "deterministic",
        scale=_scale_as_number(message.get("scale")),
        conflicts=site.conflicts,
    )
    support = site.support
    if support is None:
        return node
    unsupported = support.unsupported
    if site.is_in_loop:
        unsupported = "it is inside of scan or cond, over which TraceEnum_ELBO is wrong"
    elif unsupported is None and has_loop:
        unsupported = "it is beside a scan or cond: TraceEnum_ELBO is wrong there"
    elif unsupported is None and has_unnamed_axis(message, plates):
        unsupported = "it has a batch axis that is no plate"
    return replace(
        node,
        support_size=support.size,
        setting=site_setting(site.infer),
        unsupported=unsupported,
        relaxation_obstacle=support.relaxation_obstacle,
        advice=support.advice,
    )


def _support(name: str, fn: Distribution) -> _Support:
    leaf = leaf_of(fn)
    # In a traced program the values of constants would be hidden.
    with jax.ensure_compile_time_eval():
        try:
            size = len(support_of(name, leaf).values)
        except ValueError:
            advice = f"cut its support off: truncate={{{name!r}: ...}}"
            return _Support(0, unsupported=_INFINITE_SUPPORT, advice=advice)
        except NotImplementedError:
            obstacle = f"relax takes no vectors of {type(leaf).__name__}"
            unsupported = _reason_against_enumeration(fn)
            return _Support(0, unsupported=unsupported, relaxation_obstacle=obstacle)
        return _Support(size, unsupported=_reason_against_enumeration(fn))


def _reason_against_enumeration(fn: Distribution) -> str | None:
    """Why the backend cannot enumerate a site, whatever depends on it."""
    if _is_independent(fn):
        return "to_event makes its elements one site"
    if not fn.has_enumerate_support:
        return _INFINITE_SUPPORT
    try:
        values = np.asarray(fn.enumerate_support(expand=False))
    except (NotImplementedError, ValueError) as error:
        reason = "the backend does not enumerate it"
        return f"{reason}: {error}" if str(error) else reason
    counts_from_zero = np.arange(len(values))
    if values.size != len(values) or (values.reshape(-1) != counts_from_zero).any():
        return "the backend enumerates 0, 1, ..., and its values are others"
    return None


def _is_independent(fn: Distribution) -> bool:
    """Whether `to_event` is among the wrappers of a distribution."""
    while hasattr(fn, "base_dist"):
        if isinstance(fn, Independent) and fn.reinterpreted_batch_ndims:
            return True
        fn = fn.base_dist
    return False


def _scale_as_number(scale: Any) -> float | None:
    if scale is None:
        return 1.0
    return None if isinstance(scale, jax.Array) else float(scale)
