r"""Local expectations: an exact sum over the values of one discrete element at a time.

An element is one discrete variable: a scalar or one-hot vector at one position of a
site. The gradient of :math:`E_q f` in the probabilities of one element is a sum over
its values v of :math:`\nabla q(v)` times the mean of f given v. The other elements keep
their drawn values in it. So each other value of each element takes one more run of the
model. `_Elements` has the elements of a site, which of them are
independent and can be changed in one run, and the classes that they are changed to.

Counterpart: ``pyro_concrete.objectives.local_expectations``.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn import sigmoid, softmax

from concrete_core.objectives.chunks import even_chunks, validate_chunks
from concrete_core.objectives.programs import Frame, Programs
from concrete_core.types import Params, Program
from numpyro_concrete.objectives.abstract import AbstractUnbiased, Estimate
from numpyro_concrete.objectives.coupled_runs import CoupledRuns
from numpyro_concrete.objectives.elbo_terms import ElboTerms
from numpyro_concrete.objectives.guide_draws import (
    ParticleKeys,
    append_event_dims,
    class_of_scores,
    relaxable_site,
    value_of_class,
)
from numpyro_concrete.objectives.traces import scored_sites
from numpyro_concrete.relaxation.site import Site


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
        vectorize_particles: As in NumPyro's ELBOs. The further runs of a chunk are
            vectorized, too, unless it is `False`.

    Raises:
        NotImplementedError: At a site of the guide that is marked for enumeration, has
            no finite support, or is continuous and not reparameterized. The message
            names it.
        ValueError: At a site that is latent in the model or the guide only. The message
            names it. Also if a number is less than one.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
        ...     numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=0.2)
        >>> def guide():
        ...     logits = numpyro.param("z_logits", jnp.zeros(3))
        ...     numpyro.sample("z", dist.Categorical(logits=logits))
        >>> optimizer = numpyro.optim.Adam(0.01)
        >>> svi = numpyro.infer.SVI(model, guide, optimizer, LocalExpectations())
        >>> result = svi.run(jax.random.key(0), 2, progress_bar=False)
        >>> bool(result.losses[0] > 0)
        True

    References:
        Titsias, Lazaro-Gredilla (2015), Local Expectation Gradients for Black Box
        Variational Inference. https://arxiv.org/abs/1503.01494
        De Smet, Sansone, Zuidberg Dos Martires (2023), Differentiable Sampling of
        Categorical Distributions Using the CatLog-Derivative Trick.
        https://arxiv.org/abs/2311.12569

    Counterpart: :class:`pyro_concrete.LocalExpectations`.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        chunk_size: int | None = None,
        vectorize_particles: bool | Callable = True,
    ) -> None:
        validate_chunks(num_particles, chunk_size)
        super().__init__(num_particles, vectorize_particles)
        self.chunk_size = chunk_size

    def count_runs(
        self,
        rng_key: Array,
        param_map: Params,
        model: Program,
        guide: Program,
        *args: Any,
        **kwargs: Any,
    ) -> int:
        """Return the number of runs of the model and the guide that a particle takes.

        Nothing is computed: the programs are traced once. The arguments are those of
        `loss`.

        Raises:
            NotImplementedError: As for `loss`.
        """
        programs = Programs(model, guide, args, kwargs)
        numbers = []

        def count(key: Array) -> None:
            runs = CoupledRuns(ParticleKeys(key, key), param_map, programs)
            numbers.append(1 + sum(x.num_changes for x in _elements_of_sites(runs)))

        jax.eval_shape(count, rng_key)
        return numbers[0]

    def _estimate_of_particle(self, runs: CoupledRuns) -> Estimate:
        elbo = runs.elbo_terms.total()
        surrogate = elbo
        for elements in _elements_of_sites(runs):
            if elements.num_changes > 0:
                surrogate += self._sum_over_values(elements, runs)
        return Estimate(elbo=elbo, surrogate=surrogate)

    def _sum_over_values(self, elements: "_Elements", runs: CoupledRuns) -> Array:
        r"""Return a number whose gradient is that of the sums over a site's values.

        The ELBO of the draw is subtracted from those of the other values. This changes
        only the rounding, as :math:`\sum_v \nabla q_e(v) = 0`, and leaves no term of
        the drawn value.
        """
        elbos = self._elbos_of_changes(elements, runs)
        signals = elements.by_shift(elbos) - elements.read_elbo(runs.elbo_terms)
        return (elements.shifted_probs * lax.stop_gradient(signals)).sum()

    def _elbos_of_changes(self, elements: "_Elements", runs: CoupledRuns) -> Array:
        """Return the ELBOs of all changes to a site, without gradient: (changes, ...).

        Everything that they depend on is held constant before they run, so that they
        keep nothing for a backward pass.
        """

        def elbo_of_change(change: Array) -> Array:
            values = {elements.site.name: elements.changed_value(change)}
            return elements.read_elbo(runs.run_with_values(values))

        def elbos_of_changes(changes: Array) -> Array:
            return self._map_changes(elbo_of_change, changes)

        changes = jnp.arange(elements.num_changes)
        # closure_convert turns all traced values from outside into arguments.
        converted, constants = jax.closure_convert(elbos_of_changes, changes)
        return converted(changes, *lax.stop_gradient(constants))

    def _map_changes(self, fn: Callable[[Array], Array], changes: Array) -> Array:
        """Call a function for each change, in vectorized chunks or one by one."""
        if self.vectorize_particles is False:
            return lax.map(fn, changes)
        chunks = even_chunks(len(changes), self.chunk_size)
        if chunks.count == 1:
            return jax.vmap(fn)(changes)
        return lax.map(fn, changes, batch_size=chunks.size)


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
        shifted_probs: Probabilities of the shifted classes in the guide, with the
            gradient of the parameters: (shifts, *elements).
    """

    site: Site
    plates: tuple[Frame, ...]
    event_dim: int
    classes: Array
    shifted_classes: Array
    shifted_probs: Array

    @property
    def num_changes(self) -> int:
        """Number of changes, each of which takes a run."""
        if self.classes.size == 0:
            return 0
        return len(self.shifted_classes) * math.prod(self.dependent_shape)

    @property
    def independent_shape(self) -> tuple[int, ...]:
        """Sizes of the axes along which elements are independent; ones elsewhere."""
        shape = [1] * self.classes.ndim
        for frame in self.plates:
            assert frame.dim is not None
            axis = frame.dim - self.event_dim
            shape[axis] = self.classes.shape[axis]
        return tuple(shape)

    @property
    def dependent_shape(self) -> tuple[int, ...]:
        """Sizes of the other axes; ones where elements are independent."""
        shape = list(self.classes.shape)
        for frame in self.plates:
            assert frame.dim is not None
            shape[frame.dim - self.event_dim] = 1
        return tuple(shape)

    def changed_value(self, change: Array) -> Array:
        """Return the value of the site after a change."""
        num_elements = math.prod(self.dependent_shape)
        indices = jnp.arange(num_elements).reshape(self.dependent_shape)
        classes = jnp.where(
            indices == change % num_elements,
            self.shifted_classes[change // num_elements],
            self.classes,
        )
        return value_of_class(self.site, classes)

    def read_elbo(self, terms: ElboTerms) -> Array:
        """Return the ELBO of each independent element: (*independent_shape)."""
        elbo = append_event_dims(terms.by_element(self.plates), self.event_dim)
        return jnp.broadcast_to(elbo, self.independent_shape)

    def by_shift(self, elbos: Array) -> Array:
        """Arrange the ELBOs of all changes by the elements that they are about.

        Shapes:
            elbos: (changes, *independent_shape).
            result: (shifts, *elements).
        """
        num_axes = self.classes.ndim
        elbos = elbos.reshape(-1, *self.dependent_shape, *self.independent_shape)
        # Two axes stand for one axis of the elements, and one of the two has size one.
        axes = [i for axis in range(1, num_axes + 1) for i in (axis, axis + num_axes)]
        return elbos.transpose(0, *axes).reshape(-1, *self.classes.shape)


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
    shifts = append_event_dims(jnp.arange(1, num_classes), classes.ndim)
    shifted_classes = (classes + shifts) % num_classes
    probs = jnp.broadcast_to(_class_probs(site), (*classes.shape, num_classes))
    shifted_probs = jnp.take_along_axis(
        jnp.moveaxis(probs, -1, 0), shifted_classes, axis=0
    )
    return _Elements(
        site=site,
        plates=runs.independent_plates(name),
        event_dim=draw.event_dim,
        classes=classes,
        # A class of probability zero adds nothing, and may be impossible in the model.
        shifted_classes=jnp.where(shifted_probs > 0, shifted_classes, classes),
        shifted_probs=shifted_probs,
    )


def _class_probs(site: Site) -> Array:
    """Return the probabilities of a site's values: (..., classes)."""
    if site.is_binary:
        return sigmoid(jnp.stack([-site.logits, site.logits], -1))
    return softmax(site.logits, -1)
