r"""Draws of a guide's discrete sites from noise that further runs reuse.

A binary site with log-odds a is drawn as :math:`a + L > 0`, with logistic noise L, and
a site with logits a as :math:`\arg\max_k (a_k + G_k)`, with Gumbel noise G. REBAR runs
the model and the guide again with relaxed sites on the same noise, and DisARM with the
opposite noise at some sites. So `ParticleNoise` has a random key for each name of a
site, and `DrawMessenger` draws the sites of a guide from it.

Counterpart: ``pyro_concrete.objectives.guide_draws``.
"""

import zlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax, random
from jax.nn import log_softmax, one_hot
from numpyro.distributions import Distribution
from numpyro.infer.util import get_importance_trace
from numpyro.primitives import Messenger

from concrete_core.objectives.checks import enumerated_site_message
from concrete_core.objectives.programs import Frame, Programs
from concrete_core.types import Message, Messages, Params, Program
from numpyro_concrete import ops
from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.planning.provenance import named
from numpyro_concrete.relaxation.messages import discrete_name
from numpyro_concrete.relaxation.site import Site, SiteSettings, is_discrete
from numpyro_concrete.relaxation.wrappers import leaf_of


class DrawnSite(NamedTuple):
    """One discrete site of the guide, as it was drawn.

    Attributes:
        logits: Logits, or log-odds of a binary site, with the gradient of the
            parameters.
        scores: Logits plus noise, without gradient.
        is_binary: Whether the site is a Bernoulli.
        value: Discrete value of the site.
        frames: Plates that the site is in.
        event_dim: Number of axes of the scores between those of the batch and that of
            the classes.
    """

    logits: Array
    scores: Array
    is_binary: bool
    value: Array
    frames: tuple[Frame, ...]
    event_dim: int


class Relaxation(NamedTuple):
    """How a run draws the relaxed sites.

    Attributes:
        shifts: What is added to the noise of each site, by the name of the discrete
            site: zeros, to differentiate in the noise.
        temperatures: Temperature of each site, likewise.
    """

    shifts: Mapping[str, Array]
    temperatures: Mapping[str, Array]


class ParticleKeys(NamedTuple):
    """Random keys of one particle.

    Attributes:
        particle: Key of its draws.
        subsamples: Key of the subsamples of plates, which all particles share.
    """

    particle: Array
    subsamples: Array


class ParticleNoise:
    """The noise of a particle by site, the same in each of its runs."""

    def __init__(self, key: Array) -> None:
        self.key = key

    def key_of_site(self, name: str) -> Array:
        """Return the random key of a site, which depends on its name alone."""
        return random.fold_in(self.key, zlib.crc32(name.encode()))

    def of_site(self, name: str, relaxed: Distribution) -> Array:
        """Return the logistic or Gumbel noise of a discrete site."""
        leaf = leaf_of(relaxed)
        dtype = ops.promote_half(leaf.logits).dtype
        uniform = random.uniform(self.key_of_site(name), relaxed.shape(), dtype)
        transform = ops.gumbel if leaf.event_shape else ops.logistic
        return transform(uniform)


class KeyMessenger(Messenger):
    """Gives each random site the key of its name.

    `seed` splits its key from site to site, so that the draws of a site would depend
    on the sites that come before it. Runs of a particle do not have the same sites.

    Args:
        noise: Keys of sites.
        subsamples: Keys of the subsamples of plates.
    """

    def __init__(self, noise: ParticleNoise, subsamples: ParticleNoise) -> None:
        super().__init__()
        self.noise = noise
        self.subsamples = subsamples
        self._num_unnamed = 0

    def process_message(self, msg: Message) -> None:
        """Give a random site its key."""
        if msg["type"] not in ("sample", "prng_key", "plate", "control_flow"):
            return
        if msg["kwargs"].get("rng_key") is not None or msg["value"] is not None:
            return
        name = msg.get("name")
        if name is None or msg["type"] == "control_flow":
            self._num_unnamed += 1
            name = f"{msg['type']} {self._num_unnamed}"
        noise = self.noise
        if msg["type"] == "plate":
            noise = self.subsamples
        msg["kwargs"]["rng_key"] = noise.key_of_site(name)


