"""What the handlers around a program ask of it: which of its sites run relaxed.

A program runs discrete inside of `harden` and in a prediction. While a trace is
replayed, as by an ELBO, each site follows the trace; and a handler that sets the value
of a relaxed site sets the discrete site with it.

Counterpart: ``numpyro_concrete.relaxation.surroundings``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer.autoguide.initialization import InitMessenger, init_to_sample
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.mask_messenger import MaskMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_concrete.internals import handle, is_scope
from pyro_concrete.relaxation.messages import Message, relaxed_name


@dataclass
class Guidance:
    """What the handlers around a program have for one of its sites.

    The handlers are those that replay a trace, such as an ELBO's, or that set values,
    such as `condition`.

    Attributes:
        has_trace: Whether a trace is replayed.
        relaxed: Message of the relaxed site in that trace, or None.
        has_latent: Whether the trace has the site itself as an unrelaxed latent.
        relaxed_value: The value that a handler gives to the relaxed site, or None.
        value: The value that a handler gives to the site itself, or None.
    """

    has_trace: bool = False
    relaxed: Message | None = None
    has_latent: bool = False
    relaxed_value: Tensor | None = None
    value: Tensor | None = None

    @property
    def leaves_discrete(self) -> bool:
        """Whether this site is to be discrete: a replayed trace does not have it.

        The site is a prediction then, in a program whose other sites are relaxed.
        """
        is_in_trace = self.relaxed is not None or self.has_latent
        return self.has_trace and not is_in_trace and self.relaxed_value is None


class TrainingMessenger(Messenger):
    """Run a program relaxed, even if handlers further out run a prediction."""


class GradientMessenger(Messenger):
    """Mark the runs of a hardened program from which a step of training is made.

    Such a run may take what an earlier one has found, as in relaxed training.
    """


def inside_of_training(handlers: Sequence[Messenger]) -> Sequence[Messenger]:
    """Return the handlers inside of the last `TrainingMessenger`, or all of them."""
    for index in reversed(range(len(handlers))):
        if isinstance(handlers[index], TrainingMessenger):
            return handlers[index + 1 :]
    return handlers


class Surroundings:
    """The handlers around a program, when it starts to run.

    Args:
        handlers: The handlers, outermost first.
        is_hardened: Whether `harden` is among them.
    """

    def __init__(self, handlers: Sequence[Messenger], is_hardened: bool) -> None:
        self._relevant = [x for x in reversed(handlers) if _is_relevant(x)]
        self.is_hardened = is_hardened
        self.is_enumerated = any(isinstance(x, EnumMessenger) for x in handlers)
        self.has_trace = any(_trace_of(x) is not None for x in self._relevant)
        self.is_predicted = _are_predictive(handlers) and not self.has_trace

    @property
    def runs_discrete(self) -> bool:
        """Whether all sites are to be discrete: under `harden` or in a prediction."""
        return self.is_hardened or self.is_predicted

    def guidance(self, msg: Message) -> Guidance:
        """Return what the handlers have for the site of a message.

        They know it by the name that handlers further in give to it, such as scopes.
        """
        guidance = Guidance()
        if not self._relevant:
            return guidance
        # Copies, which the scopes rename as they would rename the two sites.
        site = dict(msg)
        relaxed = {**msg, "name": relaxed_name(msg["name"])}
        for handler in self._relevant:
            if isinstance(handler, BlockMessenger):
                if handler.hide_fn(relaxed):  # ty: ignore[invalid-argument-type]
                    break
            elif isinstance(handler, ReplayMessenger):
                _read_trace(guidance, handler, site["name"], relaxed["name"])
            elif isinstance(handler, ConditionMessenger):
                guidance.relaxed_value = _value_of(
                    handler, relaxed["name"], guidance.relaxed_value
                )
                guidance.value = _value_of(handler, site["name"], guidance.value)
            else:
                handle(handler, site)
                handle(handler, relaxed)
        return guidance


def _are_predictive(handlers: Sequence[Messenger]) -> bool:
    """Whether handlers run a program only for its draws, as Pyro's predictives do."""
    if torch.is_grad_enabled():
        return False
    return any(_is_predictive(handler) for handler in handlers)


def _is_predictive(handler: Messenger) -> bool:
    """Whether a handler is one by which Pyro's predictives can be recognized.

    Predictive masks all sites, since it needs no densities; the documentation of
    `poutine.get_mask` has programs recognize it by that. WeighedPredictive needs
    densities: it draws a guide by `init_to_sample`, then conditions it on nothing.
    """
    if isinstance(handler, MaskMessenger):
        return handler.mask is False
    if isinstance(handler, ConditionMessenger):
        return not handler.data
    return isinstance(handler, InitMessenger) and handler.init_fn is init_to_sample


def _is_relevant(handler: Messenger) -> bool:
    """Whether a handler hides, sets or renames sites."""
    if isinstance(handler, ConditionMessenger):
        return bool(handler.data)
    if isinstance(handler, ReplayMessenger):
        return _trace_of(handler) is not None
    return is_scope(handler) or isinstance(handler, BlockMessenger)


def _trace_of(handler: Messenger) -> Trace | None:
    """The trace that a handler replays; one without nodes starts an enumeration."""
    if not isinstance(handler, ReplayMessenger):
        return None
    trace = handler.trace
    return trace if trace is not None and trace.nodes else None


def _read_trace(
    guidance: Guidance, handler: ReplayMessenger, name: str, relaxed: str
) -> None:
    trace = _trace_of(handler)
    assert trace is not None
    guidance.has_trace = True
    if relaxed in trace.nodes:
        guidance.relaxed = dict(trace.nodes[relaxed])
    site = trace.nodes.get(name)
    if site is not None and site["type"] == "sample" and not site["is_observed"]:
        guidance.has_latent = True


def _value_of(
    handler: ConditionMessenger, name: str, default: Tensor | None
) -> Tensor | None:
    if name not in handler.data:
        return default
    if isinstance(handler.data, Trace):
        return handler.data.nodes[name]["value"]
    value: Any = handler.data[name]
    return value
