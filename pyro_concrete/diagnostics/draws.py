"""Gradients of an ELBO, drawn one by one, and what is known of the programs.

Counterpart: ``numpyro_concrete.diagnostics.draws``.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from concrete_core.diagnostics.moments import Moments
from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.relaxation.site import is_discrete, leaf_of

Sites = dict[str, dict[str, Any]]


class Pair(NamedTuple):
    """What is known of a model and its guide from one run of both.

    Attributes:
        model: Random sites of the model.
        guide: Random sites of the guide.
        params: Parameters of both, unconstrained.
        nesting: Greatest depth of nested plates.
        subsamples: Whether a plate takes a subsample.
    """

    model: Sites
    guide: Sites
    params: dict[str, Tensor]
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
        model: Discrete model.
        guide: Its discrete guide.
        args: Arguments of both.
        kwargs: Keyword arguments of both.
    """

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.args, self.kwargs = args, kwargs
        self.model, self.guide = model, guide
        self.pair = self.look(model, guide, refuse_relaxed)
        self.params = self.pair.params

    def look(
        self, model: Callable, guide: Callable, check: Callable | None = None
    ) -> Pair:
        """Run both programs once, the model on the draws of the guide.

        Args:
            model: Model.
            guide: Its guide.
            check: Is called with the sites of the guide before the model is run.
        """
        with torch.no_grad():
            guide_trace = poutine.trace(guide).get_trace(*self.args, **self.kwargs)
            if check is not None:
                check(_random(guide_trace.nodes))
            model = poutine.replay(model, trace=guide_trace)
            model_trace = poutine.trace(model).get_trace(*self.args, **self.kwargs)
        traces: Any = model_trace.nodes, guide_trace.nodes
        sites = [site for nodes in traces for site in nodes.values()]
        frames = [f for s in sites for f in s.get("cond_indep_stack", ())]
        params = {
            s["name"]: s["value"].unconstrained() for s in sites if s["type"] == "param"
        }
        return Pair(
            *map(_random, traces),
            dict(sorted(params.items())),
            max((-f.dim for f in frames if f.dim is not None), default=0),
            any(f.full_size not in (None, f.size) for f in frames),
        )

    def take(
        self,
        elbo: Any,
        programs: tuple[Callable, Callable],
        num_samples: int,
        moments: Moments,
        bar: Any,
        timed: bool = True,
    ) -> float:
        """Draw gradients of an ELBO of these programs.

        Args:
            elbo: The ELBO.
            programs: Its model and guide.
            num_samples: Number of draws.
            moments: Where they go, as gradients of the ELBO and not of the loss.
            bar: Progress bar.
            timed: Whether there is a draw before them that does not count.

        Returns:
            The median time of a draw, in seconds.
        """
        if timed:
            self._draw(elbo, programs)
        times = []
        for _ in range(num_samples):
            start = time.perf_counter()
            self._draw(elbo, programs)
            times.append(time.perf_counter() - start)
            found = {name: _gradient(value) for name, value in self.params.items()}
            moments.add({k: -x.cpu().numpy()[None] for k, x in found.items()})
            bar.update()
        return sorted(times)[len(times) // 2]

    def _draw(self, elbo: Any, programs: tuple[Callable, Callable]) -> None:
        for value in self.params.values():
            value.grad = None
        elbo.loss_and_grads(*programs, *self.args, **self.kwargs)
        if any(value.is_cuda for value in self.params.values()):
            torch.cuda.synchronize()


@contextmanager
def untouched() -> Generator[None]:
    """Leave the user's parameters and their gradients as they are."""
    store = pyro.get_param_store()
    kept = {name: _leaf(store[name]) for name in store.keys()}  # noqa: SIM118
    grads = {name: value.grad for name, value in kept.items()}
    for value in kept.values():
        value.grad = None  # others would be added to the user's own tensors
    try:
        with store.scope(store.get_state()):
            yield
    finally:
        for name, value in kept.items():
            value.grad = grads[name]


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


def _random(nodes: Any) -> Sites:
    """The sites of a program that have a probability."""
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample"
        and not site_is_subsample(site)
        and not site["infer"].get("_deterministic")
    }


def _leaf(param: Any) -> Tensor:
    """The tensor behind a parameter that an optimiser changes."""
    return param.unconstrained()


def _gradient(param: Tensor) -> Tensor:
    return torch.zeros_like(param) if param.grad is None else param.grad
