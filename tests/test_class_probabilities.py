"""AutoConcrete's class probabilities on a small table, against Bayes' rule."""

import numpy as np
import pytest
from scipy import special

# Five patients, each rated into one of three classes by three doctors.
RATINGS = np.array([[0, 0, 1], [1, 1, 1], [2, 2, 0], [1, 2, 1], [2, 0, 0]])
PREVALENCE = np.array([0.5, 0.3, 0.2])
# By doctor, true class and rating.
CONFUSION = np.array(
    [
        [[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]],
        [[0.6, 0.2, 0.2], [0.1, 0.7, 0.2], [0.2, 0.2, 0.6]],
        [[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.3, 0.1, 0.6]],
    ]
)


def exact():
    """Bayes' rule, patient by patient."""
    score = np.tile(np.log(PREVALENCE), (len(RATINGS), 1))
    for patient, ratings in enumerate(RATINGS):
        for doctor, rating in enumerate(ratings):
            score[patient] += np.log(CONFUSION[doctor][:, rating])
    return special.softmax(score, -1)


def program(backend):
    dist = backend.dist
    confusion = backend.array(CONFUSION)
    doctors = backend.array(np.arange(3), "int64")

    def model():
        with backend.plate("patients", len(RATINGS), dim=-1):
            z = backend.site("z", dist.Categorical(backend.array(PREVALENCE)))
            # One site for all doctors: its probabilities are read by a soft index.
            ratings = dist.Categorical(confusion[doctors, z[..., None]]).to_event(1)
            backend.site("ratings", ratings, obs=backend.array(RATINGS, "int64"))

    return model


@pytest.mark.slow_on("numpyro")
def test_they_are_the_exact_ones(backend):
    package, model = backend.package, program(backend)
    temperature = package.schedules.Exponential(1.0, 0.1, num_steps=60)
    relaxed = package.relax(model, temperature, scoring="discrete")
    guide = package.AutoConcrete(relaxed)
    settings = {"steps": 60, "lr": 0.2, "counted": True, "particles": 1024}
    with backend.double_precision():
        _, params = backend.train("Trace", relaxed, guide, **settings)
        found = backend.probabilities(guide, params)["z"]
    assert np.abs(found - exact()).mean() < 0.02
