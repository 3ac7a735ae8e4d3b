"""relax, config_relax, harden and ConcreteReparam: what users call.

Counterpart: ``pyro_concrete.relaxation.programs``.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from numpyro.distributions import (
    Distribution,
)
from numpyro.handlers import reparam
from numpyro.infer.reparam import Reparam
from numpyro.primitives import sample

from numpyro_concrete.estimators import (
    AbstractEstimator,
    Estimator,
    Relaxed,
    validate_estimator,
)
from numpyro_concrete.relaxation.handlers import (
    ConfigMessenger,
    DiscreteMessenger,
    HardenMessenger,
    RelaxMessenger,
    Settings,
    surroundings,
)
from numpyro_concrete.relaxation.site import (
    SUFFIX,
    Site,
    Sites,
    Temperature,
    Truncate,
    check_guide,
    check_hardened,
    check_names,
    checked,
)
from numpyro_concrete.soft_index import (
    Interpreter,
)

# What a message has beside that which a reparameterizer gets of it.
_MESSAGE: dict[str, Any] = {"type": "sample", "infer": {}, "cond_indep_stack": []}
_MESSAGE |= {"args": (), "kwargs": {"rng_key": None}, "scale": None}
_MESSAGE |= {"value": None, "is_observed": False, "intermediates": []}


def relax(
    fn: Callable | None = None,
    temperature: Temperature | None = None,
    *,
    sites: Sites | None = None,
    truncate: Truncate | None = None,
    estimator: Estimator | None = None,
    scoring: str | None = None,
) -> Any:
    """Relax the discrete sites of a model or guide, which stays as it is.

    Every latent site with a finite discrete support that is not observed, not marked
    ``infer={"enumerate": ...}`` and not opted out by ``infer={"relax": False}`` is
    replaced: ``z_relaxed`` is sampled from its Concrete relaxation in log space, and
    ``z`` becomes a deterministic site with the mean of the relaxed value. The program
    receives a point of the simplex at one-hot sites, and at all others a `SoftIndex`,
    which it can use as the integers that it expects: ``locs[z]``, ``z == 1``,
    ``jnp.where(z > 2, a, b)``. Relax the model and the guide, each with a temperature
    of its own, and train them by any ELBO: with `Trace_ELBO` that is a true bound on
    the relaxed model's evidence (eq. 20); never compare it with a discrete ELBO.

    One site can be marked for itself, by ``infer={"relax": {"temperature": 0.5}}`` or
    with `config_relax`. A site that is named in `sites`, or marked for relaxation, is
    relaxed even if it is marked for enumeration, too. Sites inside of NumPyro's `scan`
    are relaxed like others, and integers that it carries stay soft.

    Shapes:
        temperature: scalar, or broadcastable to the batch shape of every site.

    Args:
        fn: Model or guide. Without it, a decorator is returned.
        temperature: Relaxation temperature, > 0, a schedule from
            `numpyro_concrete.schedules` (or any callable from the step to the
            temperature), or a mapping of these by site. The paper's (model, guide)
            pairs are (1/2, 2/3) for two values, (2/3, 1) for four, (2/5, 2/3) for
            eight.
        sites: Names of the sites to relax, or a predicate on NumPyro's site messages;
            by default every site that can be.
        truncate: For sites with an unbounded support, such as a Poisson: the largest
            value to keep, or, as a float in (0, 1), the largest mass to leave out,
            which needs parameters that are known outside of jit. A mapping by site, or
            one for all. The mass that is left out is the deterministic site
            ``z_left_out``.
        estimator: How the sites pass gradients: `Relaxed()`, the default,
            `StraightThrough()`, `GumbelRao(10)`, `ReinMax()` or `ZGR()`; or a mapping
            of these by site, where others are relaxed. The same for model and guide.
        scoring: What scores a relaxed site: its "concrete" density, or the "discrete"
            log-probability read off at the point (eq. 21), with the discrete KL in
            `TraceMeanField_ELBO` (eq. 22). At soft points discrete scoring is no bound,
            and is nearer to the discrete ELBO at low temperatures: a confident guide
            pays the discrete KL, not the larger one of two Concretes. By default that
            of the estimator: concrete for the first two, and always discrete for the
            others, whose points are hard. The same for model and guide.

    Returns:
        The relaxed program, with the arguments of `fn`.

    Raises:
        TypeError: If no temperature is given, or what is no estimator; and in the
            program, where it needs a drawn value (``if z:``, ``z.item()``,
            ``range(z)``), by site.
        ValueError: If the temperature is not positive, the scoring unknown or not one
            of the estimator; at a site with an unbounded support that is not truncated,
            or which model and guide relax in different ways, by name; if a setting
            names a site that the program does not have.
        NotImplementedError: At a site of vectors other than one-hot ones, by name.

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
    settings = Settings(checked(temperature), sites, truncate, estimator, scoring)
    if fn is None:
        options: Any = {"sites": sites, "truncate": truncate}
        options |= {"estimator": estimator, "scoring": scoring}
        return functools.partial(relax, temperature=temperature, **options)

    return RelaxedProgram(fn, settings)


