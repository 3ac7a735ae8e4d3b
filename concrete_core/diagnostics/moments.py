"""Means and variances of gradients, from running sums alone.

Gradients come in batches, as arrays by the name of their parameter. `Moments` adds the
batches up without keeping them, and `cosines_to_reference` compares directions.
"""

from collections.abc import Mapping, Sequence

import numpy as np

Arrays = dict[str, np.ndarray]


class Moments:
    """Mean and variance of arrays by name, from batches of draws.

    Args:
        reference: Arrays to which the cosine of each draw is taken, if any.

    Attributes:
        count: Number of draws.
        mean: Mean of the draws.

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
        self._squared_deviations: Arrays = {}  # summed over draws, about the mean
        self._cosine_sum: np.ndarray | float = 0.0

    def add(self, draws: Mapping[str, np.ndarray]) -> None:
        """Add a batch of draws.

        Args:
            draws: Arrays by name, with the draws along the first axis.
        """
        draws = {name: np.asarray(array, float) for name, array in draws.items()}
        batch_size = len(next(iter(draws.values())))
        if self.reference is not None:
            cosines = cosines_to_reference(draws, self.reference)
            self._cosine_sum = self._cosine_sum + cosines.sum(0)
        total = self.count + batch_size
        for name, array in draws.items():
            batch_mean = array.mean(0)
            within = ((array - batch_mean) ** 2).sum(0)
            mean = self.mean.get(name, 0.0)
            gap = batch_mean - mean
            # Parallel-axis identity (Chan et al. 1983): sums of squares about two means
            # add up to one about the common mean, with this term between the means.
            between = gap**2 * self.count * batch_size / total
            self.mean[name] = np.asarray(mean + gap * batch_size / total)
            squares = self._squared_deviations.get(name, 0.0) + within + between
            self._squared_deviations[name] = np.asarray(squares)
        self.count = total

    @property
    def variance(self) -> Arrays:
        """Unbiased variance of each element of a draw."""
        degrees = self.count - 1
        return {
            name: np.asarray(squares / degrees)
            for name, squares in self._squared_deviations.items()
        }

    @property
    def stderr(self) -> Arrays:
        """Standard error of each element of the mean."""
        return {
            name: np.asarray(np.sqrt(variance / self.count))
            for name, variance in self.variance.items()
        }

    @property
    def cosines(self) -> np.ndarray:
        """Mean cosine of a draw to the reference, by array and of all together."""
        return np.asarray(self._cosine_sum) / self.count


def sums_and_total(
    arrays: Mapping[str, np.ndarray], names: Sequence[str]
) -> np.ndarray:
    """Return the sum of each array, and last the sum of all.

    Example:
        >>> sums_and_total({"a": np.ones(3), "b": np.ones(())}, ["a", "b"]).tolist()
        [3.0, 1.0, 4.0]
    """
    sums = np.array([np.sum(arrays[name]) for name in names])
    return np.append(sums, sums.sum())


def cosines_to_reference(
    draws: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return the cosine of each draw to the reference, by array and of all together.

    Shapes:
        result: (draws, number of arrays + 1). A draw of zeros has cosine zero; to a
            reference of zeros there is no direction, and the cosine is NaN.

    Args:
        draws: Arrays by name, with the draws along the first axis.
        reference: Arrays by name.

    Example:
        >>> draws = {"a": np.array([[1.0, 1.0]])}
        >>> cosines_to_reference(draws, {"a": np.array([0.0, 2.0])}).round(4)
        array([[0.7071, 0.7071]])
    """
    products = []
    for name, array in draws.items():
        vectors = array.reshape(len(array), -1)
        target = reference[name].reshape(-1)
        target_squares = np.full(len(vectors), (target**2).sum())
        products.append([vectors @ target, (vectors**2).sum(-1), target_squares])
    by_array = np.array(products)  # (arrays, 3, draws)
    # Inner products of concatenated vectors are sums of inner products.
    with_total = np.concatenate([by_array, by_array.sum(0, keepdims=True)])
    dot, draw_squares, target_squares = with_total.swapaxes(0, 1)
    lengths = np.sqrt(draw_squares * target_squares)
    safe_lengths = np.where(lengths > 0, lengths, 1.0)
    cosines = np.where(lengths > 0, dot / safe_lengths, 0.0)
    return np.where(target_squares > 0, cosines, np.nan).T
