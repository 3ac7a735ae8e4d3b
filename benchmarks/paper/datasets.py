"""Binary images for the experiments, from files in a folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PIXELS = 784


@dataclass(frozen=True)
class Images:
    """Binary images, flattened: (images, 784), of type uint8."""

    train: np.ndarray
    test: np.ndarray


def load(name: str, folder: Path | None) -> Images:
    """Return the images of a data set.

    Args:
        name: "mnist" or "omniglot"; or "random", images of independent pixels that need
            no file, for a rehearsal.
        folder: Folder of the files.

    Raises:
        ValueError: If the name is unknown, or needs a folder.
    """
    if name == "random":
        return _random()
    if name not in _FILES:
        names = ", ".join((*_FILES, "random"))
        raise ValueError(f"no data set {name!r}. There are: {names}")
    file, read = _FILES[name]
    if folder is None:
        raise ValueError(f"{name} needs --data, the folder of {file}")
    return read(folder / file)


def _random() -> Images:
    generator = np.random.default_rng(0)
    probs = generator.uniform(0.05, 0.5, PIXELS)
    draws = generator.uniform(size=(640, PIXELS)) < probs
    return Images(*np.split(draws.astype(np.uint8), [512]))


def _mnist(path: Path) -> Images:
    """Return the static binarization of Larochelle.

    The arrays x_train and x_test have 98 bytes for each image, eight pixels per byte.
    """
    with np.load(path) as file:
        train, test = (np.unpackbits(file[x], axis=-1) for x in ("x_train", "x_test"))
    return Images(train, test)


def _omniglot(path: Path) -> Images:
    """Return one binary sample of the gray images of Burda et al.

    The array x has 1623 characters of 20 images of 28 x 28 pixels, in 0 to 255, and
    iwae_like_split is 0 for an image of the training set and 1 for one of the test set.
    """
    with np.load(path) as file:
        gray = file["x"].reshape(-1, PIXELS)
        split = file["iwae_like_split"].ravel()
    draws = np.random.default_rng(0).random(gray.shape, np.float32)
    images = (255 * draws < gray).astype(np.uint8)
    return Images(images[split == 0], images[split == 1])


_FILES: dict[str, tuple[str, Callable[[Path], Images]]] = {
    "mnist": ("static_binarized_mnist.npz", _mnist),
    "omniglot": ("omniglot28.npz", _omniglot),
}
