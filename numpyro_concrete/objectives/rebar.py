"""REBAR: the score function, with the relaxed model as control variate.

Counterpart: ``pyro_concrete.objectives.rebar``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
from jax import Array, lax
from numpyro.distributions import constraints
from numpyro.primitives import Messenger

from concrete_core.objectives.programs import Programs
from concrete_core.types import Message, Params, Program
from numpyro_concrete.distributions import check_temperature
from numpyro_concrete.objectives.abstract import AbstractUnbiased, Estimate
from numpyro_concrete.objectives.coupled_runs import CoupledRuns
from numpyro_concrete.objectives.guide_draws import (
    ParticleKeys,
    append_event_dims,
    relaxable_site,
)
from numpyro_concrete.objectives.learning_signals import leave_one_out_signals
from numpyro_concrete.objectives.logit_gradients import (
    binary_rebar_gradient,
    categorical_rebar_gradient,
)
from numpyro_concrete.relaxation.settings import setting_for_site
from numpyro_concrete.relaxation.site import is_discrete


class _SiteSettings(NamedTuple):
    """Settings of the control variate of one site.

    Attributes:
        temperature: Temperature of the relaxed site, > 0.
        scale: Scale of the control variate.
        baseline: Share of the other particles' mean of f - c that is subtracted.
    """

    temperature: Array | float
    scale: Array | float
    baseline: Array | float


class _SiteStructure(NamedTuple):
    """What is known of a site when a particle is traced.

    Attributes:
        is_binary: Whether the site is a Bernoulli.
        event_dim: Number of axes of the scores between those of the batch and that of
            the classes.
    """

    is_binary: bool
    event_dim: int


class _ControlVariate(NamedTuple):
    """The control variate of one site, with a leading axis of the particles.

    Attributes:
        elbo: Discrete ELBO f of each element of the site's plates, without gradient.
        relaxed_elbo: Control variate c: the relaxed ELBO of each element.
        slope: Derivative of c in the scores of the site, which are its logits plus the
            noise of the draw.
        scale: Scale of the control variate.
        baseline: Share of the other particles' mean of f - c that is subtracted.
        scores: Scores of the site.
        logits: Logits of the site.
    """

    elbo: Array
    relaxed_elbo: Array
    slope: Array
    scale: Array
    baseline: Array
    scores: Array
    logits: Array


class REBAR(AbstractUnbiased):
    r"""Unbiased gradients of the discrete ELBO, with a relaxation as control variate.

    .. math:: (f(b) - \eta c(\tilde z)) \nabla \log q(b) + \eta \nabla c(z)
        - \eta \nabla c(\tilde z) + \nabla f(b)

    A loss for `SVI` with the unmodified discrete model and guide. f is the integrand of
    the discrete ELBO at the discrete draw b, and c the same of the model and the guide
    that `relax` makes, with discrete scoring: z is a relaxed draw of the guide, and
    :math:`\tilde z` one given the value b. The noise of the two is coupled: they are
    the same point and differ only in how they move with the logits, so that one relaxed
    run has both. Any temperature and any scale :math:`\eta` give the same
    gradient on average, but not the same variance. A guide that
    `with_learned_settings` wraps has them as parameters, which are trained beside the
    others to lower the variance.

    All sites are relaxed together, including those whose logits depend on each other's
    values: what is drawn anew given b is the noise of each site, at the logits that it
    was drawn with. (The paper relaxes one layer after the other, in as many runs.) **A
    particle takes two runs of the model and the guide**, of which the relaxed one has
    the overhead of `relax`. The learning signal of a value has only the terms of its
    own element of a plate. Continuous sites pass the gradient of their paths.

    With several particles, the other particles are a baseline as in `RLOO`, in two
    parts. With f - :math:`\eta` c = (1 - :math:`\eta`) f + :math:`\eta` (f - c): of
    the first part their mean is always subtracted, and of the second as much as
    `baseline` says, which removes the part of the control variate that all particles
    have in common.

    Use it where the likelihood is smooth in relaxed values, as that of a neural network
    is, with learned settings and several particles: ``python -m benchmarks
    variance_of_rebar`` compares its variance with that of `RLOO` at the same number of
    model evaluations, on the autoencoder of the tutorials. Do not use it where relaxed
    values mean little (an index into a table of unrelated entries) or are far from the
    discrete ones (many sites in a row). Where a site has few values, enumeration has no
    variance at all.

    Args:
        num_particles: Number of particles whose gradients are averaged, >= 1.
        temperature: Temperature of the control variate, > 0: a number, or a mapping
            from site names to numbers. Learned settings start from it.
        scale: Scale :math:`\eta` of the control variate, likewise.
        baseline: Share of the other particles' mean of f - c that is subtracted,
            likewise. Zero is best where their noise is larger than their mean.
        vectorize_particles: As in NumPyro's ELBOs.

    Raises:
        NotImplementedError: At a site of the guide that is marked for enumeration, has
            no finite support, or is continuous and not reparameterized. The message
            names it.
        ValueError: At a site that is opted out of `relax`, that is latent in the model
            or the guide only, or that a mapping does not name, and if a temperature is
            not positive.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...     numpyro.sample("x", dist.Normal(z, 1.0), obs=0.2)
        >>> def guide():
        ...     logits = numpyro.param("a", 0.0)
        ...     numpyro.sample("z", dist.Bernoulli(logits=logits))
        >>> rebar, optimizer = REBAR(), numpyro.optim.Adam(0.01)
        >>> guide = rebar.with_learned_settings(guide)
        >>> svi = numpyro.infer.SVI(model, guide, optimizer, rebar)
        >>> result = svi.run(jax.random.key(0), 2, progress_bar=False)
        >>> bool(result.losses[0] > 0)
        True

    References:
        Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein (2017), REBAR: Low-variance,
        unbiased gradient estimates for discrete latent variable models, sections 3.1 to
        3.3. https://arxiv.org/abs/1703.07370

    Counterpart: :class:`pyro_concrete.REBAR`.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        temperature: float | Mapping[str, float] = 0.5,
        scale: float | Mapping[str, float] = 1.0,
        baseline: float | Mapping[str, float] = 1.0,
        vectorize_particles: bool | Callable = True,
    ) -> None:
        super().__init__(num_particles, vectorize_particles)
        _validate_temperatures(temperature)
        self.temperature = temperature
        self.scale = scale
        self.baseline = baseline

    def with_learned_settings(self, guide: Program) -> Program:
        """Return the guide with its REBAR settings as parameters, which are learned.

        Each discrete site z has its own: ``z_rebar_temperature``, ``z_rebar_scale`` and
        ``z_rebar_baseline``, of which the last one has an effect with several
        particles. Their gradient is that of the sum of squares of the gradients in the
        logits: the mean gradient does not depend on them, so that this lowers the
        variance. They do not influence the gradients of other parameters.

        Args:
            guide: Discrete guide.

        Returns:
            The guide to give to `SVI`.
        """

        def guide_with_settings(*args: Any, **kwargs: Any) -> Any:
            with _LearnedSettingsMessenger(self):
                return guide(*args, **kwargs)

        return guide_with_settings

    def _initial_settings(self, name: str) -> _SiteSettings:
        """Return the settings of a site as the arguments have them."""
        settings = _SiteSettings(
            temperature=setting_for_site(self.temperature, name),
            scale=setting_for_site(self.scale, name),
            baseline=setting_for_site(self.baseline, name),
        )
        for setting, value in settings._asdict().items():
            if value is None:
                raise ValueError(
                    f"{setting} of REBAR names no value for site {name!r}. Add the "
                    "site to the mapping"
                )
        return settings

    def _settings(self, params: Params, name: str) -> _SiteSettings:
        """Return the settings of a site, which may be parameters of the guide."""
        if _param_name(name, "temperature") not in params:
            return self._initial_settings(name)
        return _SiteSettings(
            *(params[_param_name(name, field)] for field in _SiteSettings._fields)
        )

    def _estimate(self, rng_key: Array, params: Params, programs: Programs) -> Estimate:
        structures: dict[str, _SiteStructure] = {}

        def run(keys: ParticleKeys) -> tuple[Array, dict[str, _ControlVariate]]:
            runs = CoupledRuns(keys, params, programs)
            for name, draw in runs.draws.items():
                structures[name] = _SiteStructure(draw.is_binary, draw.event_dim)
            return runs.elbo_terms.total(), self._control_variates(runs, params)

        elbos, control_variates = self._map_particles(run, rng_key)
        elbo = elbos.mean()
        surrogate = elbo
        mean_of_squares = jnp.zeros(())
        for name, variate in control_variates.items():
            gradient = self._logit_gradients(structures[name], variate)
            # A constant gradient times the logits has that gradient.
            surrogate_terms = lax.stop_gradient(gradient) * variate.logits
            surrogate += surrogate_terms.sum() / self.num_particles
            mean_of_squares += (gradient**2).sum() / self.num_particles
        # The mean gradient does not depend on the settings, so that its variance falls
        # with the mean square. All else in the squares is constant: see `run_relaxed`.
        # `SVI` maximizes the surrogate, and the squares are to be small.
        return Estimate(elbo=elbo, surrogate=surrogate - mean_of_squares)

    def _control_variates(
        self, runs: CoupledRuns, params: Params
    ) -> dict[str, _ControlVariate]:
        """Return the control variates of a particle by site, from one relaxed run."""
        settings = {name: self._settings(params, name) for name in runs.draws}
        relaxed = runs.run_relaxed(
            {name: setting.temperature for name, setting in settings.items()}
        )
        return {
            name: _ControlVariate(
                elbo=lax.stop_gradient(runs.elbo_terms.by_element(draw.frames)),
                relaxed_elbo=relaxed.elbos[name],
                slope=relaxed.slopes[name],
                scale=jnp.asarray(settings[name].scale),
                baseline=jnp.asarray(settings[name].baseline),
                scores=draw.scores,
                logits=jnp.broadcast_to(draw.logits, draw.scores.shape),
            )
            for name, draw in runs.draws.items()
        }

    def _logit_gradients(
        self, structure: _SiteStructure, variate: _ControlVariate
    ) -> Array:
        """Return the gradients in the logits of one site, for each particle."""
        # A single particle has no others, and its signals are the ELBOs themselves.
        elbo_signal = variate.elbo
        residual_signal = variate.elbo - variate.relaxed_elbo
        if self.num_particles > 1:
            elbo_signal = leave_one_out_signals(elbo_signal, 0)
            residual_signal = leave_one_out_signals(residual_signal, 0)
        gradient_of_particle = partial(_logit_gradient, structure)
        return jax.vmap(gradient_of_particle)(variate, elbo_signal, residual_signal)


