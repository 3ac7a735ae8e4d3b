"""AutoConcrete: a guide for relaxed models.

Twin: ``numpyro_concrete.guides``.
"""

import operator
from collections.abc import Callable, Mapping
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
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_concrete.distributions import AbstractConcrete, AbstractHard
from pyro_concrete.relaxation.handlers import (
    hardened_in_prediction,
    relaxed_in_prediction,
)
from pyro_concrete.relaxation.site import (
    SUFFIX,
    Temperature,
    check_relaxed_names,
    checked,
    is_discrete,
    leaf_of,
    of_site,
)
from pyro_concrete.schedules import at_this_step


class AutoConcrete(AutoNormal):
    r"""A guide for a relaxed model: a Concrete factor for each relaxed site.

    Relaxed sites are independent of each other, each with logits of its own, in the
    family of the model's site (`ExpConcrete`, `LogitBinaryConcrete`). Continuous sites
    are normal in unconstrained space, as in `AutoNormal`. Sites that the model marks
    for enumeration are left to `TraceEnum_ELBO`. `harden` makes it the discrete guide
    that it stands for.

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

    Twin: :class:`numpyro_concrete.AutoConcrete`.
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
        self.temperature = None if temperature is None else checked(temperature)
        self.init_logits = init_logits
        self._given_init_loc_fn = init_loc_fn
        super().__init__(
            WithoutSteps()(model),
            init_loc_fn=self._init_loc,
            init_scale=init_scale,
            create_plates=create_plates,
        )
        self._relaxed: dict[str, dict[str, Any]] = {}

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
        return self._given_init_loc_fn(site)

    @relaxed_in_prediction
    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        shown = poutine.block(self.model, lambda msg: not _is_latent(msg))
        with poutine.block(), torch.no_grad():
            trace = poutine.trace(shown).get_trace(*args, **kwargs)
        latent = {k: s for k, s in trace.nodes.items() if _is_latent(s)}
        self._relaxed = {k: s for k, s in latent.items() if _is_relaxed(s)}
        _check(latent, self.init_logits)
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
        result = super().forward(*args, **kwargs)
        hardened = hardened_in_prediction()
        for name, site in self._relaxed.items():
            with ExitStack() as stack:
                stack.enter_context(hardened)
                for frame in site["cond_indep_stack"]:
                    stack.enter_context(self.plates[frame.name])
                fn = self._factor(name, self._logits(name))
                # What `harden` has to know.
                infer: Any = {"_values": site["infer"].get("_values")}
                result[name] = pyro.sample(name, fn, infer=infer)
        return result

    def _logits(self, name: str) -> Tensor:
        return operator.attrgetter(name.removesuffix(SUFFIX))(self.logits)

    def _factor(self, name: str, logits: Tensor) -> Any:
        site = self._relaxed[name]
        leaf: Any = leaf_of(site["fn"])
        inner = site["fn"].event_dim - type(leaf)._class_dims
        given = of_site(self.temperature, name.removesuffix(SUFFIX))
        if given is None:
            given = site["infer"].get("_temperature")
        temperature = leaf._root if given is None else at_this_step(given)
        if given is not None and isinstance(temperature, Tensor) and temperature.dim():
            temperature = temperature.reshape(temperature.shape + (1,) * inner)
        return leaf.like(temperature, logits).to_event(inner)

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


def _is_subsampled(frame: Any) -> bool:
    return frame.full_size is not None and frame.full_size != frame.size


def _check(latent: dict[str, dict[str, Any]], init_logits: Any) -> None:
    """Raise an error at a site that the guide cannot deal with."""
    for name, site in latent.items():
        if is_discrete(site["fn"]) and not site["infer"].get("enumerate"):
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
    return leaf_of(fn).centre.detach().expand(fn.batch_shape + fn.event_shape)


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
