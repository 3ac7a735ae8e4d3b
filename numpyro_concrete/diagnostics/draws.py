"""Gradients of an ELBO, drawn in chunks, and what is known of the programs.

Counterpart: ``pyro_concrete.diagnostics.draws``.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.tree_util import keystr, tree_leaves_with_path
from numpyro.distributions import BernoulliLogits, Delta, biject_to, constraints
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO

from concrete_core.diagnostics.moments import Moments
from numpyro_concrete.distributions import AbstractConcrete
from numpyro_concrete.relaxation.site import is_discrete, leaf_of

Sites = dict[str, dict[str, Any]]

_CHUNK = 2**20  # most elements of the gradients that are drawn at once
_MOST = 100  # and most of them
_TIMED = 15


class Pair(NamedTuple):
    """What is known of a model and its guide from one run of both.

    Attributes:
        model: Random sites of the model.
        guide: Random sites of the guide.
        params: Sites of the parameters of both.
        nesting: Greatest depth of nested plates.
        subsamples: Whether a plate takes a subsample.
    """

    model: Sites
    guide: Sites
    params: Sites
    nesting: int
    subsamples: bool

    def marked(self) -> list[str]:
        """Return the names of latent sites that are marked for enumeration."""
        sites = [*self.model.items(), *self.guide.items()]
        return [n for n, s in sites if is_latent(s) and s["infer"].get("enumerate")]

    def elbo(self) -> Any:
        """Return an ELBO of the host that has unbiased gradients of these programs."""
        if self.marked():
            return TraceEnum_ELBO(max_plate_nesting=self.nesting)
        if any(is_latent(s) and is_discrete(s["fn"]) for s in self.guide.values()):
            return TraceGraph_ELBO()
        return Trace_ELBO()

    def relaxed(self) -> list[str]:
        """Return the names of the sites of the guide that are relaxed."""
        return [n for n, s in self.guide.items() if is_relaxed(s)]


class Gradients:
    """Draws of the gradient of the ELBO in the parameters of a model and guide.

    Args:
        rng_key: Random key.
        params: Parameters of both, constrained; those that the programs have beyond
            them start as they say.
        model: Discrete model.
        guide: Its discrete guide.
        args: Arguments of both.
        kwargs: Keyword arguments of both.
    """

    def __init__(
        self,
        rng_key: Array,
        params: Mapping[str, Any],
        model: Callable,
        guide: Callable,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.args, self.kwargs, self.given = args, kwargs, dict(params)
        self.model, self.guide = model, guide
        self._key = rng_key
        self.pair = self.look(model, guide, refuse_relaxed)
        self._transforms = {
            name: biject_to(site["kwargs"].get("constraint", constraints.real))
            for name, site in sorted(self.pair.params.items())
        }
        self._free = {
            name: transform.inv(self.pair.params[name]["value"])
            for name, transform in self._transforms.items()
        }
        self.params = _leaves(self._free)
        self._compiled: dict[Callable, tuple[Callable, Callable]] = {}

    def _next_key(self) -> Array:
        self._key, key = random.split(self._key)
        return key

    def look(
        self, model: Callable, guide: Callable, check: Callable | None = None
    ) -> Pair:
        """Run both programs once, the model on the draws of the guide.

        Args:
            model: Model.
            guide: Its guide.
            check: Is called with the sites of the guide before the model is run.
        """
        guide_trace = self._traced(guide)
        if check is not None:
            check(_random(guide_trace))
        model_trace = self._traced(replay(model, trace=guide_trace))
        sites = [*model_trace.values(), *guide_trace.values()]
        frames = [f for s in sites for f in s.get("cond_indep_stack", ())]
        sizes = {s["name"]: s["args"][0] for s in sites if s["type"] == "plate"}
        return Pair(
            *map(_random, (model_trace, guide_trace)),
            {s["name"]: s for s in sites if s["type"] == "param"},
            max((-f.dim for f in frames), default=0),
            any(f.size != sizes.get(f.name, f.size) for f in frames),
        )

    def _traced(
        self, fn: Callable, params: dict[str, Any] | None = None, key: Any = None
    ) -> Any:
        known = substitute(fn, data=self.given if params is None else params)
        seeded = seed(known, self._next_key() if key is None else key)
        return trace(seeded).get_trace(*self.args, **self.kwargs)

    def _constrained(self, free: dict[str, Any]) -> dict[str, Any]:
        own = {name: self._transforms[name](x) for name, x in free.items()}
        return {**self.given, **own}

    def _at_zero_odds(self) -> list[str]:
        """The sites whose log-odds are exactly zero and depend on parameters there."""
        key = self._next_key()

        def zeros(free: dict[str, Any]) -> dict[str, Array]:
            params = self._constrained(free)
            guide = self._traced(self.guide, params, key)
            model = self._traced(replay(self.model, trace=guide), params, key)
            sites = [*model.values(), *guide.values()]
            leaves = [(s["name"], leaf_of(s["fn"])) for s in sites if "infer" in s]
            found = [(n, x.logits) for n, x in leaves if isinstance(x, BernoulliLogits)]
            sums = {f"{i} {name}": _at_zero(x) for i, (name, x) in enumerate(found)}
            return {"none": jnp.zeros(()), **sums}  # jacrev needs a result

        slopes = jax.jacrev(zeros)(self._free)
        moving = [n for n, x in slopes.items() if any(map(np.any, jax.tree.leaves(x)))]
        return [name.split(" ", 1)[1] for name in moving]

    def take(
        self,
        elbo: Any,
        programs: Callable,
        num_samples: int,
        moments: Moments,
        bar: Any,
        settings: tuple[Any, ...] = (),
        timed: bool = True,
    ) -> float:
        """Draw gradients of an ELBO of these programs.

        Args:
            elbo: The ELBO.
            programs: A function from the settings to the model and guide.
            num_samples: Number of draws.
            moments: Where they go, as gradients of the ELBO and not of the loss.
            bar: Progress bar.
            settings: Numbers that the programs depend on. They are compiled once for
                all of these, if it is the same function.
            timed: Whether to compile a draw by itself as well, and time it.

        Returns:
            The median time of a draw by itself, compiled, in seconds; or NaN.
        """
        one, many = self._functions(elbo, programs)
        size = sum(x.size for x in self.params.values())
        chunk = max(1, min(num_samples, _MOST, _CHUNK // max(size, 1)))
        keys = random.split(self._next_key(), num_samples)
        for start in range(0, num_samples, chunk):
            # The last chunk ends where the draws do, and repeats some: one shape.
            at = min(start, num_samples - chunk)
            found = jax.device_get(many(keys[at : at + chunk], *settings))
            moments.add({k: -x[start - at :] for k, x in _leaves(found).items()})
            bar.update(chunk - (start - at))
        if not timed:
            return math.nan
        return _median_time(lambda i: one(keys[i % num_samples], *settings))

    def _functions(self, elbo: Any, programs: Callable) -> tuple[Callable, Callable]:
        """The gradient of a key, and of many keys, compiled."""
        if programs not in self._compiled:

            def gradient(key: Array, *settings: Any) -> Any:
                pair = programs(*settings)

                def loss(free: dict[str, Any]) -> Array:
                    params = self._constrained(free)
                    return elbo.loss(key, params, *pair, *self.args, **self.kwargs)

                return jax.grad(loss)(self._free)

            def several(keys: Array, *settings: Any) -> Any:
                return jax.vmap(lambda key: gradient(key, *settings))(keys)

            self._compiled[programs] = jax.jit(gradient), jax.jit(several)
        return self._compiled[programs]


def is_latent(site: dict[str, Any]) -> bool:
    """Tell whether a site is drawn, and at random."""
    return not site["is_observed"] and not isinstance(leaf_of(site["fn"]), Delta)


def is_relaxed(site: dict[str, Any]) -> bool:
    """Tell whether a site is the relaxation of a discrete one."""
    return isinstance(leaf_of(site["fn"]), AbstractConcrete)


def refuse_relaxed(sites: Sites, what: str = "guide") -> None:
    """Refuse a program that is relaxed already.

    Args:
        sites: Its sites.
        what: What it is.

    Raises:
        ValueError: By the site, with the way out.
    """
    for name, site in sites.items():
        if is_relaxed(site):
            raise ValueError(
                f"site {name!r} of the {what} is relaxed already. Pass the {what} as "
                "it was before relax: gradient_report relaxes it itself"
            )


def discrete_latents(sites: Sites) -> Sites:
    """Return the sites that are drawn and discrete."""
    return {n: s for n, s in sites.items() if is_latent(s) and is_discrete(s["fn"])}


def _random(sites: Sites) -> Sites:
    """The sites of a program that have a probability."""
    return {name: site for name, site in sites.items() if site["type"] == "sample"}


def _at_zero(logits: Any) -> Array:
    """A sum over the elements that are zero, with weights that do not cancel."""
    logits = jnp.asarray(logits)
    weights = jnp.cos(jnp.arange(logits.size)).reshape(logits.shape)
    return jnp.where(logits == 0, logits * weights, 0.0).sum()


def _leaves(params: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays among parameters, by their names and places."""
    return {
        name + keystr(path): np.asarray(leaf)
        for name, tree in params.items()
        for path, leaf in tree_leaves_with_path(tree)
    }


def _median_time(fn: Callable) -> float:
    """The median time of a call, after one that may compile."""
    times = []
    for i in range(_TIMED + 1):
        start = time.perf_counter()
        jax.block_until_ready(fn(i))
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[_TIMED // 2]
