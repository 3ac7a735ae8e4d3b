"""Where the soft parameters of a distribution are, and how to replace them.

A parameter can be deep inside: in the base of a distribution, in a transform, in a list
of components. Its path has the names of attributes and the positions in sequences.

Counterpart: none; in Pyro these are in ``parameters.py``.
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import lazy_property

from numpyro_concrete.soft_index.interpreter import value_of
from numpyro_concrete.soft_index.value import AbstractSoft, is_soft

Path = tuple[str | int, ...]
# A distribution, transform, constraint or sequence that has parameters.
Owner = Any
# The value of a parameter, soft or plain.
Parameter = Any


@dataclasses.dataclass(frozen=True)
class SoftParameter:
    """A soft parameter, and where it is.

    Args:
        path: Where it is.
        owner: What it is a parameter of.
        value: The soft value.
    """

    path: Path
    owner: Owner
    value: AbstractSoft

    @property
    def name(self) -> str | int:
        """Its name, or its position in a sequence."""
        return self.path[-1]

    def is_real(self) -> bool:
        """Tell whether it is a real number, so that a mean can stand for it."""
        constraint = getattr(self.owner, "arg_constraints", {}).get(self.name)
        if constraint is not None:
            try:
                return not constraint.is_discrete
            except NotImplementedError:
                # It depends on other parameters, as the bounds of an interval do.
                return not _is_discrete(self.owner)
        dtype = self.value.aval().dtype
        if isinstance(self.owner, Distribution) and not str(self.name).startswith("_"):
            return jnp.issubdtype(dtype, jnp.inexact)  # others may be indices
        return not jnp.issubdtype(dtype, jnp.bool_)


def soft_parameters(owner: Owner, path: Path = ()) -> Iterator[SoftParameter]:
    """Find all soft parameters of a distribution.

    Args:
        owner: The distribution, with its wrappers, or a part of it.
        path: Where this part is.
    """
    for key, parameter in _items(owner):
        value = value_of(parameter)
        if is_soft(value) and not _is_cached(owner, key):
            yield SoftParameter((*path, key), owner, value)
        else:
            yield from soft_parameters(parameter, (*path, key))


def replace_parameters(owner: Owner, values: Mapping[Path, Parameter]) -> Owner:
    """Return the same distribution with other parameters.

    Args:
        owner: The distribution.
        values: New values, by where they are.
    """
    # Its leaves are not mapped: some distributions would lose what is no leaf.
    values_by_key: dict[str | int, dict[Path, Parameter]] = {}
    for (key, *inner_path), value in values.items():
        values_by_key.setdefault(key, {})[tuple(inner_path)] = value
    if isinstance(owner, list | tuple):
        return type(owner)(
            [_replace_parameter(x, values_by_key.get(i)) for i, x in enumerate(owner)]
        )
    new = copy.copy(owner)
    fields = vars(new)
    for key, value in list(fields.items()):
        if _is_cached(owner, key) and is_soft(value_of(value)):
            del fields[key]
    for key, inner_values in values_by_key.items():
        fields[key] = _replace_parameter(fields[key], inner_values)
    if isinstance(new, Distribution):
        fields["_validate_args"] = False
    return new


def _replace_parameter(
    old: Parameter, values: Mapping[Path, Parameter] | None
) -> Parameter:
    """Return the value at the empty path, or else the old one with parts replaced."""
    if not values:
        return old
    return values[()] if () in values else replace_parameters(old, values)


def _items(owner: Owner) -> list[tuple[str | int, Parameter]]:
    if isinstance(owner, list | tuple):
        return list(enumerate(owner))
    is_parametrized = isinstance(
        owner, Distribution | Transform | constraints.Constraint
    )
    if is_parametrized and hasattr(owner, "__dict__"):
        return list(vars(owner).items())
    return []


def _is_cached(owner: Owner, key: str | int) -> bool:
    """Whether an attribute is no parameter, but was computed from others."""
    if not isinstance(key, str) or key in getattr(owner, "arg_constraints", {}):
        return False
    return isinstance(getattr(type(owner), key, None), lazy_property)


def _is_discrete(fn: Owner) -> bool:
    try:
        return bool(fn.is_discrete)
    except (AttributeError, NotImplementedError, TypeError):
        return False
