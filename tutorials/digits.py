"""The digits of scikit-learn: 1797 images of 8 by 8 counts from 0 to 16.

A pixel counts the dark points of a 4 by 4 block of a bitmap of 32 by 32. The images
come with scikit-learn, so that nothing is downloaded.
"""

import numpy as np
from sklearn.datasets import load_digits

SIDE = 8
PIXELS = SIDE * SIDE
LEVELS = 16
NUM_TEST = 360


def load(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the training images and the test images, one a row, split at random."""
    images, _ = _shuffled(seed)
    return images[NUM_TEST:], images[:NUM_TEST]


def examples(seed: int = 0) -> np.ndarray:
    """Return ten test images, the first of each digit."""
    images, labels = _shuffled(seed)
    _, first = np.unique(labels[:NUM_TEST], return_index=True)
    return images[first]


def _shuffled(seed: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    return images[order].astype(np.float32), labels[order]


def minibatches(num_images: int, size: int, steps: int, seed: int = 0) -> np.ndarray:
    """Return the rows of each step's minibatch, of shape (steps, size).

    Every pass over the images is in a new order, and leaves out the few at the end that
    do not fill a minibatch.
    """
    rng = np.random.default_rng(seed)
    per_pass = num_images // size
    passes = [
        rng.permutation(num_images)[: per_pass * size].reshape(per_pass, size)
        for _ in range(-(-steps // per_pass))
    ]
    return np.concatenate(passes)[:steps]
