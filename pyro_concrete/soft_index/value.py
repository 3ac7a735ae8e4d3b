"""Soft values: what a program receives in place of the integers of a relaxed site.

A program indexes, compares, selects and counts with the integers of a discrete site.
A `SoftIndex` stands for one: it has the site's shape and type, and for an operation the
operation's results for every value of the support, each with its probability. A
`SoftNumber` is an integer whose probabilities are computed when they are needed, such
as a count, and a `SoftReal` a float: a tensor that holds the average and knows the
values behind it. At one-hot probabilities every result equals the discrete program's.

Counterpart: ``numpyro_concrete.soft_index.value``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyro_concrete.internals import Shape, register_pytree_node
from pyro_concrete.soft_index.abstract import (
    AbstractSoft,
    AbstractSoftInteger,
    Results,
    empty_soft_integer,
    soft_leaves,
)
from pyro_concrete.soft_index.algebra import Draw, expectation, joint_name, new_draw
from pyro_concrete.soft_index.refusals import SharedDrawsError, refusal
from pyro_concrete.soft_index.trees import Argument, joint_shape, map_leaves


class SoftNumber(AbstractSoftInteger):
    """An integer that is known by its mean, and exactly where that is asked for.

    A sum of soft integers is one: arithmetic uses the mean, and what needs the integers
    uses the probabilities of all sums, which are computed then. Where the sum has more
    than some hundreds of values, that is an error.

    Shapes:
        number: any; the shape of the integer tensor that it stands for.

    Args:
        number: Mean of the integers.
        dtype: Type that the discrete program's integers have.
        site: Name of the relaxed sites, for errors.
        values: Returns the value with its support, or is None where nothing can.

    Raises:
        TypeError: When the values are needed and not known.

    Example:
        >>> probabilities = torch.tensor([[0.25, 0.5], [0.75, 0.5]])
        >>> z = soft_index("z", torch.arange(2), probabilities)
        >>> 2.0 * z.sum()
        tensor(2.5000)
        >>> torch.where(z.sum() == 2, 1.0, 0.0)
        tensor(0.3750)

    Counterpart: :class:`numpyro_concrete.soft_index.SoftNumber`.
    """

    number: Tensor
    values: Callable[[], "SoftIndex"] | None

    @staticmethod
    def __new__(
        cls: "type[SoftNumber]",
        number: Tensor,
        dtype: torch.dtype,
        site: str,
        values: Callable[[], "SoftIndex"] | None = None,
    ) -> "SoftNumber":
        """Return a tensor without data, of the shape and type of the integers."""
        soft = empty_soft_integer(cls, number.shape, dtype, number.device)
        soft.number = number
        soft.site = site
        soft.values = values
        return soft

    def exact(self) -> "SoftIndex":
        """Return the value with its support and probabilities."""
        return _known_values(self)

    def __repr__(self) -> str:
        """Show the site and the shape."""
        return f"SoftNumber(site={self.site!r}, shape={tuple(self.shape)})"

    def __deepcopy__(self, memo: dict) -> "SoftNumber":
        """Copy the number."""
        return SoftNumber(self.number.clone(), self.dtype, self.site, self.values)

    def __reduce_ex__(self, proto: object) -> tuple:
        """Pickle as a number with its values."""
        return _known_number, (
            self.number,
            self.dtype,
            self.site,
            _exact_to_pickle(self),
        )


class SoftReal(AbstractSoft):
    """A float that depends on soft integers: their average, which knows its values.

    It is a tensor that holds the average, and any function can use it as such. An
    elementwise function is applied to every value; what compares, rounds or converts it
    to integers uses the values as well. Networks see the average: of the result of a
    matrix product no values are known, and what compares or rounds it is an error.

    Attributes:
        number: The average.
        values: Returns the float with its support, or is None where nothing can.
        are_whole: Returns whether all values are whole numbers made of whole numbers.

    Example:
        >>> z = soft_index("z", torch.arange(2), torch.tensor([0.25, 0.75]))
        >>> x = 1.0 - z
        >>> x
        tensor(0.2500)
        >>> torch.tensor([4.0, 8.0])[x.long()]
        tensor(5.)
    """

    number: Tensor
    values: Callable[[], "SoftIndex"] | None
    are_whole: Callable[[], bool]

    __hash__ = Tensor.__hash__

    # Read without a detour through __torch_function__.
    @property
    def shape(self) -> Any:
        """The shape of the average."""
        return self.number.shape

    @property
    def dtype(self) -> torch.dtype:
        """The type of the average."""
        return self.number.dtype

    @property
    def device(self) -> torch.device:
        """The device of the average."""
        return self.number.device

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or one size."""
        return self.number.size(dim)

    def dim(self) -> int:
        """Return the number of dimensions."""
        return self.number.dim()

    def expand(self, *sizes: Any) -> Results:
        """Expand the average and the values."""
        shape = sizes[0] if len(sizes) == 1 else sizes
        if shape == self.number.shape:
            return self
        return AbstractSoft.__torch_function__(Tensor.expand, (), (self, *sizes))

    def __eq__(self, other: Argument) -> Argument:
        """Compare values; with itself, as validation does, the average."""
        if other is self:
            return self.number == self.number
        return AbstractSoft.__eq__(self, other)

    def is_floating_point(self) -> bool:
        """Tell that it is a float."""
        return True

    def exact(self) -> "SoftIndex":
        """Return the values, floats, with their probabilities."""
        return _known_values(self)

    def numpy(self, *, force: bool = False) -> Any:
        """Return the averages as an array."""
        return self.number.numpy(force=force)

    def __array__(self, dtype: Any = None) -> Any:
        """Return the averages as an array."""
        return self.number.__array__(dtype)

    def __repr__(self, **kwargs: Any) -> str:
        """Show the average."""
        return repr(self.number)

    def __deepcopy__(self, memo: dict) -> "SoftReal":
        """Copy the average."""
        return soft_real(self.number.clone(), self.site, self.values, self.are_whole)

    def __reduce_ex__(self, proto: object) -> tuple:
        """Pickle as an average with its values."""
        return _known_real, (self.number, self.site, _exact_to_pickle(self))


