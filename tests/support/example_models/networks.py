"""Networks: annotators and items, nodes and edges, layers of bits, causes."""

import numpy as np

from example_models.entry import Entry


def _rng(seed):
    return np.random.default_rng(seed)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _choices(rng, probs):
    """Draw one class for each row of probabilities."""
    uniform = rng.random((*probs.shape[:-1], 1))
    return (uniform > np.cumsum(probs, -1)[..., :-1]).sum(-1)


def _patients():
    """Five annotators, the first three times, sort 45 patients into four classes."""
    rng = _rng(40)
    annotator = np.array([0, 0, 0, 1, 2, 3, 4])
    confusion = rng.dirichlet(np.ones(4), size=(5, 4)) * 0.4 + 0.6 * np.eye(4)
    truth = rng.choice(4, size=45, p=[0.4, 0.3, 0.2, 0.1])
    responses = _choices(rng, confusion[annotator, truth[:, None]])
    return annotator, responses, rng.random((45, 7)) < 0.85


def _crowd():
    """Six annotators, some of whom often answer without looking, on thirty items."""
    rng = _rng(41)
    truth = rng.choice(3, size=30, p=[0.5, 0.3, 0.2])
    spam = rng.random((6, 30)) < np.array([0.1, 0.1, 0.2, 0.3, 0.6, 0.8])[:, None]
    strategy = rng.dirichlet([1.0, 0.7, 0.5], size=6)[:, None]
    careful = 0.94 * np.eye(3)[truth] + 0.02
    return (_choices(rng, np.where(spam[..., None], strategy, careful)),)


def _difficult():
    """Seven answers on each of twenty items, some of which are hard."""
    rng = _rng(42)
    truth = rng.choice(3, size=20, p=[0.25, 0.45, 0.3])
    logits = np.array([[2.0, 0.0, -0.5], [0.3, 2.5, 0.0], [0.0, -0.3, 1.8]])[truth]
    logits = logits * np.exp(-0.7 * rng.normal(size=(20, 1)))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return (_choices(rng, np.repeat(probs[:, None], 7, axis=1)),)


def _friends():
    """Twelve people in three blocks, and who is linked to whom."""
    rng = _rng(43)
    z = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    blocks = np.array([[0.8, 0.15, 0.3], [0.15, 0.7, 0.1], [0.3, 0.1, 0.9]])
    edges = rng.random((12, 12)) < blocks[z[:, None], z[None, :]]
    return (np.triu(edges, 1).astype(float),)


def _layers():
    """Twenty-four images of eight pixels, and the weights between layers of bits."""
    rng = _rng(44)
    top, bottom = 1.5 * rng.normal(size=(4, 4)), 2.0 * rng.normal(size=(4, 8))
    h2 = rng.random((24, 4)) < _sigmoid(np.array([-0.5, 0.2, 0.6, -1.0]))
    h1 = rng.random((24, 4)) < _sigmoid(h2 @ top - 0.3)
    pixels = rng.random((24, 8)) < _sigmoid(h1 @ bottom - 0.4)
    return pixels.astype(float), top, bottom


def _symptoms():
    """Six symptoms of forty patients who have some of four diseases."""
    rng = _rng(45)
    ill = rng.random((40, 4)) < np.array([0.15, 0.3, 0.4, 0.25])
    rate = 0.05 + ill @ rng.gamma(0.6, 1.5, size=(4, 6))
    return ((rng.random((40, 6)) < 1 - np.exp(-rate)).astype(float),)


def _hinges():
    """Thirty responses to five covariates, each with a slope and an offset."""
    rng = _rng(46)
    design = rng.normal(size=(30, 5))
    slopes = np.array([1.5, -0.5, 0.0, 2.0, -1.0])
    offsets = np.array([0.5, -1.0, 0.2, 0.0, 0.7])
    noise = 0.6 * rng.normal(size=30)
    return design, ((design - offsets) * slopes).sum(-1) + noise


ENTRIES = (
    Entry("dawid_skene", _patients, 315, plates=2, broadcasts=False),
    Entry("mace", _crowd, 180, plates=2),
    Entry("item_difficulty", _difficult, 140, plates=2, broadcasts=False),
    # Every pair of nodes meets at an edge: 3**12 joint states.
    Entry("stochastic_block", _friends, 66, plates=2, tractable=False),
    # The hosts enumerate no site of several bits.
    Entry("sigmoid_belief_net", _layers, 24, tractable=False),
    Entry("noisy_or", _symptoms, 40, broadcasts=False),
    # Nor a site of several classes.
    Entry("multi_site_regression", _hinges, 30, tractable=False),
)
