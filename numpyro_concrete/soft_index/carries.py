"""What a loop carries from step to step, in one form for all steps.

An integer that becomes soft is soft from the start, with all its probability on its
value. A carried value has one factor, over the values that it takes in any step, and
remembers the draws of all steps that it depends on.

Counterpart: none; Python's loops run as they are in torch.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_concrete.soft_index.counts import LARGEST_SUPPORT
from numpyro_concrete.soft_index.draws import (
    Element,
    Factor,
    Known,
    SharedDrawsError,
    fresh,
    new_token,
    positions,
)
from numpyro_concrete.soft_index.merging import on_support, values_of
from numpyro_concrete.soft_index.tables import concrete, typed
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    SoftIndex,
    SoftNumber,
    SoftReal,
    is_soft,
    named,
    tokens,
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
        dtype: Type of the probabilities.
        token: Identity of its draws inside of the loop.
        bounded: Whether the support is that after the last step, so that what lies
            beyond it after one step more has probability zero.
        ancestors: Tokens of the draws that it shares with others inside of the loop.
        dependencies: Tokens of all draws that it depends on after the loop.
        strict: Whether a sum of values that share draws is an error.
    """

    site: str = ""
    support: Known | None = None
    open: bool = False
    dtype: Any = None
    token: int = -1
    bounded: bool = False
    ancestors: frozenset[int] = frozenset()
    dependencies: frozenset[int] = dataclasses.field(default=frozenset(), compare=False)
    strict: bool = False

    def join(self, value: Any, first: bool = False) -> "Form":
        """Return the form that can hold one more value, which comes from a step.

        Args:
            value: The value, soft or plain.
            first: Whether it comes from a step that saw a plain carry: its values may
                be known when the carry is soft.
        """
        if not is_soft(value):
            return self
        site = self.site or named(value)
        dependencies = self.dependencies | tokens(value)
        if _inexact(value):
            return dataclasses.replace(
                self, site=site, dtype=typed(value).dtype, dependencies=dependencies
            )
        dtype = self.dtype or _probability_type(value)
        form = dataclasses.replace(
            self, site=site, dtype=dtype, dependencies=dependencies
        )
        value = exact_or_number(value, self.strict)
        if isinstance(value, SoftNumber) or (self.site and self.support is None):
            return dataclasses.replace(form, support=None)
        values = _values(value, first)
        if self.bounded:
            return form
        if self.support is not None:
            values = np.union1d(values, self.support.array)
        return dataclasses.replace(form, support=Known(values))

    def start(self, value: Any) -> "Form":
        """Return the form that can hold the first value too."""
        if not self.site or self.support is None or is_soft(value):
            return self.join(value)
        constant = concrete(value)
        if constant is None:
            return dataclasses.replace(self, open=True)
        values = np.union1d(self.support.array, constant).astype(constant.dtype)
        return dataclasses.replace(self, support=Known(values))

    def enter(self, value: Any) -> Any:
        """Return a value in this form."""
        if not self.site:
            return (
                value.number().astype(typed(value).dtype) if is_soft(value) else value
            )
        if self.support is None:
            return self._mean(value)
        value = exact_or_number(value, self.strict)
        shape = typed(value).shape
        support = self.support.array.astype(typed(value).dtype)
        table = support.reshape((-1,) + (1,) * len(shape))
        weights, last = self._weights(value, support, table)
        weights = jnp.broadcast_to(weights, weights.shape[:1] + shape)
        values: Known | Array = Known(table)
        if self.open:
            rows = jnp.broadcast_to(table, table.shape[:1] + shape)
            values = jnp.concatenate([rows, jnp.broadcast_to(last, (1, *shape))])
        weights = weights.astype(self.dtype)
        return SoftIndex(values, (weights,), (self._factor(shape),), shape)

    def _factor(self, shape: tuple[int, ...]) -> Factor:
        return Factor(
            site=self.site,
            token=self.token,
            size=math.prod(shape),
            ids=positions(shape),
            ancestors=self.ancestors,
            parents=self.dependencies,
            elements=frozenset([Element(self.token)]),
        )

    def _mean(self, value: Any) -> SoftNumber | SoftReal:
        number = value.number() if is_soft(value) else jnp.asarray(value)
        number = number.astype(self.dtype)
        if _inexact(value):
            return SoftReal(number, typed(value).dtype, self.site)
        tokens_inside = self.ancestors | {self.token}
        return SoftNumber(number, typed(value).dtype, self.site, tokens_inside)

    def _weights(
        self, value: Any, support: np.ndarray, table: np.ndarray
    ) -> tuple[Array, Any]:
        """The probabilities of a value, and what stands in the place of its own."""
        placeholder = table[:1]
        if not is_soft(value):
            constant = concrete(value)
            if constant is None:
                # All its weight is on its own place, in the support or not.
                weights = jnp.zeros((len(table), *typed(value).shape), self.dtype)
                return _one_more(weights, 1), jnp.asarray(value)
            weights = jnp.asarray(table == constant, self.dtype)
        elif values_of(value) is None:
            return value.weights[0], value.table[-1:]  # it is in this form already
        else:
            weights = self._on_support(value, support)
        return (_one_more(weights, 0) if self.open else weights), placeholder

    def _on_support(self, value: SoftIndex, support: np.ndarray) -> Array:
        values = values_of(value)
        if values is None or np.isin(values, support).all():
            return on_support(value, support)
        if not self.bounded:
            raise NotImplementedError(_GROWS.format(named(value)))
        larger = np.union1d(support, values)
        return on_support(value, larger)[np.isin(larger, support)]


