"""Tables and figures of the tutorials on choosing an estimator, for both backends."""

from typing import Any, NamedTuple

import digits
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

EXACT = "enumeration"


class Curve(NamedTuple):
    """Discrete ELBOs in nats an image on the way, and the CPU time of a step."""

    steps: list[int]
    elbos: list[float]
    milliseconds: float


def images(rows: int) -> np.ndarray:
    """Images of digits with pixels of zero and one, one a row."""
    training, _ = digits.load()
    return (training[:rows] > digits.LEVELS / 2).astype(np.float32)


def table(curves: dict[str, Curve]) -> str:
    """The curves, one a line, and how far below enumeration they end."""
    rows = [("trained by", "discrete ELBO", "below the best", "CPU ms a step")]
    best = max(curve.elbos[-1] for curve in curves.values())
    for name, curve in curves.items():
        last = curve.elbos[-1]
        numbers = f"{last:.2f}", f"{best - last:.2f}", f"{curve.milliseconds:.1f}"
        rows.append((name, *numbers))
    width = max(len(row[0]) for row in rows)
    lines = [f"{a:<{width}}  {b:>13}  {c:>14}  {d:>13}" for a, b, c, d in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def draw_report(report: Any) -> Figure:
    """The figure of the report, and bias and noise against the temperature."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    draw_by_temperature(axes[0], report)
    report.plot(axes[1])
    axes[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes[1].xaxis.set_minor_formatter(NullFormatter())
    return figure


def draw_by_temperature(axes: Any, report: Any) -> None:
    names = list(dict.fromkeys(report.estimators))
    rows = [(x, t) for x, t in enumerate(report.temperatures) if t]
    for i, name in enumerate(names):
        own = [(float(t), x) for x, t in rows if report.estimators[x] == name]
        if not own:
            continue
        at, found = zip(*sorted(own), strict=True)
        found = list(found)
        color = plt.get_cmap("tab10")(i % 10)
        axes.plot(at, report.bias[found, -1], "o-", color=color, label=name)
        axes.plot(at, report.variance[found, -1] ** 0.5, "s:", color=color, mfc="white")
    axes.set(xscale="log", yscale="log", xlabel="temperature")
    axes.set_ylabel("length, all parameters together")
    axes.set_title("bias (lines), noise of one draw (dotted)", fontsize="medium")
    ticks = sorted({float(t) for _, t in rows})
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.xaxis.minorticks_off()
    axes.legend(fontsize="small")


def draw_curves(panels: dict[str, dict[str, Curve]]) -> Figure:
    """Draw training curves, a panel for each group, enumeration in black."""
    size = (6 * len(panels), 4.4)
    settings: Any = {"figsize": size, "sharey": True, "layout": "constrained"}
    figure, axes = plt.subplots(1, len(panels), squeeze=False, **settings)
    ends = [c.elbos for curves in panels.values() for c in curves.values()]
    for panel, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for name, curve in curves.items():
            look = {"color": "black", "lw": 2} if name == EXACT else {"lw": 1.4}
            panel.plot(curve.steps, curve.elbos, label=name, **look)
        panel.set(title=title, xlabel="training step")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small", loc="upper left")
    axes[0, 0].set_ylabel("discrete ELBO, nats an image")
    top = max(max(x) for x in ends)
    least = min(min(x[len(x) // 3 :]) for x in ends)
    axes[0, 0].set_ylim(least - 1, top + 1)
    return figure
