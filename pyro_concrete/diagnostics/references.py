"""What gradients are compared with: enumeration, a long run, or what was given.

Counterpart: ``numpyro_concrete.diagnostics.references``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pyro.infer import ELBO, TraceEnum_ELBO, config_enumerate
from tqdm import tqdm

from concrete_core.diagnostics.moments import Moments
from concrete_core.diagnostics.report import Reference
from concrete_core.planning.choice import amount, refusals
from concrete_core.planning.costs import Costs
from pyro_concrete.diagnostics.draws import Gradients, discrete_latents, is_latent
from pyro_concrete.planning.inspection import ONE_SCALE, find_path, inspect_program
from pyro_concrete.relaxation.site import is_discrete

_KINDS = "auto", "enumeration", "score"


def reference_of(
    gradients: Gradients,
    wanted: Any,
    num_draws: int,
    budget: int | float,
    progress_bar: bool,
) -> Reference:
    """Return the gradient that others are to be compared with.

    Args:
        gradients: Gradients of the discrete programs.
        wanted: "auto", "enumeration", "score", an unbiased ELBO, or arrays by name.
        num_draws: Number of draws, where it is not exact.
        budget: Most elements of a tensor of enumeration.
        progress_bar: Show the progress over draws.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the programs cannot be enumerated as wanted, or arrays are not
            those of the parameters.
    """
    if isinstance(wanted, Mapping):
        return _given(gradients, wanted)
    run = _Run(gradients, num_draws, progress_bar)
    if isinstance(wanted, str):
        if wanted not in _KINDS:
            raise ValueError(f"reference is one of {[*_KINDS]}, and not {wanted!r}")
        refusal = None if wanted == "score" else why_not(gradients, budget)
        if wanted == "enumeration" and refusal is not None:
            raise ValueError(
                f"the discrete ELBO is not enumerated: {refusal}. Pass "
                "reference='score' for a long run of an unbiased estimator"
            )
        if wanted == "score" or refusal is not None:
            return run.scored(gradients.pair.elbo(), refusal)
        return run.enumerated()
    if not isinstance(wanted, ELBO):
        raise TypeError(
            f"reference is one of {[*_KINDS]}, an unbiased ELBO such as "
            f"TraceGraph_ELBO(), or a mapping to arrays, and not {wanted!r}"
        )
    return run.scored(wanted, None)


def why_not(gradients: Gradients, budget: int | float) -> str | None:
    """Return why the discrete sites of the guide are not to be enumerated, or None.

    Args:
        gradients: Gradients of the discrete programs.
        budget: Most elements of a tensor of enumeration.
    """
    names = {*discrete_latents(gradients.pair.guide), *gradients.pair.marked()}
    for fn in (gradients.guide, gradients.model):
        program = inspect_program(fn, gradients.args, gradients.kwargs)
        refused = refusals(program.nodes, one_scale=ONE_SCALE)
        own = [n.name for n in program.nodes if n.support is not None]
        own = [name for name in own if name in names]
        for name in own:
            if name in refused:
                return f"site {name!r}: {refused[name]}"
        costs = Costs(program.nodes, find_path)
        tensors = [*costs.factors(own), *costs.steps(own)]
        for tensor in tensors:
            if tensor.sites and tensor.elements > budget:
                size = amount(tensor.elements)
                return f"{tensor.what} would have {size}, over the budget of {budget:g}"
        if costs.dims(own) > program.max_dims:
            return f"more than {program.max_dims} enumeration dims would be needed"
    return None


class _Run:
    """Draws for a reference."""

    def __init__(self, gradients: Gradients, num_draws: int, progress: bool) -> None:
        self.gradients, self.num_draws, self.progress = gradients, num_draws, progress

    def enumerated(self) -> Reference:
        """The gradient with all discrete sites summed out."""
        pair = self.gradients.pair
        elbo = TraceEnum_ELBO(max_plate_nesting=pair.nesting)
        guide = config_enumerate(self.gradients.guide, "parallel")
        sites = pair.guide.values()
        exact = all(is_discrete(s["fn"]) for s in sites if is_latent(s))
        exact = exact and not pair.subsamples
        found = self._moments(elbo, guide, 2 if exact else self.num_draws)
        # What else is random in the programs shows in two draws that differ.
        if exact and _differ(found):
            exact, found = False, self._moments(elbo, guide, self.num_draws)
        if exact:
            errors = {k: np.zeros_like(x) for k, x in found.mean.items()}
            return Reference(found.mean, errors, "enumeration, which is exact")
        words = f"enumeration of discrete sites, the mean of {self.num_draws} draws"
        return Reference(found.mean, found.error, words)

    def scored(self, elbo: Any, refusal: str | None) -> Reference:
        """The mean of many draws of an unbiased ELBO."""
        found = self._moments(elbo, self.gradients.guide, self.num_draws)
        words = f"the mean of {self.num_draws} draws of {type(elbo).__name__}"
        words += f" (no enumeration: {refusal})" if refusal else ""
        return Reference(found.mean, found.error, words)

    def _moments(self, elbo: Any, guide: Callable, num_draws: int) -> Moments:
        moments, programs = Moments(), (self.gradients.model, guide)
        settings: Any = {"unit": "draw", "desc": "reference"}
        with tqdm(total=num_draws, disable=not self.progress, **settings) as bar:
            self.gradients.take(elbo, programs, num_draws, moments, bar, timed=False)
        return moments


def _differ(moments: Moments) -> bool:
    """Whether draws differ by more than rounding."""
    pairs = [(moments.mean[k], x) for k, x in moments.variance.items()]
    return any((v > (1e-5 * (1e-5 + np.abs(m).max())) ** 2).any() for m, v in pairs)


def _given(gradients: Gradients, wanted: Mapping[str, Any]) -> Reference:
    params = gradients.params
    for what, names in (
        ("names no parameter of the discrete programs", wanted.keys() - params.keys()),
        ("leaves parameters out", params.keys() - wanted.keys()),
    ):
        if names:
            raise ValueError(
                f"reference {what}: {sorted(names)}. It has gradients of the ELBO in "
                f"the unconstrained parameters, {sorted(params)}"
            )
    mean = {name: np.asarray(wanted[name], float) for name in params}
    for name, value in params.items():
        if mean[name].shape != tuple(value.shape):
            raise ValueError(
                f"reference[{name!r}] has the shape {mean[name].shape}, and the "
                f"parameter, unconstrained, {tuple(value.shape)}"
            )
    zeros = {name: np.zeros_like(x) for name, x in mean.items()}
    return Reference(mean, zeros, "given")
