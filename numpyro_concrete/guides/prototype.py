"""What NumPyro's guides are shown of a model when they trace it for the first time.

Counterpart: ``pyro_concrete.guides.prototype``.
"""

import jax.numpy as jnp

from concrete_core.guides import Program
from numpyro_concrete.distributions import AbstractHard
from numpyro_concrete.guides.initialization import central_point
from numpyro_concrete.guides.sites import FIXED, ConstantSite, Message, is_relaxed
from numpyro_concrete.relaxation.finite_support import only_value
from numpyro_concrete.relaxation.site import is_discrete
from numpyro_concrete.relaxation.surroundings import PrototypeMessenger
from numpyro_concrete.relaxation.wrappers import leaf_of


class ContinuousMessenger(PrototypeMessenger):
    """Show the continuous sites of a model to NumPyro's guides, and no others.

    Enumerated sites get a value and are hidden, as are deterministic ones; so are
    plates inside of a scan, whose sites have them as a part of their shapes.

    Args:
        fn: The model.

    Raises:
        ValueError: At a discrete site that is neither relaxed, enumerated nor constant,
            and at a scaled site whose plate is hidden.
    """

    def __init__(self, fn: Program) -> None:
        super().__init__(fn)
        # The latent sites that have one value, by name.
        self.constant_sites: dict[str, ConstantSite] = {}
        self._visible_plates: set[str] = set()

    def __enter__(self) -> None:
        self._visible_plates = set()
        super().__enter__()

    def process_message(self, msg: Message) -> None:
        if msg["type"] == "plate":
            self._visible_plates.add(msg["name"])
        elif msg["type"] == "deterministic":
            msg["stop"] = True
        elif msg["type"] == "sample":
            self._drop_hidden_plates(msg)
            if not msg["is_observed"]:
                self._process_latent_site(msg)

    def _drop_hidden_plates(self, msg: Message) -> None:
        frames = msg["cond_indep_stack"]
        hidden_plates = [f.name for f in frames if f.name not in self._visible_plates]
        if hidden_plates and msg["scale"] is not None:
            raise ValueError(
                f"site {msg['name']!r} is scaled, and its plate {hidden_plates[0]!r} "
                "is hidden by block or a scan, so that the guide cannot know its "
                "subsample. Hide sites by name, block(model, hide=[...]), not plates"
            )
        msg["cond_indep_stack"] = [f for f in frames if f.name in self._visible_plates]

    def _process_latent_site(self, msg: Message) -> None:
        if is_discrete(msg["fn"]):
            self._hide_discrete_site(msg)
        elif is_relaxed(msg) and isinstance(leaf_of(msg["fn"]), AbstractHard):
            # One-hot samples have no bijection to the reals that could move them.
            msg["value"] = central_point(msg)
            msg["is_observed"] = True
            msg["infer"] = {**msg["infer"], FIXED: True}

    def _hide_discrete_site(self, msg: Message) -> None:
        msg["stop"] = True
        if msg["infer"].get("enumerate"):
            if msg["value"] is None:
                msg["value"] = msg["fn"].enumerate_support(expand=True)[0]
            return
        value = only_value(leaf_of(msg["fn"]))
        if value is None:
            raise ValueError(
                f"site {msg['name']!r} is discrete, and neither relaxed nor "
                "enumerated. Relax it, AutoConcrete(relax(model, temperature)), or "
                "mark it with infer={'enumerate': 'parallel'}"
            )
        self.constant_sites[msg["name"]] = ConstantSite.from_message(msg, value)
        msg["value"] = jnp.broadcast_to(value, msg["fn"].shape())
