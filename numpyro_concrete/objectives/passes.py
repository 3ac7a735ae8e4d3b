"""The runs of one particle: the discrete program, and others on the same noise.

The guide's discrete sites are drawn from noise that is kept. A further run relaxes them
all, on the same noise. Or it takes the opposite noise for some: their logits may depend
on values of each other, so they are put in layers, a site in a later one than those it
depends on; the run keeps the values of the earlier layers, takes the opposite noise in
one layer, and goes on from there.

Counterpart: ``pyro_concrete.objectives.passes``.
"""

import functools
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.nn import log_softmax, one_hot
from numpyro.distributions import ExpandedDistribution, Independent, MaskedDistribution
from numpyro.infer.util import get_importance_trace
from numpyro.primitives import Messenger

from numpyro_concrete import ops
from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.objectives.costs import Costs
from numpyro_concrete.objectives.particles import check_match
from numpyro_concrete.planning.provenance import named, provenance_of
from numpyro_concrete.relaxation import relax
from numpyro_concrete.relaxation.site import SUFFIX, Site, is_discrete, leaf_of

Trace = dict[str, dict[str, Any]]


class Drawn(NamedTuple):
    """One discrete site of the guide, as it was drawn.

    Attributes:
        logits: Its logits, with the gradient of the parameters.
        scores: Logits plus noise, without one.
        binary: Whether it is a Bernoulli.
        value: Its discrete value.
        frames: The plates that it is in.
        event_dim: Number of axes of the scores right of those of the batch, but for
            that of the classes.
    """

    logits: Array
    scores: Array
    binary: bool
    value: Array
    frames: tuple[Any, ...]
    event_dim: int


class Soft(NamedTuple):
    """What a relaxed run has cost.

    Attributes:
        signals: For each site, the cost of the elements of its plates.
        slopes: For each, the derivative of the cost in the noise.
    """

    signals: dict[str, Array]
    slopes: dict[str, Array]


class _Noise:
    """The random keys of a particle by site, the same in each of its runs."""

    def __init__(self, key: Array) -> None:
        self.key = key

    def key_of(self, name: str) -> Array:
        """Return the key of a site."""
        return random.fold_in(self.key, zlib.crc32(name.encode()))

    def of(self, name: str, relaxed: Any, binary: bool) -> Array:
        """Return the noise of a discrete site."""
        dtype = ops.promote_half(leaf_of(relaxed).logits).dtype
        uniform = random.uniform(self.key_of(name), relaxed.shape(), dtype)
        return (ops.logistic if binary else ops.gumbel)(uniform)


class _KeyMessenger(Messenger):
    """Gives what is random a key of its name's, unlike `seed` in any order.

    Args:
        noise: The keys of sites.
        plates: The keys of subsamples.
    """

    def __init__(self, noise: _Noise, plates: _Noise) -> None:
        super().__init__()
        self.noise, self.plates = noise, plates
        self._unnamed = 0

    def process_message(self, msg: Any) -> None:
        if msg["type"] not in ("sample", "prng_key", "plate", "control_flow"):
            return
        if msg["kwargs"].get("rng_key") is not None or msg["value"] is not None:
            return
        name = msg.get("name")
        if name is None or msg["type"] == "control_flow":
            self._unnamed += 1
            name = f"{msg['type']} {self._unnamed}"
        noise = self.plates if msg["type"] == "plate" else self.noise
        msg["kwargs"]["rng_key"] = noise.key_of(name)


