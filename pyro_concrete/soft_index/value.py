"""SoftIndex: the relaxed value of an integer site, a distribution over its support.

A program indexes, compares, selects and counts with the integers of a discrete site.
A `SoftIndex` stands for one: it has the site's shape and type, and for an operation the
operation's results for every value of the support, each with its weight. Results that
are integers again stay soft; others are summed with the weights. At one-hot weights
every result equals the discrete program's.

Twin: ``numpyro_concrete.soft_index.value``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_concrete.soft_index.algebra import Draw, total


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


def refusal(site: str, operation: str) -> str:
    """Return the message for an operation that has no relaxation.

    Args:
        site: Name of the relaxed site.
        operation: What the program tried to do with its value.

    Example:
        >>> print(refusal("z", "sort"))
        site 'z' is relaxed: its value is soft, and sort needs one that is drawn. ...
    """
    return (
        f"site {site!r} is relaxed: its value is soft, and {operation} needs one that "
        "is drawn. Leave the site out with infer={'relax': False} or enumerate it with "
        "infer={'enumerate': 'parallel'}; or, where the mean of the soft value is "
        "meant, take it with 1.0 * value"
    )


def _operator(name: str, *, reflected: bool = False) -> Callable:
    def operator(self: Tensor, other: Any) -> Any:
        if not isinstance(other, Tensor | int | float):
            return NotImplemented
        # Not all of torch's functions take a number on the left.
        pair = (torch.as_tensor(other), self) if reflected else (self, other)
        return AbstractSoft.__torch_function__(getattr(torch, name), (), pair)

    return operator


def _unreadable(self: "AbstractSoft", *_: Any) -> None:
    raise TypeError(refusal(self.site, "reading it as a Python number"))


def _unhashable(self: "AbstractSoft") -> None:
    raise TypeError(refusal(self.site, "using it as a key"))


class AbstractSoft(Tensor):
    """What soft values have in common: a shape and a type, and no data of their own.

    Attributes:
        site: Name of the sample site, or sites, for errors.
        kind: Its shape, type and device, which tracers need not know of.
    """

    site: str
    kind: tuple[torch.Size, torch.dtype, torch.device]

    # Tensor's own operators turn a TypeError of ours into Python's, or a plain False.
    __add__ = _operator("add")
    __radd__ = _operator("add", reflected=True)
    __sub__ = _operator("sub")
    __rsub__ = _operator("sub", reflected=True)
    __mul__ = _operator("mul")
    __rmul__ = _operator("mul", reflected=True)
    __truediv__ = _operator("div")
    __rtruediv__ = _operator("div", reflected=True)
    __floordiv__ = _operator("floor_divide")
    __rfloordiv__ = _operator("floor_divide", reflected=True)
    __mod__ = _operator("remainder")
    __rmod__ = _operator("remainder", reflected=True)
    __pow__ = _operator("pow")
    __rpow__ = _operator("pow", reflected=True)
    __matmul__ = _operator("matmul")
    __rmatmul__ = _operator("matmul", reflected=True)
    __eq__ = _operator("eq")
    __ne__ = _operator("ne")
    __lt__ = _operator("lt")
    __le__ = _operator("le")
    __gt__ = _operator("gt")
    __ge__ = _operator("ge")
    __and__ = _operator("bitwise_and")
    __rand__ = _operator("bitwise_and", reflected=True)
    __or__ = _operator("bitwise_or")
    __ror__ = _operator("bitwise_or", reflected=True)
    __xor__ = _operator("bitwise_xor")
    __rxor__ = _operator("bitwise_xor", reflected=True)
    __int__ = __float__ = __complex__ = __index__ = _unreadable
    __format__ = _unreadable
    item = tolist = numpy = __array__ = _unreadable
    __hash__ = _unhashable

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
    def __torch_function__(
        cls,
        func: Any,
        types: Iterable[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Look up the rule of a function, or refuse it."""
        call = Call(_name(func), func, args, kwargs or {})
        function = _RULES.get(call.name)
        if function is None:
            raise TypeError(refusal(call.sites, call.name))
        return function(call)

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Iterable[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Refuse what reaches the dispatcher: a soft value has no data to read."""
        raise TypeError(refusal(sites((args, kwargs)), str(func)))


class SoftNumber(AbstractSoft):
    """The mean of an integer whose support is too large to list, such as a sum of bits.

    Arithmetic sees the mean; whatever would round it raises an error.

    Shapes:
        number: any; the shape of the integer array that it stands for.

    Args:
        number: Mean of the integers.
        dtype: Type that the discrete program's integers have.
        site: Name of the relaxed sites, for errors.

    Raises:
        TypeError: When it is compared, used as an index or condition, or read as a
            Python number.

    Example:
        >>> weights = torch.tensor([[0.25, 0.5], [0.75, 0.5]])
        >>> z = soft_index("z", torch.arange(2), weights)
        >>> 2.0 * z.sum()
        tensor(2.5000)

    Twin: :class:`numpyro_concrete.soft_index.SoftNumber`.
    """

    number: Tensor

    @staticmethod
    def __new__(
        cls: "type[SoftNumber]", number: Tensor, dtype: torch.dtype, site: str
    ) -> "SoftNumber":
        """Return a tensor without data, of the shape and type of the integers."""
        soft = _empty(cls, number.shape, dtype, number.device)
        soft.number, soft.site = number, site
        return soft

    def __bool__(self) -> bool:
        """Refuse to be a condition."""
        raise TypeError(refusal(self.site, "a Python condition on it"))

    def __repr__(self) -> str:
        """Show the site and the shape."""
        return f"SoftNumber(site={self.site!r}, shape={tuple(self.shape)})"

    def __deepcopy__(self, memo: Any) -> "SoftNumber":
        """Copy the number."""
        return SoftNumber(self.number.clone(), self.dtype, self.site)

    def __reduce_ex__(self, proto: Any) -> tuple:
        """Pickle as a number."""
        return SoftNumber, (self.number, self.dtype, self.site)


class SoftIndex(AbstractSoft):
    """An integer that is a convex combination of integers.

    Each operation on it is applied to every value of its support. An integer or boolean
    result stays soft, with the same weights; a float result is the weighted sum. At a
    vertex, where one weight is one, every result is the discrete program's.

    Shapes:
        states: (*supports, *shape), with one leading axis for each draw; positions of
            size one stand for all.
        shape: the shape of the site, as for its samples.

    Args:
        states: Value for each joint value of the draws.
        draws: Weights of each support.

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

    Twin: :class:`numpyro_concrete.soft_index.SoftIndex`.
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
        cls: "type[SoftIndex]", states: Tensor, draws: Sequence[Draw]
    ) -> "SoftIndex":
        """Return a tensor without data, of the shape and type of the site's samples."""
        if len(draws) == 1 and states.dim() == 1:
            shape = draws[0].weights.shape[1:]
        else:
            positions = (d.weights.shape[1:] for d in draws)
            shape = joint_shape(states.shape[len(draws) :], *positions)
        soft = _empty(cls, shape, states.dtype, states.device)
        missing = len(draws) + len(shape) - states.dim()
        if missing:
            supports, positions = states.shape[: len(draws)], states.shape[len(draws) :]
            states = states.reshape(*supports, *(1,) * missing, *positions)
        soft.states, soft.draws = states, tuple(draws)
        return soft

    @property
    def site(self) -> str:
        """Names of the sites that it depends on."""
        return " and ".join(dict.fromkeys(d.site for d in self.draws))

    def __bool__(self) -> bool:
        """Return the truth where every value of the support has the same."""
        truths = self.states.bool()
        if self.numel() == 1 and bool((truths == truths.flatten()[0]).all()):
            return bool(truths.flatten()[0])
        raise TypeError(refusal(self.site, "a Python condition on it"))

    def __repr__(self) -> str:
        """Show the site, the shape and the size of the support."""
        support = tuple(len(d.weights) for d in self.draws)
        return f"SoftIndex(site={self.site!r}, shape={tuple(self.shape)}, {support=})"

    def __deepcopy__(self, memo: Any) -> "SoftIndex":
        """Copy the values and the weights."""
        draws = tuple(Draw(d.weights.clone(), d.site) for d in self.draws)
        return SoftIndex(self.states.clone(), draws)

    def __reduce_ex__(self, proto: Any) -> tuple:
        """Pickle as values and weights."""
        return SoftIndex, (self.states, self.draws)


