"""What the estimators of both packages share: scorings, families and validation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from concrete_core.types import Temperature

# What scores a relaxed site: its density, or the discrete log-probabilities averaged
# with the probabilities of the soft sample.
SCORINGS = ("concrete", "discrete")


class AbstractEstimatorSettings:
    """What is known of an estimator without the functions of a backend.

    Attributes:
        scorings: What may score a site, the default first.
        default_temperature: Temperature of sites that are given none, > 0, or schedule.
        num_noise_draws: Draws of noise that one discrete sample takes, >= 1.
    """

    scorings: ClassVar[tuple[str, ...]]
    default_temperature: ClassVar[Temperature]
    num_noise_draws: ClassVar[int] = 1


@dataclass(frozen=True)
class Families:
    """The distributions that sample and score relaxed sites under an estimator.

    Attributes:
        one_hot: Makes the distribution of a site of n classes.
        binary: Makes the distribution of a two-valued site.

    Example:
        >>> Families(one_hot=list, binary=dict).choose(is_binary=True)
        <class 'dict'>
    """

    one_hot: Callable
    binary: Callable

    def choose(self, *, is_binary: bool) -> Callable:
        """Return the family of a site.

        Args:
            is_binary: Whether the site has two values and one logit.
        """
        if is_binary:
            return self.binary
        return self.one_hot


def validate_estimator(
    estimator: object,
    scoring: str | None,
    name: str | None,
    *,
    estimator_type: type[AbstractEstimatorSettings],
) -> None:
    """Raise an error unless an estimator is one, and goes with the scoring.

    Args:
        estimator: An estimator, or a mapping from names of sites to estimators.
        scoring: What scores the sites, or None for the estimator's default.
        name: Name of the site, if the estimator is that of one site.
        estimator_type: The abstract estimator of the package.

    Raises:
        TypeError: If it is not an estimator of the package.
        ValueError: If the scoring is unknown, or needs a density of discrete samples.
    """
    if isinstance(estimator, Mapping):
        for site_name, site_estimator in estimator.items():
            validate_estimator(
                site_estimator, scoring, site_name, estimator_type=estimator_type
            )
        return
    site_prefix = "" if name is None else f"site {name!r}: "
    if not isinstance(estimator, estimator_type):
        raise TypeError(
            f"{site_prefix}an estimator is an instance such as Relaxed(), "
            f"StraightThrough() or GumbelRao(10), and not {estimator!r}"
        )
    if scoring is None:
        return
    if scoring not in SCORINGS:
        raise ValueError(f"scoring is one of {[*SCORINGS]}, not {scoring!r}")
    if scoring not in estimator.scorings:
        raise ValueError(
            f"{site_prefix}{estimator} draws discrete samples, which have a mass and "
            "no density. Leave out scoring=..., or set it to 'discrete'"
        )