class _DrawMessenger(_KeyMessenger):
    """Draws the sites of a guide from a particle's noise.

    Args:
        noise: The noise.
        plates: The keys of subsamples.
        values: Values of sites that are not to be drawn.
        opposite: Names of the sites that get the opposite noise.
        relaxed: What to add to the noise of relaxed sites, by the name of the discrete.
        temperature: Temperature of a relaxed site by its name.
        mark: Whether to mark the values for `provenance_of`.
    """

    def __init__(
        self,
        noise: _Noise,
        plates: _Noise,
        *,
        values: Mapping[str, Array] | None = None,
        opposite: Collection[str] = (),
        relaxed: Mapping[str, Array] | None = None,
        temperature: Callable[[str], Any] | None = None,
        mark: bool = False,
    ) -> None:
        super().__init__(noise, plates)
        self.opposite, self.mark = opposite, mark
        self.values, self.relaxed = values or {}, relaxed or {}
        self.temperature = temperature
        self.drawn: dict[str, Drawn] = {}

    def process_message(self, msg: Any) -> None:
        super().process_message(msg)
        latent = msg["type"] == "sample" and not msg["is_observed"]
        if not latent or msg["value"] is not None:
            return
        name, fn = msg["name"], msg["fn"]
        if name in self.values:
            msg["value"] = self.values[name]
        elif self._is_relaxed(name, fn):
            msg["value"] = self._point(name.removesuffix(SUFFIX), fn)
        elif isinstance(leaf_of(fn), AbstractConcrete):
            return
        elif is_discrete(fn):
            self._draw(msg)
        elif not fn.has_rsample:
            raise NotImplementedError(
                f"site {name!r} ~ {type(leaf_of(fn)).__name__} of the guide is "
                "continuous and not reparameterised. RLOO takes any site"
            )

    def _draw(self, msg: Any) -> None:
        name = msg["name"]
        site = site_of(msg)
        if site is None:
            return  # a constant
        logits = leaf_of(site.relaxed).logits
        noise = self.noise.of(name, site.relaxed, site.binary)
        scores = lax.stop_gradient(logits)
        scores = scores + (-noise if name in self.opposite else noise)
        value = _hard(site, scores)
        if self.mark:
            value = named(value, name)
        frames, batch = msg["cond_indep_stack"], site.relaxed.batch_shape
        event_dim = scores.ndim - len(batch) - (not site.binary)
        self.drawn[name] = Drawn(
            logits, scores, site.binary, value, tuple(frames), event_dim
        )
        msg["value"] = value

    def _is_relaxed(self, name: str, fn: Any) -> bool:
        """Whether a site stands for one that the first run has drawn."""
        drawn = name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in self.relaxed
        return drawn and isinstance(leaf_of(fn), AbstractConcrete)

    def _point(self, name: str, relaxed: Any) -> Array:
        """The point of a relaxed site in log space."""
        assert self.temperature is not None
        leaf = leaf_of(relaxed)
        noise = self.noise.of(name, relaxed, not leaf.event_shape)
        scores = (leaf.logits + (noise + self.relaxed[name])) / self.temperature(name)
        return log_softmax(scores, -1) if leaf.event_shape else scores


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


def _hard(site: Site, scores: Array) -> Array:
    """The discrete value of scores, in the host's own type."""
    if site.binary:
        return (scores > 0).astype(jnp.result_type(int))
    chosen = scores.argmax(-1)
    if site.one_hot:
        dtype = jnp.result_type(site.logits)
        return one_hot(chosen, scores.shape[-1], dtype=dtype)
    return jnp.asarray(site.values)[chosen]


