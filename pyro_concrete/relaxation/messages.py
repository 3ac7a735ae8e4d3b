"""What `relax` reads from the messages of sample statements and writes to them.

Handlers exchange messages: dictionaries with the name, distribution and value of one
site. `relax` makes two sites of a discrete site ``z``: it samples ``z_relaxed``, and
turns ``z`` into a deterministic site. This module has the names of these sites, and the
record that they carry in ``infer`` for the handlers, guides and objectives that meet
them later.

Counterpart: ``numpyro_concrete.relaxation.messages``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Size, Tensor

Message = dict[str, Any]
Program = Callable[..., Any]
# Pyro adds its methods to torch's distributions by a mixin, which type checkers cannot
# see at torch's classes.
AnyDistribution = Any
Shape = Size | Sequence[int]

# The key of the record in the `infer` of a site.
RELAX_RECORD = "_relax_record"
RELAXED_SUFFIX = "_relaxed"
_TRUNCATED_MASS = "_truncated_mass"


def relaxed_name(name: str) -> str:
    """Return the name of the relaxed site of a discrete site.

    Example:
        >>> relaxed_name("z")
        'z_relaxed'

    Counterpart: :func:`numpyro_concrete.relaxation.messages.relaxed_name`.
    """
    return name + RELAXED_SUFFIX


def discrete_name(name: str) -> str:
    """Return the name of the discrete site of a relaxed site; other names unchanged.

    Example:
        >>> discrete_name("z_relaxed"), discrete_name("x")
        ('z', 'x')

    Counterpart: :func:`numpyro_concrete.relaxation.messages.discrete_name`.
    """
    return name.removesuffix(RELAXED_SUFFIX)


def truncated_mass_name(name: str) -> str:
    """Return the name of the site that records the truncated probability of a site.

    Example:
        >>> truncated_mass_name("z")
        'z_truncated_mass'

    Counterpart: :func:`numpyro_concrete.relaxation.messages.truncated_mass_name`.
    """
    return name + _TRUNCATED_MASS


@dataclass(frozen=True, eq=False)
class ReturnedValue:
    """The value that a sample statement returns in place of the one that handlers have.

    Attributes:
        handler: The handler that puts it there, after all handlers around it.
        value: The value, such as a `SoftIndex`.
        expected: The value that the handlers around are to leave at the site, such as
            the mean of a `SoftIndex`; None if they may change it.
    """

    handler: object
    value: Tensor
    expected: Tensor | None = None


@dataclass(frozen=True, eq=False)
class RelaxRecord:
    """What `relax` notes at a site.

    Attributes:
        discrete: At ``z_relaxed``: the distribution of the discrete site. None where a
            guide has replaced the relaxed distribution.
        values: At ``z_relaxed``: values of the discrete site, in the order of the
            classes. None for one-hot vectors.
        temperature: At ``z_relaxed``: a parameter, number or schedule, which a guide
            takes over. None for a constant tensor, which the distribution has.
        returned: At ``z``: the value that its sample statement returns.
    """

    discrete: AnyDistribution | None = None
    values: Tensor | None = None
    temperature: Any = None
    returned: ReturnedValue | None = None


_EMPTY = RelaxRecord()


def record_of(site: Mapping[str, Any]) -> RelaxRecord:
    """Return the record of a site, or an empty one.

    Args:
        site: Message of the site.

    Example:
        >>> record_of({"infer": {}}).values is None
        True

    Counterpart: :func:`numpyro_concrete.relaxation.messages.record_of`.
    """
    return site["infer"].get(RELAX_RECORD, _EMPTY)
