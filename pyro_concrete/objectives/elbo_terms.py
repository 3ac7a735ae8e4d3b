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

import torch
from pyro.poutine import Trace
from torch import Tensor

from concrete_core.objectives.programs import Frame
from pyro_concrete.objectives.traces import needs_score_function, scored_sites


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
        self._terms: list[tuple[dict[str, int], Tensor]] = []

    def add(self, term: Tensor, frames: Iterable[Frame]) -> None:
        """Add the term of a site.

        Args:
            term: Term, of the batch shape of the site.
            frames: Plates that the site is in.
        """
        self._terms.append((_dims_of_plates(frames), term))

    def total(self) -> Tensor:
        """Return the sum of all terms: ()."""
        return sum((term.sum() for _, term in self._terms), torch.zeros(()))

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
        shared_dims = _dims_of_plates(frames)
        total = torch.zeros(())
        for plate_dims, term in self._terms:
            element_dims = {
                dim
                for name, dim in plate_dims.items()
                if shared_dims.get(name) == dim and dim >= -term.dim()
            }
            total = total + _sum_over_other_dims(term, element_dims)
        return total


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


def _sum_over_other_dims(term: Tensor, element_dims: set[int]) -> Tensor:
    """Sum over all dims but those of elements, and drop what is left of these."""
    summed_dims = [dim for dim in range(-term.dim(), 0) if dim not in element_dims]
    if summed_dims:
        term = term.sum(summed_dims, keepdim=True)
    num_dims = -min(element_dims, default=0)
    return term.reshape(term.shape[term.dim() - num_dims :])


def _dims_of_plates(frames: Iterable[Frame]) -> dict[str, int]:
    """Return the dims of plates; a plate that is a loop has none."""
    return {frame.name: frame.dim for frame in frames if frame.dim is not None}
