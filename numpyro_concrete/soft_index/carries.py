"""What a loop carries from step to step, in one form for all steps.

An integer that becomes soft is soft from the start, with all its probability on its
value. A carried value has one factor, over the values that it takes in any step, and
remembers the draws of all steps that it depends on.

Counterpart: none; Python's loops run as they are in torch.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_concrete.soft_index.counts import LARGEST_SUPPORT
from numpyro_concrete.soft_index.draws import (
    Factor,
    Known,
    LoopElement,
    SharedDrawsError,
    fresh,
    new_token,
    positions,
)
from numpyro_concrete.soft_index.merging import on_support, values_of
from numpyro_concrete.soft_index.registry import Operand
from numpyro_concrete.soft_index.tables import (
    Table,
    is_inexact,
    known_array,
    number_of,
    typed,
)
from numpyro_concrete.soft_index.value import (
    AbstractAverage,
    SoftIndex,
    SoftNumber,
    SoftReal,
    is_soft,
    named,
    tokens,
)

# Returns the carry after one step.
Step = Callable[[list[Operand]], list[Operand]]

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
    dtype: jnp.dtype | None = None
    token: int = -1
    bounded: bool = False
    ancestors: frozenset[int] = frozenset()
    dependencies: frozenset[int] = dataclasses.field(default=frozenset(), compare=False)
    strict: bool = False

    def join(self, value: Operand, first: bool = False) -> "Form":
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
        if is_inexact(value):
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
        values = _values_in_step(value, first)
        if self.bounded:
            return form
        if self.support is not None:
            values = np.union1d(values, self.support.array)
        return dataclasses.replace(form, support=Known(values))

    def start(self, value: Operand) -> "Form":
        """Return the form that can hold the first value too."""
        if not self.site or self.support is None or is_soft(value):
            return self.join(value)
        constant = known_array(value)
        if constant is None:
            return dataclasses.replace(self, open=True)
        values = np.union1d(self.support.array, constant).astype(constant.dtype)
        return dataclasses.replace(self, support=Known(values))

    def enter(self, value: Operand) -> Operand:
        """Return a value in this form."""
        if not self.site:
            return _plain(value)
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

    def leave(self, value: Operand) -> Operand:
        """Return a value of this form after the loop: it depends on all steps."""
        if isinstance(value, SoftIndex):
            factor = fresh(self.site, value.extent, self.dependencies)
            return SoftIndex(value.values, value.weights, (factor,), value.extent)
        if isinstance(value, AbstractAverage):
            return dataclasses.replace(value, tokens=self.dependencies)
        return value

    def _factor(self, shape: tuple[int, ...]) -> Factor:
        return Factor(
            site=self.site,
            token=self.token,
            size=math.prod(shape),
            ids=positions(shape),
            ancestors=self.ancestors,
            parents=self.dependencies,
            elements=frozenset([LoopElement(self.token)]),
        )

    def _mean(self, value: Operand) -> SoftNumber | SoftReal:
        number = number_of(value).astype(self.dtype)
        if is_inexact(value):
            return SoftReal(number, typed(value).dtype, self.site)
        tokens_inside = self.ancestors | {self.token}
        return SoftNumber(number, typed(value).dtype, self.site, tokens_inside)

    def _weights(
        self, value: Operand, support: np.ndarray, table: np.ndarray
    ) -> tuple[Array, Table]:
        """The probabilities of a value, and what stands in the place of its own."""
        placeholder = table[:1]
        if not is_soft(value):
            constant = known_array(value)
            if constant is None:
                # All its weight is on its own place, in the support or not.
                weights = jnp.zeros((len(table), *typed(value).shape), self.dtype)
                return _append_row(weights, 1), jnp.asarray(value)
            weights = jnp.asarray(table == constant, self.dtype)
        elif values_of(value) is None:
            return value.weights[0], value.table[-1:]  # it is in this form already
        else:
            weights = self._on_support(value, support)
        if self.open:
            weights = _append_row(weights, 0)
        return weights, placeholder

    def _on_support(self, value: SoftIndex, support: np.ndarray) -> Array:
        values = values_of(value)
        if values is None or np.isin(values, support).all():
            return on_support(value, support)
        if not self.bounded:
            raise NotImplementedError(_GROWS.format(named(value)))
        larger = np.union1d(support, values)
        return on_support(value, larger)[np.isin(larger, support)]


def _plain(value: Operand) -> Operand:
    """Return a soft value as its mean, of the discrete program's type."""
    if not is_soft(value):
        return value
    return value.number().astype(typed(value).dtype)


