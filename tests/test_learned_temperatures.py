"""AutoConcrete with a learned temperature for each element."""

import numpy as np
import pytest

PROBS = np.array([0.3, 0.6])
WEIGHTS = np.array([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]])
SIZE = 6


@pytest.fixture(autouse=True)
def _double_precision(backend):
    with backend.double_precision():
        yield


def prior(backend):
    """A model without data, whose posterior is the prior."""
    dist = backend.dist
    backend.site("b", dist.Bernoulli(backend.array(PROBS)).to_event(1))
    with backend.plate("rows", 2):
        backend.site("z", dist.Categorical(backend.array(WEIGHTS)))


def temperatures(params):
    """The learned temperatures by site: positive, as they are stored by the backend."""
    found = {}
    for site in ("b", "z"):
        (name,) = [n for n in params if n.endswith(f"temperatures.{site}")] or [
            n for n in params if n == f"{site}_auto_temperature"
        ]
        found[site] = np.asarray(params[name])
    return found


def test_they_find_the_temperature_of_the_prior(backend):
    """The bound is largest where the guide is the relaxed prior itself."""
    package = backend.package
    model = package.relax(lambda: prior(backend), 0.5, scoring="concrete")
    guide = package.AutoConcrete(model, 1.0, learn_temperatures=True)
    _, params = backend.train("Trace", model, guide, steps=200, lr=0.05, particles=50)
    for values in temperatures(params).values():
        assert values.shape == (2,)
        assert np.allclose(values, 0.5, atol=0.06)


def test_elements_have_temperatures_of_their_own(backend):
    package = backend.package
    model = package.relax(lambda: prior(backend), {"b": 0.5, "z": 0.9})
    model_temperatures = {"z": backend.array([0.3, 0.7]), "b": 0.9}
    guide = package.AutoConcrete(model, model_temperatures, learn_temperatures=True)
    _, params = backend.train("Trace", model, guide, steps=1, lr=1e-6)
    found = temperatures(params)
    assert np.allclose(found["z"], [0.3, 0.7], atol=1e-4)
    assert np.allclose(found["b"], 0.9, atol=1e-4)


def test_a_subsampled_plate_has_temperatures_of_all_elements(backend):
    dist, package = backend.dist, backend.package

    def model():
        with backend.plate("rows", SIZE, subsample_size=2):
            backend.site("z", dist.Categorical(backend.array(np.ones(3) / 3)))
            backend.site("b", dist.Bernoulli(backend.array(0.4)))

    relaxed = package.relax(model, 0.5)
    guide = package.AutoConcrete(relaxed, learn_temperatures=True)
    _, params = backend.train("Trace", relaxed, guide, steps=2)
    assert all(x.shape == (SIZE,) for x in temperatures(params).values())
