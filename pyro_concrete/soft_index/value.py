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
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from pyro_concrete.soft_index.algebra import Draw, joint_name, new_draw, total
from pyro_concrete.soft_index.refusals import LostJointError, refusal
from pyro_concrete.soft_index.trees import joint_shape, leaves, mapped


class Call(NamedTuple):
    """A call of a torch function with soft values among its arguments.

    Attributes:
        name: Name of the function; of an operator without underscores, of a property
            after a dot.
        func: The function.
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    name: str
    func: Callable
    args: tuple
    kwargs: dict[str, Any]

    @property
    def operands(self) -> tuple[tuple, dict[str, Any]]:
        """All arguments."""
        return self.args, self.kwargs

    @property
    def sites(self) -> str:
        """Names of the sites among the arguments, for errors."""
        return sites(self.operands)

    def on(self, transform: Callable) -> Any:
        """Call the function on transformed arguments."""
        args, kwargs = mapped(transform, self.operands)
        return self.func(*args, **kwargs)

    def with_arguments(self, transform: Callable) -> "Call":
        """Return the call with transformed arguments."""
        args, kwargs = mapped(transform, self.operands)
        return self._replace(args=args, kwargs=kwargs)

    def arguments(self, *names: str, **defaults: Any) -> list[Any]:
        """Return arguments in this order, however they were given."""
        given = defaults | self.kwargs | dict(zip(names, self.args, strict=False))
        return [given[name] for name in names]


# What to do with a torch function, by its name.
_RULES: dict[str, Callable[[Call], Any]] = {}


def rule(names: str) -> Callable:
    """Register a rule for the functions of these names."""

    def register(function: Callable[[Call], Any]) -> Callable[[Call], Any]:
        _RULES.update(dict.fromkeys(names.split(), function))
        return function

    return register


def _operator(name: str) -> Callable:
    function = getattr(torch, name)

    def operator(self: Tensor, other: Any) -> Any:
        if not isinstance(other, Tensor | int | float):
            return NotImplemented
        return AbstractSoft.__torch_function__(function, (), (self, other))

    return operator


def _reflected(name: str, operator: str) -> Callable:
    function = getattr(torch, name)
    # Not all of torch's functions take a number on the left.
    of_number = getattr(Tensor, operator)

    def reflected(self: Tensor, other: Any) -> Any:
        if isinstance(other, Tensor):
            return AbstractSoft.__torch_function__(function, (), (other, self))
        if not isinstance(other, int | float):
            return NotImplemented
        return AbstractSoft.__torch_function__(of_number, (), (self, other))

    return reflected


def _unreadable(self: "AbstractSoft", *_: Any) -> None:
    raise TypeError(refusal(self.site, "reading it as a Python number"))


def _unhashable(self: "AbstractSoft") -> None:
    raise TypeError(refusal(self.site, "using it as a key"))


# Errors of torch's functions to which the name of a site can be added.
_NAMED_ERRORS = (TypeError, RuntimeError, ValueError, IndexError, NotImplementedError)


class AbstractSoft(Tensor):
    """What soft values have in common.

    Attributes:
        site: Name of the sample site, or sites, for errors.
        writes: How often the program has written into it.
    """

    site: str
    writes: int = 0

    # Tensor's own operators turn a TypeError of ours into Python's, or a plain False.
    __add__ = __iadd__ = _operator("add")
    __radd__ = _reflected("add", "__radd__")
    __sub__ = __isub__ = _operator("sub")
    __rsub__ = _reflected("sub", "__rsub__")
    __mul__ = __imul__ = _operator("mul")
    __rmul__ = _reflected("mul", "__rmul__")
    __truediv__ = __itruediv__ = _operator("div")
    __rtruediv__ = _reflected("div", "__rtruediv__")
    __floordiv__ = __ifloordiv__ = _operator("floor_divide")
    __rfloordiv__ = _reflected("floor_divide", "__rfloordiv__")
    __mod__ = __imod__ = _operator("remainder")
    __rmod__ = _reflected("remainder", "__rmod__")
    __pow__ = __ipow__ = _operator("pow")
    __rpow__ = _reflected("pow", "__rpow__")
    __matmul__ = _operator("matmul")
    __rmatmul__ = _reflected("matmul", "__rmatmul__")
    __eq__ = _operator("eq")
    __ne__ = _operator("ne")
    __lt__ = _operator("lt")
    __le__ = _operator("le")
    __gt__ = _operator("gt")
    __ge__ = _operator("ge")
    __and__ = __iand__ = _operator("bitwise_and")
    __rand__ = _reflected("bitwise_and", "__rand__")
    __or__ = __ior__ = _operator("bitwise_or")
    __ror__ = _reflected("bitwise_or", "__ror__")
    __xor__ = __ixor__ = _operator("bitwise_xor")
    __rxor__ = _reflected("bitwise_xor", "__rxor__")
    __lshift__ = __ilshift__ = _operator("bitwise_left_shift")
    __rlshift__ = _reflected("bitwise_left_shift", "__rlshift__")
    __rshift__ = __irshift__ = _operator("bitwise_right_shift")
    __rrshift__ = _reflected("bitwise_right_shift", "__rrshift__")
    __int__ = __float__ = __complex__ = __index__ = _unreadable
    item = tolist = numpy = __array__ = _unreadable
    __hash__ = _unhashable

    def exact(self) -> "SoftIndex":
        """Return the value with its support and probabilities.

        Raises:
            TypeError: If only the mean of the value is known.
        """
        raise NotImplementedError

    def __bool__(self) -> bool:
        """Return the truth where every value of the support has the same."""
        exact = exact_or_none(self)
        if exact is not None and exact.numel() == 1:
            truths = exact.states.bool().flatten()
            if bool((truths == truths[0]).all()):
                return bool(truths[0])
        raise TypeError(refusal(self.site, "a Python condition on it"))

    def __format__(self, format_spec: str) -> str:
        """Show what it is, whatever the format for numbers."""
        return repr(self)

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Iterable[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Look up the rule of a function, or refuse it."""
        call = Call(_name(func), func, args, kwargs or {})
        function = _RULES.get(call.name, _without_rule)
        try:
            return function(call)
        except _NAMED_ERRORS as error:
            if "is relaxed" in str(error) or type(error) not in _NAMED_ERRORS:
                raise
            message = f"{error} (the value of site {call.sites!r} is relaxed)"
            raise type(error)(message) from error


