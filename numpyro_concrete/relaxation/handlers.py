"""The effect handlers behind relax, harden and config_relax.

The life of a sample statement ``z = numpyro.sample("z", Categorical(p))`` in a program
of `relax`: its message reaches `RelaxMessenger`, after the handlers inside of the
program and before those around it. The handler asks its `Surroundings` whether the site
is to run relaxed, and makes a `Site` of its distribution and its `SiteSettings`.

1. It sends a message of its own, ``z_relaxed``, to the handlers around: traces record
   it, guides replay it, plates expand it. Its value is a sample in log space. A site
   whose support is truncated also sends ``z_truncated_mass``.
2. It turns the message of ``z`` into a deterministic site with the mean of the relaxed
   value, which goes on to the handlers around (`RelaxMessenger._relax`).
3. When these are done, it puts the soft value in place of the mean, which the statement
   returns to the program (`RelaxMessenger.postprocess_message`).

The program itself runs under an `Interpreter`, in which soft values are arrays. The
handler is at its boundary: messages leave the program with plain arrays of the
surrounding trace, and soft values enter on the way back.

In predictions and in `harden`, `DiscreteMessenger` leaves the site discrete instead. In
the other direction `HardenMessenger` takes ``z_relaxed``, sends ``z`` with the discrete
distribution to the handlers around, and returns a one-hot point of log space.

Counterpart: ``pyro_concrete.relaxation.handlers``.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.contrib.control_flow.cond import cond_wrapper
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.primitives import Messenger, apply_stack

from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.internals import active_handlers, only_handlers_around
from numpyro_concrete.relaxation.checks import check_guide, check_hardened, check_shape
from numpyro_concrete.relaxation.control_flow import enter_cond, enter_scan, wrap_bodies
from numpyro_concrete.relaxation.messages import (
    RELAX_RECORD,
    Message,
    Program,
    discrete_name,
    record_of,
    relaxed_name,
    truncated_mass_name,
)
from numpyro_concrete.relaxation.settings import Settings
from numpyro_concrete.relaxation.site import (
    Site,
    SiteSettings,
    backend_relaxation_of,
    can_relax,
    discrete_distribution,
    discrete_value,
    log_space_vertex,
)
from numpyro_concrete.relaxation.surroundings import (
    Guidance,
    Surroundings,
    TrainingMessenger,
    inside_of_training,
)
from numpyro_concrete.relaxation.wrappers import leaf_of
from numpyro_concrete.schedules import is_schedule
from numpyro_concrete.soft_index import Interpreter, SoftIndex, is_soft, plain
from numpyro_concrete.soft_index.interpreter import value_of
from numpyro_concrete.soft_index.parameters import (
    with_known_parameters,
    with_soft_value,
    within_bounds,
)

# What turns the value that handlers leave in a message into that which the program
# receives; None if it is the same.
Receive = Callable[[Any], Any] | None


class ConfigMessenger(Messenger):
    """The effect handler behind `config_relax`."""

    def __init__(
        self, fn: Program | None, site_settings: dict[str, Any] | bool
    ) -> None:
        super().__init__(fn)
        self.site_settings = site_settings

    def process_message(self, msg: Message) -> None:
        if msg["type"] == "control_flow":
            wrap_bodies(msg, lambda f: ConfigMessenger(f, self.site_settings))
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        if can_relax(msg["fn"]) and not msg["infer"].get("enumerate"):
            msg["infer"] = {"relax": self.site_settings, **msg["infer"]}


class SurroundedMessenger(Messenger):
    """A handler that looks at those around it, which it knows while it runs."""

    _surroundings: Surroundings | None = None

    def __enter__(self) -> "SurroundedMessenger":
        self._surroundings = current_surroundings()
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        self._surroundings = None
        return super().__exit__(*error)

    @property
    def surroundings(self) -> Surroundings:
        """The handlers around this one."""
        assert self._surroundings is not None
        return self._surroundings


@dataclass
class _Pending:
    """A message between `process_message` and `postprocess_message`.

    Attributes:
        outer_trace: The context in which the handlers around compute.
        receive: How the program receives the value.
    """

    outer_trace: contextlib.AbstractContextManager
    receive: Receive = None


class RelaxMessenger(SurroundedMessenger):
    """The effect handler behind `relax`, at the boundary of the program.

    Args:
        interpreter: The interpreter that the program runs in.
        settings: Settings of `relax`, with schedules resolved: a scan cannot read the
            count of steps.
        outer: In the body of a scan or cond: the handler of the program.
        loop: In the body of a scan or cond: its message.

    Attributes:
        names: Names of the sample sites that the program has run.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        settings: Settings,
        outer: "RelaxMessenger | None" = None,
        loop: Message | None = None,
    ) -> None:
        super().__init__()
        self.interpreter = interpreter
        self.settings = settings
        self.outer = outer
        self.loop = loop
        self.names: set[str] = set() if outer is None else outer.names
        # The messages that are on their way, of nested statements.
        self._pending: list[_Pending] = []

    def process_message(self, msg: Message) -> None:
        # All handlers around compute in the surrounding trace.
        pending = _Pending(outer_trace=self.interpreter.outside())
        pending.outer_trace.__enter__()
        self._pending.append(pending)
        if msg["type"] == "control_flow":
            pending.receive = self._enter_control_flow(msg)
        elif msg["type"] == "deterministic" and self.interpreter.holds_soft(
            msg["value"]
        ):
            pending.receive = self._show_mean(msg)
        elif msg["type"] == "sample":
            self.names.add(msg["name"])
            msg["fn"] = with_known_parameters(msg["fn"], msg["name"])
            if self.interpreter.holds_soft(msg["value"]):
                self._observe(msg)
        # Handlers around compute with plain arrays. Of a soft scale the mean is enough,
        # as a score is linear in it.
        for field in ("fn", "args", "kwargs", "value", "scale", "infer"):
            if field in msg:
                msg[field] = self.interpreter.as_means(msg[field])
        if self.settings.should_relax(msg):
            pending.receive = self._relax(msg)

    def postprocess_message(self, msg: Message) -> None:
        pending = self._pending.pop()
        value = msg["value"]
        if pending.receive is not None:
            value = pending.receive(value)
        pending.outer_trace.__exit__(None, None, None)
        if pending.receive is not None:
            msg["value"] = self.interpreter.lift(value)
        elif isinstance(value, np.ndarray):
            # As a param may be: NumPy's own indexing would try to read a soft value.
            msg["value"] = jnp.asarray(value)

    def _relax(self, msg: Message) -> Receive:
        """Sample the relaxed site, and make a deterministic site of the message."""
        name = msg["name"]
        guidance = self._guidance(msg)
        # A program that runs discrete as a whole has a `DiscreteMessenger` instead.
        if guidance.leaves_discrete:
            return keep_discrete(self.settings, msg, guidance)
        self._check_loop(msg)
        # A schedule reads the count of steps from a param site of its own.
        with only_handlers_around(self):
            site = Site(name, msg["fn"], self.settings.for_site(msg))
        if site.is_constant:
            return None
        check_guide(name, site.relaxed, guidance)
        sample = self._sample_relaxed(msg, site)
        check_shape(
            name,
            shape=jnp.shape(sample),
            expected=site.relaxed.shape(),
            is_enumerated=self.surroundings.is_enumerated,
        )
        value = site.value(sample)
        if isinstance(value, SoftIndex):
            value = within_bounds(leaf_of(msg["fn"]), value)
            _make_deterministic(msg, value.number())
        else:
            _make_deterministic(msg, value)
        if site.truncated_mass is not None:
            mass = {**msg, "name": truncated_mass_name(name)}
            mass |= {"value": site.truncated_mass, "infer": {}}
            self._send(mass)
        return lambda _: value

    def _sample_relaxed(self, msg: Message, site: Site) -> Array:
        """Sample the relaxed site at the place of the message."""
        infer = {
            key: value
            for key, value in msg["infer"].items()
            if key not in ("relax", "enumerate")
        }
        relaxed: Message = {
            **msg,
            "name": relaxed_name(msg["name"]),
            "fn": site.relaxed,
            "infer": infer | site.infer,
            # Copies, which handlers may change in place.
            "cond_indep_stack": list(msg["cond_indep_stack"]),
            "kwargs": dict(msg["kwargs"]),
            "intermediates": [],
        }
        self._send(relaxed)
        if self.loop is not None:
            # A scan collects its sites, and what it compares must hold no arrays of
            # one step.
            record = replace(record_of(relaxed), discrete=None)
            relaxed["infer"][RELAX_RECORD] = record
        return relaxed["value"]

    def _send(self, msg: Message) -> None:
        """Send a message to the handlers around; those inside have acted on it."""
        with only_handlers_around(self):
            apply_stack(msg)

    def _guidance(self, msg: Message) -> Guidance:
        """What the handlers around the program have for a site.

        The body of a scan is blocked from them: it has values of one step, and no
        trace.
        """
        guidance = self.surroundings.guidance(msg)
        if self.outer is not None:
            outer_guidance = self.outer.surroundings.guidance(msg)
            guidance.has_trace = outer_guidance.has_trace
            guidance.relaxed = outer_guidance.relaxed
            guidance.has_latent = outer_guidance.has_latent
        if guidance.value is not None and guidance.relaxed_value is None:
            name = msg["name"]
            raise ValueError(
                f"site {name!r} is relaxed, and a handler around relax sets it to "
                "another value. Put that handler inside, relax(condition(model, data), "
                f"...), or set {relaxed_name(name)!r} in log space"
            )
        return guidance

    def _check_loop(self, msg: Message) -> None:
        """Raise an error at a site that cannot be relaxed in its scan or cond."""
        if self.loop is None:
            return
        name = msg["name"]
        settings = msg["infer"].get("relax")
        if self.loop["kwargs"].get("enum"):
            raise NotImplementedError(
                f"site {name!r} is relaxed inside of a scan with enumerated sites, "
                "which NumPyro unrolls. Relax all of the scan's sites or none: leave "
                "this one out with infer={'relax': False}"
            )
        if isinstance(settings, dict) and is_schedule(settings.get("temperature")):
            raise NotImplementedError(
                f"site {name!r} follows a schedule of its own inside of a scan or "
                "cond, where the count of steps cannot be read. Give it to relax: "
                f"relax(model, {{{name!r}: schedule, ...}})"
            )

    def _enter_control_flow(self, msg: Message) -> Receive:
        if msg["fn"] is scan_wrapper:
            return enter_scan(self, msg)
        if msg["fn"] is cond_wrapper:
            return enter_cond(self, msg)
        return None

    def inside(self, body: Callable, msg: Message) -> Callable:
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

    def _observe(self, msg: Message) -> None:
        """Average the log-probability over the values of a soft observation."""
        soft = value_of(msg["value"])
        msg["value"] = plain(soft)
        if is_soft(soft):
            msg["fn"] = with_soft_value(msg["fn"], soft, msg["name"])

    def _show_mean(self, msg: Message) -> Receive:
        """Show handlers the mean of a deterministic site with a soft value."""
        soft = value_of(msg["value"])
        msg["value"] = mean = plain(soft)
        # A value of a handler's own goes to the program.
        return lambda value: soft if value is mean else value


