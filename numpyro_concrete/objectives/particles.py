"""Draws of a guide as weighted particles of a model, one chunk at a time.

The log-weight of a particle z is log p(x, z) - log q(z), of the whole model or of each
element of a plate. `Particles` runs a model and its guide and returns log-weights;
`summarize_particles` draws many of them and keeps sums. Where such a log-weight would
be another number than the one that was asked for, an error names the site or plate.

Counterpart: ``pyro_concrete.objectives.particles``.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.nn import logsumexp
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import get_importance_trace
from numpyro.primitives import CondIndepStackFrame, Messenger
from numpyro.util import not_jax_tracer
from tqdm import tqdm

from concrete_core.objectives.checks import (
    depends_on_draws_message,
    plate_frame,
    validate_latent_sites_inside_plate,
    validate_plates,
)
from concrete_core.objectives.chunks import even_chunks
from concrete_core.objectives.programs import Programs
from concrete_core.types import Message, Messages, Params, Program
from numpyro_concrete.objectives.traces import (
    is_fixed_by_guide,
    latent_values,
    scored_sites,
    validate_same_sites,
)

PyTree = TypeVar("PyTree")


class LogWeights(NamedTuple):
    """Log-weights of one particle, or with a leading axis of several.

    Attributes:
        elements: Log-weights of the elements of the plate, or of one element that is
            the whole model: (elements,).
        outside_plate: Log-probability of the sites outside of the plate: ().
    """

    elements: Array
    outside_plate: Array


class ParticleSummary(NamedTuple):
    """Sums over all particles, in nats.

    Attributes:
        bounds: Log of the mean weight, for each element of the plate: (elements,).
        scale: Factor of the sum of `bounds`: the size of the plate over that of its
            subsample, >= 1.
        outside_plate: Log-probability of the sites outside of the plate, which is the
            same for all particles: ().
        totals: Log-weight of each particle, whose mean is the ELBO: (particles,).
    """

    bounds: Array
    scale: float
    outside_plate: Array
    totals: Array

    @property
    def bound(self) -> Array:
        """The multi-sample bound of the whole model: ()."""
        return self.scale * self.bounds.sum() + self.outside_plate


class _FixedValues(Messenger):
    """Sets sample sites to values.

    A model that `replay` runs has a guide, which relaxed models look for; here there is
    none.
    """

    def __init__(self, fn: Program, values: dict[str, Array]) -> None:
        super().__init__(fn)
        self.values = values

    def process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and msg["value"] is None:
            msg["value"] = self.values.get(msg["name"])


class _UpdatedState(Messenger):
    """Writes the mutable state of the guide to the parameters that the model gets."""

    def __init__(self, fn: Program, params: dict[str, Any]) -> None:
        super().__init__(fn)
        self.params = params

    def postprocess_message(self, msg: Message) -> None:
        if msg["type"] == "mutable":
            self.params[msg["name"]] = msg["value"]


class Particles:
    """A model and its guide as a source of weighted particles.

    Args:
        rng_key: Random key of the subsamples and of all particles.
        params: Parameters of the model and the guide, constrained.
        programs: Model and guide with their arguments.
        plate: Name of the plate whose elements have weights of their own. By default
            the whole model has one weight.
        vectorize: Whether `vmap` runs a chunk at once, or `lax.map` one particle after
            the other.
        validate: Whether to run the model and the guide once, to validate them.
            Otherwise call `record_structure` with the traces of a particle before its
            log-weights are computed.

    Raises:
        ValueError: If the log-weights would not be those of the model. The message
            names the site or plate.

    Counterpart: :class:`pyro_concrete.objectives.particles.Particles`.
    """

    def __init__(
        self,
        rng_key: Array,
        params: Params,
        programs: Programs,
        *,
        plate: str | None = None,
        vectorize: bool = True,
        validate: bool = True,
    ) -> None:
        # One key for all subsamples: they are the same for every particle.
        plate_key, self.key = random.split(rng_key)
        other_types = ["sample", "prng_key", "control_flow"]
        self.programs = programs._replace(
            model=seed(programs.model, plate_key, hide_types=other_types),
            guide=seed(programs.guide, plate_key, hide_types=other_types),
        )
        self.params = dict(params)
        self.plate = plate
        self.vectorize = vectorize
        self.scale = 1.0
        if validate:
            jax.eval_shape(self._validate, self.key)

    def _validate(self, key: Array) -> None:
        """Run both programs once for their structure alone."""
        programs = self._seed(key)
        guide_trace = self._trace(programs.guide)
        values = latent_values(scored_sites(guide_trace))
        model_trace = self._trace(_FixedValues(programs.model, values))
        self.record_structure(model_trace, guide_trace)

    def record_structure(self, model_trace: Messages, guide_trace: Messages) -> None:
        """Validate the traces of a particle, and record the scale of the plate.

        Raises:
            ValueError: If the log-weights would not be those of the model. The message
                names the site or plate.
        """
        model = scored_sites(model_trace)
        guide = scored_sites(guide_trace)
        plates = {**model_trace, **guide_trace}
        ratios = {
            frame.name: _subsampling_ratio(frame, plates.get(frame.name))
            for site in (*model.values(), *guide.values())
            for frame in site["cond_indep_stack"]
        }
        _validate_mutable_state(self.params, plates)
        validate_same_sites(model, guide)
        validate_plates(self.plate, ratios)
        if self.plate is not None:
            validate_latent_sites_inside_plate(
                self.plate, model, guide, is_fixed=is_fixed_by_guide
            )
            self.scale = ratios[self.plate]

    def _trace(self, fn: Program) -> Messages:
        handled = substitute(fn, data=self.params)
        return trace(handled).get_trace(*self.programs.args, **self.programs.kwargs)

    def _seed(self, key: Array) -> Programs:
        """Return the programs with the random keys of one particle."""
        # Split as NumPyro's ELBOs do, so that a key gives the same draws.
        model_key, guide_key = random.split(key)
        return self.programs._replace(
            model=seed(self.programs.model, model_key),
            guide=seed(self.programs.guide, guide_key),
        )

    def run(self, key: Array) -> tuple[Messages, Messages]:
        """Run the guide, and the model on its draws, for one particle.

        Args:
            key: Random key of the particle.

        Returns:
            Traces of the model and the guide, with log-probabilities.
        """
        programs = self._seed(key)
        # Copies of the containers: a model may write to its mutable state.
        params = jax.tree.map(lambda leaf: leaf, self.params)
        guide = _UpdatedState(programs.guide, params)
        return get_importance_trace(
            programs.model, guide, programs.args, programs.kwargs, params
        )

    def map(self, fn: Callable[[Array], PyTree], keys: Array) -> PyTree:
        """Call a function of one particle's key for those of a chunk.

        Args:
            fn: Function of a random key that returns arrays.
            keys: Random keys: (particles,).

        Returns:
            The arrays with the particles as their first axis.
        """
        if self.vectorize:
            return jax.vmap(fn)(keys)
        return lax.map(fn, keys)

    def sample_log_weights(self, key: Array) -> LogWeights:
        """Draw one particle and weigh it.

        Args:
            key: Random key of the particle.
        """
        return self.log_weights(*self.run(key))

    def log_weights(self, model_trace: Messages, guide_trace: Messages) -> LogWeights:
        """Return log p(x, z) - log q(z) of a particle."""
        elements = jnp.zeros(1)
        outside_plate = jnp.zeros(())
        for sign, program_trace in ((1, model_trace), (-1, guide_trace)):
            for site in scored_sites(program_trace).values():
                term = jnp.asarray(site["log_prob"])
                if self.plate is None or plate_frame(site, self.plate) is not None:
                    # The bound is scaled outside of the logarithm.
                    elements += sign * self.sum_by_element(term, site) / self.scale
                else:
                    outside_plate += sign * term.sum()
        return LogWeights(elements, outside_plate)

    def sum_by_element(self, term: Array, site: Message) -> Array:
        """Sum a term of a site over all axes but that of the elements.

        Shapes:
            term: Batch shape of the site.
            result: (elements,). A site outside of the plate has one element.
        """
        frame = plate_frame(site, self.plate)
        if frame is None or frame.dim is None:
            return term.sum()[None]
        term = jnp.moveaxis(term, frame.dim, -1)
        return term.reshape(-1, term.shape[-1]).sum(0)


class _Chunk(NamedTuple):
    """Keys of the particles of a chunk, or with a leading axis of all chunks.

    Attributes:
        keys: Random keys: (particles,).
        is_counted: Whether a particle counts. The last chunk is filled up with
            particles that do not: (particles,).
    """

    keys: Array
    is_counted: Array


class _Terms(NamedTuple):
    """What is kept of each particle of a chunk: (particles,).

    Attributes:
        outside_plate: Log-probability of the sites outside of the plate.
        totals: Log-weights of the whole model.
    """

    outside_plate: Array
    totals: Array


_Step = Callable[[Array, _Chunk], tuple[Array, _Terms]]


def summarize_particles(
    particles: Particles, num_particles: int, chunk_size: int, progress_bar: bool
) -> ParticleSummary:
    """Draw particles in chunks, of which only the running sums stay in memory.

    Args:
        particles: Source of particles.
        num_particles: Number of particles, >= 1.
        chunk_size: Largest number of particles that run at a time, >= 1.
        progress_bar: Whether to show the progress over particles.

    Raises:
        ValueError: If a number is less than one, or if sites outside of the plate
            depend on draws.
    """
    chunks = even_chunks(num_particles, chunk_size)
    keys = random.split(particles.key, num_particles)
    indices = jnp.arange(chunks.count * chunks.size).reshape(chunks.count, chunks.size)
    chunked = _Chunk(
        keys=keys[jnp.minimum(indices, num_particles - 1)],
        is_counted=indices < num_particles,
    )

    def add_chunk(log_sums: Array, chunk: _Chunk) -> tuple[Array, _Terms]:
        log_weights = particles.map(particles.sample_log_weights, chunk.keys)
        elements = log_weights.elements
        counted = jnp.where(chunk.is_counted[:, None], elements, -jnp.inf)
        terms = _Terms(
            outside_plate=log_weights.outside_plate,
            totals=particles.scale * elements.sum(-1) + log_weights.outside_plate,
        )
        return jnp.logaddexp(log_sums, logsumexp(counted, 0)), terms

    shape = jax.eval_shape(particles.sample_log_weights, particles.key).elements
    log_sums = jnp.full(shape.shape, -jnp.inf, shape.dtype)
    if progress_bar and not_jax_tracer(particles.key):
        log_sums, terms = _scan_with_progress_bar(
            add_chunk, log_sums, chunked, num_particles
        )
    else:
        log_sums, terms = lax.scan(add_chunk, log_sums, chunked)
    terms = jax.tree.map(lambda leaf: leaf.reshape(-1)[:num_particles], terms)
    return ParticleSummary(
        bounds=log_sums - math.log(num_particles),
        scale=particles.scale,
        outside_plate=common_value(terms.outside_plate, particles.plate),
        totals=terms.totals,
    )


def _scan_with_progress_bar(
    add_chunk: _Step, log_sums: Array, chunked: _Chunk, num_particles: int
) -> tuple[Array, _Terms]:
    """Do what `lax.scan` does, and show the progress over particles."""
    add_chunk = jax.jit(add_chunk)
    terms_of_chunks = []
    num_chunks, chunk_size = chunked.is_counted.shape
    with tqdm(total=num_particles, unit="particle") as bar:
        for i in range(num_chunks):
            chunk = jax.tree.map(lambda leaf, i=i: leaf[i], chunked)
            log_sums, terms = jax.block_until_ready(add_chunk(log_sums, chunk))
            terms_of_chunks.append(terms)
            bar.update(min(chunk_size, num_particles - i * chunk_size))
    return log_sums, jax.tree.map(lambda *leaves: jnp.stack(leaves), *terms_of_chunks)


def common_value(outside_plate: Array, plate: str | None) -> Array:
    """Return the log-probability outside of the plate that all particles share.

    Under jit no error can depend on values, and the result is NaN instead.

    Args:
        outside_plate: Log-probability of the sites outside of the plate, for each
            particle: (particles,).
        plate: Name of the plate.

    Raises:
        ValueError: If it differs between particles.
    """
    is_common = jnp.allclose(outside_plate, outside_plate[0])
    if not not_jax_tracer(is_common):
        return jnp.where(is_common, outside_plate[0], jnp.nan)
    if not is_common:
        raise ValueError(depends_on_draws_message(plate))
    return outside_plate[0]


def _subsampling_ratio(frame: CondIndepStackFrame, plate: Message | None) -> float:
    """Return the size of a plate over that of its subsample."""
    if plate is None:
        return 1.0
    return plate["args"][0] / frame.size


def _validate_mutable_state(params: Params, sites: Messages) -> None:
    """Raise an error if mutable state of the programs is not among the parameters."""
    for name, site in sites.items():
        if site["type"] == "mutable" and name not in params:
            raise ValueError(
                f"the parameters lack the mutable state {name!r}, so that its initial "
                "value would be used. Pass params={**svi.get_params(state), "
                "**state.mutable_state}"
            )
