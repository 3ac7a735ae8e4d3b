"""The candidates of a gradient report: their labels, notes and measurement."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from concrete_core.diagnostics.moments import Moments
from concrete_core.diagnostics.report import Measurement, Reference
from concrete_core.types import Elbo, Infer, Messages, Temperature


@dataclass(frozen=True)
class Candidate:
    """A way to draw gradients.

    Attributes:
        estimator: Label of the estimator, or name of the objective.
        temperature: Label of the temperature; empty for an objective.
        elbo: ELBO of the backend.
        programs: Model and guide, as the backend's sampler of gradients takes them.
        settings: Numbers that the programs depend on.
        is_hard: Whether the programs receive one-hot samples.
        notes: What a reader of the report has to know of it.
    """

    estimator: str
    temperature: str
    elbo: Elbo
    programs: Any
    settings: tuple[Any, ...] = ()
    is_hard: bool = False
    notes: tuple[str, ...] = ()


def measure(
    candidates: Sequence[Candidate],
    reference: Reference,
    num_samples: int,
    sample: Callable[[Candidate, int, Moments, tqdm], float],
    progress_bar: bool,
) -> list[Measurement]:
    """Draw the gradients of each candidate, and return what was measured.

    Args:
        candidates: What to measure.
        reference: Gradient that cosines are taken to.
        num_samples: Number of draws of each.
        sample: Adds a number of draws of a candidate to moments, moves a progress bar,
            and returns the median time of a draw.
        progress_bar: Whether to show the progress over draws.
    """
    measurements = []
    total = len(candidates) * num_samples
    with progress(total, None, progress_bar) as bar:
        for candidate in candidates:
            bar.set_description(candidate.estimator)
            moments = Moments(reference.mean)
            seconds = sample(candidate, num_samples, moments, bar)
            measurement = Measurement(
                estimator=candidate.estimator,
                temperature=candidate.temperature,
                moments=moments,
                seconds=seconds,
                is_hard=candidate.is_hard,
            )
            measurements.append(measurement)
    return measurements


def progress(total: int, description: str | None, progress_bar: bool) -> tqdm:
    """Return a progress bar over draws.

    Args:
        total: Number of draws.
        description: What is drawn.
        progress_bar: Whether to show it.
    """
    return tqdm(total=total, unit="draw", desc=description, disable=not progress_bar)


def notes_of(candidates: Sequence[Candidate]) -> list[str]:
    """Return the notes on all candidates, without repetitions.

    Args:
        candidates: What was measured.
    """
    return list(dict.fromkeys(note for c in candidates for note in c.notes))


def validate_candidates(candidates: Sequence[Candidate]) -> None:
    """Raise if there is nothing to measure.

    Args:
        candidates: What to measure.

    Raises:
        ValueError: If there are none.
    """
    if not candidates:
        raise ValueError("nothing to measure: give estimators or objectives")


def validate_draws(num_samples: int, num_reference: int) -> None:
    """Raise if there are too few draws for a variance.

    Args:
        num_samples: Number of draws of each candidate.
        num_reference: Number of draws of the reference.

    Raises:
        ValueError: If there are fewer than two of either.
    """
    numbers = {"num_samples": num_samples, "num_reference": num_reference}
    for name, number in numbers.items():
        if number < 2:
            raise ValueError(f"a variance takes two draws, and {name} is {number}")


def validate_latent_sites(sites: Messages) -> None:
    """Raise if `relax` would relax none of these sites of a guide.

    Args:
        sites: Messages of the latent discrete sites, by name.

    Raises:
        ValueError: If none is relaxed, according to their per-site settings.
    """
    if any(is_relaxed_by_settings(site["infer"]) for site in sites.values()):
        return
    names = ", ".join(map(repr, sites)) or "none"
    raise ValueError(
        f"no site of the guide is relaxed by relax; its discrete sites: {names}. A "
        "site with the setting infer={'relax': False}, as by harden, is left "
        "unchanged: pass a guide that samples the discrete sites itself"
    )


def is_relaxed_by_settings(infer: Infer) -> bool:
    """Tell whether `relax` relaxes a discrete site, according to its settings.

    Args:
        infer: The `infer` dictionary of the site.

    Example:
        >>> is_relaxed_by_settings({}), is_relaxed_by_settings({"relax": False})
        (True, False)
        >>> is_relaxed_by_settings({"enumerate": "parallel"})
        False
    """
    setting = infer.get("relax")
    if setting is None:
        return not infer.get("enumerate")
    return setting is not False


def relaxation_notes(
    left_out_params: Sequence[str],
    discrete_sites: Messages,
    unrelaxed_sites: Sequence[str],
) -> Iterator[str]:
    """Return what a reader of the report has to know of the relaxed programs.

    Args:
        left_out_params: Parameters that the discrete programs do not have.
        discrete_sites: Messages of the sites of the discrete programs, by name.
        unrelaxed_sites: Discrete sites of the relaxed guide.
    """
    if left_out_params:
        yield (
            "Left out are parameters that the discrete programs do not have: "
            f"{', '.join(left_out_params)}."
        )
    for name, site in discrete_sites.items():
        setting = site["infer"].get("relax")
        if not isinstance(setting, dict):
            continue
        own_settings = sorted({"temperature", "estimator"} & setting.keys())
        if own_settings:
            yield (
                f"Site {name!r} has its own {' and '.join(own_settings)}, set in the "
                "program, which holds in every row."
            )
    if unrelaxed_sites:
        yield f"Discrete sites that stay discrete: {', '.join(unrelaxed_sites)}."


def temperature_pair(temperature: Temperature) -> tuple[Temperature, Temperature]:
    """Return the temperatures of model and guide.

    Args:
        temperature: One for both, or a pair of those of model and guide.

    Example:
        >>> temperature_pair(0.5), temperature_pair((0.5, 1.0))
        ((0.5, 0.5), (0.5, 1.0))
    """
    if not isinstance(temperature, tuple):
        return temperature, temperature
    model_temperature, guide_temperature = temperature
    return model_temperature, guide_temperature


def site_estimators(estimator: Any) -> list[Any]:
    """Return the estimators of all sites.

    Args:
        estimator: Estimator, or a mapping of estimators by site.

    Example:
        >>> site_estimators({"z": "ReinMax", "w": "ZGR"}), site_estimators("ZGR")
        (['ReinMax', 'ZGR'], ['ZGR'])
    """
    if isinstance(estimator, Mapping):
        return list(estimator.values())
    return [estimator]


def estimator_label(estimator: Any) -> str:
    """Return an estimator in a few words.

    Args:
        estimator: Estimator, or a mapping of estimators by site.

    Example:
        >>> from types import SimpleNamespace
        >>> estimator_label({"z": SimpleNamespace(samples=10)})
        'z: SimpleNamespace(10)'
    """
    if isinstance(estimator, Mapping):
        return ", ".join(f"{k}: {estimator_label(x)}" for k, x in estimator.items())
    settings = ", ".join(map(str, vars(estimator).values()))
    return f"{type(estimator).__name__}({settings})"


def temperature_label(temperature: Temperature) -> str:
    """Return a temperature in a few words.

    Args:
        temperature: Number, schedule, or a pair of those of model and guide.

    Example:
        >>> temperature_label((0.5, 2 / 3))
        '0.5, 0.667'
    """
    if isinstance(temperature, tuple):
        return ", ".join(map(temperature_label, temperature))
    if isinstance(temperature, int | float):
        return f"{temperature:.3g}"
    return getattr(temperature, "__name__", str(temperature))
