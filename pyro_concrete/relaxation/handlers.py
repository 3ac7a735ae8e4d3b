"""The effect handlers behind relax, harden and config_relax.

The life of a sample statement ``z = pyro.sample("z", Categorical(p))`` in a program of
`relax`: its message reaches `RelaxMessenger`, after the handlers inside of the program
and before those around it. The handler asks its `Surroundings` whether the site is to
run relaxed, and makes a `Site` of its distribution and its `SiteSettings`.

1. It sends a message of its own, ``z_relaxed``, to the handlers around: traces record
   it, guides replay it, plates expand it. Its value is a sample in log space.
2. It turns the message of ``z`` into a deterministic site with the mean of the relaxed
   value, which goes on to the handlers around (`RelaxMessenger._show`).
3. When these are done, it puts the soft value in place of the mean, which the statement
   returns to the program (`RelaxMessenger._pyro_post_sample`).

A site whose support is truncated also sends ``z_truncated_mass``, a deterministic site
with the truncated probability.

In `harden` and in predictions it leaves the site discrete instead
(`RelaxMessenger._keep_discrete`). `HardenMessenger` goes the other way: a message
``z_relaxed`` comes in, it sends ``z`` with the discrete distribution to the handlers
around, and returns a one-hot point of log space.

Counterpart: ``numpyro_concrete.relaxation.handlers``.
"""

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.markov_messenger import MarkovMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.internals import (
    DETERMINISTIC,
    active_handlers,
    is_autoname,
    is_deterministic,
    is_vectorized_markov,
    markov_notes,
    send,
)
from pyro_concrete.relaxation.checks import check_guide, check_hardened, check_shape
from pyro_concrete.relaxation.messages import (
    RELAX_RECORD,
    AnyDistribution,
    Message,
    Program,
    ReturnedValue,
    discrete_name,
    record_of,
    relaxed_name,
    truncated_mass_name,
)
from pyro_concrete.relaxation.settings import Settings
from pyro_concrete.relaxation.site import (
    Deterministic,
    Site,
    SiteSettings,
    backend_relaxation_of,
    can_relax,
    discrete_distribution,
    discrete_value,
    log_space_vertex,
    resolve_soft_parameters,
)
from pyro_concrete.relaxation.surroundings import (
    Guidance,
    Surroundings,
    TrainingMessenger,
    inside_of_training,
)
from pyro_concrete.relaxation.wrappers import leaf_of, with_leaf
from pyro_concrete.soft_index import is_soft, plain
from pyro_concrete.soft_index.parameters import with_soft_value

# Auxiliary, or SVI would look for the sites among the latent sites of the model.
_AUXILIARY = {**DETERMINISTIC, "is_auxiliary": True}


class ProgramMessenger(Messenger):
    """A handler that, applied to an nn.Module, returns an nn.Module.

    So the parameters of the module are found.
    """

    def __call__(self, fn: Program) -> Any:
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
        # Of these handlers, only that of `relax` can have a parameter of its own.
        if isinstance(handler, RelaxMessenger):
            temperature = handler.settings.temperature
            if isinstance(temperature, torch.nn.Parameter):
                self.temperature = temperature

    def forward(self, *args: object, **kwargs: object) -> Any:
        """Run the module."""
        with self.handler:
            return self.fn(*args, **kwargs)


class SurroundedMessenger(ProgramMessenger):
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


class ConfigMessenger(ProgramMessenger):
    """The effect handler behind `config_relax`."""

    def __init__(self, site_settings: dict[str, Any] | bool) -> None:
        super().__init__()
        self.site_settings = site_settings

    def _pyro_sample(self, msg: Message) -> None:
        is_latent = not msg["is_observed"] and can_relax(msg["fn"])
        if is_latent and not msg["infer"].get("enumerate"):
            msg["infer"].setdefault("relax", self.site_settings)


