"""The benchmark of growing costs fits slopes, and leaves out what takes too long."""

import math
import os

import pytest

from benchmarks import how_cost_grows
from benchmarks.report import BACKENDS


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_slope_of_a_power_law_is_its_power(power):
    at = [10.0, 300.0, 1000.0, 50_000.0]
    found = how_cost_grows.slope(at, [3.7 * n**power for n in at])
    assert math.isclose(found, power, abs_tol=1e-12)


@pytest.mark.parametrize("power", [0.9, 1.0, 1.5])
def test_the_fixed_part_of_a_step_is_told_apart(power):
    sizes = 10, 1000, 10_000, 100_000, 1_000_000
    times = [2e-3 + 1e-6 * n**power for n in sizes]
    found = [
        {"size": n, "seconds": s, "peak": 1.0 * n}
        for n, s in zip(sizes, times, strict=True)
    ]
    *case, plain, above, peak = how_cost_grows._slopes("sites", "REBAR", found, 1000)
    assert case == ["sites", "REBAR", 1000, 1_000_000]
    assert float(plain) < power - 0.005
    assert math.isclose(float(above), power, abs_tol=0.006)
    assert peak == "1000000"


def test_a_run_keeps_to_one_core_and_leaves_it():
    before = os.sched_getaffinity(0)
    with how_cost_grows._one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_enumeration_of_coupled_sites_stops_early():
    assert max(how_cost_grows.sizes("pyro", "coupled", "enumerated")) == 24
    assert how_cost_grows.sizes("pyro", "coupled", "relaxed")[-1] > 24


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_every_slope_has_sizes_enough(backend_name):
    for family, (_, start) in how_cost_grows.SIZES.items():
        for method in how_cost_grows.METHODS:
            sizes = how_cost_grows.sizes(backend_name, family, method)
            assert sum(size >= start for size in sizes) >= 4
