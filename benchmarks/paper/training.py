"""How a cell is trained and evaluated, whatever the backend."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.paper.cells import Network

BATCH = 64
# The paper: "concrete" scoring of relaxed sites. The default of `relax`: "discrete"
# scoring. "score" trains the discrete programs by VIMCO, and for one particle by NVIL.
ESTIMATORS = ("concrete", "discrete", "score")
SCHEDULES = ("cosine", "constant")
BASELINE_UNITS = 100  # of NVIL's network that predicts the log-weight of an image
_RATES = {"linear": 1e-3, "non-linear": 5e-4}


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        estimator: One of `ESTIMATORS`.
        num_particles: Number of particles for each image.
        steps: Number of steps of the whole run.
        seeds: One seed for each network that is trained.
        rate: Largest learning rate of Adam.
        schedule: "cosine", which falls to zero as half a period, or "constant".
        weight_decay: Factor of the squared weights, times one half, in the loss of an
            image.
        chunk_size: Particles that run at a time.
        steps_at_once: Number of steps after which a state is saved.
    """

    estimator: str
    num_particles: int
    steps: int
    seeds: tuple[int, ...]
    rate: float
    schedule: str = "cosine"
    weight_decay: float = 0.0
    chunk_size: int | None = None
    steps_at_once: int = 10_000

    @property
    def has_baseline(self) -> bool:
        """Whether the guide predicts the log-weights, as NVIL does."""
        return self.estimator == "score" and self.num_particles == 1


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        step: Number of steps so far.
        seconds: Time that they took, compilation included.
        losses: Mean loss of an image over the last steps: (seeds,).
        params: Parameters, with a leading axis of seeds.
    """

    step: int
    seconds: float
    losses: np.ndarray
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """How a network is evaluated.

    Attributes:
        num_particles: Number of particles for each image.
        chunk_size: Particles that run at a time.
        images_at_once: Images that run at a time.
    """

    num_particles: int
    chunk_size: int
    images_at_once: int


def default_rate(network: Network) -> float:
    """Return the largest learning rate for a network."""
    return _RATES["linear" if network.is_linear else "non-linear"]


def default_evaluations(network: Network) -> tuple[int, ...]:
    """Return the numbers of particles of the bounds that are reported.

    The paper has 50,000 for a density and 100 for a conditional network.
    """
    return (1, 100) if network.is_conditional else (1, 5000)


def independent_log_likelihood(pixel_means: np.ndarray) -> float:
    """Return the mean log-likelihood of independent pixels, where a baseline starts."""
    probs = np.clip(np.asarray(pixel_means, np.float64), 1e-3, 1 - 1e-3)
    return float((probs * np.log(probs) + (1 - probs) * np.log1p(-probs)).sum())