def _logit_gradient(
    structure: _SiteStructure,
    variate: _ControlVariate,
    elbo_signal: Array,
    residual_signal: Array,
) -> Array:
    """Return the gradient in the logits of one site.

    Args:
        structure: What is known of the site.
        variate: Control variate of the site in one particle.
        elbo_signal: f minus its mean over the other particles, if there are any.
        residual_signal: f - c minus its mean over the other particles, likewise.
    """
    scale = variate.scale
    baseline = variate.baseline
    # f - eta c = eta (f - c) + (1 - eta) f, each with its own baseline.
    plain_residual = variate.elbo - variate.relaxed_elbo
    residual_signal = baseline * residual_signal + (1 - baseline) * plain_residual
    signal = scale * residual_signal + (1 - scale) * elbo_signal
    rebar_gradient = categorical_rebar_gradient
    if structure.is_binary:
        rebar_gradient = binary_rebar_gradient
    return rebar_gradient(
        append_event_dims(signal, structure.event_dim),
        scale * variate.slope,
        variate.scores,
        lax.stop_gradient(variate.logits),
    )


def _validate_temperatures(temperature: float | Mapping[str, float]) -> None:
    if not isinstance(temperature, Mapping):
        check_temperature(temperature)
        return
    for name, value in temperature.items():
        check_temperature(value, name)


def _param_name(site_name: str, setting: str) -> str:
    """Return the name of the parameter that is a setting of a site."""
    return f"{site_name}_rebar_{setting}"


class _LearnedSettingsMessenger(Messenger):
    """Makes the settings of each discrete site parameters of the guide."""

    def __init__(self, objective: REBAR) -> None:
        super().__init__()
        self.objective = objective

    def postprocess_message(self, msg: Message) -> None:
        # In a relaxed run the discrete sites are deterministic by now.
        is_latent = msg["type"] == "sample" and not msg["is_observed"]
        if not is_latent or not is_discrete(msg["fn"]):
            return
        if relaxable_site(msg) is None:
            return
        name = msg["name"]
        for setting, value in self.objective._initial_settings(name)._asdict().items():
            constraint = constraints.real
            if setting == "temperature":
                constraint = constraints.positive
            numpyro.param(
                _param_name(name, setting), jnp.asarray(value), constraint=constraint
            )
