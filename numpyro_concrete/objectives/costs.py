"""Terms of an ELBO by the plates that they are in.

Elements of a plate are independent of each other. So the cost that a value is judged by
has no terms of other elements, which would be noise.

Counterpart: ``pyro_concrete.objectives.costs``.
"""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jax import Array


class Costs:
    """The terms of an ELBO, each of the batch shape of its site.

    Example:
        >>> from types import SimpleNamespace
        >>> rows = SimpleNamespace(name="rows", dim=-1)
        >>> costs = Costs()
        >>> costs.add(jnp.array([1.0, 2.0]), [rows])
        >>> costs.add(jnp.array(10.0), [])
        >>> costs.total(), costs.of([rows])
        (Array(13., dtype=float...), Array([11., 12.], dtype=float...))

    Counterpart: :class:`pyro_concrete.objectives.costs.Costs`.
    """

    def __init__(self) -> None:
        self._terms: list[tuple[dict[str, int], Array]] = []

    def add(self, term: Array, frames: Iterable[Any]) -> None:
        """Add a term that is in the plates of these frames."""
        self._terms.append((_axes(frames), term))

    def total(self) -> Array:
        """Return the sum of all terms."""
        return sum((jnp.sum(term) for _, term in self._terms), jnp.zeros(()))

    def of(self, frames: Iterable[Any]) -> Array:
        """Return what elements of these plates cost: sums over all other plates.

        A term outside of a plate is part of the cost of each of its elements.
        """
        wanted = _axes(frames)
        total: Any = jnp.zeros(())
        for axes, term in self._terms:
            every = range(-jnp.ndim(term), 0)
            kept = {x for name, x in axes.items() if wanted.get(name) == x} & {*every}
            summed = term.sum(tuple(x for x in every if x not in kept), keepdims=True)
            longest = -min(kept, default=0)
            total = total + summed.reshape(summed.shape[jnp.ndim(term) - longest :])
        return total


def _axes(frames: Iterable[Any]) -> dict[str, int]:
    """The axes of plates."""
    return {frame.name: frame.dim for frame in frames}
