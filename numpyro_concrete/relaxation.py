"""relax, ConcreteReparam and harden: discrete sites relaxed, and back.

A relaxed site `z` becomes two. `z_relaxed` is sampled in log space, and is what ELBOs
score and guides match; `z` is deterministic, and is what the program sees. `harden`
takes a relaxed program to the discrete one that it stands for.

Twin: ``pyro_concrete.relaxation``.
"""

import functools
import math
from collections.abc import Callable, Collection
from typing import Any

import jax.numpy as jnp
import numpyro
from jax import Array
from jax.nn import sigmoid
from jax.typing import ArrayLike
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)
from numpyro.distributions.discrete import BernoulliLogits, BernoulliProbs
from numpyro.handlers import condition, do
from numpyro.infer.reparam import Reparam

# Only the stack tells a handler what those around it will do: see _fixed_outside.
from numpyro.primitives import _PYRO_STACK, Messenger

from numpyro_concrete import ops
from numpyro_concrete.distributions import (
    AbstractConcrete,
    ExpConcrete,
    LogitBinaryConcrete,
    OneHotCategorical,
    check_temperature,
)
from numpyro_concrete.soft_index import Interpreter, SoftBit, refusal

SUFFIX = "_relaxed"

Sites = Collection[str] | Callable[[dict[str, Any]], bool]


def relax(
    fn: Callable | None = None,
    temperature: ArrayLike | None = None,
    *,
    sites: Sites | None = None,
) -> Any:
    """Relax the discrete sites of a model or guide, which stays as it is.

    Every latent site with a Bernoulli or OneHotCategorical distribution that is not
    observed, not marked ``infer={"enumerate": ...}`` and not opted out by
    ``infer={"relax": False}`` is replaced: ``z_relaxed`` is sampled from its Concrete
    relaxation in log space, and ``z`` becomes a deterministic site with the relaxed
    value, which the program receives. Relax the model and the guide, each with a
    temperature of its own, and train them by any ELBO: with `Trace_ELBO` that is a true
    bound on the relaxed model's evidence (eq. 20); never compare it with a discrete
    ELBO.

    Shapes:
        temperature: scalar, or broadcastable to the batch shape of every site.

    Args:
        fn: Model or guide. Without it, a decorator is returned.
        temperature: Relaxation temperature, > 0. The paper's (model, guide) pairs are
            (1/2, 2/3) for two values, (2/3, 1) for four, (2/5, 2/3) for eight.
        sites: Names of the sites to relax, or a predicate on NumPyro's site messages;
            by default every site that can be.

    Returns:
        The relaxed program, with the arguments of `fn`.

    Raises:
        TypeError: If no temperature is given.
        ValueError: If the temperature is not positive.
        NotImplementedError: At a discrete site of another family, by name.

    Example:
        >>> import numpyro
        >>> def model():
        ...     z = numpyro.sample("z", OneHotCategorical(logits=jnp.zeros(3)))
        ...     return z.sum()
        >>> seeded = numpyro.handlers.seed(relax(model, temperature=0.5), 0)
        >>> list(numpyro.handlers.trace(seeded).get_trace())
        ['z_relaxed', 'z']

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Twin: :func:`pyro_concrete.relax`.
    """
    temperature = _checked(temperature)
    if fn is None:
        return functools.partial(relax, temperature=temperature, sites=sites)

    @functools.wraps(fn)
    def relaxed(*args: Any, **kwargs: Any) -> Any:
        with Interpreter() as interpreter:
            messenger = RelaxMessenger(interpreter, temperature, sites)
            with messenger:
                result = fn(*args, **kwargs)
            return interpreter.lower(result)

    return relaxed


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
    two-valued one; its operators work. `relax`, with `sites` to choose, has no such
    limit, and is the one for guides.

    Shapes:
        temperature: scalar, or broadcastable to the batch shape of the site.

    Args:
        temperature: Relaxation temperature, > 0.

    Raises:
        ValueError: If the temperature is not positive.
        NotImplementedError: At a site of another family, by name.

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

    def __init__(self, temperature: ArrayLike) -> None:
        self.temperature = _checked(temperature)

    def __call__(
        self, name: str, fn: Distribution, obs: ArrayLike | None
    ) -> tuple[Distribution | None, Any]:
        """Replace the distribution and value of one site, unless it is observed."""
        if obs is not None:
            return fn, obs
        value = _sample_relaxed(name, fn, self.temperature)
        return None, SoftBit(value, name) if _is_binary(fn) else value


