"""SoftBit: the relaxed value of a two-valued site, which cannot be cast by mistake.

A relaxed Bernoulli is a number between 0 and 1. Cast to an integer or a boolean,
compared or used as an index it would lose its gradient and its meaning without a word.
A `SoftBit` is that number with a guard: arithmetic sees the number, and whatever would
round it raises an error that names the site and the ways out. At 0 and 1 every result
equals the discrete program's.

Twin: ``numpyro_concrete.soft_index``.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What keeps an integer an integer: the result is guarded, too.
_SHAPE = _names("""
    reshape view view_as expand expand_as broadcast_to unsqueeze squeeze transpose
    swapaxes permute movedim flatten unflatten t narrow select __getitem__ unbind split
    chunk stack cat repeat tile flip roll clone detach contiguous requires_grad_ to type
    type_as float double half bfloat16 cpu cuda __deepcopy__
""")
_INTEGER = _names("""
    add sub mul rsub neg subtract multiply negative
    __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __neg__
""")
# What rounds, compares or reads a value: there is no relaxation of it.
_REFUSED = _names("""
    long int short char byte bool eq ne lt le gt ge equal
    __eq__ __ne__ __lt__ __le__ __gt__ __ge__
    logical_not logical_and logical_or logical_xor
    bitwise_not bitwise_and bitwise_or bitwise_xor
    __and__ __rand__ __or__ __ror__ __xor__ __rxor__ __invert__
    item tolist numpy __array__ __bool__ __int__ __index__ __float__ __contains__
    nonzero argwhere round floor ceil trunc sign sgn argmax argmin unique one_hot
""")
# Where a soft operand in this position picks elements: function -> positions of the
# pick.
_PICKS = {
    "__getitem__": (1,),
    "__setitem__": (1,),
    "where": (0,),
    "masked_fill": (1,),
    "masked_select": (1,),
    "index_select": (2,),
    "gather": (2,),
    "take": (1,),
    "take_along_dim": (1,),
    "embedding": (0,),
}


def refusal(site: str, operation: str) -> str:
    """Return the message for an operation that has no relaxation.

    Args:
        site: Name of the relaxed site.
        operation: What the program tried to do with its value.
    """
    return (
        f"site {site!r} is relaxed: its value is between 0 and 1, and {operation} "
        "would round it and lose the gradient. Leave the site out with "
        "infer={'relax': False} or enumerate it with infer={'enumerate': 'parallel'}; "
        "or, where the relaxed number itself is meant, take it with 1.0 * value"
    )


def _operator(name: str) -> Callable:
    def operator(self: "SoftBit", other: Any) -> Tensor:
        if other is not self:  # x == x asks for NaN, as the hosts' validation does
            raise TypeError(refusal(self.site, name))
        return getattr(plain(self), name)(plain(other))

    return operator


class SoftBit(Tensor):
    """A number in [0, 1] that stands for a bit: the relaxed value of a Bernoulli site.

    Shapes:
        value: any; the shape of the site.

    Args:
        value: Relaxed value in [0, 1].
        site: Name of the sample site, for errors.

    Raises:
        TypeError: When it is cast to an integer or boolean, compared, used as an index
            or condition, or read as a Python number.

    Example:
        >>> z = SoftBit(torch.tensor(0.25), "z")
        >>> 2.0 * z
        tensor(0.5000)
        >>> z == 1
        Traceback (most recent call last):
        TypeError: site 'z' is relaxed: its value is between 0 and 1, and __eq__ ...

    Twin: :class:`numpyro_concrete.soft_index.SoftBit`.
    """

    site: str

    # Tensor's own operators turn a TypeError of ours into Python's, or a plain False.
    __eq__ = _operator("__eq__")
    __ne__ = _operator("__ne__")
    __lt__ = _operator("__lt__")
    __le__ = _operator("__le__")
    __gt__ = _operator("__gt__")
    __ge__ = _operator("__ge__")
    __and__ = __rand__ = _operator("__and__")
    __or__ = __ror__ = _operator("__or__")
    __xor__ = __rxor__ = _operator("__xor__")
    __hash__ = Tensor.__hash__

    @staticmethod
    def __new__(cls: "type[SoftBit]", value: Tensor, site: str) -> "SoftBit":
        """Return the value as a guarded tensor, in the same graph."""
        with torch._C.DisableTorchFunctionSubclass():
            soft = value.as_subclass(cls)
        soft.site = site
        return soft

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Iterable[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Let arithmetic see the number, and refuse what would round it."""
        kwargs = kwargs or {}
        name = func.__name__
        softs = [x for x in tree_iter((args, kwargs)) if isinstance(x, SoftBit)]
        site = " and ".join(dict.fromkeys(s.site for s in softs))
        if _refused(name, args, kwargs):
            raise TypeError(refusal(site, name))
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if name == "broadcast_tensors":
            return type(result)(map(_guard_like, result, args))
        if _keeps_integers(name, args, kwargs):
            return _guard(result, site)
        return result

    def __deepcopy__(self, memo: Any) -> "SoftBit":
        """Copy as a number and its site."""
        return SoftBit(copy.deepcopy(plain(self), memo), self.site)

    def __reduce_ex__(self, proto: int) -> tuple:
        """Pickle as a number and its site."""
        return SoftBit, (plain(self), self.site)


def plain(value: Any) -> Any:
    """Return a soft bit as the plain tensor that it is, anything else as it is.

    Args:
        value: Any value.

    Example:
        >>> plain(SoftBit(torch.tensor(0.25), "z"))
        tensor(0.2500)
    """
    if not isinstance(value, SoftBit):
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(Tensor)


def _refused(name: str, args: tuple, kwargs: dict[str, Any]) -> bool:
    if name in _REFUSED or not _stays_float(name, args, kwargs):
        return True
    picks = (args[i : i + 1] for i in _PICKS.get(name, ()))
    return any(isinstance(x, SoftBit) for x in tree_iter(list(picks)))


def _stays_float(name: str, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a cast, if this is one, goes to a floating-point type."""
    if name not in ("to", "type"):
        return True
    dtypes = (x for x in (*args[1:], *kwargs.values()) if isinstance(x, torch.dtype))
    return all(x.is_floating_point for x in dtypes)


def _keeps_integers(name: str, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the discrete program's result would be integers again."""
    if name in _INTEGER:
        operands = (*args, *kwargs.values())
        return all(isinstance(x, int | SoftBit) for x in operands)
    # A property such as T is a shape operation if it gives a tensor of numbers.
    if name not in _SHAPE and name != "__get__":
        return False
    return all(isinstance(x, SoftBit) for x in tree_iter(args[0]))


def _guard_like(result: Tensor, operand: Any) -> Tensor:
    return SoftBit(result, operand.site) if isinstance(operand, SoftBit) else result


def _guard(result: Any, site: str) -> Any:
    if isinstance(result, Tensor) and result.is_floating_point():
        return SoftBit(result, site)
    if isinstance(result, tuple | list) and not isinstance(result, torch.Size):
        return type(result)(_guard(x, site) for x in result)
    return result
