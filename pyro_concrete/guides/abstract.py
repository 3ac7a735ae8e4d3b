"""The sites of a relaxed model, their parameters and their factors.

At its first call a guide traces the model for its latent sites (`prototype.py`,
`sites.py`) and gives them parameters (`initialization.py`), of which it makes factors
at every call (`factors.py`).

Counterpart: ``numpyro_concrete.guides.abstract``.
"""

from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from operator import attrgetter
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal, init_to_feasible
from pyro.infer.autoguide.utils import deep_setattr
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.nn import Parameter

from concrete_core.guides import (
    Argument,
    Call,
    Program,
    validate_init_logits,
    validate_init_logits_names,
)
from pyro_concrete.distributions import as_temperature
from pyro_concrete.guides.factors import (
    ConcreteFactor,
    Factor,
    NormalFactor,
)
from pyro_concrete.guides.initialization import (
    InitLogits,
    central_point,
    initial_logits,
    validate_soft_samples,
)
from pyro_concrete.guides.masks import is_masked
from pyro_concrete.guides.prototype import SequentialPlateMessenger
from pyro_concrete.guides.sites import (
    ConstantSite,
    Frames,
    Message,
    RelaxedSite,
    is_constant,
    is_continuous,
    is_latent,
    is_relaxed,
    validate_bijection,
    validate_discrete_sites,
)
from pyro_concrete.internals import mark_uninitialized
from pyro_concrete.relaxation.checks import check_relaxed_names, validate_temperature
from pyro_concrete.relaxation.handlers import (
    relaxed_in_prediction,
)
from pyro_concrete.relaxation.settings import Temperature, setting_for_site
from pyro_concrete.relaxation.site import is_discrete
from pyro_concrete.schedules import WarmupMessenger, current_temperature


