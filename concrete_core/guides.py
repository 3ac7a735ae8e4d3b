"""What the guides of both packages share: calls of a program, checks of init_logits."""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from concrete_core.types import Program

Argument = Any  # of a program, which a guide passes on


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a program.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.

    Example:
        >>> Call((3,), {"base": 2}).apply(lambda x, base: base**x)
        8
    """

    args: tuple[Argument, ...] = ()
    kwargs: Mapping[str, Argument] = field(default_factory=dict)

    def apply(self, program: Program) -> Any:
        """Return what a program returns for these arguments."""
        return program(*self.args, **self.kwargs)

    def signature(self, array_types: type | tuple[type, ...]) -> Hashable:
        """Return what Python code can branch on before it reads values of arrays.

        Two calls of equal signatures take the same branches of a model that does not
        read its data: types, containers, strings and Python numbers, shapes and dtypes.
        Only the type of a float counts, as floats may change at every step.

        Args:
            array_types: Types whose values are compared by shape and dtype only.

        Example:
            >>> Call(([1, None],)).signature(()) == Call(([2, None],)).signature(())
            False
            >>> Call((0.1,)).signature(()) == Call((0.2,)).signature(())
            True
        """
        return _signature((self.args, self.kwargs), array_types)


def _signature(argument: Argument, array_types: type | tuple[type, ...]) -> Hashable:
    if isinstance(argument, array_types):
        return argument.shape, argument.dtype
    if isinstance(argument, Mapping):
        items = argument.items()
        return type(argument), tuple(
            (str(key), _signature(value, array_types)) for key, value in items
        )
    if isinstance(argument, tuple | list):
        return type(argument), tuple(_signature(x, array_types) for x in argument)
    if argument is None or isinstance(argument, bool | int | str):
        # With its type, as True equals 1.
        return type(argument), argument
    return type(argument)


def validate_init_logits(init_logits: object) -> None:
    """Raise an error unless `init_logits` is one of the documented settings.

    Args:
        init_logits: "prior", "init_loc_fn" or a mapping from names of sites to logits.

    Raises:
        ValueError: If it is another string.

    Example:
        >>> validate_init_logits("uniform")
        Traceback (most recent call last):
        ValueError: init_logits must be "prior", "init_loc_fn" or a mapping from ...
    """
    if isinstance(init_logits, str) and init_logits not in ("prior", "init_loc_fn"):
        raise ValueError(
            'init_logits must be "prior", "init_loc_fn" or a mapping from names of '
            f"sites to logits, not {init_logits!r}"
        )


def validate_init_logits_names(
    init_logits: object, relaxed_names: Collection[str]
) -> None:
    """Raise an error if `init_logits` names a site that is not relaxed.

    Args:
        init_logits: Setting of the guide; only a mapping has names.
        relaxed_names: Names of the relaxed sites.

    Raises:
        ValueError: If a name is not among them.

    Example:
        >>> validate_init_logits_names({"y": 0.0}, ["z"])
        Traceback (most recent call last):
        ValueError: init_logits names no relaxed site: ['y']; the model has ['z']
    """
    if not isinstance(init_logits, Mapping):
        return
    unknown_names = sorted(set(init_logits) - set(relaxed_names))
    if unknown_names:
        raise ValueError(
            f"init_logits names no relaxed site: {unknown_names}; the model has "
            f"{sorted(relaxed_names)}"
        )
