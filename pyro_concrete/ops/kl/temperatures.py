"""The ratio of two temperatures, and the KL of two Concretes at equal logits.

Counterpart: ``numpyro_concrete.ops.kl.temperatures``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from concrete_core.kl import tables
from concrete_core.kl.tables import MAX_RATIO
from pyro_concrete.ops.kl.series import chebyshev_polynomials, constant
from pyro_concrete.ops.precision import Temperature


class TableRatio(NamedTuple):
    """A ratio of temperatures, replaced by one where the tables do not reach it."""

    values: Tensor
    is_in_table: Tensor


def temperature_ratio(
    temperature_p: Temperature | None, temperature_q: Temperature | None, like: Tensor
) -> Tensor | None:
    """Return t_q / t_p, or None for one temperature, whatever its value is."""
    if (temperature_p is None) != (temperature_q is None):
        raise ValueError("temperature_p and temperature_q: give both, or neither")
    if temperature_p is temperature_q:
        return None
    ratio = temperature_q / temperature_p  # ty: ignore[unsupported-operator]
    if isinstance(ratio, Tensor):
        return ratio.to(like.dtype)
    if ratio == 1:
        return None
    return like.new_tensor(ratio)


def ratio_in_table(ratio: Tensor) -> TableRatio:
    """Return a ratio with the information whether the tables reach it."""
    # A ratio of two rounded temperatures may miss its end by a rounding error.
    end = MAX_RATIO * (1 + 4 * torch.finfo(ratio.dtype).eps)
    is_in_table = (ratio <= end) & (ratio >= 1 / end)
    return TableRatio(torch.where(is_in_table, ratio, 1.0), is_in_table)


def floor_kl(ratio: Tensor, num_classes: int) -> Tensor:
    """Return the KL at equal logits, D_n(r); it and its slope are zero at r = 1."""
    log_ratio = ratio.log()
    series = constant(tables.floor_series(num_classes), ratio)
    polynomials = chebyshev_polynomials(log_ratio, len(series))
    return log_ratio.square() * (polynomials @ series)
