"""What torch's functions do with soft values: counting and searching.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""

from typing import Any

import torch
from torch import Tensor

from pyro_concrete.soft_index.abstract import Call, is_soft, rule
from pyro_concrete.soft_index.elementwise import elementwise
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.states import largest_value


@rule("bincount")
def _bincount(call: Call) -> Any:
    x, weights, size = call.arguments(
        "input", "weights", "minlength", weights=None, minlength=0
    )
    x = x.exact() if is_soft(x) else x
    largest = largest_value(x) if is_soft(x) else int(x.max())
    if is_soft(x) and largest >= size:
        raise TypeError(refusal(x.site, f"bincount with minlength={size}"))
    slots = torch.arange(max(size, largest + 1), device=x.device)
    hits = slots == x.unsqueeze(-1)
    if weights is None:
        return hits.sum(0)
    weights = weights if weights.dtype is torch.float32 else weights.double()
    return (hits * weights.unsqueeze(-1)).sum(0)


@rule("bucketize")
def _bucketize(call: Call) -> Any:
    x, boundaries = call.arguments("input", "boundaries")
    if is_soft(boundaries):
        raise TypeError(refusal(call.sites, "bucketize with soft boundaries"))
    options = {k: v for k, v in call.kwargs.items() if k in ("right", "out_int32")}

    def of_each(values: Tensor) -> Tensor:
        return torch.bucketize(values.contiguous(), boundaries, **options)

    return elementwise(Call("bucketize", of_each, (x,), {}))


@rule("searchsorted")
def _searchsorted(call: Call) -> Any:
    boundaries, x = call.arguments("sorted_sequence", "input")
    right = call.kwargs.get("right", False) or call.kwargs.get("side") == "right"
    if call.kwargs.get("sorter") is not None or is_soft(boundaries):
        raise TypeError(refusal(call.sites, "searchsorted in this form"))
    if boundaries.dim() > 1:
        boundaries = boundaries.unsqueeze(-2)
    x = x.unsqueeze(-1)
    # NaN comes after all of them.
    from_here_on = boundaries > x if right else boundaries >= x
    count = (~from_here_on).sum(-1)
    return count.int() if call.kwargs.get("out_int32") else count


@rule("isin")
def _isin(call: Call) -> Any:
    x, among = call.arguments("elements", "test_elements")
    invert = call.kwargs.get("invert", False)
    x = x if isinstance(x, Tensor) else torch.as_tensor(x)
    among = among if isinstance(among, Tensor) else torch.as_tensor(among)
    found = (x.unsqueeze(-1) == among.reshape(-1)).any(-1)
    return ~found if invert else found