def _append_row(weights: Array, value: float) -> Array:
    row = jnp.full((1, *weights.shape[1:]), value, weights.dtype)
    return jnp.concatenate([weights, row])


def exact_or_number(value: Operand, strict: bool = False) -> Operand:
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


def _probability_type(value: Operand) -> jnp.dtype:
    if isinstance(value, SoftNumber):
        return value.average.dtype
    return jnp.result_type(*(w.dtype for w in value.weights))


def _values_in_step(value: SoftIndex, first: bool) -> np.ndarray:
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


def settle_forms(
    step: Step,
    init: Sequence[Operand],
    length: int | None = None,
    first_token: int | None = None,
    jointly: bool = False,
    strict: bool = False,
) -> list[Form]:
    """Return the forms that a loop's carry has in every step.

    Args:
        step: Takes the carry and returns it after one step; runs without effects.
        init: The first carry, of which some may be soft.
        length: Number of steps, if it is known. Values that grow by the same amount in
            each step, as counts do, are then bounded.
        first_token: Draws with a smaller token were there before the loop.
        jointly: Whether values that are carried together and share draws are kept
            apart. Otherwise they count as independent inside of the loop.
        strict: Whether a sum of values that share draws is an error. Otherwise only its
            mean is carried.

    Raises:
        NotImplementedError: If its values grow from step to step; it names the sites.
        SharedDrawsError: If values are combined that share draws.
    """
    if first_token is None:
        first_token = new_token()
    forms = [Form(token=new_token(), strict=strict).join(x) for x in init]
    history: list[list[Form]] = []
    for step_number in range(_PASSES):
        forms_before = [f.start(x) for f, x in zip(forms, init, strict=True)]
        is_first = step_number == 0
        carry = _carry_after_step(step, forms_before, init, is_first)
        joined_forms = _join_carry(forms_before, carry, is_first)
        forms = _with_dependencies(joined_forms, init, carry, first_token, jointly)
        if forms == forms_before and not is_first:
            return forms
        history.append(forms_before)
        if length is not None and step_number == _PASSES // 2:
            steps = max(length - step_number - 1, 0)
            forms = _extrapolate_forms(forms, history, steps)
    raise NotImplementedError(_GROWS.format(_names(forms)))


def enter_forms(forms: Sequence[Form], carry: Sequence[Operand]) -> list[Operand]:
    """Return carried values in their forms."""
    return [form.enter(value) for form, value in zip(forms, carry, strict=True)]


def leave_forms(forms: Sequence[Form], carry: Sequence[Operand]) -> list[Operand]:
    """Return carried values after a loop: draws that depend on those of all steps."""
    return [form.leave(value) for form, value in zip(forms, carry, strict=True)]


def _names(forms: Sequence[Form]) -> str:
    return " and ".join(dict.fromkeys(f.site for f in forms if f.site))


def _carry_after_step(
    step: Step, forms: Sequence[Form], init: Sequence[Operand], is_first: bool
) -> list[Operand]:
    """Return the carry after one step, of which the arrays are shapes only."""
    carry = enter_forms(forms, init)
    # The first step sees plain integers that are known; later ones do not.
    if is_first:
        return jax.eval_shape(lambda: step(carry))
    return jax.eval_shape(step, carry)


def _join_carry(
    forms: Sequence[Form], carry: Sequence[Operand], is_first: bool
) -> list[Form]:
    """Return the forms that can hold the carry of one more step."""
    return [
        form.join(_without_first_place(form, value), first=is_first)
        for form, value in zip(forms, carry, strict=True)
    ]


def _without_first_place(form: Form, value: Operand) -> Operand:
    """Return a value that a step hands on without the place of the first value."""
    is_open = form.open and isinstance(value, SoftIndex) and not value.known
    if not is_open or [f.token for f in value.factors] != [form.token]:
        return value
    support = np.zeros(0)
    if form.support is not None:
        support = form.support.array
    support = support.reshape((-1,) + (1,) * len(value.extent))
    return SoftIndex(Known(support), value.weights, value.factors, value.extent)


