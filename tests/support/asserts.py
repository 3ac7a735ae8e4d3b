"""Comparisons, each with a tolerance that is computed or fixed once."""

import numpy as np

RTOL = {"float64": 1e-10, "float32": 2e-5}
FAILURE_RATE = 2e-5  # of a statistical test, as in Pyro and NumPyro


def assert_exact(actual, expected, dtype="float64", scale=1.0):
    """Equal to the rounding of the dtype, relative to the larger of value and scale."""
    np.testing.assert_allclose(
        np.asarray(actual, "float64"),
        np.asarray(expected, "float64"),
        rtol=RTOL[dtype],
        atol=RTOL[dtype] * scale,
    )


def assert_derivative(actual, expected, rtol=1e-6):
    """Equal to a central difference of the oracle in float64."""
    expected = np.asarray(expected)
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * scale)


def assert_mean(samples, expected, standard_errors=5.0, rounding=0.0):
    """The mean over the first axis is within five standard errors of the expected.

    An oracle by central differences has a rounding error of its own, which counts where
    the samples have no variance.
    """
    samples = np.asarray(samples, "float64")
    error = samples.std(0, ddof=1) / np.sqrt(len(samples))
    gap = np.abs(samples.mean(0) - expected)
    assert (gap < standard_errors * error + rounding).all(), (
        f"mean {samples.mean(0)}, expected {expected}, standard error {error}"
    )


def assert_pvalue(pvalue):
    """The p-value of a goodness-of-fit test is above the one failure rate."""
    assert pvalue > FAILURE_RATE, f"p-value {pvalue}"


def assert_finite(x, what=""):
    """Every element is finite."""
    x = np.asarray(x, "float64")
    assert np.isfinite(x).all(), f"{what}: {x[~np.isfinite(x)][:5]} of {x.shape}"
