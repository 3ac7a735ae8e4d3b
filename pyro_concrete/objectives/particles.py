"""Draws of a guide as weighted particles of a model, a chunk of them at a time.

The log-weight of a particle z is log p(x, z) - log q(z), of the whole program or of
each element of a plate. Programs for which this would be another number than the one
asked for are refused, by the site or plate.

Counterpart: ``numpyro_concrete.objectives.particles``.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.distributions import Delta
from pyro.poutine import Trace, replay, trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor
from tqdm import tqdm

from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.relaxation.site import SUFFIX, leaf_of

Sites = dict[str, dict[str, Any]]

# As Pyro's own ELBOs name it.
_PARTICLES = "num_particles_vectorized"


class Summary(NamedTuple):
    """What is kept of all particles, in nats.

    Attributes:
        bounds: Log of the mean weight, for each element of the plate: (elements,).
        scale: What their sum is multiplied by: the size of the plate over that of its
            subsample.
        rest: Log-probability of the sites outside of the plate, all known: ().
        totals: Log-weight of each particle, whose mean is the ELBO: (particles,).
    """

    bounds: Tensor
    scale: float
    rest: Tensor
    totals: Tensor

    @property
    def bound(self) -> Tensor:
        """The bound of the whole: that of the elements, and of what is outside."""
        return self.scale * self.bounds.sum() + self.rest


class _Known(Messenger):
    """Gives sites their values; unlike `replay`, it stands for no guide."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and msg["value"] is None:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True


class _Subsamples(Messenger):
    """Gives each plate one subsample in all of its runs.

    NumPy draws it, as a draw inside of `torch.vmap` would be another one for each
    particle.
    """

    def __init__(self, subsamples: dict[str, Tensor]) -> None:
        super().__init__()
        self.subsamples = subsamples
        self._seed = int(torch.randint(2**62, (), device="cpu"))

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg) or msg["value"] is not None:
            return
        name, fn = msg["name"], msg["fn"]
        if name not in self.subsamples:
            size = fn.size if fn.subsample_size is None else fn.subsample_size
            if size >= fn.size:
                return
            generator = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
            indices = generator.choice(fn.size, size, replace=False)
            self.subsamples[name] = torch.as_tensor(indices, device=fn.device)
        msg["value"] = self.subsamples[name]


