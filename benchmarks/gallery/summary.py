"""What the results of the gallery say: distances to the best, by model and method."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from benchmarks.gallery.entries import ENTRIES
from benchmarks.gallery.methods import recipe_for

Row = dict[str, str]
# The method that `recipe_for` recommends for each model.
RECIPE = "the recipe"
STANDING_HEADER = ("method", "models", "close", "median gap", "worst gap", "at")
# The methods whose ELBO the table by model shows, where they can train it.
SHOWN = (
    "enumeration",
    "Trace_ELBO",
    "TraceGraph_ELBO",
    "concrete 1/2, 2/3",
    "discrete 0.2",
    "discrete 0.2, then local",
    "discrete 0.2, then RLOO 8",
    RECIPE,
)
# ... and those that it compares by their temperatures.
OF_TEMPERATURES = (
    "TraceGraph_ELBO",
    "discrete 1/2",
    "discrete 0.3",
    "discrete 0.2",
    "discrete 0.1",
    "discrete 1 to 0.2",
    "discrete 1/2 to 0.1",
    "ReinMax 1",
)
# A method is close to the best of a model within 1 % of it or this much by data point.
CLOSE_SHARE, CLOSE_NATS = 0.01, 0.05


@dataclass(frozen=True)
class Standing:
    """How a method did over the models that it can train.

    Attributes:
        method: Its name.
        num_models: Number of models that it trained.
        median_gap: Median distance to the best known ELBO, in nats by data point.
        worst_gap: The largest, and at which model.
        worst_model: See `worst_gap`.
        close: Share of models whose mean ELBO over seeds is close to the best.
    """

    method: str
    num_models: int
    median_gap: float
    worst_gap: float
    worst_model: str
    close: float

    def cells(self) -> tuple[str, ...]:
        """Return the cells of its row in a table, as `STANDING_HEADER` names them."""
        return (
            self.method,
            str(self.num_models),
            f"{self.close:.2f}",
            f"{self.median_gap:.3f}",
            f"{self.worst_gap:.3f}",
            ENTRIES[self.worst_model].title,
        )


def with_recipe(rows: Sequence[Row]) -> list[Row]:
    """Results, and once more those of the recommended methods as the recipe's."""
    recommended = [
        {**row, "method": RECIPE}
        for row in rows
        if row["method"] == recipe_for(ENTRIES[row["model"]])
    ]
    return [*rows, *recommended]


def mean_by_case(rows: Sequence[Row], column: str) -> dict[tuple[str, str], float]:
    """Mean over the seeds of a column, by model and method."""
    values = defaultdict(list)
    for row in rows:
        values[row["model"], row["method"]].append(float(row[column]))
    return {case: fmean(x) for case, x in values.items()}


def best_by_model(rows: Sequence[Row], column: str) -> dict[str, float]:
    """The best value of a column that any run of any method reached, by model."""
    best: dict[str, float] = defaultdict(lambda: -math.inf)
    for row in rows:
        value = float(row[column])
        # What enumeration evaluates is another number: its ELBO has no guide of z.
        if row["method"] != "enumeration" and not math.isnan(value):
            best[row["model"]] = max(best[row["model"]], value)
    return dict(best)


def standings(
    rows: Sequence[Row], column: str = "elbo", known: Sequence[Row] = ()
) -> list[Standing]:
    """All methods and the recipe, those that are close on the most models first.

    Args:
        rows: Results.
        column: The result that is compared.
        known: Other results, which the best value may be of, too.
    """
    best = best_by_model([*rows, *known], column)
    means = mean_by_case(with_recipe(rows), column)
    gaps = defaultdict(dict)
    for (model, method), value in means.items():
        if not math.isnan(value) and method != "enumeration":
            gaps[method][model] = best[model] - value
    result = []
    for method, by_model in gaps.items():
        by_point = {m: gap / ENTRIES[m].num_points for m, gap in by_model.items()}
        worst = max(by_point, key=by_point.__getitem__)
        is_close = [
            gap <= CLOSE_SHARE * abs(best[m]) or by_point[m] <= CLOSE_NATS
            for m, gap in by_model.items()
        ]
        result.append(
            Standing(
                method=method,
                num_models=len(by_model),
                median_gap=median(by_point.values()),
                worst_gap=by_point[worst],
                worst_model=worst,
                close=fmean(is_close),
            )
        )
    return sorted(result, key=lambda standing: (-standing.close, standing.worst_gap))


def elbo_by_model(
    rows: Sequence[Row], shown: Sequence[str] = SHOWN, known: Sequence[Row] = ()
) -> list[list[str]]:
    """A table of the mean and standard error over seeds, by model and method.

    Args:
        rows: Results.
        shown: The methods to show, where they have results.
        known: Other results, which the best value may be of, too.

    Returns:
        The header, and a row by model.
    """
    values = defaultdict(list)
    for row in with_recipe(rows):
        values[row["model"], row["method"]].append(float(row["elbo"]))
    best = best_by_model([*rows, *known], "elbo")
    methods = [m for m in shown if any(method == m for _, method in values)]
    lines = [["model", "data points", "best", *methods]]
    results = {name for name, _ in values}
    for name in (name for name in ENTRIES if name in results):
        cells = [_mean_and_stderr(values[name, method]) for method in methods]
        entry = ENTRIES[name]
        lines.append([entry.title, str(entry.num_points), f"{best[name]:.2f}", *cells])
    return lines


def _mean_and_stderr(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "".join(f"{x:.2f}" for x in values)
    return f"{fmean(values):.2f} ± {stdev(values) / len(values) ** 0.5:.2f}"
