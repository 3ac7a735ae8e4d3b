"""What gradients are compared with: enumeration, a long run, or what was given.

Counterpart: ``pyro_concrete.diagnostics.references``.
"""

import importlib.util

from numpyro.handlers import substitute
from numpyro.infer import TraceEnum_ELBO
from numpyro.infer.elbo import ELBO

from concrete_core.diagnostics.candidates import Candidate, progress
from concrete_core.diagnostics.moments import Moments
from concrete_core.diagnostics.references import AbstractReferenceBuilder
from concrete_core.planning.plan import enumeration_obstacle
from concrete_core.types import Elbo, Program
from numpyro_concrete.diagnostics.gradient_sampler import (
    GradientSampler,
    discrete_latents,
    is_latent,
)
from numpyro_concrete.planning.inspection import inspect_model
from numpyro_concrete.relaxation.site import is_discrete


class ReferenceBuilder(AbstractReferenceBuilder):
    """Builds the reference: by enumeration, by a long run, or as given.

    Args:
        sampler: Sampler of the gradients of the discrete programs.
        num_draws: Number of draws of a reference that is not exact.
        budget: Largest number of elements of a tensor of enumeration.
        progress_bar: Whether to show the progress over draws.
    """

    elbo_class = ELBO

    def __init__(
        self,
        sampler: GradientSampler,
        num_draws: int,
        budget: int | float,
        progress_bar: bool,
    ) -> None:
        super().__init__(sampler.params, num_draws)
        self.sampler = sampler
        self.budget = budget
        self.progress_bar = progress_bar

    def validate_programs(self) -> None:
        """Raise if gradients of the programs would be wrong in NumPyro.

        Its Bernoulli has a wrong gradient where log-odds are exactly zero. One run
        shows whether some are that depend on parameters.
        """
        for name in self.sampler.sites_at_zero_odds():
            raise ValueError(
                f"site {name!r} has log-odds of exactly zero, where NumPyro's "
                "Bernoulli has a wrong gradient, so that the reference would be wrong. "
                "Move the parameters a little, as by 1e-3, or give a reference"
            )

    def enumeration_obstacle(self) -> str | None:
        """Return why the discrete sites of the guide cannot be enumerated, or None."""
        if importlib.util.find_spec("funsor") is None:
            return "NumPyro needs funsor for it"
        sampler = self.sampler
        sites_to_enumerate = sampler.pair.sites_to_enumerate()
        names = [*discrete_latents(sampler.pair.guide), *sites_to_enumerate]
        for program in (sampler.guide, sampler.model):
            with_params = substitute(program, data=sampler.given_params)
            inspected = inspect_model(with_params, sampler.args, sampler.kwargs)
            obstacle = enumeration_obstacle(inspected, names, self.budget)
            if obstacle is not None:
                return obstacle
        return None

    def has_other_randomness(self) -> bool:
        """Tell whether some site is random beside the discrete ones."""
        pair = self.sampler.pair
        return pair.has_subsamples or any(
            is_latent(site) and not is_discrete(site["fn"])
            for site in pair.guide.values()
        )

    def score_elbo(self) -> ELBO:
        """Return an ELBO of NumPyro that is unbiased for the discrete programs."""
        return self.sampler.pair.unbiased_elbo()

    def draw_by_score(self, elbo: Elbo, num_draws: int) -> Moments:
        """Draw gradients of an ELBO of the discrete programs."""
        return self._draw(elbo, self.sampler.guide, num_draws)

    def draw_by_enumeration(self, num_draws: int) -> Moments:
        """Draw gradients with all discrete sites marginalized out."""
        # Not at the top: the module needs funsor.
        from numpyro.contrib.funsor import config_enumerate

        elbo = TraceEnum_ELBO(max_plate_nesting=self.sampler.pair.nesting)
        guide = config_enumerate(self.sampler.guide, "parallel")
        return self._draw(elbo, guide, num_draws)

    def _draw(self, elbo: ELBO, guide: Program, num_draws: int) -> Moments:
        moments = Moments()
        programs = (self.sampler.model, guide)
        candidate = Candidate("reference", "", elbo, lambda: programs)
        with progress(num_draws, "reference", self.progress_bar) as bar:
            self.sampler.sample(candidate, num_draws, moments, bar, is_timed=False)
        return moments