def _extrapolate_forms(
    forms: Sequence[Form], history: Sequence[Sequence[Form]], steps: int
) -> list[Form]:
    earlier_forms = zip(*history, strict=True)
    return [
        _extrapolate_form(form, earlier, steps)
        for form, earlier in zip(forms, earlier_forms, strict=True)
    ]


def _extrapolate_form(form: Form, history: Sequence[Form], steps: int) -> Form:
    """Return the form after more steps, if its values grow by one amount in each."""
    last_forms = [*history, form][-3:]
    supports = [f.support.array for f in last_forms if f.support is not None]
    if form.open or len(supports) < len(last_forms) or form in history[-1:]:
        return form
    values = _extrapolate_values(supports, steps)
    if values is None:
        return form
    if len(values) > LARGEST_SUPPORT:
        return dataclasses.replace(form, support=None)
    support = Known(values.astype(supports[-1].dtype))
    return dataclasses.replace(form, support=support, bounded=True)


def _extrapolate_values(
    supports: Sequence[np.ndarray], steps: int
) -> np.ndarray | None:
    """Return values after more steps, if both ends move by one amount in each."""
    if any(x.size == 0 or x.dtype == bool for x in supports):
        return None
    ends = np.array([[x.min(), x.max()] for x in supports])
    moves = np.diff(ends, axis=0)
    if (moves != moves[0]).any() or not moves.any():
        return None
    first, last = ends[-1] + steps * moves[0]
    return np.arange(first, last + 1)


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
    elements: set[LoopElement] = dataclasses.field(default_factory=set)

    def add(self, value: Operand) -> None:
        """Add those of a soft value."""
        if not isinstance(value, SoftIndex):
            self.parents |= tokens(value)
            return
        for factor in value.factors:
            self.roots |= factor.roots
            self.parents |= factor.parents
            self.elements |= factor.elements

    def constants(self, first_token: int) -> set[int]:
        """Return tokens of the draws that it shares with each step of the loop."""
        recurring = (element.recurring for element in self.elements)
        return {token for token in self.roots if token < first_token}.union(*recurring)

    def after_loop(self, first_token: int) -> set[int]:
        """Return tokens of the draws that it depends on, and that are there after it.

        The token of the loop itself stands for draws that are made inside of it.
        """
        everything = self.roots | self.parents
        elements = {element.token for element in self.elements}
        tokens_after = {token for token in everything if token < first_token}
        if any(token >= first_token and token not in elements for token in everything):
            tokens_after.add(first_token)
        return tokens_after

    def update(self, other: "Dependencies") -> None:
        """Add those of another carried value, from which this one is made."""
        self.roots |= other.roots
        self.parents |= other.parents
        self.elements |= other.elements


def _with_dependencies(
    forms: Sequence[Form],
    init: Sequence[Operand],
    carry: Sequence[Operand],
    first_token: int,
    jointly: bool,
) -> list[Form]:
    """Return forms with the draws that carried values depend on, from any step."""
    carried = {form.token: Dependencies() for form in forms}
    for form, first, value in zip(forms, init, carry, strict=True):
        carried[form.token].add(first)
        carried[form.token].add(exact_or_number(value, form.strict))
    _add_indirect_dependencies(carried)
    related_forms = []
    for form in forms:
        dependencies = carried[form.token]
        ancestors = dependencies.constants(first_token)
        if jointly:
            ancestors |= _carried_with(form.token, carried, first_token)
        related_forms.append(
            dataclasses.replace(
                form,
                ancestors=frozenset(ancestors),
                dependencies=frozenset(dependencies.after_loop(first_token)),
            )
        )
    return related_forms


def _add_indirect_dependencies(carried: dict[int, Dependencies]) -> None:
    """Add what carried values depend on through others, in as many steps as needed."""
    for _ in carried:
        for dependencies in carried.values():
            for token in dependencies.roots & carried.keys():
                dependencies.update(carried[token])


def _carried_with(
    token: int, carried: dict[int, Dependencies], first_token: int
) -> set[int]:
    """Tokens of the carried values that depend on the same draws of a step."""

    def made_inside(dependencies: Dependencies) -> set[int]:
        return {t for t in dependencies.roots if t >= first_token and t not in carried}

    draws = made_inside(carried[token])
    return {
        key
        for key, dependencies in carried.items()
        if key != token and not draws.isdisjoint(made_inside(dependencies))
    }
