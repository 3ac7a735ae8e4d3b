"""REBAR: the score function, with the relaxed model as control variate.

Counterpart: ``numpyro_concrete.objectives.rebar``.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from concrete_core.objectives.programs import Programs
from concrete_core.types import Message, Program
from pyro_concrete.distributions import check_temperature
from pyro_concrete.objectives.abstract import (
    AbstractUnbiased,
    Estimate,
    names_in_every_particle,
)
from pyro_concrete.objectives.coupled_runs import CoupledRuns
from pyro_concrete.objectives.guide_draws import (
    DrawnSite,
    append_event_dims,
    relaxable_site,
)
from pyro_concrete.objectives.logit_gradients import (
    binary_rebar_gradient,
    categorical_rebar_gradient,
)
from pyro_concrete.objectives.traces import all_sites
from pyro_concrete.relaxation.settings import setting_for_site
from pyro_concrete.relaxation.site import is_discrete


class _SiteSettings(NamedTuple):
    """Settings of the control variate of one site.

    Attributes:
        temperature: Temperature of the relaxed site, > 0.
        scale: Scale of the control variate.
        baseline: Share of the other particles' mean of f - c that is subtracted.
    """

    temperature: Tensor | float
    scale: Tensor | float
    baseline: Tensor | float


class _ControlVariate(NamedTuple):
    """The control variate of one site in one particle, or in a plate of them.

    Attributes:
        elbo: Discrete ELBO f of each element of the site's plates, detached.
        relaxed_elbo: Control variate c: the relaxed ELBO of each element.
        slope: Derivative of c in the scores of the site, which are its logits plus the
            noise of the draw.
        settings: Settings of the site.
    """

    elbo: Tensor
    relaxed_elbo: Tensor
    slope: Tensor
    settings: _SiteSettings


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
        max_plate_nesting: As in Pyro's ELBOs.
        vectorize_particles: As in Pyro's ELBOs.
        retain_graph: As in Pyro's ELBOs.

    Raises:
        NotImplementedError: At a site of the guide that is marked for enumeration, has
            no finite support, or is continuous and not reparameterized. The message
            names it.
        ValueError: At a site that is opted out of `relax`, that is latent in the model
            or the guide only, or that a mapping does not name, and if a temperature is
            not positive.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.2))
        >>> def guide():
        ...     logits = pyro.param("a", torch.tensor(0.0))
        ...     pyro.sample("z", dist.Bernoulli(logits=logits))
        >>> rebar, optimizer = REBAR(), pyro.optim.Adam({"lr": 0.01})
        >>> guide = rebar.with_learned_settings(guide)
        >>> svi = pyro.infer.SVI(model, guide, optimizer, rebar)
        >>> svi.step() > 0
        True

    References:
        Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein (2017), REBAR: Low-variance,
        unbiased gradient estimates for discrete latent variable models, sections 3.1 to
        3.3. https://arxiv.org/abs/1703.07370

    Counterpart: :class:`numpyro_concrete.REBAR`.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        temperature: float | Mapping[str, float] = 0.5,
        scale: float | Mapping[str, float] = 1.0,
        baseline: float | Mapping[str, float] = 1.0,
        max_plate_nesting: int | float = float("inf"),
        vectorize_particles: bool = False,
        retain_graph: bool | None = None,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            retain_graph=retain_graph,
        )
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

    def _settings(self, runs: CoupledRuns, name: str) -> _SiteSettings:
        """Return the settings of a site, which may be parameters of the guide."""
        sites = all_sites(runs.guide_trace)
        if _param_name(name, "temperature") not in sites:
            return self._initial_settings(name)
        return _SiteSettings(
            *(
                sites[_param_name(name, field)]["value"]
                for field in _SiteSettings._fields
            )
        )

    def _estimate(self, programs: Programs) -> Estimate:
        particles = list(self._run_particles(programs))
        control_variates = [self._control_variates(runs) for runs in particles]
        elbo = sum((runs.elbo_terms.total() for runs in particles), torch.zeros(()))
        surrogate = elbo
        sum_of_squares = torch.zeros(())
        for name in names_in_every_particle([runs.draws.keys() for runs in particles]):
            draws = [runs.draws[name] for runs in particles]
            gradients = self._logit_gradients(
                draws, [variates[name] for variates in control_variates]
            )
            for draw, gradient in zip(draws, gradients, strict=True):
                # A constant gradient times the logits has that gradient.
                surrogate = surrogate + (gradient.detach() * draw.logits).sum()
                sum_of_squares = sum_of_squares + gradient.square().sum()
        settings = [
            variate.settings
            for variates in control_variates
            for variate in variates.values()
        ]
        # `SVI` maximizes the surrogate, and the squares are to be small.
        surrogate = surrogate - _settings_surrogate(sum_of_squares, settings)
        return Estimate(elbo / self.num_particles, surrogate / self.num_particles)

    def _control_variates(self, runs: CoupledRuns) -> dict[str, _ControlVariate]:
        """Return the control variates of a particle by site, from one relaxed run."""
        settings = {name: self._settings(runs, name) for name in runs.draws}
        relaxed = runs.run_relaxed(
            lambda name: settings[name].temperature,
            keep_graph=any(map(_learned_settings, settings.values())),
        )
        return {
            name: _ControlVariate(
                elbo=runs.elbo_terms.by_element(draw.frames).detach(),
                relaxed_elbo=relaxed.elbos[name],
                slope=relaxed.slopes[name],
                settings=settings[name],
            )
            for name, draw in runs.draws.items()
        }

    def _logit_gradients(
        self, draws: list[DrawnSite], control_variates: list[_ControlVariate]
    ) -> list[Tensor]:
        """Return the gradients in the logits of one site, for each run."""
        # A single particle has no others, and its signals are the ELBOs themselves.
        elbo_signals = self._leave_one_out(
            [variate.elbo for variate in control_variates]
        )
        residual_signals = self._leave_one_out(
            [variate.elbo - variate.relaxed_elbo for variate in control_variates]
        )
        return [
            _logit_gradient(draw, variate, elbo_signal, residual_signal)
            for draw, variate, elbo_signal, residual_signal in zip(
                draws, control_variates, elbo_signals, residual_signals, strict=True
            )
        ]


def _logit_gradient(
    draw: DrawnSite,
    variate: _ControlVariate,
    elbo_signal: Tensor,
    residual_signal: Tensor,
) -> Tensor:
    """Return the gradient in the logits of one site.

    Args:
        draw: The site as it was drawn.
        variate: Control variate of the site.
        elbo_signal: f minus its mean over the other particles, if there are any.
        residual_signal: f - c minus its mean over the other particles, likewise.
    """
    scale = variate.settings.scale
    baseline = variate.settings.baseline
    # f - eta c = eta (f - c) + (1 - eta) f, each with its own baseline.
    plain_residual = variate.elbo - variate.relaxed_elbo
    residual_signal = baseline * residual_signal + (1 - baseline) * plain_residual
    signal = scale * residual_signal + (1 - scale) * elbo_signal
    rebar_gradient = categorical_rebar_gradient
    if draw.is_binary:
        rebar_gradient = binary_rebar_gradient
    return rebar_gradient(
        append_event_dims(signal, draw.event_dim),
        scale * variate.slope,
        draw.scores.detach(),
        draw.logits.detach(),
    )


def _learned_settings(settings: _SiteSettings) -> list[Tensor]:
    """Return the settings of a site that are parameters."""
    return [
        setting
        for setting in settings
        if isinstance(setting, Tensor) and setting.requires_grad
    ]


def _settings_surrogate(
    sum_of_squares: Tensor, settings: list[_SiteSettings]
) -> Tensor | float:
    """Return a number whose gradient in the settings is that of the sum of squares.

    The mean gradient does not depend on the settings, so that its variance falls with
    the mean square. The sum of squares also depends on other parameters, and must not
    change their gradients. So its gradient in the settings is taken here, and is a
    constant of the result.
    """
    # Runs may share the tensor of a parameter, which must count once.
    learned = {
        id(tensor): tensor for site in settings for tensor in _learned_settings(site)
    }
    if not learned:
        return 0.0
    tensors = list(learned.values())
    slopes = torch.autograd.grad(sum_of_squares, tensors, materialize_grads=True)
    return sum(slope * tensor for slope, tensor in zip(slopes, tensors, strict=True))


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

    def _pyro_post_sample(self, msg: Message) -> None:
        # In a relaxed run the discrete sites are deterministic by now.
        if msg["is_observed"] or not is_discrete(msg["fn"]):
            return
        site = relaxable_site(msg)
        if site is None:
            return
        name = msg["name"]
        for setting, value in self.objective._initial_settings(name)._asdict().items():
            constraint = constraints.real
            if setting == "temperature":
                constraint = constraints.positive
            pyro.param(
                _param_name(name, setting), site.logits.new_tensor(value), constraint
            )
