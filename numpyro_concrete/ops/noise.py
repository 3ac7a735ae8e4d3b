"""Uniforms to noise, and probabilities to logits, finite at the boundary.

Counterpart: ``pyro_concrete.ops.noise``.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def gumbel(uniform: Float[Array, "..."]) -> Float[Array, "..."]:
    """Map uniforms on [0, 1) to standard Gumbel noise, never infinite.

    Args:
        uniform: Uniform draws; an exact 0 is read as half of the smallest step.

    Returns:
        Gumbel noise of the same shape, -log(-log(1 - u)).

    Example:
        >>> jnp.isfinite(gumbel(jnp.array([0.0, 0.5]))).tolist()
        [True, True]
    """
    # E = -log(1 - u) is Exp(1), and exact for small u: the upper tail of the Gumbel.
    return -jnp.log(-jnp.log1p(-_positive_uniform(uniform)))


def logistic(uniform: Float[Array, "..."]) -> Float[Array, "..."]:
    """Map uniforms on [0, 1) to standard logistic noise, never infinite.

    Args:
        uniform: Uniform draws; an exact 0 is read as half of the smallest step.

    Returns:
        Logistic noise of the same shape, log u - log(1 - u).

    Example:
        >>> logistic(jnp.array([0.5])).tolist()
        [0.0]
    """
    uniform = _positive_uniform(uniform)
    return jnp.log(uniform / (1 - uniform))  # one logarithm; both ends stay finite


def categorical_logits(probs: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
    """Return log-probabilities, finite where a probability is zero.

    Args:
        probs: Class probabilities >= 0, of any sum.

    Returns:
        Normalized log-probabilities, at least the log of the smallest normal number.

    Example:
        >>> jnp.exp(categorical_logits(jnp.array([1.0, 1.0]))).tolist()
        [0.5, 0.5]
    """
    probs = probs / probs.sum(-1, keepdims=True)
    return jnp.log(jnp.maximum(probs, jnp.finfo(probs.dtype).tiny))


def bernoulli_logits(probs: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Return log-odds of probabilities, finite at exactly 0 and 1.

    Args:
        probs: Probabilities of one, in [0, 1].

    Returns:
        log p - log(1 - p), each logarithm at least that of the smallest normal number.

    Example:
        >>> jnp.isfinite(bernoulli_logits(jnp.array([0.0, 0.5, 1.0]))).tolist()
        [True, True, True]
    """
    tiny = jnp.finfo(probs.dtype).tiny
    return jnp.log(jnp.maximum(probs, tiny)) - jnp.log(jnp.maximum(1 - probs, tiny))


def _positive_uniform(uniform: Array) -> Array:
    """Uniforms with 0 replaced by half of the smallest step of the generator."""
    return jnp.maximum(uniform, jnp.finfo(uniform.dtype).eps / 4)
