"""The effect handlers behind relax, harden and config_relax.

Twin: ``numpyro_concrete.relaxation.handlers``.
"""

from typing import Any

import torch
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.markov_messenger import MarkovMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger

# A site beside the program's own is sent through the stack by hand: see _send.
from pyro.poutine.runtime import _PYRO_STACK, default_process_message
from torch import Tensor

from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.estimators import (
    AbstractEstimator,
    Estimator,
    Relaxed,
    check_estimator,
)
from pyro_concrete.relaxation.site import (
    LEFT_OUT,
    SUFFIX,
    Deterministic,
    Site,
    Sites,
    Temperature,
    Truncate,
    check_guide,
    check_names,
    check_point,
    check_sites,
    checked,
    hard_of,
    is_discrete,
    known,
    leaf_of,
    of_site,
    rebuilt,
    selected,
)
from pyro_concrete.soft_index import is_soft, plain
from pyro_concrete.soft_parameters import with_soft_value

# Auxiliary, or SVI would look for it among the latent sites of the model.
_AUXILIARY = {"_deterministic": True, "is_auxiliary": True}


class ConfigMessenger(Messenger):
    """The effect handler behind `config_relax`."""

    def __init__(self, mark: dict[str, Any] | bool) -> None:
        super().__init__()
        self.mark = mark

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        latent = not msg["is_observed"] and is_discrete(msg["fn"])
        if latent and not msg["infer"].get("enumerate"):
            msg["infer"].setdefault("relax", self.mark)


class RelaxMessenger(Messenger):
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
        check_estimator(self.estimator, scoring)
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
            check_names(self.sites, self._seen)
        return result

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
        name = msg["name"]
        site = self._site(msg)
        if len(site.values) < 2:
            return  # a constant
        check_guide(name, site.relaxed, _guide_of(self, name + SUFFIX))
        point = _send(self, msg, name + SUFFIX, site.relaxed, site.infer)
        check_point(name, point.shape, site.relaxed.shape(), _is_enumerated(self))
        if site.left_out is not None:
            fn = Deterministic(site.left_out, 0)
            _send(self, msg, name + LEFT_OUT, fn, _AUXILIARY, site.left_out)
        self._show(msg, *site.value(point))
        msg["infer"]["_relaxed"] = True

    def _site(self, msg: dict[str, Any]) -> Site:
        """How the site of a message is relaxed: by its own marks before the rest."""
        name, marks = msg["name"], msg["infer"].get("relax")
        marks = marks if isinstance(marks, dict) else {}
        temperature = marks.get("temperature", of_site(self.temperature, name))
        if temperature is None:
            raise ValueError(f"relax has no temperature for site {name!r}")
        truncate = marks.get("truncate", of_site(self.truncate, name))
        estimator = marks.get("estimator") or of_site(self.estimator, name) or Relaxed()
        check_estimator(estimator, self.scoring, name)
        self.used[name] = estimator
        return Site(name, msg["fn"], temperature, truncate, estimator, self.scoring)

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
        owner, seen, value = msg["infer"].get("_seen", (None, None, None))
        if owner is not self:
            return
        if msg["value"] is not seen and not _same(msg["value"], seen):
            raise ValueError(
                f"site {msg['name']!r} is relaxed, and a handler around relax sets it "
                "to another value. Put that handler inside, relax(condition(model, "
                f"data), ...), or set {msg['name'] + SUFFIX!r} in log space"
            )
        # Traces have seen the plain mean by now; the program gets the soft value.
        msg["value"] = value


class HardenMessenger(Messenger):
    """The effect handler behind `harden`."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if "_relaxed" in msg["infer"]:
            msg["stop"] = True  # its discrete site has been sampled already
            return
        if msg["is_observed"] or msg["value"] is not None:
            return
        name = msg["name"].removesuffix(SUFFIX)
        if name == msg["name"] or not isinstance(leaf_of(msg["fn"]), AbstractConcrete):
            return
        infer = msg["infer"]
        fn = hard_of(msg["fn"], infer)
        hard = _send(self, msg, name, fn, {"relax": False})
        leaf, values = leaf_of(msg["fn"]), infer.get("_values")
        if leaf._class_dims and values is not None:
            hard = hard[..., None] == values
        msg["value"] = leaf.vertex(hard)
        msg["stop"] = True


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
    inside = [x for x in _PYRO_STACK[own:] if not _goes_by_name(x)]
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


def _guide_of(messenger: Messenger, name: str) -> Any:
    """The distribution of a site in the trace that an ELBO replays.

    None if the trace does not have it; Ellipsis if there is no trace, or it is set.
    """
    around = _PYRO_STACK[: _PYRO_STACK.index(messenger)]
    given = (x.data for x in around if isinstance(x, ConditionMessenger))
    if any(isinstance(x, HardenMessenger) for x in around) or any(
        name in x for x in given
    ):
        return ...
    # A trace without nodes is the start of a search through discrete traces.
    traces = (x.trace for x in around if isinstance(x, ReplayMessenger))
    found: list[Any] = [x.nodes.get(name) for x in traces if x and x.nodes]
    if None in found:
        return None
    return found[-1].get("fn", ...) if found else ...


def _is_enumerated(messenger: Messenger) -> bool:
    """Whether sites of the program are enumerated in parallel."""
    around = _PYRO_STACK[: _PYRO_STACK.index(messenger)]
    return any(isinstance(x, EnumMessenger) for x in around)


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