class DiscreteMessenger(SurroundedMessenger):
    """The effect handler of `relax` where a program runs discrete.

    Args:
        fn: Body of a scan or cond, or None.
        settings: Settings of `relax`.
        names: Where to add the names of the sample sites that the program runs.
    """

    def __init__(self, fn: Program | None, settings: Settings, names: set[str]) -> None:
        super().__init__(fn)
        self.settings = settings
        self.names = names
        # How the program receives the values of the messages that are on their way.
        self._pending: list[Receive] = []

    def process_message(self, msg: Message) -> None:
        if msg["type"] == "control_flow":
            wrap_bodies(msg, lambda f: DiscreteMessenger(f, self.settings, self.names))
        receive = None
        if msg["type"] == "sample":
            self.names.add(msg["name"])
        if self.settings.should_relax(msg):
            guidance = self.surroundings.guidance(msg)
            receive = keep_discrete(self.settings, msg, guidance)
            if self.surroundings.is_predicted and guidance.relaxed_value is not None:
                receive = _set_discrete(msg, receive)
        self._pending.append(receive)

    def postprocess_message(self, msg: Message) -> None:
        receive = self._pending.pop()
        if receive is not None:
            msg["value"] = receive(msg["value"])


class HardenMessenger(SurroundedMessenger):
    """The effect handler behind `harden`."""

    def process_message(self, msg: Message) -> None:
        if msg["type"] == "control_flow":
            wrap_bodies(msg, HardenMessenger)
        if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
            return
        name = discrete_name(msg["name"])
        leaf = leaf_of(msg["fn"])
        if name == msg["name"] or not isinstance(leaf, AbstractConcrete):
            return
        guidance = self.surroundings.guidance({**msg, "name": name})
        check_hardened(name, guidance)
        record = record_of(msg)
        discrete: Message = {
            **msg,
            "name": name,
            "fn": discrete_distribution(msg["fn"], record),
            "infer": {"relax": False},
        }
        if guidance.relaxed_value is not None:
            discrete["value"] = discrete_value(leaf, record, guidance.relaxed_value)
        with only_handlers_around(self):
            apply_stack(discrete)
        msg["value"] = log_space_vertex(leaf, record, discrete["value"])
        msg["stop"] = True


