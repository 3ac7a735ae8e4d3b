"""What soft values have in common, and how a torch function finds its rule.

torch calls `AbstractSoft.__torch_function__` for every function with a soft value among
its arguments. It looks up the rule that is registered under the function's name.

Counterpart: ``numpyro_concrete.soft_index.value``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pyro_concrete.internals import Shape, tensor_without_data
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.trees import Argument, Tree, leaves, map_leaves

# What a function of a tensor returns: one, or several such as those of `split`.
Results: TypeAlias = Tensor | tuple[Tensor, ...]
# A function that moves the elements of a tensor, or changes their type.
Move: TypeAlias = Callable[[Tensor], Tensor]
# Dimensions that torch's reductions take.
Dims: TypeAlias = int | Sequence[int] | None


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
        return site_names(self.operands)

    def run(self, transform: Callable) -> Any:
        """Call the function on transformed arguments."""
        args = map_leaves(transform, self.args)
        if not self.kwargs:
            return self.func(*args)
        return self.func(*args, **map_leaves(transform, self.kwargs))

    def with_arguments(self, transform: Callable) -> "Call":
        """Return the call with transformed arguments."""
        args, kwargs = map_leaves(transform, self.operands)
        return self._replace(args=args, kwargs=kwargs)

    def arguments(self, *names: str, **defaults: Any) -> list[Argument]:
        """Return arguments in this order, however they were given."""
        arguments = defaults | self.kwargs | dict(zip(names, self.args, strict=False))
        return [arguments[name] for name in names]


# What to do with a torch function, by its name.
RULES: dict[str, Callable[[Call], Any]] = {}


def rule(names: str) -> Callable:
    """Register a rule for the functions of these names."""

    def register(function: Callable[[Call], Any]) -> Callable[[Call], Any]:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return register


def _operator(name: str) -> Callable:
    function = getattr(torch, name)

    def operator(self: Tensor, other: Argument) -> Argument:
        if not isinstance(other, Tensor | int | float):
            return NotImplemented
        return AbstractSoft.__torch_function__(function, (), (self, other))

    return operator


def _reflected(name: str, operator: str) -> Callable:
    function = getattr(torch, name)
    # Not all of torch's functions take a number on the left.
    of_number = getattr(Tensor, operator)

    def reflected(self: Tensor, other: Argument) -> Argument:
        if isinstance(other, Tensor):
            return AbstractSoft.__torch_function__(function, (), (other, self))
        if not isinstance(other, int | float):
            return NotImplemented
        return AbstractSoft.__torch_function__(of_number, (), (self, other))

    return reflected


def _unreadable(self: "AbstractSoft", *_: object) -> None:
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

    def exact(self) -> Any:
        """Return the value with its support and probabilities.

        Raises:
            TypeError: If only the mean of the value is known.
        """
        raise NotImplementedError

    def __bool__(self) -> bool:
        """Return the truth where every value of the support has the same."""
        try:
            states = self.exact().states
        except TypeError:
            states = None
        if states is not None and self.numel() == 1:
            truths = states.bool().flatten()
            if bool((truths == truths[0]).all()):
                return bool(truths[0])
        raise TypeError(refusal(self.site, "a Python condition on it"))

    def __format__(self, format_spec: str) -> str:
        """Show what it is, whatever the format for numbers."""
        return repr(self)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable,
        types: Iterable[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Look up the rule of a function, or refuse it."""
        call = Call(_name(func), func, args, kwargs or {})
        function = RULES.get(call.name) or RULES["_without_rule"]
        try:
            return function(call)
        except _NAMED_ERRORS as error:
            if "is relaxed" in str(error) or type(error) not in _NAMED_ERRORS:
                raise
            message = f"{error} (the value of site {call.sites!r} is relaxed)"
            raise type(error)(message) from error


class AbstractSoftInteger(AbstractSoft):
    """An integer that is soft: it has a shape and a type, and no data of its own.

    Attributes:
        tensor_spec: Its shape, type and device, which tracers need not know of.
    """

    tensor_spec: tuple[torch.Size, torch.dtype, torch.device]

    # Read without a detour through __torch_function__, and past tracers.
    @property
    def shape(self) -> torch.Size:
        """The shape of the site."""
        return self.tensor_spec[0]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the site's samples."""
        return self.tensor_spec[1]

    @property
    def device(self) -> torch.device:
        """The device of the values."""
        return self.tensor_spec[2]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.tensor_spec[0])

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.tensor_spec[0])

    def is_floating_point(self) -> bool:
        """Tell whether the type of the site's samples is a floating one."""
        return self.tensor_spec[1].is_floating_point

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Callable,
        types: Iterable[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Refuse what reaches the dispatcher: a soft value has no data to read."""
        # Tensor's operators would take a TypeError for "compare them in another way".
        raise RuntimeError(refusal(site_names((args, kwargs)), str(func)))


def each_result(transform: Callable[[Argument], Argument], results: Tree) -> Tree:
    """Transform what a function of torch returns: a value, or a tuple of values."""
    if not isinstance(results, tuple | list):
        return transform(results)
    # Tuples, lists, and torch's own kinds of named tuples.
    return type(results)([transform(x) for x in results])


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


def soft_leaves(tree: Tree) -> list[Argument]:
    """Return the soft values among arguments."""
    return [x for x in leaves(tree) if isinstance(x, AbstractSoft)]


def site_names(tree: Tree) -> str:
    """Return the names of the sites among arguments, for errors."""
    return " and ".join(dict.fromkeys(x.site for x in soft_leaves(tree)))


def are_independent(operands: Tree) -> bool:
    """Tell whether no two soft operands depend on the same site."""
    names = [x.site.split(" and ") for x in soft_leaves(operands)]
    return len(set().union(*names)) == sum(map(len, names))


def tensor_leaves(tree: Tree) -> list[Tensor]:
    """Return the tensors among arguments, soft ones as well."""
    return [x for x in leaves(tree) if isinstance(x, Tensor)]


def _name(func: Any) -> str:
    """The name of a torch function, an operator or a property."""
    name = func.__name__
    if name == "__get__":
        return "." + func.__self__.__name__
    return name[2:-2] if name.startswith("__") else name


def empty_soft_integer(
    cls: type, shape: Shape, dtype: torch.dtype, device: torch.device
) -> Any:
    """Return a soft integer of a class, of a shape and a type, without values."""
    soft = tensor_without_data(cls, shape, dtype, device)
    soft.tensor_spec = (torch.Size(shape), dtype, device)
    return soft