def _unknown() -> bool:
    return False


# What is known by its average, and by values where these are computed.
AverageOfValues: TypeAlias = SoftNumber | SoftReal


def soft_real(
    number: Tensor,
    site: str,
    values: "Callable[[], SoftIndex] | None" = None,
    are_whole: Callable[[], bool] = _unknown,
) -> SoftReal:
    """Return the average of a float that depends on soft integers.

    Args:
        number: The average.
        site: Name of the relaxed sites, for errors.
        values: Returns the float with its support, or is None where nothing can.
        are_whole: Returns whether its values are whole numbers made of whole numbers.
    """
    real = number.as_subclass(SoftReal)
    real.number = number
    real.site = site
    real.values = values
    real.are_whole = are_whole
    return real


def _known_values(soft: "SoftNumber | SoftReal") -> "SoftIndex":
    if soft.values is None:
        raise TypeError(refusal(soft.site, "a function of averages that uses it"))
    exact = soft.values()
    soft.values = lambda: exact
    return exact


def _known_number(
    number: Tensor, dtype: torch.dtype, site: str, exact: "SoftIndex | None"
) -> SoftNumber:
    return SoftNumber(number, dtype, site, _constant_values(exact))


def _known_real(number: Tensor, site: str, exact: "SoftIndex | None") -> SoftReal:
    return soft_real(number, site, _constant_values(exact))


def _constant_values(exact: "SoftIndex | None") -> "Callable[[], SoftIndex] | None":
    if exact is None:
        return None
    return lambda: exact


class SoftIndex(AbstractSoftInteger):
    """An integer that is a convex combination of integers.

    Each operation on it is applied to every value of its support. An integer or boolean
    result stays soft, with the same probabilities; a float result is a `SoftReal`. At a
    vertex, where one probability is one, every result is the discrete program's.

    Shapes:
        states: (*supports, *shape), with one leading dimension for each draw; positions
            of size one stand for all.
        shape: the shape of the site, as for its samples.

    Args:
        states: Value for each joint value of the draws.
        draws: Probabilities of each support.
        shape: Shape, by default that of the states and draws.

    Raises:
        TypeError: When it is read as a Python number, hashed, or used in an operation
            that has no relaxation.

    Example:
        >>> z = soft_index("z", torch.arange(2), torch.tensor([0.25, 0.75]))
        >>> torch.tensor([4.0, 8.0])[z]
        tensor(7.)
        >>> torch.where(z == 1, 8.0, 4.0)
        tensor(7.)
        >>> z.item()
        Traceback (most recent call last):
        TypeError: site 'z' is relaxed: its value is soft, and reading it ...

    Counterpart: :class:`numpyro_concrete.soft_index.SoftIndex`.
    """

    states: Tensor
    draws: tuple[Draw, ...]
    # Optional shortcuts, which only save work: whether the states are known to be 0, 1,
    # ..., K-1; their mean; the probabilities with the support last. The names are none
    # of a tensor's own.
    values_are_indices: bool = False
    known_mean: Tensor | None = None
    known_simplex: Tensor | None = None

    @staticmethod
    def __new__(
        cls: "type[SoftIndex]",
        states: Tensor,
        draws: Sequence[Draw],
        shape: Shape | None = None,
    ) -> "SoftIndex":
        """Return a tensor without data, of the shape and type of the site's samples."""
        if shape is not None:
            pass
        elif len(draws) == 1 and states.dim() == 1:
            shape = draws[0].probabilities.shape[1:]
        else:
            positions = [
                d.probabilities.shape[1:] for d in draws
            ]  # compilers know lists
            shape = joint_shape(states.shape[len(draws) :], *positions)
        soft = empty_soft_integer(cls, shape, states.dtype, states.device)
        missing = len(draws) + len(shape) - states.dim()
        if missing:
            supports, positions = states.shape[: len(draws)], states.shape[len(draws) :]
            states = states.reshape(*supports, *(1,) * missing, *positions)
        soft.states = states
        soft.draws = tuple(draws)
        return soft

    @property
    def site(self) -> str:
        """Names of the sites that it depends on."""
        return joint_name(self.draws)

    def exact(self) -> "SoftIndex":
        """Return the value itself."""
        return self

    def become(self, other: "SoftIndex") -> None:
        """Take the values of another one of the same shape and type."""
        self.states = other.states
        self.draws = other.draws
        self.values_are_indices = False
        self.known_mean = None
        self.known_simplex = None

    def __repr__(self) -> str:
        """Show the site, the shape and the size of the support."""
        support = tuple(len(d.probabilities) for d in self.draws)
        return f"SoftIndex(site={self.site!r}, shape={tuple(self.shape)}, {support=})"

    def __deepcopy__(self, memo: dict) -> "SoftIndex":
        """Copy the values and the probabilities; the draws are the same."""
        draws = [d.with_probabilities(d.probabilities.clone()) for d in self.draws]
        return SoftIndex(self.states.clone(), draws, self.shape)

    def __reduce_ex__(self, proto: object) -> tuple:
        """Pickle as values and probabilities."""
        return SoftIndex, (self.states, self.draws, self.shape)


