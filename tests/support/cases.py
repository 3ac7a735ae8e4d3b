"""The registry of the family: a line here, and every contract test runs on it.

Framework-free: parameters are plain lists, oracles are functions of NumPy arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from reference import concrete as oracle
from scipy.special import expit


@dataclass(frozen=True)
class Case:
    """One distribution of the family and what is known of it."""

    name: str
    sample: Callable  # (noise, temperature, logits) -> value
    log_density: Callable  # (value, temperature, logits) -> log-density
    noise: str  # the name of the map from uniforms, in ops
    logits: tuple  # of batch shape (2,)
    event_dim: int
    log_space: bool  # whether the logits cancel from an own sample's density

    @property
    def array(self):
        return np.array(self.logits)

    def interior(self):
        """A value away from the boundary, of shape (5, *shape), by fixed noise."""
        uniform = np.random.default_rng(1).uniform(0.05, 0.95, (5, *self.array.shape))
        return self.sample(self.numpy_noise(uniform), 0.7, self.array)

    def numpy_noise(self, uniform):
        exponential = -np.log1p(-uniform)
        if self.noise == "gumbel":
            return -np.log(exponential)
        return np.log(uniform) + exponential


_N_ARY = ((0.7, -0.3, 0.1), (1.5, 0.0, -2.0))
_BINARY = (0.7, -1.3)

CASES = [
    Case(
        "ExpConcrete",
        oracle.exp_concrete_sample,
        oracle.exp_concrete_log_density,
        "gumbel",
        _N_ARY,
        1,
        True,
    ),
    Case(
        "Concrete",
        lambda *args: np.exp(oracle.exp_concrete_sample(*args)),
        oracle.concrete_log_density,
        "gumbel",
        _N_ARY,
        1,
        False,
    ),
    Case(
        "LogitBinaryConcrete",
        oracle.logit_binary_concrete_sample,
        oracle.logit_binary_concrete_log_density,
        "logistic",
        _BINARY,
        0,
        True,
    ),
    Case(
        "BinaryConcrete",
        lambda *args: expit(oracle.logit_binary_concrete_sample(*args)),
        oracle.binary_concrete_log_density,
        "logistic",
        _BINARY,
        0,
        False,
    ),
]

all_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
log_space_cases = pytest.mark.parametrize(
    "case", [c for c in CASES if c.log_space], ids=lambda case: case.name
)
