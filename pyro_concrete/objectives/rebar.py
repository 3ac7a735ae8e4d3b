"""REBAR: the score function with the relaxed program as control variate.

Counterpart: ``numpyro_concrete.objectives.rebar``.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from pyro_concrete.objectives.abstract import AbstractUnbiased
from pyro_concrete.objectives.gradients import binary_rebar, categorical_rebar
from pyro_concrete.objectives.passes import Drawn, Passes, site_of
from pyro_concrete.relaxation.site import check_temperature, is_discrete, of_site

# Temperature, scale and baseline.
_SETTINGS = ("_rebar_temperature", "_rebar_scale", "_rebar_baseline")


class REBAR(AbstractUnbiased):
    r"""Unbiased gradients of the discrete ELBO, the relaxed one as control variate.

    .. math:: (f(b) - \eta c(\tilde z)) \nabla \log q(b) + \eta \nabla c(z)
        - \eta \nabla c(\tilde z) + \nabla f(b)

    A loss for `SVI` with the discrete model and guide as they are. f is the integrand
    of the discrete ELBO, and c the same of the program that `relax` makes, scored by
    the discrete log-mass at soft points: z is a relaxed draw of the guide's, and
    :math:`\tilde z` one given the discrete value b. The noise of the two is coupled, so
    that one relaxed run has both. Any temperature and any scale :math:`\eta` give the
    same gradient on average; they decide on its variance. Wrapped in `tuned`, a guide
    has them as parameters, which are trained beside the others to lower the variance.

    All sites are relaxed together, also those whose logits depend on each other's
    values: what is drawn anew given b is the noise of each, at the logits that it was
    drawn with. (The paper relaxes one layer after the other, in as many runs.) **A
    particle takes two runs of the model and the guide**, the relaxed one at the price
    of `relax`. Each value is judged by the terms of its own element of a plate alone.
    Continuous sites beside the discrete ones pass the gradient of their paths.

    With several particles, f is compared with the others' as in `RLOO`, in two parts:
    the share 1 - :math:`\eta` that c does not stand for, always, and the rest f - c by
    as much as `baseline` says. That takes away what relaxing adds to every draw.

    Use it where the likelihood is smooth in relaxed values, as of a network, with a
    tuned guide and several particles: how its variance compares with that of `RLOO` at
    the same number of runs, ``python -m benchmarks variance_of_rebar`` measures on the
    tutorials' autoencoder. Do not use it where relaxed values mean little (a soft index
    into a table of unlike things) or go far from the hard ones (many sites in a row);
    where a site has few values, enumeration has no variance at all.

    Args:
        num_particles: Number of particles whose gradients are averaged.
        temperature: Temperature of the control variate, > 0; a number, or a mapping by
            site. Where the guide is `tuned`, what it starts from.
        scale: Scale of the control variate, likewise.
        baseline: How much of the others' mean of f - c is taken off, likewise; zero
            where their noise is larger than their mean.
        max_plate_nesting: As in Pyro's ELBOs.
        vectorize_particles: As in Pyro's ELBOs.
        retain_graph: As in Pyro's ELBOs.

    Raises:
        NotImplementedError: At a site of the guide that is marked for enumeration, has
            no finite support, or is continuous and not reparameterised, by name.
        ValueError: At a site that is opted out of `relax`, or latent in one of the
            programs alone, by name; if the temperature is not positive.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.2))
        >>> def guide():
        ...     logits = pyro.param("a", torch.tensor(0.0))
        ...     pyro.sample("z", dist.Bernoulli(logits=logits))
        >>> rebar, optimiser = REBAR(), pyro.optim.Adam({"lr": 0.01})
        >>> svi = pyro.infer.SVI(model, rebar.tuned(guide), optimiser, rebar)
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
        many = isinstance(temperature, Mapping)
        for value in temperature.values() if many else (temperature,):
            check_temperature(value)
        self.temperature = temperature
        self.scale = scale
        self.baseline = baseline

    def tuned(self, guide: Callable) -> Callable:
        """Return the guide with the settings as its parameters.

        Each discrete site z has its own: ``z_rebar_temperature``, ``z_rebar_scale`` and
        ``z_rebar_baseline``, the last of use to several particles. They follow the
        gradient of the sum of squares of the gradients in the logits, which is that of
        their variance, and have no part in any other parameter's.

        Args:
            guide: The discrete guide.

        Returns:
            The guide to give to `SVI`.
        """

        def tuned_guide(*args: Any, **kwargs: Any) -> Any:
            with _TuningMessenger(self):
                return guide(*args, **kwargs)

        return tuned_guide

    def _start(self, name: str) -> list[float]:
        """The settings of a site, as they were given."""
        given = self.temperature, self.scale, self.baseline
        found = [of_site(x, name) for x in given]
        if None in found:
            raise ValueError(f"a setting of REBAR names no value for site {name!r}")
        return found

    def _estimate(
        self, model: Callable, guide: Callable, args: Any, kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        together = self._prepared(model, guide, args, kwargs)
        passes = [*self._passes(together, model, guide, args, kwargs)]
        found = [self._variates(x) for x in passes]
        elbo: Any = sum(x.costs.total() for x in passes)
        surrogate = elbo
        squares, costs = 0.0, [{n: v.cost for n, v in x.items()} for x in found]
        rests = [{n: v.cost - v.soft for n, v in x.items()} for x in found]
        for name in {name: None for x in found for name in x}:
            gains = (self._compared(name, x, together) for x in (costs, rests))
            for x, variates, *both in zip(passes, found, *gains, strict=True):
                drawn = x.drawn[name]
                gradient = _gradient(drawn, variates[name], *both)
                surrogate = surrogate + (gradient.detach() * drawn.logits).sum()
                squares = squares + gradient.square().sum()
        tuning = {id(t): t for x in found for v in x.values() for t in v.tuning}
        n = self.num_particles
        return -elbo.detach() / n, _descent(squares, [*tuning.values()], -surrogate) / n

    def _variates(self, passes: Passes) -> dict[str, "_Variate"]:
        """The control variates of a particle by site."""
        nodes: Any = passes.guide_trace.nodes
        settings, tuning = {}, {}
        for name in passes.drawn:
            own = [nodes.get(name + end) for end in _SETTINGS]
            own = [None if node is None else node["value"] for node in own]
            settings[name] = self._start(name) if None in own else own
            tuning[name] = [x for x in own if x is not None and x.requires_grad]
        graph = any(tuning.values())
        soft = passes.relaxed(lambda name: settings[name][0], graph=graph)
        found = {}
        for name, drawn in passes.drawn.items():
            cost = passes.costs.of(drawn.frames).detach()
            own = soft.signals[name], soft.slopes[name], *settings[name][1:]
            found[name] = _Variate(cost, *own, tuning[name])
        return found


class _Variate(NamedTuple):
    """The cost f, the control variate c and its slope, its settings."""

    cost: Tensor
    soft: Tensor
    slope: Tensor
    scale: Tensor | float
    baseline: Tensor | float
    tuning: list[Tensor]


def _gradient(drawn: Drawn, variate: _Variate, cost: Tensor, rest: Tensor) -> Tensor:
    """The gradient in the logits, with f and f - c as compared with other particles."""
    scale, share = variate.scale, variate.baseline
    rest = share * rest + (1 - share) * (variate.cost - variate.soft)
    signal = scale * rest + (1 - scale) * cost
    signal = signal.reshape(signal.shape + (1,) * drawn.event_dim)
    estimate = binary_rebar if drawn.binary else categorical_rebar
    scores, logits = drawn.scores.detach(), drawn.logits.detach()
    return estimate(signal, scale * variate.slope, scores, logits)


def _descent(squares: Any, tuning: list[Tensor], surrogate: Any) -> Tensor:
    """Let what tunes, and nothing else, lower the squares."""
    if not tuning:
        return surrogate
    slopes = torch.autograd.grad(squares, tuning, materialize_grads=True)
    return surrogate + sum(a * x for a, x in zip(slopes, tuning, strict=True))


class _TuningMessenger(Messenger):
    """The effect handler behind `REBAR.tuned`."""

    def __init__(self, objective: REBAR) -> None:
        super().__init__()
        self.objective = objective

    def _pyro_post_sample(self, msg: Any) -> None:
        # A relaxed site is deterministic by now.
        if msg["is_observed"] or not is_discrete(msg["fn"]):
            return
        site = site_of(msg)
        if site is None:
            return  # a constant
        start = map(site.logits.new_tensor, self.objective._start(msg["name"]))
        for end, value in zip(_SETTINGS, start, strict=True):
            positive = end == _SETTINGS[0]
            constraint = constraints.positive if positive else constraints.real
            pyro.param(msg["name"] + end, value, constraint)
