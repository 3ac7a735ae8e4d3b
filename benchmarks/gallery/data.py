"""The data of the gallery: scikit-learn's, or drawn with a fixed seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray]
Loader = Callable[[], Arrays] | Callable[[Path], Arrays]


def readme() -> Arrays:
    """Return the five points of the README."""
    return {"data": np.array([-2.1, -1.8, 1.9, 2.2, 2.0])}


def iris() -> Arrays:
    """Return the four measurements of 150 flowers, standardized."""
    from sklearn.datasets import load_iris

    return {"data": _standardized(load_iris().data)}


def wine() -> Arrays:
    """Return the first two principal components of 178 wines, standardized."""
    from sklearn.datasets import load_wine

    features = _standardized(load_wine().data)
    _, _, axes = np.linalg.svd(features, full_matrices=False)
    return {"data": _standardized(features @ axes[:2].T)}


def sparse_regression() -> Arrays:
    """Draw 200 responses to 60 features, of which 8 have an effect; noise 0.5."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(200, 60))
    effects = np.zeros(60)
    effects[rng.choice(60, size=8, replace=False)] = rng.normal(size=8)
    response = features @ effects + 0.5 * rng.normal(size=200)
    return {"features": features, "response": response}


def hidden_chain() -> Arrays:
    """Draw 24 observations of a chain with three states."""
    rng = np.random.default_rng(2)
    transition = 0.8 * np.eye(3) + 0.2 / 3
    locs, state, observed = np.array([-1.5, 0.0, 1.5]), 0, []
    for _ in range(24):
        state = rng.choice(3, p=transition[state] / transition[state].sum())
        observed.append(locs[state] + 0.7 * rng.normal())
    return {"data": np.array(observed)}


def two_chains() -> Arrays:
    """Draw 16 observations of the sum of two chains of two states each."""
    rng = np.random.default_rng(3)
    states, observed = np.array([0, 1]), []
    for _ in range(16):
        states = np.where(rng.random(2) < 0.15, 1 - states, states)
        observed.append(states @ [1.0, 2.0] + 0.5 * rng.normal())
    return {"data": np.array(observed)}


def documents() -> Arrays:
    """Draw 200 documents of 20 words, of a vocabulary of 30, from five topics."""
    rng = np.random.default_rng(4)
    topics = rng.dirichlet(np.full(30, 0.1), size=5)
    shares = rng.dirichlet(np.full(5, 0.3), size=200)
    chosen = np.array([rng.choice(5, size=20, p=p) for p in shares])
    words = [[rng.choice(30, p=topics[z]) for z in row] for row in chosen]
    return {"words": np.array(words)}


def ratings() -> Arrays:
    """Draw the ratings of 60 items by five raters, in four classes."""
    rng = np.random.default_rng(5)
    classes = rng.choice(4, size=60, p=[0.4, 0.3, 0.2, 0.1])
    ability = rng.uniform(0.5, 0.9, size=5)
    is_right = rng.random((60, 5)) < ability
    guesses = rng.integers(4, size=(60, 5))
    return {"ratings": np.where(is_right, classes[:, None], guesses)}


def captures() -> Arrays:
    """Draw seven occasions of capture of 60 animals, all alive at the first."""
    rng = np.random.default_rng(6)
    is_alive, history = np.ones(60, bool), [np.ones(60, bool)]
    for _ in range(6):
        is_alive = is_alive & (rng.random(60) < 0.75)
        history.append(is_alive & (rng.random(60) < 0.6))
    return {"captured": np.array(history).astype(float)}


def accidents() -> Arrays:
    """Draw counts of 60 years, with a rate of 3.2 for 35 years and 1.1 after that."""
    rng = np.random.default_rng(7)
    rates = np.where(np.arange(60) < 35, 3.2, 1.1)
    return {"counts": rng.poisson(rates).astype(float)}


def zero_inflated() -> Arrays:
    """Draw counts of 150 visitors, 40 % of whom never fish, and a covariate."""
    rng = np.random.default_rng(8)
    covariate = rng.normal(size=150)
    never = rng.random(150) < 0.4
    counts = np.where(never, 0, rng.poisson(np.exp(0.8 + 0.6 * covariate)))
    return {"covariate": covariate, "counts": counts.astype(float)}


def latent_counts() -> Arrays:
    """Draw 40 noisy weighings of boxes that hold a Poisson number of objects."""
    rng = np.random.default_rng(9)
    counts = rng.poisson(4.0, size=40)
    return {"weights": 1.3 * counts + 0.6 * rng.normal(size=40)}


def tumors() -> Arrays:
    """Return ten measurements of 569 tumors, standardized, and the diagnosis."""
    from sklearn.datasets import load_breast_cancer

    tumors = load_breast_cancer()
    return {
        "features": _standardized(tumors.data[:, :10]),
        "is_benign": tumors.target.astype(float),
    }


def network() -> Arrays:
    """Draw the edges between 30 nodes in three blocks."""
    rng = np.random.default_rng(10)
    blocks = rng.integers(3, size=30)
    probs = np.where(blocks[:, None] == blocks, 0.6, 0.1)
    edges = np.triu(rng.random((30, 30)) < probs, 1)
    return {"edges": edges.astype(float)}


def digits() -> Arrays:
    """Return 500 digits of 8 x 8 pixels, ink or none."""
    from sklearn.datasets import load_digits

    images = load_digits().data[:500] > 7
    return {"images": images.astype(float)}


def static_mnist(folder: Path) -> Arrays:
    """Return the first 2,000 images of the static binarization of MNIST."""
    with np.load(folder / "static_binarized_mnist.npz") as file:
        images = np.unpackbits(file["x_train"][:2000], axis=-1)
    return {"images": images.astype(float)}


def _standardized(x: NDArray) -> NDArray:
    return (x - x.mean(0)) / x.std(0)