class DrawMessenger(KeyMessenger):
    """Draws the sites of a guide from the noise of a particle.

    Args:
        noise: Noise of the particle.
        subsamples: Keys of the subsamples of plates.
        fixed_values: Values of sites that are not drawn.
        antithetic_sites: Names of the sites that are drawn from the opposite noise.
        relaxation: How relaxed sites are drawn, or None in a discrete run.
        find_parents: Whether to name the values, for `provenance_of`.

    Attributes:
        draws: The discrete sites, by name.
    """

    def __init__(
        self,
        noise: ParticleNoise,
        subsamples: ParticleNoise,
        *,
        fixed_values: Mapping[str, Array] | None = None,
        antithetic_sites: Collection[str] = (),
        relaxation: Relaxation | None = None,
        find_parents: bool = False,
    ) -> None:
        super().__init__(noise, subsamples)
        self.fixed_values = fixed_values or {}
        self.antithetic_sites = antithetic_sites
        self.relaxation = relaxation
        self.find_parents = find_parents
        self.draws: dict[str, DrawnSite] = {}

    def process_message(self, msg: Message) -> None:
        """Give a random site its key, and a site of the guide its value."""
        super().process_message(msg)
        is_latent = msg["type"] == "sample" and not msg["is_observed"]
        if not is_latent or msg["value"] is not None:
            return
        name = msg["name"]
        fn = msg["fn"]
        if name in self.fixed_values:
            msg["value"] = self.fixed_values[name]
        elif self._is_relaxed(name, fn):
            msg["value"] = self._relaxed_value(discrete_name(name), fn)
        elif isinstance(leaf_of(fn), AbstractConcrete):
            return
        elif is_discrete(fn):
            self._draw_discrete(msg)
        elif not fn.has_rsample:
            raise NotImplementedError(
                f"site {name!r} ~ {type(leaf_of(fn)).__name__} of the guide is "
                "continuous and not reparameterized. RLOO takes any site"
            )

    def _draw_discrete(self, msg: Message) -> None:
        """Draw a discrete site by the sign or the argmax of its scores."""
        name = msg["name"]
        site = relaxable_site(msg)
        if site is None:
            return
        logits = leaf_of(site.relaxed).logits
        noise = self.noise.of_site(name, site.relaxed)
        if name in self.antithetic_sites:
            noise = -noise
        scores = lax.stop_gradient(logits) + noise
        classes = class_of_scores(scores, is_binary=site.is_binary)
        value = value_of_class(site, classes)
        if self.find_parents:
            value = named(value, name)
        num_class_axes = int(not site.is_binary)
        self.draws[name] = DrawnSite(
            logits=logits,
            scores=scores,
            is_binary=site.is_binary,
            value=value,
            frames=tuple(msg["cond_indep_stack"]),
            event_dim=scores.ndim - len(site.relaxed.batch_shape) - num_class_axes,
        )
        msg["value"] = value

    def _is_relaxed(self, name: str, fn: Distribution) -> bool:
        """Tell whether a site is the relaxed version of one that was drawn."""
        return (
            self.relaxation is not None
            and discrete_name(name) != name
            and discrete_name(name) in self.relaxation.shifts
            and isinstance(leaf_of(fn), AbstractConcrete)
        )

    def _relaxed_value(self, name: str, relaxed: Distribution) -> Array:
        """Return the relaxed sample, in log space, from the noise of the discrete one.

        Its argmax, or its sign, is the discrete value, at every temperature.
        """
        assert self.relaxation is not None
        leaf = leaf_of(relaxed)
        noise = self.noise.of_site(name, relaxed) + self.relaxation.shifts[name]
        scaled_scores = (leaf.logits + noise) / self.relaxation.temperatures[name]
        if not leaf.event_shape:
            return scaled_scores
        return log_softmax(scaled_scores, -1)


def under_messenger(messenger: Messenger, program: Program) -> Program:
    """Return a program that runs inside of an effect handler."""

    def handled(*args: Any, **kwargs: Any) -> Any:
        with messenger:
            return program(*args, **kwargs)

    return handled


def importance_traces(
    keys: ParticleKeys, params: Params, programs: Programs
) -> tuple[Messages, Messages]:
    """Run the guide, and the model on its draws, for one particle.

    Args:
        keys: Keys of the particle.
        params: Parameters of the model and the guide, constrained.
        programs: Model and guide with their arguments.

    Returns:
        Traces of the model and the guide, with log-probabilities.
    """
    model_key, guide_key = random.split(keys.particle)
    subsamples = ParticleNoise(keys.subsamples)
    return get_importance_trace(
        under_messenger(
            KeyMessenger(ParticleNoise(model_key), subsamples), programs.model
        ),
        under_messenger(
            KeyMessenger(ParticleNoise(guide_key), subsamples), programs.guide
        ),
        programs.args,
        programs.kwargs,
        dict(params),
    )


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


def class_of_scores(scores: Array, *, is_binary: bool) -> Array:
    """Return the index of the value that scores stand for.

    Example:
        >>> class_of_scores(jnp.array([-1.0, 2.0]), is_binary=True).tolist()
        [0, 1]
    """
    if is_binary:
        return (scores > 0).astype(jnp.result_type(int))
    return scores.argmax(-1)


def value_of_class(site: Site, classes: Array) -> Array:
    """Return the values with these indices, in the dtype of NumPyro's distribution."""
    if site.is_binary:
        return classes.astype(jnp.result_type(int))
    if site.is_one_hot:
        dtype = jnp.result_type(site.logits)
        return one_hot(classes, len(site.values), dtype=dtype)
    return jnp.asarray(site.values)[classes]


def append_event_dims(signal: Array, event_dim: int) -> Array:
    """Reshape a signal of the batch shape to broadcast over an event.

    Example:
        >>> append_event_dims(jnp.zeros(3), 2).shape
        (3, 1, 1)
    """
    return signal.reshape(signal.shape + (1,) * event_dim)
