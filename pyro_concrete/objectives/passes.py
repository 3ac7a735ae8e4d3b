"""The runs of one particle: the discrete program, and others on the same noise.

The guide's discrete sites are drawn from noise that is kept. A further run relaxes them
all, on the same noise. Or it takes the opposite noise for some: their logits may depend
on values of each other, so they are put in layers, a site in a later one than those it
depends on; the run keeps the values of the earlier layers, takes the opposite noise in
one layer, and goes on from there.

Counterpart: ``numpyro_concrete.objectives.passes``.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from pyro.distributions.torch_distribution import (
    ExpandedDistribution,
    MaskedDistribution,
)
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent

from pyro_concrete import ops
from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.objectives.costs import Costs
from pyro_concrete.objectives.particles import check_match
from pyro_concrete.planning.provenance import Provenance
from pyro_concrete.relaxation import relax
from pyro_concrete.relaxation.site import SUFFIX, Site, is_discrete, leaf_of

_SEEDS = 2**62


class Drawn(NamedTuple):
    """One discrete site of the guide, as it was drawn.

    Attributes:
        logits: Its logits, in the graph of the parameters.
        scores: Logits plus noise, detached.
        binary: Whether it is a Bernoulli.
        value: Its discrete value.
        frames: The plates that it is in.
        event_dim: Number of axes of the scores right of those of the batch, but for
            that of the classes.
    """

    logits: Tensor
    scores: Tensor
    binary: bool
    value: Tensor
    frames: tuple[Any, ...]
    event_dim: int


class Soft(NamedTuple):
    """What a relaxed run has cost.

    Attributes:
        signals: For each site, the cost of the elements of its plates.
        slopes: For each, the derivative of the cost in the noise.
    """

    signals: dict[str, Tensor]
    slopes: dict[str, Tensor]


class _Noise:
    """The noise of a particle by site, drawn when it is first asked for."""

    def __init__(self) -> None:
        self._of: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self._of[name]

    def of(self, name: str, site: Site) -> Tensor:
        """Return the noise of a discrete site."""
        logits = ops.promote_half(leaf_of(site.relaxed).logits)
        if name not in self._of:
            shape, dtype = site.relaxed.shape(), logits.dtype
            uniform = torch.rand(shape, dtype=dtype, device=logits.device)
            self._of[name] = (ops.logistic if site.binary else ops.gumbel)(uniform)
        return self._of[name]

    def drawn(self, name: str, fn: Any) -> Tensor:
        """Draw from a distribution, with the same random state in every run."""
        if name not in self._of:
            self._of[name] = int(torch.randint(_SEEDS, ()))
        used = torch.cuda.is_available() and torch.cuda.is_initialized()
        devices = range(torch.cuda.device_count()) if used else ()
        with torch.random.fork_rng(devices):
            torch.manual_seed(self._of[name])
            return fn()


class SubsampleMessenger(Messenger):
    """Gives plates the subsample that they took first."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ == "_Subsample" and msg["value"] is None:
            msg["value"] = self._known.get(msg["name"])

    def _pyro_post_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ == "_Subsample":
            self._known[msg["name"]] = msg["value"]


