"""Draws of a guide as weighted particles of a model, one chunk at a time.

The log-weight of a particle z is log p(x, z) - log q(z), of the whole model or of each
element of a plate. `Particles` runs a model and its guide and returns log-weights;
`summarize_particles` draws many of them and keeps sums. Where such a log-weight would
be another number than the one that was asked for, an error names the site or plate.

Counterpart: ``numpyro_concrete.objectives.particles``.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.poutine import Trace, replay, trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor
from tqdm import tqdm

from concrete_core.objectives.checks import (
    depends_on_draws_message,
    plate_frame,
    validate_latent_sites_inside_plate,
    validate_plates,
)
from concrete_core.objectives.chunks import even_chunks
from concrete_core.objectives.programs import Programs
from concrete_core.types import Message, Program
from pyro_concrete.objectives.traces import (
    all_sites,
    is_fixed_by_guide,
    is_subsample,
    latent_values,
    scored_sites,
    validate_same_sites,
)

# The name that Pyro's ELBOs give to their plate of particles.
_PARTICLE_PLATE = "num_particles_vectorized"


class LogWeights(NamedTuple):
    """Log-weights of one particle, or with a leading dim of several.

    Attributes:
        elements: Log-weights of the elements of the plate, or of one element that is
            the whole model: (elements,).
        outside_plate: Log-probability of the sites outside of the plate: ().
    """

    elements: Tensor
    outside_plate: Tensor


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

    bounds: Tensor
    scale: float
    outside_plate: Tensor
    totals: Tensor

    @property
    def bound(self) -> Tensor:
        """The multi-sample bound of the whole model: ()."""
        return self.scale * self.bounds.sum() + self.outside_plate


class _FixedValues(Messenger):
    """Sets sample sites to values.

    A model that `replay` runs has a guide, which relaxed models look for; here there is
    none.
    """

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.values and msg["value"] is None:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True


class _SharedSubsamples(Messenger):
    """Draws one subsample for each plate and reuses it in all further runs.

    NumPy draws it. Inside of `torch.vmap` torch would draw another subsample for each
    particle.
    """

    def __init__(self, subsamples: dict[str, Tensor]) -> None:
        super().__init__()
        self.subsamples = subsamples
        self._seed = int(torch.randint(2**62, (), device="cpu"))

    def _pyro_sample(self, msg: Message) -> None:
        if not is_subsample(msg) or msg["value"] is not None:
            return
        name = msg["name"]
        if name not in self.subsamples:
            indices = self._draw(name, msg["fn"])
            if indices is None:
                return
            self.subsamples[name] = indices
        msg["value"] = self.subsamples[name]

    def _draw(self, name: str, plate: Any) -> Tensor | None:
        """Return the indices of a plate's subsample, or None if it runs in full."""
        size = plate.subsample_size
        if size is None or size >= plate.size:
            return None
        generator = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        indices = generator.choice(plate.size, size, replace=False)
        return torch.as_tensor(indices, device=plate.device)


