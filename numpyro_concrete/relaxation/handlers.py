"""The effect handlers behind relax, harden and config_relax.

Twin: ``pyro_concrete.relaxation.handlers``.
"""

import contextlib
import copy
import functools
from collections.abc import Callable, Generator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.contrib.control_flow.cond import cond_wrapper
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.handlers import condition, do, replay, substitute

# Only the stack tells a handler what those around it will do, and lets it send a site
# through them alone: see _fixed_outside and _send.
from numpyro.primitives import _PYRO_STACK, Messenger, apply_stack

from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.estimators import (
    AbstractEstimator,
    Estimator,
    Relaxed,
    check_estimator,
)
from numpyro_concrete.relaxation.control_flow import enter_cond, enter_scan, wrap_bodies
from numpyro_concrete.relaxation.site import (
    LEFT_OUT,
    SUFFIX,
    Site,
    Sites,
    Temperature,
    Truncate,
    check_guide,
    check_point,
    check_sites,
    hard_of,
    is_discrete,
    leaf_of,
    of_site,
    selected,
)
from numpyro_concrete.schedules import is_schedule, resolved
from numpyro_concrete.soft_index import (
    Interpreter,
    SoftIndex,
    is_soft,
    plain,
)
from numpyro_concrete.soft_index.interpreter import value_of
from numpyro_concrete.soft_parameters import (
    with_known_parameters,
    with_soft_value,
    within_bounds,
)

_ENUMERATION = "numpyro.contrib.funsor.enum_messenger"


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
        if is_discrete(msg["fn"]) and not msg["infer"].get("enumerate"):
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
        check_estimator(self.estimator, scoring)
        self.temperature = temperature
        self.sites = sites
        # Names of the sample sites of a run.
        self.seen: set[str] = set()
        self.truncate = truncate
        self.scoring = scoring
        # Estimators of the sites that have been run, for `cite`.
        self.used: dict[str, AbstractEstimator] = {}

    def now(self) -> "Settings":
        """Return the same with schedules resolved: a scan cannot read the count."""
        now = copy.copy(self)
        now.seen = set()
        now.temperature = resolved(self.temperature)
        return now

    def site(self, msg: dict[str, Any]) -> "Site":
        """Return how the site of a message is relaxed."""
        marks = msg["infer"].get("relax")
        marks = marks if isinstance(marks, dict) else {}
        name = msg["name"]
        fallback = of_site(self.temperature, name)
        temperature: Any = marks.get("temperature", fallback)
        if temperature is None:
            raise ValueError(f"relax has no temperature for site {name!r}")
        truncate = marks.get("truncate", of_site(self.truncate, name))
        estimator = marks.get("estimator") or of_site(self.estimator, name) or Relaxed()
        check_estimator(estimator, self.scoring, name)
        self.used[name] = estimator
        return Site(name, msg["fn"], temperature, truncate, estimator, self.scoring)


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
        site = self._site(msg)
        if len(site.values) < 2:
            return None  # a constant
        check_guide(name, site.relaxed, _guide_of(self, name + SUFFIX))
        aux = _send(self, _beside(msg, name + SUFFIX, site))
        shape = jnp.shape(aux["value"])
        check_point(name, shape, site.relaxed.shape(), _is_enumerated(self))
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
        msg["_relaxed"] = True
        return lambda _: value

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
                with RelaxMessenger(interpreter, self.settings, msg):
                    result = body(*args)
                return interpreter.drop(result)

        return relaxed

    def _observe(self, msg: dict[str, Any]) -> None:
        """Average the log-probability over the values of a soft observation."""
        soft = value_of(msg["value"])
        msg["value"] = plain(soft)
        if is_soft(soft):
            msg["fn"] = with_soft_value(msg["fn"], soft, msg["name"])


class HardenMessenger(Messenger):
    """The effect handler behind `harden`."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if "_relaxed" in msg:
            msg["stop"] = True  # its discrete site has been sampled already
            return
        if msg["type"] == "control_flow":
            wrap_bodies(msg, HardenMessenger)
        if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
            return
        name = msg["name"].removesuffix(SUFFIX)
        if name == msg["name"] or not isinstance(leaf_of(msg["fn"]), AbstractConcrete):
            return
        infer = msg["infer"]
        fn = hard_of(msg["fn"], infer)
        other = {**msg, "name": name, "fn": fn, "infer": {"relax": False}}
        hard = _send(self, other)["value"]
        leaf, values = leaf_of(msg["fn"]), infer.get("_values")
        if leaf._class_dims and values is not None:
            hard = hard[..., None] == np.array(values)
        msg["value"] = leaf.vertex(hard)
        msg["stop"] = True


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


def _guide_of(messenger: Messenger, name: str) -> Any:
    """The distribution of a site in the trace that an ELBO replays.

    None if the trace does not have it; Ellipsis if there is no trace, or it is set.
    """
    around = _PYRO_STACK[: _PYRO_STACK.index(messenger)]
    given = (x.data for x in around if isinstance(x, condition | do | substitute))
    if any(isinstance(x, HardenMessenger) for x in around) or any(
        name in (x or ()) for x in given
    ):
        return ...
    found = [x.trace.get(name) for x in around if isinstance(x, replay)]
    if None in found:
        return None
    return found[-1].get("fn", ...) if found else ...


def _is_enumerated(messenger: Messenger) -> bool:
    """Whether sites of the program are enumerated in parallel."""
    around = _PYRO_STACK[: _PYRO_STACK.index(messenger)]
    # By its name, for its module needs funsor.
    return any(type(x).__module__ == _ENUMERATION for x in around)


def _given_back(seen: Array, soft: Any, value: Any) -> Any:
    """The soft value of a deterministic site, unless a handler has changed it."""
    return soft if value is seen else value


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
