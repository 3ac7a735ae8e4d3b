"""A discrete MAP estimate, from an AutoConcrete that is trained without its entropy."""

import itertools

import numpy as np

SIZE = 10


def test_a_guide_without_entropy_finds_a_most_probable_value(backend):
    """Ten bits that attract and repel each other, with 1,024 values."""
    dist, package = backend.dist, backend.package
    rng = np.random.default_rng(0)
    weights, biases = rng.normal(size=(SIZE, SIZE)), rng.normal(size=SIZE)
    values = np.array([*itertools.product([0.0, 1.0], repeat=SIZE)])

    def score(z, weights, biases):
        return (z @ weights * z).sum(-1) + z @ biases

    def model():
        probs = backend.array(np.full(SIZE, 0.5))
        z = 1.0 * backend.site("z", dist.Bernoulli(probs).to_event(1))
        backend.factor("y", score(z, backend.array(weights), backend.array(biases)))

    with backend.double_precision():
        relaxed = package.relax(model, 0.3, scoring="discrete")
        guide = package.AutoConcrete(relaxed)

        def without_entropy():
            with backend.mask(backend.array(False, "bool")):
                return guide()

        _, params = backend.train("Trace", relaxed, without_entropy, steps=500)
        found = backend.numpy(backend.median(guide, params)["z"])
    scores = np.sort(score(values, weights, biases))
    # The best one, or a local optimum among the best percent.
    assert score(found, weights, biases) >= scores[-SIZE]
