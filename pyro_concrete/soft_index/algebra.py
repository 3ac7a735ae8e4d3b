"""Draws: the probabilities of a finite support, and averages over them.

A soft value depends on one or more draws. Each has probabilities over its support, on
a leading dimension, for every position of the value, and knows of which element of
which site each position is: equal elements are one draw, others are independent. What
is computed for all of the support is averaged with these probabilities; at one-hot
probabilities the average is the term that was drawn, infinite or not.

Counterpart: ``numpyro_concrete.soft_index.algebra``.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from pyro_concrete.internals import Shape
from pyro_concrete.ops.precision import known_finite
from pyro_concrete.soft_index.elements import CERTAIN, Elements, share_origins, untraced
from pyro_concrete.soft_index.refusals import SharedDrawsError

# A sum of independent counts is exact up to this number of values.
LARGEST_SUPPORT = 512

# What stands for infinity, as each precision rounds it.
_BOUNDS = {
    dtype: torch.tensor(-math.log(torch.finfo(dtype).tiny), dtype=dtype).item()
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


@dataclass(frozen=True, eq=False, slots=True)
class Draw:
    """Probabilities over a support, for every position of the values that depend on it.

    Attributes:
        probabilities: Their shape is (support, *positions). Positions line up from the
            right, and those of size one stand for all.
        site: Name of the relaxed site, for errors.
        elements: Which elements of which sites the positions are.
    """

    probabilities: Tensor
    site: str
    elements: Elements

    def positions(self, rank: int) -> Tensor:
        """Return the probabilities with this number of dimensions after the support."""
        missing = rank + 1 - self.probabilities.dim()
        if missing == 0:
            return self.probabilities
        shape = self.probabilities.shape
        return self.probabilities.reshape(shape[:1] + (1,) * missing + shape[1:])

    def with_probabilities(self, probabilities: Tensor) -> "Draw":
        """Return the same draw with other probabilities, at the same positions."""
        return Draw(probabilities, self.site, self.elements)


def new_draw(probabilities: Tensor, site: str) -> Draw:
    """Return a draw that is like no other."""
    return Draw(probabilities, site, Elements.of_new_site(probabilities))


def number_of_states(draws: Sequence[Draw]) -> int:
    """Return the number of joint values of draws."""
    return math.prod(len(d.probabilities) for d in draws)


def shared_positions(a: Draw, b: Draw) -> Bool[Tensor, "*positions"] | bool:
    """Where two draws are one: at all positions, at none, or at those of a mask."""
    if a.elements is b.elements:
        return True
    if a.elements.site_numbers.isdisjoint(b.elements.site_numbers):
        return False
    with untraced():
        numbers = a.elements.numbers()
        shared = (numbers == b.elements.numbers()) & (numbers != CERTAIN)
        if bool(shared.all()):
            return True
        if not bool(shared.any()):
            return False
        return shared


def merged_draw(probabilities: Tensor, draws: Sequence[Draw]) -> Draw:
    """Return a new draw that is made of others, and remembers them."""
    elements = Elements.merged(probabilities, [draw.elements for draw in draws])
    return Draw(probabilities, joint_name(draws), elements)


def union(groups: Iterable[Sequence[Draw]]) -> tuple[Draw, ...]:
    """Return the distinct draws of several values, in order of appearance.

    Raises:
        SharedDrawsError: If draws of two values depend on each other, and it is not
            known how, as one of them was merged.
    """
    distinct: list[Draw] = []
    for group in groups:
        earlier = len(distinct)
        for draw in group:
            if any(shared_positions(x, draw) is True for x in distinct):
                continue
            for partner in distinct[:earlier]:
                if share_origins(partner.elements, draw.elements):
                    raise SharedDrawsError(joint_name([partner, draw]))
            distinct.append(draw)
    return tuple(distinct)


def aligned_states(
    values: Shaped[Tensor, "..."],
    own: Sequence[Draw],
    draws: Sequence[Draw],
    rank: int,
) -> Tensor:
    """Return values over their own draws as values over more draws, of a higher rank.

    Shapes:
        values: (*own supports, *positions).
        result: (*supports, *positions), with a size of one for each draw that is not
            among its own.
    """
    n = len(own)
    if n == len(draws) == 1 and values.dim() == rank + 1:
        return values
    axes = [_place_among(own, draw) for draw in draws]
    order = [i for i in axes if i is not None]
    values = values.permute(*order, *range(n, values.dim()))
    supports = [1 if i is None else len(own[i].probabilities) for i in axes]
    positions = values.shape[n:]
    return values.reshape(*supports, *(1,) * (rank - len(positions)), *positions)


def _place_among(own: Sequence[Draw], draw: Draw) -> int | None:
    for i, x in enumerate(own):
        if x is draw or shared_positions(x, draw) is True:
            return i
    return None


def expectation(terms: Shaped[Tensor, "..."], draws: Sequence[Draw]) -> Tensor:
    """Average terms with the probabilities of their draws.

    Terms of probability zero do not count, not even infinite ones and NaN. Between
    zero and one an infinite term counts as `bound`, so that the average and its
    gradient are finite; where its probability is one, the average is infinite again.

    Shapes:
        terms: (*supports, *positions).
        result: positions.

    Args:
        terms: One term for each joint value of the draws.
        draws: The draws, in the order of the leading dimensions.
    """
    rank = terms.dim() - len(draws)
    is_finite = known_finite(terms)
    average = terms
    if not is_finite:
        average = finite(
            terms, torch.promote_types(terms.dtype, draws[0].probabilities.dtype)
        )
    for i in reversed(range(len(draws))):
        probabilities = _conditional_probabilities(draws, i, rank)
        if not is_finite:
            average = average.masked_fill(average.isnan() & (probabilities == 0), 0.0)
        average = (probabilities * average).sum(i)
    if not is_finite:
        average = restored(average)
    return average.to(terms.dtype)


def _conditional_probabilities(draws: Sequence[Draw], i: int, rank: int) -> Tensor:
    """Probabilities of a draw given the draws before it, which may share elements.

    Shapes:
        result: (*supports up to this one, *positions), or shorter from the left.
    """
    probabilities = draws[i].positions(rank)
    for j in range(i):
        shared = shared_positions(draws[j], draws[i])
        if shared is False:
            continue
        supports = len(draws[j].probabilities), len(draws[i].probabilities)
        between = (1,) * (i - j - 1)
        # The element was drawn already: it has the value that it had.
        certain = torch.eye(
            *supports, dtype=probabilities.dtype, device=probabilities.device
        )
        certain = certain.reshape(supports[0], *between, supports[1], *(1,) * rank)
        mask = torch.as_tensor(shared, device=probabilities.device)
        probabilities = torch.where(mask, certain, probabilities)
    return probabilities


def finite(terms: Tensor, dtype: torch.dtype) -> Tensor:
    """Return terms in a precision, infinite ones replaced by its bound."""
    limit = bound(dtype)
    return terms.to(dtype).nan_to_num(nan=math.nan, posinf=limit, neginf=-limit)


def restored(average: Tensor) -> Tensor:
    """Make averages infinite that are the bound itself."""
    limit = bound(average.dtype)
    return torch.where(average.abs() == limit, average.sign() * math.inf, average)


def bound(dtype: torch.dtype) -> float:
    """Return what stands for infinity: a number that no table holds by chance."""
    return _BOUNDS[dtype]


def one_draw(draws: Sequence[Draw]) -> Draw:
    """Return the joint draw of several."""
    if len(draws) == 1:
        return draws[0]
    rank = max(d.probabilities.dim() for d in draws) - 1
    probabilities = draws[0].positions(rank)
    for i in range(1, len(draws)):
        probabilities = probabilities.unsqueeze(i) * _conditional_probabilities(
            draws, i, rank
        )
    return merged_draw(probabilities.flatten(0, len(draws) - 1), draws)


def joint_name(draws: Iterable[Draw]) -> str:
    """Return the names of the sites of several draws, for errors."""
    names = [name for draw in draws for name in draw.site.split(" and ")]
    return " and ".join(dict.fromkeys(names))


def merge_equal_values(
    values: Shaped[Tensor, "*states_and_positions"], draws: Sequence[Draw]
) -> tuple[Tensor, Draw]:
    """Return the distinct values of several draws, and the draw of these.

    Shapes:
        values: (*supports, *positions).
    """
    draw = one_draw(draws)
    states = values.flatten(0, len(draws) - 1)
    distinct, indices = states.unique(return_inverse=True)
    rank = states.dim() - 1
    probabilities = draw.positions(rank)
    positions = torch.broadcast_shapes(probabilities.shape[1:], states.shape[1:])
    if indices.numel() == len(indices):
        empty = probabilities.new_zeros((len(distinct), *probabilities.shape[1:]))
        added = empty.index_add(0, indices.flatten(), probabilities)
    else:
        empty = probabilities.new_zeros((len(distinct), *positions))
        shape = (len(states), *positions)
        added = empty.scatter_add(0, indices.expand(shape), probabilities.expand(shape))
    return distinct, merged_draw(added, draws)


def draws_of_elements(draws: Iterable[Draw], most: int) -> dict[int, Draw] | None:
    """Return a draw for each element by its number, the same at all positions.

    Args:
        draws: Draws whose elements may be shared.
        most: Where there are more joint values than this, the result is None.

    Raises:
        SharedDrawsError: If elements depend on each other, as one of them was merged.
    """
    draw_of_element: dict[int, Draw] = {}
    for draw in draws:
        if not _has_few_elements(draw, most):
            return None
        for element, single in _single_draws(draw):
            previous = draw_of_element.get(element)
            if previous is None or _knows_more(draw, previous):
                draw_of_element[element] = single
        if number_of_states([*draw_of_element.values()]) > most:
            return None
    _check_origins([*draw_of_element.values()])
    return draw_of_element


def _has_few_elements(draw: Draw, most: int) -> bool:
    """Tell whether a draw has elements, and no more than so many joint values."""
    elements = draw.elements.numbers().unique().numel()
    return bool(math.prod(_shape_of(draw))) and 2 ** min(elements - 1, 64) <= most


def _shape_of(draw: Draw) -> torch.Size:
    numbers = draw.elements.numbers()
    return torch.broadcast_shapes(numbers.shape, draw.probabilities.shape[1:])


def _single_draws(draw: Draw) -> Iterator[tuple[int, Draw]]:
    """Return the uncertain element at each position, and the draw of it alone."""
    if len(draw.probabilities) == 1:
        return
    shape = _shape_of(draw)
    probabilities = draw.probabilities.expand(-1, *shape)
    probabilities = probabilities.reshape(len(probabilities), -1)
    numbers = draw.elements.numbers().expand(shape).flatten().tolist()
    for position, element in enumerate(numbers):
        if element != CERTAIN:
            elements = draw.elements.at(position, shape)
            yield element, Draw(probabilities[:, position], draw.site, elements)


def _check_origins(draws: Sequence[Draw]) -> None:
    """Raise an error if draws of different elements are made of the same ones."""
    if not any(draw.elements.are_merged for draw in draws):
        return
    draw_of_origin: dict[int, Draw] = {}
    for draw in draws:
        for origin in set(draw.elements.origins().tolist()) - {CERTAIN}:
            first = draw_of_origin.setdefault(origin, draw)
            if first is not draw:
                raise SharedDrawsError(joint_name([first, draw]))


def _knows_more(draw: Draw, previous: Draw) -> bool:
    """Tell whether a draw lists fewer impossible values, or has a gradient."""
    if len(draw.probabilities) != len(previous.probabilities):
        return len(draw.probabilities) < len(previous.probabilities)
    return draw.probabilities.requires_grad and not previous.probabilities.requires_grad


def states_at_joint_values(
    states: Shaped[Tensor, "..."],
    draws: Sequence[Draw],
    shape: Shape,
    elements: dict[int, Draw],
) -> Tensor:
    """Return values at every joint value of their elements.

    Shapes:
        states: (*supports of the draws, *shape).
        result: (joint values of the elements, *shape).
    """
    sizes = [len(d.probabilities) for d in elements.values()]
    joint_values = torch.arange(math.prod(sizes))
    indices = [*torch.unravel_index(joint_values, sizes)] if sizes else []
    # What is certain has the first value.
    table = torch.stack([torch.zeros_like(joint_values), *indices])
    rows = {element: i for i, element in enumerate(elements, 1)}
    picks = []
    for draw in draws:
        numbers = draw.elements.numbers().expand(tuple(shape))
        columns = [rows.get(x, 0) for x in numbers.flatten().tolist()]
        picks.append(table[columns].T.reshape(-1, *shape))
    picks += [
        torch.arange(n).reshape(-1, *(1,) * (len(shape) - i - 1))
        for i, n in enumerate(shape)
    ]
    picks = [x.to(states.device) for x in picks]
    supports = [len(d.probabilities) for d in draws]
    return states.expand(*supports, *shape)[tuple(picks)]
