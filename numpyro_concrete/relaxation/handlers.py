"""The effect handlers behind relax, harden and config_relax.

Counterpart: ``pyro_concrete.relaxation.handlers``.
"""

import contextlib
import copy
import functools
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.contrib.control_flow.cond import cond_wrapper
from numpyro.contrib.control_flow.scan import scan_wrapper

# Only the stack tells a handler what those around it will do, and lets it send a site
# through them alone: see surroundings and _send.
from numpyro.primitives import _PYRO_STACK, Messenger, apply_stack

from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.estimators import (
    AbstractEstimator,
    Estimator,
    Relaxed,
    validate_estimator,
)
from numpyro_concrete.relaxation.control_flow import enter_cond, enter_scan, wrap_bodies
from numpyro_concrete.relaxation.site import (
    LEFT_OUT,
    SUFFIX,
    Site,
    Sites,
    Temperature,
    Truncate,
    can_relax,
    check_guide,
    check_hardened,
    check_marks,
    check_point,
    check_sites,
    discrete_value,
    hard_of,
    leaf_of,
    native_of,
    of_site,
    selected,
)
from numpyro_concrete.relaxation.surroundings import (
    Guidance,
    Surroundings,
    TrainingMessenger,
    inside_of_training,
)
from numpyro_concrete.schedules import is_schedule, resolve_schedules
from numpyro_concrete.soft_index import (
    Interpreter,
    SoftIndex,
    is_soft,
    plain,
)
from numpyro_concrete.soft_index.interpreter import value_of
from numpyro_concrete.soft_index.parameters import (
    with_known_parameters,
    with_soft_value,
    within_bounds,
)


class ConfigMessenger(Messenger):
    """The effect handler behind `config_relax`."""

    def __init__(self, fn: Callable | None, mark: dict[str, Any] | bool) -> None:
        super().__init__(fn)
        self.mark = mark

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow":
            wrap_bodies(msg, lambda f: ConfigMessenger(f, self.mark))
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        if can_relax(msg["fn"]) and not msg["infer"].get("enumerate"):
            msg["infer"] = {"relax": self.mark, **msg["infer"]}


class Settings:
    """What `relax` was asked for."""

    def __init__(
        self,
        temperature: Temperature,
        sites: Sites | None = None,
        truncate: Truncate | None = None,
        estimator: Estimator | None = None,
        scoring: str | None = None,
    ) -> None:
        check_sites(sites)
        self.estimator = Relaxed() if estimator is None else estimator
        validate_estimator(self.estimator, scoring)
        self.temperature = temperature
        self.sites = sites
        # Names of the sample sites of a run.
        self.seen: set[str] = set()
        self.truncate = truncate
        self.scoring = scoring
        # Estimators of the sites that have been run, for `cite`.
        self.used: dict[str, AbstractEstimator] = {}

    def of_run(self) -> "Settings":
        """Return the same for a run of the program, which has names of its own."""
        run = copy.copy(self)
        run.seen = set()
        return run

    def now(self) -> "Settings":
        """Return `of_run` with schedules resolved: a scan cannot read the count."""
        now = self.of_run()
        now.temperature = resolve_schedules(self.temperature)
        return now

    def by_name(self) -> dict[str, Any]:
        """Return the settings that can name sites."""
        names = ("sites", "temperature", "truncate", "estimator")
        return {name: getattr(self, name) for name in names}

    def site(self, msg: dict[str, Any]) -> Site:
        """Return how the site of a message is relaxed: by its own marks first."""
        name, marks = msg["name"], _marks(msg)
        native = native_of(leaf_of(msg["fn"]))
        temperature = marks.get("temperature")
        if temperature is None and (native is None or _names(self.temperature, name)):
            temperature = of_site(self.temperature, name)
        if temperature is None and native is None:
            raise ValueError(f"relax has no temperature for site {name!r}")
        estimator = marks.get("estimator")
        if estimator is None and native is not None:
            is_named = _names(self.estimator, name)
            estimator = None if is_named else native.estimator
        estimator = estimator or of_site(self.estimator, name) or Relaxed()
        validate_estimator(estimator, self.scoring, name)
        self.used[name] = estimator
        truncate = self.truncation(msg)
        return Site(name, msg["fn"], temperature, truncate, estimator, self.scoring)

    def truncation(self, msg: dict[str, Any]) -> int | float | None:
        """Return the truncation of the site of a message."""
        return _marks(msg).get("truncate", of_site(self.truncate, msg["name"]))


