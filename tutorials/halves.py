"""Upper and lower halves of digits, for the tutorials on structured prediction.

The digits are scikit-learn's, or MNIST's from a folder of idx files.
"""

from dataclasses import dataclass
from pathlib import Path

import digits
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

NUM_TEST = 1000  # of MNIST's 10,000
THRESHOLD = 127
BYTES = 0x08  # the code of unsigned bytes in the header of an idx file


@dataclass
class Images:
    """Whole images, one a row, with pixels that count from 0 to `levels`."""

    train: np.ndarray
    test: np.ndarray
    examples: np.ndarray
    side: int
    levels: int

    @property
    def half(self) -> int:
        """The number of pixels of a half."""
        return self.side**2 // 2


def load(folder: Path | None = None) -> Images:
    """Return scikit-learn's digits or, given a folder, MNIST in black and white."""
    if folder is None:
        return Images(*digits.load(), digits.examples(), digits.SIDE, digits.LEVELS)
    train = read_idx(folder / "train-images-idx3-ubyte")
    test = read_idx(folder / "t10k-images-idx3-ubyte")[:NUM_TEST]
    labels = read_idx(folder / "t10k-labels-idx1-ubyte")[:NUM_TEST]
    side = train.shape[1]
    train, test = (
        (x.reshape(len(x), -1) > THRESHOLD).astype(np.float32) for x in (train, test)
    )
    _, first = np.unique(labels, return_index=True)
    return Images(train, test, test[first], side, 1)


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of bytes: two zeros, a type, the number of dims, their sizes."""
    content = path.read_bytes()
    zeros, kind, dims = content[:2], content[2], content[3]
    if zeros != b"\0\0" or kind != BYTES:
        raise ValueError(f"{path} is not an idx file of unsigned bytes")
    shape = np.frombuffer(content, ">i4", dims, 4)
    return np.frombuffer(content, np.uint8, -1, 4 + 4 * dims).reshape(shape)


def table(rows: dict[str, tuple[float, ...]], columns: tuple[str, ...]) -> str:
    """Numbers in nats per image, one net a line."""
    head = f"{'':<14}" + "".join(f"{column:>16}" for column in columns)
    lines = [
        f"{name:<14}" + "".join(f"{number:>16.2f}" for number in numbers)
        for name, numbers in rows.items()
    ]
    return "\n".join((head, "-" * len(head), *lines))


def draw(images: Images, means: np.ndarray, completions: np.ndarray) -> Figure:
    """Draw the examples, the means' lower halves, and several drawn completions.

    `completions` has the shape (draws, examples, pixels of a half).
    """
    whole = images.examples / images.levels
    upper = whole[:, : images.half]
    columns = [whole] + [np.hstack([upper, x]) for x in (means, *completions)]
    side = images.side
    figure, panes = plt.subplots(
        len(whole), len(columns), figsize=(0.62 * len(columns), 0.62 * len(whole))
    )
    for row, of_row in zip(panes, zip(*columns, strict=True), strict=True):
        for axes, image in zip(row, of_row, strict=True):
            axes.imshow(image.reshape(side, side), cmap="gray_r", vmin=0, vmax=1)
            axes.axhline(side / 2 - 0.5, color=(0.8, 0.3, 0.2), lw=0.8)
            axes.set(xticks=[], yticks=[])
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.94, wspace=0.12, hspace=0.12)
    panes[0, 0].set_title("digit", fontsize=9)
    panes[0, 1].set_title("means", fontsize=9)
    panes[0, 2].set_title("binary: one completion a draw", fontsize=9, loc="left")
    return figure
