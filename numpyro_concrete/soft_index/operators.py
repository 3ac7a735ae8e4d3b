"""The operators of soft values where no interpreter runs, as under handlers.reparam.

Counterpart: ``pyro_concrete.soft_index``.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import quax

from numpyro_concrete.soft_index.registry import Operand, evaluate


def _operator(function: Callable) -> Callable:
    def operator(self: Operand, *others: Operand) -> Operand:
        return evaluate(lambda *x: function(*x), self, *others)

    return operator


def _reflected(function: Callable) -> Callable:
    def operator(self: Operand, other: Operand) -> Operand:
        return evaluate(lambda x, y: function(y, x), self, other)

    return operator


def _method(function: Callable) -> Callable:
    # Shapes, axes and indices stay as they are.
    def operator(self: Operand, *args: Any, **kwargs: Any) -> Operand:
        return evaluate(lambda x: function(x, *args, **kwargs), self)

    return operator


class Operators(quax.ArrayValue):
    """The operators and some methods of an array."""

    __add__ = __radd__ = _operator(jnp.add)
    __mul__ = __rmul__ = _operator(jnp.multiply)
    __sub__, __rsub__ = _operator(jnp.subtract), _reflected(jnp.subtract)
    __truediv__, __rtruediv__ = _operator(jnp.divide), _reflected(jnp.divide)
    __floordiv__ = _operator(jnp.floor_divide)
    __mod__ = _operator(jnp.remainder)
    __matmul__, __rmatmul__ = _operator(jnp.matmul), _reflected(jnp.matmul)
    __pow__, __neg__ = _operator(jnp.power), _operator(jnp.negative)
    __eq__, __ne__ = _operator(jnp.equal), _operator(jnp.not_equal)
    __lt__, __le__ = _operator(jnp.less), _operator(jnp.less_equal)
    __gt__, __ge__ = _operator(jnp.greater), _operator(jnp.greater_equal)
    __and__ = __rand__ = _operator(jnp.bitwise_and)
    __or__ = __ror__ = _operator(jnp.bitwise_or)
    __invert__ = _operator(jnp.invert)
    __getitem__ = _method(lambda x, index: x[index])
    astype, reshape = _method(jnp.astype), _method(jnp.reshape)
    sum, mean = _method(jnp.sum), _method(jnp.mean)
    all, any = _method(jnp.all), _method(jnp.any)
    __hash__ = object.__hash__
