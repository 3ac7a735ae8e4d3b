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
        # No shift: what overflows is not on the surface, and programs have exp(x) too.
        total = jnp.exp(ops.promote_half(x)).sum(-1)
        return (jnp.abs(total - 1) < tolerance) & jnp.isfinite(x).all(-1)

    def feasible_like(self, prototype: Array) -> Array:
        """Return the centre of the log-simplex."""
        return jnp.full_like(prototype, -jnp.log(prototype.shape[-1]))


class _RoundedSimplex(constraints.ParameterFreeConstraint):
    """Vectors >= 0 with sum 1, up to the rounding of their dtype.

    The host's own simplex has one tolerance, 1e-6, which float32 does not always meet
    and half precision never.
    """

    event_dim = 1

    def __call__(self, x: Array) -> Array:
        """Tell for each vector whether it lies on the simplex."""
        rounding = 8 * x.shape[-1] * float(jnp.finfo(jnp.result_type(x)).eps)
        gap = jnp.abs(ops.promote_half(x).sum(-1) - 1)
        return (gap < max(1e-6, rounding)) & (x >= 0).all(-1)

    def feasible_like(self, prototype: Array) -> Array:
        """Return the centre of the simplex."""
        return jnp.full_like(prototype, 1 / prototype.shape[-1])


class _Vertices(constraints.ParameterFreeConstraint):
    """Vertices of the simplex that carry a gradient: no discrete site."""

    event_dim = 1

    def __call__(self, x: Array) -> Array:
        """Tell for each vector whether it is a vertex."""
        return ((x == 0) | (x == 1)).all(-1) & (x.sum(-1) == 1)

    def feasible_like(self, prototype: Array) -> Array:
        """Return the first vertex."""
        return jnp.zeros_like(prototype).at[..., 0].set(1)


class _Bits(constraints.ParameterFreeConstraint):
    """Bits that carry a gradient: no discrete site."""

    event_dim = 0

    def __call__(self, x: Array) -> Array:
        """Tell for each element whether it is a bit."""
        return (x == 0) | (x == 1)

    def feasible_like(self, prototype: Array) -> Array:
        """Return zeros."""
        return jnp.zeros_like(prototype)


bits, vertices = _Bits(), _Vertices()
log_simplex = _LogSimplex()
rounded_simplex = _RoundedSimplex()


class LogRatioTransform(ParameterFreeTransform):
    """Bijection from R^(K-1) to the log-simplex by log-ratios to the last class.

    The log-simplex is measured in these very coordinates, so that its log-Jacobian is
    zero.

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