def _without_rule(call: Call) -> Any:
    """Apply a function to averages of floats; refuse it for integers."""
    out_of_place = call.name.removesuffix("_")
    if out_of_place != call.name and out_of_place in _RULES:
        return _RULES["_in_place"](call._replace(name=out_of_place))
    if any(isinstance(x, AbstractSoftInteger) for x in softs(call.operands)):
        raise TypeError(refusal(call.sites, call.name))
    return of_averages(call)


def of_averages(call: Call) -> Any:
    """Apply a function to averages: of its results, no values are known."""
    site = call.sites

    def guarded(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if x.is_floating_point():
            return soft_real(x, site)
        return SoftNumber(x, x.dtype, site)

    result = call.on(average)
    if isinstance(result, Tensor):
        return guarded(result)
    if type(result) in (tuple, list):
        return mapped(guarded, result)
    if isinstance(result, tuple):  # torch's own kinds of named tuples
        return type(result)([guarded(x) for x in result])
    return result


class AbstractSoftInteger(AbstractSoft):
    """An integer that is soft: it has a shape and a type, and no data of its own.

    Attributes:
        kind: Its shape, type and device, which tracers need not know of.
    """

    kind: tuple[torch.Size, torch.dtype, torch.device]

    # Read without a detour through __torch_function__, and past tracers.
    @property
    def shape(self) -> torch.Size:
        """The shape of the site."""
        return self.kind[0]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the site's samples."""
        return self.kind[1]

    @property
    def device(self) -> torch.device:
        """The device of the values."""
        return self.kind[2]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.kind[0])

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.kind[0])

    def is_floating_point(self) -> bool:
        """Tell whether the type of the site's samples is a floating one."""
        return self.kind[1].is_floating_point

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Iterable[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Refuse what reaches the dispatcher: a soft value has no data to read."""
        # Tensor's operators would take a TypeError for "compare them in another way".
        raise RuntimeError(refusal(sites((args, kwargs)), str(func)))


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
        >>> weights = torch.tensor([[0.25, 0.5], [0.75, 0.5]])
        >>> z = soft_index("z", torch.arange(2), weights)
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
        soft = _empty(cls, number.shape, dtype, number.device)
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

    def __deepcopy__(self, memo: Any) -> "SoftNumber":
        """Copy the number."""
        return SoftNumber(self.number.clone(), self.dtype, self.site, self.values)

    def __reduce_ex__(self, proto: Any) -> tuple:
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
        whole: Returns whether all values are whole numbers made of whole numbers.

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
    whole: Callable[[], bool]

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
        return self.number.size() if dim is None else self.number.size(dim)

    def dim(self) -> int:
        """Return the number of dimensions."""
        return self.number.dim()

    def expand(self, *sizes: Any) -> Any:
        """Expand the average and the values."""
        shape = sizes[0] if len(sizes) == 1 else sizes
        if shape == self.number.shape:
            return self
        return AbstractSoft.__torch_function__(Tensor.expand, (), (self, *sizes))

    def __eq__(self, other: Any) -> Any:
        """Compare values; with itself, as validation does, whether they are numbers."""
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

    def __deepcopy__(self, memo: Any) -> "SoftReal":
        """Copy the average."""
        return soft_real(self.number.clone(), self.site, self.values, self.whole)

    def __reduce_ex__(self, proto: Any) -> tuple:
        """Pickle as an average with its values."""
        return _known_real, (self.number, self.site, _exact_to_pickle(self))


def _unknown() -> bool:
    return False


def soft_real(
    number: Tensor,
    site: str,
    values: "Callable[[], SoftIndex] | None" = None,
    whole: Callable[[], bool] = _unknown,
) -> SoftReal:
    """Return the average of a float that depends on soft integers.

    Args:
        number: The average.
        site: Name of the relaxed sites, for errors.
        values: Returns the float with its support, or is None where nothing can.
        whole: Returns whether its values are whole numbers made of whole numbers.
    """
    real = number.as_subclass(SoftReal)
    real.number = number
    real.site = site
    real.values = values
    real.whole = whole
    return real


def _known_values(soft: Any) -> "SoftIndex":
    if soft.values is None:
        raise TypeError(refusal(soft.site, "a function of averages that uses it"))
    exact = soft.values()
    soft.values = lambda: exact
    return exact


def _known_number(
    number: Tensor, dtype: torch.dtype, site: str, exact: "SoftIndex | None"
) -> SoftNumber:
    values = None if exact is None else lambda: exact
    return SoftNumber(number, dtype, site, values)


def _known_real(number: Tensor, site: str, exact: "SoftIndex | None") -> SoftReal:
    return soft_real(number, site, None if exact is None else lambda: exact)


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
    # Known of some, to save work: that the states are 0, ..., K-1; their mean; and the
    # weights with the support last. The names are none of a tensor's own.
    known_range: bool = False
    known_mean: Tensor | None = None
    known_simplex: Tensor | None = None

    @staticmethod
    def __new__(
        cls: "type[SoftIndex]",
        states: Tensor,
        draws: Sequence[Draw],
        shape: Sequence[Any] | None = None,
    ) -> "SoftIndex":
        """Return a tensor without data, of the shape and type of the site's samples."""
        if shape is not None:
            pass
        elif len(draws) == 1 and states.dim() == 1:
            shape = draws[0].weights.shape[1:]
        else:
            positions = [d.weights.shape[1:] for d in draws]  # compilers know lists
            shape = joint_shape(states.shape[len(draws) :], *positions)
        soft = _empty(cls, shape, states.dtype, states.device)
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
        self.known_range = False
        self.known_mean = None
        self.known_simplex = None

    def __repr__(self) -> str:
        """Show the site, the shape and the size of the support."""
        support = tuple(len(d.weights) for d in self.draws)
        return f"SoftIndex(site={self.site!r}, shape={tuple(self.shape)}, {support=})"

    def __deepcopy__(self, memo: Any) -> "SoftIndex":
        """Copy the values and the probabilities; the draws are the same."""
        draws = [d.with_weights(d.weights.clone()) for d in self.draws]
        return SoftIndex(self.states.clone(), draws, self.shape)

    def __reduce_ex__(self, proto: Any) -> tuple:
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


def _real_of_leaves(numbers: Iterable[Any], x: SoftReal) -> Any:
    (number,) = numbers
    if number is x.number:
        return x
    return soft_real(number, x.site) if isinstance(number, Tensor) else number


# torch.vmap would take a soft float for the plain tensor of its averages. Of the one
# that it maps over, the values are not known.
register_pytree_node(SoftReal, _leaves_of_real, _real_of_leaves)


def _empty(cls: type, *kind: Any) -> Any:
    shape, dtype, device = kind
    soft = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
    soft.kind = (torch.Size(shape), dtype, device)
    return soft


def is_soft(x: Any) -> bool:
    """Tell whether a value stands for an integer, rather than being an array.

    So does a float that is computed from soft integers.

    Args:
        x: Any value.

    Example:
        >>> is_soft(torch.arange(2))
        False
    """
    return isinstance(x, AbstractSoft)


def exact_or_none(x: AbstractSoft) -> SoftIndex | None:
    """Return a soft value with its support, or None if only its mean is known.

    Raises:
        LostJointError: If it combines values whose joint distribution is not known.
    """
    try:
        return x.exact()
    except LostJointError:
        raise
    except TypeError:
        return None


def _exact_to_pickle(x: AbstractSoft) -> SoftIndex | None:
    try:
        return x.exact()
    except TypeError:
        return None


def softs(tree: Any) -> list[Any]:
    """Return the soft values among arguments."""
    return [x for x in leaves(tree) if isinstance(x, AbstractSoft)]


def sites(tree: Any) -> str:
    """Return the names of the sites among arguments, for errors."""
    return " and ".join(dict.fromkeys(x.site for x in softs(tree)))


def are_independent(operands: Any) -> bool:
    """Tell whether no two soft operands depend on the same site."""
    names = [x.site.split(" and ") for x in softs(operands)]
    return len(set().union(*names)) == sum(map(len, names))


def tensors(tree: Any) -> list[Tensor]:
    """Return the tensors among arguments, soft ones as well."""
    return [x for x in leaves(tree) if isinstance(x, Tensor)]


def blank(x: Any) -> Any:
    """Return a plain tensor of the kind of a soft value, anything else as it is."""
    if not isinstance(x, AbstractSoft):
        return x
    if isinstance(x, SoftReal):
        return x.number
    shape, dtype, device = x.kind
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
    return mapped(_mean, x) if softs(x) else x


def average(x: Any) -> Any:
    """Return the mean, also of a comparison of averages, as validation makes them."""
    return x.number if type(x) in (SoftReal, SoftNumber) else _mean(x)


def _mean(x: Any) -> Any:
    if not isinstance(x, AbstractSoft):
        return x
    if not isinstance(x, SoftIndex):
        if x.dtype is not torch.bool:
            return x.number
        if x.values is None:
            raise TypeError(refusal(x.site, "a comparison of averages"))
        x = x.exact()
    if x.known_mean is not None:
        return x.known_mean
    dtype = x.states.dtype if x.is_floating_point() else x.draws[0].weights.dtype
    states = x.states.to(dtype)
    if (
        states.numel() == len(states)
        and len(x.draws) == 1
        and not x.is_floating_point()
    ):
        weights = x.draws[0].weights
        mean = weights.movedim(0, -1) @ states.flatten()
    else:
        mean = total(states, x.draws)
    return mean if mean.shape == x.shape else mean.expand(x.shape)


def _name(func: Any) -> str:
    """The name of a torch function, an operator or a property."""
    name = func.__name__
    if name == "__get__":
        return "." + func.__self__.__name__
    return name[2:-2] if name.startswith("__") else name
