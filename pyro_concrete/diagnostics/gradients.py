"""gradient_report: what each way to pass gradients costs in bias, noise and time.

Counterpart: ``numpyro_concrete.diagnostics.gradients``.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from concrete_core.diagnostics.moments import Moments
from concrete_core.diagnostics.report import (
    GradientReport,
    Reference,
    Row,
    report_of,
    steepness_notes,
)
from pyro_concrete.diagnostics.draws import (
    Gradients,
    Pair,
    discrete_latents,
    refuse_relaxed,
    untouched,
)
from pyro_concrete.diagnostics.references import reference_of
from pyro_concrete.estimators import (
    Estimator,
    GumbelRao,
    ReinMax,
    Relaxed,
    StraightThrough,
    check_estimator,
)
from pyro_concrete.relaxation import relax

_ESTIMATORS = (Relaxed(), StraightThrough(), GumbelRao(10), ReinMax())
_PER_SAMPLE = 10  # draws of a reference that is not exact, for each of an estimator


def gradient_report(
    model: Callable,
    guide: Callable,
    *args: Any,
    estimators: Sequence[Any] | None = None,
    temperatures: Sequence[Any] = (0.5, 1.0),
    scoring: str | None = None,
    elbo: Any = None,
    objectives: Mapping[str, Any] | None = None,
    num_samples: int = 1000,
    reference: Any = "auto",
    num_reference: int | None = None,
    budget: int | float = 2**20,
    progress_bar: bool = False,
    **kwargs: Any,
) -> GradientReport:
    r"""Measure the bias, variance and cost of gradients, for a model of your own.

    Model and guide are the discrete ones. They are relaxed under each estimator at each
    temperature, and the gradients of the relaxed ELBO compared with that of the
    discrete ELBO, in the parameters of the discrete programs at their present values.
    So the bias of `Relaxed` is that of another objective, whose own gradient it has
    exactly.

    The reference is exact where the discrete sites can be enumerated in
    `TraceEnum_ELBO`, which is judged by the shapes before it is tried, as in
    `plan_sites`. Otherwise it is the mean of many draws of a score-function estimator,
    and its own error counts among the noise.

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
        estimators: What to relax by, each as `relax` takes it; by default `Relaxed()`,
            `StraightThrough()`, `GumbelRao(10)` and `ReinMax()`.
        temperatures: Temperatures, each as `relax` takes it, or a pair of those of
            model and guide. Every estimator is measured at every one of them.
        scoring: What scores relaxed sites, under the estimators that have a choice:
            "concrete" or "discrete", by default their own.
        elbo: ELBO of the relaxed programs; by default `Trace_ELBO`, `TraceEnum_ELBO`
            beside sites that are marked for enumeration, and `TraceGraph_ELBO` beside
            discrete ones that stay.
        objectives: Further ELBOs by name, of the host or of this package, for the
            discrete programs as they are. A draw is one call, of all its particles.
        num_samples: Number of draws of each, >= 2.
        reference: "enumeration"; "score" for a long run of an unbiased estimator of the
            host; "auto" for enumeration where it can be; an unbiased ELBO to run
            instead; or the gradients of the ELBO, by name of the parameter.
        num_reference: Number of draws of a reference that is not exact, >= 2; by
            default ten times `num_samples`.
        budget: Most elements of a tensor of enumeration, > 0.
        progress_bar: Show the progress over draws.
        **kwargs: Keyword arguments of both.

    Returns:
        A report: print it, plot it, or read its arrays.

    Raises:
        TypeError: If an estimator or the reference is none.
        ValueError: If there are fewer than two draws; if a site is relaxed already, or
            none of the guide is relaxed by `relax`; if there is no parameter, or
            nothing to measure; if a reference does not fit the parameters, or
            enumeration is asked for and refused.

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
    num_reference = num_reference or _PER_SAMPLE * num_samples
    for name, number in (
        ("num_samples", num_samples),
        ("num_reference", num_reference),
    ):
        if number < 2:
            raise ValueError(f"a variance takes two draws, and {name} is {number}")
    estimators = _ESTIMATORS if estimators is None else estimators
    notes: dict[str, None] = {}
    with untouched():
        gradients = Gradients(model, guide, args, kwargs)
        _check(gradients)
        candidates = [
            *_relaxed(gradients, estimators, temperatures, (scoring, elbo), notes),
            *_discrete(gradients, objectives or {}),
        ]
        _check_any(candidates)
        truth = reference_of(gradients, reference, num_reference, budget, progress_bar)
        rows = _measured(gradients, candidates, truth, num_samples, progress_bar)
    steep = steepness_notes(rows, truth)
    for note in steep:
        warnings.warn(note, stacklevel=2)
    return report_of(rows, truth, (*notes, *steep))


class _Candidate(NamedTuple):
    """What is to be measured, and what it is called."""

    estimator: str
    temperature: str
    elbo: Any
    programs: tuple[Callable, Callable]
    is_hard: bool = False


