r"""Terms of an ELBO, and which of them an element of a plate is responsible for.

The integrand of the ELBO is a sum of one term per site,
:math:`f = \sum_x \log p(x) - \sum_z \log q(z)`, and the score-function gradient of a
discrete site z multiplies :math:`\nabla \log q(z)` by f. Elements of a plate are
independent of each other given what is outside of the plate, so that terms of other
elements have mean zero in that product. `ElboTerms.by_element` leaves them out, which
is Rao-Blackwellization: the mean gradient is the same, and the variance is lower.

Counterpart: ``pyro_concrete.objectives.elbo_terms``.
"""

import functools
import operator
from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from concrete_core.objectives.programs import Frame
from concrete_core.types import Messages
from numpyro_concrete.objectives.traces import needs_score_function, scored_sites

# From here on terms are stacked for a loop, which takes a copy of each.
_MIN_TERMS_OF_LOOP = 8
# Names and axes of plates.
_Plates = frozenset[tuple[str, int]]


class _Group(NamedTuple):
    """What the terms of a sum have in common.

    Attributes:
        plates: Plates that their sites are in.
        shape: Shape of each term, summed over the axes that no plate declares.
    """

    plates: _Plates
    shape: tuple[int, ...]


class ElboTerms:
    """The terms of an ELBO, each with the batch shape of its site.

    Example:
        >>> from types import SimpleNamespace
        >>> rows = SimpleNamespace(name="rows", dim=-1)
        >>> terms = ElboTerms()
        >>> terms.add(jnp.array([1.0, 2.0]), [rows])
        >>> terms.add(jnp.array(10.0), [])
        >>> terms.total(), terms.by_element([rows])
        (Array(13., dtype=float...), Array([11., 12.], dtype=float...))

    References:
        Ranganath, Gerrish, Blei (2014), Black Box Variational Inference, section 3.1.
        https://arxiv.org/abs/1401.0118

    Counterpart: :class:`pyro_concrete.objectives.elbo_terms.ElboTerms`.
    """

    def __init__(self) -> None:
        # A model of many sites has few combinations of plates. The terms of each are
        # summed once, so that the cost of all signals is linear in the sites.
        self._terms: dict[_Group, list[Array]] = {}
        self._sums_by_element: dict[_Plates, Array] = {}

    def add(self, term: Array, frames: Iterable[Frame]) -> None:
        """Add the term of a site.

        Args:
            term: Term, of the batch shape of the site.
            frames: Plates that the site is in.
        """
        plates = _plates_with_axes(frames)
        term = _sum_over_other_axes(jnp.asarray(term), plates)
        # Terms that lack the axis of a plate count once, and must not broadcast.
        group = _Group(plates, term.shape)
        self._terms.setdefault(group, []).append(term)
        self._sums_by_element.clear()

    def total(self) -> Array:
        """Return the sum of all terms: ()."""
        return self.by_element(())

    def by_element(self, frames: Iterable[Frame]) -> Array:
        """Return the sum of the terms that each element of the plates influences.

        A term in these plates counts for its own element, and one outside of a plate
        for every element. Terms are summed over all other plates.

        Args:
            frames: Plates that a site is in.

        Shapes:
            result: sizes of the plates, at their axes; broadcasts against the batch
                shape of the site.
        """
        plates = _plates_with_axes(frames)
        if plates not in self._sums_by_element:
            total = jnp.zeros(())
            for group, terms in self._terms.items():
                term = _sum_of_terms(terms)
                total = total + _sum_over_other_axes(term, group.plates & plates)
            self._sums_by_element[plates] = total
        return self._sums_by_element[plates]


def elbo_terms(model_trace: Messages, guide_trace: Messages) -> ElboTerms:
    r"""Return the terms of the ELBO, with gradients along reparameterized samples.

    The log-probability in the guide of a value without a path is a constant here, as
    the score function has mean zero: :math:`E_q \nabla \log q(z) = 0`.
    """
    terms = ElboTerms()
    for site in scored_sites(model_trace).values():
        terms.add(site["log_prob"], site["cond_indep_stack"])
    for site in scored_sites(guide_trace).values():
        log_prob = site["log_prob"]
        if needs_score_function(site):
            log_prob = lax.stop_gradient(log_prob)
        terms.add(-log_prob, site["cond_indep_stack"])
    return terms


def sum_by_element(term: Array, frames: Iterable[Frame]) -> Array:
    """Return the sum of a term for each element of the plates of its site.

    In NumPyro, a batch may have axes without a plate.

    Args:
        term: Term, of the batch shape of the site.
        frames: Plates that the site is in.

    Shapes:
        result: sizes of the plates, at their axes, as that of `ElboTerms.by_element`.
    """
    return _sum_over_other_axes(term, _plates_with_axes(frames))


def _sum_of_terms(terms: list[Array]) -> Array:
    """Sum terms of one shape.

    XLA fuses a sum into each operation that reads it, together with all of its terms.
    Each site reads the sum, so that the compiled program would grow with the square of
    the number of sites. A loop is not fused: its result is computed once.
    """
    if len(terms) < _MIN_TERMS_OF_LOOP:
        return functools.reduce(operator.add, terms)
    stacked = jnp.stack(terms)
    total, _ = lax.scan(
        lambda total, term: (total + term, None), jnp.zeros_like(stacked[0]), stacked
    )
    return total


def _sum_over_other_axes(term: Array, plates: _Plates) -> Array:
    """Sum over all axes but those of plates, and drop what is left of these."""
    plate_axes = {axis for _, axis in plates if axis >= -term.ndim}
    summed_axes = tuple(a for a in range(-term.ndim, 0) if a not in plate_axes)
    if summed_axes:
        term = term.sum(summed_axes, keepdims=True)
    num_axes = -min(plate_axes, default=0)
    return term.reshape(term.shape[term.ndim - num_axes :])


def _plates_with_axes(frames: Iterable[Frame]) -> _Plates:
    """Return the names and axes of plates."""
    return frozenset(
        (frame.name, frame.dim) for frame in frames if frame.dim is not None
    )
