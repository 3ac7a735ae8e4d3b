"""A model and its guide with their arguments, and what a site says of a plate."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from concrete_core.types import Program


@runtime_checkable
class Frame(Protocol):
    """An entry of a site's `cond_indep_stack`: one plate that the site is in.

    Attributes:
        name: Name of the plate.
        dim: Batch dim of the plate, < 0; None where a plate of Pyro is a loop.
    """

    name: str
    dim: int | None


class Programs(NamedTuple):
    """A model, its guide, and the arguments that both are called with.

    Attributes:
        model: Model.
        guide: Guide of the model.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.

    Example:
        >>> programs = Programs(model=max, guide=min, args=(1, 2), kwargs={})
        >>> programs.guide(*programs.args)
        1
    """

    model: Program
    guide: Program
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