def _one_more(weights: Array, value: float) -> Array:
    row = jnp.full((1, *weights.shape[1:]), value, weights.dtype)
    return jnp.concatenate([weights, row])


def _inexact(value: Any) -> bool:
    return jnp.issubdtype(typed(value).dtype, jnp.inexact)


def exact_or_number(value: Any, strict: bool = False) -> Any:
    """Return a count as its values if they are known; others unchanged.

    Args:
        value: Any value.
        strict: Whether a sum of values that share draws is an error.
    """
    if not isinstance(value, SoftNumber) or value.values is None:
        return value
    try:
        return value.exact()
    except SharedDrawsError:
        if strict:
            raise
        return value
    except TypeError:
        return value


def _probability_type(value: Any) -> Any:
    if isinstance(value, SoftNumber):
        return value.average.dtype
    return jnp.result_type(*(w.dtype for w in value.weights))


def _values(value: SoftIndex, first: bool) -> np.ndarray:
    support = values_of(value)
    if support is None and value.known:
        support = np.unique(value.table)
    if support is None and first:
        return np.zeros(0, value.table.dtype)
    if support is None:
        raise NotImplementedError(
            f"site {named(value)!r} is relaxed, and a loop carries an integer made of "
            "it whose values are known only at run time. Carry a float, or leave the "
            "site out with infer={'relax': False}"
        )
    return support


# --- the forms of all that is carried -------------------------------------------------


def settled(
    step: Callable,
    init: Sequence[Any],
    length: int | None = None,
    start: int | None = None,
    jointly: bool = False,
    strict: bool = False,
) -> list[Form]:
    """Return the forms that a loop's carry has in every step.

    Args:
        step: Takes the carry and returns it after one step; runs without effects.
        init: The first carry, of which some may be soft.
        length: Number of steps, if it is known. Values that grow by the same amount in
            each step, as counts do, are then bounded.
        start: Draws with a smaller token were there before the loop.
        jointly: Whether values that are carried together and share draws are kept
            apart. Otherwise they count as independent inside of the loop.
        strict: Whether a sum of values that share draws is an error. Otherwise only its
            mean is carried.

    Raises:
        NotImplementedError: If its values grow from step to step; it names the sites.
        SharedDrawsError: If values are combined that share draws.
    """
    if start is None:
        start = new_token()
    forms = [Form(token=new_token(), strict=strict).join(x) for x in init]
    history: list[list[Form]] = []
    for number in range(_PASSES):
        started = [f.start(x) for f, x in zip(forms, init, strict=True)]
        out = _after_a_step(step, started, init, is_first=not number)
        joined = [
            f.join(_closed(f, x), first=not number)
            for f, x in zip(started, out, strict=True)
        ]
        forms = _related(joined, init, out, start, jointly)
        if number and forms == started:
            return forms
        history.append(started)
        if length is not None and number == _PASSES // 2:
            steps = max(length - number - 1, 0)
            columns = zip(*history, strict=True)
            pairs = zip(forms, columns, strict=True)
            forms = [_grown(form, column, steps) for form, column in pairs]
    raise NotImplementedError(_GROWS.format(_names(forms)))


def _names(forms: Sequence[Form]) -> str:
    return " and ".join(dict.fromkeys(f.site for f in forms if f.site))


def _after_a_step(
    step: Callable, forms: Sequence[Form], init: Sequence[Any], is_first: bool
) -> list[Any]:
    """The carry after one step, of which the arrays are shapes only."""
    entered = [f.enter(x) for f, x in zip(forms, init, strict=True)]
    # The first step sees plain integers that are known; later ones do not.
    if is_first:
        return jax.eval_shape(lambda: step(entered))
    return jax.eval_shape(step, entered)


def _grown(form: Form, history: Sequence[Form], steps: int) -> Form:
    """The form after some more steps, if its values grow by the same amount in each."""
    forms = [*history, form][-3:]
    supports = [f.support.array for f in forms if f.support is not None]
    if form.open or len(supports) < len(forms) or form in history[-1:]:
        return form
    values = _extrapolated(supports, steps)
    if values is None:
        return form
    if len(values) > LARGEST_SUPPORT:
        return dataclasses.replace(form, support=None)
    support = Known(values.astype(supports[-1].dtype))
    return dataclasses.replace(form, support=support, bounded=True)