class SurroundedMessenger(Messenger):
    """A handler that looks at those around it, which it knows while it runs."""

    _surroundings: Surroundings | None = None

    def __enter__(self) -> Any:
        self._surroundings = surroundings()
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        self._surroundings = None
        return super().__exit__(*error)

    @property
    def surroundings(self) -> Surroundings:
        """The handlers around this one."""
        assert self._surroundings is not None
        return self._surroundings


class RelaxMessenger(SurroundedMessenger):
    """The effect handler behind `relax`, at the border of the program.

    Messages that leave the program are lowered to plain arrays of the surrounding
    trace, and handled there; soft values enter on the way back.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        settings: Settings,
        outer: "RelaxMessenger | None" = None,
        loop: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.interpreter = interpreter
        self.settings = settings
        # The handler of the program, and the message of the scan or cond in whose body
        # this one is.
        self.outer = outer
        self.loop = loop
        self._pending: list[tuple[Any, Callable | None]] = []

    def process_message(self, msg: dict[str, Any]) -> None:
        outside = self.interpreter.outside()
        outside.__enter__()
        self._pending.append((outside, None))
        receive = None
        if msg["type"] == "control_flow":
            receive = self._enter_control_flow(msg)
        elif msg["type"] == "deterministic" and self.interpreter.is_soft(msg["value"]):
            # Traces see the mean, and the program its value.
            soft = value_of(msg["value"])
            receive = functools.partial(_given_back, plain(soft), soft)
            msg["value"] = receive.args[0]
        elif msg["type"] == "sample":
            self.settings.seen.add(msg["name"])
            msg["fn"] = with_known_parameters(msg["fn"], msg["name"])
            if self.interpreter.is_soft(msg["value"]):
                self._observe(msg)
        for field in ("fn", "args", "kwargs", "value", "scale", "infer"):
            if field in msg:
                msg[field] = self.interpreter.lower(msg[field])
        if selected(msg, self.settings.sites):
            receive = self._relax(msg)
        self._pending[-1] = outside, receive

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        outside, receive = self._pending.pop()
        value = msg["value"] if receive is None else receive(msg["value"])
        outside.__exit__(None, None, None)
        if receive is not None:
            msg["value"] = self.interpreter.lift(value)
        elif isinstance(value, np.ndarray):
            # As a param may be: NumPy's own indexing would try to read a soft value.
            msg["value"] = jnp.asarray(value)

    def _relax(self, msg: dict[str, Any]) -> Callable | None:
        name = msg["name"]
        guidance = self._guidance(msg)
        if guidance.leaves_discrete:
            return keep_discrete(self.settings, msg, guidance)
        if self.loop is not None and self.loop["kwargs"].get("enum"):
            raise NotImplementedError(
                f"site {name!r} is relaxed inside of a scan with enumerated sites, "
                "which NumPyro unrolls. Relax all of the scan's sites or none: leave "
                "this one out with infer={'relax': False}"
            )
        site = self._site(msg)
        if len(site.values) < 2:
            return None  # a constant
        check_guide(name, site.relaxed, guidance)
        aux = _send(self, _beside(msg, name + SUFFIX, site))
        shape = jnp.shape(aux["value"])
        enumerated = self.surroundings.is_enumerated
        check_point(name, shape, site.relaxed.shape(), enumerated)
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
        if isinstance(value, SoftIndex):
            value = within_bounds(leaf_of(msg["fn"]), value)
        seen = value.number() if isinstance(value, SoftIndex) else value
        msg.clear()
        msg.update(deterministic, type="deterministic", value=seen, infer={})
        return lambda _: value

    def _guidance(self, msg: dict[str, Any]) -> Guidance:
        """What the handlers around the program have for a site.

        The body of a scan is blocked from them: it has values of one step, and no
        trace.
        """
        guidance = self.surroundings.guidance(msg)
        if self.outer is not None:
            outside = self.outer.surroundings.guidance(msg)
            guidance.has_trace = outside.has_trace
            guidance.relaxed = outside.relaxed
            guidance.has_latent = outside.has_latent
        if guidance.value is not None and guidance.point is None:
            raise ValueError(
                f"site {msg['name']!r} is relaxed, and a handler around relax sets it "
                "to another value. Put that handler inside, relax(condition(model, "
                f"data), ...), or set {msg['name'] + SUFFIX!r} in log space"
            )
        return guidance

    def _site(self, msg: dict[str, Any]) -> Site:
        marks = msg["infer"].get("relax")
        own = marks.get("temperature") if isinstance(marks, dict) else None
        if self.loop is not None and is_schedule(own):
            raise NotImplementedError(
                f"site {msg['name']!r} follows a schedule of its own inside of a scan "
                "or cond, where the count of steps cannot be read. Give it to relax: "
                f"relax(model, {{{msg['name']!r}: schedule, ...}})"
            )
        with _past(self):
            return self.settings.site(msg)

    def _enter_control_flow(self, msg: dict[str, Any]) -> Callable | None:
        if msg["fn"] is scan_wrapper:
            return enter_scan(self, msg)
        if msg["fn"] is cond_wrapper:
            return enter_cond(self, msg)
        return None

    def inside(self, body: Callable, msg: dict[str, Any]) -> Callable:
        """Return the body of a scan or cond, relaxed by itself.

        Soft values come in and go out as trees of plain arrays.
        """

        def relaxed(*args: Any) -> Any:
            with Interpreter() as interpreter:
                args = interpreter.lift(args)
                outer = self.outer or self
                with RelaxMessenger(interpreter, self.settings, outer, msg):
                    result = body(*args)
                return interpreter.drop(result)

        return relaxed

    def _observe(self, msg: dict[str, Any]) -> None:
        """Average the log-probability over the values of a soft observation."""
        soft = value_of(msg["value"])
        msg["value"] = plain(soft)
        if is_soft(soft):
            msg["fn"] = with_soft_value(msg["fn"], soft, msg["name"])


class DiscreteMessenger(SurroundedMessenger):
    """The effect handler of `relax` where a program runs discrete."""

    def __init__(self, fn: Callable | None, settings: Settings) -> None:
        super().__init__(fn)
        self.settings = settings
        self._pending: list[Callable | None] = []

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow":
            wrap_bodies(msg, lambda f: DiscreteMessenger(f, self.settings))
        receive = None
        if msg["type"] == "sample":
            self.settings.seen.add(msg["name"])
        if selected(msg, self.settings.sites):
            guidance = self.surroundings.guidance(msg)
            receive = keep_discrete(self.settings, msg, guidance)
            if self.surroundings.is_predicted and guidance.point is not None:
                receive = _set_discrete(msg, receive)
        self._pending.append(receive)

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        receive = self._pending.pop()
        if receive is not None:
            msg["value"] = receive(msg["value"])


class HardenMessenger(SurroundedMessenger):
    """The effect handler behind `harden`."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow":
            wrap_bodies(msg, HardenMessenger)
        if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
            return
        name = msg["name"].removesuffix(SUFFIX)
        leaf = leaf_of(msg["fn"])
        if name == msg["name"] or not isinstance(leaf, AbstractConcrete):
            return
        guidance = self.surroundings.guidance({**msg, "name": name})
        check_hardened(name, guidance)
        infer = msg["infer"]
        other = {**msg, "name": name, "fn": hard_of(msg["fn"], infer)}
        other["infer"] = {"relax": False}
        if guidance.point is not None:
            other["value"] = discrete_value(leaf, infer, guidance.point)
        hard = _send(self, other)["value"]
        values = infer.get("_values")
        if leaf._class_dims and values is not None:
            hard = hard[..., None] == np.array(values)
        msg["value"] = leaf.vertex(hard)
        msg["stop"] = True


