"""What the checks need to know of a model of the zoo, whichever host runs it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A discrete model that both hosts express under the same name.

    Attributes:
        name: Name of the model function in `on_pyro` and `on_numpyro`.
        data: Makes the arguments of the model: NumPy arrays, integers or None.
        size: Number of data, for ELBOs a datum.
        plates: Greatest number of nested plates.
        hosts: Hosts that can express it.
        enumerated: Sites that the model marks for enumeration.
        options: Keyword arguments of `relax` that the model needs.
        tractable: Whether a mean-field guide can be enumerated exactly.
        broadcasts: Whether the Pyro program runs inside of another plate, of particles.
        training: "particles" and "starts" of `benchmarks how_close_to_enumeration`,
            where its defaults do not do.
    """

    name: str
    data: Callable[[], tuple]
    size: int
    plates: int = 1
    hosts: tuple[str, ...] = ("pyro", "numpyro")
    enumerated: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    tractable: bool = True
    broadcasts: bool = True
    training: dict[str, int] = field(default_factory=dict)