class Passes:
    """The runs of one particle.

    Args:
        key: Random key.
        plates: Random key of subsamples, which all particles share.
        params: Parameters of both programs, constrained.
        model: Model.
        guide: Its guide.
        args: Arguments of both.
        kwargs: Keyword arguments of both.

    Attributes:
        guide_trace: Trace of the discrete guide.
        costs: Terms of the discrete ELBO.
        drawn: The discrete sites of the guide by name.

    Counterpart: :class:`pyro_concrete.objectives.passes.Passes`.
    """

    def __init__(
        self,
        key: Array,
        plates: Array,
        params: Mapping[str, Any],
        model: Callable,
        guide: Callable,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.programs = model, guide
        self.args, self.kwargs = args, kwargs
        self.params = params
        model_key, guide_key = random.split(key)
        self.model_noise, self.noise = _Noise(model_key), _Noise(guide_key)
        self.plates = _Noise(plates)
        messenger = _DrawMessenger(self.noise, self.plates)
        self.traces = self._traces(messenger, self.programs, params)
        self.guide_trace = self.traces[1]
        self.drawn = messenger.drawn
        check(*self.traces)
        _check_drawn(self.guide_trace, self.drawn)
        self.costs = costs_of(*self.traces)

    @functools.cached_property
    def layers(self) -> list[tuple[str, ...]]:
        """The names of the discrete sites, in layers."""
        return layers_of(self._depends())

    def opposite(self, layer: int) -> tuple[Costs, dict[str, Drawn]]:
        """Run the discrete program with the opposite noise in one layer.

        The values of earlier layers are kept, and later ones go by their noise.
        """
        messenger = _DrawMessenger(
            self.noise,
            self.plates,
            values=self._before(layer),
            opposite=self.layers[layer],
        )
        traces = self._traces(messenger, self.programs, self.params)
        return costs_of(*traces), messenger.drawn

    def relaxed(self, temperatures: Mapping[str, Any]) -> Soft:
        """Run the program with all sites relaxed.

        What has a gradient are the temperatures alone. All else is a constant here,
        however the programs got it: as parameters, as arguments or from a closure.

        Args:
            temperatures: Temperatures by site.
        """
        _check_marks(*self.traces, self.drawn)
        still = {n: jnp.zeros_like(drawn.scores) for n, drawn in self.drawn.items()}
        options: Any = {"sites": lambda msg: msg["name"] in still, "temperature": 1.0}
        programs = [relax(fn, scoring="discrete", **options) for fn in self.programs]

        def cost(
            moves: dict[str, Array], temperatures: dict[str, Array]
        ) -> tuple[Array, dict[str, Array]]:
            messenger = _DrawMessenger(
                self.noise,
                self.plates,
                relaxed=moves,
                temperature=temperatures.__getitem__,
            )
            costs = costs_of(*self._traces(messenger, programs, self.params))
            signals = {n: costs.of(drawn.frames) for n, drawn in self.drawn.items()}
            return costs.total(), signals

        def soft(temperatures: dict[str, Array]) -> Soft:
            slopes, signals = jax.grad(cost, has_aux=True)(still, temperatures)
            return Soft(signals, slopes)

        arrays = jax.tree.map(jnp.asarray, dict(temperatures))
        # All that the run takes from outside becomes an argument, without a gradient.
        converted, constants = jax.closure_convert(soft, arrays)
        return converted(arrays, *lax.stop_gradient(constants))

    def _before(self, layer: int) -> dict[str, Array]:
        earlier = (name for names in self.layers[:layer] for name in names)
        return {name: self.drawn[name].value for name in earlier}

    def _depends(self) -> dict[str, Collection[str]]:
        """The sites that the logits of each site depend on."""
        if len(self.drawn) < 2:
            return {name: () for name in self.drawn}

        def logits() -> dict[str, Array]:
            messenger = _DrawMessenger(self.noise, self.plates, mark=True)
            self._traces(messenger, self.programs, self.params)
            return {name: drawn.logits for name, drawn in messenger.drawn.items()}

        found = provenance_of(logits)  # sorted by name
        return {name: found[name] for name in self.drawn}

    def _traces(
        self, messenger: _DrawMessenger, programs: Any, params: Mapping[str, Any]
    ) -> tuple[Trace, Trace]:
        model, guide = (
            _under(handler, fn)
            for handler, fn in zip(
                (_KeyMessenger(self.model_noise, self.plates), messenger),
                programs,
                strict=True,
            )
        )
        return get_importance_trace(model, guide, self.args, self.kwargs, dict(params))


def traces_of(
    key: Array,
    plates: Array,
    params: Mapping[str, Any],
    model: Callable,
    guide: Callable,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Trace, Trace]:
    """Run the discrete programs once, with a key of their own for subsamples."""
    keys = random.split(key)
    programs = [
        _under(_KeyMessenger(_Noise(key), _Noise(plates)), fn)
        for key, fn in zip(keys, (model, guide), strict=True)
    ]
    return get_importance_trace(*programs, args, kwargs, dict(params))


def _under(handler: Messenger, fn: Callable) -> Callable:
    def under(*args: Any, **kwargs: Any) -> Any:
        with handler:
            return fn(*args, **kwargs)

    return under


def check(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse programs of other sites than each other's, and enumeration, by site."""
    scored = [
        {name: site for name, site in trace.items() if site["type"] == "sample"}
        for trace in (model_trace, guide_trace)
    ]
    check_match(*scored)
    for name, site in scored[1].items():
        if not site["is_observed"] and site["infer"].get("enumerate"):
            raise NotImplementedError(_enumerated(name))


def _check_drawn(guide_trace: Trace, drawn: Collection[str]) -> None:
    """Refuse discrete sites whose noise is not known."""
    for name, site in guide_trace.items():
        if site["type"] != "sample" or site["is_observed"] or name in drawn:
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
    for trace in (model_trace, guide_trace):
        for name in drawn:
            if trace[name]["infer"].get("relax") is False:
                raise ValueError(
                    f"site {name!r} is marked infer={{'relax': False}}, and REBAR "
                    "relaxes it for its control variate. Take the mark away, or use "
                    "RLOO"
                )


def costs_of(model_trace: Trace, guide_trace: Trace) -> Costs:
    """Return the terms of the ELBO, whose gradient is that along the drawn paths.

    The log-probability of a value without a path is a number: its derivative in the
    guide's parameters has mean zero.
    """
    costs = Costs()
    for sign, trace in ((1, model_trace), (-1, guide_trace)):
        for site in trace.values():
            if site["type"] != "sample":
                continue
            term = site["log_prob"]
            if sign < 0 and not site["is_observed"] and not site["fn"].has_rsample:
                term = lax.stop_gradient(term)
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


def score_of(fn: Any, value: Array) -> Array:
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
