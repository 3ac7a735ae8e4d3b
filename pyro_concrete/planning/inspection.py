"""The sites of a program, as a plan needs to know them, from one run of it.

Counterpart: ``numpyro_concrete.planning.inspection``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import opt_einsum
import pyro
import torch
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent

from concrete_core.planning.costs import Node
from pyro_concrete.planning.provenance import Provenance
from pyro_concrete.relaxation.finite_support import support_of
from pyro_concrete.relaxation.site import is_discrete, leaf_of

# TraceEnum_ELBO contracts all enumerated sites under one scale, by these paths.
ONE_SCALE = True
find_path = opt_einsum.paths.auto
# Most dims of a tensor: in any operation, and in the kernels of CUDA.
_MOST_DIMS = {"cpu": 64, "cuda": 25}


class Program(NamedTuple):
    """The sites of a program in its order, and how many can be enumerated at once."""

    nodes: tuple[Node, ...]
    max_dims: int


class _Recorder(Messenger):
    """The effect handler that notes the sites of a program."""

    def __init__(self, provenance: Provenance) -> None:
        super().__init__()
        self.provenance = provenance
        self.sites: list[dict[str, Any]] = []

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if type(msg["fn"]).__name__ == "_Subsample":
            return
        latent = not msg["is_observed"] and not isinstance(leaf_of(msg["fn"]), Delta)
        if latent:
            msg["value"] = self.provenance.named(msg["value"], msg["name"])
        score = msg["fn"].log_prob(msg["value"])
        depends = self.provenance.of(score, msg["mask"], msg["scale"])
        if _is_value(msg):
            depends = self.provenance.of(msg["value"])
        site = {**msg, "latent": latent, "infer": dict(msg["infer"])}
        self.sites.append(site | {"depends": depends, "shape": score.shape})


def inspect_program(
    model: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Program:
    """Run a program once, and return what a plan needs to know of its sites.

    Args:
        model: Program, without enumeration.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """
    store = pyro.get_param_store()
    provenance = Provenance()
    recorder = _Recorder(provenance)
    with store.scope(store.get_state()), torch.random.fork_rng():  # noqa: SIM117
        with provenance, recorder:
            model(*args, **kwargs)
    avoided = _avoided(recorder.sites)
    sites = recorder.sites
    discrete = {s["name"] for s in sites if s["latent"] and is_discrete(s["fn"])}
    nodes = tuple(
        _node(site, discrete, avoided[site["name"]], provenance) for site in sites
    )
    return Program(nodes, _max_dims(sites))


def _node(
    site: dict[str, Any],
    discrete: set[str],
    avoid: frozenset[str],
    provenance: Provenance,
) -> Node:
    name = site["name"]
    node = Node(
        name=name,
        parents=site["depends"] & discrete,
        plates=_plates(site),
        scored=not _is_value(site),
        scale=_number(site["scale"]),
        avoid=avoid,
    )
    if name not in discrete:
        return node
    support, obstacle, advice = _support(name, site["fn"])
    refusal = _refusal(site) if support else "its support is not finite"
    if name in provenance.read:
        refusal = obstacle = "the program reads its value as a number of Python"
    return node._replace(
        support=support,
        mark=_mark(site["infer"]),
        refusal=refusal,
        obstacle=obstacle,
        advice=advice,
    )


def _support(name: str, fn: Any) -> tuple[int, str | None, str | None]:
    """The number of values of a site, what rules relaxation out, what it needs."""
    leaf = leaf_of(fn)
    try:
        return len(support_of(name, leaf).values), None, None
    except ValueError:
        return 0, None, f"cut its support off: truncate={{{name!r}: ...}}"
    except NotImplementedError:
        obstacle = f"relax takes no vectors of {type(leaf).__name__}"
    try:
        return len(fn.enumerate_support(expand=False)), obstacle, None
    except NotImplementedError:
        return 0, obstacle, None


def _refusal(site: dict[str, Any]) -> str | None:
    """Why the host cannot enumerate a site, for what it is by itself."""
    fn = site["fn"]
    if _is_joined(fn):
        return "to_event makes its elements one site"
    try:
        fn.enumerate_support(expand=False)
    except (NotImplementedError, ValueError) as error:
        return ": ".join(filter(None, ["the host does not enumerate it", str(error)]))
    known = {frame.name for frame in site["cond_indep_stack"]}
    if any(name not in known for name, _ in _plates(site)):
        return "it has a batch axis that is no plate"
    return None


def _is_joined(fn: Any) -> bool:
    while hasattr(fn, "base_dist"):
        if isinstance(fn, Independent) and fn.reinterpreted_batch_ndims:
            return True
        fn = fn.base_dist
    return False


def _mark(infer: Mapping[str, Any]) -> str | None:
    relax, enumerate_ = infer.get("relax"), infer.get("enumerate")
    if relax is not None and relax is not False:
        return "relax"
    if enumerate_:
        return "enumerate" if enumerate_ == "parallel" else "leave"
    return "leave" if relax is False else None


def _is_value(site: Mapping[str, Any]) -> bool:
    """Whether a site is deterministic, and has no batch dims of its own."""
    if not site["infer"].get("_deterministic"):
        return False
    return 0 < site["value"].dim() == site["fn"].event_dim


def _plates(site: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """The plates of a site, and its other batch dims by names of their own."""
    frames = {frame.dim: frame for frame in site["cond_indep_stack"]}
    shape = site["shape"]
    sizes = [(dim, shape[dim]) for dim in range(-len(shape), 0)]
    named = [
        (frames[dim].name if dim in frames else f"{site['name']}, dim {dim}", size)
        for dim, size in sizes
        if size > 1 or dim in frames
    ]
    return tuple(named)


def _number(scale: Any) -> float | None:
    if isinstance(scale, Tensor) and scale.numel() != 1:
        return None
    return float(scale)


def _avoided(sites: Sequence[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    """The sites whose enumeration dims each one keeps off, as `pyro.markov` has them.

    Sites outside of it keep their dims to themselves; inside of it, dims are free again
    once the site's context is left.
    """
    avoided: dict[str, frozenset[str]] = {}
    shown: dict[str, frozenset[str]] = {}  # sites with dims in a value
    depths: dict[str, int] = {}
    global_: frozenset[str] = frozenset()
    for site in sites:
        name, infer = site["name"], site["infer"]
        scope = infer.get("_markov_scope")
        avoided[name] = global_
        if scope is not None:
            visible = (n for n, d in scope.items() if depths.get(n) == d)
            avoided[name] |= frozenset().union(*(shown[n] for n in visible))
            depths[name] = infer["_markov_depth"]
        elif site["latent"]:
            global_ |= {name}
        shown[name] = frozenset({name}) if site["latent"] else site["depends"]
    return avoided


def _max_dims(sites: Sequence[Mapping[str, Any]]) -> int:
    """The dims that the host has left of plates and of the events of values."""
    devices = {site["value"].device.type for site in sites}
    most = min((_MOST_DIMS.get(device, 64) for device in devices), default=64)
    nesting = max((len(site["shape"]) for site in sites), default=0)
    event = max((site["fn"].event_dim for site in sites), default=0)
    return most - nesting - max(event, 1)
