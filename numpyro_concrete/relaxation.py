"""relax, ConcreteReparam and harden: discrete sites relaxed, and back.

A relaxed site `z` becomes two. `z_relaxed` is sampled in log space, and is what ELBOs
score and guides match; `z` is deterministic, and is what the program sees. `harden`
takes a relaxed program to the discrete one that it stands for.

Twin: ``pyro_concrete.relaxation``.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import sigmoid
from jax.typing import ArrayLike
from numpyro.contrib.control_flow.cond import cond_wrapper
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)
from numpyro.distributions.discrete import BernoulliLogits, BernoulliProbs
from numpyro.handlers import block, condition, do, seed
from numpyro.infer.reparam import Reparam

# Only the stack tells a handler what those around it will do, and lets it send a site
# through them alone: see _fixed_outside and _send.
from numpyro.primitives import _PYRO_STACK, Messenger, apply_stack, sample

from numpyro_concrete import ops
from numpyro_concrete.distributions import (
    AbstractConcrete,
    ExpConcrete,
    ExpConcreteMass,
    LogitBinaryConcrete,
    LogitBinaryConcreteMass,
    OneHotCategorical,
    check_temperature,
)
from numpyro_concrete.soft_index import (
    Interpreter,
    SoftIndex,
    is_soft,
    plain,
    refusal,
    soft_index,
)
from numpyro_concrete.soft_index.interpreter import read
from numpyro_concrete.soft_index.loops import (
    Form,
    join_time,
    left,
    settled,
    split_time,
)
from numpyro_concrete.soft_index.value import new_token
from numpyro_concrete.soft_parameters import SoftlyMasked, with_known_parameters
from numpyro_concrete.supports import FiniteSupport, support_of

SUFFIX = "_relaxed"
LEFT_OUT = "_left_out"
# What scores a site of n values, and one of two.
FAMILIES = {
    "concrete": (ExpConcrete, LogitBinaryConcrete),
    "discrete": (ExpConcreteMass, LogitBinaryConcreteMass),
}

Sites = Collection[str] | Callable[[dict[str, Any]], bool]
Temperature = ArrayLike | Mapping[str, ArrayLike]
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
    ``jnp.where(z > 2, a, b)``. Relax the model and the guide, each with a temperature
    of its own, and train them by any ELBO: with `Trace_ELBO` that is a true bound on
    the relaxed model's evidence (eq. 20); never compare it with a discrete ELBO.

    One site can be marked for itself, by ``infer={"relax": {"temperature": 0.5}}`` or
    with `config_relax`. A site that is named in `sites`, or marked for relaxation, is
    relaxed even if it is marked for enumeration, too. Sites inside of NumPyro's `scan`
    are relaxed like others, and integers that it carries stay soft.

    Shapes:
        temperature: scalar, or broadcastable to the batch shape of every site.

    Args:
        fn: Model or guide. Without it, a decorator is returned.
        temperature: Relaxation temperature, > 0, or a mapping of them by site. The
            paper's (model, guide) pairs are (1/2, 2/3) for two values, (2/3, 1) for
            four, (2/5, 2/3) for eight.
        sites: Names of the sites to relax, or a predicate on NumPyro's site messages;
            by default every site that can be.
        truncate: For sites with an unbounded support, such as a Poisson: the largest
            value to keep, or, as a float in (0, 1), the largest mass to leave out,
            which needs parameters that are known outside of jit. A mapping by site, or
            one for all. The mass that is left out is the deterministic site
            ``z_left_out``.
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
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     z = numpyro.sample("z", dist.Categorical(logits=jnp.zeros(3)))
        ...     return jnp.array([-1.0, 0.0, 1.0])[z]
        >>> seeded = numpyro.handlers.seed(relax(model, temperature=0.5), 0)
        >>> list(numpyro.handlers.trace(seeded).get_trace())
        ['z_relaxed', 'z']

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Twin: :func:`pyro_concrete.relax`.
    """
    settings = Settings(_checked(temperature), sites, truncate, scoring)
    if fn is None:
        options = {"sites": sites, "truncate": truncate, "scoring": scoring}
        return functools.partial(relax, temperature=temperature, **options)

    @functools.wraps(fn)
    def relaxed(*args: Any, **kwargs: Any) -> Any:
        with Interpreter() as interpreter:
            with RelaxMessenger(interpreter, settings):
                result = fn(*args, **kwargs)
            return interpreter.lower(result)

    return relaxed


