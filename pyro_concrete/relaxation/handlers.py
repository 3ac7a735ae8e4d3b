"""The effect handlers behind relax, harden and config_relax.

Counterpart: ``numpyro_concrete.relaxation.handlers``.
"""

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.markov_messenger import MarkovMessenger
from pyro.poutine.messenger import Messenger

# A site beside the program's own is sent through the stack by hand: see _send.
from pyro.poutine.runtime import _PYRO_STACK, default_process_message
from torch import Tensor

from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.estimators import (
    AbstractEstimator,
    Estimator,
    Relaxed,
    validate_estimator,
)
from pyro_concrete.relaxation.site import (
    LEFT_OUT,
    SUFFIX,
    Deterministic,
    Site,
    Sites,
    Temperature,
    Truncate,
    can_relax,
    check_guide,
    check_hardened,
    check_marks,
    check_names,
    check_point,
    check_sites,
    checked,
    discrete_value,
    hard_of,
    known,
    leaf_of,
    native_of,
    of_site,
    rebuilt,
    selected,
)
from pyro_concrete.relaxation.surroundings import (
    Guidance,
    Surroundings,
    TrainingMessenger,
    inside_of_training,
)
from pyro_concrete.soft_index import is_soft, plain
from pyro_concrete.soft_index.parameters import with_soft_value

# Auxiliary, or SVI would look for it among the latent sites of the model.
_AUXILIARY = {"_deterministic": True, "is_auxiliary": True}


class ProgramMessenger(Messenger):
    """A handler that makes a module of a module, so that its parameters are found."""

    def __call__(self, fn: Callable) -> Any:
        if isinstance(fn, torch.nn.Module):
            return HandledModule(fn, self)
        return super().__call__(fn)


