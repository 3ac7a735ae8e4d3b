"""AutoConcrete: a guide for relaxed models.

Counterpart: ``pyro_concrete.guides.auto_concrete``.
"""

import functools
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array, random
from jax.nn import log_softmax, one_hot, sigmoid, softmax
from numpyro.distributions import Delta
from numpyro.distributions.util import periodic_repeat
from numpyro.handlers import block, seed, substitute
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.initialization import init_to_uniform
from numpyro.primitives import _PYRO_STACK, Messenger
from numpyro.util import not_jax_tracer

from numpyro_concrete.distributions import AbstractConcrete, AbstractHard
from numpyro_concrete.guides.factors import (
    ConcreteFactor,
    FactorMessenger,
    NormalFactor,
    is_masked,
    mask_of,
)
from numpyro_concrete.relaxation.finite_support import only_value
from numpyro_concrete.relaxation.handlers import (
    HardenMessenger,
    TrainingMessenger,
    hardened_in_prediction,
    relaxed_in_prediction,
)
from numpyro_concrete.relaxation.site import (
    LEFT_OUT,
    SUFFIX,
    Temperature,
    check_relaxed_names,
    checked,
    hard_of,
    is_discrete,
    leaf_of,
    of_site,
)
from numpyro_concrete.schedules import current_temperature

# A mark of relaxed sites that the search for a start does not move.
_HELD = "_held"
# NumPyro's mark of sites that a scan has stacked.
_STEP = "_scan_current_index"


