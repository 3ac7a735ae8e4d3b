"""relax, config_relax, harden and ConcreteReparam, which users call.

They make programs of programs; the work is done by the handlers in `handlers`.

Counterpart: ``pyro_concrete.relaxation.programs``.
"""

import functools
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from numpyro.distributions import Distribution
from numpyro.handlers import reparam
from numpyro.infer.reparam import Reparam
from numpyro.primitives import sample

from numpyro_concrete.estimators import (
    AbstractEstimator,
    Estimator,
    Relaxed,
    validate_estimator,
)
from numpyro_concrete.relaxation.checks import (
    check_guide,
    check_hardened,
    validate_temperature,
)
from numpyro_concrete.relaxation.handlers import (
    ConfigMessenger,
    DiscreteMessenger,
    HardenMessenger,
    RelaxMessenger,
    current_surroundings,
)
from numpyro_concrete.relaxation.messages import Message, Program, relaxed_name
from numpyro_concrete.relaxation.minibatches import MinibatchMessenger
from numpyro_concrete.relaxation.settings import (
    Settings,
    Sites,
    Temperature,
    Truncate,
)
from numpyro_concrete.relaxation.site import (
    Site,
    SiteSettings,
    SiteTemperature,
    SiteTruncate,
)
from numpyro_concrete.schedules import resolve_schedules
from numpyro_concrete.soft_index import Interpreter

# The fields of a message that a reparameterizer does not get.
_MESSAGE_DEFAULTS: Message = {
    "type": "sample",
    "infer": {},
    "cond_indep_stack": [],
    "args": (),
    "kwargs": {"rng_key": None},
    "scale": None,
    "value": None,
    "is_observed": False,
    "intermediates": [],
}


def relax(
    fn: Program | None = None,
    temperature: Temperature | None = None,
    *,
    sites: Sites | None = None,
    truncate: Truncate | None = None,
    estimator: Estimator | None = None,
    scoring: str | None = None,
) -> Any:
    """Relax the discrete sites of a model or guide, which is not modified.

    Every latent site with a finite discrete support is relaxed, unless it is marked
    ``infer={"enumerate": ...}`` or ``infer={"relax": False}``. A relaxed site ``z``
    becomes two sites: ``z_relaxed`` is sampled from the Concrete relaxation in log
    space, and ``z`` is a deterministic site with the mean of the relaxed value. At a
    one-hot site the program receives probabilities. At any other site it receives a
    `SoftIndex`, which it can use as the integers that it expects: ``locs[z]``,
    ``z == 1``, ``jnp.where(z > 2, a, b)``.

    Relax the model and the guide, and train them with any ELBO. The defaults, discrete
    scoring at temperature 0.2, have no parameter to tune. `RelaxedWarmup` anneals the
    temperature where none is given, and comes closer to the discrete optimum on most of
    the models that we tried ("Choosing" in the documentation). The paper's objective is
    ``scoring="concrete"``, with a temperature for each of the two: with `Trace_ELBO` it
    is a lower bound of the evidence of the relaxed model (eq. 20).
    Compare neither with a discrete ELBO, such as that of ``harden(guide)``.

    Settings of one site go into ``infer={"relax": {"temperature": 0.5}}`` at the site,
    or are given with `config_relax`. A site that `sites` names, or that has settings of
    its own, is relaxed even if it is also marked for enumeration.

    Sites in the body of NumPyro's `scan` are relaxed like others, and integers that the
    scan carries stay soft.

    Shapes:
        temperature: scalar, or broadcastable to the batch shape of every site.

    Args:
        fn: Model or guide. Without it, a decorator is returned.
        temperature: Relaxation temperature, > 0, a schedule from
            `numpyro_concrete.schedules` (or any callable from the step to the
            temperature), or a mapping of these by site. By default that of the
            estimator: `schedules.Default(0.2)` for soft samples, 2/3 for
            `StraightThrough`, 1/2 for `GumbelRao`, 1 for `ReinMax`. The paper's (model,
            guide) pairs for concrete scoring are (1/2, 2/3) for two values, (2/3, 1)
            for four, (2/5, 2/3) for eight.
        sites: Names of the sites to relax, or a predicate on NumPyro's site messages;
            by default every site that can be relaxed.
        truncate: For sites with an unbounded support, such as a Poisson: the largest
            value to keep or, as a float in (0, 1), the largest probability to truncate.
            A float needs parameters that are known outside of jit. A mapping by site,
            or one for all sites. The deterministic site ``z_truncated_mass`` has the
            truncated probability.
        estimator: How the sites pass gradients: `Relaxed()`, the default,
            `StraightThrough()`, `GumbelRao(10)`, `ReinMax()` or `ZGR()`; or a mapping
            of these by site, where others are relaxed. Use the same for model and
            guide.
        scoring: What scores a relaxed site: by default the "discrete" log-probability
            averaged with the relaxed probabilities (eq. 21), with the discrete KL in
            `TraceMeanField_ELBO` (eq. 22); or its "concrete" density. Discrete scoring
            gives no bound for soft samples, and is closer to the discrete ELBO at low
            temperatures, since a confident guide pays the discrete KL and not the
            larger one of two Concretes. Samplers such as NUTS need the density, which
            `GumbelRao`, `ReinMax` and `ZGR` do not have. Use the same for model and
            guide.

    Returns:
        The relaxed model or guide, with the arguments of `fn`.

    Raises:
        TypeError: If `estimator` is not an estimator. When the program runs: by the
            name of the site, where it needs a drawn value (``if z:``, ``z.item()``,
            ``range(z)``).
        ValueError: If the temperature is not positive, or the scoring is unknown or not
            one that the estimator allows. When the program runs: by the name of the
            site, if its support is unbounded and not truncated, or if model and guide
            relax it in different ways; and if a setting names a site that the program
            does not have.
        NotImplementedError: By the name of the site, if its values are vectors other
            than one-hot ones.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     z = numpyro.sample("z", dist.Categorical(logits=jnp.zeros(3)))
        ...     return jnp.array([-1.0, 0.0, 1.0])[z]
        >>> seeded = numpyro.handlers.seed(relax(model, temperature=0.5), 0)
        >>> list(numpyro.handlers.trace(seeded).get_trace())
        ['z_relaxed', 'z']

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Counterpart: :func:`pyro_concrete.relax`.
    """
    settings = Settings(
        temperature=validate_temperature(temperature),
        sites=sites,
        truncate=truncate,
        estimator=estimator,
        scoring=scoring,
    )
    if fn is not None:
        return RelaxedProgram(fn, settings)
    return functools.partial(
        relax,
        temperature=temperature,
        sites=sites,
        truncate=truncate,
        estimator=estimator,
        scoring=scoring,
    )