class RelaxedProgram:
    """A program whose sites are relaxed: what `relax` returns.

    Args:
        fn: Model or guide.
        settings: Settings of `relax`.
    """

    def __init__(self, fn: Callable, settings: Settings) -> None:
        functools.update_wrapper(self, fn, updated=())
        self.fn = fn
        self.settings = settings

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program, relaxed unless it is hardened or predicts."""
        if surroundings().runs_discrete:
            settings = self.settings.of_run()
            with DiscreteMessenger(None, settings):
                result = self.fn(*args, **kwargs)
            check_names(settings.by_name(), settings.seen)
            return result
        settings = self.settings.now()
        with Interpreter() as interpreter:
            with RelaxMessenger(interpreter, settings):
                result = self.fn(*args, **kwargs)
            check_names(settings.by_name(), settings.seen)
            return interpreter.lower(result)


def config_relax(
    fn: Callable | None = None,
    default: bool = True,
    *,
    temperature: ArrayLike | Callable | None = None,
    truncate: int | float | None = None,
    estimator: AbstractEstimator | None = None,
) -> Any:
    """Mark the latent discrete sites of a program for `relax`.

    As `config_enumerate` does for enumeration: every latent discrete site without a
    mark for relaxation or enumeration gets ``infer={"relax": ...}``.

    Args:
        fn: Model or guide. Without it, a decorator is returned.
        default: Whether `relax` takes the sites.
        temperature: Relaxation temperature of these sites, > 0; by default that of
            `relax`.
        truncate: Truncation of these sites, as for `relax`.
        estimator: Estimator of these sites, as for `relax`.

    Returns:
        The program with marks, with the arguments of `fn`.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model():
        ...     numpyro.sample("z", dist.Categorical(logits=jnp.zeros(3)))
        >>> seeded = numpyro.handlers.seed(config_relax(model, temperature=0.5), 0)
        >>> numpyro.handlers.trace(seeded).get_trace()["z"]["infer"]
        {'relax': {'temperature': 0.5}}

    Counterpart: :func:`pyro_concrete.config_relax`.
    """
    given = {"temperature": temperature, "truncate": truncate, "estimator": estimator}
    marks = {key: value for key, value in given.items() if value is not None}
    return ConfigMessenger(fn, marks if default else False)


def harden(fn: Callable) -> Callable:
    """Return the discrete program that a relaxed guide or model stands for.

    Each site ``z_relaxed`` with a Concrete distribution is replaced by its discrete
    site ``z``, and the program goes on with the hard value. The argmax of a Concrete
    sample is a sample of its categorical at every temperature, so this is exact: use
    ``Trace_ELBO().loss(key, params, model, harden(guide), ...)`` for the discrete ELBO
    of a model that was trained relaxed.

    A program of `relax` runs unrelaxed inside, and receives numbers; sites of unbounded
    support stay truncated. Where a handler sets ``z_relaxed``, ``z`` is its nearest
    value.

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
    """Relax one site of a model, in the convention of NumPyro's reparameterizers.

    The same as `relax` for the site that `handlers.reparam` is configured with. A
    reparameterizer cannot follow a value into JAX's functions, which therefore refuse a
    soft one; its operators work. `relax`, with `sites` to choose, has no such limit,
    and is the one for guides.

    Shapes:
        temperature: scalar, or broadcastable to the batch shape of the site.

    Args:
        temperature: Relaxation temperature, > 0.
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
        temperature: ArrayLike | Callable,
        *,
        truncate: int | float | None = None,
        estimator: AbstractEstimator | None = None,
        scoring: str | None = None,
    ) -> None:
        self.temperature = checked(temperature)
        self.truncate = truncate
        self.estimator, self.scoring = estimator or Relaxed(), scoring
        validate_estimator(self.estimator, scoring)

    def __call__(
        self, name: str, fn: Distribution, obs: ArrayLike | None
    ) -> tuple[Distribution | None, Any]:
        """Replace the distribution and value of one site, unless it is observed."""
        if obs is not None:
            return fn, obs
        how = self.temperature, self.truncate, self.estimator, self.scoring
        site = Site(name, fn, *how)
        if len(site.values) < 2:
            return fn, obs  # a constant
        around = surroundings(reparam)
        guidance = around.guidance({**_MESSAGE, "name": name, "fn": fn})
        if around.runs_discrete or guidance.leaves_discrete:
            check_hardened(name, guidance)
            if guidance.point is not None:
                return site.discrete, site.discrete_value(guidance.point)
            return site.discrete, obs
        check_guide(name, site.relaxed, guidance)
        point = sample(name + SUFFIX, site.relaxed, infer=site.infer)
        return None, site.value(jnp.asarray(point))
