"""Estimators of ELBO gradients against their exact expectations: see gradient_cases.

Enough gradients are drawn to see an error of one per cent, whatever the estimator's
variance, and the tests say so of themselves.
"""

import numpy as np
import pytest
from gradient_cases import (
    ESTIMATORS,
    PAIRS,
    exact,
    exact_slope_of_a_mean,
    expected,
    measured,
    slopes_of_a_mean,
)
from gradient_fixtures import MEAN_OF_A_BIT
from reference.gradients import binary_mean_slope

# One of each kind of estimator, and one beside an enumerated site; the rest is slow.
QUICK = {
    ("one_class", "score_function"),
    ("one_class", "relaxed"),
    ("mixed", "relaxed"),
    ("one_class", "straight_through"),
    ("one_class", "gumbel_rao"),
    ("one_class", "rebar"),
}
BIASED = [name for name, e in ESTIMATORS.items() if not e.unbiased]
# Of the quadrature, as a part of the gradient.
ROUNDING = 2e-5


def _case(fixture, estimator):
    marks = [] if (fixture, estimator) in QUICK else [pytest.mark.slow]
    return pytest.param(fixture, estimator, id=f"{fixture}-{estimator}", marks=marks)


cases = pytest.mark.parametrize(
    ("fixture", "estimator"), [_case(*pair) for pair in PAIRS]
)


@pytest.mark.statistical
@cases
def test_the_mean_is_the_exact_expectation(backend, device, fixture, estimator):
    target = expected(fixture, estimator)
    size = np.linalg.norm(target)
    moments = measured(backend, fixture, estimator, precision=0.01 / 5)
    gap = np.abs(moments.mean - target)
    assert (gap < 5 * moments.stderr + ROUNDING * size).all(), (
        f"mean {moments.mean}, expected {target}, standard error {moments.stderr}"
    )
    along = moments.along(target)
    assert abs(along.mean[0] - size) < 5 * along.stderr[0] + ROUNDING * size
    assert 5 * along.stderr[0] < 0.01 * size  # an error of 1 % would be seen


@pytest.mark.slow
@pytest.mark.statistical
def test_gumbel_rao_is_straight_through_with_less_variance(backend, device):
    names = ("straight_through_cold", "gumbel_rao_cold")
    np.testing.assert_array_equal(*(expected("one_class", name) for name in names))
    sizes = {"batches": 4000, "particles": 500}
    measurements = [measured(backend, "one_class", name, **sizes) for name in names]
    # In the logits of the guide, which come first, as `a`: only they see the estimator.
    plain, averaged = (x.batches[:, :3].var(0, ddof=1) for x in measurements)
    # Either variance of so many normal means is known to sqrt(2 / 4000) of itself.
    assert (averaged < plain * (1 - 5 * np.sqrt(2 * 2 / 4000))).all()


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("estimator", BIASED)
def test_a_biased_estimator_is_seen_to_be_biased(backend, device, estimator):
    truth = exact("one_class")
    bias = expected("one_class", estimator) - truth
    projection = measured(backend, "one_class", estimator).along(bias)
    unbiased = truth @ bias / np.linalg.norm(bias)
    assert projection.mean[0] - unbiased > 5 * projection.stderr[0]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_unbiased_are_the_ones_without_a_bias(name):
    fits = [f for f in ("one_bit", "one_class", "mixture") if (f, name) in PAIRS]
    biases = [np.abs(expected(f, name) - exact(f)).max() for f in fits]
    assert (max(biases) < 1e-12) == ESTIMATORS[name].unbiased, biases
    assert ESTIMATORS[name].unbiased or max(biases) > 0.03


@pytest.mark.statistical
@pytest.mark.parametrize("t", [0.25, pytest.param(0.5, marks=pytest.mark.slow)])
def test_the_bias_of_a_mean_falls_as_the_temperature_squared(backend, device, t):
    logit = float(MEAN_OF_A_BIT.params["a"])
    discrete, leading, bound = binary_mean_slope(logit, t)
    slopes = slopes_of_a_mean(backend, t)
    bias = slopes.mean[0] - discrete
    stderr = slopes.stderr[0]
    assert abs(bias - leading) < bound + 5 * stderr
    assert abs(bias - (exact_slope_of_a_mean(t) - discrete)) < 5 * stderr
    assert abs(bias) > 5 * stderr > 0
