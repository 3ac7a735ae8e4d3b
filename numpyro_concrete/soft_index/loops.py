"""Soft values in loops and branches: cond, while and scan.

A loop's carry has one form for every step. An integer that becomes soft is soft from
the start, with all its weight on its value; a carried value has one factor, over the
values that it takes in any step.

Counterpart: none; Python's loops run as they are in torch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from numpyro_concrete import internals
from numpyro_concrete.soft_index.algebra import (
    concrete,
    listed_jointly,
    on_support,
    typed,
    values_of,
)
from numpyro_concrete.soft_index.counts import LARGEST_SUPPORT
from numpyro_concrete.soft_index.registry import apply_primitive, interpret, rule
from numpyro_concrete.soft_index.single import is_small, on_each_value
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    Factor,
    Known,
    SoftIndex,
    SoftNumber,
    SoftReal,
    exact,
    fresh,
    guarded,
    is_soft,
    named,
    new_token,
    positions,
    refusal,
)

_PASSES = 8
_GROWS = (
    "site '{}' is relaxed, and a loop carries an integer whose possible values grow "
    "with every step. Carry its mean, soft_index.plain(value), or leave the site out "
    "with infer={{'relax': False}}"
)


@dataclasses.dataclass(frozen=True)
class Form:
    """What a carried value is in every step.

    Args:
        site: Sites that it depends on; empty if it is plain.
        support: The integers that it can be; None if it is a mean with a guard, as a
            float is.
        open: Whether its first value is not known, and takes a place of its own.
        dtype: Type of the weights.
        token: Identity of its draws inside of the loop.
        bounded: Whether the support is that after the last step, so that what lies
            beyond it after one step more has probability zero.
    """

    site: str = ""
    support: Known | None = None
    open: bool = False
    dtype: Any = None
    token: Any = None
    bounded: bool = False

    def join(self, x: Any, first: bool = False) -> "Form":
        """Return the form that can hold one more value, which comes from a step.

        Args:
            x: The value, soft or plain.
            first: Whether it comes from a step that saw a plain carry: its values may
                be known when the carry is soft.
        """
        if not is_soft(x):
            return self
        if _inexact(x):
            site = self.site or named(x)
            return dataclasses.replace(self, site=site, dtype=typed(x).dtype)
        new = dataclasses.replace(
            self, site=self.site or named(x), dtype=self.dtype or _float_type(x)
        )
        x = exact_or_number(x)
        if isinstance(x, SoftNumber) or (self.site and self.support is None):
            return dataclasses.replace(new, support=None)
        values = _values(x, first)
        if self.bounded:
            return new
        if self.support is not None:
            values = np.union1d(values, self.support.array)
        return dataclasses.replace(new, support=Known(values))

    def start(self, x: Any) -> "Form":
        """Return the form that can hold the first value too."""
        if not self.site or self.support is None or is_soft(x):
            return self.join(x)
        known = concrete(x)
        if known is None:
            return dataclasses.replace(self, open=True)
        values = np.union1d(self.support.array, known).astype(known.dtype)
        return dataclasses.replace(self, support=Known(values))

    def enter(self, x: Any) -> Any:
        """Return a value in this form."""
        if not self.site:
            return x.number().astype(typed(x).dtype) if is_soft(x) else x
        if self.support is None:
            number = x.number() if is_soft(x) else jnp.asarray(x)
            kind = SoftReal if _inexact(x) else SoftNumber
            return kind(number.astype(self.dtype), typed(x).dtype, self.site)
        x = exact_or_number(x)
        shape, dtype = typed(x).shape, typed(x).dtype
        support = self.support.array.astype(dtype)
        values = support.reshape((-1,) + (1,) * len(shape))
        weights, last = self._weights(x, support, values)
        weights = jnp.broadcast_to(weights, weights.shape[:1] + shape)
        factor = Factor(self.site, self.token, positions(shape))
        table = Known(values)
        if self.open:
            rows = jnp.broadcast_to(values, values.shape[:1] + shape)
            table = jnp.concatenate([rows, jnp.broadcast_to(last, (1, *shape))])
        weights = weights.astype(self.dtype)
        return SoftIndex(table, (weights,), (factor,), shape)

    def _weights(
        self, x: Any, support: np.ndarray, values: np.ndarray
    ) -> tuple[Array, Any]:
        """The weights of a value, and what stands in the place of its own."""
        own = values[:1]
        if not is_soft(x):
            known = concrete(x)
            weights = jnp.asarray(values == (x if known is None else known), self.dtype)
            if known is None:
                # All its weight is on its own place, in the support or not.
                weights = jnp.zeros((len(values), *typed(x).shape), self.dtype)
                return _one_more(weights, 1), jnp.asarray(x)
            return (_one_more(weights, 0) if self.open else weights), own
        if values_of(x) is None:
            return x.weights[0], x.table[-1:]  # it is in this form already
        weights = self._on_support(x, support)
        return (_one_more(weights, 0) if self.open else weights), own

    def _on_support(self, x: SoftIndex, support: np.ndarray) -> Array:
        values = values_of(x)
        if np.isin(values, support).all():
            return on_support(x, support)
        if not self.bounded:
            raise NotImplementedError(_GROWS.format(named(x)))
        larger = np.union1d(support, values)
        return on_support(x, larger)[np.isin(larger, support)]


def _one_more(weights: Array, value: float) -> Array:
    row = jnp.full((1, *weights.shape[1:]), value, weights.dtype)
    return jnp.concatenate([weights, row])


def _inexact(x: Any) -> bool:
    return jnp.issubdtype(typed(x).dtype, jnp.inexact)


def exact_or_number(x: Any) -> Any:
    """Return a count as its values if they are known; others as they are."""
    if not isinstance(x, SoftNumber) or x.values is None:
        return x
    try:
        return x.exact()
    except TypeError:
        return x


def _float_type(x: Any) -> Any:
    if isinstance(x, SoftNumber):
        return x.average.dtype
    return jnp.result_type(*(w.dtype for w in x.weights))


def _values(x: SoftIndex, first: bool) -> np.ndarray:
    support = values_of(x)
    if support is None and x.known:
        support = np.unique(x.table)
    if support is None and first:
        return np.zeros(0, x.table.dtype)
    if support is None:
        raise NotImplementedError(
            f"site {named(x)!r} is relaxed, and a loop carries an integer made of it "
            "whose values are known only at run time. Carry a float, or leave the site "
            "out with infer={'relax': False}"
        )
    return support


def settled(
    step: Callable, init: Sequence[Any], length: int | None = None
) -> list[Form]:
    """Return the forms that a loop's carry has in every step.

    Args:
        step: Takes the carry and returns it after one step; runs without effects.
        init: The first carry, of which some may be soft.
        length: Number of steps, if it is known. Values that grow by the same amount in
            each step, as counts do, are then bounded.

    Raises:
        NotImplementedError: If its values grow from step to step; it names the sites.
    """
    forms = [Form(token=new_token()).join(x) for x in init]
    history: list[list[Form]] = []
    for i in range(_PASSES):
        started = [f.start(x) for f, x in zip(forms, init, strict=True)]
        entered = [f.enter(x) for f, x in zip(started, init, strict=True)]
        # The first step sees plain integers that are known; later ones do not.
        out = jax.eval_shape(step, entered) if i else _shapes(step, entered)
        new = [f.join(_closed(f, x), not i) for f, x in zip(started, out, strict=True)]
        if i and new == started:
            return started
        history.append(started)
        if length is not None and i == _PASSES // 2:
            left_over = max(length - i - 1, 0)
            new = [
                _grown(f, [forms[j] for forms in history], left_over)
                for j, f in enumerate(new)
            ]
        forms = new
    names = " and ".join(dict.fromkeys(f.site for f in forms if f.site))
    raise NotImplementedError(_GROWS.format(names))


def _grown(form: Form, history: Sequence[Form], steps: int) -> Form:
    """The form after some more steps, if its values grow by the same amount in each."""
    forms = [*history, form][-3:]
    if form.open or any(f.support is None for f in forms) or form in history[-1:]:
        return form
    supports = [f.support.array for f in forms]
    if any(x.size == 0 or x.dtype == bool for x in supports):
        return form
    lows, highs = [x.min() for x in supports], [x.max() for x in supports]
    low, high = np.diff(lows), np.diff(highs)
    if low[0] != low[1] or high[0] != high[1] or not (low[0] or high[0]):
        return form
    first, last = lows[-1] + steps * low[0], highs[-1] + steps * high[0]
    values = np.arange(first, last + 1)
    if len(values) > LARGEST_SUPPORT:
        return dataclasses.replace(form, support=None)
    support = Known(values.astype(supports[-1].dtype))
    return dataclasses.replace(form, support=support, bounded=True)


def _shapes(step: Callable, carry: list[Any]) -> list[Any]:
    return jax.eval_shape(lambda: step(carry))


def _closed(form: Form, x: Any) -> Any:
    """The carry as it was, if a step hands on one with a place of its own."""
    own = form.open and isinstance(x, SoftIndex) and not x.known
    if own and [f.token for f in x.factors] == [form.token]:
        support = _array(form.support).reshape((-1,) + (1,) * len(x.extent))
        return SoftIndex(Known(support), x.weights, x.factors, x.extent)
    return x


def _array(support: Known | None) -> np.ndarray:
    return np.zeros(0) if support is None else support.array


def left(form: Form, x: Any) -> Any:
    """A carried value after the loop: draws that nothing else knows."""
    if not isinstance(x, SoftIndex):
        return x
    factor = fresh(form.site, x.extent)
    return SoftIndex(x.values, x.weights, (factor,), x.extent)


# --- sequences ------------------------------------------------------------------------


def split_time(xs: Sequence[Any]) -> list[Any]:
    """Return sequences whose steps `lax.scan` can take apart."""
    tokens: dict[Any, Any] = {}
    return [_split(x, tokens) if isinstance(x, SoftIndex) else x for x in xs]


def _split(soft: SoftIndex, tokens: dict[Any, Any]) -> SoftIndex:
    extent = soft.extent[1:]
    n, time = len(soft.factors), soft.extent[0]

    def first(x: Any, lead: int) -> Array:
        x = jnp.broadcast_to(x, (*x.shape[:lead], time, *x.shape[lead + 1 :]))
        return jnp.moveaxis(x, lead, 0)

    factors = [
        Factor(
            f.site,
            tokens.setdefault((f.token, f.ids), new_token()),
            positions(w.shape[2:]),
        )
        for f, w in zip(soft.factors, soft.weights, strict=True)
    ]
    weights = tuple(first(w, 1) for w in soft.weights)
    if soft.known and soft.table.shape[n] == 1:
        values = Known(soft.table.squeeze(n))
    else:
        values = first(jnp.asarray(soft.table), n)
    return SoftIndex(values, weights, tuple(factors), extent)


def join_time(ys: Sequence[Any], time: int, start: int) -> list[Any]:
    """Return the sequences that `lax.scan` made of the soft results of its steps.

    Args:
        ys: Soft results with the time axis first in all their arrays, or plain arrays.
        time: Number of steps.
        start: Draws with a smaller token were there before the loop.
    """
    tokens: dict[Any, Any] = {}
    return [_join(y, time, start, tokens) if is_soft(y) else y for y in ys]


def _join(
    soft: Any, time: int, start: int, tokens: dict[Any, Any]
) -> SoftIndex | AbstractAverage:
    if isinstance(soft, AbstractAverage):
        return soft
    n = len(soft.factors)
    if soft.known:
        table = soft.table
        values = Known(table.reshape((*table.shape[:n], 1, *table.shape[n:])))
    else:
        values = jnp.moveaxis(soft.table, 0, n)
    factors = []
    for f in soft.factors:
        ids = f.ids.array[None]
        token = f.token
        if token >= start:
            token = tokens.setdefault(token, new_token())
            steps = np.arange(time).reshape((-1,) + (1,) * (ids.ndim - 1))
            ids = steps * 2**32 + ids
        factors.append(dataclasses.replace(f, token=token, ids=Known(ids)))
    weights = tuple(jnp.moveaxis(w, 0, 1) for w in soft.weights)
    return SoftIndex(values, weights, tuple(factors), (time, *soft.extent))


# --- floats ---------------------------------------------------------------------------


def each_value(
    primitive: Any, values: list[Any], params: dict[str, Any]
) -> list[Any] | None:
    """Return what a loop over floats gives for each value; None if it sees the means.

    Networks see the means, and so does a loop with more than a few joint values.

    Args:
        primitive: The primitive of the loop.
        values: Its operands.
        params: Its parameters.
    """
    jointly = None if _is_network(params) else _few(values)
    return None if jointly is None else on_each_value(primitive, jointly, params)


def _few(values: Sequence[Any]) -> list[Any] | None:
    """Operands as functions of draws that have few joint values, or None."""
    try:
        known = [exact(x) for x in values]
    except TypeError:
        return None
    if is_small(known):
        return known
    jointly = listed_jointly(known)
    return jointly if jointly is not None and is_small(jointly) else None


def makes_floats(params: dict[str, Any]) -> bool:
    """Tell whether a loop has results that are floats.

    Args:
        params: Its parameters.
    """
    dtypes = [x.dtype for x in _body(params).out_avals]
    return any(jnp.issubdtype(x, jnp.inexact) for x in dtypes)


def _body(params: dict[str, Any]) -> Any:
    return params["jaxpr"] if "jaxpr" in params else params["body_jaxpr"]


def _is_network(params: dict[str, Any]) -> bool:
    return _multiplies_matrices(_body(params).jaxpr)


def _multiplies_matrices(jaxpr: Any) -> bool:
    inner = (
        getattr(x, "jaxpr", x)
        for eqn in jaxpr.eqns
        for x in eqn.params.values()
        if isinstance(x, internals.ClosedJaxpr) or hasattr(x, "eqns")
    )
    names = ("dot_general", "conv_general_dilated")
    own = any(eqn.primitive.name in names for eqn in jaxpr.eqns)
    return own or any(map(_multiplies_matrices, inner))


def with_guards(primitive: Any, values: list[Any], params: dict[str, Any]) -> list[Any]:
    """Return the operands of a loop, of which the carried floats become means.

    Args:
        primitive: The primitive of the loop.
        values: Its operands.
        params: Its parameters.
    """
    if primitive.name == "cond":
        return [guarded(x) if isinstance(x, SoftReal) else x for x in values]
    if primitive.name != "scan" or _is_network(params):
        return values
    n = params["num_consts"] + params["num_carry"]
    return [*values[:n], *map(_known_or_guarded, values[n:])]


def _known_or_guarded(x: Any) -> Any:
    if not isinstance(x, SoftReal):
        return x
    try:
        return exact(x)
    except TypeError:
        return guarded(x)


# --- the primitives -------------------------------------------------------------------


def under_interpreter(function: Callable) -> Callable:
    """Return a function of soft and plain values that runs under an interpreter."""

    def run(*args: Any) -> list[Any]:
        return interpret(lambda *x: list(function(*x)), *args)

    return run


def _scan(_: Any, values: list[Any], params: dict[str, Any]) -> list[Any]:
    consts, init, xs = unpacked(values, params)
    body = under_interpreter(internals.jaxpr_as_fun(params["jaxpr"]))
    start = new_token()
    sequences = split_time(xs)
    n = len(init)

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        out = body(*consts, *carry, *x)
        return out[:n], out[n:]

    one = _first(sequences)
    forms = settled(lambda carry: step(carry, one())[0], init, params["length"])

    def stable(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        carry, y = step(carry, x)
        return [f.enter(c) for f, c in zip(forms, carry, strict=True)], y

    entered = [f.enter(x) for f, x in zip(forms, init, strict=True)]
    kept = {k: params[k] for k in ("length", "reverse", "unroll")}
    carry, ys = lax.scan(stable, entered, sequences, **kept)
    after = [left(f, c) for f, c in zip(forms, carry, strict=True)]
    return after + join_time(ys, params["length"], start)


def unpacked(values: list[Any], params: dict[str, Any]) -> tuple[list, list, list]:
    """Return the constants, the first carry and the sequences of a scan."""
    consts, init, xs = internals.unpack_scan_args(values, params)
    return list(consts), list(init), list(xs)


def _first(sequences: list[Any]) -> Callable[[], list[Any]]:
    """Make the elements of one step, for their shapes only."""

    def zeros() -> list[Any]:
        return jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), sequences)

    return zeros


def _of_one_draw(rule: Callable) -> Callable:
    """A loop of a single draw is run for each of its values, if no more is unknown."""

    def of_one_draw(primitive: Any, values: list[Any], params: dict[str, Any]) -> Any:
        plain = [x for x in values if not is_soft(x)]
        means = any(isinstance(x, AbstractAverage) for x in values)
        small = not means and is_small(values)
        if small and all(concrete(x) is not None for x in plain):
            return on_each_value(primitive, values, params)
        try:
            return rule(primitive, values, params)
        except (TypeError, NotImplementedError):
            jointly = _few(values)
            if jointly is None:
                raise
            return on_each_value(primitive, jointly, params)

    return of_one_draw


def _while(_: Any, values: list[Any], params: dict[str, Any]) -> list[Any]:
    n, m = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    asks = under_interpreter(internals.jaxpr_as_fun(params["cond_jaxpr"]))
    body = under_interpreter(internals.jaxpr_as_fun(params["body_jaxpr"]))
    init = values[m:]

    def step(carry: list[Any]) -> list[Any]:
        return body(*values[n:m], *carry)

    forms = settled(step, init)

    def stable(carry: list[Any]) -> list[Any]:
        return [f.enter(c) for f, c in zip(forms, step(carry), strict=True)]

    def goes_on(carry: list[Any]) -> Array:
        (more,) = asks(*values[:n], *carry)
        if is_soft(more):
            raise TypeError(refusal(named(more), "ending a loop by it"))
        return more

    entered = [f.enter(x) for f, x in zip(forms, init, strict=True)]
    carry = lax.while_loop(goes_on, stable, entered)
    return [left(f, c) for f, c in zip(forms, carry, strict=True)]


def _cond(_: Any, values: list[Any], params: dict[str, Any]) -> list[Any]:
    which, *operands = values
    functions = [
        under_interpreter(internals.jaxpr_as_fun(j)) for j in params["branches"]
    ]
    if not is_soft(which):
        shapes = [jax.eval_shape(f, *operands) for f in functions]
        trees = {jax.tree.structure(s) for s in shapes}
        if len(trees) == 1 and not any(isinstance(x, SoftIndex) for x in shapes[0]):
            return list(lax.switch(which, functions, *operands))
    cases = [f(*operands) for f in functions]
    return [chosen(which, each) for each in zip(*cases, strict=True)]


def chosen(which: Any, cases: Sequence[Any]) -> Any:
    """Return the result of the branch that a soft or plain index stands for."""
    if not is_soft(which) and not any(map(is_soft, cases)):
        return lax.select_n(which, *cases)
    shape = typed(cases[0]).shape
    if not is_soft(which):
        which = jnp.broadcast_to(which, shape)
    return apply_primitive(lax.select_n_p, [which, *cases], {})


rule("scan")(_of_one_draw(_scan))
rule("while")(_of_one_draw(_while))
rule("cond")(_cond)