def config_relax(
    fn: Callable | None = None,
    default: bool = True,
    *,
    temperature: ArrayLike | None = None,
    truncate: int | float | None = None,
) -> Any:
    """Mark the latent discrete sites of a program for `relax`.

    As `config_enumerate` does for enumeration: every latent discrete site without a
    mark for relaxation or enumeration gets ``infer={"relax": ...}``.

    Args:
        fn: Model or guide. Without it, a decorator is returned.
        default: Whether `relax` takes the sites.
        temperature: Relaxation temperature of these sites, > 0; by default that of
            `relax`.
        truncate: Truncation of these sites, as for `relax`.

    Returns:
        The program with marks, with the arguments of `fn`.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     numpyro.sample("z", dist.Categorical(logits=jnp.zeros(3)))
        >>> seeded = numpyro.handlers.seed(config_relax(model, temperature=0.5), 0)
        >>> numpyro.handlers.trace(seeded).get_trace()["z"]["infer"]
        {'relax': {'temperature': 0.5}}

    Twin: :func:`pyro_concrete.config_relax`.
    """
    given = {"temperature": temperature, "truncate": truncate}
    marks = {key: value for key, value in given.items() if value is not None}
    return ConfigMessenger(fn, marks if default else False)


def harden(fn: Callable) -> Callable:
    """Return the discrete program that a relaxed guide or model stands for.

    Each site ``z_relaxed`` with a Concrete distribution is replaced by its discrete
    site ``z``, and the program goes on with the hard value. The argmax of a Concrete
    sample is a sample of its categorical at every temperature, so this is exact: use
    ``Trace_ELBO().loss(key, params, model, harden(guide), ...)`` for the discrete ELBO
    of a model that was trained relaxed.

    Args:
        fn: A relaxed program: the result of `relax`, or one that samples from
            `ExpConcrete` or `LogitBinaryConcrete` at sites named ``..._relaxed``.

    Returns:
        The discrete program, with the arguments of `fn`.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def guide():
        ...     fn = dist.Bernoulli(logits=jnp.zeros(2)).to_event()
        ...     return numpyro.sample("z", fn)
        >>> hard = harden(relax(guide, temperature=0.5))
        >>> z = numpyro.handlers.seed(hard, 0)()
        >>> bool(((z == 0) | (z == 1)).all())
        True

    Twin: :func:`pyro_concrete.harden`.
    """
    return HardenMessenger(fn)


class ConcreteReparam(Reparam):
    """Relax one site of a model, in the convention of NumPyro's reparameterizers.

    The same as `relax` for the site that `handlers.reparam` is configured with. A
    reparameterizer cannot follow a value into JAX's functions, which therefore refuse a
    soft one; its operators work. `relax`, with `sites` to choose, has no such limit,
    and is the one for guides.

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
        >>> import numpyro
        >>> def model():
        ...     return numpyro.sample("z", OneHotCategorical(logits=jnp.zeros(3)))
        >>> config = {"z": ConcreteReparam(0.5)}
        >>> relaxed = numpyro.handlers.reparam(model, config=config)
        >>> numpyro.handlers.seed(relaxed, 0)().shape
        (3,)

    Twin: :class:`pyro_concrete.ConcreteReparam`.
    """

    def __init__(
        self, temperature: ArrayLike, *, truncate: int | float | None = None
    ) -> None:
        self.temperature = _checked(temperature)
        self.truncate = truncate

    def __call__(
        self, name: str, fn: Distribution, obs: ArrayLike | None
    ) -> tuple[Distribution | None, Any]:
        """Replace the distribution and value of one site, unless it is observed."""
        if obs is not None:
            return fn, obs
        site = _Site(name, fn, self.temperature, self.truncate)
        if len(site.values) < 2:
            return fn, obs  # a constant
        point = sample(name + SUFFIX, site.relaxed, infer=site.infer)
        return None, site.value(jnp.asarray(point))


