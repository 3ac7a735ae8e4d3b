"""The profile of a step puts time where it was spent."""

import math

import pytest

from benchmarks.where_time_goes import PARTS, shares, shares_of_profile

torch = pytest.importorskip("torch")


def test_shares_are_of_own_times():
    step = ("lib/pyro/infer/svi.py", 1, "step")
    linear = ("lib/torch/nn/functional.py", 2, "linear")
    # Own time is the third number, also in the table of the callers.
    functions = {
        step: (1, 1, 2.0, 16.0, {}),
        linear: (1, 1, 1.0, 9.0, {step: (1, 1, 1.0, 9.0)}),
        ("~", 0, "<built-in method torch._C._nn.linear>"): (1, 1, 8.0, 8.0, {}),
        ("~", 0, "<built-in method builtins.sorted>"): (
            *(2, 2, 5.0, 5.0),
            {step: (1, 1, 4.0, 4.0), ("main.py", 3, "main"): (1, 1, 1.0, 1.0)},
        ),
    }
    expected = {"kernels": 8, "torch": 1, "pyro": 2 + 4, "pyro_concrete": 0, "rest": 1}
    found = shares_of_profile(functions)
    assert found == {part: time / 16 for part, time in expected.items()}


def test_products_of_matrices_are_kernels():
    x = torch.ones(300, 300)
    found = shares(lambda: torch.matmul(x, x), 20)
    assert set(found) == set(PARTS)
    assert math.isclose(sum(found.values()), 1.0)
    assert found["kernels"] > 0


def test_what_is_compiled_in_python_counts_for_its_caller():
    found = shares(lambda: sorted(range(20_000), reverse=True), 20)
    assert found["rest"] == 1.0


def test_distributions_of_the_host_are_the_host():
    pyro = pytest.importorskip("pyro")
    found = shares(lambda: pyro.sample("x", pyro.distributions.Normal(0.0, 1.0)), 20)
    assert found["pyro"] > 0
    assert found["torch"] > 0
