"""What each primitive does with averages, which know the values behind them.

A linear primitive is applied to the mean, and leaves the values for later. Any other is
applied to the values, where they are known.

Counterpart: ``pyro_concrete.soft_index.rules``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from numpyro_concrete.soft_index.algebra import listed_jointly, typed, words
from numpyro_concrete.soft_index.draws import SharedDrawsError
from numpyro_concrete.soft_index.sharing import require_no_shared_draws
from numpyro_concrete.soft_index.single import on_each_value
from numpyro_concrete.soft_index.sums import sum_of_draws
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    SoftIndex,
    SoftReal,
    Unknown,
    Values,
    average_of,
    exact,
    is_soft,
    named,
    refusal,
    tokens,
)

# These are linear in all their operands, ...
_LINEAR = frozenset(
    [
        "add",
        "sub",
        "add_any",
        "neg",
        "copy",
        "copy_p",
        "broadcast_in_dim",
        "reshape",
        "squeeze",
        "expand_dims",
        "transpose",
        "rev",
        "slice",
        "split",
        "unstack",
        "concatenate",
        "stack",
        "pad",
        "tile",
        "reduce_sum",
        "cumsum",
        "pvary",
        "pcast",
    ]
)
# ... and these where the operands at these positions are plain.
_PLAIN = {
    "div": slice(1, 2),
    "select_n": slice(1),
    "gather": slice(1, 2),
    "dynamic_slice": slice(1, None),
    "dynamic_update_slice": slice(2, None),
}
# Networks see the mean.
_NETWORKS = frozenset(
    ["dot_general", "conv_general_dilated", "reduce_window_sum", "fft"]
)
_COMPARISONS = frozenset(
    ["eq", "ne", "lt", "le", "gt", "ge", "eq_to", "lt_to", "le_to", "is_finite"]
)
_ROUNDING = words("floor ceil round sign rem nextafter")
# What validation does with truths.
_OF_TRUTHS = frozenset(
    [
        "and",
        "or",
        "not",
        "reduce_and",
        "reduce_or",
        "broadcast_in_dim",
        "reshape",
        "squeeze",
        "expand_dims",
        "transpose",
        "convert_element_type",
    ]
)


def with_averages(
    apply: Callable, primitive: Any, values: list[Any], params: dict[str, Any]
) -> Any:
    """Return what a primitive gives for operands of which some are averages.

    Args:
        apply: Does the same for operands that are no averages.
        primitive: The primitive of JAX.
        values: Its operands.
        params: Its parameters.

    Raises:
        TypeError: If it would round, compare or branch on a mean; it names the site.
    """
    name = primitive.name
    if _asks_for_nan(name, values) and values[0].values is None:
        return primitive.bind(values[0].average, values[1].average, **params)
    if any(isinstance(x, Unknown) for x in values):
        return _of_truths(primitive, values, params)
    if name in _NETWORKS:
        jointly = _of_common_draws(values)
        if jointly is not None:
            return on_each_value(primitive, jointly, params)
        return _on_means(apply, primitive, values, params)
    if name in ("add", "sub") and not _inexact(values[0]):
        return sum_of_draws(apply, primitive, values, typed(values[0]).shape)
    if _is_linear(name, values, params):
        return _linear(apply, primitive, values, params)
    if name == "select_n" and _choice_is_apart(values):
        return _linear(apply, primitive, values, params)
    try:
        return apply(primitive, [exact(x, name) for x in values], params)
    except SharedDrawsError:
        raise
    except TypeError:
        require_no_shared_draws(values)
        return _on_means(apply, primitive, values, params)


def _inexact(x: Any) -> bool:
    return jnp.issubdtype(typed(x).dtype, jnp.inexact)


def _asks_for_nan(name: str, values: Sequence[Any]) -> bool:
    """Whether it is x == x, with which the backend's validation looks for NaN."""
    return name in ("eq", "ne") and values[0] is values[1]


def _of_common_draws(values: Sequence[Any]) -> list[Any] | None:
    """Factors of a product that share draws, listed jointly; None if they cannot be.

    The mean of their product is not the product of their means.
    """
    softs = [x for x in values if is_soft(x)]
    if len(softs) < 2 or tokens(softs[0]).isdisjoint(tokens(softs[1])):
        return None
    try:
        return listed_jointly([exact(x) for x in values])
    except TypeError:
        return None


# --- linear operations ----------------------------------------------------------------


def _is_linear(name: str, values: Sequence[Any], params: dict[str, Any]) -> bool:
    if name in _LINEAR:
        return True
    if name == "mul":
        first, second = values
        return not (is_soft(first) and is_soft(second)) or tokens(first).isdisjoint(
            tokens(second)
        )
    if name == "convert_element_type":
        dtype = params["new_dtype"]
        same_kind = not _inexact(values[0]) and jnp.issubdtype(dtype, jnp.integer)
        return jnp.issubdtype(dtype, jnp.inexact) or same_kind
    if name not in _PLAIN or (name == "div" and not _inexact(values[0])):
        return False
    return not any(map(is_soft, values[_PLAIN[name]]))


def _choice_is_apart(values: Sequence[Any]) -> bool:
    """Whether a soft choice has no draw in common with what it chooses from."""
    which, *cases = values
    return isinstance(which, SoftIndex) and tokens(which).isdisjoint(tokens(*cases))


