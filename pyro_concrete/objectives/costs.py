"""Terms of an ELBO by the plates that they are in.

Elements of a plate are independent of each other. So the cost that a value is judged by
has no terms of other elements, which would be noise.

Counterpart: ``numpyro_concrete.objectives.costs``.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Costs:
    """The terms of an ELBO, each of the batch shape of its site.

    Example:
        >>> from types import SimpleNamespace
        >>> rows = SimpleNamespace(name="rows", dim=-1)
        >>> costs = Costs()
        >>> costs.add(torch.tensor([1.0, 2.0]), [rows])
        >>> costs.add(torch.tensor(10.0), [])
        >>> costs.total(), costs.of([rows])
        (tensor(13.), tensor([11., 12.]))

    Counterpart: :class:`numpyro_concrete.objectives.costs.Costs`.
    """

    def __init__(self) -> None:
        self._terms: list[tuple[dict[str, int], Tensor]] = []

    def add(self, term: Tensor, frames: Iterable[Any]) -> None:
        """Add a term that is in the plates of these frames."""
        self._terms.append((_axes(frames), term))

    def total(self) -> Tensor:
        """Return the sum of all terms."""
        return sum((term.sum() for _, term in self._terms), torch.zeros(()))

    def of(self, frames: Iterable[Any]) -> Tensor:
        """Return what elements of these plates cost: sums over all other plates.

        A term outside of a plate is part of the cost of each of its elements.
        """
        wanted = _axes(frames)
        total: Any = torch.zeros(())
        for axes, term in self._terms:
            dims = range(-term.dim(), 0)
            kept = {d for name, d in axes.items() if wanted.get(name) == d} & {*dims}
            dims = [d for d in dims if d not in kept]
            summed = term.sum(dims, keepdim=True) if dims else term
            longest = -min(kept, default=0)
            total = total + summed.reshape(summed.shape[term.dim() - longest :])
        return total


def _axes(frames: Iterable[Any]) -> dict[str, int]:
    """The axes of plates; a plate that is a loop has none."""
    return {frame.name: frame.dim for frame in frames if frame.dim is not None}
