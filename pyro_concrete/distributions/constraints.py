"""The supports of the family with their bijections, and finite parameters.

Counterpart: ``numpyro_concrete.distributions.constraints``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import Transform

from pyro_concrete import ops
from pyro_concrete.ops.fused import sum_classes

Size = Sequence[Any]  # of integers; of tensors while torch.jit traces


class _LogSimplex(constraints.Constraint):
    """Finite vectors with logsumexp 0, up to the rounding of their dtype."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Tell for each vector whether it lies on the log-simplex."""
        tolerance = 10 * torch.finfo(value.dtype).eps ** 0.5
        # The sum of exponentials is not shifted by its maximum: a value that overflows
        # is not on the surface.
        total = sum_classes(ops.promote_half(value).exp()).squeeze(-1)
        return ((total - 1).abs() < tolerance) & (value.amin(-1) > -torch.inf)


class _RoundedSimplex(constraints.Constraint):
    """Vectors >= 0 with sum 1, up to the rounding of their dtype.

    torch's own simplex has one tolerance, 1e-6, which half precision never meets.
    """

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Tell for each vector whether it lies on the simplex."""
        rounding = 8 * value.shape[-1] * torch.finfo(value.dtype).eps
        gap = (ops.promote_half(value).sum(-1) - 1).abs()
        return (gap < max(1e-6, rounding)) & (value >= 0).all(-1)


class _DifferentiableOneHot(constraints.Constraint):
    """One-hot vectors that carry a gradient: the site is not a discrete one."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Tell for each vector whether it is one-hot."""
        is_hard = (value == 0) | (value == 1)
        return is_hard.all(-1) & (value.sum(-1) == 1)


class _DifferentiableBoolean(constraints.Constraint):
    """Zeros and ones that carry a gradient: the site is not a discrete one."""

    event_dim = 0

    def check(self, value: Tensor) -> Tensor:
        """Tell for each element whether it is zero or one."""
        return (value == 0) | (value == 1)


class _ScoredByMasses(constraints.Constraint):
    """The support of soft samples that have log-probabilities, and no density.

    Args:
        base: The support.
    """

    def __init__(self, base: constraints.Constraint) -> None:
        self.base = base
        super().__init__()

    @property
    def event_dim(self) -> int:
        """The number of event dimensions of a sample."""
        return self.base.event_dim

    def check(self, value: Tensor) -> Tensor:
        """Tell for each sample whether it is in the support."""
        return self.base.check(value)


class _Finite(constraints.Constraint):
    """Finite numbers."""

    event_dim = 0

    def check(self, value: Tensor) -> Tensor:
        """Tell for each element whether it is finite."""
        return value.isfinite()


class _FiniteVector(constraints.Constraint):
    """Finite vectors: a class of probability zero has a large negative logit."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Tell for each vector whether it is finite."""
        return value.isfinite().all(-1)


finite = _Finite()
finite_vector = _FiniteVector()
differentiable_boolean = _DifferentiableBoolean()
differentiable_one_hot = _DifferentiableOneHot()
log_simplex = _LogSimplex()
rounded_simplex = _RoundedSimplex()
log_simplex_by_masses = _ScoredByMasses(log_simplex)
real_by_masses = _ScoredByMasses(constraints.real)


class LogRatioTransform(Transform):
    """Bijection from R^(K-1) to the log-simplex by log-ratios to the last class.

    Densities on the log-simplex are with respect to these coordinates, so the
    log-Jacobian is zero.

    Shapes:
        input: `batch_shape + (K - 1,)`, output: `batch_shape + (K,)`.

    Example:
        >>> LogRatioTransform()(torch.zeros(1)).exp()
        tensor([0.5000, 0.5000])

    Counterpart: :class:`numpyro_concrete.distributions.LogRatioTransform`.
    """

    domain = constraints.real_vector
    codomain = log_simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogRatioTransform)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return ops.from_log_ratios(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return ops.log_ratios(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])

    def forward_shape(self, shape: Size) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Size) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] - 1))


@biject_to.register(log_simplex)
@transform_to.register(log_simplex)
def _log_ratio_transform(_: constraints.Constraint) -> LogRatioTransform:
    return LogRatioTransform()


@biject_to.register(rounded_simplex)
def _stick_breaking_transform(_: constraints.Constraint) -> Transform:
    return biject_to(constraints.simplex)


@transform_to.register(rounded_simplex)
def _softmax_transform(_: constraints.Constraint) -> Transform:
    return transform_to(constraints.simplex)


@transform_to.register(_ScoredByMasses)
def _transform_without_density(constraint: _ScoredByMasses) -> Transform:
    return transform_to(constraint.base)


@biject_to.register(_ScoredByMasses)
def _no_bijection(_: constraints.Constraint) -> Transform:
    raise ValueError(
        "a relaxed site has no density, which NUTS and guides like AutoNormal need: it "
        "is scored by log-probabilities of discrete values. Relax the model with "
        'scoring="concrete", or use AutoConcrete'
    )