class ConfigMessenger(Messenger):
    """The effect handler behind `config_relax`."""

    def __init__(self, fn: Callable | None, mark: dict[str, Any] | bool) -> None:
        super().__init__(fn)
        self.mark = mark

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow":
            _wrap_bodies(msg, lambda f: ConfigMessenger(f, self.mark))
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        if _is_discrete(msg["fn"]) and not msg["infer"].get("enumerate"):
            msg["infer"] = {"relax": self.mark, **msg["infer"]}


class Settings:
    """What `relax` was asked for."""

    def __init__(
        self,
        temperature: Temperature,
        sites: Sites | None = None,
        truncate: Truncate | None = None,
        scoring: str = "concrete",
    ) -> None:
        self.temperature = temperature
        self.sites = sites
        self.truncate = truncate
        if scoring not in FAMILIES:
            raise ValueError(f"scoring is one of {[*FAMILIES]}, not {scoring!r}")
        self.scoring = scoring

    def site(self, msg: dict[str, Any]) -> "_Site":
        """Return how the site of a message is relaxed."""
        marks = msg["infer"].get("relax")
        marks = marks if isinstance(marks, dict) else {}
        name = msg["name"]
        fallback = _of_site(self.temperature, name)
        temperature: Any = marks.get("temperature", fallback)
        if temperature is None:
            raise ValueError(f"relax has no temperature for site {name!r}")
        truncate = marks.get("truncate", _of_site(self.truncate, name))
        return _Site(name, msg["fn"], temperature, truncate, self.scoring)


class RelaxMessenger(Messenger):
    """The effect handler behind `relax`, at the border of the program.

    Messages that leave the program are lowered to plain arrays of the surrounding
    trace, and handled there; soft values enter on the way back.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        settings: Settings,
        loop: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.interpreter = interpreter
        self.settings = settings
        # The message of the scan or cond in whose body this is.
        self.loop = loop
        self._pending: list[tuple[Any, Callable | None]] = []

    def process_message(self, msg: dict[str, Any]) -> None:
        self._refuse_observation(msg)
        outside = self.interpreter.outside()
        outside.__enter__()
        self._pending.append((outside, None))
        receive = None
        if msg["type"] == "control_flow":
            receive = self._enter_control_flow(msg)
        elif msg["type"] == "deterministic" and self.interpreter.is_soft(msg["value"]):
            # Traces see the mean, and the program its value.
            soft = read(msg["value"])
            receive = functools.partial(_given_back, plain(soft), soft)
            msg["value"] = receive.args[0]
        elif msg["type"] == "sample":
            msg["fn"] = with_known_parameters(msg["fn"])
        for field in ("fn", "args", "kwargs", "value", "scale", "infer"):
            if field in msg:
                msg[field] = self.interpreter.lower(msg[field])
        if _selected(msg, self.settings.sites):
            receive = self._relax(msg)
        self._pending[-1] = outside, receive

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        outside, receive = self._pending.pop()
        value = msg["value"] if receive is None else receive(msg["value"])
        outside.__exit__(None, None, None)
        if receive is not None:
            msg["value"] = self.interpreter.lift(value)

    def _relax(self, msg: dict[str, Any]) -> Callable | None:
        name = msg["name"]
        if _fixed_outside(self, msg):
            raise ValueError(
                f"site {name!r} is relaxed, and a handler around relax sets it to "
                "another value. Put that handler inside, relax(condition(model, data), "
                f"...), or set {name + SUFFIX!r} in log space"
            )
        if self.loop is not None and self.loop["kwargs"].get("enum"):
            raise NotImplementedError(
                f"site {name!r} is relaxed inside of a scan with enumerated sites, "
                "which NumPyro unrolls. Relax all of the scan's sites or none: leave "
                "this one out with infer={'relax': False}"
            )
        site = self.settings.site(msg)
        if len(site.values) < 2:
            return None  # a constant
        aux = _send(self, _beside(msg, name + SUFFIX, site))
        kept = ("name", "cond_indep_stack")
        deterministic = {key: msg[key] for key in kept if key in msg}
        if site.left_out is not None:
            left_out = {**deterministic, "name": name + LEFT_OUT, "infer": {}}
            left_out |= {"type": "deterministic", "value": site.left_out}
            _send(self, left_out)
        if self.loop is not None:
            # What a scan collects of a site must not hold arrays of one step.
            aux["infer"].pop("_relaxed_from", None)
        value = site.value(aux["value"])
        seen = value.number() if isinstance(value, SoftIndex) else value
        msg.clear()
        msg.update(deterministic, type="deterministic", value=seen, infer={})
        msg["_relaxed"] = True
        return lambda _: value

    def _enter_control_flow(self, msg: dict[str, Any]) -> Callable | None:
        if msg["fn"] is scan_wrapper:
            return _enter_scan(self, msg)
        if msg["fn"] is cond_wrapper:
            return _enter_cond(self, msg)
        return None

    def inside(self, body: Callable, msg: dict[str, Any]) -> Callable:
        """Return the body of a scan or cond, relaxed by itself.

        Soft values come in and go out as trees of plain arrays.
        """

        def relaxed(*args: Any) -> Any:
            with Interpreter() as interpreter:
                args = interpreter.lift(args)
                with RelaxMessenger(interpreter, self.settings, msg):
                    result = body(*args)
                return interpreter.drop(result)

        return relaxed

    def _refuse_observation(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and self.interpreter.is_soft(msg["value"]):
            soft = msg["value"].value
            raise TypeError(refusal(soft.site, f"observing it at site {msg['name']!r}"))


class HardenMessenger(Messenger):
    """The effect handler behind `harden`."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if "_relaxed" in msg:
            msg["stop"] = True  # its discrete site has been sampled already
            return
        if msg["type"] == "control_flow":
            _wrap_bodies(msg, HardenMessenger)
        if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
            return
        name = msg["name"].removesuffix(SUFFIX)
        if name == msg["name"] or not isinstance(_leaf(msg["fn"]), AbstractConcrete):
            return
        infer = msg["infer"]
        fn = infer.get("_relaxed_from") or _rebuilt(msg["fn"], _discrete)
        other = {**msg, "name": name, "fn": fn, "infer": {"relax": False}}
        hard = _send(self, other)["value"]
        if isinstance(_leaf(msg["fn"]), LogitBinaryConcrete):
            msg["value"] = jnp.where(hard, jnp.inf, -jnp.inf)
        else:
            values = infer.get("_values")
            one_hot = hard if values is None else hard[..., None] == np.array(values)
            msg["value"] = jnp.log(one_hot.astype(_leaf(msg["fn"]).logits.dtype))
        msg["stop"] = True


