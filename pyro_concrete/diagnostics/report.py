"""gradient_report: the bias, variance and time of gradients, estimator by estimator.

The programs are relaxed with each estimator at each temperature, and their gradients
sampled; `concrete_core.diagnostics` compares these with the reference.

Counterpart: ``numpyro_concrete.diagnostics.report``.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from concrete_core.diagnostics.candidates import (
    Candidate,
    estimator_label,
    measure,
    notes_of,
    relaxation_notes,
    site_estimators,
    temperature_label,
    temperature_pair,
    validate_candidates,
    validate_draws,
    validate_latent_sites,
)
from concrete_core.diagnostics.report import (
    GradientReport,
    build_report,
    steepness_notes,
)
from concrete_core.types import Elbo, Program, Temperature
from pyro_concrete.diagnostics.gradient_sampler import (
    GradientSampler,
    ProgramPair,
    Programs,
    discrete_latents,
    preserved_params,
    validate_unrelaxed,
)
from pyro_concrete.diagnostics.references import ReferenceBuilder
from pyro_concrete.estimators import (
    Estimator,
    GumbelRao,
    ReinMax,
    Relaxed,
    StraightThrough,
    validate_estimator,
)
from pyro_concrete.relaxation import relax

_ESTIMATORS = (Relaxed(), StraightThrough(), GumbelRao(10), ReinMax())
# Draws of a reference that is not exact, for each draw of an estimator.
_REFERENCE_DRAWS = 10


def gradient_report(
    model: Program,
    guide: Program,
    *args: Any,
    estimators: Sequence[Any] | None = None,
    temperatures: Sequence[Temperature] = (0.5, 1.0),
    scoring: str | None = None,
    elbo: Elbo = None,
    objectives: Mapping[str, Elbo] | None = None,
    num_samples: int = 1000,
    reference: Any = "auto",
    num_reference: int | None = None,
    budget: int | float = 2**20,
    progress_bar: bool = False,
    **kwargs: Any,
) -> GradientReport:
    r"""Measure the bias, variance and time of gradients, for a model of your own.

    Model and guide are the discrete ones. They are relaxed with each estimator at each
    temperature, and the gradient of the relaxed ELBO is compared with that of the
    discrete ELBO, in the parameters of the discrete programs at their current values.
    So the bias of `Relaxed` is the difference between two objectives: of its own, the
    relaxed ELBO, its gradient is unbiased.

    The reference is exact where `TraceEnum_ELBO` can enumerate the discrete sites,
    which the shapes tell before it is tried, as in `plan_sites`. Otherwise it is the
    mean of many draws of a score-function estimator, whose standard error counts among
    the noise.

    Look at the bias and the variance together: one draw has a mean squared error of
    squared bias plus variance, and only the second falls with more draws. They belong
    to the current parameters. Measure at the start of training and near its end.

    It warns of hard estimators whose draws are 100 times as long as others. Their
    slopes are those at one-hot samples, where a function such as ``log(z + 1e-6)`` is
    steep.

    Args:
        model: Discrete model, as it was before `relax`.
        guide: Its discrete guide.
        *args: Arguments of both.
        estimators: Estimators, each as `relax` takes it; by default `Relaxed()`,
            `StraightThrough()`, `GumbelRao(10)` and `ReinMax()`.
        temperatures: Temperatures, each as `relax` takes it, or a pair of those of
            model and guide. Every estimator is measured at every one of them.
        scoring: What scores relaxed sites, under the estimators that have a choice:
            "concrete" or "discrete", by default their own.
        elbo: ELBO of the relaxed programs; by default `TraceEnum_ELBO` if some sites
            are set to be enumerated, `TraceGraph_ELBO` if others stay discrete, and
            `Trace_ELBO` if neither.
        objectives: Further ELBOs by name, of the backend or of this package, for the
            unchanged discrete programs. A draw is one call, of all its particles.
        num_samples: Number of draws of each, >= 2.
        reference: "enumeration"; "score" for a long run of an unbiased estimator of the
            backend; "auto" for enumeration where that is possible; an unbiased ELBO to
            run instead; or the gradients of the ELBO, by name of the parameter.
        num_reference: Number of draws of a reference that is not exact, >= 2; by
            default ten times `num_samples`.
        budget: Largest number of elements of a tensor of enumeration, > 0.
        progress_bar: Show the progress over draws.
        **kwargs: Keyword arguments of both.

    Returns:
        A report: print it, plot it, or read its arrays.

    Raises:
        TypeError: If something else is given as an estimator or as the reference.
        ValueError: If there are fewer than two draws; if a site is relaxed already, or
            `relax` relaxes no site of the guide; if there is no parameter, or nothing
            to measure; if a reference does not fit the parameters, or enumeration is
            asked for and not possible.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def guide():
        ...     logits = pyro.param("a", torch.tensor(1.0))
        ...     return pyro.sample("z", dist.Bernoulli(logits=logits))
        >>> def model():
        ...     pyro.factor("gain", 3.0 * guide())
        >>> report = gradient_report(model, guide, num_samples=20)
        >>> print(report.reference["a"].round(3))  # 3 p (1 - p), for p = 0.731
        0.59
        >>> report.params, len(report.estimators), report.bias.shape
        (('a',), 8, (8, 2))

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Counterpart: :func:`numpyro_concrete.gradient_report`.
    """
    num_reference = num_reference or _REFERENCE_DRAWS * num_samples
    validate_draws(num_samples, num_reference)
    estimators = _ESTIMATORS if estimators is None else estimators
    for estimator in estimators:
        validate_estimator(estimator, None)
    with preserved_params():
        sampler = GradientSampler(model, guide, args, kwargs)
        _validate_programs(sampler)
        candidates = [
            *_relaxed_candidates(sampler, estimators, temperatures, scoring, elbo),
            *_discrete_candidates(sampler, objectives or {}),
        ]
        validate_candidates(candidates)
        builder = ReferenceBuilder(sampler, num_reference, budget, progress_bar)
        truth = builder.build(reference)
        measurements = measure(
            candidates, truth, num_samples, sampler.sample, progress_bar
        )
    steep = steepness_notes(measurements, truth)
    for note in steep:
        warnings.warn(note, stacklevel=2)
    return build_report(measurements, truth, (*notes_of(candidates), *steep))


def _relaxed_candidates(
    sampler: GradientSampler,
    estimators: Sequence[Estimator],
    temperatures: Sequence[Temperature],
    scoring: str | None,
    elbo: Elbo,
) -> Iterator[Candidate]:
    """The relaxed programs."""
    for estimator in estimators:
        relax_at = _relaxation(sampler, estimator, scoring)
        for temperature in temperatures:
            programs = relax_at(*temperature_pair(temperature))
            pair = sampler.inspect(*programs)
            yield Candidate(
                estimator=estimator_label(estimator),
                temperature=temperature_label(temperature),
                elbo=elbo or pair.unbiased_elbo(),
                programs=programs,
                is_hard=_is_hard(estimator),
                notes=_notes(sampler.pair, pair),
            )


def _relaxation(
    sampler: GradientSampler, estimator: Estimator, scoring: str | None
) -> Callable[..., Programs]:
    """A function from temperatures of model and guide to these, relaxed."""
    own_scoring = _scoring_for(estimator, scoring)

    def relax_at(
        model_temperature: Temperature, guide_temperature: Temperature
    ) -> Programs:
        relax_program = functools.partial(
            relax, estimator=estimator, scoring=own_scoring
        )
        return (
            relax_program(sampler.model, model_temperature),
            relax_program(sampler.guide, guide_temperature),
        )

    return relax_at


def _discrete_candidates(
    sampler: GradientSampler, objectives: Mapping[str, Elbo]
) -> Iterator[Candidate]:
    """The unchanged discrete programs under further objectives."""
    programs = (sampler.model, sampler.guide)
    for name, elbo in objectives.items():
        yield Candidate(name, temperature="", elbo=elbo, programs=programs)


def _validate_programs(sampler: GradientSampler) -> None:
    """Raise if relax would do nothing, or there is no parameter."""
    validate_unrelaxed(sampler.pair.model, "model")
    validate_latent_sites(discrete_latents(sampler.pair.guide))
    if not sampler.params:
        raise ValueError("neither model nor guide has a parameter to differentiate in")


def _scoring_for(estimator: Estimator, scoring: str | None) -> str | None:
    """The scoring that was asked for, if the estimator has the choice."""
    validate_estimator(Relaxed(), scoring)  # raises if the scoring is unknown
    scorings = [
        site_estimator.scorings for site_estimator in site_estimators(estimator)
    ]
    return scoring if all(scoring in choices for choices in scorings) else None


def _is_hard(estimator: Estimator) -> bool:
    """Whether the programs receive one-hot samples at some site."""
    return any(
        not isinstance(site_estimator, Relaxed)
        for site_estimator in site_estimators(estimator)
    )


def _notes(discrete: ProgramPair, relaxed: ProgramPair) -> tuple[str, ...]:
    """What a reader of the report has to know of the relaxed programs."""
    notes = relaxation_notes(
        left_out_params=sorted(relaxed.params.keys() - discrete.params.keys()),
        discrete_sites={**discrete.model, **discrete.guide},
        unrelaxed_sites=list(discrete_latents(relaxed.guide)),
    )
    return tuple(notes)
