"""Negative log-likelihoods that the paper reports for test sets, in nats an image.

Tables 1 and 2 for densities, figure 4 and its text for conditional networks
(arXiv:1611.00712).
"""

from typing import NamedTuple


class Cell(NamedTuple):
    """A cell of the paper's tables.

    Attributes:
        data: Data set.
        network: Name of the network.
        arity: Number of values of a node.
        particles: Number of particles of training.
    """

    data: str
    network: str
    arity: int
    particles: int


class Published(NamedTuple):
    """Values of a cell; None where the paper has none.

    Attributes:
        concrete: Of the Concrete relaxation.
        vimco: Of VIMCO, and for one particle of NVIL.
    """

    concrete: float | None = None
    vimco: float | None = None


# (Concrete, VIMCO) for 1, 5 and 50 particles.
_TABLE_1 = {
    ("mnist", "200H-784V"): ((107.3, 104.4), (104.9, 101.9), (104.3, 98.8)),
    ("mnist", "200H-200H-784V"): ((102.1, 92.9), (99.9, 91.7), (99.5, 90.7)),
    ("mnist", "200H~784V"): ((92.1, 93.8), (89.5, 91.4), (88.5, 89.3)),
    ("mnist", "200H~200H~784V"): ((87.9, 88.4), (86.3, 86.4), (85.7, 85.5)),
    ("omniglot", "200H-784V"): ((118.7, 115.7), (118.0, 113.5), (118.9, 113.0)),
    ("omniglot", "200H-200H-784V"): ((116.3, 109.2), (116.0, 107.5), (117.0, 108.1)),
    ("omniglot", "200H~784V"): ((108.4, 116.4), (107.5, 118.2), (108.1, 116.0)),
    ("omniglot", "200H~200H~784V"): ((105.9, 111.7), (105.8, 108.2), (106.8, 113.2)),
}
_FIGURE_4 = {
    ("mnist", "392V-240H-240H-392V"): ((58.5, 61.4), (54.3, 54.5), (53.4, 51.8)),
    ("mnist", "392V-240H-240H-240H-392V"): ((56.3, 59.7), (52.7, 53.5), (52.0, 50.2)),
}
# Concrete alone, for 2, 4 and 8 values of a node, each with 1, 5 and 50 particles.
_TABLE_2 = {
    ("mnist", "240H~784V"): (
        (91.9, 89.0, 88.4),
        (91.4, 89.4, 89.7),
        (92.5, 90.5, 90.5),
    ),
    ("mnist", "240H~240H~784V"): (
        (87.9, 86.6, 86.0),
        (87.4, 86.7, 86.7),
        (88.2, 87.4, 87.2),
    ),
    ("omniglot", "240H~784V"): (
        (108.0, 107.7, 109.0),
        (110.7, 110.5, 113.0),
        (119.61, 120.7, 121.7),
    ),
    ("omniglot", "240H~240H~784V"): (
        (106.6, 106.9, 108.7),
        (106.6, 108.3, 109.4),
        (111.3, 110.5, 111.1),
    ),
}
_PARTICLES = (1, 5, 50)


def _cells() -> dict[Cell, Published]:
    cells = {}
    for (data, network), pairs in (_TABLE_1 | _FIGURE_4).items():
        for particles, pair in zip(_PARTICLES, pairs, strict=True):
            cells[Cell(data, network, 2, particles)] = Published(*pair)
    for (data, network), values_by_arity in _TABLE_2.items():
        for arity, values in zip((2, 4, 8), values_by_arity, strict=True):
            for particles, value in zip(_PARTICLES, values, strict=True):
                cells[Cell(data, network, arity, particles)] = Published(value)
    three_layers = "392V-240H-240H-240H-392V"
    cells[Cell("mnist", three_layers, 4, 1)] = Published(55.4)
    cells[Cell("mnist", three_layers, 8, 1)] = Published(54.7)
    return cells


PUBLISHED = _cells()
