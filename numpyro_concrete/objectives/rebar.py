"""REBAR: the score function with the relaxed program as control variate.

Counterpart: ``pyro_concrete.objectives.rebar``.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
from jax import Array, lax
from numpyro.distributions import constraints
from numpyro.primitives import Messenger

from numpyro_concrete.objectives.abstract import AbstractUnbiased
from numpyro_concrete.objectives.gradients import (
    binary_rebar,
    categorical_rebar,
    compared,
)
from numpyro_concrete.objectives.passes import Drawn, Passes, site_of
from numpyro_concrete.relaxation.site import check_temperature, is_discrete, of_site

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
        vectorize_particles: As in NumPyro's ELBOs.

    Raises:
        NotImplementedError: At a site of the guide that is marked for enumeration, has
            no finite support, or is continuous and not reparameterised, by name.
        ValueError: At a site that is opted out of `relax`, or latent in one of the
            programs alone, by name; if the temperature is not positive.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...     numpyro.sample("x", dist.Normal(z, 1.0), obs=0.2)
        >>> def guide():
        ...     logits = numpyro.param("a", 0.0)
        ...     numpyro.sample("z", dist.Bernoulli(logits=logits))
        >>> rebar, optimiser = REBAR(), numpyro.optim.Adam(0.01)
        >>> svi = numpyro.infer.SVI(model, rebar.tuned(guide), optimiser, rebar)
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

    def _estimate(self, rng_key: Array, *programs: Any) -> tuple[Array, Array]:
        gradients: dict[str, Callable] = {}

        def particle(run: Callable) -> tuple[Array, dict[str, _Variate]]:
            passes = run(*programs)
            gradients.update((n, _gradient(x)) for n, x in passes.drawn.items())
            return passes.costs.total(), self._variates(passes, programs[0])

        elbos, found = self._map(particle, rng_key)
        elbo = surrogate = elbos.mean()
        squares: Any = 0.0
        for name, variates in found.items():
            both = variates.cost, variates.cost - variates.soft
            if self.num_particles > 1:
                both = compared(both[0], 0), compared(both[1], 0)
            gradient = jax.vmap(gradients[name])(variates, *both)
            gain = lax.stop_gradient(gradient) * variates.logits
            surrogate += gain.sum() / self.num_particles
            squares += (gradient**2).sum() / self.num_particles
        # Down for the squares, which depend on temperatures and scales alone, and up
        # for the ELBO.
        return elbo, surrogate - squares

    def _variates(
        self, passes: Passes, params: Mapping[str, Any]
    ) -> dict[str, "_Variate"]:
        """The control variates of a particle by site."""
        settings, found = {}, {}
        for name in passes.drawn:
            own = [params.get(name + end) for end in _SETTINGS]
            settings[name] = self._start(name) if None in own else own
        soft = passes.relaxed({name: x[0] for name, x in settings.items()})
        for name, drawn in passes.drawn.items():
            cost = lax.stop_gradient(passes.costs.of(drawn.frames))
            share, baseline = map(jnp.asarray, settings[name][1:])
            own = soft.signals[name], soft.slopes[name], share, baseline
            logits = jnp.broadcast_to(drawn.logits, drawn.scores.shape)
            found[name] = _Variate(cost, *own, drawn.scores, logits)
        return found


class _Variate(NamedTuple):
    """The cost f, the control variate c and its slope, its settings, and the site."""

    cost: Array
    soft: Array
    slope: Array
    scale: Array
    baseline: Array
    scores: Array
    logits: Array


def _gradient(drawn: Drawn) -> Callable:
    """The gradient in the logits, of f and f - c as compared with other particles."""
    estimate = binary_rebar if drawn.binary else categorical_rebar

    def gradient(variate: _Variate, cost: Array, rest: Array) -> Array:
        scale, share = variate.scale, variate.baseline
        rest = share * rest + (1 - share) * (variate.cost - variate.soft)
        signal = scale * rest + (1 - scale) * cost
        logits = lax.stop_gradient(variate.logits)
        signal = signal.reshape(signal.shape + (1,) * drawn.event_dim)
        return estimate(signal, scale * variate.slope, variate.scores, logits)

    return gradient


class _TuningMessenger(Messenger):
    """The effect handler behind `REBAR.tuned`."""

    def __init__(self, objective: REBAR) -> None:
        super().__init__()
        self.objective = objective

    def postprocess_message(self, msg: Any) -> None:
        # A relaxed site is deterministic by now.
        latent = msg["type"] == "sample" and not msg["is_observed"]
        if not latent or not is_discrete(msg["fn"]):
            return
        if site_of(msg) is None:
            return  # a constant
        start = self.objective._start(msg["name"])
        for end, value in zip(_SETTINGS, start, strict=True):
            positive = end == _SETTINGS[0]
            constraint = constraints.positive if positive else constraints.real
            numpyro.param(msg["name"] + end, jnp.asarray(value), constraint=constraint)
