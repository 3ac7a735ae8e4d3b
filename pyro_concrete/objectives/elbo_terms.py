r"""Terms of an ELBO, and which of them an element of a plate is responsible for.

The integrand of the ELBO is a sum of one term per site,
:math:`f = \sum_x \log p(x) - \sum_z \log q(z)`, and the score-function gradient of a
discrete site z multiplies :math:`\nabla \log q(z)` by f. Elements of a plate are
independent of each other given what is outside of the plate, so that terms of other
elements have mean zero in that product. `ElboTerms.by_element` leaves them out, which
is Rao-Blackwellization: the mean gradient is the same, and the variance is lower.

Counterpart: ``numpyro_concrete.objectives.elbo_terms``.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from pyro.poutine import Trace
from torch import Tensor

from concrete_core.objectives.programs import Frame
from pyro_concrete.objectives.traces import needs_score_function, scored_sites

# Names and dims of plates.
_Plates = frozenset[tuple[str, int]]


class _Group(NamedTuple):
    """What the terms of a sum have in common.

    Attributes:
        plates: Plates that their sites are in.
        shape: Shape of each term, summed over the dims that no plate declares.
    """

    plates: _Plates
    shape: torch.Size


class ElboTerms:
    """The terms of an ELBO, each with the batch shape of its site.

    Example:
        >>> from types import SimpleNamespace
        >>> rows = SimpleNamespace(name="rows", dim=-1)
        >>> terms = ElboTerms()
        >>> terms.add(torch.tensor([1.0, 2.0]), [rows])
        >>> terms.add(torch.tensor(10.0), [])
        >>> terms.total(), terms.by_element([rows])
        (tensor(13.), tensor([11., 12.]))

    References:
        Ranganath, Gerrish, Blei (2014), Black Box Variational Inference, section 3.1.
        https://arxiv.org/abs/1401.0118

    Counterpart: :class:`numpyro_concrete.objectives.elbo_terms.ElboTerms`.
    """

    def __init__(self) -> None:
        # A model of many sites has few combinations of plates. The terms of each are
        # summed once, so that the cost of all signals is linear in the sites.
        self._sums: dict[_Group, Tensor] = {}
        self._sums_by_element: dict[_Plates, Tensor] = {}

    def add(self, term: Tensor, frames: Iterable[Frame]) -> None:
        """Add the term of a site.

        Args:
            term: Term, of the batch shape of the site.
            frames: Plates that the site is in.
        """
        plates = _plates_with_dims(frames)
        term = _sum_over_other_dims(term, plates)
        # Terms that lack the dim of a plate count once, and must not broadcast.
        group = _Group(plates, term.shape)
        if group in self._sums:
            term = self._sums[group] + term
        self._sums[group] = term
        self._sums_by_element.clear()

    def total(self) -> Tensor:
        """Return the sum of all terms: ()."""
        return self.by_element(())

    def by_element(self, frames: Iterable[Frame]) -> Tensor:
        """Return the sum of the terms that each element of the plates influences.

        A term in these plates counts for its own element, and one outside of a plate
        for every element. Terms are summed over all other plates.

        Args:
            frames: Plates that a site is in.

        Shapes:
            result: sizes of the plates, at their dims; broadcasts against the batch
                shape of the site.
        """
        plates = _plates_with_dims(frames)
        if plates not in self._sums_by_element:
            total = torch.zeros(())
            for group, term in self._sums.items():
                total = total + _sum_over_other_dims(term, group.plates & plates)
            self._sums_by_element[plates] = total
        return self._sums_by_element[plates]


def elbo_terms(model_trace: Trace, guide_trace: Trace) -> ElboTerms:
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
            log_prob = log_prob.detach()
        terms.add(-log_prob, site["cond_indep_stack"])
    return terms


def _sum_over_other_dims(term: Tensor, plates: _Plates) -> Tensor:
    """Sum over all dims but those of plates, and drop what is left of these."""
    plate_dims = {dim for _, dim in plates if dim >= -term.dim()}
    summed_dims = [dim for dim in range(-term.dim(), 0) if dim not in plate_dims]
    if summed_dims:
        term = term.sum(summed_dims, keepdim=True)
    num_dims = -min(plate_dims, default=0)
    return term.reshape(term.shape[term.dim() - num_dims :])


def _plates_with_dims(frames: Iterable[Frame]) -> _Plates:
    """Return the names and dims of plates; a plate that is a loop has no dim."""
    return frozenset(
        (frame.name, frame.dim) for frame in frames if frame.dim is not None
    )