class RelaxedProgram:
    """A model or guide whose sites are relaxed, as `relax` returns it.

    Args:
        fn: Model or guide.
        settings: Settings of `relax`.
    """

    def __init__(self, fn: Program, settings: Settings) -> None:
        functools.update_wrapper(self, fn, updated=())
        self.fn = fn
        self.settings = settings

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program, relaxed unless it is hardened or predicts."""
        if current_surroundings().runs_discrete:
            names: set[str] = set()  # which the handler fills
            with MinibatchMessenger(), DiscreteMessenger(None, self.settings, names):
                result = self.fn(*args, **kwargs)
            self.settings.check_names(names)
            return result
        # Schedules are resolved here: inside a scan the step count is unavailable. The
        # copy of the settings shares `estimators_used`, which `cite` reads.
        temperature = resolve_schedules(self.settings.temperature)
        settings = replace(self.settings, temperature=temperature)
        with Interpreter() as interpreter:
            messenger = RelaxMessenger(interpreter, settings)
            with MinibatchMessenger(), messenger:
                result = self.fn(*args, **kwargs)
            settings.check_names(messenger.names)
            return interpreter.as_means(result)


def config_relax(
    fn: Program | None = None,
    default: bool = True,
    *,
    temperature: SiteTemperature | None = None,
    truncate: SiteTruncate | None = None,
    estimator: AbstractEstimator | None = None,
) -> Any:
    """Give settings for `relax` to the latent discrete sites of a model or guide.

    Every latent discrete site gets ``infer={"relax": ...}``, unless it has one or is
    marked for enumeration, as by `config_enumerate`.

    Args:
        fn: Model or guide. Without it, a decorator is returned.
        default: Whether `relax` relaxes the sites.
        temperature: Relaxation temperature of these sites, > 0; by default that of
            `relax`.
        truncate: Truncation of these sites, as for `relax`.
        estimator: Estimator of these sites, as for `relax`.

    Returns:
        The model or guide with these settings, with the arguments of `fn`.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     numpyro.sample("z", dist.Categorical(logits=jnp.zeros(3)))
        >>> seeded = numpyro.handlers.seed(config_relax(model, temperature=0.5), 0)
        >>> numpyro.handlers.trace(seeded).get_trace()["z"]["infer"]
        {'relax': {'temperature': 0.5}}

    Counterpart: :func:`pyro_concrete.config_relax`.
    """
    settings = {
        "temperature": temperature,
        "truncate": truncate,
        "estimator": estimator,
    }
    site_settings = {key: value for key, value in settings.items() if value is not None}
    return ConfigMessenger(fn, site_settings if default else False)


def harden(fn: Program) -> Program:
    """Return the discrete program that a relaxed guide or model stands for.

    Each site ``z_relaxed`` with a Concrete distribution is replaced by its discrete
    site ``z``, whose one-hot value the program receives. The argmax of a Concrete
    sample is a sample of its categorical at every temperature, so this is exact: use
    ``Trace_ELBO().loss(key, params, model, harden(guide), ...)`` for the discrete ELBO
    of a model that was trained relaxed.

    A program of `relax` runs discrete inside of `harden`, and receives plain numbers;
    truncated sites stay truncated. If a handler sets ``z_relaxed``, ``z`` is the value
    with the largest relaxed probability.

    Args:
        fn: A relaxed program: the result of `relax`, or one that samples from
            `ExpConcrete` or `LogitBinaryConcrete` at sites named ``..._relaxed``.

    Returns:
        The discrete program, with the arguments of `fn`.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def guide():
        ...     fn = dist.Bernoulli(logits=jnp.zeros(2)).to_event()
        ...     return numpyro.sample("z", fn)
        >>> hard = harden(relax(guide, temperature=0.5))
        >>> z = numpyro.handlers.seed(hard, 0)()
        >>> bool(((z == 0) | (z == 1)).all())
        True

    Counterpart: :func:`pyro_concrete.harden`.
    """
    return HardenMessenger(fn)


class ConcreteReparam(Reparam):
    """Relax one site of a model, as one of NumPyro's reparameterizers.

    It does what `relax` does, at the site that `handlers.reparam` is configured with.
    Operators work on the soft value, and functions of JAX raise an error, since a
    reparameterizer cannot follow a value into them. `relax`, with `sites` to choose,
    has no such limit, and is the one for guides.

    Shapes:
        temperature: scalar, or broadcastable to the batch shape of the site.

    Args:
        temperature: Relaxation temperature, > 0; by default that of the estimator.
        truncate: Truncation of an unbounded support, as for `relax`.
        estimator: How the site passes gradients, as for `relax`.
        scoring: What scores it, as for `relax`.

    Raises:
        ValueError: If the temperature is not positive, or at a site with an unbounded
            support that is not truncated, by name.
        NotImplementedError: At a site of vectors other than one-hot ones, by name.

    Example:
        >>> import numpyro
        >>> from numpyro_concrete import OneHotCategorical
        >>> def model():
        ...     return numpyro.sample("z", OneHotCategorical(logits=jnp.zeros(3)))
        >>> config = {"z": ConcreteReparam(0.5)}
        >>> relaxed = numpyro.handlers.reparam(model, config=config)
        >>> numpyro.handlers.seed(relaxed, 0)().shape
        (3,)

    Counterpart: :class:`pyro_concrete.ConcreteReparam`.
    """

    def __init__(
        self,
        temperature: SiteTemperature | None = None,
        *,
        truncate: SiteTruncate | None = None,
        estimator: AbstractEstimator | None = None,
        scoring: str | None = None,
    ) -> None:
        estimator = estimator or Relaxed()
        validate_estimator(estimator, scoring)
        if temperature is None:
            temperature = estimator.default_temperature
        self.settings = SiteSettings(
            temperature=validate_temperature(temperature),
            truncate=truncate,
            estimator=estimator,
            scoring=scoring,
        )

    def __call__(
        self, name: str, fn: Distribution, obs: ArrayLike | None
    ) -> tuple[Distribution | None, Any]:
        """Replace the distribution and value of one site, unless it is observed."""
        if obs is not None:
            return fn, obs
        site = Site(name, fn, self.settings)
        if site.is_constant:
            return fn, obs
        handlers = current_surroundings(reparam)
        guidance = handlers.guidance({**_MESSAGE_DEFAULTS, "name": name, "fn": fn})
        if handlers.runs_discrete or guidance.leaves_discrete:
            check_hardened(name, guidance)
            if guidance.relaxed_value is not None:
                return site.discrete, site.discrete_value(guidance.relaxed_value)
            return site.discrete, obs
        check_guide(name, site.relaxed, guidance)
        relaxed = sample(relaxed_name(name), site.relaxed, infer=site.infer)
        return None, site.value(jnp.asarray(relaxed))
