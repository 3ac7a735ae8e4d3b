"""The supports of the family, with their bijections.

Counterpart: ``pyro_concrete.distributions.constraints``.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import (
    ParameterFreeTransform,
    Transform,
    biject_to,
)

from numpyro_concrete import ops

Size = Sequence[int]


class _LogSimplex(constraints.ParameterFreeConstraint):
    """Finite vectors with logsumexp 0, up to the rounding of their dtype."""

    event_dim = 1

    def __call__(self, x: Array) -> Array:
        """Tell for each vector whether it lies on the log-simplex."""
        tolerance = 10 * jnp.finfo(jnp.result_type(x)).eps ** 0.5
        # The sum of exponentials is not shifted by its maximum: a value that overflows
        # is not on the surface. And exp(x) can be shared with the model.
        total = jnp.exp(ops.promote_half(x)).sum(-1)
        return (jnp.abs(total - 1) < tolerance) & jnp.isfinite(x).all(-1)

    def feasible_like(self, prototype: Array) -> Array:
        """Return the center of the log-simplex."""
        return jnp.full_like(prototype, -jnp.log(prototype.shape[-1]))


class _RoundedSimplex(constraints.ParameterFreeConstraint):
    """Vectors >= 0 with sum 1, up to the rounding of their dtype.

    NumPyro's own simplex has one tolerance, 1e-6, which float32 does not always meet
    and half precision never.
    """

    event_dim = 1

    def __call__(self, x: Array) -> Array:
        """Tell for each vector whether it lies on the simplex."""
        rounding = 8 * x.shape[-1] * float(jnp.finfo(jnp.result_type(x)).eps)
        gap = jnp.abs(ops.promote_half(x).sum(-1) - 1)
        return (gap < max(1e-6, rounding)) & (x >= 0).all(-1)

    def feasible_like(self, prototype: Array) -> Array:
        """Return the center of the simplex."""
        return jnp.full_like(prototype, 1 / prototype.shape[-1])


class _DifferentiableOneHot(constraints.ParameterFreeConstraint):
    """One-hot vectors that carry a gradient: the site is not a discrete one."""

    event_dim = 1

    def __call__(self, x: Array) -> Array:
        """Tell for each vector whether it is one-hot."""
        is_hard = (x == 0) | (x == 1)
        return is_hard.all(-1) & (x.sum(-1) == 1)

    def feasible_like(self, prototype: Array) -> Array:
        """Return the vector of the first class."""
        return jnp.zeros_like(prototype).at[..., 0].set(1)


class _DifferentiableBoolean(constraints.ParameterFreeConstraint):
    """Zeros and ones that carry a gradient: the site is not a discrete one."""

    event_dim = 0

    def __call__(self, x: Array) -> Array:
        """Tell for each element whether it is zero or one."""
        return (x == 0) | (x == 1)

    def feasible_like(self, prototype: Array) -> Array:
        """Return zeros."""
        return jnp.zeros_like(prototype)


differentiable_boolean = _DifferentiableBoolean()
differentiable_one_hot = _DifferentiableOneHot()
log_simplex = _LogSimplex()
rounded_simplex = _RoundedSimplex()


class LogRatioTransform(ParameterFreeTransform):
    """Bijection from R^(K-1) to the log-simplex by log-ratios to the last class.

    Densities on the log-simplex are with respect to these coordinates, so the
    log-Jacobian is zero.

    Shapes:
        input: `batch_shape + (K - 1,)`, output: `batch_shape + (K,)`.

    Example:
        >>> jnp.exp(LogRatioTransform()(jnp.zeros(1))).tolist()
        [0.5, 0.5]

    Counterpart: :class:`pyro_concrete.distributions.LogRatioTransform`.
    """

    domain = constraints.real_vector
    codomain = log_simplex

    def __call__(self, x: Array) -> Array:
        return ops.from_log_ratios(x)

    def _inverse(self, y: Array) -> Array:
        return ops.log_ratios(y)

    def log_abs_det_jacobian(
        self, x: Array, y: Array, intermediates: object = None
    ) -> Array:
        return jnp.zeros(jnp.shape(x)[:-1], jnp.result_type(x))

    def forward_shape(self, shape: Size) -> Size:
        return (*shape[:-1], shape[-1] + 1)

    def inverse_shape(self, shape: Size) -> Size:
        return (*shape[:-1], shape[-1] - 1)


@biject_to.register(_LogSimplex)
def _log_ratio_transform(_: constraints.Constraint) -> LogRatioTransform:
    return LogRatioTransform()


@biject_to.register(_RoundedSimplex)
def _stick_breaking_transform(_: constraints.Constraint) -> Transform:
    return biject_to(constraints.simplex)
