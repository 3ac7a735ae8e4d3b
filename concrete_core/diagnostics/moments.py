"""Means and variances of gradients, of which only running sums are kept."""

from collections.abc import Mapping, Sequence

import numpy as np

Arrays = dict[str, np.ndarray]


class Moments:
    """Mean and variance of arrays by name, from batches of draws.

    Args:
        reference: Arrays to which the cosine of each draw is taken, if any.

    Attributes:
        count: Number of draws.
        mean: Their mean.

    Example:
        >>> moments = Moments({"a": np.array([2.0, 0.0])})
        >>> moments.add({"a": np.array([[1.0, 0.0], [3.0, 4.0]])})
        >>> moments.mean["a"].tolist(), moments.variance["a"].tolist()
        ([2.0, 2.0], [2.0, 8.0])
        >>> moments.cosines.tolist()  # of each array, and of all together
        [0.8, 0.8]
    """

    def __init__(self, reference: Mapping[str, np.ndarray] | None = None) -> None:
        self.reference = reference
        self.count = 0
        self.mean: Arrays = {}
        self._squares: Arrays = {}  # sums of squared distances from the mean
        self._cosines: np.ndarray | float = 0.0

    def add(self, draws: Mapping[str, np.ndarray]) -> None:
        """Take draws in.

        Args:
            draws: Arrays by name, with the draws along the first axis.
        """
        draws = {k: np.asarray(x, float) for k, x in draws.items()}
        size = len(next(iter(draws.values())))
        if self.reference is not None:
            self._cosines = self._cosines + cosines(draws, self.reference).sum(0)
        total = self.count + size
        for name, x in draws.items():
            mean = x.mean(0)
            squares = ((x - mean) ** 2).sum(0)
            gap = mean - self.mean.get(name, 0.0)
            # Two sums of squares about two means, as one about the mean of all.
            between = gap**2 * self.count * size / total
            self.mean[name] = np.asarray(self.mean.get(name, 0.0) + gap * size / total)
            squares = self._squares.get(name, 0.0) + squares + between
            self._squares[name] = np.asarray(squares)
        self.count = total

    @property
    def variance(self) -> Arrays:
        """The variance of each element of a draw."""
        return {k: np.asarray(x / (self.count - 1)) for k, x in self._squares.items()}

    @property
    def error(self) -> Arrays:
        """The standard error of each element of the mean."""
        return {
            k: np.asarray(np.sqrt(x / self.count)) for k, x in self.variance.items()
        }

    @property
    def cosines(self) -> np.ndarray:
        """The mean cosine of a draw to the reference, by name, and of all as one."""
        return np.asarray(self._cosines) / self.count


def sums(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Return the sum of each array, and last the sum of all.

    Example:
        >>> sums({"a": np.ones(3), "b": np.ones(())}, ["a", "b"]).tolist()
        [3.0, 1.0, 4.0]
    """
    each = np.array([np.sum(arrays[name]) for name in names])
    return np.append(each, each.sum())


def cosines(
    draws: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return cosines to the reference, by array and of all as one.

    Shapes:
        result: (draws, number of arrays + 1). A draw of zeros has the cosine zero; to
            a reference of zeros there is none, and it is NaN.

    Args:
        draws: Arrays by name, with the draws along the first axis.
        reference: Arrays by name.

    Example:
        >>> cosines({"a": np.array([[1.0, 1.0]])}, {"a": np.array([0.0, 2.0])}).round(4)
        array([[0.7071, 0.7071]])
    """
    columns = []
    for name, x in draws.items():
        x, r = x.reshape(len(x), -1), reference[name].reshape(-1)
        columns.append([x @ r, (x**2).sum(-1), np.full(len(x), (r**2).sum())])
    each = np.array(columns)  # (arrays, 3, draws)
    dot, own, other = np.concatenate([each, each.sum(0, keepdims=True)]).swapaxes(0, 1)
    lengths = np.sqrt(own * other)
    safe = np.where(lengths > 0, lengths, 1.0)
    return np.where(other > 0, np.where(lengths > 0, dot / safe, 0.0), np.nan).T
