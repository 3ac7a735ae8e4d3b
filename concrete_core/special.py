"""Special functions of whole numbers."""

import math


def harmonic_number(num_terms: int) -> float:
    """Return H_m = 1 + 1/2 + ... + 1/m, which is digamma(m + 1) + Euler's constant.

    Args:
        num_terms: The number m >= 0.

    Example:
        >>> harmonic_number(2)
        1.5
    """
    return math.fsum(1 / j for j in range(1, num_terms + 1))
