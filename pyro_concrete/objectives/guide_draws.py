r"""Draws of a guide's discrete sites from noise that further runs reuse.

A binary site with log-odds a is drawn as :math:`a + L > 0`, with logistic noise L, and
a site with logits a as :math:`\arg\max_k (a_k + G_k)`, with Gumbel noise G. REBAR runs
the model and the guide again with relaxed sites on the same noise, and DisARM with the
opposite noise at some sites. So `ParticleNoise` keeps the noise of a particle, and
`DrawMessenger` draws the sites of a guide from it.

Counterpart: ``numpyro_concrete.objectives.guide_draws``.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from pyro.distributions import Distribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from concrete_core.objectives.checks import enumerated_site_message
from concrete_core.objectives.programs import Frame
from concrete_core.types import Message
from pyro_concrete import ops
from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.objectives.traces import is_subsample
from pyro_concrete.planning.provenance import Provenance
from pyro_concrete.relaxation.messages import discrete_name
from pyro_concrete.relaxation.site import Site, SiteSettings, is_discrete
from pyro_concrete.relaxation.wrappers import leaf_of

_NUM_SEEDS = 2**62


class DrawnSite(NamedTuple):
    """One discrete site of the guide, as it was drawn.

    Attributes:
        logits: Logits, or log-odds of a binary site, in the graph of the parameters.
        scores: Logits plus noise, detached.
        is_binary: Whether the site is a Bernoulli.
        value: Discrete value of the site.
        frames: Plates that the site is in.
        event_dim: Number of dims of the scores between those of the batch and that of
            the classes.
    """

    logits: Tensor
    scores: Tensor
    is_binary: bool
    value: Tensor
    frames: tuple[Frame, ...]
    event_dim: int


class Relaxation(NamedTuple):
    """How a run draws the relaxed sites.

    Attributes:
        noise: Noise of each site, by the name of the discrete site.
        temperature: Returns the temperature of a discrete site by its name.
    """

    noise: Mapping[str, Tensor]
    temperature: Callable[[str], Tensor | float]


class ParticleNoise:
    """The noise of a particle by site, the same in each of its runs.

    It is drawn in the first run that needs it, and kept.
    """

    def __init__(self) -> None:
        self._noise: dict[str, Tensor] = {}
        self._seeds: dict[str, int] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self._noise[name]

    def of_site(self, name: str, site: Site) -> Tensor:
        """Return the logistic or Gumbel noise of a discrete site."""
        if name not in self._noise:
            logits = ops.promote_half(leaf_of(site.relaxed).logits)
            shape = site.relaxed.shape()
            uniform = torch.rand(shape, dtype=logits.dtype, device=logits.device)
            transform = ops.logistic if site.is_binary else ops.gumbel
            self._noise[name] = transform(uniform)
        return self._noise[name]

    def reuse_seed(self, name: str, draw: Callable[[], Tensor]) -> Tensor:
        """Draw a continuous site with the same random state in every run."""
        if name not in self._seeds:
            self._seeds[name] = int(torch.randint(_NUM_SEEDS, ()))
        devices = range(0)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices):
            torch.manual_seed(self._seeds[name])
            return draw()


class SubsampleMessenger(Messenger):
    """Gives each plate the subsample of its first run in all further runs."""

    def __init__(self) -> None:
        super().__init__()
        self._subsamples: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Message) -> None:
        if is_subsample(msg) and msg["value"] is None:
            msg["value"] = self._subsamples.get(msg["name"])

    def _pyro_post_sample(self, msg: Message) -> None:
        if is_subsample(msg):
            self._subsamples[msg["name"]] = msg["value"]


class DrawMessenger(Messenger):
    """Draws the sites of a guide from the noise of a particle.

    Args:
        noise: Noise of the particle.
        fixed_values: Values of sites that are not drawn.
        antithetic_sites: Names of the sites that are drawn from the opposite noise.
        relaxation: How relaxed sites are drawn, or None in a discrete run.
        find_parents: Whether to find the discrete sites that each site depends on.
        provenance: What records the operations of the run, to follow the values of
            discrete sites, or None.

    Attributes:
        draws: The discrete sites, by name.
        parents: The discrete sites that the logits of each depend on, if they were
            looked for.
    """

    def __init__(
        self,
        noise: ParticleNoise,
        *,
        fixed_values: Mapping[str, Tensor] | None = None,
        antithetic_sites: Collection[str] = (),
        relaxation: Relaxation | None = None,
        find_parents: bool = False,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        self.noise = noise
        self.fixed_values = fixed_values or {}
        self.antithetic_sites = antithetic_sites
        self.relaxation = relaxation
        self.find_parents = find_parents
        self.provenance = provenance
        self.draws: dict[str, DrawnSite] = {}
        self.parents: dict[str, frozenset[str]] = {}
        self._provenance: Provenance | None = None
        self._exit_stack = ExitStack()

    def __exit__(self, *error: Any) -> Any:
        self._exit_stack.close()
        return super().__exit__(*error)

    def _pyro_sample(self, msg: Message) -> None:
        name = msg["name"]
        fn = msg["fn"]
        if msg["is_observed"] or msg["value"] is not None:
            return
        if name in self.fixed_values:
            msg["value"] = self.fixed_values[name]
        elif is_subsample(msg):
            return
        elif self._is_relaxed(name, fn):
            msg["value"] = self._relaxed_value(discrete_name(name), leaf_of(fn))
        elif is_discrete(fn):
            self._draw_discrete(msg)
        elif not fn.has_rsample:
            raise NotImplementedError(
                f"site {name!r} ~ {type(leaf_of(fn)).__name__} of the guide is "
                "continuous and not reparameterized. RLOO takes any site"
            )
        else:
            msg["value"] = self.noise.reuse_seed(
                name, lambda: fn(*msg["args"], **msg["kwargs"])
            )

    def _draw_discrete(self, msg: Message) -> None:
        """Draw a discrete site by the sign or the argmax of its scores."""
        name = msg["name"]
        site = relaxable_site(msg)
        if site is None:
            return
        logits = leaf_of(site.relaxed).logits
        noise = self.noise.of_site(name, site)
        if name in self.antithetic_sites:
            noise = -noise
        scores = logits.detach() + noise
        classes = class_of_scores(scores, is_binary=site.is_binary)
        value = value_of_class(site, classes)
        if self.find_parents:
            value = self._record_parents(name, logits, value)
        if self.provenance is not None:
            self.provenance.add(value, frozenset({name}))
        num_class_dims = int(not site.is_binary)
        self.draws[name] = DrawnSite(
            logits=logits,
            scores=scores,
            is_binary=site.is_binary,
            value=value,
            frames=tuple(msg["cond_indep_stack"]),
            event_dim=scores.dim() - len(site.relaxed.batch_shape) - num_class_dims,
        )
        msg["value"] = value

    def _record_parents(self, name: str, logits: Tensor, value: Tensor) -> Tensor:
        """Record which earlier values the logits depend on, and follow this value.

        Values that the guide has read as numbers of Python may influence anything that
        comes after. Operations are followed from the first discrete site on: most
        guides have only one, and nothing that depends on it.
        """
        if self._provenance is None:
            self._provenance = self._exit_stack.enter_context(Provenance())
            self.parents[name] = frozenset()
        else:
            values_read = frozenset(self._provenance.read)
            self.parents[name] = self._provenance.of(logits) | values_read
        return self._provenance.named(value, name)

    def _is_relaxed(self, name: str, fn: Distribution) -> bool:
        """Tell whether a site is the relaxed version of one that was drawn."""
        return (
            self.relaxation is not None
            and discrete_name(name) != name
            and discrete_name(name) in self.relaxation.noise
            and isinstance(leaf_of(fn), AbstractConcrete)
        )

    def _relaxed_value(self, name: str, fn: AbstractConcrete) -> Tensor:
        """Return the relaxed sample, in log space, from the noise of the discrete one.

        Its argmax, or its sign, is the discrete value, at every temperature.
        """
        assert self.relaxation is not None
        scores = fn.logits + self.relaxation.noise[name]
        scaled_scores = scores / self.relaxation.temperature(name)
        if not fn.event_shape:
            return scaled_scores
        return scaled_scores.log_softmax(-1)


def relaxable_site(msg: Message) -> Site | None:
    """Return how a discrete site would be relaxed, or None if it has only one value.

    Raises:
        NotImplementedError: If the site is marked for enumeration or has no finite
            support. The message names it.
    """
    name = msg["name"]
    fn = msg["fn"]
    if msg["infer"].get("enumerate"):
        raise NotImplementedError(enumerated_site_message(name))
    try:
        settings = SiteSettings(temperature=1.0, scoring="discrete")
        site = Site(name, fn, settings)
    except (NotImplementedError, ValueError) as error:
        raise NotImplementedError(
            f"site {name!r} ~ {type(leaf_of(fn)).__name__} has no finite support of "
            "scalars or one-hot vectors. RLOO takes any site"
        ) from error
    if len(site.values) == 1:
        return None
    return site


def class_of_scores(scores: Tensor, *, is_binary: bool) -> Tensor:
    """Return the index of the value that scores stand for.

    Example:
        >>> class_of_scores(torch.tensor([-1.0, 2.0]), is_binary=True)
        tensor([0, 1])
    """
    if is_binary:
        return (scores > 0).long()
    return scores.argmax(-1)


def value_of_class(site: Site, classes: Tensor) -> Tensor:
    """Return the values with these indices, in the dtype of Pyro's distribution."""
    if site.is_binary:
        return classes.to(leaf_of(site.discrete).probs.dtype)
    if site.is_one_hot:
        one_hot = torch.nn.functional.one_hot(classes, len(site.values))
        return one_hot.to(leaf_of(site.discrete).probs.dtype)
    return site.values[classes]


def append_event_dims(signal: Tensor, event_dim: int) -> Tensor:
    """Reshape a signal of the batch shape to broadcast over an event.

    Example:
        >>> append_event_dims(torch.zeros(3), 2).shape
        torch.Size([3, 1, 1])
    """
    return signal.reshape(signal.shape + (1,) * event_dim)
