"""Programs that are trained on a part of their data each, or on all of it at once.

A module here is run by itself, as `python -m parts.on_pyro OUT CASE...`, in processes
that `tests/test_past_one_device.py` starts.
"""

import numpy as np

ROWS, BATCH, STEPS = 12, 6, 4
DATA = np.random.default_rng(6).normal(size=ROWS)
# The rows of each step's minibatch, as many from each half.
HALVES = [np.random.default_rng(s).permutation(ROWS // 2) for s in range(STEPS)]
BATCHES = [
    np.concatenate([half[: BATCH // 2], half[BATCH // 2 :] + ROWS // 2])
    for half in HALVES
]
PRIOR = np.array([0.1, 0.4, -0.2])
