"""The profile of a step puts time where it was spent."""

import math

import pytest

from benchmarks.where_time_goes import PARTS, shares

torch = pytest.importorskip("torch")


def test_products_of_matrices_are_kernels():
    x = torch.ones(300, 300)
    found = shares(lambda: torch.matmul(x, x), 20)
    assert set(found) == set(PARTS)
    assert math.isclose(sum(found.values()), 1.0)
    assert found["kernels"] > 0.5


def test_what_is_compiled_in_python_counts_for_its_caller():
    found = shares(lambda: sorted(range(20_000), reverse=True), 20)
    assert found["rest"] == 1.0


def test_distributions_of_the_host_are_the_host():
    pyro = pytest.importorskip("pyro")
    found = shares(lambda: pyro.sample("x", pyro.distributions.Normal(0.0, 1.0)), 20)
    assert found["pyro"] > 0
    assert found["torch"] > 0