def soft_index(site: str, values: Tensor, weights: Tensor) -> SoftIndex:
    """Return the soft value of a site.

    Shapes:
        values: (K,).
        weights: (K, *shape).

    Args:
        site: Name of the sample site, for errors.
        values: The integers of its support.
        weights: Their weights, which sum to one over the first axis.

    Example:
        >>> z = soft_index("z", torch.arange(2), torch.tensor([0.25, 0.75]))
        >>> torch.tensor([4.0, 8.0])[z]
        tensor(7.)

    Twin: :func:`numpyro_concrete.soft_index.soft_index`.
    """
    return SoftIndex(values, (Draw(weights, site),))


def _empty(cls: type, *kind: Any) -> Any:
    shape, dtype, device = kind
    soft = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
    soft.kind = (torch.Size(shape), dtype, device)
    return soft


def joint_shape(*shapes: Any) -> Any:
    """Return the shape that shapes broadcast to."""
    # torch's own takes ten times as long to find that there is nothing to do.
    shapes = tuple(x for x in shapes if len(x)) or shapes
    if all(x == shapes[0] for x in shapes):
        return shapes[0]
    return torch.broadcast_shapes(*shapes)


def leaves(tree: Any) -> Iterator[Any]:
    """Return what is in nested tuples, lists and dictionaries, as arguments are."""
    # torch's own pytrees do this ten times slower, at every operation.
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, tuple | list):
        yield tree
        return
    for x in tree:
        yield from leaves(x)