def keep_discrete(
    settings: Settings, msg: dict[str, Any], guidance: Guidance
) -> Callable | None:
    """Let a site be sampled from the discrete distribution that it stands for.

    Args:
        settings: Settings of `relax`.
        msg: Message of the site.
        guidance: What the handlers around the program have for it.

    Returns:
        What turns the value into that which the program receives, or None.
    """
    name = msg["name"]
    check_hardened(name, guidance)
    truncate = settings.truncation(msg)
    native = native_of(leaf_of(msg["fn"]))
    # Handlers around this one may relax sites, too.
    msg["infer"] = {**msg["infer"], "relax": False}
    if truncate is None and native is None and guidance.point is None:
        return None
    site = Site(name, msg["fn"], 1.0, truncate)
    msg["fn"] = site.discrete
    if guidance.point is not None:
        msg["value"] = site.discrete_value(guidance.point)
    dtype = jnp.result_type(site.logits)
    return None if native is None else lambda value: jnp.asarray(value, dtype)


def _set_discrete(msg: dict[str, Any], receive: Callable | None) -> Callable:
    """Make a deterministic site of one whose relaxed site is given.

    Samples of a relaxed model have its mean beside it, which is none of its values, and
    which other handlers would set it to.
    """
    value = msg["value"] if receive is None else receive(msg["value"])
    kept = {key: msg[key] for key in ("name", "cond_indep_stack")}
    msg.clear()
    msg.update(kept, type="deterministic", value=value, infer={})
    return lambda _: value