def _relaxed(
    gradients: Gradients,
    estimators: Sequence[Any],
    temperatures: Sequence[Any],
    settings: tuple[str | None, Any],
    notes: dict[str, None],
) -> Iterator[_Candidate]:
    """The relaxed programs, and what a reader has to know of them."""
    scoring, elbo = settings
    for estimator in estimators:
        own = _scoring(estimator, scoring)
        for t in temperatures:
            both = t if isinstance(t, tuple) else (t, t)
            model, guide = (
                relax(fn, t, estimator=estimator, scoring=own)
                for fn, t in zip((gradients.model, gradients.guide), both, strict=True)
            )
            pair = gradients.look(model, guide)
            notes |= dict.fromkeys(_notes(pair, gradients.pair))
            labels = _label(estimator), _temperature_label(t)
            is_hard = _is_hard(estimator)
            yield _Candidate(*labels, elbo or pair.elbo(), (model, guide), is_hard)


def _discrete(
    gradients: Gradients, objectives: Mapping[str, Any]
) -> Iterator[_Candidate]:
    """The discrete programs under other objectives."""
    for name, elbo in objectives.items():
        yield _Candidate(name, "", elbo, (gradients.model, gradients.guide))


def _measured(
    gradients: Gradients,
    candidates: Sequence[_Candidate],
    truth: Reference,
    num_samples: int,
    progress_bar: bool,
) -> list[Row]:
    """Draw the gradients of each candidate."""
    total = len(candidates) * num_samples
    rows = []
    with tqdm(total=total, unit="draw", disable=not progress_bar) as bar:
        for each in candidates:
            bar.set_description(each.estimator)
            moments = Moments(truth.mean)
            seconds = gradients.take(
                each.elbo, each.programs, num_samples, moments, bar
            )
            labels = each.estimator, each.temperature
            rows.append(Row(*labels, moments, seconds, each.is_hard))
    return rows


def _check(gradients: Gradients) -> None:
    """Refuse programs that relax does nothing for, or without parameters."""
    pair = gradients.pair
    refuse_relaxed(pair.model, "model")
    sites = discrete_latents(pair.guide)
    if not any(_is_chosen(site["infer"]) for site in sites.values()):
        names = ", ".join(map(repr, sites)) or "none"
        raise ValueError(
            f"no site of the guide is relaxed by relax; its discrete sites: {names}. "
            "A site that is marked infer={'relax': False}, as by harden, stays as it "
            "is: pass a guide that samples the discrete sites itself"
        )
    if not gradients.params:
        raise ValueError("neither model nor guide has a parameter to differentiate in")


def _check_any(candidates: Sequence[_Candidate]) -> None:
    if not candidates:
        raise ValueError("nothing to measure: give estimators or objectives")


def _is_chosen(infer: Mapping[str, Any]) -> bool:
    """Whether relax takes a discrete site, by its marks."""
    mark = infer.get("relax")
    return mark is not False and (mark is not None or not infer.get("enumerate"))


def _is_hard(estimator: Estimator) -> bool:
    """Whether the programs see one-hot samples at some site."""
    each = estimator.values() if isinstance(estimator, Mapping) else [estimator]
    return not all(isinstance(x, Relaxed) for x in each)


def _scoring(estimator: Any, scoring: str | None) -> str | None:
    """The scoring that was asked for, if the estimator has the choice."""
    check_estimator(estimator, None)
    each = estimator.values() if isinstance(estimator, Mapping) else [estimator]
    check_estimator(Relaxed(), scoring)  # whether there is such a one
    return scoring if all(scoring in x.scorings for x in each) else None


def _notes(pair: Pair, discrete: Pair) -> Iterator[str]:
    """What a reader has to know of the relaxed programs."""
    extra = sorted(pair.params.keys() - discrete.params.keys())
    if extra:
        yield (
            "Left out are parameters that the discrete programs do not have: "
            f"{', '.join(extra)}."
        )
    for name, site in {**discrete.model, **discrete.guide}.items():
        mark = site["infer"].get("relax")
        marks = mark.keys() if isinstance(mark, dict) else set()
        own = {"temperature", "estimator"} & marks
        if own:
            yield (
                f"Site {name!r} is marked with its own {' and '.join(sorted(own))}, "
                "which holds in every row."
            )
    left = discrete_latents(pair.guide)
    if left:
        yield f"Discrete sites that stay as they are: {', '.join(left)}."


def _label(estimator: Estimator) -> str:
    """An estimator in a few words."""
    if isinstance(estimator, Mapping):
        return ", ".join(f"{k}: {_label(x)}" for k, x in estimator.items())
    settings = ", ".join(map(str, vars(estimator).values()))
    return f"{type(estimator).__name__}({settings})"


def _temperature_label(temperature: Any) -> str:
    if isinstance(temperature, tuple):
        return ", ".join(map(_temperature_label, temperature))
    if isinstance(temperature, int | float):
        return f"{temperature:.3g}"
    return getattr(temperature, "__name__", str(temperature))
