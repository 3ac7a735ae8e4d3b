"""The sites of a relaxed model, their parameters and their factors.

At its first call a guide traces the model for its latent sites (`prototype.py`,
`sites.py`) and gives them parameters (`initialization.py`), of which it makes factors
at every call (`factors.py`).

Counterpart: ``pyro_concrete.guides.abstract``.
"""

from collections.abc import Callable, Hashable
from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.initialization import init_to_uniform
from numpyro.util import not_jax_tracer

from concrete_core.guides import (
    Argument,
    Call,
    Program,
    validate_init_logits,
    validate_init_logits_names,
)
from numpyro_concrete.guides.factors import (
    ConcreteFactor,
    Factor,
    NormalFactor,
)
from numpyro_concrete.guides.initialization import (
    InitLogits,
    initial_logits,
    initial_value,
)
from numpyro_concrete.guides.masks import is_masked
from numpyro_concrete.guides.prototype import ContinuousMessenger
from numpyro_concrete.guides.sites import (
    ConstantSite,
    Frames,
    Message,
    RelaxedSite,
    is_continuous,
    is_latent,
    is_relaxed,
    is_scanned,
)
from numpyro_concrete.relaxation.checks import check_relaxed_names, validate_temperature
from numpyro_concrete.relaxation.handlers import (
    relaxed_in_prediction,
)
from numpyro_concrete.relaxation.messages import relaxed_name
from numpyro_concrete.relaxation.settings import Temperature, setting_for_site
from numpyro_concrete.schedules import WarmupMessenger, current_temperature

_ARRAY_TYPES = (Array, np.ndarray)