def _linear(
    apply: Callable, primitive: Any, values: list[Any], params: dict[str, Any]
) -> Any:
    def compute() -> Any:
        out = apply(primitive, [exact(x) for x in values], params)
        return [exact(x) for x in out] if primitive.multiple_results else exact(out)

    dtype = _result_dtype(primitive, values, params)
    if jnp.issubdtype(dtype, jnp.inexact):
        means = [_mean(x) for x in values]
        out = _applied(apply, primitive, means, params)
    else:
        out = _of_integers(primitive, values, params)
    if not primitive.multiple_results:
        return average_of(out, values, dtype, Values(compute))
    return [
        average_of(x, values, dtype, Values(lambda i=i: compute()[i]))
        for i, x in enumerate(out)
    ]


def _applied(
    apply: Callable, primitive: Any, means: list[Any], params: dict[str, Any]
) -> Any:
    """The mean of the result for means, of which some may be soft choices."""
    if not any(map(is_soft, means)):
        return primitive.bind(*means, **params)
    out = apply(primitive, means, params)
    return out.average if isinstance(out, AbstractAverage) else out


def _result_dtype(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    if primitive.name == "convert_element_type":
        return params["new_dtype"]
    return typed(values[1 if primitive.name == "select_n" else 0]).dtype


def _mean(x: Any) -> Any:
    return x.average if isinstance(x, AbstractAverage) else _float_mean(x)


def _float_mean(x: Any) -> Any:
    """The mean of a float; an integer stays soft, for it chooses."""
    return x.number() if isinstance(x, SoftIndex) and _inexact(x) else x


def _of_integers(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    """Apply a linear function of integers to their means, which are floats."""
    name = primitive.name
    fixed = _PLAIN.get(name, slice(0))
    if name == "convert_element_type":
        return values[0].average
    means = [x.number() if is_soft(x) else x for x in values]
    softs = [m for m, x in zip(means, values, strict=True) if is_soft(x)]
    dtype = jnp.result_type(*softs)
    numbers = [jnp.asarray(m, dtype) for m in means]
    numbers[fixed] = values[fixed]
    of_name = {"reduce_sum": _sum, "gather": _gather}
    return of_name.get(name, _bound)(primitive, numbers, params)


def _bound(primitive: Any, numbers: Sequence[Array], params: dict[str, Any]) -> Any:
    return primitive.bind(*numbers, **params)


def _sum(_: Any, numbers: Sequence[Array], params: dict[str, Any]) -> Array:
    return numbers[0].sum(params["axes"])


def _gather(_: Any, numbers: Sequence[Array], params: dict[str, Any]) -> Array:
    kept = ("dimension_numbers", "slice_sizes", "mode")
    return lax.gather(numbers[0], numbers[1], **{k: params[k] for k in kept})


# --- where the values are not known ---------------------------------------------------


def _on_means(
    apply: Callable, primitive: Any, values: list[Any], params: dict[str, Any]
) -> Any:
    """Let a function of floats see the means, and refuse what would round them."""
    name, site = primitive.name, named(*values)
    averages = [x for x in values if isinstance(x, AbstractAverage)]
    if not all(map(_inexact, averages)):
        return _on_means_of_integers(primitive, values, params)
    if name in _COMPARISONS or name == "sign":
        return _unknown(primitive, values, params)
    if name in _ROUNDING:
        raise TypeError(refusal(site, name))
    means = [x.average if isinstance(x, AbstractAverage) else x for x in values]
    if any(map(is_soft, means)):
        return apply(primitive, means, params)
    out = primitive.bind(*means, **params)
    several = out if primitive.multiple_results else [out]
    if not all(map(_inexact, several)):
        raise TypeError(refusal(site, name))
    if name in _NETWORKS or primitive.multiple_results:
        return out
    # A function of means: what it depends on no longer matters to its products.
    return SoftReal(out, out.dtype, site)


def _on_means_of_integers(
    primitive: Any, values: list[Any], params: dict[str, Any]
) -> Any:
    name = primitive.name
    floats = [x for x in values if _inexact(x)]
    if name == "dot_general" and not floats:
        require_no_shared_draws(values)
        means = [x.number() if is_soft(x) else jnp.asarray(x) for x in values]
        out = lax.dot_general(*_same_type(means), params["dimension_numbers"])
        return average_of(out, values, typed(values[0]).dtype, None)
    if name in ("mul", "integer_pow", "cumprod", "reduce_prod"):
        return average_of(
            _of_integers(primitive, values, params),
            values,
            typed(values[0]).dtype,
            None,
        )
    raise TypeError(refusal(named(*values), name))


def _same_type(means: Sequence[Array]) -> list[Array]:
    floats = [m.dtype for m in means if jnp.issubdtype(m.dtype, jnp.inexact)]
    return [m.astype(jnp.result_type(*floats)) for m in means]


def _unknown(primitive: Any, values: list[Any], params: dict[str, Any]) -> Unknown:
    """The result of a comparison of means, which is refused where it is used."""
    shapes = [jax.ShapeDtypeStruct(typed(x).shape, typed(x).dtype) for x in values]
    out = jax.eval_shape(lambda *x: primitive.bind(*x, **params), *shapes)
    zeros = jnp.zeros(out.shape, out.dtype)
    return Unknown(zeros, out.dtype, named(*values), tokens(*values))


def _of_truths(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
    to = params.get("new_dtype", bool)
    if primitive.name not in _OF_TRUTHS or jnp.dtype(to) != jnp.bool_:
        raise TypeError(refusal(named(*values), "using what a comparison of it says"))
    return _unknown(primitive, values, params)
