"""Counts: latent integers in arithmetic, in comparisons and as parameters."""

import numpy as np

from example_models.entry import Entry


def _rng(seed):
    return np.random.default_rng(seed)


def _days():
    """Seventy days of counts, whose rate falls after the forty-second."""
    rng = _rng(20)
    return (rng.poisson(np.where(np.arange(70) < 42, 6.0, 2.0)),)


def _visits():
    """Counts of animals at 25 sites on 4 visits each, and the cover of the sites."""
    rng = _rng(21)
    cover = rng.normal(size=25)
    present = 4 + rng.binomial(30, 1 / (1 + np.exp(1.2 - 0.6 * cover)))
    return rng.binomial(present[:, None], 0.45, size=(25, 4)), cover


def _readings():
    """Thirty noisy readings that are proportional to counts of events."""
    rng = _rng(22)
    exposure = rng.uniform(0.5, 2.0, size=30)
    return exposure, 1.4 * rng.poisson(3.0 * exposure) + 0.5 * rng.normal(size=30)


def _mutations():
    """Counts at forty cells whose rates grow with a hidden number of mutations."""
    rng = _rng(23)
    k = np.where(rng.random(40) < 0.4, 0, rng.binomial(3, 0.55, size=40))
    return (rng.poisson(np.exp(0.2 + 0.8 * k)),)


def _customers():
    """What thirty-five customers spend, and two features of theirs."""
    rng = _rng(24)
    features = rng.normal(size=(35, 2))
    latent = features @ np.array([1.0, -0.7]) + rng.logistic(size=35)
    rating = np.searchsorted([-1.0, 0.3, 1.6], latent)
    level = np.array([-1.0, 0.2, 1.8, 3.0])
    return features, level[rating] + 0.4 * rng.normal(size=35)


def _groups():
    """Three groups of twelve numbers, each of its own spread."""
    rng = _rng(25)
    return (1.0 + np.array([1, 3, 5])[:, None] * rng.normal(size=(3, 12)),)


def _fading():
    """What is left of thirty signals after they waited."""
    rng = _rng(26)
    waits = rng.geometric(0.35, size=30) - 1
    return (3.0 * 0.7**waits + 0.15 * rng.normal(size=30),)


ENTRIES = (
    Entry("change_point", _days, 70),
    Entry("n_mixture", _visits, 100, plates=2, broadcasts=False),
    Entry("truncated_poisson", _readings, 30, options={"truncate": {"n": 20}}),
    Entry("zero_inflated_rates", _mutations, 40),
    Entry("ordered_ratings", _customers, 35, broadcasts=False),
    Entry("discrete_uniform_scale", _groups, 36),
    Entry("geometric_waiting", _fading, 30, options={"truncate": {"wait": 15}}),
)