class RelaxMessenger(SurroundedMessenger):
    """The effect handler behind `relax`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        # Names of the sample sites of the run.
        self._names: set[str] = set()

    def __enter__(self) -> "RelaxMessenger":
        self._names = set()
        super().__enter__()
        return self

    def __exit__(self, error: type[BaseException] | None, *details: Any) -> Any:
        result = super().__exit__(error, *details)
        if error is None:
            self.settings.check_names(self._names)
        return result

    def _pyro_sample(self, msg: Message) -> None:
        self._names.add(msg["name"])
        # Handlers around compute with plain masks and scales. A soft mask goes into the
        # distribution, which averages the score over its values. A score is linear in
        # the scale, so that its mean is enough.
        if is_soft(msg["mask"]):
            msg["fn"] = msg["fn"].mask(msg["mask"])
            msg["mask"] = None
        msg["scale"] = plain(msg["scale"])
        msg["fn"] = resolve_soft_parameters(msg["fn"], msg["name"])
        if is_soft(msg["value"]):
            self._observe(msg)
            return
        if not self.settings.should_relax(msg):
            return
        guidance = self.surroundings.guidance(msg)
        # The first is about the whole program, the second about this site.
        if self.surroundings.runs_discrete or guidance.leaves_discrete:
            self._keep_discrete(msg, guidance)
        else:
            self._relax(msg, guidance)

    def _relax(self, msg: Message, guidance: Guidance) -> None:
        """Sample the relaxed site, and make a deterministic site of the message."""
        name = msg["name"]
        _check_chain(name)
        site = Site(name, msg["fn"], self.settings.for_site(msg))
        if site.is_constant:
            return
        check_guide(name, site.relaxed, guidance)
        sample = _send_beside(
            self, msg, name=relaxed_name(name), fn=site.relaxed, infer=site.infer
        )
        check_shape(
            name,
            shape=sample.shape,
            expected=site.relaxed.shape(),
            is_enumerated=self.surroundings.is_enumerated,
        )
        if site.truncated_mass is not None:
            _send_beside(
                self,
                msg,
                name=truncated_mass_name(name),
                fn=Deterministic(site.truncated_mass, msg["fn"].event_dim),
                infer=_AUXILIARY,
                value=site.truncated_mass,
            )
        self._show(msg, site.value(sample))

    def _keep_discrete(self, msg: Message, guidance: Guidance) -> None:
        """Let the site be sampled from the discrete distribution that it stands for."""
        check_hardened(msg["name"], guidance)
        # Handlers around this one may relax sites, too.
        msg["infer"]["relax"] = False
        truncate = self.settings.truncation(msg)
        is_native = backend_relaxation_of(leaf_of(msg["fn"])) is not None
        if truncate is None and not is_native and guidance.relaxed_value is None:
            return
        # The temperature is unused: only `site.discrete` is taken.
        site = Site(
            msg["name"], msg["fn"], SiteSettings(temperature=1.0, truncate=truncate)
        )
        msg["fn"] = site.discrete
        if guidance.relaxed_value is not None:
            msg["value"] = site.discrete_value(guidance.relaxed_value)
            # Samples of a relaxed model hold z's mean, which is none of z's values;
            # Predictive would set z to it.
            self._return(msg, ReturnedValue(handler=self, value=msg["value"]))

    def _observe(self, msg: Message) -> None:
        """Show the mean of a soft observation, and score the site for each value."""
        name = msg["name"]
        value = msg["value"]
        if is_deterministic(msg):
            self._show(msg, value)
            return
        msg["fn"] = with_leaf(msg["fn"], lambda fn: with_soft_value(fn, value, name))
        msg["value"] = mean = plain(value)
        self._return(msg, ReturnedValue(handler=self, value=value, expected=mean))

    def _show(self, msg: Message, value: Tensor) -> None:
        """Make a site deterministic: handlers get the mean, the program the value."""
        mean = plain(value)
        msg["fn"] = fn = Deterministic(mean, msg["fn"].event_dim)
        msg["value"] = mean
        msg.update(fn.scores())
        msg["is_observed"] = True
        msg["infer"] = {**markov_notes(msg["infer"]), **_AUXILIARY}
        self._return(msg, ReturnedValue(handler=self, value=value, expected=mean))

    def _return(self, msg: Message, returned: ReturnedValue) -> None:
        """Note the value that `_pyro_post_sample` puts into the message."""
        record = replace(record_of(msg), returned=returned)
        msg["infer"] = {**msg["infer"], RELAX_RECORD: record}

    def _pyro_post_sample(self, msg: Message) -> None:
        returned = record_of(msg).returned
        if returned is None or returned.handler is not self:
            return
        expected = returned.expected
        if expected is not None and not _is_same(msg["value"], expected):
            name = msg["name"].removesuffix("__CF")  # which Pyro's `do` appends
            raise ValueError(
                f"site {name!r} is relaxed, and a handler around relax sets it to "
                "another value. Put that handler inside, relax(condition(model, data), "
                f"...), or set {relaxed_name(name)!r} in log space"
            )
        # Traces have recorded the mean by now.
        msg["value"] = returned.value


class HardenMessenger(SurroundedMessenger):
    """The effect handler behind `harden`."""

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"] or msg["value"] is not None:
            return
        name = discrete_name(msg["name"])
        leaf = leaf_of(msg["fn"])
        if name == msg["name"] or not isinstance(leaf, AbstractConcrete):
            return
        guidance = self.surroundings.guidance({**msg, "name": name})
        check_hardened(name, guidance)
        record = record_of(msg)
        value = None
        if guidance.relaxed_value is not None:
            value = discrete_value(leaf, record, guidance.relaxed_value)
        value = _send_beside(
            self,
            msg,
            name=name,
            fn=discrete_distribution(msg["fn"], record),
            infer={"relax": False},
            value=value,
        )
        msg["value"] = log_space_vertex(leaf, record, value)
        msg["stop"] = True


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


def hardened_in_prediction() -> AbstractContextManager:
    """Return `harden` in a prediction, and a context without effect elsewhere.

    A guide that samples relaxed sites itself enters it around them.
    """
    return HardenMessenger() if current_surroundings().is_predicted else nullcontext()


def relaxed_in_prediction(fn: Program) -> Program:
    """Return a function inside of which `relax` relaxes, even in a prediction.

    A guide decorates with it what runs the model to learn which sites there are.
    """

    @functools.wraps(fn)
    def relaxed(*args: object, **kwargs: object) -> Any:
        with TrainingMessenger():
            return fn(*args, **kwargs)

    return relaxed


def _send_beside(
    messenger: Messenger,
    msg: Message,
    *,
    name: str,
    fn: AnyDistribution,
    infer: dict[str, Any],
    value: Tensor | None = None,
) -> Tensor:
    """Sample a second site at the place of a message, and return its value.

    It is like a sample statement at the place of that of the message, which the
    handlers inside of the messenger get first: plates in the program expand and scale
    the second site, too. Those that choose, rename or count sites are left out: they
    have let the message pass already, and would do so twice.
    """
    handlers = active_handlers()
    index = handlers.index(messenger)
    inner = [x for x in handlers[index + 1 :] if not _goes_by_name(x)]
    second_site: Message = {
        **msg,
        "name": name,
        "fn": fn,
        "value": value,
        "is_observed": value is not None,
        "infer": {**markov_notes(msg["infer"]), **infer},
        # As at the beginning of a statement, before any handler has acted.
        "cond_indep_stack": (),
        "scale": 1.0,
        "mask": None,
        "done": False,
        "stop": False,
        "continuation": None,
    }
    send(second_site, handlers[:index] + inner)
    sample: Any = second_site["value"]
    return sample


def _goes_by_name(handler: Messenger) -> bool:
    """Whether a handler chooses, renames or counts sites."""
    if isinstance(handler, BlockMessenger | MarkovMessenger):
        return True
    return is_autoname(handler)


def _check_chain(name: str) -> None:
    """Raise an error at a site of a chain whose steps only enumeration ties together.

    Pyro samples each inner step of such a chain twice, as the parent and as the child.
    """
    if any(is_vectorized_markov(handler) for handler in active_handlers()):
        raise NotImplementedError(
            f"site {name!r} is in a vectorized_markov, whose sites can be enumerated "
            "and not relaxed. Loop over pyro.markov(range(size)), or mark the site "
            "with infer={'enumerate': 'parallel'}"
        )


def _is_same(value: Any, expected: Tensor) -> bool:
    """Whether the value of a site is the expected one, which Predictive may set."""
    if value is expected:
        return True
    value = plain(value)
    if not isinstance(value, Tensor) or value.numel() != expected.numel():
        return False
    return torch.allclose(value.reshape(expected.shape).to(expected.dtype), expected)
