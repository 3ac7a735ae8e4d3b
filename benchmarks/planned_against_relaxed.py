"""What is gained by enumerating the chains that fit a budget, and relaxing the others?

A factorial hidden Markov model: twelve chains of four states are independent a priori,
and at each step the observation is a noisy sum of one row of each chain's table. Given
the observations, the chains depend on each other, so that enumeration makes tensors of
4^12 joint states. `plan_sites` enumerates as many chains as fit a budget of 4^5
elements and relaxes the others. The same guide, AutoConcrete, is trained on the model
as planned and on the model with all chains relaxed, with the same number of steps,
temperature, learning rates and objective.

Both are evaluated by the discrete ELBO of the hardened guide, in nats for the whole
series. Sites that the guide does not have are marginalized out of the model exactly.
The second row separates the effect of training from that of marginalization: it takes
the guide that was trained with all chains relaxed, and then marginalizes out those that
the plan enumerates. The tables are known and only the states are inferred, so every
bound is below the exact log-evidence. The forward recursion over all joint states
computes that, without a gradient.
"""

import functools
import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.report import table, write_csv

CHAINS, STATES, LENGTH, FEATURES = 12, 4, 20, 5
BUDGET = STATES**5
TEMPERATURE, STEPS = 0.5, 500
RATE, LAST_RATE = 0.1, 0.01
DRAWS = 200
HEADER = ("sites", "discrete elbo", "standard error", "below evidence")


class Series(NamedTuple):
    """A factorial hidden Markov model and a series from it.

    Shapes:
        first: (chains, states), probabilities of the first states.
        move: (chains, states, states), rows are probabilities of the next state.
        locs: (chains, states, features), whose rows add up to the mean.
        seen: (steps, features), with noise of scale one.
    """

    first: np.ndarray
    move: np.ndarray
    locs: np.ndarray
    seen: np.ndarray


def simulate(chains: int, states: int, length: int, features: int, seed: int) -> Series:
    """Draw tables and a series. Chains mostly stay where they are."""
    rng = np.random.default_rng(seed)
    first = np.full((chains, states), 1 / states)
    jump = rng.dirichlet(np.ones(states), size=(chains, states))
    move = 0.8 * np.eye(states) + 0.2 * jump
    locs = rng.normal(size=(chains, states, features))
    probs, every = first, np.arange(chains)
    means = []
    for _ in range(length):
        z = np.array([rng.choice(states, p=p) for p in probs])
        means.append(locs[every, z].sum(0))
        probs = move[every, z]
    return Series(first, move, locs, rng.normal(np.array(means)))


def log_evidence(series: Series) -> float:
    """Return the exact log-evidence, by the forward recursion over joint states."""
    chains, _, features = series.locs.shape
    groups = range(0, chains, 3)
    first = functools.reduce(np.kron, series.first)
    moves = [functools.reduce(np.kron, series.move[i : i + 3]) for i in groups]
    halves = [_joint_means(half) for half in np.split(series.locs, [chains // 2])]
    message, total = first, 0.0
    for t, seen in enumerate(series.seen):
        for move in moves if t else ():
            # The first group of chains moves, and goes to the end of the axes.
            message = (message.reshape(len(move), -1).T @ move).reshape(-1)
        distance = _squared_distances(seen - halves[0], halves[1]).reshape(-1)
        least = distance.min()
        message = message * np.exp(-0.5 * (distance - least))
        scale = message.sum()
        message /= scale
        total += math.log(scale) - 0.5 * (least + features * math.log(2 * math.pi))
    return float(total)


def _joint_means(locs: np.ndarray) -> np.ndarray:
    """The mean at every joint state of some chains, one a row."""
    means = np.zeros((1, locs.shape[-1]))
    for rows in locs:
        means = (means[:, None] + rows).reshape(-1, locs.shape[-1])
    return means


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T


def run(backends: Sequence[str], out: Path) -> None:
    series = simulate(CHAINS, STATES, LENGTH, FEATURES, seed=0)
    exact = log_evidence(series)
    print(f"\nexact log-evidence: {exact:.2f} nats")
    for i, backend in enumerate(backends):
        module = import_module(f"benchmarks.on_{backend}.planned_against_relaxed")
        plan = module.plan(series, BUDGET)
        if not i:
            print(f"\n{abridged(plan)}")
        relaxed = module.train(series, None, STEPS)
        found = {
            "all relaxed": module.bounds(series, relaxed, (), DRAWS),
            "all relaxed, then summed out": module.bounds(
                series, relaxed, plan.enumerated, DRAWS
            ),
            "planned": module.bounds(
                series, module.train(series, plan, STEPS), plan.enumerated, DRAWS
            ),
        }
        rows = [_row(name, values, exact) for name, values in found.items()]
        write_csv(out / f"planned_against_relaxed_{backend}.csv", backend, HEADER, rows)
        table(f"Bounds after {STEPS} steps, nats, {backend}", HEADER, rows)
        gain, error = margin(found["planned"], found["all relaxed"])
        print(f"\nmargin of the plan over all relaxed: {gain:.2f} ± {error:.2f} nats")


def margin(better: np.ndarray, worse: np.ndarray) -> tuple[float, float]:
    """Return the difference of two means of independent draws, and its error."""
    error = math.sqrt(sum(x.var(ddof=1) / len(x) for x in (better, worse)))
    return float(better.mean() - worse.mean()), error


def abridged(plan: Any) -> str:
    """Return the table of a plan without the steps after the first two."""
    lines = str(plan).splitlines()
    kept = [x for x in lines if not x.startswith("z") or x.split()[0][-2:] in _SHOWN]
    left = len(lines) - len(kept)
    kept.insert(kept.index(""), f"... and {left} sites of later steps alike")
    return "\n".join(kept)


_SHOWN = ("_0", "_1")


def _row(name: str, values: np.ndarray, exact: float) -> list[str]:
    error = values.std(ddof=1) / math.sqrt(len(values))
    numbers = (values.mean(), error, exact - values.mean())
    return [name, *(f"{x:.2f}" for x in numbers)]