# --- one site -------------------------------------------------------------------------


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
        self.families = FAMILIES[scoring]
        check_temperature(temperature, name)
        leaf = _leaf(fn)
        self.name = name
        self.binary = isinstance(leaf, BernoulliProbs | BernoulliLogits)
        self.one_hot = isinstance(leaf, OneHotCategorical)
        self.left_out = None
        if self.binary:
            self.values, self.logits = np.arange(2), _bernoulli_logits(leaf)
        else:
            self.values, self.logits, self.left_out = support_of(name, leaf, truncate)
        self.relaxed: Any = None
        self.infer: dict[str, Any] = {}
        if len(self.values) > 1:
            self._relax(fn, temperature)

    def _relax(self, fn: Any, temperature: ArrayLike) -> None:
        self.relaxed = _rebuilt(fn, self._concrete, temperature)
        hard = fn if self.left_out is None else _rebuilt(fn, self._truncated)
        self.infer["_relaxed_from"] = hard
        if not self.one_hot:
            self.infer["_values"] = tuple(self.values.tolist())

    def value(self, point: Array) -> Array | SoftIndex:
        """What the program sees of a point in log space."""
        dtype = jnp.result_type(self.logits)
        if self.one_hot:
            return jnp.exp(point).astype(dtype)
        if self.binary:
            weights = jnp.stack([sigmoid(-point), sigmoid(point)])
        else:
            weights = jnp.moveaxis(jnp.exp(point), -1, 0)
        return soft_index(self.name, self.values, weights.astype(dtype))

    def _concrete(self, _: Any, temperature: ArrayLike) -> AbstractConcrete:
        # Gradients in log space do not fit half precision.
        logits = ops.wide(self.logits)
        # An impossible value keeps a finite logit, and the relaxation a density there.
        bound = -math.log(jnp.finfo(logits.dtype).tiny)
        logits = jnp.nan_to_num(logits, nan=jnp.nan, posinf=bound, neginf=-bound)
        # The host's check of a vector fails if there is none.
        checks = None if logits.size else False
        return self.families[self.binary](
            temperature, logits=logits, validate_args=checks
        )

    def _truncated(self, _: Any, __: None) -> FiniteSupport:
        return FiniteSupport(self.values, self.logits)


