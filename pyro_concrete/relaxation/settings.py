"""The settings of `relax`, and those of one site among them.

A site takes each setting from its own ``infer={"relax": ...}`` if it is there, then
from the arguments of `relax`, which may be mappings by site.

Counterpart: ``numpyro_concrete.relaxation.settings``.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro_concrete.estimators import (
    AbstractEstimator,
    Estimator,
    Relaxed,
    validate_estimator,
)
from pyro_concrete.relaxation.checks import (
    check_names,
    check_site_settings,
    check_sites,
)
from pyro_concrete.relaxation.messages import Message
from pyro_concrete.relaxation.site import (
    BackendRelaxation,
    SiteSettings,
    SiteTemperature,
    SiteTruncate,
    backend_relaxation_of,
    can_relax,
)
from pyro_concrete.relaxation.wrappers import leaf_of

Sites = Collection[str] | Callable[[Message], bool]
Temperature = SiteTemperature | Mapping[str, SiteTemperature]
Truncate = SiteTruncate | Mapping[str, SiteTruncate]


@dataclass
class Settings:
    """The arguments of `relax`.

    Attributes:
        temperature: Temperature, a schedule, or a mapping of these by site.
        sites: Names of the sites to relax, or a predicate.
        truncate: Truncation of unbounded supports, or a mapping by site.
        estimator: Estimator, or a mapping by site.
        scoring: What scores the relaxed sites, "concrete" or "discrete"; None for the
            estimator's default. There is no value by site.
        estimators_used: Estimators of the sites that have been run, by name, for
            `cite`.
    """

    temperature: Temperature | None
    sites: Sites | None = None
    truncate: Truncate | None = None
    estimator: Estimator | None = None
    scoring: str | None = None
    estimators_used: dict[str, AbstractEstimator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_sites(self.sites)
        if self.estimator is None:
            self.estimator = Relaxed()
        validate_estimator(self.estimator, self.scoring)

    def check_names(self, names: Collection[str]) -> None:
        """Raise a ValueError if a setting names a site that the program lacks."""
        by_site = {
            "sites": self.sites,
            "temperature": self.temperature,
            "truncate": self.truncate,
            "estimator": self.estimator,
        }
        check_names(by_site, names)

    def should_relax(self, msg: Message) -> bool:
        """Tell whether a message is a latent site that is to be relaxed."""
        # Where a handler inside of `relax` has set the value, nothing is drawn.
        if msg["is_observed"] or msg["value"] is not None or not can_relax(msg["fn"]):
            return False
        choice = msg["infer"].get("relax")
        if choice is False:
            return False
        if callable(self.sites):
            return bool(self.sites(msg))
        if self.sites is not None:
            return msg["name"] in self.sites
        # Settings of the site outweigh its mark for enumeration.
        return choice is not None or not msg["infer"].get("enumerate")

    def for_site(self, msg: Message) -> SiteSettings:
        """Return the settings of the site of a message, and note its estimator."""
        name = msg["name"]
        native = backend_relaxation_of(leaf_of(msg["fn"]))
        estimator = self._estimator(msg, native)
        validate_estimator(estimator, self.scoring, name)
        temperature = self._temperature(msg, native)
        if temperature is None and native is None:
            temperature = estimator.default_temperature
        self.estimators_used[name] = estimator
        scoring = self.scoring
        if scoring is None and native is not None and "concrete" in estimator.scorings:
            scoring = "concrete"  # as the program itself scores its samples
        return SiteSettings(
            temperature=temperature,
            truncate=self.truncation(msg),
            estimator=estimator,
            scoring=scoring,
        )

    def truncation(self, msg: Message) -> SiteTruncate | None:
        """Return the truncation of the site of a message."""
        default = setting_for_site(self.truncate, msg["name"])
        return _own_settings(msg).get("truncate", default)

    def _temperature(
        self, msg: Message, native: BackendRelaxation | None
    ) -> SiteTemperature | None:
        """The temperature that a site is given, or None."""
        name = msg["name"]
        temperature = _own_settings(msg).get("temperature")
        if temperature is not None:
            return temperature
        if native is not None and not _names_site(self.temperature, name):
            return None
        return setting_for_site(self.temperature, name)

    def _estimator(self, msg: Message, native: BackendRelaxation | None) -> Any:
        """The estimator of a site, before it is validated."""
        name = msg["name"]
        estimator = _own_settings(msg).get("estimator")
        if estimator is not None:
            return estimator
        if native is not None and not _names_site(self.estimator, name):
            estimator = native.estimator
        return estimator or setting_for_site(self.estimator, name) or Relaxed()


def setting_for_site(setting: Any, name: str) -> Any:
    """Return the value of a setting for one site: of a mapping, or one for all sites.

    Args:
        setting: A value, or a mapping by site.
        name: Name of the site. A mapping without it gives None.
    """
    if isinstance(setting, Mapping):
        return setting.get(name)
    return setting


def _names_site(setting: object, name: str) -> bool:
    """Whether a setting is a mapping by site that has this one."""
    return isinstance(setting, Mapping) and name in setting


def _own_settings(msg: Message) -> dict[str, Any]:
    """The settings of a site by its own ``infer={"relax": ...}``."""
    settings = msg["infer"].get("relax")
    if not isinstance(settings, dict):
        return {}
    check_site_settings(msg["name"], settings)
    return settings
