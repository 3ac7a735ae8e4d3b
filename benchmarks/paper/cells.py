"""The networks of the paper by their names, such as 200H~784V.

A name lists the layers from the top down: stochastic layers of `H` units and visible
layers of `V` pixels. Between two layers, `-` is a linear map and `~` is two layers of
tanh units of the size of the stochastic layer. A name that starts with a visible layer
is a conditional network: the upper half of an image is its input.
"""

import re
from dataclasses import dataclass
from typing import Self

# Temperatures of the model and the guide by the number of values of a node
# (arXiv:1611.00712, appendix C.4).
TEMPERATURES = {2: (1 / 2, 2 / 3), 4: (2 / 3, 1.0), 8: (2 / 5, 2 / 3)}
PIXELS = 784


@dataclass(frozen=True)
class Network:
    """The layers of a network and how they are connected.

    Attributes:
        name: Name in the paper's notation.
        units: Units of the stochastic layers, from the top down.
        num_outputs: Number of pixels that the network explains.
        num_inputs: Number of pixels that it is given, 0 for a density.
        is_linear: Whether layers are connected by linear maps.
        arity: Number of values of a node: 2, 4 or 8. A node of 4 or 8 values stands
            for 2 or 3 units.
    """

    name: str
    units: tuple[int, ...]
    num_outputs: int
    num_inputs: int
    is_linear: bool
    arity: int = 2

    @classmethod
    def parse(cls, name: str, arity: int = 2) -> Self:
        """Return the network of a name.

        Raises:
            ValueError: If the name or the arity is none of the paper's kinds.
        """
        layers = re.split("[-~]", name)
        is_conditional = layers[0].endswith("V")
        hidden = layers[1:-1] if is_conditional else layers[:-1]
        well_formed = layers[-1].endswith("V") and all(x.endswith("H") for x in hidden)
        mixed = "-" in name and "~" in name
        if not (hidden and well_formed) or mixed:
            raise ValueError(
                f"{name!r} is not a network. Write layers from the top down, such as "
                "200H~784V, or 392V-240H-240H-392V, with one kind of connection"
            )
        if arity not in TEMPERATURES:
            raise ValueError(f"arity is {arity}. It must be one of {[*TEMPERATURES]}")
        return cls(
            name=name,
            units=tuple(int(x[:-1]) for x in hidden),
            num_outputs=int(layers[-1][:-1]),
            num_inputs=int(layers[0][:-1]) if is_conditional else 0,
            is_linear="~" not in name,
            arity=arity,
        )

    @property
    def is_conditional(self) -> bool:
        """Whether it is given a part of the image."""
        return self.num_inputs > 0

    @property
    def temperatures(self) -> tuple[float, float]:
        """The paper's temperatures of the model and the guide."""
        model_temperature, guide_temperature = TEMPERATURES[self.arity]
        if self.is_conditional:  # one program is both, so both have one temperature
            return guide_temperature, guide_temperature
        return model_temperature, guide_temperature
