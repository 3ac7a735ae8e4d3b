"""What torch's functions do with soft values: losses, as sums of those of elements.

Counterpart: none; JAX programs write these as arithmetic.
"""

import torch
from torch import Tensor

from pyro_concrete.soft_index.abstract import Call, Results, rule, soft_leaves
from pyro_concrete.soft_index.elementwise import elementwise
from pyro_concrete.soft_index.refusals import refusal


@rule("""
    binary_cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss
    smooth_l1_loss huber_loss
""")
def _loss(call: Call) -> Results:
    names = ("input", "target", "weight", "reduction")
    if call.args[(3 if call.name.startswith("binary") else 2) :]:
        raise TypeError(refusal(call.sites, f"{call.name} in this form"))
    # torch has the first one twice, once with numbers for the names of reductions.
    has_numbers = call.func is torch.binary_cross_entropy_with_logits
    none = 0 if has_numbers else "none"
    score, target, weight, reduction = call.arguments(
        *names, weight=None, reduction=0 if has_numbers else "mean"
    )
    old = ("size_average", "reduce")
    options = {k: v for k, v in call.kwargs.items() if k not in names + old}

    def of_each(score: Tensor, target: Tensor) -> Tensor:
        score, target = torch.broadcast_tensors(score, target)
        if call.name.startswith("binary"):
            target = target.to(score.dtype)
        return call.func(score, target, reduction=none, **options)

    if soft_leaves((score, target)):
        losses = elementwise(Call(call.name, of_each, (score, target), {}))
    else:
        losses = of_each(score, target)
    losses = losses if weight is None else losses * weight
    if reduction in ("none", 0):
        return losses
    return losses.sum() if reduction in ("sum", 2) else losses.mean()


@rule("nll_loss nll_loss_nd cross_entropy cross_entropy_loss")
def _nll_loss(call: Call) -> Results:
    scores, target, weight = call.arguments("input", "target", "weight", weight=None)
    reduction = call.kwargs.get("reduction", "mean")
    if weight is not None or call.kwargs.get("label_smoothing"):
        operation = f"{call.name} with class weights or smoothing"
        raise TypeError(refusal(call.sites, operation))
    dim = min(1, scores.dim() - 1)
    if call.name.startswith("cross"):
        scores = scores.log_softmax(dim)
    losses = -scores.gather(dim, target.unsqueeze(dim)).squeeze(dim)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()
