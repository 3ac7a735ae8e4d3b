"""AutoConcrete: a guide for relaxed models.

Counterpart: ``numpyro_concrete.guides.auto_concrete``.
"""

import operator
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal, init_to_feasible
from pyro.infer.autoguide.utils import deep_setattr
from pyro.nn import PyroModule, PyroParam
from pyro.ops.tensor_utils import periodic_repeat
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor
from torch.distributions import biject_to
from torch.nn import Parameter
from torch.nn.functional import one_hot

from pyro_concrete.distributions import AbstractConcrete, AbstractHard, as_temperature
from pyro_concrete.guides.factors import (
    ConcreteFactor,
    FactorMessenger,
    NormalFactor,
    is_masked,
    mask_of,
)
from pyro_concrete.relaxation.finite_support import only_value
from pyro_concrete.relaxation.handlers import (
    HardenMessenger,
    TrainingMessenger,
    hardened_in_prediction,
    relaxed_in_prediction,
)
from pyro_concrete.relaxation.site import (
    SUFFIX,
    Deterministic,
    Temperature,
    check_relaxed_names,
    checked,
    is_discrete,
    leaf_of,
    of_site,
)
from pyro_concrete.schedules import current_temperature


class AutoConcrete(AutoNormal):
    r"""A guide for a relaxed model: a Concrete factor for each relaxed site.

    Relaxed sites are independent of each other, each with logits of its own, in the
    family of the model's site (`ExpConcrete`, `LogitBinaryConcrete`). Continuous sites
    are normal in unconstrained space, as in `AutoNormal`. Sites that the model marks
    for enumeration are left to `TraceEnum_ELBO`. `harden` makes it the discrete guide
    that it stands for.

    Masks of the model apply to the factors as well, at every call: what is masked is
    sampled from the model, as from its prior, and not scored. Under masks the guide
    therefore runs the model once at each call. It looks for masks at its first call,
    at calls with arguments of other types or shapes, and whenever it is hardened.

    .. math:: q(z_1, \dots, z_m) = \prod_i \mathrm{Concrete}(z_i; a_i, t_i)

    Parameters are ``AutoConcrete.logits.<site>``, and those of `AutoNormal`. In a
    subsampled plate they have its full size.

    Shapes:
        logits: batch shape of the site, and the classes; two-valued sites have one
            logit, of the value one.

    Args:
        model: A relaxed model: the result of `relax`.
        temperature: Temperature of the guide's factors, > 0; a schedule, or a mapping
            by site. By default the model's.
        init_logits: Where logits start: "prior", at the model's own; "init_loc_fn", at
            the point that it gives to the sites ``..._relaxed``, in log space; or a
            mapping from the names of sites to logits, the prior's for other sites.
        init_loc_fn: Initial value of continuous sites; see Pyro's initialization.
        init_scale: Initial scale of continuous sites, > 0, in unconstrained space.
        create_plates: As in Pyro's guides: makes plates that are subsampled.

    Raises:
        ValueError: At the first call, if the model has a discrete site that is neither
            relaxed nor enumerated, by name; if `init_logits` does not fit.
        NotImplementedError: If a sequential plate is subsampled.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_concrete import relax
        >>> def model():
        ...     probs = torch.tensor([0.2, 0.3, 0.5])
        ...     z = pyro.sample("z", dist.Categorical(probs))
        ...     pyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=torch.tensor(2.0))
        >>> pyro.clear_param_store()
        >>> guide = AutoConcrete(relax(model, temperature=0.5), temperature=2 / 3)
        >>> list(guide())
        ['z_relaxed']
        >>> guide.probabilities()["z"]
        tensor([0.2000, 0.3000, 0.5000], grad_fn=<SoftmaxBackward0>)

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`numpyro_concrete.AutoConcrete`.
    """

    def __init__(
        self,
        model: Callable,
        temperature: Temperature | None = None,
        *,
        init_logits: str | Mapping[str, Any] = "prior",
        init_loc_fn: Callable = init_to_feasible,
        init_scale: float = 0.1,
        create_plates: Callable | None = None,
    ) -> None:
        if isinstance(init_logits, str) and init_logits not in ("prior", "init_loc_fn"):
            raise ValueError(
                'init_logits is "prior", "init_loc_fn" or a mapping by site, not '
                f"{init_logits!r}"
            )
        self.init_logits = init_logits
        self._given_init_loc_fn = init_loc_fn
        program = WithoutSteps()(model)
        super().__init__(
            program,
            init_loc_fn=self._init_loc,
            init_scale=init_scale,
            create_plates=create_plates,
        )
        # In a tuple, as Pyro keeps its own: a module would be registered as a part.
        self._program: tuple[Callable] | None = (program,)
        self.temperature = self._registered(temperature)
        self._relaxed: dict[str, dict[str, Any]] = {}
        self._constants: dict[str, dict[str, Any]] = {}
        self._is_masked = False
        self._seen_calls: set[Hashable] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model behind, as Pyro's guides do."""
        state = super().__getstate__()
        return {**state, "_program": None}

    def _registered(self, temperature: Temperature | None) -> Any:
        """A temperature whose parameters are parameters of the guide."""
        if temperature is None:
            return None
        temperature = checked(temperature)
        if not isinstance(temperature, Mapping):
            return temperature
        self.temperatures = PyroModule()
        for name, value in temperature.items():
            if isinstance(value, Parameter):
                deep_setattr(self.temperatures, name, value)
        return temperature

    @staticmethod
    def _prototype_hide_fn(msg: dict[str, Any]) -> bool:
        return not _is_latent(msg) or is_discrete(msg["fn"]) or _is_relaxed(msg)

    def _init_loc(self, site: dict[str, Any]) -> Tensor:
        if is_discrete(site["fn"]):
            value = site["fn"].sample()
            # Pyro's mark of values that nobody chose: ConcreteReparam may ignore it.
            value._pyro_custom_init = False
            return value
        if _is_relaxed(site):
            if self.init_logits != "init_loc_fn":
                return _centre(site["fn"])
            _check_soft(site)
        _check_bijection(site)
        return self._given_init_loc_fn(site)

    @relaxed_in_prediction
    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        shown = poutine.block(self.model, lambda msg: not _is_latent(msg))
        with poutine.block(), torch.no_grad():
            trace = poutine.trace(shown).get_trace(*args, **kwargs)
        latent = {k: s for k, s in trace.nodes.items() if _is_latent(s)}
        self._relaxed = {k: s for k, s in latent.items() if _is_relaxed(s)}
        self._constants = {k: s for k, s in latent.items() if _is_constant(s)}
        _check(latent, self.init_logits)
        self._is_masked = any(is_masked(latent[name]) for name in self._sites)
        self._seen_calls.add(_kind_of_call(args, kwargs))
        names = [name.removesuffix(SUFFIX) for name in self._relaxed]
        check_relaxed_names("temperature", self.temperature, names)
        self.logits = PyroModule()
        for name, site in self._relaxed.items():
            for frame in site["cond_indep_stack"]:
                self._prototype_frames[frame.name] = frame
            logits = self._start(name.removesuffix(SUFFIX), site)
            parameter = PyroParam(logits, constraints.real, site["fn"].event_dim)
            deep_setattr(self.logits, name.removesuffix(SUFFIX), parameter)

    def _start(self, name: str, site: dict[str, Any]) -> Tensor:
        """The first logits of a site, of the full size of its plates."""
        fn, given = site["fn"], self.init_logits
        if isinstance(given, Mapping) and name in given:
            return _given_logits(name, given[name], site)
        own = given == "init_loc_fn"
        logits = site["value"] if own else _prior(fn)
        shape = fn.batch_shape + fn.event_shape
        logits = logits.expand(shape)
        for frame in site["cond_indep_stack"]:
            if _is_subsampled(frame):
                dim = frame.dim - fn.event_dim
                logits = periodic_repeat(logits, frame.full_size, dim)
        return logits.detach().clone().contiguous()

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample every latent site of the relaxed model, by name."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        if self._has_masks(args, kwargs):
            return self._sample_in_model(args, kwargs)
        result = super().forward(*args, **kwargs)
        hardened = hardened_in_prediction()
        for name, site in self._relaxed.items():
            with hardened, self._plates_of(site):
                fn = self._factor(name)(leaf_of(site["fn"]), True)
                fn = fn.to_event(_inner(site))
                # What `harden` has to know.
                infer: Any = {"_values": site["infer"].get("_values")}
                result[name] = pyro.sample(name, fn, infer=infer)
        for name, site in self._constants.items():
            with self._plates_of(site):
                result[name] = pyro.sample(name, _constant(site))
        return result

    def _has_masks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the model may mask latent sites at this call, or did at another."""
        kind = _kind_of_call(args, kwargs)
        # The discrete ELBO is to be exact, and is not what a training loop computes.
        hardened = any(isinstance(x, HardenMessenger) for x in _PYRO_STACK)
        if not self._is_masked and (hardened or kind not in self._seen_calls):
            self._is_masked = self._look_for_masks(args, kwargs)
            self._seen_calls.add(kind)
        return self._is_masked

    def _look_for_masks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Run the model, which is discrete then, for the masks of its latent sites."""
        if self._program is None:
            return False
        state = get_rng_state()
        with poutine.block(), HardenMessenger(), torch.no_grad():
            trace = poutine.trace(self._program[0]).get_trace(*args, **kwargs)
        set_rng_state(state)  # to look changes no draw
        relaxed = {name.removesuffix(SUFFIX) for name in self._relaxed}
        discrete = [trace.nodes[name] for name in relaxed if name in trace.nodes]
        if any(mask_of(site["fn"], site["mask"]) is not True for site in discrete):
            return True
        others = self._sites.keys() - self._relaxed.keys()
        return any(is_masked(trace.nodes[n]) for n in others if n in trace.nodes)

    def _sample_in_model(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Sample the factors where the model has their sites, under its masks."""
        if self._program is None:
            raise RuntimeError(
                "the model of this AutoConcrete masks latent sites, and a guide is "
                "pickled without its model. Make it anew, and load its parameters"
            )
        plates = self._create_plates(*args, **kwargs)
        factors = {}
        for name, site in self._sites.items():
            with self._plates_of(site):
                factors[name] = self._factor(name)
        messenger = FactorMessenger(factors, self._constants, plates)
        visible = poutine.block(hide_fn=messenger.hides)
        with hardened_in_prediction(), visible, TrainingMessenger(), messenger:
            self._program[0](*args, **kwargs)
        return messenger.values

    @property
    def _sites(self) -> dict[str, dict[str, Any]]:
        """The sites that have factors, by name."""
        trace: Any = self.prototype_trace
        return dict(trace.iter_stochastic_nodes()) | self._relaxed

    def _plates_of(self, site: dict[str, Any]) -> ExitStack:
        stack = ExitStack()
        for frame in site["cond_indep_stack"]:
            stack.enter_context(self.plates[frame.name])
        return stack

    def _logits(self, name: str) -> Tensor:
        return operator.attrgetter(name.removesuffix(SUFFIX))(self.logits)

    def _factor(self, name: str) -> ConcreteFactor | NormalFactor:
        """The factor of a site, at the parameters as they are."""
        if name not in self._relaxed:
            return NormalFactor(*self._get_loc_and_scale(name))
        site = self._relaxed[name]
        temperature = self._temperature_of(name.removesuffix(SUFFIX), site)
        return ConcreteFactor(leaf_of(site["fn"]), temperature, self._logits(name))

    def _temperature_of(self, name: str, site: dict[str, Any]) -> Any:
        """The temperature of a site's factor, which broadcasts with its logits."""
        given = of_site(self.temperature, name)
        if isinstance(self.temperature, Mapping) and isinstance(given, Parameter):
            given = operator.attrgetter(name)(self.temperatures)
        if given is None:
            given = site["infer"].get("_temperature")
        if given is None:
            return leaf_of(site["fn"])._original_temperature
        temperature = as_temperature(current_temperature(given))
        if isinstance(temperature, Tensor) and temperature.dim():
            return temperature.reshape(temperature.shape + (1,) * _inner(site))
        return temperature

    def probabilities(self) -> dict[str, Tensor]:
        """Return the probability of each value of each relaxed site, by name.

        Returns:
            Probabilities of the shape of the site and, last, the classes: the values
            of the site in order. Two-valued sites have two.

        Raises:
            RuntimeError: If the guide has not been called yet: it knows no sites then.
        """
        if self.prototype_trace is None:
            raise RuntimeError("call the guide, or train it, before you ask it")
        return {
            name.removesuffix(SUFFIX): _probabilities(site, self._logits(name))
            for name, site in self._relaxed.items()
        }

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the posterior median of each latent site of the discrete model.

        That of a relaxed site is the least value of it that, with those below, has
        probability one half; for classes without an order see `probabilities`.
        """
        return super().median(*args, **kwargs) | self._of_values([0.5], 0)

    @torch.no_grad()
    def quantiles(self, quantiles: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return posterior quantiles of each latent site of the discrete model.

        Args:
            quantiles: Levels, in [0, 1].
            args: Arguments of the model.
            kwargs: Keyword arguments of the model.

        Returns:
            Quantiles of each level along the first axis; of relaxed sites see
            `median`.
        """
        normal = super().quantiles(quantiles, *args, **kwargs)
        return normal | self._of_values(quantiles, None)

    def _of_values(self, levels: Any, pick: int | None) -> dict[str, Tensor]:
        """Quantiles of relaxed sites, or that of one level."""
        found = {}
        for name, site in self._relaxed.items():
            probs = _probabilities(site, self._logits(name))
            below = probs.cumsum(-1).clamp(max=1.0)
            level = torch.as_tensor(levels, dtype=probs.dtype, device=probs.device)
            level = level.reshape(-1, *(1,) * below.dim())
            # The last class is reached whatever rounding makes of the sum.
            at = (below[..., :-1] < level).sum(-1)
            values = _values(site)
            hot = one_hot(at, below.shape[-1]).to(below)
            value = hot if values is None else values[at]
            found[name.removesuffix(SUFFIX)] = value if pick is None else value[pick]
        return found


class WithoutSteps(Messenger):
    """Hide sequential plates, which make sites of their own, from Pyro's guides."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        for frame in msg["cond_indep_stack"]:
            if not frame.vectorized and _is_subsampled(frame):
                raise NotImplementedError(
                    f"site {msg['name']!r} is in the sequential plate {frame.name!r}, "
                    "which is subsampled: AutoConcrete cannot know its other sites. "
                    "Write the plate vectorized, with pyro.plate(...) as a context"
                )
        stack = msg["cond_indep_stack"]
        msg["cond_indep_stack"] = tuple(frame for frame in stack if frame.vectorized)


def _is_latent(msg: Any) -> bool:
    if msg["type"] != "sample" or msg["is_observed"] or site_is_subsample(msg):
        return False
    return not msg["infer"].get("is_auxiliary")


def _is_relaxed(msg: dict[str, Any]) -> bool:
    return isinstance(leaf_of(msg["fn"]), AbstractConcrete)


def _is_constant(msg: dict[str, Any]) -> bool:
    """Whether a discrete site has one value, so that there is nothing to relax."""
    if not is_discrete(msg["fn"]) or msg["infer"].get("enumerate"):
        return False
    return only_value(leaf_of(msg["fn"])) is not None


def _inner(site: dict[str, Any]) -> int:
    """Number of batch axes of a relaxed site's leaf that belong to its event."""
    return site["fn"].event_dim - type(leaf_of(site["fn"]))._class_dims


def _constant(site: dict[str, Any]) -> Deterministic:
    """The factor of a site with one value, which plates expand."""
    fn = site["fn"]
    shape = list(fn.batch_shape)
    for frame in site["cond_indep_stack"]:
        shape[frame.dim] = 1
    value = only_value(leaf_of(fn))
    assert value is not None
    return Deterministic(value.expand((*shape, *fn.event_shape)), fn.event_dim)


def _kind_of_call(*arguments: Any) -> Hashable:
    """What Python code can tell of arguments before it reads the values of tensors."""
    return tuple(_kind_of(x) for x in arguments)


def _kind_of(x: Any) -> Hashable:
    if isinstance(x, Tensor):
        return x.shape, x.dtype
    if isinstance(x, Mapping):
        return type(x), tuple((str(key), _kind_of(value)) for key, value in x.items())
    if isinstance(x, tuple | list):
        return type(x), _kind_of_call(*x)
    if x is None or isinstance(x, bool | int | str):
        return x
    return type(x)


def _is_subsampled(frame: Any) -> bool:
    return frame.full_size is not None and frame.full_size != frame.size


def _check(latent: dict[str, dict[str, Any]], init_logits: Any) -> None:
    """Raise an error at a site that the guide cannot deal with."""
    for name, site in latent.items():
        if is_discrete(site["fn"]) and not (
            site["infer"].get("enumerate") or _is_constant(site)
        ):
            raise ValueError(
                f"site {name!r} is discrete, and neither relaxed nor enumerated. "
                "Relax it, AutoConcrete(relax(model, temperature)), or mark it with "
                "infer={'enumerate': 'parallel'}"
            )
    names = {n.removesuffix(SUFFIX) for n, s in latent.items() if _is_relaxed(s)}
    unknown = set(init_logits) - names if isinstance(init_logits, Mapping) else set()
    if unknown:
        raise ValueError(
            f"init_logits names no relaxed site: {sorted(unknown)}; the model has "
            f"{sorted(names)}"
        )


def _check_bijection(site: dict[str, Any]) -> None:
    """Raise an error at a site that no normal factor fits, such as a matching."""
    try:
        biject_to(site["fn"].support)
    except NotImplementedError:
        name, family = site["name"], type(leaf_of(site["fn"])).__name__
        raise NotImplementedError(
            f"site {name!r} ~ {family}: AutoConcrete has no factor for it, since it is "
            "neither relaxed nor continuous. Hide it, AutoConcrete(block(model, "
            f"hide=[{name!r}])), and add a guide for it in an AutoGuideList"
        ) from None


def _check_soft(site: dict[str, Any]) -> None:
    """Raise an error at a site that has no points in log space."""
    leaf = leaf_of(site["fn"])
    if isinstance(leaf, AbstractHard):
        raise ValueError(
            f"init_logits='init_loc_fn' takes the point that it gives to site "
            f"{site['name']!r} as logits, and under {leaf.estimator} points are hard. "
            "Give a mapping of logits by site, or 'prior'"
        )


def _prior(fn: Any) -> Tensor:
    """The logits of a relaxed site, normalised."""
    leaf = leaf_of(fn)
    logits = leaf.logits.log_softmax(-1) if leaf._class_dims else leaf.logits
    return logits.detach().expand(fn.batch_shape + fn.event_shape)


def _centre(fn: Any) -> Tensor:
    """The point of a relaxed site that is nearest to the probabilities of the prior."""
    return leaf_of(fn).center.detach().expand(fn.batch_shape + fn.event_shape)


def _given_logits(name: str, logits: Any, site: dict[str, Any]) -> Tensor:
    fn = site["fn"]
    shape = list(fn.batch_shape + fn.event_shape)
    for frame in site["cond_indep_stack"]:
        shape[frame.dim - fn.event_dim] = frame.full_size or frame.size
    logits = torch.as_tensor(logits).to(leaf_of(fn).logits)
    try:
        return logits.expand(shape).detach().clone()
    except RuntimeError:
        raise ValueError(
            f"init_logits of site {name!r} have shape {tuple(logits.shape)}, and the "
            f"site needs {tuple(shape)}"
        ) from None


def _values(site: dict[str, Any]) -> Tensor | None:
    """The values of a site in the order of its classes; None for one-hot vectors."""
    if not leaf_of(site["fn"])._class_dims:
        return torch.arange(2).to(leaf_of(site["fn"]).logits)
    return site["infer"].get("_values")


def _probabilities(site: dict[str, Any], logits: Tensor) -> Tensor:
    if not leaf_of(site["fn"])._class_dims:
        return torch.stack([-logits, logits], -1).sigmoid()
    return logits.softmax(-1)