class AbstractFactorGuide(AutoNormal):
    """A guide with a factor for each latent site of a relaxed model; no sampling.

    Args:
        model: A relaxed model.
        temperature: Temperature of the factors, > 0, as for `AutoConcrete`.
        learn_temperatures: Whether each element has a temperature of its own.
        init_logits: Where logits start, as for `AutoConcrete`.
        prefix: Part of the names of parameters.
        init_loc_fn: Initial value of continuous sites.
        init_scale: Initial scale of continuous sites, > 0, in unconstrained space.
        create_plates: Function that returns subsampled plates.

    Counterpart: :class:`pyro_concrete.guides.abstract.AbstractFactorGuide`.
    """

    def __init__(
        self,
        model: Program,
        temperature: Temperature | None = None,
        *,
        learn_temperatures: bool = False,
        init_logits: InitLogits = "prior",
        prefix: str = "auto",
        init_loc_fn: Callable = init_to_uniform,
        init_scale: float = 0.1,
        create_plates: Callable | None = None,
    ) -> None:
        validate_init_logits(init_logits)
        self.temperature = (
            None if temperature is None else validate_temperature(temperature)
        )
        self.learn_temperatures = learn_temperatures
        self.init_logits = init_logits
        self._full_model = model
        super().__init__(
            ContinuousMessenger(model),
            prefix=prefix,
            init_loc_fn=initial_value(
                init_loc_fn=init_loc_fn,
                includes_relaxed=init_logits == "init_loc_fn",
            ),
            init_scale=init_scale,
            create_plates=create_plates,
        )
        self._relaxed_sites: dict[str, RelaxedSite] = {}
        self._constant_sites: dict[str, ConstantSite] = {}
        self._initial_logits: dict[str, Array] = {}
        self._has_masked_sites = False
        self._searched_signatures: set[Hashable] = set()
        self._prototype_call = Call()

    # --- the first call: sites, and where their parameters start

    @relaxed_in_prediction
    def _setup_prototype(self, *args: Argument, **kwargs: Argument) -> None:
        super()._setup_prototype(*args, **kwargs)
        call = Call(args, kwargs)
        if all(not_jax_tracer(x) for x in jax.tree.leaves((args, kwargs))):
            self._prototype_call = call
        self._searched_signatures.add(call.signature(_ARRAY_TYPES))
        latent_sites = self._latent_prototype_sites()
        self._has_masked_sites = any(is_masked(site) for site in latent_sites.values())
        self._constant_sites = self.model.constant_sites
        self._relaxed_sites = {
            name: RelaxedSite.from_message(site)
            for name, site in latent_sites.items()
            if is_relaxed(site)
        }
        relaxed_names = [site.name for site in self._relaxed_sites.values()]
        validate_init_logits_names(self.init_logits, relaxed_names)
        check_relaxed_names("temperature", self.temperature, relaxed_names)
        self._initial_logits = {
            name: initial_logits(
                site, self.init_logits, self._prototype_frame_full_sizes
            )
            for name, site in self._relaxed_sites.items()
        }
        self._take_relaxed_sites_from_normals()
        for site in (*self._constant_sites.values(), *self._relaxed_sites.values()):
            for frame in site.plates:
                self._prototype_frames[frame.name] = frame

    def _latent_prototype_sites(self) -> dict[str, Message]:
        trace = self.prototype_trace or {}
        return {name: site for name, site in trace.items() if is_latent(site)}

    def _take_relaxed_sites_from_normals(self) -> None:
        """Drop the relaxed sites from what `AutoNormal` samples."""
        assert self.prototype_trace is not None
        for name in self._relaxed_sites:
            del self.prototype_trace[name]
            self._init_locs.pop(name, None)
            self._event_dims.pop(name, None)

    # --- factors

    def _continuous_sites(self) -> dict[str, Message]:
        trace = self.prototype_trace or {}
        return {name: site for name, site in trace.items() if is_continuous(site)}

    def _scanned_names(self) -> list[str]:
        """Names of the sites with an element for each step of a scan."""
        continuous_sites = self._continuous_sites().items()
        relaxed_sites = self._relaxed_sites.items()
        names = [name for name, site in continuous_sites if is_scanned(site)]
        return names + [name for name, site in relaxed_sites if site.is_scanned]

    def _factors(self) -> dict[str, Factor]:
        """The factors at the current parameters, by name."""
        factors: dict[str, Factor] = {}
        for name, site in self._continuous_sites().items():
            with self._enter_plates(site["cond_indep_stack"]):
                factors[name] = self._normal_factor(name)
        for name, site in self._relaxed_sites.items():
            with self._enter_plates(site.plates):
                factors[name] = self._concrete_factor(site, self._logits_of(name))
        return factors

    def _normal_factor(self, name: str) -> NormalFactor:
        """The factor of a continuous site, with the parameters of `AutoNormal`."""
        initial_loc = self._init_locs[name]
        event_dim = self._event_dims[name]
        scale = numpyro.param(
            f"{name}_{self.prefix}_scale",
            jnp.full(jnp.shape(initial_loc), self._init_scale),
            constraint=self.scale_constraint,
            event_dim=event_dim,
        )
        loc = numpyro.param(
            f"{name}_{self.prefix}_loc", initial_loc, event_dim=event_dim
        )
        return NormalFactor(jnp.asarray(loc), jnp.asarray(scale))

    def _concrete_factor(self, site: RelaxedSite, logits: Array) -> ConcreteFactor:
        if self.learn_temperatures:
            temperature = self._learned_temperature_of(site)
        else:
            temperature = self._temperature_of(site)
        return ConcreteFactor(site.leaf, temperature, logits)

    def _learned_temperature_of(self, site: RelaxedSite) -> ArrayLike:
        """The parameter with the temperature of each element of a site's factor."""
        logits = self._initial_logits[relaxed_name(site.name)]
        shape = logits.shape[: logits.ndim - site.leaf._class_dims]
        with WarmupMessenger(None):  # whatever objective is the first to call
            start = self._temperature_of(site)
        temperature = numpyro.param(
            f"{site.name}_{self.prefix}_temperature",
            jnp.broadcast_to(start, shape),
            constraint=constraints.positive,
            event_dim=site.num_event_batch_dims,
        )
        return jnp.asarray(temperature)

    def _temperature_of(self, site: RelaxedSite) -> ArrayLike:
        """The temperature of a site's factor, which broadcasts with its logits."""
        temperature = setting_for_site(self.temperature, site.name)
        if temperature is None:
            temperature = site.temperature
        if temperature is None:
            return site.leaf.temperature
        temperature = current_temperature(temperature)
        if jnp.ndim(temperature):
            event_axes = tuple(range(-site.num_event_batch_dims, 0))
            return jnp.expand_dims(temperature, event_axes)
        return temperature

    def _logits_of(self, name: str) -> Array:
        """The parameter of a relaxed site, by its name in the guide's trace."""
        site = self._relaxed_sites[name]
        logits = numpyro.param(
            self._param_name(site),
            self._initial_logits[name],
            event_dim=site.fn.event_dim,
        )
        return jnp.asarray(logits)

    def _param_name(self, site: RelaxedSite) -> str:
        return f"{site.name}_{self.prefix}_logits"

    def _create_plates(
        self, *args: Argument, **kwargs: Argument
    ) -> dict[str, numpyro.plate]:
        self.plates = super()._create_plates(*args, **kwargs)
        return self.plates

    def _enter_plates(self, frames: Frames) -> ExitStack:
        stack = ExitStack()
        for frame in frames:
            stack.enter_context(self.plates[frame.name])
        return stack