class HandledModule(torch.nn.Module):
    """A module that runs inside of a handler.

    Its parameters are those of the module, which keeps their names in Pyro's param
    store.

    Args:
        fn: The module.
        handler: The handler.
    """

    def __init__(self, fn: torch.nn.Module, handler: Messenger) -> None:
        super().__init__()
        self.fn = fn
        self.handler = handler
        temperature = getattr(handler, "temperature", None)
        if isinstance(temperature, torch.nn.Parameter):
            self.temperature = temperature

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module."""
        with self.handler:
            return self.fn(*args, **kwargs)


class SurroundedMessenger(ProgramMessenger):
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


class ConfigMessenger(ProgramMessenger):
    """The effect handler behind `config_relax`."""

    def __init__(self, mark: dict[str, Any] | bool) -> None:
        super().__init__()
        self.mark = mark

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        latent = not msg["is_observed"] and can_relax(msg["fn"])
        if latent and not msg["infer"].get("enumerate"):
            msg["infer"].setdefault("relax", self.mark)


class RelaxMessenger(SurroundedMessenger):
    """The effect handler behind `relax`."""

    def __init__(
        self,
        temperature: Temperature | None,
        sites: Sites | None = None,
        truncate: Truncate | None = None,
        estimator: Estimator | None = None,
        scoring: str | None = None,
    ) -> None:
        super().__init__()
        check_sites(sites)
        self.estimator = Relaxed() if estimator is None else estimator
        validate_estimator(self.estimator, scoring)
        self.temperature = checked(temperature)
        self.sites = sites
        self._seen: set[str] = set()
        self.truncate = truncate
        self.scoring = scoring
        # Estimators of the sites that have been run, for `cite`.
        self.used: dict[str, AbstractEstimator] = {}

    def __enter__(self) -> Any:
        self._seen = set()
        return super().__enter__()

    def __exit__(self, error: Any, *args: Any) -> Any:
        result = super().__exit__(error, *args)
        if error is None:
            check_names(self._settings_by_name(), self._seen)
        return result

    def _settings_by_name(self) -> dict[str, Any]:
        names = ("sites", "temperature", "truncate", "estimator")
        return {name: getattr(self, name) for name in names}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        self._seen.add(msg["name"])
        if is_soft(msg["mask"]):
            msg["fn"] = msg["fn"].mask(msg["mask"])
            msg["mask"] = None
        msg["scale"] = plain(msg["scale"])
        msg["fn"] = known(msg["fn"], msg["name"])
        if is_soft(msg["value"]):
            self._lower(msg)
            return
        if not selected(msg, self.sites):
            return
        guidance = self.surroundings.guidance(msg)
        if self.surroundings.runs_discrete or guidance.leaves_discrete:
            self._keep_discrete(msg, guidance)
        else:
            self._relax(msg, guidance)

    def _relax(self, msg: dict[str, Any], guidance: Guidance) -> None:
        """Sample the relaxed site, and show its value to the program."""
        name = msg["name"]
        _refuse_vectorized_chain(name)
        site = self._site(msg)
        if len(site.values) < 2:
            return  # a constant
        check_guide(name, site.relaxed, guidance)
        point = _send(self, msg, name + SUFFIX, site.relaxed, site.infer)
        enumerated = self.surroundings.is_enumerated
        check_point(name, point.shape, site.relaxed.shape(), enumerated)
        if site.left_out is not None:
            fn = Deterministic(site.left_out, msg["fn"].event_dim)
            _send(self, msg, name + LEFT_OUT, fn, _AUXILIARY, site.left_out)
        self._show(msg, *site.value(point))

    def _keep_discrete(self, msg: dict[str, Any], guidance: Guidance) -> None:
        """Let the site be sampled from the discrete distribution that it stands for."""
        check_hardened(msg["name"], guidance)
        # Handlers around this one may relax sites, too.
        msg["infer"]["relax"] = False
        truncate = self._truncation(msg)
        native = native_of(leaf_of(msg["fn"]))
        if truncate is None and native is None and guidance.point is None:
            return
        site = Site(msg["name"], msg["fn"], 1.0, truncate)
        msg["fn"] = site.discrete
        if guidance.point is not None:
            msg["value"] = value = site.discrete_value(guidance.point)
            # Samples of a relaxed model have its mean beside it, which is none of its
            # values, and which other handlers would set it to.
            msg["infer"]["_given"] = (self, value)

    def _site(self, msg: dict[str, Any]) -> Site:
        """How the site of a message is relaxed: by its own marks before the rest."""
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
        truncate = self._truncation(msg)
        return Site(name, msg["fn"], temperature, truncate, estimator, self.scoring)

    def _truncation(self, msg: dict[str, Any]) -> int | float | None:
        return _marks(msg).get("truncate", of_site(self.truncate, msg["name"]))

    def _lower(self, msg: dict[str, Any]) -> None:
        """Show handlers the mean of a soft value; score it for each of its values."""
        name, value = msg["name"], msg["value"]
        if msg["infer"].get("_deterministic"):
            self._show(msg, plain(value), value)
            return
        msg["fn"] = rebuilt(msg["fn"], lambda fn, _: with_soft_value(fn, value, name))
        msg["value"] = plain(value)
        msg["infer"] = {**msg["infer"], "_seen": (self, msg["value"], value)}

    def _show(self, msg: dict[str, Any], seen: Tensor, value: Tensor) -> None:
        """Make a site deterministic: handlers get the mean, the program the value."""
        msg["fn"] = fn = Deterministic(seen, msg["fn"].event_dim)
        msg["value"] = seen
        msg.update(fn.scores())
        msg["is_observed"] = True
        msg["infer"] = {**_markov(msg), **_AUXILIARY, "_seen": (self, seen, value)}

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        owner, value = msg["infer"].get("_given", (None, None))
        if owner is self:
            msg["value"] = value
            return
        owner, seen, value = msg["infer"].get("_seen", (None, None, None))
        if owner is not self:
            return
        if msg["value"] is not seen and not _same(msg["value"], seen):
            name = msg["name"].removesuffix("__CF")  # which `do` adds
            raise ValueError(
                f"site {name!r} is relaxed, and a handler around relax sets it to "
                "another value. Put that handler inside, relax(condition(model, data), "
                f"...), or set {name + SUFFIX!r} in log space"
            )
        # Traces have seen the plain mean by now; the program gets the soft value.
        msg["value"] = value


class HardenMessenger(SurroundedMessenger):
    """The effect handler behind `harden`."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or msg["value"] is not None:
            return
        name = msg["name"].removesuffix(SUFFIX)
        leaf = leaf_of(msg["fn"])
        if name == msg["name"] or not isinstance(leaf, AbstractConcrete):
            return
        guidance = self.surroundings.guidance({**msg, "name": name})
        check_hardened(name, guidance)
        infer = msg["infer"]
        value = None
        if guidance.point is not None:
            value = discrete_value(leaf, infer, guidance.point)
        fn = hard_of(msg["fn"], infer)
        hard = _send(self, msg, name, fn, {"relax": False}, value)
        values = infer.get("_values")
        if leaf._class_dims and values is not None:
            hard = hard[..., None] == values
        msg["value"] = leaf.vertex(hard)
        msg["stop"] = True