class Particles:
    """A model and its guide as a source of weighted particles.

    Args:
        programs: Model and guide with their arguments.
        plate: Name of the plate whose elements have weights of their own. By default
            the whole model has one weight.
        vectorize: Whether a chunk runs at once, and not one particle after the other.
        validate: Whether to run the model and the guide once, to validate them.
            Otherwise call `record_structure` with the traces of a particle before its
            log-weights are computed.
        subsamples_of: Particles whose subsamples of plates are used here, too.

    Raises:
        ValueError: If the log-weights would not be those of the model. The message
            names the site or plate.

    Counterpart: :class:`numpyro_concrete.objectives.particles.Particles`.
    """

    def __init__(
        self,
        programs: Programs,
        *,
        plate: str | None = None,
        vectorize: bool = True,
        validate: bool = True,
        subsamples_of: "Particles | None" = None,
    ) -> None:
        self.programs = programs
        self.plate = plate
        self.vectorize = vectorize
        self.scale = 1.0
        # Number of dims that plates take; a plate of particles goes to their left.
        self.max_plate_nesting = 0
        self.subsamples: dict[str, Tensor] = {}
        if subsamples_of is not None:
            self.subsamples = subsamples_of.subsamples
        self._broadcasts: bool | None = None
        self._subsample_handler: Messenger
        if validate:
            self._subsample_handler = _FixedValues(self.subsamples)
            self._validate()
        else:
            self._subsample_handler = _SharedSubsamples(self.subsamples)

    def _validate(self) -> None:
        """Run both programs once for their structure and their subsamples."""
        rng_state = get_rng_state()
        guide_trace = self._trace(self.programs.guide)
        values = latent_values(scored_sites(guide_trace))
        model_trace = self._trace(_FixedValues(values)(self.programs.model))
        sites = {**all_sites(guide_trace), **all_sites(model_trace)}
        for name, site in sites.items():
            if is_subsample(site):
                self.subsamples[name] = site["value"]
        self.record_structure(model_trace, guide_trace)
        if self.scale == 1:
            set_rng_state(rng_state)  # validation changes no draw

    def record_structure(self, model_trace: Trace, guide_trace: Trace) -> None:
        """Validate the traces of a particle, and record the plates and their scale.

        Raises:
            ValueError: If the log-weights would not be those of the model. The message
                names the site or plate.
        """
        model = scored_sites(model_trace)
        guide = scored_sites(guide_trace)
        frames: dict[str, CondIndepStackFrame] = {
            frame.name: frame
            for site in (*model.values(), *guide.values())
            for frame in site["cond_indep_stack"]
        }
        ratios = {name: _subsampling_ratio(frame) for name, frame in frames.items()}
        validate_same_sites(model, guide)
        validate_plates(self.plate, ratios)
        if _PARTICLE_PLATE not in frames:
            depths = [-frame.dim for frame in frames.values() if frame.dim is not None]
            self.max_plate_nesting = max(depths, default=0)
        if self.plate is not None:
            validate_latent_sites_inside_plate(
                self.plate, model, guide, is_fixed=is_fixed_by_guide
            )
            _validate_has_dim(frames[self.plate])
            self.scale = ratios[self.plate]

    def _trace(self, fn: Program) -> Trace:
        handled = self._subsample_handler(fn)
        return trace(handled).get_trace(*self.programs.args, **self.programs.kwargs)

    def run(self, num_particles: int | None = None) -> tuple[Trace, Trace]:
        """Run the guide, and the model on its draws.

        Args:
            num_particles: Number of particles that run at once in a plate around the
                model and the guide, which have to broadcast over it. By default one
                particle runs, without the plate.

        Returns:
            Traces of the model and the guide, with log-probabilities.
        """
        model = self.programs.model
        guide = self.programs.guide
        if num_particles is not None:
            particle_dim = -self.max_plate_nesting - 1
            model = pyro.plate(_PARTICLE_PLATE, num_particles, dim=particle_dim)(model)
            guide = pyro.plate(_PARTICLE_PLATE, num_particles, dim=particle_dim)(guide)
        guide_trace = self._trace(guide)
        model_trace = self._trace(replay(model, trace=guide_trace))
        return _with_log_probs(model_trace), _with_log_probs(guide_trace)

    def broadcasts(self, num_particles: int) -> bool:
        """Tell whether a plate of particles has the log-weights of single runs.

        The first and the last particle of the plate are compared with single runs on
        the same values. A model that raises an error inside of the plate does not
        broadcast.
        """
        try:
            model_trace, guide_trace = self.run(num_particles)
            log_weights = self.log_weights(model_trace, guide_trace)
            return all(
                self._agrees_with_single_run(log_weights, guide_trace, particle)
                for particle in (0, num_particles - 1)
            )
        except Exception:
            return False  # single particles run, as `_validate` has shown

    def _agrees_with_single_run(
        self, log_weights: LogWeights, guide_trace: Trace, particle: int
    ) -> bool:
        """Tell whether a particle of a plate has the log-weights of a single run."""
        particle_dim = -self.max_plate_nesting - 1
        values = _values_of_particle(guide_trace, particle, particle_dim)
        guide = self._trace(_FixedValues(values)(self.programs.guide))
        model = self._trace(_FixedValues(values)(self.programs.model))
        expected = self.log_weights(_with_log_probs(model), _with_log_probs(guide))
        for terms, expected_term in zip(log_weights, expected, strict=True):
            term = terms
            # A term that no draw has an influence on has no dim of the particles.
            if terms.ndim > expected_term.ndim:
                term = terms[particle]
            if not _is_close(term, expected_term):
                return False
        return True

    def map(self, fn: Callable[[], tuple], num_particles: int) -> tuple[Tensor, ...]:
        """Call a function that returns tensors of one particle, once per particle.

        Args:
            fn: Function that draws a particle and returns a tuple of tensors.
            num_particles: Number of particles.

        Returns:
            The tensors with the particles as their first dim.

        Raises:
            ValueError: If the model or the guide cannot run under `torch.vmap`.
        """
        if not self.vectorize:
            outputs = [fn() for _ in range(num_particles)]
            return tuple(torch.stack(tensors) for tensors in zip(*outputs, strict=True))
        vectorized = torch.vmap(lambda _: fn(), randomness="different")
        try:
            # Validation of arguments reads values, which vmap does not allow.
            with pyro.validation_enabled(False):
                return vectorized(torch.empty(num_particles))
        except Exception as error:
            raise ValueError(
                f"one particle runs, but torch.vmap over {num_particles} does not: "
                f"{error}\n"
                "Pass vectorize_particles=False to run the particles one by one"
            ) from error

    def sample_log_weights(self, num_particles: int) -> LogWeights:
        """Draw a chunk of particles and weigh them, at once if they are vectorized.

        They run in a plate of particles if the model and the guide broadcast over it,
        as most do. Otherwise `torch.vmap` runs them, which is slower and cannot draw
        from normal sites.

        Returns:
            Log-weights with the particles first: (particles, elements), (particles,).
        """
        if self._broadcasts is None:
            rng_state = get_rng_state()
            self._broadcasts = (
                self.vectorize and num_particles > 1 and self.broadcasts(num_particles)
            )
            set_rng_state(rng_state)  # the comparison changes no draw
        if not self._broadcasts:
            chunk = self.map(lambda: self.log_weights(*self.run()), num_particles)
            return LogWeights(*chunk)
        log_weights = self.log_weights(*self.run(num_particles))
        return LogWeights(
            elements=log_weights.elements,
            outside_plate=log_weights.outside_plate.expand(num_particles),
        )

    def log_weights(self, model_trace: Trace, guide_trace: Trace) -> LogWeights:
        """Return log p(x, z) - log q(z) of a particle, or of a plate of particles."""
        elements = torch.zeros(())  # adds to tensors on any device
        outside_plate = torch.zeros(())
        for sign, program_trace in ((1, model_trace), (-1, guide_trace)):
            for site in scored_sites(program_trace).values():
                term = self.sum_by_element(site["log_prob"], site)
                if self.plate is None or plate_frame(site, self.plate) is not None:
                    # The bound is scaled outside of the logarithm.
                    elements = elements + sign * term / self.scale
                else:
                    outside_plate = outside_plate + sign * term.sum(-1)
        elements = torch.atleast_1d(elements)
        return LogWeights(elements, outside_plate.to(elements))

    def sum_by_element(self, term: Tensor, site: Message) -> Tensor:
        """Sum a term of a site over all dims but those of particles and elements.

        Shapes:
            term: Batch shape of the site.
            result: (elements,), or (particles, elements) for a plate of particles. A
                site outside of the plate has one element.
        """
        frame = plate_frame(site, self.plate)
        if frame is None or frame.dim is None:
            term = term[..., None]
        else:
            term = term.movedim(frame.dim, -1)
        if plate_frame(site, _PARTICLE_PLATE) is None:
            return term.reshape(-1, term.shape[-1]).sum(0)
        # The plate of particles is the leftmost.
        return term.reshape(term.shape[0], -1, term.shape[-1]).sum(1)


