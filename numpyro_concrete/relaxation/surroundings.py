"""What the handlers around a program ask of it: which of its sites run relaxed.

A program runs discrete inside of `harden` and in a prediction. While a trace is
replayed, as by an ELBO, each site follows the trace; and a handler that sets the value
of a relaxed site sets the discrete site with it.

Counterpart: ``pyro_concrete.relaxation.surroundings``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Delta
from numpyro.handlers import block, condition, do, mask, replay, scope, substitute
from numpyro.primitives import Messenger

from numpyro_concrete.internals import is_enumeration, moves_in_unconstrained_space
from numpyro_concrete.relaxation.messages import Message, relaxed_name

# Handlers that hide, set or rename sites.
_RELEVANT = block | condition | do | replay | scope | substitute


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
        needs_density: Whether a handler moves the relaxed site by its density.
    """

    has_trace: bool = False
    relaxed: Message | None = None
    has_latent: bool = False
    relaxed_value: Array | None = None
    value: Array | None = None
    needs_density: bool = field(default=False, init=False)

    @property
    def leaves_discrete(self) -> bool:
        """Whether this site is to be discrete: a replayed trace does not have it.

        The site is a prediction then, in a program whose other sites are relaxed.
        """
        is_in_trace = self.relaxed is not None or self.has_latent
        return self.has_trace and not is_in_trace and self.relaxed_value is None


class TrainingMessenger(Messenger):
    """Run a program relaxed, even if handlers further out run a prediction."""


class PrototypeMessenger(Messenger):
    """Show a model to `AutoConcrete`, which does not move the relaxed sites."""


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
        self._relevant = [x for x in reversed(handlers) if isinstance(x, _RELEVANT)]
        self.is_hardened = is_hardened
        self.is_enumerated = any(is_enumeration(x) for x in handlers)
        self.traces = [x.trace for x in handlers if isinstance(x, replay)]
        self.has_trace = bool(self.traces)
        self.is_predicted = _are_predictive(handlers) and not self.has_trace
        self.is_prototype = any(isinstance(x, PrototypeMessenger) for x in handlers)

    @property
    def runs_discrete(self) -> bool:
        """Whether all sites are to be discrete: under `harden` or in a prediction."""
        return self.is_hardened or self.is_predicted

    def guidance(self, msg: Message) -> Guidance:
        """Return what the handlers have for the site of a message.

        They know it by the name that handlers further in give to it, such as scopes.
        """
        guidance = Guidance()
        # Copies, which the scopes rename as they would rename the two sites.
        site = dict(msg)
        relaxed = {**msg, "name": relaxed_name(msg["name"])}
        for handler in self._relevant:
            if isinstance(handler, block):
                if handler.hide_fn(relaxed):
                    break
            elif isinstance(handler, replay):
                _read_trace(guidance, handler.trace, site["name"], relaxed["name"])
            elif isinstance(handler, scope):
                handler.process_message(site)
                handler.process_message(relaxed)
            else:
                self._read_values(guidance, handler, site, relaxed)
        return guidance

    def _read_values(
        self,
        guidance: Guidance,
        handler: condition | do | substitute,
        site: Message,
        relaxed: Message,
    ) -> None:
        if not self.is_prototype:
            is_moved = moves_in_unconstrained_space(handler, relaxed["name"])
            guidance.needs_density = guidance.needs_density or is_moved
        data: dict[str, Any] = handler.data or {}
        guidance.relaxed_value = data.get(relaxed["name"], guidance.relaxed_value)
        guidance.value = data.get(site["name"], guidance.value)
        function = self._function_of(handler)
        if function is None:
            return
        relaxed_value = _call_for_relaxed(function, relaxed)
        value = function(site)
        if relaxed_value is not None:
            guidance.relaxed_value = relaxed_value
        if value is not None:
            guidance.value = value

    def _function_of(self, handler: condition | do | substitute) -> Callable | None:
        """The function by which a handler gives values to sites, or None."""
        if isinstance(handler, condition):
            return handler.condition_fn
        # Functions of `substitute` give values in Predictive. Elsewhere they search for
        # a point to start from.
        if isinstance(handler, substitute) and self.is_predicted:
            return handler.substitute_fn
        return None


def _call_for_relaxed(function: Callable, relaxed: Message) -> Array | None:
    """Return the value that a handler's function gives to a relaxed site.

    The body of a scan looks up its step's value by the shape that the site has: that of
    the discrete site, or, where that does not fit, one axis more for the classes.
    """
    try:
        return function(relaxed)
    except RuntimeError:
        classes = Delta(jnp.zeros((*relaxed["fn"].shape(), 1)))
        return function({**relaxed, "fn": classes})


def _are_predictive(handlers: Sequence[Messenger]) -> bool:
    """Whether handlers run a program only for its draws, as NumPyro's Predictive does.

    Predictive masks all sites, since it needs no densities; the documentation of
    `get_mask` has programs recognize it by that.
    """
    return any(isinstance(x, mask) and x.mask is False for x in handlers)


def _read_trace(
    guidance: Guidance, trace: dict[str, Message], name: str, relaxed: str
) -> None:
    guidance.has_trace = True
    if relaxed in trace:
        guidance.relaxed = trace[relaxed]
    site = trace.get(name)
    if site is not None and site["type"] == "sample" and not site["is_observed"]:
        guidance.has_latent = True
