"""Elements: which element of which site each position of a draw is.

Equal elements are one draw, and others are independent. A draw that was merged of
several, such as the draw of a sum, is an element of its own. It remembers the elements
that it was made of, its origins: values that share some of these are dependent, and
their joint distribution is not known.

Counterpart: ``numpyro_concrete.soft_index.algebra``.
"""

import itertools
import math
import secrets
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from pyro_concrete.internals import Shape, untraced
from pyro_concrete.soft_index.trees import over_support

# The number of a constant, which no draw has. A draw of probability one has a number of
# its own, as it keeps its gradient.
CERTAIN = -1
_BITS_OF_AN_ELEMENT = 32
# Pickled elements keep their numbers: two processes do not start with the same. Beside
# the sign and the element an int64 has 31 bits, of which one is left to count on.
_NEXT_SITE = itertools.count(secrets.randbits(30))
# Each deferred step is a call in a call, and Python's recursion limit is finite.
_MOST_DEFERRED = 32


class _Deferred:
    """A tensor that is computed when it is first needed.

    Args:
        compute: Returns the tensor.
        operands: Deferred tensors that it depends on.
    """

    __slots__ = ("_compute", "_tensor", "depth")

    def __init__(
        self, compute: Callable[[], Tensor], operands: Iterable["_Deferred"] = ()
    ) -> None:
        self._compute = compute
        self._tensor: Tensor | None = None
        self.depth = 1 + max((operand.depth for operand in operands), default=0)
        if self.depth > _MOST_DEFERRED:
            self.tensor()

    def tensor(self) -> Tensor:
        """Return the tensor."""
        if self._tensor is None:
            with untraced():
                self._tensor = self._compute()
            self.depth = 0
        return self._tensor


class Elements:
    """Which element of which site each position of a draw is.

    Numbers are computed when two values meet that may share elements, which is rare.

    Args:
        numbers: One number for each position, equal at equal elements.
        site_numbers: Numbers of the relaxed values that they may belong to.
        origins: Numbers of the elements that each position was made of, on a leading
            dimension, or None where every position is an element of a site.
        origin_site_numbers: Numbers of the relaxed values that these may belong to.
    """

    __slots__ = ("_numbers", "_origins", "origin_site_numbers", "site_numbers")

    def __init__(
        self,
        numbers: _Deferred,
        site_numbers: frozenset[int],
        origins: _Deferred | None = None,
        origin_site_numbers: frozenset[int] = frozenset(),
    ) -> None:
        self._numbers = numbers
        self._origins = origins
        self.site_numbers = site_numbers
        if origins is None:
            origin_site_numbers = site_numbers
        self.origin_site_numbers = origin_site_numbers

    @classmethod
    def of_new_site(cls, probabilities: Tensor) -> "Elements":
        """Return the elements of a value that is like no other.

        Shapes:
            probabilities: (support, *positions).
        """
        return cls(*_new_numbers(probabilities))

    @classmethod
    def of_a_constant(cls) -> "Elements":
        """Return the element that stands for whatever is certain."""
        return cls(_Deferred(lambda: torch.tensor(CERTAIN)), frozenset())

    @classmethod
    def merged(cls, probabilities: Tensor, parts: Sequence["Elements"]) -> "Elements":
        """Return new elements that are made of others.

        Args:
            probabilities: Those of the merged draw, (support, *positions), with the
                positions of the parts.
            parts: Elements whose positions line up from the right.
        """
        numbers, site_numbers = _new_numbers(probabilities)

        def origins() -> Tensor:
            rows = [part.origins() for part in parts]
            rank = max(row.dim() for row in rows) - 1
            rows = [_with_rank(row, rank) for row in rows]
            shape = torch.broadcast_shapes(*(row.shape[1:] for row in rows))
            return torch.cat([row.expand(-1, *shape) for row in rows])

        return cls(
            numbers=numbers,
            site_numbers=site_numbers,
            origins=_Deferred(origins, [part.deferred_origins for part in parts]),
            origin_site_numbers=frozenset().union(
                *(part.origin_site_numbers for part in parts)
            ),
        )

    @classmethod
    def placed(
        cls,
        place: Callable[..., Tensor],
        parts: Sequence["Elements"],
        shapes: Sequence[Shape],
        site_numbers: frozenset[int],
    ) -> "Elements":
        """Return elements that a function places among those of several tensors.

        Args:
            place: Function of the numbers of each tensor's elements.
            parts: Elements of each tensor.
            shapes: Shape of each tensor.
            site_numbers: Numbers of the relaxed values that the elements may belong to.
        """

        def numbers() -> Tensor:
            pairs = zip(parts, shapes, strict=True)
            return place(*(part.numbers().expand(tuple(s)) for part, s in pairs))

        deferred = _Deferred(numbers, [part.deferred_numbers for part in parts])
        if not any(part.are_merged for part in parts):
            return cls(deferred, site_numbers)

        def origins() -> Tensor:
            rows = [part.origins() for part in parts]
            count = max(map(len, rows))
            pairs = zip(rows, shapes, strict=True)
            return over_support(place)(*(_padded(row, count, s) for row, s in pairs))

        return cls(
            numbers=deferred,
            site_numbers=site_numbers,
            origins=_Deferred(origins, [part.deferred_origins for part in parts]),
            origin_site_numbers=frozenset().union(
                *(part.origin_site_numbers for part in parts)
            ),
        )

    @property
    def are_merged(self) -> bool:
        """Whether some may be made of others."""
        return self._origins is not None

    @property
    def deferred_numbers(self) -> _Deferred:
        """The numbers, which may not be computed yet."""
        return self._numbers

    @property
    def deferred_origins(self) -> _Deferred:
        """The origins, or the numbers that they are computed from."""
        return self._origins or self._numbers

    def numbers(self) -> Int[Tensor, "*positions"]:
        """Return one number for each position."""
        return self._numbers.tensor()

    def origins(self) -> Int[Tensor, "origins *positions"]:  # noqa: F821
        """Return the numbers of the elements that each position was made of."""
        if self._origins is None:
            return self.numbers().unsqueeze(0)
        return self._origins.tensor()

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Elements":
        """Return the elements after their positions were moved."""
        numbers = _Deferred(lambda: move(self.numbers()), [self._numbers])
        if self._origins is None:
            return Elements(numbers, self.site_numbers)
        origins = _Deferred(lambda: over_support(move)(self.origins()), [self._origins])
        return Elements(numbers, self.site_numbers, origins, self.origin_site_numbers)

    def with_origins(self, transform: Callable[[Tensor], Tensor]) -> "Elements":
        """Return the elements with other origins, which a function finds from these."""
        origins = _Deferred(lambda: transform(self.origins()), [self.deferred_origins])
        return Elements(
            self._numbers, self.site_numbers, origins, self.origin_site_numbers
        )

    def at(self, position: int, shape: Shape) -> "Elements":
        """Return the element at one position of a shape, counted in row-major order."""

        def of_position(numbers: Tensor) -> Tensor:
            return numbers.expand(tuple(shape)).reshape(-1)[position]

        return self.moved(of_position)

    def __reduce__(self) -> tuple:
        """Pickle as numbers."""
        origins = None
        if self._origins is not None:
            origins = self.origins()
        site_numbers = self.site_numbers, self.origin_site_numbers
        return _known_elements, (self.numbers(), origins, *site_numbers)


