r"""Local expectations: an exact sum over the values of one discrete element at a time.

An element is one discrete variable: a scalar or one-hot vector at one position of a
site. The gradient of :math:`E_q f` in the probabilities of one element is a sum over
its values v of :math:`\nabla q(v)` times the mean of f given v. The other elements keep
their drawn values in it. So each other value of each element takes one more run of the
model. `_Elements` has the elements of a site, which of them are
independent and can be changed in one run, and the classes that they are changed to.

Counterpart: ``numpyro_concrete.objectives.local_expectations``.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from concrete_core.objectives.chunks import even_chunks, validate_chunks
from concrete_core.objectives.programs import Frame, Programs
from concrete_core.types import Program
from pyro_concrete.objectives.abstract import AbstractUnbiased, Estimate
from pyro_concrete.objectives.coupled_runs import CoupledRuns
from pyro_concrete.objectives.elbo_terms import ElboTerms
from pyro_concrete.objectives.guide_draws import (
    append_event_dims,
    class_of_scores,
    relaxable_site,
    value_of_class,
)
from pyro_concrete.objectives.traces import scored_sites
from pyro_concrete.relaxation.site import Site
from pyro_concrete.relaxation.surroundings import GradientMessenger

# The name of the plate around the model and the guide when runs are vectorized.
_PLATE = "local_expectations_vectorized"


class LocalExpectations(AbstractUnbiased):
    r"""Unbiased gradients of the discrete ELBO from sums over each element's values.

    .. math:: \sum_e \sum_v f(b_{e \to v}) \nabla q_e(v) + \nabla f(b)

    A loss for `SVI` with the unmodified discrete model and guide. f is the integrand of
    the discrete ELBO at the draw b. For each discrete element e of the guide in turn,
    the sum over its values v is exact, :math:`b_{e \to v}` is b with the element set to
    v, and :math:`q_e(v)` is its probability in the guide. Sites of the guide that
    depend on the element are drawn anew given v, from the same noise; everything else
    keeps its value. Continuous sites pass the gradient of their paths.

    Elements of a plate are independent, and set at once, if all terms of the model and
    the guide that depend on the site are in that plate. **A particle takes one run of
    the model and the guide. A site of K values takes K - 1 further runs if its elements
    are independent, and K - 1 for each element if they are not**: a plate of binary
    values takes 2 runs in all, whatever its size, and a vector of n binary values that
    share a likelihood takes 1 + n.

    Use it where rare values matter, as in mixtures: it evaluates all of them, while
    sampling seldom draws them. With one element it has no variance. Do not use it where
    many elements share a likelihood and a run is expensive: there `RLOO` takes as many
    runs as it has particles.

    Args:
        num_particles: Number of particles whose gradients are averaged, >= 1.
        chunk_size: Largest number of further runs at a time, >= 1, if these are
            vectorized. By default all of one site run at once.
        max_plate_nesting: As in Pyro's ELBOs.
        vectorize_particles: As in Pyro's ELBOs. The further runs are in a plate, too,
            or else one after the other.
        retain_graph: As in Pyro's ELBOs.

    Raises:
        NotImplementedError: At a site of the guide that is marked for enumeration, has
            no finite support, or is continuous and not reparameterized. The message
            names it.
        ValueError: At a site that is latent in the model or the guide only. The message
            names it. Also if a number is less than one.

    Example:
        >>> import pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(torch.ones(3)))
        ...     pyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=torch.tensor(0.2))
        >>> def guide():
        ...     logits = pyro.param("z_logits", torch.zeros(3))
        ...     pyro.sample("z", dist.Categorical(logits=logits))
        >>> optimizer = pyro.optim.Adam({"lr": 0.01})
        >>> svi = pyro.infer.SVI(model, guide, optimizer, LocalExpectations())
        >>> svi.step() > 0
        True

    References:
        Titsias, Lazaro-Gredilla (2015), Local Expectation Gradients for Black Box
        Variational Inference. https://arxiv.org/abs/1503.01494
        De Smet, Sansone, Zuidberg Dos Martires (2023), Differentiable Sampling of
        Categorical Distributions Using the CatLog-Derivative Trick.
        https://arxiv.org/abs/2311.12569

    Counterpart: :class:`numpyro_concrete.LocalExpectations`.
    """

    _needs_influence = True

    def __init__(
        self,
        num_particles: int = 1,
        *,
        chunk_size: int | None = None,
        max_plate_nesting: int | float = float("inf"),
        vectorize_particles: bool = False,
        retain_graph: bool | None = None,
    ) -> None:
        validate_chunks(num_particles, chunk_size)
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            retain_graph=retain_graph,
        )
        self.chunk_size = chunk_size

    def count_runs(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> int:
        """Return the number of runs of the model and the guide that a particle takes.

        The programs run once to find it. The arguments are those of `loss`.

        Raises:
            NotImplementedError: As for `loss`.
        """
        with GradientMessenger():
            runs = next(self._run_particles(Programs(model, guide, args, kwargs)))
            return self._num_runs_of_particle(runs)

    def _num_runs_of_particle(self, runs: CoupledRuns) -> int:
        """Number of runs of a particle: one for the draw, and one for each change."""
        return 1 + sum(x.num_changes for x in _elements_of_sites(runs))

    def _estimate_of_particle(self, runs: CoupledRuns) -> Estimate:
        elbo = runs.elbo_terms.total()
        surrogate = elbo
        for elements in _elements_of_sites(runs):
            if elements.num_changes > 0:
                surrogate = surrogate + self._sum_over_values(elements, runs)
        return Estimate(elbo=elbo, surrogate=surrogate)

    def _sum_over_values(self, elements: "_Elements", runs: CoupledRuns) -> Tensor:
        r"""Return a number whose gradient is that of the sums over a site's values.

        The ELBO of the draw is subtracted from those of the other values. This changes
        only the rounding, as :math:`\sum_v \nabla q_e(v) = 0`, and leaves no term of
        the drawn value.
        """
        elbos = torch.cat(list(self._elbos_of_changes(elements, runs)))
        signals = elements.by_shift(elbos) - elements.read_elbo(runs.elbo_terms)
        return (elements.shifted_probs * signals.detach()).sum()

    def _elbos_of_changes(
        self, elements: "_Elements", runs: CoupledRuns
    ) -> Iterator[Tensor]:
        """Return the ELBOs of all changes to a site, in chunks: (changes, ...)."""
        values = runs.values_without_influence_of(elements.site.name)
        changes = torch.arange(elements.num_changes, device=elements.classes.device)
        if not self.vectorize_particles:
            for change in changes:
                values[elements.site.name] = elements.changed_value(change)
                yield elements.read_elbo(runs.run_with_values(values))[None]
            return
        chunks = even_chunks(elements.num_changes, self.chunk_size)
        for chunk in changes.split(chunks.size):
            yield _elbos_in_plate(elements, chunk, values, runs)


class _Elements(NamedTuple):
    """The elements of a discrete site, and the classes that they can be changed to.

    An element is a scalar or a one-hot vector. A change of the site shifts the classes
    of those elements that are independent of each other, modulo the number of classes.
    The changes are numbered, by shift and then by element.

    Attributes:
        site: The site of the guide.
        plates: Plates along which elements are independent.
        event_dim: Number of event dims of the elements.
        classes: Classes that were drawn: (*elements).
        shifted_classes: Classes to change to, which are the drawn ones where the
            probability is zero: (shifts, *elements).
        shifted_probs: Probabilities of the shifted classes in the guide, in the graph
            of the parameters: (shifts, *elements).
    """

    site: Site
    plates: tuple[Frame, ...]
    event_dim: int
    classes: Tensor
    shifted_classes: Tensor
    shifted_probs: Tensor

    @property
    def num_changes(self) -> int:
        """Number of changes, each of which takes a run."""
        if self.classes.numel() == 0:
            return 0
        return len(self.shifted_classes) * self.dependent_shape.numel()

    @property
    def independent_shape(self) -> torch.Size:
        """Sizes of the dims along which elements are independent; ones elsewhere."""
        shape = [1] * self.classes.dim()
        for frame in self.plates:
            assert frame.dim is not None
            dim = frame.dim - self.event_dim
            shape[dim] = self.classes.shape[dim]
        return torch.Size(shape)

    @property
    def dependent_shape(self) -> torch.Size:
        """Sizes of the other dims; ones where elements are independent."""
        shape = list(self.classes.shape)
        for frame in self.plates:
            assert frame.dim is not None
            shape[frame.dim - self.event_dim] = 1
        return torch.Size(shape)

    def changed_value(self, change: Tensor) -> Tensor:
        """Return the value of the site after a change, or after each of several."""
        num_elements = self.dependent_shape.numel()
        indices = torch.arange(num_elements, device=self.classes.device)
        index = append_event_dims(change % num_elements, self.classes.dim())
        classes = torch.where(
            indices.reshape(self.dependent_shape) == index,
            self.shifted_classes[change // num_elements],
            self.classes,
        )
        return value_of_class(self.site, classes)

    def read_elbo(self, terms: ElboTerms) -> Tensor:
        """Return the ELBO of each independent element: (*independent_shape)."""
        elbo = append_event_dims(terms.by_element(self.plates), self.event_dim)
        return elbo.expand(self.independent_shape)

    def by_shift(self, elbos: Tensor) -> Tensor:
        """Arrange the ELBOs of all changes by the elements that they are about.

        Shapes:
            elbos: (changes, *independent_shape).
            result: (shifts, *elements).
        """
        num_dims = self.classes.dim()
        elbos = elbos.reshape(-1, *self.dependent_shape, *self.independent_shape)
        # Two dims stand for one dim of the elements, and one of the two has size one.
        dims = [i for dim in range(1, num_dims + 1) for i in (dim, dim + num_dims)]
        return elbos.permute(0, *dims).reshape(-1, *self.classes.shape)


def _elements_of_sites(runs: CoupledRuns) -> Iterator[_Elements]:
    """Iterate over the elements of the discrete sites that the guide has drawn."""
    return (_elements_of_site(name, runs) for name in runs.draws)


def _elements_of_site(name: str, runs: CoupledRuns) -> _Elements:
    """Return the elements of a discrete site that the guide has drawn."""
    draw = runs.draws[name]
    site = relaxable_site(scored_sites(runs.guide_trace)[name])
    assert site is not None
    classes = class_of_scores(draw.scores, is_binary=draw.is_binary)
    num_classes = len(site.values)
    shifts = torch.arange(1, num_classes, device=classes.device)
    shifted_classes = (classes + append_event_dims(shifts, classes.dim())) % num_classes
    probs = _class_probs(site).expand(*classes.shape, num_classes)
    shifted_probs = probs.gather(-1, shifted_classes.movedim(0, -1)).movedim(-1, 0)
    return _Elements(
        site=site,
        plates=runs.independent_plates(name),
        event_dim=draw.event_dim,
        classes=classes,
        # A class of probability zero adds nothing, and may be impossible in the model.
        shifted_classes=torch.where(shifted_probs > 0, shifted_classes, classes),
        shifted_probs=shifted_probs,
    )


def _class_probs(site: Site) -> Tensor:
    """Return the probabilities of a site's values: (..., classes)."""
    if site.is_binary:
        return torch.stack([-site.logits, site.logits], -1).sigmoid()
    return site.logits.softmax(-1)


