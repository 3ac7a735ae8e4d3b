"""relax, config_relax, harden and ConcreteReparam: what users call.

Counterpart: ``numpyro_concrete.relaxation.programs``.
"""

from collections.abc import Callable
from typing import Any

import pyro
from pyro.infer.reparam.reparam import Reparam
from pyro.poutine.reparam_messenger import ReparamMessenger

from pyro_concrete.estimators import (
    AbstractEstimator,
    Estimator,
    Relaxed,
    validate_estimator,
)
from pyro_concrete.relaxation.handlers import (
    ConfigMessenger,
    HardenMessenger,
    RelaxMessenger,
    surroundings,
)
from pyro_concrete.relaxation.site import (
    SUFFIX,
    Deterministic,
    Site,
    Sites,
    SiteTemperature,
    Temperature,
    Truncate,
    check_guide,
    check_hardened,
    checked,
    known,
)

# What a message has beside that which a reparameterizer gets of it.
_MESSAGE: dict[str, Any] = {"type": "sample", "infer": {}, "cond_indep_stack": ()}
_MESSAGE |= {"args": (), "kwargs": {}, "scale": 1.0, "mask": None}


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
    ``torch.where(z > 2, a, b)``. Relax the model and the guide, each with a temperature
    of its own, and train them by any ELBO: with `Trace_ELBO` that is a true bound on
    the relaxed model's evidence (eq. 20); never compare it with a discrete ELBO.

    One site can be marked for itself, by ``infer={"relax": {"temperature": 0.5}}`` or
    with `config_relax`. A site that is named in `sites`, or marked for relaxation, is
    relaxed even if it is marked for enumeration, too.

    Sites of Pyro's own relaxations, `RelaxedBernoulli`, `RelaxedOneHotCategorical` and
    their straight-through classes, are relaxed in log space as well, at their own
    temperature and with their own estimator; the program receives floats, as it
    expects. ``infer={"relax": False}`` leaves one as it is.

    While a trace is replayed, as by an ELBO, a site follows it: it is relaxed if the
    trace has ``z_relaxed``, and stays discrete if the trace does not know it, as a
    prediction. In `harden` and in Pyro's `Predictive` the program runs discrete, as
    if it had not been relaxed.

    A relaxed module is a module with the same parameters, which keep their names in the
    param store; in `state_dict` they begin with ``fn.``.

    Shapes:
        temperature: scalar, or broadcastable to the batch shape of every site.

    Args:
        fn: Model or guide. Without it, a decorator and context manager is returned.
        temperature: Relaxation temperature, > 0, a schedule from
            `pyro_concrete.schedules` (or any callable from the step to the
            temperature), or a mapping of these by site. The paper's (model, guide)
            pairs are (1/2, 2/3) for two values, (2/3, 1) for four, (2/5, 2/3) for
            eight.
        sites: Names of the sites to relax, or a predicate on Pyro's site messages; by
            default every site that can be.
        truncate: For sites with an unbounded support, such as a Poisson: the largest
            value to keep, or, as a float in (0, 1), the largest mass to leave out,
            which is worked out at every call. A mapping by site, or one for all. The
            mass that is left out is the deterministic site ``z_left_out``.
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
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(logits=torch.zeros(3)))
        ...     return torch.tensor([-1.0, 0.0, 1.0])[z]
        >>> trace = pyro.poutine.trace(relax(model, temperature=0.5)).get_trace()
        >>> [name for name in trace.nodes if name.startswith("z")]
        ['z_relaxed', 'z']

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Counterpart: :func:`numpyro_concrete.relax`.
    """
    messenger = RelaxMessenger(temperature, sites, truncate, estimator, scoring)
    return messenger if fn is None else messenger(fn)


def config_relax(
    fn: Callable | None = None,
    default: bool = True,
    *,
    temperature: SiteTemperature | None = None,
    truncate: int | float | None = None,
    estimator: AbstractEstimator | None = None,
) -> Any:
    """Mark the latent discrete sites of a program for `relax`.

    As `config_enumerate` does for enumeration: every latent discrete site without a
    mark for relaxation or enumeration gets ``infer={"relax": ...}``.

    Args:
        fn: Model or guide. Without it, a decorator and context manager is returned.
        default: Whether `relax` takes the sites.
        temperature: Relaxation temperature of these sites, > 0; by default that of
            `relax`.
        truncate: Truncation of these sites, as for `relax`.
        estimator: Estimator of these sites, as for `relax`.

    Returns:
        The program with marks, with the arguments of `fn`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Categorical(logits=torch.zeros(3)))
        >>> trace = pyro.poutine.trace(config_relax(model, temperature=0.5)).get_trace()
        >>> trace.nodes["z"]["infer"]
        {'relax': {'temperature': 0.5}}

    Counterpart: :func:`numpyro_concrete.config_relax`.
    """
    given = {"temperature": temperature, "truncate": truncate, "estimator": estimator}
    marks = {key: value for key, value in given.items() if value is not None}
    messenger = ConfigMessenger(marks if default else False)
    return messenger if fn is None else messenger(fn)


def harden(fn: Callable) -> Callable:
    """Return the discrete program that a relaxed guide or model stands for.

    Each site ``z_relaxed`` with a Concrete distribution is replaced by its discrete
    site ``z``, and the program goes on with the hard value. The argmax of a Concrete
    sample is a sample of its categorical at every temperature, so this is exact: use
    ``Trace_ELBO().loss(model, harden(guide), ...)`` for the discrete ELBO of a model
    that was trained relaxed.

    A program of `relax` runs unrelaxed inside, and receives numbers; sites of unbounded
    support stay truncated. Where a handler sets ``z_relaxed``, ``z`` is its nearest
    value.

    Args:
        fn: A relaxed program: the result of `relax`, or one that samples from
            `ExpConcrete` or `LogitBinaryConcrete` at sites named ``..._relaxed``.

    Returns:
        The discrete program, with the arguments of `fn`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def guide():
        ...     fn = dist.Bernoulli(logits=torch.zeros(2)).to_event()
        ...     return pyro.sample("z", fn)
        >>> z = harden(relax(guide, temperature=0.5))()
        >>> (1.0 * z).unique().tolist() in ([0.0], [1.0], [0.0, 1.0])
        True

    Counterpart: :func:`numpyro_concrete.harden`.
    """
    return HardenMessenger()(fn)


class ConcreteReparam(Reparam):
    """Relax one site of a model, in the convention of Pyro's reparameterizers.

    The same as `relax` for the site that `poutine.reparam` is configured with. Pyro's
    reparameterizers cannot mark sites as auxiliary: for guides, use `relax`.

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
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     return pyro.sample("z", dist.OneHotCategorical(logits=torch.zeros(3)))
        >>> config = {"z": ConcreteReparam(0.5)}
        >>> pyro.poutine.reparam(model, config=config)().shape
        torch.Size([3])

    Counterpart: :class:`numpyro_concrete.ConcreteReparam`.
    """

    def __init__(
        self,
        temperature: SiteTemperature,
        *,
        truncate: int | float | None = None,
        estimator: AbstractEstimator | None = None,
        scoring: str | None = None,
    ) -> None:
        self.temperature = checked(temperature)
        self.truncate = truncate
        self.estimator, self.scoring = estimator or Relaxed(), scoring
        validate_estimator(self.estimator, scoring)

    def apply(self, msg: dict[str, Any]) -> dict[str, Any]:
        """Replace the message of one site, unless it is observed."""
        if msg["is_observed"]:
            return msg
        fn = known(msg["fn"], msg["name"])
        how = self.temperature, self.truncate, self.estimator, self.scoring
        site = Site(msg["name"], fn, *how)
        if len(site.values) < 2:
            return msg  # a constant
        around = surroundings(ReparamMessenger)
        guidance = around.guidance({**_MESSAGE, **msg})
        if around.runs_discrete or guidance.leaves_discrete:
            check_hardened(site.name, guidance)
            value = msg["value"]
            if guidance.point is not None:
                value = site.discrete_value(guidance.point)
            return {**msg, "fn": site.discrete, "value": value}
        check_guide(site.name, site.relaxed, guidance)
        point = pyro.sample(site.name + SUFFIX, site.relaxed, infer=site.infer)
        seen, value = site.value(point)
        fn = Deterministic(seen, fn.event_dim)
        return {"fn": fn, "value": value, "is_observed": True}
