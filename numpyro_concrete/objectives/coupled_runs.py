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

Counterpart: ``pyro_concrete.objectives.coupled_runs``.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from numpyro.infer.util import get_importance_trace

from concrete_core.objectives.influence import Term, ancestors, independent_plates
from concrete_core.objectives.layers import Layers, sites_in_layers
from concrete_core.objectives.programs import Frame, Programs
from concrete_core.types import Messages, Params
from numpyro_concrete.objectives.elbo_terms import ElboTerms, elbo_terms
from numpyro_concrete.objectives.guide_draws import (
    DrawMessenger,
    DrawnSite,
    KeyMessenger,
    ParticleKeys,
    ParticleNoise,
    Relaxation,
    relaxable_site,
    under_messenger,
)
from numpyro_concrete.objectives.traces import (
    scored_sites,
    validate_discrete_programs,
)
from numpyro_concrete.planning.provenance import provenance_of
from numpyro_concrete.relaxation import relax
from numpyro_concrete.relaxation.site import is_discrete

_ArrayBySite = dict[str, Array]


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

    elbos: dict[str, Array]
    slopes: dict[str, Array]


class CoupledRuns:
    """The discrete run of one particle, and further runs on its noise.

    Args:
        keys: Random keys of the particle.
        params: Parameters of the model and the guide, constrained.
        programs: Discrete model and guide with their arguments.

    Attributes:
        guide_trace: Trace of the discrete guide.
        elbo_terms: Terms of the discrete ELBO.
        draws: The discrete sites of the guide, by name.

    Raises:
        NotImplementedError: At a site of the guide that cannot be drawn from kept
            noise. The message names it.
        ValueError: At a site that is latent in the model or the guide only. The message
            names it.

    Counterpart: :class:`pyro_concrete.objectives.coupled_runs.CoupledRuns`.
    """

    def __init__(self, keys: ParticleKeys, params: Params, programs: Programs) -> None:
        self.params = params
        self.programs = programs
        model_key, guide_key = random.split(keys.particle)
        self.model_noise = ParticleNoise(model_key)
        self.noise = ParticleNoise(guide_key)
        self.subsamples = ParticleNoise(keys.subsamples)
        messenger = DrawMessenger(self.noise, self.subsamples)
        self.model_trace, self.guide_trace = self._run(messenger, programs)
        self.draws = messenger.draws
        validate_discrete_programs(self.model_trace, self.guide_trace)
        _validate_all_drawn(self.guide_trace, self.draws)
        self.elbo_terms = elbo_terms(self.model_trace, self.guide_trace)

    @functools.cached_property
    def layers(self) -> Layers:
        """Names of the discrete sites in layers."""
        return sites_in_layers(self._parents())

    def run_antithetic(self, layer: int) -> AntitheticRun:
        """Run the discrete model and guide with the opposite noise in one layer.

        Args:
            layer: Index in `layers`, >= 0.
        """
        earlier_sites = [name for names in self.layers[:layer] for name in names]
        messenger = DrawMessenger(
            self.noise,
            self.subsamples,
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
        return independent_plates(name, frames, self._terms)

    def run_with_values(self, values: Mapping[str, Array]) -> ElboTerms:
        """Return the terms of the ELBO where the guide draws these values.

        Sites without a value are drawn anew from their unchanged noise, so that those
        that do not depend on a changed value keep theirs.

        Args:
            values: Values of sites of the guide, by name.
        """
        messenger = DrawMessenger(self.noise, self.subsamples, fixed_values=values)
        return elbo_terms(*self._run(messenger, self.programs))

    @functools.cached_property
    def _terms(self) -> list[Term]:
        """The terms of the ELBO, with the discrete sites that they depend on."""
        all_sources = ancestors(self._parents())
        frames_by_term: list[tuple[Frame, ...]] = []

        def log_probs() -> _ArrayBySite:
            messenger = DrawMessenger(self.noise, self.subsamples, find_parents=True)
            frames_by_term.clear()
            terms = {}
            for trace in self._run(messenger, self.programs):
                for site in scored_sites(trace).values():
                    # JAX sorts the entries by their names.
                    terms[f"{len(frames_by_term):09}"] = jnp.asarray(site["log_prob"])
                    frames_by_term.append(tuple(site["cond_indep_stack"]))
            return terms

        sources_by_term = provenance_of(log_probs).values()
        return [
            Term(frames, sources.union(*(all_sources[name] for name in sources)))
            for frames, sources in zip(frames_by_term, sources_by_term, strict=True)
        ]

    def run_relaxed(self, temperatures: Mapping[str, Array | float]) -> RelaxedRun:
        """Run the model and the guide with all discrete sites relaxed.

        Relaxed sites are scored by the discrete log-probabilities, averaged with the
        soft probabilities, so that the ELBO approaches the discrete one as the
        temperature goes to zero.

        The result has a gradient in the temperatures alone. Everything else is constant
        here, however the model and the guide receive it: as parameters, as arguments or
        from a closure.

        Args:
            temperatures: Temperatures by site, > 0.

        Raises:
            ValueError: At a site that is opted out of `relax`. The message names it.
        """
        _validate_no_opt_out(self.model_trace, self.draws)
        _validate_no_opt_out(self.guide_trace, self.draws)
        no_shifts = {
            name: jnp.zeros_like(draw.scores) for name, draw in self.draws.items()
        }
        relaxed = self.programs._replace(
            model=self._relax(self.programs.model),
            guide=self._relax(self.programs.guide),
        )

        def total_and_elbos(
            shifts: _ArrayBySite, temperatures: _ArrayBySite
        ) -> tuple[Array, _ArrayBySite]:
            messenger = DrawMessenger(
                self.noise,
                self.subsamples,
                relaxation=Relaxation(shifts=shifts, temperatures=temperatures),
            )
            terms = elbo_terms(*self._run(messenger, relaxed))
            elbos = {
                name: terms.by_element(draw.frames) for name, draw in self.draws.items()
            }
            return terms.total(), elbos

        def relaxed_run(temperatures: _ArrayBySite) -> RelaxedRun:
            differentiate = jax.grad(total_and_elbos, has_aux=True)
            slopes, elbos = differentiate(no_shifts, temperatures)
            return RelaxedRun(elbos=elbos, slopes=slopes)

        arrays = jax.tree.map(jnp.asarray, dict(temperatures))
        # closure_convert turns all traced values from outside into arguments, which
        # then can be held constant.
        converted, constants = jax.closure_convert(relaxed_run, arrays)
        return converted(arrays, *lax.stop_gradient(constants))

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

    def _parents(self) -> dict[str, Collection[str]]:
        """Return the discrete sites that the logits of each site depend on."""
        if len(self.draws) < 2:
            return {name: () for name in self.draws}

        def logits_by_site() -> _ArrayBySite:
            messenger = DrawMessenger(self.noise, self.subsamples, find_parents=True)
            self._run(messenger, self.programs)
            return {name: draw.logits for name, draw in messenger.draws.items()}

        # JAX sorts the names, and a layer needs the order in which sites are drawn.
        parents = provenance_of(logits_by_site)
        return {name: parents[name] for name in self.draws}

    def _run(
        self, messenger: DrawMessenger, programs: Programs
    ) -> tuple[Messages, Messages]:
        """Return traces of the model and the guide, which draws from the noise."""
        model_messenger = KeyMessenger(self.model_noise, self.subsamples)
        return get_importance_trace(
            under_messenger(model_messenger, programs.model),
            under_messenger(messenger, programs.guide),
            programs.args,
            programs.kwargs,
            dict(self.params),
        )


def _validate_all_drawn(guide_trace: Messages, drawn_sites: Collection[str]) -> None:
    """Raise an error at a discrete site that was not drawn from kept noise."""
    for name, site in scored_sites(guide_trace).items():
        if site["is_observed"] or name in drawn_sites:
            continue
        if is_discrete(site["fn"]) and relaxable_site(site) is not None:
            raise NotImplementedError(
                f"site {name!r} of the guide is drawn or set by another handler, and "
                "this objective needs its noise. RLOO takes any site"
            )


def _validate_no_opt_out(program_trace: Messages, drawn_sites: Collection[str]) -> None:
    """Raise an error at a site that is opted out of `relax`."""
    for name in drawn_sites:
        if program_trace[name]["infer"].get("relax") is False:
            raise ValueError(
                f"site {name!r} is hardened or marked infer={{'relax': False}}, and "
                "REBAR relaxes it for its control variate. Use a guide without harden "
                "and the mark, or RLOO"
            )