def mapped(transform: Callable, tree: Any) -> Any:
    """Return nested tuples, lists and dictionaries with their leaves transformed."""
    if isinstance(tree, dict):
        return {key: mapped(transform, x) for key, x in tree.items()}
    if isinstance(tree, tuple | list) and not isinstance(tree, torch.Size):
        return type(tree)([mapped(transform, x) for x in tree])
    return transform(tree)


def is_soft(x: Any) -> bool:
    """Tell whether a value stands for an integer, rather than being an array.

    Args:
        x: Any value.

    Example:
        >>> is_soft(torch.arange(2))
        False
    """
    return isinstance(x, AbstractSoft)


def softs(tree: Any) -> list[Any]:
    """Return the soft values among arguments."""
    return [x for x in leaves(tree) if isinstance(x, AbstractSoft)]


def sites(tree: Any) -> str:
    """Return the names of the sites among arguments, for errors."""
    return " and ".join(dict.fromkeys(x.site for x in softs(tree)))


def tensors(tree: Any) -> list[Tensor]:
    """Return the tensors among arguments, soft ones as well."""
    return [x for x in leaves(tree) if isinstance(x, Tensor)]


def numbers(tree: Any) -> list[Any]:
    """Return the tensors and Python's numbers among arguments."""
    return [x for x in leaves(tree) if isinstance(x, Tensor | int | float)]


def blank(x: Any) -> Any:
    """Return a plain tensor of the kind of a soft value, anything else as it is."""
    if not isinstance(x, AbstractSoft):
        return x
    shape, dtype, device = x.kind
    return torch.empty((), dtype=dtype, device=device).expand(shape)


def plain(x: Any) -> Any:
    """Return a value of the program as plain numbers: a constant, or the mean.

    Args:
        x: Any value, or nested containers of values.

    Example:
        >>> plain(soft_index("z", torch.arange(2), torch.tensor([0.25, 0.75])))
        tensor(0.7500)
    """
    if isinstance(x, Tensor):
        return _mean(x)
    return mapped(_mean, x) if softs(x) else x


def _mean(x: Any) -> Any:
    if not isinstance(x, AbstractSoft):
        return x
    if not isinstance(x, SoftIndex):
        return x.number
    if x.known_mean is not None:
        return x.known_mean
    dtype = x.states.dtype if x.is_floating_point() else x.draws[0].weights.dtype
    states = x.states.to(dtype)
    if states.numel() == len(states) and len(x.draws) == 1:
        weights = x.draws[0].weights.to(dtype)
        return (weights.movedim(0, -1) @ states.flatten()).expand(x.shape)
    return total(states, x.draws, bounded=False).expand(x.shape)


def _name(func: Any) -> str:
    """The name of a torch function, an operator or a property."""
    name = func.__name__
    if name == "__get__":
        return "." + func.__self__.__name__
    return name[2:-2] if name.startswith("__") else name