class Particles:
    """A model and its guide, whose structure is known, to be run in chunks.

    Args:
        model: Model.
        guide: Its guide.
        args: Arguments of both.
        kwargs: Keyword arguments of both.
        plate: Name of the plate whose elements have weights of their own.
        vectorize: Whether a chunk is mapped by `vmap`, or run one by one.
        validate: Whether to run both programs once for their structure. Otherwise
            call `learn` with the traces of a particle before their weights are taken.
        like: Particles whose subsamples of plates are to be used.

    Raises:
        ValueError: If log-weights would not be those of the model, in words.

    Counterpart: :class:`numpyro_concrete.objectives.particles.Particles`.
    """

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        plate: str | None = None,
        vectorize: bool = True,
        validate: bool = True,
        like: "Particles | None" = None,
    ) -> None:
        self.model, self.guide = model, guide
        self.args, self.kwargs = args, kwargs
        self.plate, self.vectorize = plate, vectorize
        self.subsamples: dict[str, Tensor] = {} if like is None else like.subsamples
        self.scale = 1.0
        # Number of dims that plates take; a plate of particles goes to their left.
        self.nesting = 0
        self._broadcasts: bool | None = None
        self._known: Messenger = _Known(self.subsamples)
        if validate:
            self._look()
        else:
            self._known = _Subsamples(self.subsamples)

    def _look(self) -> None:
        """Run both programs once for their structure, and for the subsamples."""
        state = get_rng_state()
        guide = self._traced(self.guide)
        model = self._traced(_Known(_latent(_scored(guide)))(self.model))
        nodes: Any = {**guide.nodes, **model.nodes}
        for name, site in nodes.items():
            if site_is_subsample(site):
                self.subsamples[name] = site["value"]
        self.learn(model, guide)
        if self.scale == 1:
            set_rng_state(state)  # to look changes no draw

    def learn(self, model_trace: Trace, guide_trace: Trace) -> None:
        """Refuse what has no such weights, and note the scale of the plate."""
        model, guide = _scored(model_trace), _scored(guide_trace)
        sites = [*model.values(), *guide.values()]
        frames = {f.name: f for site in sites for f in site["cond_indep_stack"]}
        check_match(model, guide)
        check_plates(self.plate, {name: _ratio(f) for name, f in frames.items()})
        dims = [-frame.dim for frame in frames.values() if frame.dim is not None]
        if _PARTICLES not in frames:
            self.nesting = max(dims, default=0)
        if self.plate is not None:
            check_inside(self.plate, model, guide)
            _check_vectorized(frames[self.plate])
            self.scale = _ratio(frames[self.plate])

    def _traced(self, fn: Callable) -> Trace:
        return trace(self._known(fn)).get_trace(*self.args, **self.kwargs)

    def run(self, size: int | None = None) -> tuple[Trace, Trace]:
        """Run the guide, and the model on its draws.

        Args:
            size: Number of particles that run at once in a plate around the programs,
                which have to broadcast over them; by default one, without the plate.
        """
        model, guide = self.model, self.guide
        if size is not None:
            settings: Any = {"size": size, "dim": -self.nesting - 1}
            model = pyro.plate(_PARTICLES, **settings)(model)
            guide = pyro.plate(_PARTICLES, **settings)(guide)
        guide_trace = self._traced(guide)
        model_trace = self._traced(replay(model, trace=guide_trace))
        model_trace, guide_trace = _with_log_probs(model_trace, guide_trace)
        return model_trace, guide_trace

    def broadcasts(self, size: int) -> bool:
        """Whether programs in a plate of particles give the weights of single runs."""
        try:
            traces = self.run(size)
            together = self.weights(*traces)
            for particle in (0, size - 1):
                values = _values_of(traces[1], particle, -self.nesting - 1)
                guide = self._traced(_Known(values)(self.guide))
                model = self._traced(_Known(values)(self.model))
                alone = self.weights(*_with_log_probs(model, guide))
                for many, one in zip(together, alone, strict=True):
                    # What no draw has an influence on has no dim of the particles.
                    same = many[particle] if many.ndim > one.ndim else many
                    if not _agree(same, one):
                        return False
        except Exception:
            return False  # with one particle they run
        return True

    def map(self, fn: Callable, size: int) -> tuple[Tensor, ...]:
        """Call a function that gives tensors of one particle, for those of a chunk."""
        if not self.vectorize:
            each = [fn() for _ in range(size)]
            return tuple(torch.stack(x) for x in zip(*each, strict=True))
        together = torch.vmap(lambda _: fn(), randomness="different")
        try:
            # Validation reads values. The first look has validated one particle.
            with pyro.validation_enabled(False):
                return together(torch.empty(size))
        except Exception as error:
            raise ValueError(
                f"one particle runs, but torch.vmap over {size} does not: {error}\n"
                "Pass vectorize_particles=False to run the particles one by one"
            ) from error

    def weigh(self) -> tuple[Tensor, Tensor]:
        """Draw a particle and weigh it.

        Returns:
            Log-weights of the elements of the plate, or of one that is the whole
            program: (elements,); log-probability of what is outside: ().
        """
        return self.weights(*self.run())

    def weigh_many(self, size: int) -> tuple[Tensor, Tensor]:
        """Draw particles and weigh them, at once if they are vectorized.

        In a plate of particles if the programs broadcast over it, as most do, and by
        `torch.vmap` otherwise, which is slower and cannot draw from normal sites.

        Returns:
            As `weigh`, with the particles first: (particles, elements), (particles,).
        """
        if self._broadcasts is None:
            state = get_rng_state()
            self._broadcasts = self.vectorize and size > 1 and self.broadcasts(size)
            set_rng_state(state)  # to look changes no draw
        if not self._broadcasts:
            elements, rest = self.map(self.weigh, size)
            return elements, rest
        inside, outside = self.weights(*self.run(size))
        return inside, outside.expand(size)

    def weights(self, model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor]:
        """Return the log-weights of a particle that was run, as `weigh` does."""
        inside, outside = torch.zeros(()), torch.zeros(())  # on any device
        for sign, found in ((1, model_trace), (-1, guide_trace)):
            for site in _scored(found).values():
                term = self.by_element(site["log_prob"], site)
                if self.plate is None or _frame(site, self.plate) is not None:
                    inside = inside + sign * term / self.scale
                else:
                    outside = outside + sign * term.sum(-1)
        return torch.atleast_1d(inside), outside.to(inside)

    def by_element(self, term: Tensor, site: dict[str, Any]) -> Tensor:
        """Sum a term of a site over all dims but those of the particles and the plate.

        Shapes:
            result: (elements,), or of a plate of particles (particles, elements). A
                site outside of the plate has one element.
        """
        element, particle = _frame(site, self.plate), _frame(site, _PARTICLES)
        term = term[..., None] if element is None else term.movedim(element.dim, -1)
        if particle is None:
            return term.reshape(-1, term.shape[-1]).sum(0)
        # The plate of particles is the outermost.
        return term.reshape(term.shape[0], -1, term.shape[-1]).sum(1)


