"""What the handlers around a program ask of it: which of its sites run relaxed.

A program runs discrete inside of `harden` and in a prediction. While a trace is
replayed, as by an ELBO, a site follows the trace; and a handler that sets the point of
a relaxed site sets the discrete site with it.

Counterpart: ``pyro_concrete.relaxation.surroundings``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Delta
from numpyro.handlers import block, condition, do, mask, replay, scope, substitute
from numpyro.primitives import Messenger

from numpyro_concrete.relaxation.site import SUFFIX

Message = dict[str, Any]

# The module of NumPyro's enumeration, by its name, for it needs funsor.
_ENUMERATION = "numpyro.contrib.funsor.enum_messenger"


@dataclass
class Guidance:
    """What the handlers around a program have for one of its sites.

    Attributes:
        has_trace: Whether a trace is replayed.
        relaxed: Message of the relaxed site in that trace, or None.
        has_latent: Whether the trace has the site itself as an unrelaxed latent.
        point: The value that a handler gives to the relaxed site, or None.
        value: The value that a handler gives to the site itself, or None.
    """

    has_trace: bool = False
    relaxed: Message | None = None
    has_latent: bool = False
    point: Array | None = None
    value: Array | None = None

    @property
    def leaves_discrete(self) -> bool:
        """Whether a replayed trace does not know the site: the site is predicted."""
        is_known = self.relaxed is not None or self.has_latent
        return self.has_trace and not is_known and self.point is None


class TrainingMessenger(Messenger):
    """Run a program relaxed, even if handlers further out run a prediction."""


def inside_of_training(handlers: Sequence[Messenger]) -> Sequence[Messenger]:
    """Return the handlers inside of the last `TrainingMessenger`, or all of them."""
    places = [i for i, x in enumerate(handlers) if isinstance(x, TrainingMessenger)]
    return handlers[places[-1] + 1 :] if places else handlers


class Surroundings:
    """The handlers around a program, when it starts to run.

    Args:
        handlers: The handlers, outermost first.
        is_hardened: Whether `harden` is among them.
    """

    def __init__(self, handlers: Sequence[Messenger], is_hardened: bool) -> None:
        relevant = block | condition | do | replay | scope | substitute
        inner = list(reversed(handlers))
        self._relevant = [x for x in inner if isinstance(x, relevant)]
        self.is_hardened = is_hardened
        modules = {type(x).__module__ for x in handlers}
        self.is_enumerated = _ENUMERATION in modules
        self.has_trace = any(isinstance(x, replay) for x in handlers)
        self.is_predicted = _is_masked(inner) and not self.has_trace

    @property
    def runs_discrete(self) -> bool:
        """Whether all sites of the program are to be discrete."""
        return self.is_hardened or self.is_predicted

    def guidance(self, msg: Message) -> Guidance:
        """Return what the handlers have for the site of a message.

        They know it by the name that handlers further in give to it, such as scopes.
        """
        guidance = Guidance()
        site = dict(msg)
        relaxed = {**msg, "name": msg["name"] + SUFFIX}
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
        self, guidance: Guidance, handler: Any, site: Message, relaxed: Message
    ) -> None:
        data = handler.data or {}
        guidance.point = data.get(relaxed["name"], guidance.point)
        guidance.value = data.get(site["name"], guidance.value)
        if isinstance(handler, condition) and handler.condition_fn is not None:
            point = _point(handler.condition_fn, relaxed)
            value = handler.condition_fn(site)
        elif isinstance(handler, substitute) and handler.substitute_fn is not None:
            # Only Predictive is known to give values: others search for a start.
            if not self.is_predicted:
                return
            point = _point(handler.substitute_fn, relaxed)
            value = handler.substitute_fn(site)
        else:
            return
        guidance.point = guidance.point if point is None else point
        guidance.value = guidance.value if value is None else value


def _point(function: Callable, relaxed: Message) -> Any:
    """Return what a handler's function has for a relaxed site, of a message about it.

    The body of a scan looks up its step's value by the shape that the site has: that of
    the discrete site, or, where that does not fit, one axis more for the classes.
    """
    try:
        return function(relaxed)
    except RuntimeError:
        classes = Delta(jnp.zeros((*relaxed["fn"].shape(), 1)))
        return function({**relaxed, "fn": classes})


def _is_masked(handlers: Sequence[Messenger]) -> bool:
    """Whether nobody asks for densities, as in NumPyro's Predictive.

    NumPyro's documentation of `get_mask` has programs recognize it by this.
    """
    for handler in handlers:
        if isinstance(handler, mask) and handler.mask is False:
            return True
    return False


def _read_trace(guidance: Guidance, trace: Any, name: str, relaxed: str) -> None:
    guidance.has_trace = True
    if relaxed in trace:
        guidance.relaxed = trace[relaxed]
    site = trace.get(name)
    if site is not None and site["type"] == "sample" and not site["is_observed"]:
        guidance.has_latent = True
