"""cite: the BibTeX entries of the methods that programs use.

This file maps classes and functions to the keys of ``concrete_core/references.bib``;
`concrete_core.citations` looks them up in what a program is made of.

Counterpart: ``numpyro_concrete.citations``.
"""

from collections.abc import Iterator

from concrete_core.citations import Bibliography, KeysByObject, Part, cite_programs
from pyro_concrete.diagnostics import gradient_report, relaxation_gap
from pyro_concrete.distributions import (
    AbstractConcrete,
    BinaryConcrete,
    Concrete,
    ExpConcrete,
    LogitBinaryConcrete,
)
from pyro_concrete.estimators import ZGR, GumbelRao, ReinMax, Relaxed, StraightThrough
from pyro_concrete.guides import AutoConcrete
from pyro_concrete.objectives import (
    IWAE,
    REBAR,
    RLOO,
    DisARM,
    LocalExpectations,
    iwae_bound,
    iwae_bound_over_data,
)
from pyro_concrete.planning import Plan, plan_sites
from pyro_concrete.relaxation import ConcreteReparam, config_relax, harden, relax
from pyro_concrete.relaxation.handlers import (
    ConfigMessenger,
    HandledModule,
    HardenMessenger,
    RelaxMessenger,
)

_CONCRETE = ("maddison2017concrete", "jang2017categorical")

__all__ = ["Bibliography", "cite"]

_KEYS: KeysByObject = {
    relax: _CONCRETE,
    config_relax: _CONCRETE,
    harden: _CONCRETE,
    RelaxMessenger: _CONCRETE,
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
    LocalExpectations: ("titsias2015local", "desmet2023differentiable"),
    DisARM: ("dong2020disarm",),
    REBAR: ("tucker2017rebar",),
    IWAE: ("burda2016importance", "mnih2016variational", "mnih2014neural"),
    iwae_bound: ("burda2016importance",),
    iwae_bound_over_data: ("burda2016importance",),
    relaxation_gap: ("burda2016importance",),
    gradient_report: (),
    plan_sites: ("obermeyer2019tensor",),
    Plan: ("obermeyer2019tensor",),
}


def cite(*programs: Part) -> Bibliography:
    """Return the BibTeX entries of the methods that programs use.

    For a relaxed program these are the papers of the Concrete distribution, found by
    two groups in the same year, and those of its estimators. A program that has been
    run, as after training, is cited with the estimators that its sites had; before
    that, with those that `relax` was given, which may leave out per-site settings
    inside of the program. This software comes last.

    Args:
        *programs: Relaxed programs, guides, estimators, objectives, plans, an `SVI`, or
            functions of this package such as `iwae_bound`. Without any, all entries
            are returned.

    Returns:
        The entries. Print them, or write them to a file.

    Raises:
        TypeError: If one of them has nothing of this package in it.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Categorical(logits=torch.zeros(3)))
        >>> relaxed = relax(model, temperature=1.0, estimator=ReinMax())
        >>> cite(relaxed, iwae_bound).keys[:3]
        ('maddison2017concrete', 'jang2017categorical', 'liu2023bridging')
        >>> print(cite(DisARM()).partition(",")[0])
        @inproceedings{dong2020disarm

    Counterpart: :func:`numpyro_concrete.cite`.
    """
    return cite_programs(programs, _KEYS, _parts)


def _parts(part: Part) -> Iterator[Part]:
    """The parts of this package's programs: their settings and estimators."""
    if isinstance(part, RelaxMessenger):
        yield from part.settings.estimators_used.values() or [part.settings.estimator]
    elif isinstance(part, ConcreteReparam):
        yield part.settings.estimator
    elif isinstance(part, ConfigMessenger):
        yield part.site_settings
    elif isinstance(part, HandledModule):
        yield part.handler
