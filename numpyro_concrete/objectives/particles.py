"""Draws of a guide as weighted particles of a model, a chunk of them at a time.

The log-weight of a particle z is log p(x, z) - log q(z), of the whole program or of
each element of a plate. Programs for which this would be another number than the one
asked for are refused, by the site or plate.

Counterpart: ``pyro_concrete.objectives.particles``.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.nn import logsumexp
from numpyro.distributions import Delta
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import get_importance_trace
from numpyro.primitives import Messenger
from numpyro.util import not_jax_tracer
from tqdm import tqdm

from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.relaxation.site import SUFFIX, leaf_of

Sites = dict[str, dict[str, Any]]


class Summary(NamedTuple):
    """What is kept of all particles, in nats.

    Attributes:
        bounds: Log of the mean weight, for each element of the plate: (elements,).
        scale: What their sum is multiplied by: the size of the plate over that of its
            subsample.
        rest: Log-probability of the sites outside of the plate, all known: ().
        totals: Log-weight of each particle, whose mean is the ELBO: (particles,).
    """

    bounds: Array
    scale: float
    rest: Array
    totals: Array

    @property
    def bound(self) -> Array:
        """The bound of the whole: that of the elements, and of what is outside."""
        return self.scale * self.bounds.sum() + self.rest


class _Known(Messenger):
    """Gives sites their values; unlike `replay`, it stands for no guide."""

    def __init__(self, fn: Callable, values: dict[str, Array]) -> None:
        super().__init__(fn)
        self.values = values

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["value"] is None:
            msg["value"] = self.values.get(msg["name"])


class _UpdatedState(Messenger):
    """Writes the mutable state of the guide to the parameters that the model gets."""

    def __init__(self, fn: Callable, params: dict[str, Any]) -> None:
        super().__init__(fn)
        self.params = params

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "mutable":
            self.params[msg["name"]] = msg["value"]


class Particles:
    """A model and its guide, whose structure is known, to be run in chunks.

    Args:
        rng_key: Random key, of the subsamples and all particles.
        params: Parameters of both, constrained.
        model: Model.
        guide: Its guide.
        args: Arguments of both.
        kwargs: Keyword arguments of both.
        plate: Name of the plate whose elements have weights of their own.
        vectorize: Whether a chunk is mapped by `vmap`, or one by one by `lax.map`.
        validate: Whether to run both programs once for their structure. Otherwise
            call `learn` with the traces of a particle before their weights are taken.

    Raises:
        ValueError: If log-weights would not be those of the model, in words.

    Counterpart: :class:`pyro_concrete.objectives.particles.Particles`.
    """

    def __init__(
        self,
        rng_key: Array,
        params: Mapping[str, Any],
        model: Callable,
        guide: Callable,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        plate: str | None = None,
        vectorize: bool = True,
        validate: bool = True,
    ) -> None:
        # One key for all subsamples: they are the same for every particle.
        plate_key, self.key = random.split(rng_key)
        kinds = ["sample", "prng_key", "control_flow"]
        self.model = seed(model, plate_key, hide_types=kinds)
        self.guide = seed(guide, plate_key, hide_types=kinds)
        self.args, self.kwargs, self.params = args, kwargs, dict(params)
        self.plate, self.vectorize = plate, vectorize
        self.scale = 1.0
        if validate:
            jax.eval_shape(self._look, self.key)

    def _look(self, key: Array) -> None:
        """Run both programs for their structure alone."""
        model, guide = self._seeded(key)
        guide_trace = self._traced(guide)
        model_trace = self._traced(_Known(model, _latent(_scored(guide_trace))))
        self.learn(model_trace, guide_trace)

    def learn(self, model_trace: Sites, guide_trace: Sites) -> None:
        """Refuse what has no such weights, and note the scale of the plate."""
        _check_state(self.params, model_trace, guide_trace)
        model, guide = _scored(model_trace), _scored(guide_trace)
        check_match(model, guide)
        sites = [*model.values(), *guide.values()]
        frames = {f.name: f for site in sites for f in site["cond_indep_stack"]}
        plates = {**model_trace, **guide_trace}
        ratios = {name: _ratio(f, plates.get(name)) for name, f in frames.items()}
        check_plates(self.plate, ratios)
        if self.plate is not None:
            check_inside(self.plate, model, guide)
            self.scale = ratios[self.plate]

    def _traced(self, fn: Callable) -> Sites:
        known = substitute(fn, data=self.params)
        return trace(known).get_trace(*self.args, **self.kwargs)

    def _seeded(self, key: Array) -> tuple[Callable, Callable]:
        # As in the host's own objectives, whose draws these are for a given key.
        model_key, guide_key = random.split(key)
        return seed(self.model, model_key), seed(self.guide, guide_key)

    def run(self, key: Array) -> tuple[Sites, Sites]:
        """Run the guide, and the model on its draws, for one particle."""
        model, guide = self._seeded(key)
        # New containers: a program may write to those of its mutable state.
        params = jax.tree.map(lambda leaf: leaf, self.params)
        guide = _UpdatedState(guide, params)
        return get_importance_trace(model, guide, self.args, self.kwargs, params)

    def map(self, fn: Callable, keys: Array) -> Any:
        """Apply a function of one particle's key to those of a chunk."""
        return jax.vmap(fn)(keys) if self.vectorize else lax.map(fn, keys)

    def weigh(self, key: Array) -> tuple[Array, Array]:
        """Draw a particle and weigh it.

        Args:
            key: Random key of the particle.

        Returns:
            Log-weights of the elements of the plate, or of one that is the whole
            program: (elements,); log-probability of what is outside: ().
        """
        return self.weights(*self.run(key))

    def weights(self, model_trace: Sites, guide_trace: Sites) -> tuple[Array, Array]:
        """Return the log-weights of a particle that was run, as `weigh` does."""
        inside, outside = jnp.zeros(1), jnp.zeros(())
        for sign, sites in ((1, model_trace), (-1, guide_trace)):
            for site in _scored(sites).values():
                term = jnp.asarray(site["log_prob"])
                if self.plate is None or _frame(site, self.plate) is not None:
                    inside += sign * self.by_element(term, site) / self.scale
                else:
                    outside += sign * term.sum()
        return inside, outside

    def by_element(self, term: Array, site: dict[str, Any]) -> Array:
        """Sum a term of a site over all axes but that of the plate: (elements,)."""
        frame = _frame(site, self.plate)
        if frame is None:
            return term.sum()[None]
        term = jnp.moveaxis(term, frame.dim, -1)
        return term.reshape(-1, term.shape[-1]).sum(0)


