"""REBAR, RLOO and DisARM against exact gradients of the discrete ELBO."""

import numpy as np
import pytest
from asserts import assert_mean
from discrete import CASES
from reference.elbo import gradient

OBJECTIVES = {
    "REBAR": ("REBAR", {}),
    "REBAR of other settings": ("REBAR", {"temperature": 1.3, "scale": 0.4}),
    "REBAR of two particles": ("REBAR", {"num_particles": 2}),
    "RLOO": ("RLOO", {}),
    "RLOO of three particles": ("RLOO", {"num_particles": 3}),
    "DisARM": ("DisARM", {}),
}
FAST = {
    ("REBAR", "one integer"),
    ("REBAR", "dependent"),
    ("REBAR", "data"),
    ("RLOO", "dependent"),
    ("RLOO", "data"),
    ("DisARM", "two layers"),
}


def rows(fast):
    for objective, (family, _) in OBJECTIVES.items():
        for name, case in CASES.items():
            if family == "DisARM" and not case.bits:
                continue
            if ((objective, name) in FAST) == fast:
                yield pytest.param(objective, case, id=f"{objective}-{name}")


def estimates(backend, objective, case, copies, seed=0):
    """Loss and gradients of many copies, in rows."""
    family, settings = OBJECTIVES[objective]
    elbo = getattr(backend.package, family)(**settings)
    model, guide = case.programs(backend, copies)
    params = {
        name: np.broadcast_to(x, (copies, *np.shape(x))).copy()
        for name, x in case.params.items()
    }
    return backend.objective_gradients(elbo, model, guide, params=params, seed=seed)


@pytest.mark.statistical
@pytest.mark.parametrize(("objective", "case"), [*rows(fast=True)])
def test_the_mean_gradient_is_the_exact_one(backend, objective, case):
    expected = gradient(case.elbo, case.params)
    _, found = estimates(backend, objective, case, 20_000)
    for name, samples in found.items():
        assert_mean(samples, -expected[name])


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize(("objective", "case"), [*rows(fast=False)])
def test_the_mean_gradient_of_every_objective_is_exact(backend, objective, case):
    expected = gradient(case.elbo, case.params)
    _, found = estimates(backend, objective, case, 20_000)
    for name, samples in found.items():
        assert_mean(samples, -expected[name])