def _new_numbers(probabilities: Tensor) -> tuple[_Deferred, frozenset[int]]:
    site = next(_NEXT_SITE)

    def numbers() -> Tensor:
        shape = probabilities.shape[1:]  # now, as a tracer would record it before
        first = site << _BITS_OF_AN_ELEMENT
        return first + torch.arange(math.prod(shape)).reshape(shape)

    return _Deferred(numbers), frozenset([site])


def _known_elements(
    numbers: Tensor,
    origins: Tensor | None,
    site_numbers: frozenset[int],
    origin_site_numbers: frozenset[int],
) -> Elements:
    deferred_origins = None
    if origins is not None:
        deferred_origins = _Deferred(lambda: origins)
    return Elements(
        numbers=_Deferred(lambda: numbers),
        site_numbers=site_numbers,
        origins=deferred_origins,
        origin_site_numbers=origin_site_numbers,
    )


def _with_rank(origins: Tensor, rank: int) -> Tensor:
    """Return origins with this number of dimensions after the first."""
    missing = rank + 1 - origins.dim()
    return origins.reshape(len(origins), *(1,) * missing, *origins.shape[1:])


def _padded(origins: Tensor, count: int, shape: Shape) -> Tensor:
    """Return this number of origins for each position of a shape."""
    origins = _with_rank(origins, len(shape)).expand(-1, *shape)
    padding = origins.new_full((count - len(origins), *shape), CERTAIN)
    return torch.cat([origins, padding])


def share_origins(first: Elements, second: Elements) -> bool:
    """Tell whether two different elements at one position depend on a common one.

    Only elements that were merged can: others are equal or independent.
    """
    if first is second or not (first.are_merged or second.are_merged):
        return False
    if first.origin_site_numbers.isdisjoint(second.origin_site_numbers):
        return False
    with untraced():
        shorter, longer = sorted((first.origins(), second.origins()), key=len)
        rank = max(shorter.dim(), longer.dim()) - 1
        shorter, longer = _with_rank(shorter, rank), _with_rank(longer, rank)
        # torch.isin takes views, which expanded origins do not permit.
        is_common = torch.isin(shorter.contiguous(), longer.contiguous())
        may_be_shared = is_common & (shorter != CERTAIN)
        rows = shorter[may_be_shared.reshape(len(shorter), -1).any(-1)]
        differ = first.numbers() != second.numbers()
        return any(
            bool(((row == longer) & (row != CERTAIN) & differ).any()) for row in rows
        )


def any_shared_across_positions(groups: Iterable[Elements], shape: Shape) -> bool:
    """Tell whether two positions of a value depend on one element.

    Args:
        groups: Elements of each draw of the value.
        shape: Shape of the value.
    """
    with untraced():
        rows = [_with_rank(elements.origins(), len(shape)) for elements in groups]
        origins = torch.cat([row.expand(-1, *shape) for row in rows])
        origins = origins.reshape(len(origins), -1).sort(0).values
        is_first = torch.ones_like(origins, dtype=torch.bool)
        is_first[1:] = origins[1:] != origins[:-1]
        once = origins[is_first & (origins != CERTAIN)]
        return once.unique().numel() < once.numel()