def summary(
    particles: Particles, num_particles: int, chunk_size: int, progress_bar: bool
) -> Summary:
    """Draw particles in chunks, of which only the running sums stay in memory."""
    number, size = chunks(num_particles, chunk_size)
    keys = random.split(particles.key, num_particles)
    # The last chunk is filled up with particles that do not count.
    place = jnp.arange(number * size).reshape(number, size)
    keys = keys[jnp.minimum(place, num_particles - 1)]

    def step(bounds: Array, chunk: tuple[Array, Array]) -> tuple[Array, Any]:
        elements, rest = particles.map(particles.weigh, chunk[0])
        totals = particles.scale * elements.sum(-1) + rest
        counted = jnp.where(chunk[1][:, None], elements, -jnp.inf)
        return jnp.logaddexp(bounds, logsumexp(counted, 0)), (rest, totals)

    shape = jax.eval_shape(particles.weigh, particles.key)[0]
    start = jnp.full(shape.shape, -jnp.inf, shape.dtype)
    chunked = keys, place < num_particles
    if progress_bar and not_jax_tracer(particles.key):
        bounds, kept = _shown(step, start, chunked, num_particles)
    else:
        bounds, kept = lax.scan(step, start, chunked)
    rest, totals = (x.reshape(-1)[:num_particles] for x in kept)
    rest = common_value(rest, particles.plate)
    return Summary(bounds - math.log(num_particles), particles.scale, rest, totals)


def _shown(step: Callable, bounds: Array, chunked: Any, num_particles: int) -> Any:
    """As `lax.scan`, with a progress bar."""
    step, kept = jax.jit(step), []
    size = chunked[1].shape[1]
    with tqdm(total=num_particles, unit="particle") as bar:
        for i in range(len(chunked[1])):
            chunk = jax.tree.map(lambda x, i=i: x[i], chunked)
            bounds, out = jax.block_until_ready(step(bounds, chunk))
            kept.append(out)
            bar.update(min(size, num_particles - i * size))
    return bounds, jax.tree.map(lambda *x: jnp.stack(x), *kept)


def common_value(rest: Array, plate: str | None) -> Array:
    """Return what is outside of the plate, if it is the same for every particle."""
    same = jnp.allclose(rest, rest[0])
    if not not_jax_tracer(same):
        return jnp.where(same, rest[0], jnp.nan)  # no error can be raised under jit
    if not same:
        raise ValueError(depends(plate))
    return rest[0]