class _RunningSums:
    """Sums over the chunks of particles so far.

    They are allocated at the first chunk and updated in place: small tensors between
    chunks would fragment the memory.
    """

    def __init__(self, first_chunk: LogWeights, num_particles: int) -> None:
        self.log_sums = torch.full_like(first_chunk.elements[0], -torch.inf)
        self.outside_plate = first_chunk.outside_plate[0].clone()
        self.totals = first_chunk.outside_plate.new_empty(num_particles)
        self.num_particles = 0

    def add(self, chunk: LogWeights, particles: Particles) -> None:
        """Add the particles of a chunk."""
        outside_plate = torch.cat([self.outside_plate[None], chunk.outside_plate])
        common_value(outside_plate, particles.plate)
        torch.logaddexp(self.log_sums, chunk.elements.logsumexp(0), out=self.log_sums)
        end = self.num_particles + len(chunk.elements)
        self.totals[self.num_particles : end] = (
            particles.scale * chunk.elements.sum(-1) + self.outside_plate
        )
        self.num_particles = end


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
    chunk_size = even_chunks(num_particles, chunk_size).size
    sums: _RunningSums | None = None
    with (
        torch.no_grad(),
        tqdm(total=num_particles, unit="particle", disable=not progress_bar) as bar,
    ):
        for start in range(0, num_particles, chunk_size):
            chunk = particles.sample_log_weights(min(chunk_size, num_particles - start))
            if sums is None:
                sums = _RunningSums(chunk, num_particles)
            sums.add(chunk, particles)
            bar.update(len(chunk.elements))
    assert sums is not None
    return ParticleSummary(
        bounds=sums.log_sums - math.log(num_particles),
        scale=particles.scale,
        outside_plate=sums.outside_plate,
        totals=sums.totals,
    )