def surroundings(handler: type | None = None) -> Surroundings:
    """Return the handlers around a program that starts to run.

    Args:
        handler: Class of a handler, the innermost of which stands for the program.
    """
    own = [i for i, x in enumerate(_PYRO_STACK) if handler and isinstance(x, handler)]
    around = inside_of_training(_PYRO_STACK[: own[-1]] if own else _PYRO_STACK)
    is_hardened = any(isinstance(x, HardenMessenger) for x in around)
    return Surroundings(around, is_hardened)


def hardened_in_prediction() -> AbstractContextManager:
    """Return `harden` in a prediction, and a context without effect elsewhere.

    A guide that samples relaxed sites itself enters it around them.
    """
    return HardenMessenger() if surroundings().is_predicted else nullcontext()


def relaxed_in_prediction(fn: Callable) -> Callable:
    """Return a function inside of which `relax` relaxes, even in a prediction.

    A guide decorates with it what runs the model to learn which sites there are.
    """

    @functools.wraps(fn)
    def relaxed(*args: Any, **kwargs: Any) -> Any:
        with TrainingMessenger():
            return fn(*args, **kwargs)

    return relaxed


def _send(
    messenger: Messenger,
    msg: dict[str, Any],
    name: str,
    fn: Any,
    infer: dict[str, Any],
    value: Tensor | None = None,
) -> Tensor:
    """Sample another site at the place of a message.

    Like a sample statement there, but past the handlers inside of this one that choose,
    rename or count sites: they have let the message pass already.
    """
    own = _PYRO_STACK.index(messenger)
    inside = [x for x in _PYRO_STACK[own + 1 :] if not _goes_by_name(x)]
    infer = {**_markov(msg), **infer}
    stack = _PYRO_STACK[:own] + inside
    fresh = {"cond_indep_stack": (), "scale": 1.0, "mask": None, "done": False}
    fresh |= {"stop": False, "continuation": None, "is_observed": value is not None}
    other: Any = {**msg, **fresh}
    other |= {"name": name, "fn": fn, "value": value, "infer": dict(infer)}
    passed = []
    for handler in reversed(stack):
        passed.append(handler)
        handler._process_message(other)
        if other["stop"]:
            break
    default_process_message(other)
    for handler in reversed(passed):
        handler._postprocess_message(other)
    if other["continuation"] is not None:
        other["continuation"](other)
    return other["value"]


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


def _refuse_vectorized_chain(name: str) -> None:
    """Raise an error at a site of a chain whose steps only enumeration ties together.

    Pyro samples each inner step of such a chain twice, as the parent and as the child.
    """
    # By its name, for its module needs funsor.
    if any(type(x).__name__ == "VectorizedMarkovMessenger" for x in _PYRO_STACK):
        raise NotImplementedError(
            f"site {name!r} is in a vectorized_markov, whose sites can be enumerated "
            "and not relaxed. Loop over pyro.markov(range(size)), or mark the site "
            "with infer={'enumerate': 'parallel'}"
        )


def _goes_by_name(handler: Messenger) -> bool:
    renames = "autoname" in type(handler).__module__
    return renames or isinstance(handler, BlockMessenger | MarkovMessenger)


def _markov(msg: dict[str, Any]) -> dict[str, Any]:
    """What pyro.markov has noted of a site, which another in its place shares."""
    return {k: v for k, v in msg["infer"].items() if k.startswith("_markov")}


def _same(given: Any, value: Tensor) -> bool:
    """Whether a handler set the value that the site has anyway, as Predictive does."""
    given = plain(given)
    if not isinstance(given, Tensor) or given.numel() != value.numel():
        return False
    return torch.allclose(given.reshape(value.shape).to(value.dtype), value)
