"""Gradients of an ELBO, drawn one by one, and what one run shows of the programs.

Counterpart: ``numpyro_concrete.diagnostics.gradient_sampler``.
"""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from tqdm import tqdm

from concrete_core.diagnostics.candidates import Candidate
from concrete_core.diagnostics.moments import Moments
from concrete_core.types import Arguments, KeywordArguments, Message, Messages, Program
from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.internals import is_deterministic
from pyro_concrete.relaxation.site import is_discrete
from pyro_concrete.relaxation.wrappers import leaf_of

# A model and its guide.
Programs = tuple[Program, Program]


@dataclass(frozen=True)
class ProgramPair:
    """What one run of a model and its guide shows.

    Attributes:
        model: Random sites of the model.
        guide: Random sites of the guide.
        params: Parameters of both, unconstrained.
        nesting: Greatest depth of nested plates.
        has_subsamples: Whether a plate takes a subsample.
    """

    model: Messages
    guide: Messages
    params: dict[str, Tensor]
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
        model: Discrete model.
        guide: Its discrete guide.
        args: Arguments of both.
        kwargs: Keyword arguments of both.

    Attributes:
        pair: What one run of model and guide shows.
        params: Their parameters, unconstrained, by name.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: Arguments,
        kwargs: KeywordArguments,
    ) -> None:
        self.args = args
        self.kwargs = kwargs
        self.model = model
        self.guide = guide
        self.pair = self.inspect(model, guide, validate_guide=validate_unrelaxed)
        self.params = self.pair.params

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
        with torch.no_grad():
            guide_trace = poutine.trace(guide).get_trace(*self.args, **self.kwargs)
            guide_sites = _random_sites(guide_trace.nodes)
            if validate_guide is not None:
                validate_guide(guide_sites)
            replayed = poutine.replay(model, trace=guide_trace)
            model_trace = poutine.trace(replayed).get_trace(*self.args, **self.kwargs)
        sites: list[Any] = [*model_trace.nodes.values(), *guide_trace.nodes.values()]
        frames = [f for site in sites for f in site.get("cond_indep_stack", ())]
        params = {
            site["name"]: _unconstrained(site["value"])
            for site in sites
            if site["type"] == "param"
        }
        return ProgramPair(
            model=_random_sites(model_trace.nodes),
            guide=guide_sites,
            params=dict(sorted(params.items())),
            nesting=max((-f.dim for f in frames if f.dim is not None), default=0),
            has_subsamples=any(f.full_size not in (None, f.size) for f in frames),
        )

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
            candidate: ELBO, model and guide.
            num_samples: Number of draws.
            moments: Where the gradients are added, of the ELBO and not of the loss.
            bar: Progress bar.
            is_timed: Whether to begin with a draw that does not count.

        Returns:
            The median time of a draw, in seconds.
        """
        if is_timed:
            self._draw(candidate)
        times = []
        for _ in range(num_samples):
            start = time.perf_counter()
            self._draw(candidate)
            times.append(time.perf_counter() - start)
            gradients = {
                name: -_gradient(param).cpu().numpy()[None]
                for name, param in self.params.items()
            }
            moments.add(gradients)
            bar.update()
        return sorted(times)[len(times) // 2]

    def _draw(self, candidate: Candidate) -> None:
        for param in self.params.values():
            param.grad = None
        model, guide = candidate.programs
        candidate.elbo.loss_and_grads(model, guide, *self.args, **self.kwargs)
        if any(param.is_cuda for param in self.params.values()):
            torch.cuda.synchronize()


@contextmanager
def preserved_params() -> Generator[None]:
    """Restore the user's parameters and their gradients afterwards."""
    store = pyro.get_param_store()
    params = {name: _unconstrained(store[name]) for name in store.keys()}  # noqa: SIM118
    gradients = {name: param.grad for name, param in params.items()}
    for param in params.values():
        param.grad = None  # or gradients would be added to the user's own tensors
    try:
        with store.scope(store.get_state()):
            yield
    finally:
        for name, param in params.items():
            param.grad = gradients[name]


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


def _random_sites(nodes: Mapping[str, Any]) -> Messages:
    """The sites of a program that have a probability."""
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample"
        and not site_is_subsample(site)
        and not is_deterministic(site)
    }


def _unconstrained(param: Any) -> Tensor:
    """The tensor behind a parameter that an optimizer changes."""
    return param.unconstrained()


def _gradient(param: Tensor) -> Tensor:
    return torch.zeros_like(param) if param.grad is None else param.grad
