"""How close are AutoConcrete's class probabilities to the exact ones?

Two models of real data, with AutoConcrete for all of their sites: the patients of Dawid
and Skene (1979), with one class for each of 45 patients, rated by five anesthetists;
and the dippers of Lebreton et al. (1992), with the years that each of 294 birds
survives, from its probabilities of being alive. Each model is trained with `relax` and
discrete scoring at an annealed temperature. Then the discrete model and the hardened
guide are trained with RLOO, because a relaxed guide keeps about one percent for classes
that the data exclude, and discrete samples pay for that.

The exact probabilities are those given the continuous sites, from Bayes' rule, averaged
over a normal guide that is trained with the discrete sites enumerated in the model. The
discrete ELBO is compared with that of the same guide, hardened and trained with its
discrete sites enumerated, which has no noise from them. Pyro computes both.

Takes `--data`: a folder with annotators_latent_class.npz (anesthesia_item_rater_rating:
item, rater, rating, from 1 on) and capture_recapture.npz (dipper: birds by years).
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from benchmarks.report import table, write_csv

NEEDS_DATA = True
STEPS = 1000
PARTICLES = 8
# Steps, particles, and the learning rate at the start and end of training by RLOO.
POLISH = (1000, 64, 0.05, 0.001)
HEADER = ("data", "mean abs difference", "enumerated elbo", "relaxed elbo", "percent")


def arguments(name: str, data: Path) -> tuple[np.ndarray, ...]:
    """Return the arguments of a model, from the files of a folder."""
    if name == "dawid_skene":
        file = np.load(data / "annotators_latent_class.npz")
        rows = file["anesthesia_item_rater_rating"].astype(int) - 1
        rows = rows[np.argsort(rows[:, 0], kind="stable")].reshape(45, 7, 3)
        return rows[0, :, 1], rows[..., 2]  # each patient is rated by the same
    seen = np.load(data / "capture_recapture.npz")["dipper"].astype(int)
    return seen.argmax(1), seen


def exact_probabilities(name: str, args: Sequence, draws: dict) -> np.ndarray:
    """Return class probabilities by Bayes' rule, averaged over draws of the rest.

    Shapes:
        draws: (draws, ...) of each continuous site.
        result: (items, classes), or (birds, years) of the chance to be alive.
    """
    if name == "dawid_skene":
        rater, rating = args
        score = np.log(draws["weights"])[:, None] + sum(
            np.log(draws["confusion"])[:, rater[i]][:, :, rating[:, i]].swapaxes(1, 2)
            for i in range(7)
        )
        return _softmax(score).mean(0)
    first, seen = args
    found = [
        _softmax(_dipper_scores(first, seen, phi, p))
        for phi, p in zip(draws["phi"], draws["p"], strict=True)
    ]
    return alive(first, np.mean(found, 0))


def alive(first: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Return the chance of each bird to be alive in each year."""
    later = np.arange(7) - first[:, None]
    beyond = probs[:, ::-1].cumsum(1)[:, ::-1]
    return np.take_along_axis(beyond, np.clip(later, 0, 6), 1)


def _dipper_scores(
    first: np.ndarray, seen: np.ndarray, phi: float, p: float
) -> np.ndarray:
    years = np.arange(7)
    score = np.tile(years * np.log(phi), (len(first), 1))
    score[:, :6] += np.log1p(-phi)
    for k in years:
        living = years <= first[:, None] + k
        with np.errstate(divide="ignore"):
            term = np.log(np.where(seen == 1, p * living, 1 - p * living))
        score[:, k] += np.where(years > first[:, None], term, 0).sum(1)
    return score


def _softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def compared(name: str, args: Sequence, probs: np.ndarray, exact: np.ndarray) -> float:
    """Return the mean absolute difference of probabilities."""
    if name == "dawid_skene":
        return float(np.abs(probs - exact).mean())
    first, _ = args
    unknown = np.arange(7) > first[:, None]
    return float(np.abs(alive(first, probs) - exact)[unknown].mean())


def run(backends: Sequence[str], out: Path, data: Path) -> None:
    question = "class_probabilities"
    reference = import_module(f"benchmarks.on_pyro.{question}")
    rows: dict[str, list] = {backend: [] for backend in backends}
    for name in ("dawid_skene", "dipper"):
        args = arguments(name, data)
        draws = reference.draws_with_classes_enumerated(name, args)
        exact = exact_probabilities(name, args, draws)
        best = reference.trained_by_enumeration(name, args)
        for backend in backends:
            module = import_module(f"benchmarks.on_{backend}.{question}")
            params, probs = module.trained_relaxed(name, args)
            elbo = reference.discrete_elbo(name, args, params)
            difference = compared(name, args, probs, exact)
            percent = 100 * (best - elbo) / abs(best)
            numbers = (f"{difference:.4f}", f"{best:.2f}", f"{elbo:.2f}")
            rows[backend].append([name, *numbers, f"{percent:.2f}"])
    for backend in backends:
        write_csv(out / f"{question}_{backend}.csv", backend, HEADER, rows[backend])
        table(f"AutoConcrete and enumeration, {backend}", HEADER, rows[backend])