class _DrawMessenger(Messenger):
    """Draws the sites of a guide from a particle's noise.

    Args:
        noise: The noise.
        values: Values of sites that are not to be drawn.
        opposite: Names of the sites that get the opposite noise.
        relaxed: Noise of relaxed sites.
        temperature: Temperature of a relaxed site by its name.
        detect: Whether to find out which sites depend on each other's values.
    """

    def __init__(
        self,
        noise: _Noise,
        *,
        values: Mapping[str, Tensor] | None = None,
        opposite: Collection[str] = (),
        relaxed: Mapping[str, Tensor] | None = None,
        temperature: Callable[[str], Any] | None = None,
        detect: bool = False,
    ) -> None:
        super().__init__()
        self.noise, self.opposite = noise, opposite
        self.values, self.relaxed = values or {}, relaxed or {}
        self.temperature = temperature
        self.drawn: dict[str, Drawn] = {}
        self.depends: dict[str, frozenset[str]] = {}
        self._detect = detect
        self._provenance: Provenance | None = None
        self._stack = ExitStack()

    def __exit__(self, *error: Any) -> Any:
        self._stack.close()
        return super().__exit__(*error)

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if msg["is_observed"] or msg["value"] is not None:
            return
        if name in self.values:
            msg["value"] = self.values[name]
        elif type(fn).__name__ == "_Subsample":
            return
        elif self._is_relaxed(name, fn):
            msg["value"] = self._point(name.removesuffix(SUFFIX), leaf_of(fn))
        elif is_discrete(fn):
            self._draw(msg)
        elif not fn.has_rsample:
            raise NotImplementedError(
                f"site {name!r} ~ {type(leaf_of(fn)).__name__} of the guide is "
                "continuous and not reparameterised. RLOO takes any site"
            )
        else:
            args, kwargs = msg["args"], msg["kwargs"]
            msg["value"] = self.noise.drawn(name, lambda: fn(*args, **kwargs))

    def _draw(self, msg: Any) -> None:
        name = msg["name"]
        site = site_of(msg)
        if site is None:
            return  # a constant
        logits = leaf_of(site.relaxed).logits
        noise = self.noise.of(name, site)
        scores = logits.detach() + (-noise if name in self.opposite else noise)
        value = _hard(site, scores, msg["fn"])
        frames, batch = msg["cond_indep_stack"], site.relaxed.batch_shape
        event_dim = scores.dim() - len(batch) - (not site.binary)
        if self._provenance is not None:
            read = frozenset(self._provenance.read)
            self.depends[name] = self._provenance.of(logits) | read
        elif self._detect:
            # From here on: most guides have one discrete site, and nothing behind it.
            self._provenance = self._stack.enter_context(Provenance())
            self.depends[name] = frozenset()
        if self._provenance is not None:
            value = self._provenance.named(value, name)
        self.drawn[name] = Drawn(
            logits, scores, site.binary, value, tuple(frames), event_dim
        )
        msg["value"] = value

    def _is_relaxed(self, name: str, fn: Any) -> bool:
        """Whether a site stands for one that the first run has drawn."""
        drawn = name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in self.relaxed
        return drawn and isinstance(leaf_of(fn), AbstractConcrete)

    def _point(self, name: str, relaxed: AbstractConcrete) -> Tensor:
        """The point of a relaxed site in log space."""
        assert self.temperature is not None
        scores = (relaxed.logits + self.relaxed[name]) / self.temperature(name)
        return scores.log_softmax(-1) if relaxed.event_shape else scores


def site_of(msg: Any) -> Site | None:
    """Return how a discrete site of a message would be relaxed, unless a constant."""
    name, fn, infer = msg["name"], msg["fn"], msg["infer"]
    if infer.get("enumerate"):
        raise NotImplementedError(_enumerated(name))
    try:
        site = Site(name, fn, 1.0, None, scoring="discrete")
    except (NotImplementedError, ValueError) as error:
        raise NotImplementedError(
            f"site {name!r} ~ {type(leaf_of(fn)).__name__} has no finite support of "
            "scalars or one-hot vectors. RLOO takes any site"
        ) from error
    return site if len(site.values) > 1 else None


def _hard(site: Site, scores: Tensor, fn: Any) -> Tensor:
    """The discrete value of scores, in the host's own type."""
    if site.binary:
        return (scores > 0).to(leaf_of(fn).probs.dtype)
    chosen = scores.argmax(-1)
    if site.one_hot:
        vertex = torch.nn.functional.one_hot(chosen, scores.shape[-1])
        return vertex.to(leaf_of(fn).probs.dtype)
    return site.values[chosen]


class Passes:
    """The runs of one particle.

    Args:
        model: Model.
        guide: Its guide.
        args: Arguments of both.
        kwargs: Keyword arguments of both.
        max_plate_nesting: As in the host's ELBOs.
        subsamples: The subsamples of all particles.
        layered: Whether to find the layers.

    Attributes:
        guide_trace: Trace of the discrete guide.
        costs: Terms of the discrete ELBO.
        drawn: The discrete sites of the guide by name.
        layers: Their names, in layers, if these were looked for.

    Counterpart: :class:`numpyro_concrete.objectives.passes.Passes`.
    """

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        max_plate_nesting: int | float,
        subsamples: SubsampleMessenger,
        layered: bool,
    ) -> None:
        self.programs = model, guide
        self.args, self.kwargs = args, kwargs
        self.max_plate_nesting = max_plate_nesting
        self.noise = _Noise()
        self.subsamples = subsamples
        messenger = _DrawMessenger(self.noise, detect=layered)
        self.traces = self._traces(messenger, self.programs)
        self.guide_trace = self.traces[1]
        self.drawn = messenger.drawn
        check(*self.traces)
        _check_drawn(self.guide_trace, self.drawn)
        self.costs = costs_of(*self.traces)
        self.layers = layers_of(messenger.depends)

    def opposite(self, layer: int) -> tuple[Costs, dict[str, Drawn]]:
        """Run the discrete program with the opposite noise in one layer.

        The values of earlier layers are kept, and later ones go by their noise.
        """
        messenger = _DrawMessenger(
            self.noise, values=self._before(layer), opposite=self.layers[layer]
        )
        traces = self._traces(messenger, self.programs)
        return costs_of(*traces), messenger.drawn

    def relaxed(self, temperature: Callable, *, graph: bool) -> Soft:
        """Run the program with all sites relaxed.

        Args:
            temperature: Temperature of a site by its name.
            graph: Whether to keep the graph of the slopes, for the temperatures.
        """
        _check_marks(*self.traces, self.drawn)
        noise = {name: self.noise[name].requires_grad_() for name in self.drawn}
        messenger = _DrawMessenger(self.noise, relaxed=noise, temperature=temperature)
        options: Any = {"sites": lambda msg: msg["name"] in noise, "temperature": 1.0}
        programs = [relax(fn, scoring="discrete", **options) for fn in self.programs]
        with torch.enable_grad():
            costs = costs_of(*self._traces(messenger, programs))
            total, points = costs.total(), list(noise.values())
            slopes = torch.autograd.grad(
                total, points, create_graph=graph, materialize_grads=True
            )
        signals = {name: costs.of(drawn.frames) for name, drawn in self.drawn.items()}
        return Soft(signals, dict(zip(noise, slopes, strict=True)))

    def _before(self, layer: int) -> dict[str, Tensor]:
        earlier = (name for names in self.layers[:layer] for name in names)
        return {name: self.drawn[name].value for name in earlier}

    def _traces(self, messenger: _DrawMessenger, programs: Any) -> tuple[Trace, Trace]:
        model, guide = programs

        def drawing(*args: Any, **kwargs: Any) -> Any:
            with messenger:
                return guide(*args, **kwargs)

        options = "flat", self.max_plate_nesting, model, drawing
        with self.subsamples:
            return get_importance_trace(*options, self.args, self.kwargs)