class AutoConcrete(AutoNormal):
    r"""A guide for a relaxed model: a Concrete factor for each relaxed site.

    Relaxed sites are independent of each other, each with logits of its own, in the
    family of the model's site (`ExpConcrete`, `LogitBinaryConcrete`). Continuous sites
    are normal in unconstrained space, as in `AutoNormal`. Sites that the model marks
    for enumeration are left to `TraceEnum_ELBO`. `harden` makes it the discrete guide
    that it stands for.

    Masks of the model apply to the factors as well, at every call: what is masked is
    sampled from the model, as from its prior, and not scored. Under masks the guide
    therefore runs the model once at each call. It looks for masks at its first call,
    at calls with arguments of other types or shapes, and whenever it is hardened.

    .. math:: q(z_1, \dots, z_m) = \prod_i \mathrm{Concrete}(z_i; a_i, t_i)

    Parameters are ``<site>_auto_logits``, and those of `AutoNormal`. In a subsampled
    plate they have its full size.

    Shapes:
        logits: batch shape of the site, and the classes; two-valued sites have one
            logit, of the value one.

    Args:
        model: A relaxed model: the result of `relax`.
        temperature: Temperature of the guide's factors, > 0; a schedule, or a mapping
            by site. By default the model's.
        init_logits: Where logits start: "prior", at the model's own; "init_loc_fn", at
            the point that it gives to the sites ``..._relaxed``, in log space; or a
            mapping from the names of sites to logits, the prior's for other sites.
        prefix: Of the names of parameters.
        init_loc_fn: Initial value of continuous sites; see NumPyro's initialization.
        init_scale: Initial scale of continuous sites, > 0, in unconstrained space.
        create_plates: As in NumPyro's guides: makes plates that are subsampled.

    Raises:
        ValueError: At the first call, if the model has a discrete site that is neither
            relaxed nor enumerated, by name; if `init_logits` does not fit.

    Example:
        >>> import numpyro.distributions as dist
        >>> from numpyro_concrete import relax
        >>> def model():
        ...     probs = jnp.array([0.25, 0.25, 0.5])
        ...     z = numpyro.sample("z", dist.Categorical(probs))
        ...     numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=2.0)
        >>> guide = AutoConcrete(relax(model, temperature=0.5), temperature=2 / 3)
        >>> with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as trace:
        ...     list(guide())
        ['z_relaxed']
        >>> params = {"z_auto_logits": trace["z_auto_logits"]["value"]}
        >>> guide.probabilities(params)["z"].round(2).tolist()
        [0.25, 0.25, 0.5]

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`pyro_concrete.AutoConcrete`.
    """

    def __init__(
        self,
        model: Callable,
        temperature: Temperature | None = None,
        *,
        init_logits: str | Mapping[str, Any] = "prior",
        prefix: str = "auto",
        init_loc_fn: Callable = init_to_uniform,
        init_scale: float = 0.1,
        create_plates: Callable | None = None,
    ) -> None:
        if isinstance(init_logits, str) and init_logits not in ("prior", "init_loc_fn"):
            raise ValueError(
                'init_logits is "prior", "init_loc_fn" or a mapping by site, not '
                f"{init_logits!r}"
            )
        self.temperature = None if temperature is None else checked(temperature)
        self.init_logits = init_logits
        own = init_logits == "init_loc_fn"
        self._program = model
        super().__init__(
            ContinuousMessenger(model),
            prefix=prefix,
            init_loc_fn=functools.partial(_init_loc, given=init_loc_fn, own=own),
            init_scale=init_scale,
            create_plates=create_plates,
        )
        self._relaxed: dict[str, dict[str, Any]] = {}
        self._starts: dict[str, Array] = {}
        self._constants: dict[str, Constant] = {}
        self._is_masked = False
        self._seen_calls: set[Hashable] = set()
        self._prototype_call: tuple[Any, Any] = ((), {})

    @relaxed_in_prediction
    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        trace: Any = self.prototype_trace
        leaves = jax.tree.leaves((args, kwargs))
        if all(not_jax_tracer(x) for x in leaves):
            self._prototype_call = args, kwargs
        self._seen_calls.add(_kind_of_call(args, kwargs))
        self._is_masked = any(_is_latent(s) and is_masked(s) for s in trace.values())
        self._constants = self.model.constants
        for constant in self._constants.values():
            for frame in constant.plates:
                self._prototype_frames[frame.name] = frame
        self._relaxed = {name: s for name, s in trace.items() if _is_relaxed(s)}
        names = [name.removesuffix(SUFFIX) for name in self._relaxed]
        _check_names(names, self.init_logits)
        check_relaxed_names("temperature", self.temperature, names)
        self._starts = {name: self._start(name) for name in self._relaxed}
        for name, site in self._relaxed.items():
            del trace[name]
            for of_normal in (self._init_locs, self._event_dims):
                of_normal.pop(name, None)
            for frame in site["cond_indep_stack"]:
                self._prototype_frames[frame.name] = frame

    def _start(self, name: str) -> Array:
        """The first logits of a site, of the full size of its plates."""
        site, given = self._relaxed[name], self.init_logits
        fn, own = site["fn"], given == "init_loc_fn"
        shape = list(fn.batch_shape + fn.event_shape)
        if own:
            _check_soft(site)
        logits = jnp.broadcast_to(site["value"] if own else _prior(fn), shape)
        for frame in site["cond_indep_stack"]:
            dim = frame.dim - fn.event_dim
            shape[dim] = self._prototype_frame_full_sizes[frame.name]
            logits = periodic_repeat(logits, shape[dim], dim)
        if not isinstance(given, Mapping) or name.removesuffix(SUFFIX) not in given:
            return logits
        logits = jnp.asarray(given[name.removesuffix(SUFFIX)], logits.dtype)
        try:
            return jnp.broadcast_to(logits, shape)
        except ValueError:
            raise ValueError(
                f"init_logits of site {name.removesuffix(SUFFIX)!r} have shape "
                f"{logits.shape}, and the site needs {tuple(shape)}"
            ) from None

    def _create_plates(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.plates = super()._create_plates(*args, **kwargs)
        return self.plates

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """Sample every latent site of the relaxed model, by name."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        if self._has_masks(args, kwargs):
            return self._sample_in_model(args, kwargs)
        result = super().__call__(*args, **kwargs)
        hardened = hardened_in_prediction()
        for name, site in self._relaxed.items():
            with hardened, self._plates_of(site["cond_indep_stack"]):
                factor = self._factor(name, self._logits(name))
                fn = factor(leaf_of(site["fn"]), True).to_event(_inner(site))
                # What `harden` has to know.
                infer = {"_values": site["infer"].get("_values")}
                result[name] = numpyro.sample(name, fn, infer=infer)
        for name, constant in self._constants.items():
            with self._plates_of(constant.plates):
                fn = Delta(jnp.asarray(constant.value), event_dim=constant.event_dim)
                result[name] = numpyro.sample(name, fn)
        return result

    def _has_masks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the model may mask latent sites at this call, or did at another."""
        kind = _kind_of_call(args, kwargs)
        # The discrete ELBO is to be exact, and is not what a training loop computes.
        hardened = any(isinstance(x, HardenMessenger) for x in _PYRO_STACK)
        if not self._is_masked and (hardened or kind not in self._seen_calls):
            self._is_masked = self._look_for_masks(args, kwargs)
            self._seen_calls.add(kind)
        return self._is_masked

    def _look_for_masks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Run the model, which is discrete then, for the masks of its latent sites."""
        # With a key of its own: to look changes no draw.
        with block(), HardenMessenger():
            model = seed(self._program, 0)
            trace = numpyro.handlers.trace(model).get_trace(*args, **kwargs)
        # Sites that are observed in training may be latent here, in a prediction.
        relaxed = {name.removesuffix(SUFFIX) for name in self._relaxed}
        discrete = [trace[name] for name in relaxed if name in trace]
        if any(mask_of(site["fn"]) is not True for site in discrete):
            return True
        others = self._sites.keys() - self._relaxed.keys()
        return any(is_masked(trace[name]) for name in others if name in trace)

    def _sample_in_model(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Sample the factors where the model has their sites, under its masks."""
        plates = self._create_plates(*args, **kwargs)
        factors: dict[str, ConcreteFactor | NormalFactor] = {}
        for name, site in self._sites.items():
            with self._plates_of(site["cond_indep_stack"]):
                if name in self._relaxed:
                    factors[name] = self._factor(name, self._logits(name))
                else:
                    factors[name] = NormalFactor(*self._loc_and_scale(name))
        steps = [n for n, s in self._sites.items() if _STEP in s["infer"]]
        messenger = FactorMessenger(factors, self._constants, plates, steps)
        model = seed(self._program, numpyro.prng_key())
        visible = block(hide_fn=messenger.hides)
        with hardened_in_prediction(), visible, TrainingMessenger(), messenger:
            model(*args, **kwargs)
        return messenger.values

    @property
    def _sites(self) -> dict[str, dict[str, Any]]:
        """The sites that have factors, by name."""
        trace: Any = self.prototype_trace
        return {k: s for k, s in trace.items() if _is_latent(s)} | self._relaxed

    def _plates_of(self, frames: Any) -> ExitStack:
        stack = ExitStack()
        for frame in frames:
            stack.enter_context(self.plates[frame.name])
        return stack

    def _logits(self, name: str) -> Array:
        """The parameter of a relaxed site."""
        event_dim = self._relaxed[name]["fn"].event_dim
        start = self._starts[name]
        return jnp.asarray(
            numpyro.param(self._param_name(name), start, event_dim=event_dim)
        )

    def _loc_and_scale(self, name: str) -> tuple[Array, Array]:
        """The parameters of a continuous site, as in `AutoNormal`."""
        loc, event_dim = self._init_locs[name], self._event_dims[name]
        loc_name = f"{name}_{self.prefix}_loc"
        scale = numpyro.param(
            f"{name}_{self.prefix}_scale",
            jnp.full(jnp.shape(loc), self._init_scale),
            constraint=self.scale_constraint,
            event_dim=event_dim,
        )
        loc = numpyro.param(loc_name, loc, event_dim=event_dim)
        return jnp.asarray(loc), jnp.asarray(scale)

    def _param_name(self, name: str) -> str:
        return f"{name.removesuffix(SUFFIX)}_{self.prefix}_logits"

    def _factor(self, name: str, logits: Array) -> ConcreteFactor:
        """The factor of a relaxed site."""
        site = self._relaxed[name]
        leaf: Any = leaf_of(site["fn"])
        given = of_site(self.temperature, name.removesuffix(SUFFIX))
        if given is None:
            given = site["infer"].get("_temperature")
        temperature = leaf.temperature if given is None else current_temperature(given)
        if given is not None and jnp.ndim(temperature):
            inner = range(-_inner(site), 0)
            temperature = jnp.expand_dims(temperature, tuple(inner))
        return ConcreteFactor(leaf, temperature, logits)

    def probabilities(self, params: dict[str, Any]) -> dict[str, Array]:
        """Return the probability of each value of each relaxed site, by name.

        Args:
            params: Parameters, as from `SVI.get_params`.

        Returns:
            Probabilities of the shape of the site and, last, the classes: the values
            of the site in order. Two-valued sites have two.

        Raises:
            RuntimeError: If the guide has not been called yet: it knows no sites then.
        """
        if self.prototype_trace is None:
            raise RuntimeError("call the guide, or train it, before you ask it")
        return {
            name.removesuffix(SUFFIX): self._probabilities(name, params)
            for name in self._relaxed
        }

    def _probabilities(self, name: str, params: dict[str, Any]) -> Array:
        logits = jnp.asarray(params[self._param_name(name)])
        if not leaf_of(self._relaxed[name]["fn"])._class_dims:
            return sigmoid(jnp.stack([-logits, logits], -1))
        return softmax(logits)

    def sample_posterior(
        self,
        rng_key: Array,
        params: dict[str, Any],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Array]:
        """Sample the sites of the discrete model, of the full size of plates.

        Deterministic sites are among them unless a plate is subsampled.

        Args:
            rng_key: Random key.
            params: Parameters, as from `SVI.get_params`.
            args: Arguments of the model; those of the guide's first call if there are
                none.
            sample_shape: Shape of the draws.
            kwargs: Keyword arguments of the model.
        """
        key, *keys = random.split(rng_key, 1 + len(self._relaxed))
        result: dict[str, Array] = {}
        if self._init_locs:
            settings = {"sample_shape": sample_shape, **kwargs}
            result |= super().sample_posterior(key, params, *args, **settings)
        known = dict(result)
        for name, key in zip(self._relaxed, keys, strict=True):
            site = self._relaxed[name]
            factor = self._factor(name, jnp.asarray(params[self._param_name(name)]))
            fn = factor(leaf_of(site["fn"]), True).to_event(_inner(site))
            hard = hard_of(fn, site["infer"] | {"_relaxed_from": None})
            value = hard.sample(key, sample_shape)
            result[name.removesuffix(SUFFIX)] = value
            known[name] = _point(site, value)
        for name, constant in self._constants.items():
            shape = self._full_shape(constant)
            result[name] = jnp.broadcast_to(constant.value, (*sample_shape, *shape))
        if not self._is_subsampled:
            call = (args, kwargs) if args or kwargs else self._prototype_call
            result |= self._deterministic(known, params, sample_shape, *call)
        return result

    @property
    def _is_subsampled(self) -> bool:
        sizes = self._prototype_frame_full_sizes
        return any(f.size != sizes[f.name] for f in self._prototype_frames.values())

    def _full_shape(self, constant: "Constant") -> tuple[int, ...]:
        """The shape of a constant site in plates of their full size."""
        shape = list(constant.value.shape)
        for frame in constant.plates:
            size = self._prototype_frame_full_sizes[frame.name]
            shape[frame.dim - constant.event_dim] = size
        return tuple(shape)

    def _deterministic(
        self,
        known: dict[str, Array],
        params: dict[str, Any],
        sample_shape: tuple[int, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> dict[str, Array]:
        """The deterministic sites of the discrete model, at draws of its latent sites.

        At the point of a discrete value the relaxed model has the discrete one's.
        """
        names = [name.removesuffix(SUFFIX) for name in self._relaxed]
        own = {*names, *(name + LEFT_OUT for name in names)}

        def of_draw(draw: dict[str, Array]) -> dict[str, Array]:
            model = substitute(seed(self._program, 0), data={**params, **draw})
            with block():
                sites = numpyro.handlers.trace(model).get_trace(*args, **kwargs)
            kind = "deterministic"
            return {
                name: jnp.asarray(site["value"])
                for name, site in sites.items()
                if site["type"] == kind and name not in own
            }

        rank = len(sample_shape)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[rank:]), known)
        if not sample_shape or not known:
            return of_draw(known)
        found = jax.lax.map(of_draw, flat)
        return jax.tree.map(lambda x: x.reshape(*sample_shape, *x.shape[1:]), found)

    def median(self, params: dict[str, Any]) -> dict[str, Array]:
        """Return the posterior median of each latent site of the discrete model.

        That of a relaxed site is the least value of it that, with those below, has
        probability one half; for classes without an order see `probabilities`.
        """
        normal = super().median(params) if self._init_locs else {}
        return normal | {k: v[0] for k, v in self._of_values([0.5], params).items()}

    def quantiles(self, params: dict[str, Any], quantiles: Any) -> dict[str, Array]:
        """Return posterior quantiles of each latent site of the discrete model.

        Args:
            params: Parameters, as from `SVI.get_params`.
            quantiles: Levels, in [0, 1].

        Returns:
            Quantiles of each level along the first axis; of relaxed sites see
            `median`.
        """
        normal = super().quantiles(params, quantiles) if self._init_locs else {}
        return normal | self._of_values(quantiles, params)

    def _of_values(self, levels: Any, params: dict[str, Any]) -> dict[str, Array]:
        """Quantiles of relaxed sites."""
        found = {}
        for name, site in self._relaxed.items():
            below = jnp.minimum(self._probabilities(name, params).cumsum(-1), 1.0)
            level = jnp.asarray(levels).reshape(-1, *(1,) * below.ndim)
            # The last class is reached whatever rounding makes of the sum.
            at = (below[..., :-1] < level).sum(-1)
            values = _values(site)
            hot = one_hot(at, below.shape[-1], dtype=below.dtype)
            value = hot if values is None else values[at]
            found[name.removesuffix(SUFFIX)] = value
        return found


@dataclass(frozen=True)
class Constant:
    """A latent discrete site with one value, which has nothing to relax.

    Attributes:
        value: The value, with axes of size one for the plates.
        event_dim: Number of its axes that belong to one event.
        plates: Frames of the plates that the site is in.
    """

    value: np.ndarray
    event_dim: int
    plates: tuple[Any, ...]


class ContinuousMessenger(Messenger):
    """Show the continuous sites of a model to NumPyro's guides, and no others.

    Enumerated sites get a value and are hidden, as are deterministic ones; so are
    plates inside of a scan, which its sites keep as a part of their shapes.
    """

    def __init__(self, fn: Callable) -> None:
        super().__init__(fn)
        self._plates: set[str] = set()
        # The latent sites that have one value, by name.
        self.constants: dict[str, Constant] = {}

    def __enter__(self) -> Any:
        self._plates = set()
        return super().__enter__()

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "plate":
            self._plates.add(msg["name"])
        elif msg["type"] == "deterministic":
            msg["stop"] = True
        elif msg["type"] == "sample":
            self._drop_hidden_plates(msg)
            if not msg["is_observed"] and is_discrete(msg["fn"]):
                self._hide(msg)
            elif _is_relaxed(msg) and isinstance(leaf_of(msg["fn"]), AbstractHard):
                # Hard points have no bijection to the reals that could move them.
                msg["value"], msg["is_observed"] = _centre(msg["fn"]), True
                msg["infer"] = {**msg["infer"], _HELD: True}

    def _drop_hidden_plates(self, msg: dict[str, Any]) -> None:
        frames = msg["cond_indep_stack"]
        seen = [f for f in frames if f.name in self._plates]
        if len(seen) < len(frames) and msg["scale"] is not None:
            (plate, *_) = (f.name for f in frames if f.name not in self._plates)
            raise ValueError(
                f"site {msg['name']!r} is scaled, and its plate {plate!r} is hidden "
                "from the guide, by block or inside of a scan: if it is subsampled, "
                "the guide cannot know which rows it has. Hide sites by name, "
                "block(model, hide=[...]), and not plates"
            )
        msg["cond_indep_stack"] = seen

    def _hide(self, msg: dict[str, Any]) -> None:
        enumerated = msg["infer"].get("enumerate")
        value = None if enumerated else only_value(leaf_of(msg["fn"]))
        if not enumerated and value is None:
            raise ValueError(
                f"site {msg['name']!r} is discrete, and neither relaxed nor "
                "enumerated. Relax it, AutoConcrete(relax(model, temperature)), or "
                "mark it with infer={'enumerate': 'parallel'}"
            )
        if value is not None:
            self.constants[msg["name"]] = _constant(msg, value)
            msg["value"] = jnp.broadcast_to(value, msg["fn"].shape())
        elif msg["value"] is None:
            msg["value"] = msg["fn"].enumerate_support(expand=True)[0]
        msg["stop"] = True


def _constant(msg: dict[str, Any], value: np.ndarray) -> Constant:
    fn = msg["fn"]
    shape = list(fn.batch_shape)
    for frame in msg["cond_indep_stack"]:
        shape[frame.dim] = 1
    value = np.broadcast_to(value, (*shape, *fn.event_shape))
    return Constant(value, fn.event_dim, tuple(msg["cond_indep_stack"]))


def _init_loc(site: dict[str, Any] | None = None, *, given: Callable, own: bool) -> Any:
    if site is None:
        return functools.partial(_init_loc, given=given, own=own)
    if site["type"] == "sample" and not own and _is_relaxed(site):
        return _centre(site["fn"])
    return given(site)


def _is_relaxed(msg: dict[str, Any]) -> bool:
    if msg["type"] != "sample" or (msg["is_observed"] and _HELD not in msg["infer"]):
        return False
    return isinstance(leaf_of(msg["fn"]), AbstractConcrete)


def _is_latent(msg: dict[str, Any]) -> bool:
    return _is_relaxed(msg) or (msg["type"] == "sample" and not msg["is_observed"])


def _inner(site: dict[str, Any]) -> int:
    """Number of batch axes of a relaxed site's leaf that belong to its event."""
    return site["fn"].event_dim - type(leaf_of(site["fn"]))._class_dims


def _kind_of_call(*arguments: Any) -> Hashable:
    """What Python code can tell of arguments before it reads the values of arrays."""
    return tuple(_kind_of(x) for x in arguments)


def _kind_of(x: Any) -> Hashable:
    if isinstance(x, Array | np.ndarray):
        return x.shape, x.dtype
    if isinstance(x, Mapping):
        return type(x), tuple((str(key), _kind_of(value)) for key, value in x.items())
    if isinstance(x, tuple | list):
        return type(x), _kind_of_call(*x)
    if x is None or isinstance(x, bool | int | str):
        return x
    return type(x)


def _point(site: dict[str, Any], value: Array) -> Array:
    """The point of a relaxed site that stands for a discrete value."""
    leaf, values = leaf_of(site["fn"]), site["infer"].get("_values")
    if leaf._class_dims and values is not None:
        value = value[..., None] == np.array(values)
    return leaf.vertex(value)


def _check_names(names: list[str], init_logits: Any) -> None:
    unknown = set(init_logits) - set(names) if isinstance(init_logits, Mapping) else ()
    if unknown:
        raise ValueError(
            f"init_logits names no relaxed site: {sorted(unknown)}; the model has "
            f"{sorted(names)}"
        )


def _check_soft(site: dict[str, Any]) -> None:
    """Raise an error at a site that has no points in log space."""
    leaf = leaf_of(site["fn"])
    if isinstance(leaf, AbstractHard):
        raise ValueError(
            f"init_logits='init_loc_fn' takes the point that it gives to site "
            f"{site['name']!r} as logits, and under {leaf.estimator} points are hard. "
            "Give a mapping of logits by site, or 'prior'"
        )


def _prior(fn: Any) -> Array:
    """The logits of a relaxed site, normalised."""
    leaf = leaf_of(fn)
    logits = log_softmax(leaf.logits) if leaf._class_dims else leaf.logits
    return jnp.broadcast_to(logits, fn.batch_shape + fn.event_shape)


def _centre(fn: Any) -> Array:
    """The point of a relaxed site that is nearest to the probabilities of the prior."""
    return jnp.broadcast_to(leaf_of(fn).center, fn.batch_shape + fn.event_shape)


def _values(site: dict[str, Any]) -> Array | None:
    """The values of a site in the order of its classes; None for one-hot vectors."""
    if not leaf_of(site["fn"])._class_dims:
        return jnp.arange(2)
    values = site["infer"].get("_values")
    return None if values is None else jnp.asarray(np.array(values))
