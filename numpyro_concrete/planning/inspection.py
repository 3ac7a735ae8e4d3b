"""The sites of a program, as a plan needs to know them, from one run of it.

Counterpart: ``pyro_concrete.planning.inspection``.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import opt_einsum
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.distributions import Independent
from numpyro.handlers import seed, substitute
from numpyro.infer.initialization import init_to_sample
from numpyro.primitives import Messenger

from concrete_core.planning.costs import Node
from numpyro_concrete.planning.provenance import named, provenance_of
from numpyro_concrete.relaxation.finite_support import support_of
from numpyro_concrete.relaxation.site import is_discrete, leaf_of

# TraceEnum_ELBO contracts sites that depend on each other under one scale, by these
# paths.
ONE_SCALE = False
find_path = opt_einsum.paths.greedy
# Most dims that the host's stack of them takes.
_MOST_DIMS = 25
_STACK = "numpyro.contrib.funsor.enum_messenger"


class Program(NamedTuple):
    """The sites of a program in its order, and how many can be enumerated at once."""

    nodes: tuple[Node, ...]
    max_dims: int


class _Recorder(Messenger):
    """The effect handler that notes the sites of a program."""

    def __init__(self, fn: Callable) -> None:
        super().__init__(fn)
        self.sites: list[dict[str, Any]] = []
        self.scores: dict[str, Any] = {}
        self._looped: set[str] = set()
        self._scopes = _Scopes()

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow":
            last = msg["value"][1]
            trace = last[0] if msg["fn"] is scan_wrapper else last
            self._looped |= trace.trace.keys()
        elif msg["type"] == "deterministic":
            self._note(msg, msg["value"], latent=False, shape=())
        elif msg["type"] == "sample":
            self._note_sample(msg)

    def _note_sample(self, msg: dict[str, Any]) -> None:
        fn, name = msg["fn"], msg["name"]
        latent = not msg["is_observed"] and type(leaf_of(fn)).__name__ != "Delta"
        if latent:
            msg["value"] = named(msg["value"], name)
        given = [msg["intermediates"]] if msg.get("intermediates") else []
        score = fn.log_prob(msg["value"], *given)
        self._note(msg, score, latent=latent, shape=np.shape(score))
        if latent and is_discrete(fn):
            self.sites[-1]["avoid"] = self._scopes.enter(name)
            self.sites[-1]["values"] = _support(name, fn)

    def _note(
        self, msg: dict[str, Any], score: Any, *, latent: bool, shape: tuple[int, ...]
    ) -> None:
        name = msg["name"]
        self.scores[name] = score
        site = {**msg, "latent": latent, "shape": shape, "avoid": frozenset()}
        site["infer"] = dict(msg.get("infer") or {})
        site["looped"] = name in self._looped
        self.sites.append(site)


class _Scopes:
    """The sites whose enumeration dims each one keeps off, as `markov` has them.

    Each step of a loop has a frame, which sees the frames before it. Sites outside of
    any are in the global one, and keep their dims to themselves.
    """

    def __init__(self) -> None:
        self._names: dict[int, tuple[Any, set[str]]] = {}
        self._outermost: dict[str, int] = {}

    def enter(self, name: str) -> frozenset[str]:
        """Return the sites that are seen from here, and add one to them."""
        seen, written = self._frames()
        avoid = frozenset().union(*(self._at(frame) for frame in seen + written))
        for frame in written:
            self._at(frame).add(name)
        return avoid

    def _frames(self) -> tuple[list[Any], list[Any]]:
        """The frames around the program's place, and those that its sites go into."""
        # A program that uses markov has imported this module; others need no funsor.
        host = sys.modules.get(_STACK)
        if host is None:
            return [], [self._outermost]
        stack = host._DIM_STACK
        frame = stack.current_frame
        seen = [stack.global_frame, *frame.parents, *frame.iter_parents]
        written = [frame, *(frame.parents if frame.keep else ())]
        outer = [self._outermost, *(x.name_to_dim for x in seen)]
        return outer, [x.name_to_dim for x in written]

    def _at(self, frame: Any) -> set[str]:
        return self._names.setdefault(id(frame), (frame, set()))[1]


