"""AutoConcrete: a guide for relaxed models.

Twin: ``pyro_concrete.guides``.
"""

import functools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array, random
from jax.nn import log_softmax, one_hot, sigmoid, softmax
from numpyro.distributions.util import periodic_repeat
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.initialization import init_to_uniform
from numpyro.primitives import Messenger

from numpyro_concrete.distributions import AbstractConcrete, AbstractHard
from numpyro_concrete.relaxation.handlers import (
    hardened_in_prediction,
    relaxed_in_prediction,
)
from numpyro_concrete.relaxation.site import (
    SUFFIX,
    Temperature,
    check_relaxed_names,
    checked,
    hard_of,
    is_discrete,
    leaf_of,
    of_site,
)
from numpyro_concrete.schedules import at_this_step

# A mark of relaxed sites that the search for a start does not move.
_HELD = "_held"


class AutoConcrete(AutoNormal):
    r"""A guide for a relaxed model: a Concrete factor for each relaxed site.

    Relaxed sites are independent of each other, each with logits of its own, in the
    family of the model's site (`ExpConcrete`, `LogitBinaryConcrete`). Continuous sites
    are normal in unconstrained space, as in `AutoNormal`. Sites that the model marks
    for enumeration are left to `TraceEnum_ELBO`. `harden` makes it the discrete guide
    that it stands for.

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

    Twin: :class:`pyro_concrete.AutoConcrete`.
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
        super().__init__(
            ContinuousMessenger(model),
            prefix=prefix,
            init_loc_fn=functools.partial(_init_loc, given=init_loc_fn, own=own),
            init_scale=init_scale,
            create_plates=create_plates,
        )
        self._relaxed: dict[str, dict[str, Any]] = {}
        self._starts: dict[str, Array] = {}

    @relaxed_in_prediction
    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        trace: Any = self.prototype_trace
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
        result = super().__call__(*args, **kwargs)
        hardened = hardened_in_prediction()
        for name, site in self._relaxed.items():
            with ExitStack() as stack:
                stack.enter_context(hardened)
                for frame in site["cond_indep_stack"]:
                    stack.enter_context(self.plates[frame.name])
                event_dim = site["fn"].event_dim
                logits = numpyro.param(
                    self._param_name(name), self._starts[name], event_dim=event_dim
                )
                # What `harden` has to know.
                infer = {"_values": site["infer"].get("_values")}
                fn = self._factor(name, jnp.asarray(logits))
                result[name] = numpyro.sample(name, fn, infer=infer)
        return result

    def _param_name(self, name: str) -> str:
        return f"{name.removesuffix(SUFFIX)}_{self.prefix}_logits"

    def _factor(self, name: str, logits: Array) -> Any:
        site = self._relaxed[name]
        leaf: Any = leaf_of(site["fn"])
        inner = site["fn"].event_dim - type(leaf)._class_dims
        given = of_site(self.temperature, name.removesuffix(SUFFIX))
        if given is None:
            given = site["infer"].get("_temperature")
        temperature = leaf.temperature if given is None else at_this_step(given)
        if given is not None and jnp.ndim(temperature):
            temperature = jnp.expand_dims(temperature, tuple(range(-inner, 0)))
        return leaf.like(temperature, logits).to_event(inner)

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
        """Sample the latent sites of the discrete model, of the full size of plates.

        Args:
            rng_key: Random key.
            params: Parameters, as from `SVI.get_params`.
            args: Arguments of the model.
            sample_shape: Shape of the draws.
            kwargs: Keyword arguments of the model.
        """
        key, *keys = random.split(rng_key, 1 + len(self._relaxed))
        result: dict[str, Array] = {}
        if self._init_locs:
            settings = {"sample_shape": sample_shape, **kwargs}
            result |= super().sample_posterior(key, params, *args, **settings)
        for name, key in zip(self._relaxed, keys, strict=True):
            fn = self._factor(name, jnp.asarray(params[self._param_name(name)]))
            hard = hard_of(fn, self._relaxed[name]["infer"] | {"_relaxed_from": None})
            result[name.removesuffix(SUFFIX)] = hard.sample(key, sample_shape)
        return result

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


class ContinuousMessenger(Messenger):
    """Show the continuous sites of a model to NumPyro's guides, and no others.

    Enumerated sites get a value and are hidden, as are deterministic ones; so are
    plates inside of a scan, which its sites keep as a part of their shapes.
    """

    def __init__(self, fn: Callable) -> None:
        super().__init__(fn)
        self._plates: set[str] = set()

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
        if not msg["infer"].get("enumerate"):
            raise ValueError(
                f"site {msg['name']!r} is discrete, and neither relaxed nor "
                "enumerated. Relax it, AutoConcrete(relax(model, temperature)), or "
                "mark it with infer={'enumerate': 'parallel'}"
            )
        if msg["value"] is None:
            msg["value"] = msg["fn"].enumerate_support(expand=True)[0]
        msg["stop"] = True


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
    return jnp.broadcast_to(leaf_of(fn).centre, fn.batch_shape + fn.event_shape)


def _values(site: dict[str, Any]) -> Array | None:
    """The values of a site in the order of its classes; None for one-hot vectors."""
    if not leaf_of(site["fn"])._class_dims:
        return jnp.arange(2)
    values = site["infer"].get("_values")
    return None if values is None else jnp.asarray(np.array(values))
