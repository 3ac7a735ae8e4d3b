"""What torch's functions do with soft values: counting and searching.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""

import torch
from torch import Tensor

from pyro_concrete.soft_index.abstract import AbstractSoft, Call, Results, is_soft, rule
from pyro_concrete.soft_index.elementwise import elementwise
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.states import largest_value


@rule("bincount")
def _bincount(call: Call) -> Results:
    x, weights, size = call.arguments(
        "input", "weights", "minlength", weights=None, minlength=0
    )
    if isinstance(x, AbstractSoft):
        x = x.exact()
        largest = largest_value(x)
        if largest >= size:
            raise TypeError(refusal(x.site, f"bincount with minlength={size}"))
    else:
        largest = int(x.max())
    slots = torch.arange(max(size, largest + 1), device=x.device)
    hits = slots == x.unsqueeze(-1)
    if weights is None:
        return hits.sum(0)
    if weights.dtype is not torch.float32:
        weights = weights.double()
    return (hits * weights.unsqueeze(-1)).sum(0)


@rule("bucketize")
def _bucketize(call: Call) -> Results:
    x, boundaries = call.arguments("input", "boundaries")
    if is_soft(boundaries):
        raise TypeError(refusal(call.sites, "bucketize with soft boundaries"))
    options = {k: v for k, v in call.kwargs.items() if k in ("right", "out_int32")}

    def of_each(values: Tensor) -> Tensor:
        return torch.bucketize(values.contiguous(), boundaries, **options)

    return elementwise(Call("bucketize", of_each, (x,), {}))


@rule("searchsorted")
def _searchsorted(call: Call) -> Results:
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
    if call.kwargs.get("out_int32"):
        return count.int()
    return count


@rule("isin")
def _isin(call: Call) -> Results:
    x, among = call.arguments("elements", "test_elements")
    invert = call.kwargs.get("invert", False)
    x = torch.as_tensor(x)
    among = torch.as_tensor(among)
    is_among = (x.unsqueeze(-1) == among.reshape(-1)).any(-1)
    if invert:
        return ~is_among
    return is_among
