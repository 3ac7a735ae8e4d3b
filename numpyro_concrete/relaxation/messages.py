"""What `relax` reads from the messages of sample statements and writes to them.

Handlers exchange messages: dictionaries with the name, distribution and value of one
site. `relax` makes two sites of a discrete site ``z``: it samples ``z_relaxed``, and
turns ``z`` into a deterministic site. This module has the names of these sites, and the
record that ``z_relaxed`` carries in ``infer`` for the handlers, guides and objectives
that meet it later.

Counterpart: ``pyro_concrete.relaxation.messages``.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from numpyro.distributions import Distribution

Message = dict[str, Any]
Program = Callable[..., Any]
# `Distribution` does not declare the attributes of its subclasses.
AnyDistribution = Any
Shape = Sequence[int]

# The key of the record in the `infer` of a site.
RELAX_RECORD = "_relax_record"
RELAXED_SUFFIX = "_relaxed"
_TRUNCATED_MASS = "_truncated_mass"


def relaxed_name(name: str) -> str:
    """Return the name of the relaxed site of a discrete site.

    Example:
        >>> relaxed_name("z")
        'z_relaxed'

    Counterpart: :func:`pyro_concrete.relaxation.messages.relaxed_name`.
    """
    return name + RELAXED_SUFFIX


def discrete_name(name: str) -> str:
    """Return the name of the discrete site of a relaxed site; other names unchanged.

    Example:
        >>> discrete_name("z_relaxed"), discrete_name("x")
        ('z', 'x')

    Counterpart: :func:`pyro_concrete.relaxation.messages.discrete_name`.
    """
    return name.removesuffix(RELAXED_SUFFIX)


def truncated_mass_name(name: str) -> str:
    """Return the name of the site that records the truncated probability of a site.

    Example:
        >>> truncated_mass_name("z")
        'z_truncated_mass'

    Counterpart: :func:`pyro_concrete.relaxation.messages.truncated_mass_name`.
    """
    return name + _TRUNCATED_MASS


# A tree, so that an interpreter around the program reaches the arrays of the discrete
# distribution.
@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["discrete"],
    meta_fields=["values", "temperature"],
)
@dataclass(frozen=True)
class RelaxRecord:
    """What `relax` notes at a site.

    Attributes:
        discrete: The distribution of the discrete site. None where a guide has replaced
            the relaxed distribution, and inside of a scan, whose sites are compared.
        values: Values of the discrete site, in the order of the classes. None for
            one-hot vectors.
        temperature: A number or schedule, which a guide takes over. None for an array,
            which the distribution has.
    """

    discrete: Distribution | None = None
    values: tuple[int | float, ...] | None = None
    temperature: Any = None


_EMPTY = RelaxRecord()


def record_of(site: Mapping[str, Any]) -> RelaxRecord:
    """Return the record of a site, or an empty one.

    Args:
        site: Message of the site.

    Example:
        >>> record_of({"infer": {}}).values is None
        True

    Counterpart: :func:`pyro_concrete.relaxation.messages.record_of`.
    """
    return site["infer"].get(RELAX_RECORD, _EMPTY)