def keep_discrete(settings: Settings, msg: Message, guidance: Guidance) -> Receive:
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
    native = backend_relaxation_of(leaf_of(msg["fn"]))
    # Handlers around this one may relax sites, too.
    msg["infer"] = {**msg["infer"], "relax": False}
    if truncate is None and native is None and guidance.relaxed_value is None:
        return None
    # The temperature is unused: only `site.discrete` is taken.
    site = Site(name, msg["fn"], SiteSettings(temperature=1.0, truncate=truncate))
    msg["fn"] = site.discrete
    if guidance.relaxed_value is not None:
        msg["value"] = site.discrete_value(guidance.relaxed_value)
    if native is None:
        return None
    dtype = jnp.result_type(site.logits)
    return lambda value: jnp.asarray(value, dtype)


def _set_discrete(msg: Message, receive: Receive) -> Receive:
    """Make a deterministic site of one whose relaxed site is given.

    Samples of a relaxed model hold z's mean, which is none of z's values; Predictive
    would set z to it.
    """
    value = msg["value"]
    if receive is not None:
        value = receive(value)
    _make_deterministic(msg, value)
    return lambda _: value


def _make_deterministic(msg: Message, value: Array) -> None:
    """Turn a message of a sample site into one of a deterministic site, in place."""
    deterministic = {
        "type": "deterministic",
        "name": msg["name"],
        "value": value,
        "infer": {},
    }
    if "cond_indep_stack" in msg:
        deterministic["cond_indep_stack"] = msg["cond_indep_stack"]
    msg.clear()
    msg.update(deterministic)


def current_surroundings(handler: type[Messenger] | None = None) -> Surroundings:
    """Return the handlers around a program that starts to run.

    Args:
        handler: Count only handlers outside the innermost one of this class.
    """
    handlers = active_handlers()
    if handler is not None:
        for index in reversed(range(len(handlers))):
            if isinstance(handlers[index], handler):
                handlers = handlers[:index]
                break
    handlers = inside_of_training(handlers)
    is_hardened = any(isinstance(x, HardenMessenger) for x in handlers)
    return Surroundings(handlers, is_hardened)


def hardened_in_prediction() -> contextlib.AbstractContextManager:
    """Return `harden` in a prediction, and a context without effect elsewhere.

    A guide that samples relaxed sites itself enters it around them.
    """
    if current_surroundings().is_predicted:
        return HardenMessenger()
    return contextlib.nullcontext()


def relaxed_in_prediction(fn: Program) -> Program:
    """Return a function inside of which `relax` relaxes, even in a prediction.

    A guide decorates with it what runs the model to learn which sites there are.
    """

    @functools.wraps(fn)
    def relaxed(*args: object, **kwargs: object) -> Any:
        with TrainingMessenger():
            return fn(*args, **kwargs)

    return relaxed
