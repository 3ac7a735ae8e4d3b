"""The benchmark of growing costs fits slopes, and leaves out what takes too long."""

import math

import pytest

from benchmarks import how_cost_grows


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_slope_of_a_power_law_is_its_power(power):
    at = [10.0, 300.0, 1000.0, 50_000.0]
    found = how_cost_grows.slope(at, [3.7 * n**power for n in at])
    assert math.isclose(found, power, abs_tol=1e-12)


def test_the_fixed_part_of_a_step_is_told_apart():
    sizes = 10, 1000, 10_000, 100_000
    found = [{"size": n, "seconds": 2e-3 + 1e-6 * n, "peak": 1.0 * n} for n in sizes]
    *case, plain, above, peak = how_cost_grows._slopes("sites", "REBAR", found, 1000)
    assert case == ["sites", "REBAR", 1000, 100_000]
    assert float(plain) < 0.9
    assert float(above) == 1.0
    assert peak == "100000"


def test_enumeration_of_coupled_sites_stops_early():
    assert max(how_cost_grows.sizes("coupled", "enumerated")) == 24
    assert how_cost_grows.sizes("coupled", "relaxed")[-1] > 24