def _extrapolated(supports: Sequence[np.ndarray], steps: int) -> np.ndarray | None:
    """Values after some more steps, if both ends move by the same amount in each."""
    if any(x.size == 0 or x.dtype == bool for x in supports):
        return None
    ends = np.array([[x.min(), x.max()] for x in supports])
    moves = np.diff(ends, axis=0)
    if (moves != moves[0]).any() or not moves.any():
        return None
    first, last = ends[-1] + steps * moves[0]
    return np.arange(first, last + 1)


def _closed(form: Form, value: Any) -> Any:
    """The carry as it was, if a step hands on one with a place of its own."""
    is_open = form.open and isinstance(value, SoftIndex) and not value.known
    if not is_open or [f.token for f in value.factors] != [form.token]:
        return value
    support = np.zeros(0) if form.support is None else form.support.array
    support = support.reshape((-1,) + (1,) * len(value.extent))
    return SoftIndex(Known(support), value.weights, value.factors, value.extent)


def left(form: Form, value: Any) -> Any:
    """A carried value after the loop: draws that depend on those of all steps."""
    if isinstance(value, SoftIndex):
        factor = fresh(form.site, value.extent, form.dependencies)
        return SoftIndex(value.values, value.weights, (factor,), value.extent)
    if isinstance(value, AbstractAverage):
        return dataclasses.replace(value, tokens=form.dependencies)
    return value


# --- what the carried values depend on ------------------------------------------------


@dataclasses.dataclass
class Dependencies:
    """Draws that a carried value depends on.

    Args:
        roots: Tokens of the draws that it is made of.
        parents: Tokens of arrays of which it has elements.
        elements: Draws inside of the loop that it is made of.
    """

    roots: set[int] = dataclasses.field(default_factory=set)
    parents: set[int] = dataclasses.field(default_factory=set)
    elements: set[Element] = dataclasses.field(default_factory=set)

    def add(self, value: Any) -> None:
        """Add those of a soft value."""
        if not isinstance(value, SoftIndex):
            self.parents |= tokens(value)
            return
        for factor in value.factors:
            self.roots |= factor.roots
            self.parents |= factor.parents
            self.elements |= factor.elements

    def constants(self, start: int) -> set[int]:
        """Return tokens of the draws that it shares with each step of the loop."""
        recurring = (element.recurring for element in self.elements)
        return {token for token in self.roots if token < start}.union(*recurring)

    def after_loop(self, start: int) -> set[int]:
        """Return tokens of the draws that it depends on, and that are there after it.

        The token of the loop itself stands for draws that are made inside of it.
        """
        everything = self.roots | self.parents
        elements = {element.token for element in self.elements}
        tokens_after = {token for token in everything if token < start}
        if any(token >= start and token not in elements for token in everything):
            tokens_after.add(start)
        return tokens_after

    def update(self, other: "Dependencies") -> None:
        """Add those of another carried value, from which this one is made."""
        self.roots |= other.roots
        self.parents |= other.parents
        self.elements |= other.elements


def _related(
    forms: Sequence[Form],
    init: Sequence[Any],
    out: Iterable[Any],
    start: int,
    jointly: bool,
) -> list[Form]:
    """The forms with the draws that carried values depend on, from whichever step."""
    carried = {form.token: Dependencies() for form in forms}
    for form, first, value in zip(forms, init, out, strict=True):
        carried[form.token].add(first)
        carried[form.token].add(exact_or_number(value, form.strict))
    _close(carried)
    related_forms = []
    for form in forms:
        dependencies = carried[form.token]
        ancestors = dependencies.constants(start)
        if jointly:
            ancestors |= _carried_with(form.token, carried, start)
        related_forms.append(
            dataclasses.replace(
                form,
                ancestors=frozenset(ancestors),
                dependencies=frozenset(dependencies.after_loop(start)),
            )
        )
    return related_forms


def _close(carried: dict[int, Dependencies]) -> None:
    """Add what carried values depend on through others, in as many steps as needed."""
    for _ in carried:
        for dependencies in carried.values():
            for token in dependencies.roots & carried.keys():
                dependencies.update(carried[token])


def _carried_with(token: int, carried: dict[int, Dependencies], start: int) -> set[int]:
    """Tokens of the carried values that depend on the same draws of a step."""

    def made_inside(dependencies: Dependencies) -> set[int]:
        return {t for t in dependencies.roots if t >= start and t not in carried}

    draws = made_inside(carried[token])
    return {
        key
        for key, dependencies in carried.items()
        if key != token and not draws.isdisjoint(made_inside(dependencies))
    }