def _bernoulli_logits(leaf: Any) -> Array:
    # The host's logits of a probability of one are infinite.
    probs = isinstance(leaf, BernoulliProbs)
    return ops.bernoulli_logits(jnp.asarray(leaf.probs)) if probs else leaf.logits


def _beside(msg: dict[str, Any], name: str, site: _Site) -> dict[str, Any]:
    """The message of another site at the place of this one."""
    dropped = ("relax", "enumerate")
    infer = {k: v for k, v in msg["infer"].items() if k not in dropped}
    infer |= site.infer
    other = {**msg, "name": name, "fn": site.relaxed, "infer": infer}
    other["cond_indep_stack"] = list(msg["cond_indep_stack"])
    return other | {"kwargs": dict(msg["kwargs"]), "intermediates": []}


def _send(messenger: Messenger, msg: dict[str, Any]) -> dict[str, Any]:
    """Send a message to the handlers around this one; those inside have acted on it."""
    at = _PYRO_STACK.index(messenger)
    inside = _PYRO_STACK[at:]
    del _PYRO_STACK[at:]
    try:
        return apply_stack(msg)
    finally:
        _PYRO_STACK.extend(inside)


def _given_back(seen: Array, soft: Any, value: Any) -> Any:
    """The soft value of a deterministic site, unless a handler has changed it."""
    return soft if value is seen else value


def _checked(temperature: Temperature | None) -> Temperature:
    if isinstance(temperature, Mapping):
        for value in temperature.values():
            _checked(value)
        return temperature
    if temperature is None or callable(temperature):
        raise TypeError("relax needs a temperature, for example relax(model, 0.5)")
    check_temperature(temperature)
    return temperature


def _of_site(setting: Any, name: str) -> Any:
    return setting.get(name) if isinstance(setting, Mapping) else setting


def _selected(msg: dict[str, Any], sites: Sites | None) -> bool:
    """Whether a message is a latent discrete site that is to be relaxed."""
    if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
        return False
    mark = msg["infer"].get("relax")
    if mark is False or not _is_discrete(msg["fn"]):
        return False
    if sites is not None:
        return bool(sites(msg)) if callable(sites) else msg["name"] in sites
    return bool(mark is not None or not msg["infer"].get("enumerate"))


def _is_discrete(fn: Distribution) -> bool:
    support = fn.support
    try:
        return support is not None and support.is_discrete
    except NotImplementedError:
        return False


def _discrete(leaf: AbstractConcrete, _: None) -> Distribution:
    return leaf.discrete


def _leaf(fn: Any) -> Any:
    """The distribution inside of to_event, expand and mask."""
    wrappers = Independent | MaskedDistribution | ExpandedDistribution | SoftlyMasked
    while isinstance(fn, wrappers):
        fn = fn.base_dist
    return fn


def _rebuilt(fn: Any, rebuild: Callable, temperature: ArrayLike | None = None) -> Any:
    """The same wrappers around another distribution."""
    if isinstance(fn, Independent):
        n = fn.reinterpreted_batch_ndims
        if temperature is not None and jnp.ndim(temperature):
            temperature = jnp.expand_dims(temperature, tuple(range(-n, 0)))
        return _rebuilt(fn.base_dist, rebuild, temperature).to_event(n)
    if isinstance(fn, MaskedDistribution):
        return _rebuilt(fn.base_dist, rebuild, temperature).mask(fn._mask)
    if isinstance(fn, SoftlyMasked):
        return SoftlyMasked(_rebuilt(fn.base_dist, rebuild, temperature), fn.share)
    if isinstance(fn, ExpandedDistribution):
        return _rebuilt(fn.base_dist, rebuild, temperature).expand(fn.batch_shape)
    return rebuild(fn, temperature)


def _fixed_outside(messenger: Messenger, msg: dict[str, Any]) -> bool:
    """Whether a handler around this one conditions or intervenes on the site."""
    for handler in _PYRO_STACK[: _PYRO_STACK.index(messenger)]:
        if isinstance(handler, condition) and handler.condition_fn is not None:
            if handler.condition_fn(msg) is not None:
                return True
        elif isinstance(handler, condition | do) and msg["name"] in (
            handler.data or ()
        ):
            return True
    return False