def common_value(outside_plate: Tensor, plate: str | None) -> Tensor:
    """Return the log-probability outside of the plate that all particles share.

    Args:
        outside_plate: Log-probability of the sites outside of the plate, for each
            particle: (particles,).
        plate: Name of the plate.

    Raises:
        ValueError: If it differs between particles.
    """
    if not torch.allclose(outside_plate.detach(), outside_plate[0].detach()):
        raise ValueError(depends_on_draws_message(plate))
    return outside_plate[0]


def _with_log_probs(program_trace: Trace) -> Trace:
    """Return a trace with log-probabilities and without the subsamples of plates."""
    pruned = prune_subsample_sites(program_trace)
    pruned.compute_log_prob()
    return pruned


def _values_of_particle(
    guide_trace: Trace, particle: int, particle_dim: int
) -> dict[str, Tensor]:
    """Return the values that a guide drew for one of a plate of particles."""
    sites = scored_sites(guide_trace)
    return {
        name: value.select(particle_dim - sites[name]["fn"].event_dim, particle)
        for name, value in latent_values(sites).items()
    }


def _is_close(term: Tensor, expected: Tensor) -> bool:
    """Tell whether two log-weights are equal up to rounding."""
    tolerance = torch.finfo(expected.dtype).eps ** 0.5
    limit = tolerance * expected.abs().max().clamp_min(1)
    return term.shape == expected.shape and bool((term - expected).abs().max() <= limit)


def _subsampling_ratio(frame: CondIndepStackFrame) -> float:
    """Return the size of a plate over that of its subsample."""
    return (frame.full_size or frame.size) / frame.size


def _validate_has_dim(frame: CondIndepStackFrame) -> None:
    if frame.dim is None:
        raise ValueError(
            f"plate {frame.name!r} is a loop, whose elements have no dim. Write it as "
            f"`with pyro.plate({frame.name!r}, ...)`"
        )