def summary(
    particles: Particles, num_particles: int, chunk_size: int, progress_bar: bool
) -> Summary:
    """Draw particles in chunks, of which only the running sums stay in memory."""
    _, size = chunks(num_particles, chunk_size)
    totals: Any = None
    bounds = rest = totals
    with (
        torch.no_grad(),
        tqdm(total=num_particles, unit="particle", disable=not progress_bar) as bar,
    ):
        for start in range(0, num_particles, size):
            length = min(size, num_particles - start)
            elements, outside = particles.weigh_many(length)
            if totals is None:
                # In one piece: small ones between chunks would scatter the memory.
                totals = outside.new_empty(num_particles)
                bounds = torch.full_like(elements[0], -torch.inf)
                rest = outside[0].clone()
            common_value(torch.cat([rest[None], outside]), particles.plate)
            torch.logaddexp(bounds, elements.logsumexp(0), out=bounds)
            totals[start : start + length] = particles.scale * elements.sum(-1) + rest
            bar.update(length)
    bounds = bounds - math.log(num_particles)
    return Summary(bounds, particles.scale, rest, totals)


def common_value(rest: Tensor, plate: str | None) -> Tensor:
    """Return what is outside of the plate, if it is the same for every particle."""
    if not torch.allclose(rest.detach(), rest[0].detach()):
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


def _with_log_probs(*traces: Trace) -> tuple[Trace, ...]:
    """The traces without subsamples of plates, with log-probabilities."""
    pruned = tuple(prune_subsample_sites(found) for found in traces)
    for found in pruned:
        found.compute_log_prob()
    return pruned


def _values_of(guide_trace: Trace, particle: int, dim: int) -> dict[str, Tensor]:
    """The values that a guide drew for one of a plate of particles."""
    nodes: Any = guide_trace.nodes
    return {
        name: value.select(dim - nodes[name]["fn"].event_dim, particle)
        for name, value in _latent(_scored(guide_trace)).items()
    }


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether two log-weights are equal but for rounding."""
    tolerance = torch.finfo(other.dtype).eps ** 0.5
    limit = tolerance * other.abs().max().clamp_min(1)
    return one.shape == other.shape and bool((one - other).abs().max() <= limit)


def _scored(found: Trace) -> Sites:
    """The sites of a program that have a probability; others are not random."""
    nodes: Any = found.nodes
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample"
        and not site_is_subsample(site)
        and not site["infer"].get("_deterministic")
    }


def _latent(sites: Sites) -> dict[str, Tensor]:
    """The values of the sites that are drawn."""
    return {n: site["value"] for n, site in sites.items() if not site["is_observed"]}


def _frame(site: dict[str, Any], plate: str | None) -> Any:
    """A site's place in a plate, or None if it is not inside."""
    return next((f for f in site["cond_indep_stack"] if f.name == plate), None)


def _ratio(frame: Any) -> float:
    """Size of a plate over that of its subsample."""
    return (frame.full_size or frame.size) / frame.size


def _check_vectorized(frame: Any) -> None:
    if frame.dim is None:
        raise ValueError(
            f"plate {frame.name!r} is a loop, whose elements have no axis. Write it as "
            f"`with pyro.plate({frame.name!r}, ...)`"
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
