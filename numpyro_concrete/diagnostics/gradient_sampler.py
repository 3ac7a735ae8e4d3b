"""Gradients of an ELBO, drawn in chunks, and what one run shows of the programs.

Counterpart: ``pyro_concrete.diagnostics.gradient_sampler``.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.tree_util import keystr, tree_leaves_with_path
from jax.typing import ArrayLike
from numpyro.distributions import BernoulliLogits, Delta, biject_to, constraints
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from numpyro.infer.elbo import ELBO
from tqdm import tqdm

from concrete_core.diagnostics.candidates import Candidate
from concrete_core.diagnostics.moments import Moments
from concrete_core.types import (
    Arguments,
    KeywordArguments,
    Message,
    Messages,
    Params,
    Program,
)
from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.relaxation.site import is_discrete
from numpyro_concrete.relaxation.wrappers import leaf_of

# A model and its guide.
Programs = tuple[Program, Program]

_MAX_ELEMENTS = 2**20  # of the gradients that are drawn at once
_MAX_DRAWS = 100  # at once
_TIMED_DRAWS = 15


@dataclass(frozen=True)
class _CompiledGradients:
    """The gradient for one key, and for many, compiled; settings come after the key."""

    of_key: Callable
    of_keys: Callable


@dataclass(frozen=True)
class ProgramPair:
    """What one run of a model and its guide shows.

    Attributes:
        model: Random sites of the model.
        guide: Random sites of the guide.
        params: Sites of the parameters of both.
        nesting: Greatest depth of nested plates.
        has_subsamples: Whether a plate takes a subsample.
    """

    model: Messages
    guide: Messages
    params: Messages
    nesting: int
    has_subsamples: bool

    def sites_to_enumerate(self) -> list[str]:
        """Return the names of latent sites that are set to be enumerated."""
        sites = [*self.model.items(), *self.guide.items()]
        return [
            name
            for name, site in sites
            if is_latent(site) and site["infer"].get("enumerate")
        ]

    def unbiased_elbo(self) -> ELBO:
        """Return an ELBO of the backend with unbiased gradients of these programs."""
        if self.sites_to_enumerate():
            return TraceEnum_ELBO(max_plate_nesting=self.nesting)
        if discrete_latents(self.guide):
            return TraceGraph_ELBO()
        return Trace_ELBO()


class GradientSampler:
    """Draws of the gradient of the ELBO in the parameters of a model and guide.

    Args:
        rng_key: Random key.
        params: Parameters of both, constrained; further ones start at the values that
            the programs give.
        model: Discrete model.
        guide: Its discrete guide.
        args: Arguments of both.
        kwargs: Keyword arguments of both.

    Attributes:
        pair: What one run of model and guide shows.
        params: Their parameters, unconstrained: arrays by name and path.
        given_params: The given parameters, constrained.
    """

    def __init__(
        self,
        rng_key: Array,
        params: Params,
        model: Program,
        guide: Program,
        args: Arguments,
        kwargs: KeywordArguments,
    ) -> None:
        self.args = args
        self.kwargs = kwargs
        self.given_params = dict(params)
        self.model = model
        self.guide = guide
        self._key = rng_key
        self.pair = self.inspect(model, guide, validate_guide=validate_unrelaxed)
        self._transforms = {
            name: biject_to(site["kwargs"].get("constraint", constraints.real))
            for name, site in sorted(self.pair.params.items())
        }
        self._unconstrained = {
            name: transform.inv(self.pair.params[name]["value"])
            for name, transform in self._transforms.items()
        }
        self.params = _arrays_by_path(self._unconstrained)
        self._compiled: dict[Callable, _CompiledGradients] = {}

    def _next_key(self) -> Array:
        self._key, key = random.split(self._key)
        return key

    def inspect(
        self,
        model: Program,
        guide: Program,
        validate_guide: Callable[[Messages], None] | None = None,
    ) -> ProgramPair:
        """Run both programs once, the model on the draws of the guide.

        Args:
            model: Model.
            guide: Its guide.
            validate_guide: Called with the sites of the guide before the model runs.
        """
        guide_trace = self._trace(guide, self.given_params, self._next_key())
        guide_sites = _random_sites(guide_trace)
        if validate_guide is not None:
            validate_guide(guide_sites)
        replayed = replay(model, trace=guide_trace)
        model_trace = self._trace(replayed, self.given_params, self._next_key())
        sites = [*model_trace.values(), *guide_trace.values()]
        frames = [f for site in sites for f in site.get("cond_indep_stack", ())]
        plate_sizes = {
            site["name"]: site["args"][0] for site in sites if site["type"] == "plate"
        }
        return ProgramPair(
            model=_random_sites(model_trace),
            guide=guide_sites,
            params={site["name"]: site for site in sites if site["type"] == "param"},
            nesting=max((-f.dim for f in frames), default=0),
            has_subsamples=any(
                f.size != plate_sizes.get(f.name, f.size) for f in frames
            ),
        )

    def sites_at_zero_odds(self) -> list[str]:
        """Return the sites whose log-odds are zero and depend on parameters there."""
        key = self._next_key()

        def sums_at_zero(unconstrained: Params) -> dict[str, Array]:
            params = self._constrain(unconstrained)
            guide_trace = self._trace(self.guide, params, key)
            replayed = replay(self.model, trace=guide_trace)
            model_trace = self._trace(replayed, params, key)
            # A result of its own for jacrev, which needs one.
            sums = {"none": jnp.zeros(())}
            sites = [*model_trace.values(), *guide_trace.values()]
            for number, site in enumerate(sites):
                leaf = leaf_of(site["fn"]) if "infer" in site else None
                if isinstance(leaf, BernoulliLogits):
                    sums[f"{number} {site['name']}"] = _sum_at_zero(leaf.logits)
            return sums

        slopes = jax.jacrev(sums_at_zero)(self._unconstrained)
        return [
            label.split(" ", 1)[1]
            for label, slope in slopes.items()
            if any(np.any(array) for array in jax.tree.leaves(slope))
        ]

    def sample(
        self,
        candidate: Candidate,
        num_samples: int,
        moments: Moments,
        bar: tqdm,
        is_timed: bool = True,
    ) -> float:
        """Draw gradients of the ELBO of a candidate.

        Args:
            candidate: ELBO, and a function from its settings to model and guide. These
                are compiled once for all settings, if it is the same function.
            num_samples: Number of draws.
            moments: Where the gradients are added, of the ELBO and not of the loss.
            bar: Progress bar.
            is_timed: Whether to compile a draw by itself as well, and time it.

        Returns:
            The median time of a draw by itself, compiled, in seconds; or NaN.
        """
        compiled = self._compile(candidate)
        num_params = sum(array.size for array in self.params.values())
        chunk = min(num_samples, _MAX_DRAWS, _MAX_ELEMENTS // max(num_params, 1))
        chunk = max(chunk, 1)
        keys = random.split(self._next_key(), num_samples)
        for start in range(0, num_samples, chunk):
            # The last chunk ends where the draws do, and repeats some: one shape.
            first = min(start, num_samples - chunk)
            num_repeated = start - first
            chunk_keys = keys[first : first + chunk]
            loss_gradients = jax.device_get(
                compiled.of_keys(chunk_keys, *candidate.settings)
            )
            gradients = {
                name: -array[num_repeated:]
                for name, array in _arrays_by_path(loss_gradients).items()
            }
            moments.add(gradients)
            bar.update(chunk - num_repeated)
        if not is_timed:
            return math.nan

        def draw(i: int) -> Params:
            return compiled.of_key(keys[i % num_samples], *candidate.settings)

        return _median_time(draw)

    def _compile(self, candidate: Candidate) -> _CompiledGradients:
        programs = candidate.programs
        if programs in self._compiled:
            return self._compiled[programs]

        def gradient(key: Array, *settings: Any) -> Params:
            model, guide = programs(*settings)

            def loss(unconstrained: Params) -> Array:
                params = self._constrain(unconstrained)
                return candidate.elbo.loss(
                    key, params, model, guide, *self.args, **self.kwargs
                )

            return jax.grad(loss)(self._unconstrained)

        def gradients(keys: Array, *settings: Any) -> Params:
            return jax.vmap(lambda key: gradient(key, *settings))(keys)

        compiled = _CompiledGradients(jax.jit(gradient), jax.jit(gradients))
        self._compiled[programs] = compiled
        return compiled

    def _trace(
        self, fn: Program, params: Params, key: Array
    ) -> OrderedDict[str, Message]:
        seeded = seed(substitute(fn, data=dict(params)), key)
        return trace(seeded).get_trace(*self.args, **self.kwargs)

    def _constrain(self, unconstrained: Params) -> Params:
        constrained = {
            name: self._transforms[name](value) for name, value in unconstrained.items()
        }
        return {**self.given_params, **constrained}


def is_latent(site: Message) -> bool:
    """Tell whether a site is drawn, and at random."""
    return not site["is_observed"] and not isinstance(leaf_of(site["fn"]), Delta)


def is_relaxed(site: Message) -> bool:
    """Tell whether a site is the relaxation of a discrete one."""
    return isinstance(leaf_of(site["fn"]), AbstractConcrete)


def validate_unrelaxed(sites: Messages, program: str = "guide") -> None:
    """Raise if a program is relaxed already.

    Args:
        sites: Its sites.
        program: What to call it, "model" or "guide".

    Raises:
        ValueError: If it is, with the name of a relaxed site.
    """
    for name, site in sites.items():
        if is_relaxed(site):
            raise ValueError(
                f"site {name!r} of the {program} is relaxed already. Pass the "
                f"{program} as it was before relax: gradient_report relaxes it itself"
            )


def discrete_latents(sites: Mapping[str, Message]) -> Messages:
    """Return the sites that are drawn and discrete."""
    return {
        name: site
        for name, site in sites.items()
        if is_latent(site) and is_discrete(site["fn"])
    }


def _random_sites(sites: Mapping[str, Message]) -> Messages:
    """The sites of a program that have a probability."""
    return {name: site for name, site in sites.items() if site["type"] == "sample"}


def _sum_at_zero(logits: ArrayLike) -> Array:
    """A sum over the elements that are zero, with weights that do not cancel."""
    logits = jnp.asarray(logits)
    weights = jnp.cos(jnp.arange(logits.size)).reshape(logits.shape)
    return jnp.where(logits == 0, logits * weights, 0.0).sum()


def _arrays_by_path(params: Params) -> dict[str, np.ndarray]:
    """The arrays of parameters, by name and path in the tree."""
    return {
        name + keystr(path): np.asarray(leaf)
        for name, tree in params.items()
        for path, leaf in tree_leaves_with_path(tree)
    }


def _median_time(draw: Callable[[int], Any]) -> float:
    """The median time of a draw, after one that may compile."""
    times = []
    for i in range(_TIMED_DRAWS + 1):
        start = time.perf_counter()
        jax.block_until_ready(draw(i))
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[_TIMED_DRAWS // 2]