def soft_index(site: str, values: Tensor, weights: Tensor) -> SoftIndex:
    """Return the soft value of a site.

    Shapes:
        values: (K,).
        weights: (K, *shape).

    Args:
        site: Name of the sample site, for errors.
        values: The integers of its support.
        weights: Their probabilities, which sum to one over the first dimension.

    Example:
        >>> z = soft_index("z", torch.arange(2), torch.tensor([0.25, 0.75]))
        >>> torch.tensor([4.0, 8.0])[z]
        tensor(7.)

    Counterpart: :func:`numpyro_concrete.soft_index.soft_index`.
    """
    return SoftIndex(values, (new_draw(weights, site),))


def _leaves_of_real(x: SoftReal) -> tuple[list[Tensor], SoftReal]:
    return [x.number], x


def _real_of_leaves(numbers: Iterable[Argument], x: SoftReal) -> Argument:
    (number,) = numbers
    if number is x.number:
        return x
    if not isinstance(number, Tensor):
        return number
    return soft_real(number, x.site)


# torch.vmap would take a soft float for the plain tensor of its averages. Of the one
# that it maps over, the values are not known.
register_pytree_node(SoftReal, _leaves_of_real, _real_of_leaves)


def exact_or_none(x: Tensor) -> SoftIndex | None:
    """Return a soft value with its support, or None if only its mean is known.

    Raises:
        SharedDrawsError: If it combines values whose joint distribution is not known.
    """
    if not isinstance(x, AbstractSoft):
        return None
    try:
        return x.exact()
    except SharedDrawsError:
        raise
    except TypeError:
        return None


def _exact_to_pickle(x: AbstractSoft) -> SoftIndex | None:
    try:
        return x.exact()
    except TypeError:
        return None


def blank(x: Argument) -> Argument:
    """Return a plain tensor of the kind of a soft value, anything else as it is."""
    if not isinstance(x, AbstractSoft):
        return x
    if isinstance(x, SoftReal):
        return x.number
    shape, dtype, device = x.tensor_spec
    return torch.empty((), dtype=dtype, device=device).expand(shape)


def plain(x: Any) -> Any:
    """Return a value of the program as plain numbers: a constant, or the mean.

    This is how a program asks for the mean of a soft value.

    Args:
        x: Any value, or nested containers of values.

    Example:
        >>> plain(soft_index("z", torch.arange(2), torch.tensor([0.25, 0.75])))
        tensor(0.7500)
    """
    if isinstance(x, Tensor):
        return _mean(x)
    if not soft_leaves(x):
        return x
    return map_leaves(_mean, x)


def average(x: Argument) -> Argument:
    """Return the mean, also of a comparison of averages, as validation makes them."""
    if type(x) in (SoftReal, SoftNumber):
        return x.number
    return _mean(x)


def _mean(x: Argument) -> Argument:
    if not isinstance(x, AbstractSoft):
        return x
    if isinstance(x, SoftIndex):
        return _mean_of_values(x)
    if x.dtype is not torch.bool:
        return x.number
    if x.values is None:
        raise TypeError(refusal(x.site, "a comparison of averages"))
    return _mean_of_values(x.exact())


def _mean_of_values(x: SoftIndex) -> Tensor:
    if x.known_mean is not None:
        return x.known_mean
    if x.is_floating_point():
        mean = expectation(x.states, x.draws)
    else:
        states = x.states.to(x.draws[0].probabilities.dtype)
        if len(x.draws) == 1 and states.numel() == len(states):
            mean = x.draws[0].probabilities.movedim(0, -1) @ states.flatten()
        else:
            mean = expectation(states, x.draws)
    if mean.shape == x.shape:
        return mean
    return mean.expand(x.shape)