def check(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse programs of other sites than each other's, and enumeration, by site."""
    traces: Any = model_trace, guide_trace
    scored = [
        {name: site for name, site in trace.nodes.items() if _is_scored(site)}
        for trace in traces
    ]
    check_match(*scored)
    for name, site in scored[1].items():
        if not site["is_observed"] and site["infer"].get("enumerate"):
            raise NotImplementedError(_enumerated(name))


def _check_drawn(guide_trace: Trace, drawn: Collection[str]) -> None:
    """Refuse discrete sites whose noise is not known."""
    nodes: Any = guide_trace.nodes
    for name, site in nodes.items():
        if not _is_scored(site) or site["is_observed"] or name in drawn:
            continue
        if is_discrete(site["fn"]) and site_of(site) is not None:
            raise NotImplementedError(
                f"site {name!r} of the guide is drawn or set by another handler, and "
                "this objective needs its noise. RLOO takes any site"
            )


def _enumerated(name: str) -> str:
    return (
        f"site {name!r} is marked for enumeration, and this objective draws it. Take "
        "the mark away, or use TraceEnum_ELBO"
    )


def _check_marks(
    model_trace: Trace, guide_trace: Trace, drawn: Collection[str]
) -> None:
    """Refuse to relax a site that is opted out."""
    traces: Any = model_trace, guide_trace
    for trace in traces:
        for name in drawn:
            if trace.nodes[name]["infer"].get("relax") is False:
                raise ValueError(
                    f"site {name!r} is marked infer={{'relax': False}}, and REBAR "
                    "relaxes it for its control variate. Take the mark away, or use "
                    "RLOO"
                )


def _is_scored(site: Any) -> bool:
    return site["type"] == "sample" and not site["infer"].get("_deterministic")


def costs_of(model_trace: Trace, guide_trace: Trace) -> Costs:
    """Return the terms of the ELBO, whose gradient is that along the drawn paths.

    The log-probability of a value without a path is a number: its derivative in the
    guide's parameters has mean zero.
    """
    costs = Costs()
    for sign, trace in ((1, model_trace), (-1, guide_trace)):
        nodes: Any = trace.nodes
        for site in nodes.values():
            if not _is_scored(site):
                continue
            term = site["log_prob"]
            if sign < 0 and not site["is_observed"] and not site["fn"].has_rsample:
                term = term.detach()
            costs.add(sign * term, site["cond_indep_stack"])
    return costs


def layers_of(depends: Mapping[str, Collection[str]]) -> list[tuple[str, ...]]:
    """Put names in layers, each later than those that it depends on.

    Example:
        >>> layers_of({"a": (), "b": (), "c": ("a",), "d": ("c", "b")})
        [('a', 'b'), ('c',), ('d',)]
    """
    number: dict[str, int] = {}
    for name, others in depends.items():
        number[name] = max((number[x] + 1 for x in others), default=0)
    depth = max(number.values(), default=-1) + 1
    return [tuple(n for n in number if number[n] == layer) for layer in range(depth)]


def score_of(fn: Any, value: Tensor) -> Tensor:
    """Return the log-probability that a value was drawn with, whatever its mask."""
    return _unmasked(fn).log_prob(value)


def _unmasked(fn: Any) -> Any:
    if isinstance(fn, MaskedDistribution):
        return _unmasked(fn.base_dist)
    if isinstance(fn, Independent):
        return _unmasked(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, ExpandedDistribution):
        return _unmasked(fn.base_dist).expand(fn.batch_shape)
    return fn
