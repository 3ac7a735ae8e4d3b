r"""Terms of an ELBO, and which of them an element of a plate is responsible for.

The integrand of the ELBO is a sum of one term per site,
:math:`f = \sum_x \log p(x) - \sum_z \log q(z)`, and the score-function gradient of a
discrete site z multiplies :math:`\nabla \log q(z)` by f. Elements of a plate are
independent of each other given what is outside of the plate, so that terms of other
elements have mean zero in that product. `ElboTerms.by_element` leaves them out, which
is Rao-Blackwellization: the mean gradient is the same, and the variance is lower.

Counterpart: ``pyro_concrete.objectives.elbo_terms``.
"""

from collections.abc import Iterable

import jax.numpy as jnp
from jax import Array, lax

from concrete_core.objectives.programs import Frame
from concrete_core.types import Messages
from numpyro_concrete.objectives.traces import needs_score_function, scored_sites


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
        self._terms: list[tuple[dict[str, int], Array]] = []

    def add(self, term: Array, frames: Iterable[Frame]) -> None:
        """Add the term of a site.

        Args:
            term: Term, of the batch shape of the site.
            frames: Plates that the site is in.
        """
        self._terms.append((_axes_of_plates(frames), term))

    def total(self) -> Array:
        """Return the sum of all terms: ()."""
        return sum((jnp.sum(term) for _, term in self._terms), jnp.zeros(()))

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
        shared_axes = _axes_of_plates(frames)
        total = jnp.zeros(())
        for plate_axes, term in self._terms:
            element_axes = {
                axis
                for name, axis in plate_axes.items()
                if shared_axes.get(name) == axis and axis >= -jnp.ndim(term)
            }
            total = total + _sum_over_other_axes(jnp.asarray(term), element_axes)
        return total


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


def _sum_over_other_axes(term: Array, element_axes: set[int]) -> Array:
    """Sum over all axes but those of elements, and drop what is left of these."""
    summed_axes = tuple(a for a in range(-term.ndim, 0) if a not in element_axes)
    term = term.sum(summed_axes, keepdims=True)
    num_axes = -min(element_axes, default=0)
    return term.reshape(term.shape[term.ndim - num_axes :])


def _axes_of_plates(frames: Iterable[Frame]) -> dict[str, int]:
    """Return the axes of plates."""
    return {frame.name: frame.dim for frame in frames if frame.dim is not None}