def inspect_program(
    model: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Program:
    """Run a program once, and return what a plan needs to know of its sites.

    Args:
        model: Program, without enumeration.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """
    # Improper priors have no draws.
    seeded = substitute(seed(model, 0), substitute_fn=init_to_sample)
    recorder = _Recorder(seeded)

    def run() -> dict[str, Any]:
        recorder(*args, **kwargs)
        return recorder.scores

    depends = provenance_of(run)
    sites = recorder.sites
    discrete = {site["name"] for site in sites if "values" in site}
    loops = any(site["looped"] for site in sites)
    nodes = tuple(_node(s, depends[s["name"]] & discrete, loops) for s in sites)
    nesting = max((len(site["shape"]) for site in sites), default=0)
    return Program(nodes, _MOST_DIMS - nesting)


def _node(site: dict[str, Any], parents: frozenset[str], loops: bool) -> Node:
    node = Node(
        name=site["name"],
        parents=parents,
        plates=_plates(site),
        scored=not _is_value(site),
        scale=_number(site.get("scale")),
        avoid=site["avoid"],
    )
    if "values" not in site:
        return node
    values, obstacle, advice, refusal = site["values"]
    if site["looped"]:
        refusal = "it is inside of scan or cond, over which TraceEnum_ELBO is wrong"
    elif loops:
        refusal = (
            refusal or "it is beside a scan or cond: TraceEnum_ELBO is wrong there"
        )
    elif any(name not in _names(site) for name, _ in node.plates):
        refusal = refusal or "it has a batch axis that is no plate"
    return node._replace(
        support=values,
        mark=_mark(site["infer"]),
        refusal=refusal,
        obstacle=obstacle,
        advice=advice,
    )


def _support(name: str, fn: Any) -> tuple[int, str | None, str | None, str | None]:
    """The number of values of a site, what rules relaxation out, what it needs.

    And, at last, why the host cannot enumerate it.
    """
    obstacle, leaf = None, leaf_of(fn)
    # In a traced program the values of constants are hidden otherwise.
    with jax.ensure_compile_time_eval():
        try:
            size = len(support_of(name, leaf).values)
        except ValueError:
            advice = f"cut its support off: truncate={{{name!r}: ...}}"
            return 0, None, advice, "its support is not finite"
        except NotImplementedError:
            size, obstacle = 0, f"relax takes no vectors of {type(leaf).__name__}"
        return size, obstacle, None, _refusal(fn)


def _refusal(fn: Any) -> str | None:
    """Why the host cannot enumerate a site, for what it is by itself."""
    if _is_joined(fn):
        return "to_event makes its elements one site"
    if not fn.has_enumerate_support:
        return "its support is not finite"
    try:
        values = np.asarray(fn.enumerate_support(expand=False))
    except (NotImplementedError, ValueError) as error:
        return ": ".join(filter(None, ["the host does not enumerate it", str(error)]))
    if values.size != len(values) or (values.reshape(-1) != range(len(values))).any():
        return "the host enumerates 0, 1, ..., and its values are others"
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
    """Whether a site is deterministic."""
    return site["type"] == "deterministic"


def _plates(site: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """The plates of a site, and its other batch axes by names of their own."""
    frames = {frame.dim: frame for frame in site["cond_indep_stack"]}
    shape = site["shape"]
    sizes = [(dim, shape[dim]) for dim in range(-len(shape), 0)]
    named = [
        (frames[dim].name if dim in frames else f"{site['name']}, axis {dim}", size)
        for dim, size in sizes
        if size > 1 or dim in frames
    ]
    return tuple(named)


def _names(site: Mapping[str, Any]) -> set[str]:
    return {frame.name for frame in site["cond_indep_stack"]}


def _number(scale: Any) -> float | None:
    if scale is None:
        return 1.0
    return None if isinstance(scale, jax.Array) else float(scale)
