"""The runs of one particle: the discrete one, and others on the same noise.

The discrete run draws the guide's discrete sites from noise that is kept, and has the
terms of the discrete ELBO. Further runs reuse the noise:

- The *relaxed run* relaxes all discrete sites at once. Its ELBO is correlated with that
  of the discrete run and is the control variate of REBAR.
- An *antithetic run* flips the noise of some sites, for DisARM. Flipping the noise of a
  site changes the logits of the sites that depend on its value. So the sites are in
  layers, each after the layers that it depends on. The run for one layer keeps the
  values of the earlier layers, flips the noise of its own layer, and draws the later
  layers anew from their unchanged noise.
- A *run with values* sets sites to other values, for local expectations, and draws the
  sites that depend on them anew from their unchanged noise.

Counterpart: ``numpyro_concrete.objectives.coupled_runs``.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from typing import NamedTuple

import pyro
import torch
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from torch import Tensor

from concrete_core.objectives.influence import Term, independent_plates
from concrete_core.objectives.layers import sites_in_layers
from concrete_core.objectives.programs import Frame, Programs
from concrete_core.types import Message
from pyro_concrete.objectives.elbo_terms import ElboTerms, elbo_terms
from pyro_concrete.objectives.guide_draws import (
    DrawMessenger,
    DrawnSite,
    ParticleNoise,
    Relaxation,
    SubsampleMessenger,
    relaxable_site,
)
from pyro_concrete.objectives.traces import (
    all_sites,
    latent_values,
    scored_sites,
    validate_discrete_programs,
)
from pyro_concrete.planning.provenance import Names, Provenance
from pyro_concrete.relaxation import relax
from pyro_concrete.relaxation.site import is_discrete


class AntitheticRun(NamedTuple):
    """A discrete run with the opposite noise in one layer of sites.

    Attributes:
        elbo_terms: Terms of its ELBO.
        draws: The discrete sites of the guide from that layer on, by name.
    """

    elbo_terms: ElboTerms
    draws: dict[str, DrawnSite]


class RelaxedRun(NamedTuple):
    """A run in which all discrete sites of the guide are relaxed.

    Attributes:
        elbos: For each site, the ELBO of each element of its plates.
        slopes: For each site, the derivative of the ELBO in the noise, which is that in
            the scores.
    """

    elbos: dict[str, Tensor]
    slopes: dict[str, Tensor]


class CoupledRuns:
    """The discrete run of one particle, and further runs on its noise.

    Args:
        programs: Discrete model and guide with their arguments.
        max_plate_nesting: As in Pyro's ELBOs.
        subsamples: Subsamples of plates, which all particles share.
        find_layers: Whether to find the layers of sites.
        find_influence: Whether to find what each discrete site influences. Every
            operation of the run is recorded then.

    Attributes:
        guide_trace: Trace of the discrete guide.
        elbo_terms: Terms of the discrete ELBO.
        draws: The discrete sites of the guide, by name.
        layers: Names of the discrete sites in layers, if they were looked for.

    Raises:
        NotImplementedError: At a site of the guide that cannot be drawn from kept
            noise. The message names it.
        ValueError: At a site that is latent in the model or the guide only. The message
            names it.

    Counterpart: :class:`numpyro_concrete.objectives.coupled_runs.CoupledRuns`.
    """

    def __init__(
        self,
        programs: Programs,
        *,
        max_plate_nesting: int | float,
        subsamples: SubsampleMessenger,
        find_layers: bool,
        find_influence: bool = False,
    ) -> None:
        self.programs = programs
        self.max_plate_nesting = max_plate_nesting
        self.subsamples = subsamples
        self.noise = ParticleNoise()
        provenance = Provenance() if find_influence else None
        messenger = DrawMessenger(
            self.noise, find_parents=find_layers, provenance=provenance
        )
        with provenance or nullcontext():
            self.model_trace, self.guide_trace = self._run(messenger, programs)
        self._provenance = provenance
        self.draws = messenger.draws
        validate_discrete_programs(self.model_trace, self.guide_trace)
        _validate_all_drawn(self.guide_trace, self.draws)
        self.elbo_terms = elbo_terms(self.model_trace, self.guide_trace)
        self.layers = sites_in_layers(messenger.parents)

    def run_antithetic(self, layer: int) -> AntitheticRun:
        """Run the discrete model and guide with the opposite noise in one layer.

        Args:
            layer: Index in `layers`, >= 0.
        """
        earlier_sites = [name for names in self.layers[:layer] for name in names]
        messenger = DrawMessenger(
            self.noise,
            fixed_values={name: self.draws[name].value for name in earlier_sites},
            antithetic_sites=self.layers[layer],
        )
        model_trace, guide_trace = self._run(messenger, self.programs)
        return AntitheticRun(elbo_terms(model_trace, guide_trace), messenger.draws)

    def independent_plates(self, name: str) -> tuple[Frame, ...]:
        """Return the plates whose elements of a discrete site share no term."""
        frames = self.draws[name].frames
        if not frames:
            return ()
        terms = [
            Term(
                frames=tuple(site["cond_indep_stack"]),
                sources=self._sources(site["log_prob"]),
            )
            for site in self._scored_sites()
        ]
        return independent_plates(name, frames, terms)

    def values_without_influence_of(self, name: str) -> dict[str, Tensor]:
        """Return the values of the guide that do not depend on a discrete site."""
        values = latent_values(scored_sites(self.guide_trace))
        return {
            site: value.detach()
            for site, value in values.items()
            if name not in self._sources(value)
        }

    def run_with_values(
        self, values: Mapping[str, Tensor], plate: pyro.plate | None = None
    ) -> ElboTerms:
        """Return the terms of the ELBO where the guide draws these values.

        Sites without a value are drawn anew from their unchanged noise. The terms have
        no gradient.

        Args:
            values: Values of sites of the guide, by name.
            plate: Plate around the model and the guide, or None.
        """
        programs = self.programs
        max_plate_nesting = self.max_plate_nesting
        if plate is not None:
            max_plate_nesting += 1
            programs = programs._replace(
                model=plate(programs.model), guide=plate(programs.guide)
            )
        messenger = DrawMessenger(self.noise, fixed_values=values)
        with torch.no_grad():
            return elbo_terms(*self._run(messenger, programs, max_plate_nesting))

    @property
    def num_batch_dims(self) -> int:
        """Largest number of batch dims of a site."""
        num_dims = (site["log_prob"].dim() for site in self._scored_sites())
        return max(num_dims, default=0)

    def _scored_sites(self) -> list[Message]:
        """Return the sites of the model and of the guide."""
        return [
            site
            for trace in (self.model_trace, self.guide_trace)
            for site in scored_sites(trace).values()
        ]

    def _sources(self, tensor: Tensor) -> Names:
        """Return the discrete sites of the guide that a tensor depends on.

        Values that were read as numbers of Python may influence anything.
        """
        assert self._provenance is not None
        return self._provenance.of(tensor) | frozenset(self._provenance.read)

    def run_relaxed(
        self, temperature: Callable[[str], Tensor | float], *, keep_graph: bool
    ) -> RelaxedRun:
        """Run the model and the guide with all discrete sites relaxed.

        Relaxed sites are scored by the discrete log-probabilities, averaged with the
        soft probabilities, so that the ELBO approaches the discrete one as the
        temperature goes to zero.

        Args:
            temperature: Returns the temperature of a site by its name, > 0.
            keep_graph: Whether to keep the graph of the slopes, to differentiate them
                in the temperatures.

        Raises:
            ValueError: At a site that is opted out of `relax`. The message names it.
        """
        _validate_no_opt_out(self.model_trace, self.draws)
        _validate_no_opt_out(self.guide_trace, self.draws)
        noise = {name: self.noise[name].requires_grad_() for name in self.draws}
        messenger = DrawMessenger(
            self.noise, relaxation=Relaxation(noise=noise, temperature=temperature)
        )
        relaxed = self.programs._replace(
            model=self._relax(self.programs.model),
            guide=self._relax(self.programs.guide),
        )
        with torch.enable_grad():
            terms = elbo_terms(*self._run(messenger, relaxed))
            slopes = torch.autograd.grad(
                terms.total(),
                list(noise.values()),
                create_graph=keep_graph,
                materialize_grads=True,
            )
        elbos = {
            name: terms.by_element(draw.frames) for name, draw in self.draws.items()
        }
        return RelaxedRun(elbos=elbos, slopes=dict(zip(noise, slopes, strict=True)))

    def _relax(self, program: Callable) -> Callable:
        """Return the program with the drawn sites relaxed, whatever their settings.

        The temperature is not used, as `DrawMessenger` sets the relaxed values.
        """
        return relax(
            program,
            temperature=1.0,
            sites=lambda msg: msg["name"] in self.draws,
            scoring="discrete",
        )

    def _run(
        self,
        messenger: DrawMessenger,
        programs: Programs,
        max_plate_nesting: int | float | None = None,
    ) -> tuple[Trace, Trace]:
        """Return traces of the model and the guide, which draws from the noise."""
        if max_plate_nesting is None:
            max_plate_nesting = self.max_plate_nesting

        def drawn_guide(*args: object, **kwargs: object) -> object:
            with messenger:
                return programs.guide(*args, **kwargs)

        with self.subsamples:
            return get_importance_trace(
                "flat",
                max_plate_nesting,
                programs.model,
                drawn_guide,
                programs.args,
                programs.kwargs,
            )


def _validate_all_drawn(guide_trace: Trace, drawn_sites: Collection[str]) -> None:
    """Raise an error at a discrete site that was not drawn from kept noise."""
    for name, site in scored_sites(guide_trace).items():
        if site["is_observed"] or name in drawn_sites:
            continue
        if is_discrete(site["fn"]) and relaxable_site(site) is not None:
            raise NotImplementedError(
                f"site {name!r} of the guide is drawn or set by another handler, and "
                "this objective needs its noise. RLOO takes any site"
            )


def _validate_no_opt_out(program_trace: Trace, drawn_sites: Collection[str]) -> None:
    """Raise an error at a site that is opted out of `relax`."""
    for name in drawn_sites:
        if all_sites(program_trace)[name]["infer"].get("relax") is False:
            raise ValueError(
                f"site {name!r} is hardened or marked infer={{'relax': False}}, and "
                "REBAR relaxes it for its control variate. Use a guide without harden "
                "and the mark, or RLOO"
            )
