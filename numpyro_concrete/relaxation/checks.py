"""Errors about settings and sites that would otherwise give wrong results silently.

Counterpart: ``pyro_concrete.relaxation.checks``.
"""

from collections.abc import Collection, Mapping
from typing import Any

from numpyro_concrete.distributions import (
    AbstractConcrete,
    ExpConcreteMass,
    LogitBinaryConcreteMass,
    check_temperature,
)
from numpyro_concrete.relaxation.messages import AnyDistribution, Shape, relaxed_name
from numpyro_concrete.relaxation.surroundings import Guidance
from numpyro_concrete.relaxation.wrappers import leaf_of

_SITE_SETTINGS = {"temperature", "truncate", "estimator"}


def check_names(settings: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise a ValueError if a setting names a site that the program does not have.

    Args:
        settings: Settings of `relax`, by their names.
        names: Names of the sites of the program.
    """
    for setting, value in settings.items():
        is_list = setting == "sites" and value is not None and not callable(value)
        if not is_list and not isinstance(value, Mapping):
            continue
        unknown = sorted(set(value) - set(names))
        if unknown:
            raise ValueError(
                f"relax(..., {setting}=...) names {unknown}, and the program has no "
                f"such sample site. Name sites of the program, {sorted(names)}"
            )


def check_relaxed_names(setting: str, value: object, relaxed: Collection[str]) -> None:
    """Raise a ValueError if a guide's setting names a site that it does not relax.

    Args:
        setting: Name of the setting.
        value: Its value; a mapping has names of sites.
        relaxed: Names of the relaxed sites.
    """
    if not isinstance(value, Mapping):
        return
    unknown = sorted(set(value) - set(relaxed))
    if unknown:
        raise ValueError(
            f"{setting} names no relaxed site: {unknown}; the model has "
            f"{sorted(relaxed)}"
        )


def check_site_settings(name: str, settings: Mapping[str, object]) -> None:
    """Raise a ValueError if the settings of a site have a name that there is not.

    Args:
        name: Name of the site.
        settings: Its settings, as in ``infer={"relax": ...}``.
    """
    unknown = sorted(set(settings) - _SITE_SETTINGS)
    if unknown:
        raise ValueError(
            f"site {name!r} has infer={{'relax': ...}} with unknown {unknown}. Give "
            "'temperature', 'truncate' or 'estimator'"
        )


def check_sites(sites: object) -> None:
    """Raise a TypeError if `sites` are neither names nor a predicate."""
    if isinstance(sites, str):
        raise TypeError(f"sites is a collection of names, such as [{sites!r}]")


def check_shape(
    name: str,
    shape: Shape,
    expected: Shape,
    is_enumerated: bool = False,
) -> None:
    """Raise a ValueError if a guide's sample of a relaxed site has another shape.

    Under enumeration the site may have axes to the left, of the sites it depends on,
    which the guide's sample does not have.

    Args:
        name: Name of the site.
        shape: Shape of the sample.
        expected: Shape of the relaxed site in the model.
        is_enumerated: Whether the model is enumerated.
    """
    is_short = len(shape) < len(expected) and not is_enumerated
    sizes = zip(reversed(shape), reversed(expected), strict=False)
    if is_short or any(a != b and 1 not in (a, b) for a, b in sizes):
        raise ValueError(
            f"site {name!r}: the model's {relaxed_name(name)!r} has shape "
            f"{tuple(expected)}, and it is set to a value of shape {tuple(shape)}. If "
            "a guide was set up for other data or classes, make a new one"
        )


def check_guide(name: str, fn: AnyDistribution, guidance: Guidance) -> None:
    """Raise a ValueError if the guide's site is not relaxed, or in another way.

    Also if the guide, or a sampler, moves it by a density that it does not have.

    Args:
        name: Name of the site.
        fn: Distribution of the relaxed site in the model.
        guidance: What the handlers around the model have for the site.
    """
    _check_density(name, fn, guidance)
    if guidance.relaxed_value is not None:
        return
    if guidance.relaxed is None:
        if guidance.has_latent:
            raise ValueError(
                f"site {name!r} is relaxed in the model, and the guide samples it "
                "without relaxation. Relax the guide as well, "
                "relax(guide, temperature), or use AutoConcrete(relaxed_model)"
            )
        return
    model_leaf = leaf_of(fn)
    guide_leaf = leaf_of(guidance.relaxed["fn"])
    is_concrete = isinstance(guide_leaf, AbstractConcrete)
    if is_concrete and type(guide_leaf) is not type(model_leaf):
        raise ValueError(
            f"site {relaxed_name(name)!r} is {type(model_leaf).__name__} in the model "
            f"and {type(guide_leaf).__name__} in the guide. Relax both alike: with the "
            "same estimator and scoring"
        )


def check_hardened(name: str, guidance: Guidance) -> None:
    """Raise a ValueError if the guide of a hardened model has a relaxed site.

    Args:
        name: Name of the site.
        guidance: What the handlers around the model have for the site.
    """
    if guidance.relaxed is not None:
        raise ValueError(
            f"site {name!r} is discrete in the model, and relaxed in the guide. Harden "
            "the guide as well, harden(guide), or train the relaxed model"
        )


def validate_temperature(temperature: Any) -> Any:
    """Return a temperature, or a mapping of them, that is positive as far as known.

    Args:
        temperature: Temperature, a schedule, a mapping of these by site, or None for
            that of the estimator.

    Raises:
        ValueError: If it is not positive and finite.
    """
    if isinstance(temperature, Mapping):
        for value in temperature.values():
            validate_temperature(value)
        return temperature
    if temperature is not None and not callable(temperature):
        check_temperature(temperature)
    return temperature


def _check_density(name: str, fn: AnyDistribution, guidance: Guidance) -> None:
    has_masses = isinstance(leaf_of(fn), ExpConcreteMass | LogitBinaryConcreteMass)
    if guidance.needs_density and has_masses:
        raise ValueError(
            f"site {relaxed_name(name)!r} has no density, which NUTS and guides like "
            "AutoNormal need: it is scored by log-probabilities of discrete values. "
            'Relax the model with scoring="concrete", or use AutoConcrete'
        )