# --- scan and cond --------------------------------------------------------------------


def _wrap_bodies(msg: dict[str, Any], wrap: Callable) -> None:
    """Let a handler reach the sites of a scan or cond, whose bodies others block."""
    args = list(msg["args"])
    for i in {scan_wrapper: (0,), cond_wrapper: (1, 2)}.get(msg["fn"], ()):
        args[i] = wrap(args[i])
    msg["args"] = tuple(args)


def _quietly(body: Callable) -> Callable:
    """A body that is run for the shapes of its results, without effects."""

    def quiet(*args: Any) -> Any:
        with block(), seed(rng_seed=0):
            return body(*args)

    return quiet


def _flat(tree: Any) -> tuple[list[Any], Any]:
    return jax.tree.flatten(tree, is_leaf=is_soft)


def _enter_scan(messenger: RelaxMessenger, msg: dict[str, Any]) -> Callable:
    """Give the scan of a program a carry of plain arrays, and take it back."""
    f, init, xs, length, *rest = msg["args"]
    start = new_token()
    init, carry_tree = _flat(messenger.interpreter.drop(init))
    xs, xs_tree = _flat(messenger.interpreter.drop(xs))
    xs = split_time(xs)
    if length is None:
        length = jnp.shape(jax.tree.leaves(xs)[0])[0]
    body = messenger.inside(f, msg)

    def step(carry: list[Any], x: Any) -> tuple[list[Any], Any]:
        carry, y = body(jax.tree.unflatten(carry_tree, carry), x)
        return _flat(carry)[0], y

    def first(carry: list[Any]) -> list[Any]:
        x = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), xs)
        return _quietly(step)(carry, jax.tree.unflatten(xs_tree, x))[0]

    forms = settled(first, init)

    def stable(carry: Any, x: Any) -> Any:
        carry, y = step(_flat(carry)[0], x)
        entered = [f.enter(c) for f, c in zip(forms, carry, strict=True)]
        return jax.tree.unflatten(carry_tree, entered), y

    entered = [f.enter(x) for f, x in zip(forms, init, strict=True)]
    entered = jax.tree.unflatten(carry_tree, entered)
    xs = jax.tree.unflatten(xs_tree, xs)
    msg["args"] = (stable, entered, xs, length, *rest)

    def receive(value: Any) -> Any:
        (i, key, carry), (trace, ys) = value
        carry, ys = _flat(carry)[0], _flat(ys)
        carry = [left(f, c) for f, c in zip(forms, carry, strict=True)]
        ys = jax.tree.unflatten(ys[1], join_time(ys[0], length, start))
        return (i, key, jax.tree.unflatten(carry_tree, carry)), (trace, ys)

    return receive


def _enter_cond(messenger: RelaxMessenger, msg: dict[str, Any]) -> Callable:
    """Give the branches of a program results of one form, and take them back."""
    which, *branches, operand = msg["args"]
    if messenger.interpreter.is_soft(which):
        raise NotImplementedError(
            f"site {which.site!r} is relaxed, and cond chooses by it between branches "
            "with sites of their own. Write the choice with jnp.where, or leave the "
            "site out with infer={'relax': False}"
        )
    operand = messenger.interpreter.drop(operand)
    bodies = [messenger.inside(f, msg) for f in branches]
    shapes = [_flat(jax.eval_shape(_quietly(f), operand)) for f in bodies]
    forms = [Form(token=new_token()) for _ in shapes[0][0]]
    for out, _ in shapes:
        forms = [f.join(x) for f, x in zip(forms, out, strict=True)]

    def formed(body: Callable) -> Callable:
        def branch(operand: Any) -> Any:
            out, tree = _flat(body(operand))
            out = [f.enter(x) for f, x in zip(forms, out, strict=True)]
            return jax.tree.unflatten(tree, out)

        return branch

    msg["args"] = (plain(which), *map(formed, bodies), operand)

    def receive(value: Any) -> Any:
        result, trace = value
        out, tree = _flat(result)
        out = [left(f, x) for f, x in zip(forms, out, strict=True)]
        return jax.tree.unflatten(tree, out), trace

    return receive