class AbstractFactorGuide(AutoNormal):
    """A guide with a factor for each latent site of a relaxed model; no sampling.

    Args:
        model: A relaxed model.
        temperature: Temperature of the factors, > 0, as for `AutoConcrete`.
        learn_temperatures: Whether each element has a temperature of its own.
        init_logits: Where logits start, as for `AutoConcrete`.
        init_loc_fn: Initial value of continuous sites.
        init_scale: Initial scale of continuous sites, > 0, in unconstrained space.
        create_plates: Function that returns subsampled plates.

    Counterpart: :class:`numpyro_concrete.guides.abstract.AbstractFactorGuide`.
    """

    def __init__(
        self,
        model: Program,
        temperature: Temperature | None = None,
        *,
        learn_temperatures: bool = False,
        init_logits: InitLogits = "prior",
        init_loc_fn: Callable = init_to_feasible,
        init_scale: float = 0.1,
        create_plates: Callable | None = None,
    ) -> None:
        validate_init_logits(init_logits)
        self.init_logits = init_logits
        self._user_init_loc_fn = init_loc_fn
        visible_model = SequentialPlateMessenger()(model)
        super().__init__(
            visible_model,
            init_loc_fn=self._initial_value,
            init_scale=init_scale,
            create_plates=create_plates,
        )
        # In a tuple, as Pyro keeps its own: a module would be registered as a part.
        self._visible_model: tuple[Program] | None = (visible_model,)
        self.temperature = self._register_temperature(temperature)
        self.learn_temperatures = learn_temperatures
        self._relaxed_sites: dict[str, RelaxedSite] = {}
        self._constant_sites: dict[str, ConstantSite] = {}
        self._has_masked_sites = False
        self._searched_signatures: set[Hashable] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model behind, as Pyro's guides do."""
        state = super().__getstate__()
        return {**state, "_visible_model": None}

    def _register_temperature(
        self, temperature: Temperature | None
    ) -> Temperature | None:
        """Make parameters of a temperature by site parameters of the guide."""
        if temperature is None:
            return None
        temperature = validate_temperature(temperature)
        if not isinstance(temperature, Mapping):
            return temperature
        self.temperatures = PyroModule()
        for name, value in temperature.items():
            if isinstance(value, Parameter):
                deep_setattr(self.temperatures, name, value)
        return temperature

    # --- the first call: sites and parameters

    @staticmethod
    def _prototype_hide_fn(msg: Message) -> bool:
        return not is_continuous(msg)

    def _initial_value(self, site: Message) -> Tensor:
        """The value of a latent site in the prototype trace."""
        if is_discrete(site["fn"]):
            value = site["fn"].sample()
            # Pyro's mark of values that nobody chose: ConcreteReparam may ignore it.
            mark_uninitialized(value)
            return value
        if is_relaxed(site):
            if self.init_logits != "init_loc_fn":
                return central_point(site)
            validate_soft_samples(site)
            return self._user_init_loc_fn(site)
        validate_bijection(site)
        return self._user_init_loc_fn(site)

    @relaxed_in_prediction
    def _setup_prototype(self, *args: Argument, **kwargs: Argument) -> None:
        super()._setup_prototype(*args, **kwargs)
        call = Call(args, kwargs)
        latent_sites = self._trace_latent_sites(call)
        validate_discrete_sites(latent_sites)
        self._relaxed_sites = {
            name: RelaxedSite.from_message(site)
            for name, site in latent_sites.items()
            if is_relaxed(site)
        }
        self._constant_sites = {
            name: ConstantSite.from_message(site)
            for name, site in latent_sites.items()
            if is_constant(site)
        }
        relaxed_names = [site.name for site in self._relaxed_sites.values()]
        validate_init_logits_names(self.init_logits, relaxed_names)
        check_relaxed_names("temperature", self.temperature, relaxed_names)
        factor_names = self._continuous_sites().keys() | self._relaxed_sites.keys()
        self._has_masked_sites = any(is_masked(latent_sites[n]) for n in factor_names)
        self._searched_signatures.add(call.signature(Tensor))
        self._create_logits()
        if self.learn_temperatures:
            self._create_temperatures()

    def _trace_latent_sites(self, call: Call) -> dict[str, Message]:
        """The latent sites of the model by name, those that Pyro's guides lack too."""
        latent_model = poutine.block(self.model, lambda msg: not is_latent(msg))
        with poutine.block(), torch.no_grad():
            trace = call.apply(poutine.trace(latent_model).get_trace)
        return {name: site for name, site in trace.nodes.items() if is_latent(site)}

    def _create_logits(self) -> None:
        self.logits = PyroModule()
        for site in self._relaxed_sites.values():
            for frame in site.plates:
                self._prototype_frames[frame.name] = frame
            logits = initial_logits(site, self.init_logits)
            parameter = PyroParam(logits, constraints.real, site.fn.event_dim)
            deep_setattr(self.logits, site.name, parameter)

    def _create_temperatures(self) -> None:
        """Make a parameter of the temperature of each element, at its present value."""
        with WarmupMessenger(None):  # whatever objective is the first to call
            initial = {
                site.name: torch.as_tensor(self._temperature_of(site))
                for site in self._relaxed_sites.values()
            }
        self.learned_temperatures = PyroModule()
        for site in self._relaxed_sites.values():
            logits = self._logits_of(site).detach()
            element = logits[..., 0] if site.leaf._class_dims else logits
            start = initial[site.name].detach() + torch.zeros_like(element)
            constraint, event_dim = constraints.positive, site.num_event_batch_dims
            parameter = PyroParam(start, constraint, event_dim)
            deep_setattr(self.learned_temperatures, site.name, parameter)

    # --- factors

    def _continuous_sites(self) -> dict[str, Message]:
        assert self.prototype_trace is not None
        return dict(self.prototype_trace.iter_stochastic_nodes())

    def _factors(self) -> dict[str, Factor]:
        """The factors at the current parameters, by name."""
        factors: dict[str, Factor] = {}
        for name, site in self._continuous_sites().items():
            with self._enter_plates(site["cond_indep_stack"]):
                factors[name] = NormalFactor(*self._get_loc_and_scale(name))
        for name, site in self._relaxed_sites.items():
            with self._enter_plates(site.plates):
                factors[name] = self._concrete_factor(site)
        return factors

    def _concrete_factor(self, site: RelaxedSite) -> ConcreteFactor:
        if self.learn_temperatures:
            temperature = attrgetter(site.name)(self.learned_temperatures)
        else:
            temperature = self._temperature_of(site)
        return ConcreteFactor(site.leaf, temperature, self._logits_of(site))

    def _logits_of(self, site: RelaxedSite) -> Tensor:
        return attrgetter(site.name)(self.logits)

    def _temperature_of(self, site: RelaxedSite) -> Tensor | float:
        """The temperature of a site's factor, which broadcasts with its logits."""
        temperature = setting_for_site(self.temperature, site.name)
        if isinstance(self.temperature, Mapping) and isinstance(temperature, Parameter):
            # That of the module, which may be a copy of the one in the mapping.
            temperature = attrgetter(site.name)(self.temperatures)
        if temperature is None:
            temperature = site.temperature
        if temperature is None:
            return site.leaf._original_temperature
        temperature = as_temperature(current_temperature(temperature))
        if isinstance(temperature, Tensor) and temperature.dim():
            event_ones = (1,) * site.num_event_batch_dims
            return temperature.reshape(temperature.shape + event_ones)
        return temperature

    def _enter_plates(self, frames: Frames) -> ExitStack:
        stack = ExitStack()
        for frame in frames:
            stack.enter_context(self.plates[frame.name])
        return stack
