"""Mixtures: what a class, a flag or an indicator chooses for each datum."""

import numpy as np

from example_models.entry import Entry


def _rng(seed):
    return np.random.default_rng(seed)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _gaussian():
    """Forty numbers from three components of different weights and widths."""
    rng = _rng(0)
    z = rng.choice(3, size=40, p=[0.5, 0.3, 0.2])
    locs, scales = np.array([-2.0, 0.5, 3.0]), np.array([0.5, 0.8, 0.4])
    return (locs[z] + scales[z] * rng.normal(size=40),)


def _planar():
    """Thirty points in the plane, from three clusters."""
    rng = _rng(1)
    z = rng.choice(3, size=30, p=[0.25, 0.35, 0.4])
    locs = np.array([[-1.5, 0.0], [1.0, 2.0], [1.5, -1.0]])
    return (locs[z] + 0.6 * rng.normal(size=(30, 2)),)


def _two_components():
    """Two hundred numbers from two components that overlap a little."""
    rng = _rng(2)
    z = rng.random(200) < 0.35
    return (np.where(z, 3.5, 0.5) + 0.9 * rng.normal(size=200),)


def _clumps():
    """Fifty numbers from four clumps, for at most six atoms."""
    rng = _rng(3)
    z = rng.choice(4, size=50, p=[0.4, 0.3, 0.2, 0.1])
    return (np.array([-4.0, 0.0, 2.5, 6.0])[z] + 0.5 * rng.normal(size=50),)


def _documents():
    """Twelve documents of eight words out of ten, on three topics; batches of six."""
    rng = _rng(4)
    topics = rng.dirichlet(np.full(10, 0.4), size=3)
    theta = rng.dirichlet([0.8, 0.5, 0.4], size=12)
    words = [
        [rng.choice(10, p=topics[rng.choice(3, p=row)]) for _ in range(8)]
        for row in theta
    ]
    return np.array(words), 10, 6


def _images():
    """Thirty images of eight pixels, a third of them labelled, and their decoder."""
    rng = _rng(5)
    w1, b1 = 1.2 * rng.normal(size=(5, 6)), 0.3 * rng.normal(size=6)
    w2, b2 = 1.5 * rng.normal(size=(6, 8)), 0.3 * rng.normal(size=8)
    labels = rng.choice(3, size=30, p=[0.5, 0.2, 0.3])
    inputs = np.concatenate([np.eye(3)[labels], rng.normal(size=(30, 2))], axis=1)
    logits = np.tanh(inputs @ w1 + b1) @ w2 + b2
    pixels = (rng.random((30, 8)) < _sigmoid(logits)).astype(float)
    labelled = np.arange(30) % 3 == 0
    return pixels, np.where(labelled, labels, 0), labelled, w1, b1, w2, b2


def _crossed():
    """Two readings of forty units that have a kind, a state and an observed group."""
    rng = _rng(6)
    group = rng.choice(4, size=40)
    kind, state = rng.choice(3, size=40, p=[0.5, 0.3, 0.2]), rng.choice(2, size=40)
    table = np.array([[-2.0, 0.5], [1.0, 2.5], [4.0, -1.0]])
    effect = rng.normal(size=(4, 3))
    first = table[kind, state] + 0.5 * rng.normal(size=40)
    return first, effect[group, kind] + 0.4 * rng.normal(size=40), group, table


def _sparse_regression():
    """Thirty responses to six covariates, of which three matter."""
    rng = _rng(7)
    design = rng.normal(size=(30, 6))
    slopes = np.array([1.5, 0.0, -1.0, 0.0, 0.0, 0.6])
    return design, design @ slopes + 0.7 * rng.normal(size=30)


def _absences():
    """Counts at forty sites, most of them zero or false alarms, with exposures."""
    rng = _rng(8)
    exposure = rng.uniform(0.5, 2.0, size=40)
    present = rng.random(40) < 0.6
    return rng.poisson(np.where(present, 4.0 * exposure, 0.3)), exposure


def _contaminated_line():
    """Thirty-five points on a line, one in five of them thrown far off."""
    rng = _rng(9)
    x = rng.uniform(-2, 2, size=35)
    noise = np.where(rng.random(35) < 0.2, 4.0, 0.4) * rng.normal(size=35)
    return x, 0.5 + 1.3 * x + noise


ENTRIES = (
    Entry("gaussian_mixture", _gaussian, 40, broadcasts=False),
    Entry("one_hot_mixture", _planar, 30),
    Entry("two_component_mixture", _two_components, 200, broadcasts=False),
    # Enumeration itself ends in a different optimum from each start, here and below.
    Entry(
        "dirichlet_process",
        _clumps,
        50,
        training={"particles": 64, "starts": 3},
    ),
    # Six documents of the twelve are seen at a time, so that its ELBO is never exact.
    Entry("lda", _documents, 96, plates=2, tractable=False),
    Entry("semi_supervised_vae", _images, 30),
    Entry(
        "joint_mixture",
        _crossed,
        40,
        training={"particles": 64, "starts": 3},
    ),
    # All coefficients meet in one product: 2**6 joint states.
    Entry("spike_and_slab", _sparse_regression, 30, tractable=False),
    Entry("masked_zero_inflated", _absences, 40),
    # NumPyro has no MaskedMixture.
    Entry("masked_mixture", _absences, 40, hosts=("pyro",)),
    Entry("outliers", _contaminated_line, 35),
)
