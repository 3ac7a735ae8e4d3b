"""Binary images for the experiments, from files with eight pixels per byte."""

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
        name: "mnist", the static binarization of Larochelle; or "random", images of
            independent pixels that need no file, for a rehearsal.
        folder: Folder of static_binarized_mnist.npz, whose arrays x_train and x_test
            have 98 bytes for each image, eight pixels per byte.

    Raises:
        ValueError: If the name is unknown, or needs a folder.
    """
    if name == "random":
        generator = np.random.default_rng(0)
        probs = generator.uniform(0.05, 0.5, PIXELS)
        draws = generator.uniform(size=(640, PIXELS)) < probs
        return Images(*np.split(draws.astype(np.uint8), [512]))
    if name != "mnist":
        raise ValueError(f"no data set {name!r}. There are: mnist, random")
    if folder is None:
        raise ValueError("mnist needs --data, the folder of static_binarized_mnist.npz")
    with np.load(folder / "static_binarized_mnist.npz") as file:
        train, test = (np.unpackbits(file[x], axis=-1) for x in ("x_train", "x_test"))
    return Images(train, test)
