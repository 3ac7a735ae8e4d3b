"""What the tests of the oracles share: parameters, cases by name, samples.

The oracles satisfy the identities and constants that the papers imply; see
test_reference.py and test_reference_kl.py.
"""

import numpy as np
import pytest
from asserts import assert_pvalue
from reference import concrete as c
from scipy import stats

DRAWS = 20_000
LOGITS = np.log([2.0, 0.5, 1.0])
OTHER_LOGITS = np.log([0.3, 1.7, 1.1])
LOG2, LOG03 = np.log([2.0, 0.3])
POINT = np.array([0.6, 0.3, 0.1])


def cases(names, **values):
    """Parametrize with the keywords as ids."""
    ids = [word.replace("_", "-") for word in values]
    return pytest.mark.parametrize(names, list(values.values()), ids=ids)


temperatures = cases("t", half=0.5, one=1.0, two=2.0)
classes = cases("logits", two_classes=LOGITS[:2], three_classes=LOGITS)
# Classes, posterior and prior temperature, and the least KL that they allow.
tuned_pairs = cases(
    "n, t_p, t_q, floor",
    binary=(2, 2 / 3, 1 / 2, "0.053004"),
    four_classes=(4, 1, 2 / 3, "0.315302"),
    eight_classes=(8, 2 / 3, 2 / 5, "1.143397"),
)


def draw(rng, t, logits):
    return c.exp_concrete_sample(rng.gumbel(size=(DRAWS, len(logits))), t, logits)


def assert_distributed(draws, cdf):
    assert_pvalue(stats.kstest(draws, cdf).pvalue)