class RelaxMessenger(Messenger):
    """The effect handler behind `relax`, at the border of the program.

    Messages that leave the program are lowered to plain arrays of the surrounding
    trace, and handled there; soft values enter on the way back.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        temperature: ArrayLike,
        sites: Sites | None = None,
    ) -> None:
        super().__init__()
        self.interpreter = interpreter
        self.temperature = temperature
        self.sites = sites
        self._outside: list[Any] = []

    def process_message(self, msg: dict[str, Any]) -> None:
        self._refuse_observation(msg)
        if _selected(msg, self.sites):
            self._relax(msg)
        for field in ("fn", "args", "kwargs", "value", "scale", "infer"):
            if field in msg:
                msg[field] = self.interpreter.lower(msg[field])
        outside = self.interpreter.outside()
        outside.__enter__()
        self._outside.append(outside)

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        self._outside.pop().__exit__(None, None, None)
        if msg.get("_soft") is self:
            msg["value"] = self.interpreter.lift(SoftBit(msg["value"], msg["name"]))

    def _relax(self, msg: dict[str, Any]) -> None:
        name, fn = msg["name"], msg["fn"]
        if _fixed_outside(self, msg):
            raise ValueError(
                f"site {name!r} is relaxed, and a handler around relax sets it to "
                "another value. Put that handler inside, relax(condition(model, data), "
                f"...), or set {name + SUFFIX!r} in log space"
            )
        value = _sample_relaxed(name, fn, self.temperature)
        kept = ("name", "cond_indep_stack")
        deterministic = {key: msg[key] for key in kept if key in msg}
        msg.clear()
        msg.update(deterministic, type="deterministic", value=value, infer={})
        msg["_relaxed"] = self
        if _is_binary(fn):
            msg["_soft"] = self

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
        if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
            return
        site = msg["name"].removesuffix(SUFFIX)
        if site == msg["name"] or not isinstance(_leaf(msg["fn"]), AbstractConcrete):
            return
        fn = msg["infer"].get("_relaxed_from") or _rebuilt(msg["fn"], _discrete)
        hard = numpyro.sample(site, fn, infer={"relax": False})
        binary = isinstance(_leaf(msg["fn"]), LogitBinaryConcrete)
        msg["value"] = jnp.where(hard, jnp.inf, -jnp.inf) if binary else jnp.log(hard)
        msg["stop"] = True


# --- one site -----------------------------------------------------------------------


def _checked(temperature: ArrayLike | None) -> ArrayLike:
    if temperature is None or callable(temperature):
        raise TypeError("relax needs a temperature, for example relax(model, 0.5)")
    check_temperature(temperature)
    return temperature


def _selected(msg: dict[str, Any], sites: Sites | None) -> bool:
    """Whether a message is a latent discrete site that is to be relaxed."""
    if msg["type"] != "sample" or msg["is_observed"] or not _is_discrete(msg["fn"]):
        return False
    if msg["infer"].get("enumerate") or msg["infer"].get("relax") is False:
        return False
    if sites is not None and not (
        sites(msg) if callable(sites) else msg["name"] in sites
    ):
        return False
    if msg.get("_control_flow_done"):
        raise NotImplementedError(
            f"site {msg['name']!r} is discrete and inside of scan, where relax does "
            "not reach so far; write the loop in Python, enumerate the site with "
            "infer={'enumerate': 'parallel'}, or leave it as it is with "
            "infer={'relax': False}"
        )
    return msg["value"] is None


def _is_discrete(fn: Distribution) -> bool:
    support = fn.support
    try:
        return support is not None and support.is_discrete
    except NotImplementedError:
        return False


def _is_binary(fn: Distribution) -> bool:
    return isinstance(_leaf(fn), BernoulliProbs | BernoulliLogits)


def _sample_relaxed(name: str, fn: Distribution, temperature: ArrayLike) -> Array:
    """Sample the auxiliary site and return its value in [0, 1]."""
    leaf = _leaf(fn)
    if not _is_binary(leaf) and not isinstance(leaf, OneHotCategorical):
        raise NotImplementedError(
            f"site {name!r} ~ {type(leaf).__name__}: relax takes Bernoulli and "
            "OneHotCategorical so far; other families come with integer support. Write "
            "the site as one of these, enumerate it with infer={'enumerate': "
            "'parallel'}, or leave it as it is with infer={'relax': False}"
        )
    relaxed = _rebuilt(fn, _relaxed, temperature)
    point = numpyro.sample(name + SUFFIX, relaxed, infer={"_relaxed_from": fn})
    value = sigmoid(point) if _is_binary(leaf) else jnp.exp(point)
    return value.astype(jnp.result_type(_logits(leaf)))


def _relaxed(leaf: Distribution, temperature: ArrayLike) -> AbstractConcrete:
    family = LogitBinaryConcrete if _is_binary(leaf) else ExpConcrete
    # Gradients in log space do not fit half precision.
    logits = ops.wide(_logits(leaf))
    # An impossible value keeps a finite logit, and the relaxation a density there.
    bound = -math.log(jnp.finfo(logits.dtype).tiny)
    logits = jnp.nan_to_num(logits, nan=jnp.nan, posinf=bound, neginf=-bound)
    return family(temperature, logits=logits)


def _logits(leaf: Any) -> Array:
    # The host's logits of a probability of one are infinite.
    probs = isinstance(leaf, BernoulliProbs)
    return ops.bernoulli_logits(jnp.asarray(leaf.probs)) if probs else leaf.logits


def _discrete(leaf: AbstractConcrete, _: None) -> Distribution:
    return leaf.discrete


def _leaf(fn: Distribution) -> Distribution:
    """The distribution inside of to_event, expand and mask."""
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return fn


def _rebuilt(
    fn: Distribution, rebuild: Callable, temperature: ArrayLike | None = None
) -> Any:
    """The same wrappers around another distribution."""
    if isinstance(fn, Independent):
        n = fn.reinterpreted_batch_ndims
        if temperature is not None and jnp.ndim(temperature):
            temperature = jnp.expand_dims(temperature, tuple(range(-n, 0)))
        return _rebuilt(fn.base_dist, rebuild, temperature).to_event(n)
    if isinstance(fn, MaskedDistribution):
        return _rebuilt(fn.base_dist, rebuild, temperature).mask(fn._mask)
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
