"""cite: the BibTeX entries of the methods that programs use.

The entries are those of ``references.bib``, which lies beside this file.

Counterpart: ``pyro_concrete.citations``.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from numpyro_concrete.diagnostics import gradient_report, relaxation_gap
from numpyro_concrete.distributions import (
    AbstractConcrete,
    BinaryConcrete,
    Concrete,
    ExpConcrete,
    LogitBinaryConcrete,
)
from numpyro_concrete.estimators import (
    ZGR,
    GumbelRao,
    ReinMax,
    Relaxed,
    StraightThrough,
)
from numpyro_concrete.guides import AutoConcrete
from numpyro_concrete.objectives import IWAE, REBAR, RLOO, DisARM, iwae_bound
from numpyro_concrete.planning import Plan, plan_sites
from numpyro_concrete.relaxation import ConcreteReparam, config_relax, harden, relax
from numpyro_concrete.relaxation.handlers import (
    ConfigMessenger,
    HardenMessenger,
    Settings,
)

_CONCRETE = "maddison2017concrete", "jang2017categorical"
_SOFTWARE = "concrete_ppl"

_KEYS: dict[Any, tuple[str, ...]] = {
    relax: _CONCRETE,
    config_relax: _CONCRETE,
    harden: _CONCRETE,
    Settings: _CONCRETE,
    ConfigMessenger: _CONCRETE,
    HardenMessenger: _CONCRETE,
    ConcreteReparam: _CONCRETE,
    AutoConcrete: _CONCRETE,
    AbstractConcrete: _CONCRETE,
    Concrete: _CONCRETE,
    BinaryConcrete: _CONCRETE,
    ExpConcrete: _CONCRETE,
    LogitBinaryConcrete: _CONCRETE,
    Relaxed: _CONCRETE,
    StraightThrough: ("bengio2013estimating", "jang2017categorical"),
    GumbelRao: ("paulus2021rao",),
    ReinMax: ("liu2023bridging",),
    ZGR: ("shekhovtsov2023cold",),
    RLOO: ("kool2019buy", "mnih2016variational"),
    DisARM: ("dong2020disarm",),
    REBAR: ("tucker2017rebar",),
    IWAE: ("burda2016importance", "mnih2016variational", "mnih2014neural"),
    iwae_bound: ("burda2016importance",),
    relaxation_gap: ("burda2016importance",),
    gradient_report: (),
    plan_sites: ("obermeyer2019tensor",),
    Plan: ("obermeyer2019tensor",),
}

# Where wrappers, handlers, guides and SVI keep what they are made of.
_PARTS = ("__wrapped__", "__self__", "func", "args", "keywords", "fn", "config")
_PARTS += ("model", "guide", "loss", "mark", "settings")


class Bibliography(str):
    """BibTeX entries: text, which a prompt shows as it is.

    Args:
        text: The entries.

    Example:
        >>> Bibliography("@misc{concrete_ppl,}").keys
        ('concrete_ppl',)

    Counterpart: :class:`pyro_concrete.citations.Bibliography`.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> "Bibliography":
        """Return the text as entries."""
        return super().__new__(cls, text)

    def __repr__(self) -> str:
        return str(self)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the entries, in their order."""
        return tuple(re.findall(r"^@\w+\{(\w+)", self, flags=re.MULTILINE))


def cite(*programs: Any) -> Bibliography:
    """Return the BibTeX entries of the methods that programs use.

    Of a relaxed program these are the papers of the Concrete distribution, found by two
    groups in the same year, and those of its estimators. A program that has been run,
    as after training, is cited by the estimators that its sites had; before that, by
    those that `relax` was given, which leaves out what marks inside of the program say.
    This software comes last.

    Args:
        *programs: Relaxed programs, guides, estimators, objectives, plans, an `SVI`, or
            functions of this package such as `iwae_bound`. Without any, all entries
            are returned.

    Returns:
        The entries. Print them, or write them to a file.

    Raises:
        TypeError: If one of them has nothing of this package in it.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     numpyro.sample("z", dist.Categorical(logits=jnp.zeros(3)))
        >>> relaxed = relax(model, temperature=1.0, estimator=ReinMax())
        >>> cite(relaxed, iwae_bound).keys[:3]
        ('maddison2017concrete', 'jang2017categorical', 'liu2023bridging')
        >>> print(cite(DisARM()).partition(",")[0])
        @inproceedings{dong2020disarm

    Counterpart: :func:`pyro_concrete.cite`.
    """
    text = (
        resources.files("concrete_core").joinpath("references.bib").read_text("utf-8")
    )
    entries = Bibliography(text)
    if not programs:
        return entries
    found = {_SOFTWARE}.union(*map(_keys_of, programs))
    chosen = zip(entries.keys, text.strip().split("\n\n"), strict=True)
    return Bibliography("\n\n".join(x for key, x in chosen if key in found) + "\n")


def _keys_of(program: Any) -> set[str]:
    """The keys of a program and of all that it is made of."""
    is_ours, keys, left = False, set[str](), [program]
    seen: dict[int, Any] = {}  # held, or an id could come again
    while left:
        x = left.pop()
        if id(x) in seen:
            continue
        seen[id(x)] = x
        own = _own_keys(x)
        is_ours |= own is not None
        keys.update(own or ())
        left += _parts(x)
    if not is_ours:
        raise TypeError(
            f"cite finds nothing of this package in {program!r}: pass what relax has "
            "returned, a guide, an estimator, an objective, or an SVI of these"
        )
    return keys


def _own_keys(x: Any) -> tuple[str, ...] | None:
    if inspect.isroutine(x):
        return _KEYS.get(x)
    kinds = inspect.getmro(x if inspect.isclass(x) else type(x))
    return next((_KEYS[kind] for kind in kinds if kind in _KEYS), None)


def _parts(x: Any) -> Iterator[Any]:
    """What a program is made of: what it wraps, and the estimators of its sites."""
    if isinstance(x, str | bytes) or inspect.isclass(x) or inspect.ismodule(x):
        return
    if isinstance(x, Mapping):
        yield from x.values()
        return
    if isinstance(x, tuple | list):
        yield from x
        return
    if isinstance(x, Settings):
        yield from x.used.values() or [x.estimator]
    if isinstance(x, ConcreteReparam):
        yield x.estimator
    yield from (getattr(x, name) for name in _PARTS if hasattr(x, name))