def chunks(num_particles: int, chunk_size: int) -> tuple[int, int]:
    """Return the number of chunks and their size, as small as their number allows.

    Example:
        >>> chunks(1000, 300)
        (4, 250)
    """
    for name, size in (("num_particles", num_particles), ("chunk_size", chunk_size)):
        if size < 1:
            raise ValueError(f"{name} is a number of particles, not {size}")
    number = math.ceil(num_particles / chunk_size)
    return number, math.ceil(num_particles / number)


def depends(plate: str | None) -> str:
    """Say that what is outside of a plate is not the same for every particle."""
    return (
        f"sites outside of plate {plate!r} depend on draws, so that none of its "
        "elements has a weight of its own. Pass plate=None for the bound of the whole "
        "program"
    )


def _scored(found: Sites) -> Sites:
    """The sites of a program that have a probability; others are not random."""
    return {name: site for name, site in found.items() if site["type"] == "sample"}


def _latent(sites: Sites) -> dict[str, Array]:
    """The values of the sites that are drawn."""
    return {n: site["value"] for n, site in sites.items() if not site["is_observed"]}


def _frame(site: dict[str, Any], plate: str | None) -> Any:
    """A site's place in a plate, or None if it is not inside."""
    return next((f for f in site["cond_indep_stack"] if f.name == plate), None)


def _ratio(frame: Any, plate: dict[str, Any] | None) -> float:
    """Size of a plate over that of its subsample."""
    return 1.0 if plate is None else plate["args"][0] / frame.size


def _check_state(params: Mapping[str, Any], *traces: Sites) -> None:
    """Refuse mutable state that is not among the parameters.

    Args:
        params: Parameters and mutable state by name.
        *traces: Traces of programs.

    Raises:
        ValueError: By the site, with the way out.
    """
    for name, site in {k: v for sites in traces for k, v in sites.items()}.items():
        if site["type"] == "mutable" and name not in params:
            raise ValueError(
                f"the parameters lack the mutable state {name!r}, so that its initial "
                "value would be used. Pass params={**svi.get_params(state), "
                "**state.mutable_state}"
            )


def check_match(model: Sites, guide: Sites) -> None:
    """Refuse a guide whose latent sites are not those of the model.

    Args:
        model: Sites of the model by name.
        guide: Sites of the guide by name.

    Raises:
        ValueError: By the site, with the way out.
    """
    for name, site in guide.items():
        if name in model or site["infer"].get("is_auxiliary"):
            continue
        if isinstance(leaf_of(site["fn"]), AbstractConcrete):
            raise ValueError(
                f"site {name!r} of the guide is relaxed, and the model is discrete: "
                "pass harden(guide), or the relaxed model"
            )
        if name + SUFFIX in model:
            raise ValueError(
                f"site {name + SUFFIX!r} of the model is relaxed, and the guide is "
                "discrete: pass the model as it was before relax"
            )
        raise ValueError(f"site {name!r} of the guide is not in the model")
    for name, site in model.items():
        if name in guide or site["is_observed"]:
            continue
        hint = ""
        if site["infer"].get("enumerate"):
            hint = ", and sites marked for enumeration are not summed out here"
        raise ValueError(
            f"site {name!r} of the model is latent, but not in the guide{hint}. "
            "Sample it there, too"
        )


def check_plates(plate: str | None, ratios: dict[str, float]) -> None:
    """Refuse a plate that is not there, and subsamples of other plates.

    Args:
        plate: Name of the plate whose elements have weights of their own.
        ratios: Size of each plate over that of its subsample.

    Raises:
        ValueError: By the plate, with the way out.
    """
    if plate is not None and plate not in ratios:
        found = ", ".join(map(repr, ratios)) or "none"
        raise ValueError(f"no site is in a plate {plate!r}; there are: {found}")
    for name, ratio in ratios.items():
        if ratio != 1 and name != plate:
            raise ValueError(
                f"plate {name!r} takes a subsample, and the weight of a particle is "
                "one for all of its data. Run it in full"
                + (f", or pass plate={name!r}" if plate is None else "")
            )


def check_inside(plate: str, model: Sites, guide: Sites) -> None:
    """Refuse latent sites outside of a plate, but for those that the guide fixes.

    Args:
        plate: Name of the plate whose elements have weights of their own.
        model: Sites of the model by name.
        guide: Sites of the guide by name.

    Raises:
        ValueError: By the site, with the ways out.
    """
    for name, site in {**model, **guide}.items():
        if site["is_observed"] or _frame(site, plate) is not None:
            continue
        if not isinstance(leaf_of(guide[name]["fn"]), Delta):
            raise ValueError(
                f"site {name!r} is latent and outside of plate {plate!r}, whose "
                "elements share it: none has a weight of its own. Pass plate=None for "
                "the bound of the whole program, or fix it by condition or by a Delta "
                "in the guide"
            )