def _elbos_in_plate(
    elements: _Elements, changes: Tensor, values: dict[str, Tensor], runs: CoupledRuns
) -> Tensor:
    """Return the ELBOs of a chunk of changes, which run in a plate at the left.

    Args:
        elements: Elements of the site that is changed.
        changes: Numbers of the changes.
        values: Values of the sites that keep theirs.
        runs: Runs of the particle.
    """
    num_changes = len(changes)
    num_batch_dims = runs.num_batch_dims
    guide = scored_sites(runs.guide_trace)
    values_in_plate = {name: value[None] for name, value in values.items()}
    values_in_plate[elements.site.name] = elements.changed_value(changes)
    for name, value in values_in_plate.items():
        num_dims = 1 + num_batch_dims + guide[name]["fn"].event_dim
        value = _insert_dims(value, num_dims)
        values_in_plate[name] = value.expand(num_changes, *value.shape[1:])
    plate = pyro.plate(_PLATE, num_changes, dim=-num_batch_dims - 1)
    terms = runs.run_with_values(values_in_plate, plate)
    elbos = terms.by_element((*elements.plates, plate))
    # Dims of the batch that the site does not have are of size one.
    num_batch_dims_of_site = elements.classes.dim() - elements.event_dim
    elbos = elbos.reshape(
        num_changes, *elbos.shape[elbos.dim() - num_batch_dims_of_site :]
    )
    elbos = append_event_dims(elbos, elements.event_dim)
    return elbos.expand(num_changes, *elements.independent_shape)


def _insert_dims(value: Tensor, num_dims: int) -> Tensor:
    """Insert dims of size one after the first, up to a number of dims."""
    inserted = (1,) * (num_dims - value.dim())
    return value.reshape(len(value), *inserted, *value.shape[1:])