def surroundings(handler: type | None = None) -> Surroundings:
    """Return the handlers around a program that starts to run.

    Args:
        handler: Class of a handler, the innermost of which stands for the program.
    """
    own = [i for i, x in enumerate(_PYRO_STACK) if handler and isinstance(x, handler)]
    around = inside_of_training(_PYRO_STACK[: own[-1]] if own else _PYRO_STACK)
    is_hardened = any(isinstance(x, HardenMessenger) for x in around)
    return Surroundings(around, is_hardened)


def hardened_in_prediction() -> contextlib.AbstractContextManager:
    """Return `harden` in a prediction, and a context without effect elsewhere.

    A guide that samples relaxed sites itself enters it around them.
    """
    is_predicted = surroundings().is_predicted
    return HardenMessenger() if is_predicted else contextlib.nullcontext()


def relaxed_in_prediction(fn: Callable) -> Callable:
    """Return a function inside of which `relax` relaxes, even in a prediction.

    A guide decorates with it what runs the model to learn which sites there are.
    """

    @functools.wraps(fn)
    def relaxed(*args: Any, **kwargs: Any) -> Any:
        with TrainingMessenger():
            return fn(*args, **kwargs)

    return relaxed


def _beside(msg: dict[str, Any], name: str, site: Site) -> dict[str, Any]:
    """The message of another site at the place of this one."""
    dropped = ("relax", "enumerate")
    infer = {k: v for k, v in msg["infer"].items() if k not in dropped}
    infer |= site.infer
    other = {**msg, "name": name, "fn": site.relaxed, "infer": infer}
    other["cond_indep_stack"] = list(msg["cond_indep_stack"])
    return other | {"kwargs": dict(msg["kwargs"]), "intermediates": []}


def _send(messenger: Messenger, msg: dict[str, Any]) -> dict[str, Any]:
    """Send a message to the handlers around this one; those inside have acted on it."""
    with _past(messenger):
        return apply_stack(msg)


@contextlib.contextmanager
def _past(messenger: Messenger) -> Generator[None]:
    """Leave out a handler and those inside of it."""
    at = _PYRO_STACK.index(messenger)
    inside = _PYRO_STACK[at:]
    del _PYRO_STACK[at:]
    try:
        yield
    finally:
        _PYRO_STACK.extend(inside)


def _marks(msg: dict[str, Any]) -> dict[str, Any]:
    """The settings of a site by its own ``infer={"relax": ...}``."""
    marks = msg["infer"].get("relax")
    if not isinstance(marks, dict):
        return {}
    check_marks(msg["name"], marks)
    return marks


def _names(setting: Any, name: str) -> bool:
    """Whether a setting is a mapping by site that has this one."""
    return isinstance(setting, Mapping) and name in setting


def _given_back(seen: Array, soft: Any, value: Any) -> Any:
    """The soft value of a deterministic site, unless a handler has changed it."""
    return soft if value is seen else value
