"""relaxation_gap: compare the relaxed program with the discrete one after training.

The report is the same in both packages; only the entropies of the sites and the runs of
the programs are the backend's.

Counterpart: ``numpyro_concrete.diagnostics.gap``.
"""

import math
from typing import Any

import torch
from torch import Tensor

from concrete_core.diagnostics.gap import RelaxationGap, SiteEntropy
from concrete_core.objectives.chunks import even_chunks
from concrete_core.objectives.programs import Programs
from concrete_core.types import Program
from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.objectives.particles import (
    Particles,
    ParticleSummary,
    summarize_particles,
)
from pyro_concrete.relaxation import harden
from pyro_concrete.relaxation.messages import discrete_name
from pyro_concrete.relaxation.wrappers import leaf_of

__all__ = ["RelaxationGap", "SiteEntropy", "relaxation_gap"]


def relaxation_gap(
    relaxed_model: Program,
    relaxed_guide: Program,
    model: Program,
    *args: Any,
    num_particles: int = 1000,
    chunk_size: int = 100,
    plate: str | None = None,
    vectorize_particles: bool = True,
    progress_bar: bool = False,
    **kwargs: Any,
) -> RelaxationGap:
    """Compare a relaxed program with the discrete one that it stands for.

    Training raises the relaxed ELBO, which is no bound on the evidence of the model.
    The report adds two numbers that are, and two entropies of each relaxed site. A
    guide that is uncertain (`entropy`) may be right: the posterior may be, too. Soft
    samples (`softness`) mean that the relaxed program works with values that the
    discrete one does not have: then lower the temperature.

    Args:
        relaxed_model: Relaxed model, as it is trained.
        relaxed_guide: Relaxed guide, as it is trained.
        model: The discrete model. Its guide is ``harden(relaxed_guide)``.
        *args: Arguments of all of them.
        num_particles: Number of particles behind each number, >= 2. The entropies are
            means over one chunk of them and over the elements of the site.
        chunk_size: Number of particles to run at a time, >= 1, which bounds the memory.
        plate: Name of the plate of the data, whose elements have multi-sample bounds of
            their own; None for one bound of the whole program. As in `iwae_bound`.
        vectorize_particles: Run a chunk at once, as in `iwae_bound`.
        progress_bar: Show the progress over particles, first of the relaxed programs.
        **kwargs: Keyword arguments of all of them.

    Returns:
        A report: print it, or read its numbers.

    Raises:
        ValueError: If no site of the guide is relaxed, if there are fewer than two
            particles, or where `iwae_bound` raises one.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_concrete import relax
        >>> def model():
        ...     pyro.sample("z", dist.Categorical(logits=torch.zeros(4)))
        >>> relaxed = relax(model, temperature=0.5)
        >>> report = relaxation_gap(relaxed, relaxed, model, num_particles=10)
        >>> report.discrete_elbo, report.discrete_stderr, report.bound
        (0.0, 0.0, 0.0)
        >>> [site] = report.sites
        >>> site.name, site.num_values, round(site.normalized_entropy, 4)
        ('z', 4, 1.0)

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20 and section 5.
        https://arxiv.org/abs/1611.00712
        Burda, Grosse, Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8.
        https://arxiv.org/abs/1509.00519

    Counterpart: :func:`numpyro_concrete.relaxation_gap`.
    """
    if num_particles < 2:
        raise ValueError(f"a standard error takes two particles, not {num_particles}")
    options: Any = {"plate": plate, "vectorize": vectorize_particles}
    discrete_guide = harden(relaxed_guide)
    with torch.no_grad():
        relaxed = Particles(
            Programs(relaxed_model, relaxed_guide, args, kwargs), **options
        )
        entropy_particles = even_chunks(num_particles, chunk_size).size
        sites = _site_entropies(relaxed, entropy_particles)
        # The same subsamples of the plates as in the relaxed program.
        options["subsamples_of"] = relaxed
        discrete = Particles(Programs(model, discrete_guide, args, kwargs), **options)
        relaxed_summary = summarize_particles(
            relaxed, num_particles, chunk_size, progress_bar
        )
        discrete_summary = summarize_particles(
            discrete, num_particles, chunk_size, progress_bar
        )
    return RelaxationGap(
        relaxed_elbo=float(relaxed_summary.totals.mean()),
        relaxed_stderr=_stderr(relaxed_summary),
        discrete_elbo=float(discrete_summary.totals.mean()),
        discrete_stderr=_stderr(discrete_summary),
        bound=float(discrete_summary.bound),
        num_particles=num_particles,
        sites=sites,
    )


def _stderr(particles: ParticleSummary) -> float:
    """The standard error of the ELBO."""
    return float(particles.totals.std()) / math.sqrt(len(particles.totals))


def _site_entropies(relaxed: Particles, num_particles: int) -> tuple[SiteEntropy, ...]:
    """Entropies of the relaxed sites, averaged over a chunk of particles."""
    num_values: dict[str, int] = {}

    def entropies_of_particle() -> tuple[Tensor, ...]:
        _, guide_trace = relaxed.run()
        sites: dict[str, Any] = dict(guide_trace.nodes)
        entropies = {}
        for relaxed_name, site in sites.items():
            leaf = leaf_of(site.get("fn"))
            if isinstance(leaf, AbstractConcrete):
                name = discrete_name(relaxed_name)
                # A binary site has no event axis.
                num_values[name] = leaf.event_shape[0] if leaf.event_shape else 2
                entropies[name] = _entropy_and_softness(leaf, site["value"])
        return tuple(entropies.values())

    if not entropies_of_particle():
        raise ValueError(
            "no site of the guide is relaxed: pass relax(guide, temperature)"
        )
    chunk = relaxed.map(entropies_of_particle, num_particles)
    sites = []
    for (name, number), entropies in zip(num_values.items(), chunk, strict=True):
        entropy, softness = entropies.mean(0).tolist()
        sites.append(SiteEntropy(name, number, entropy, softness))
    return tuple(sites)


def _entropy_and_softness(leaf: AbstractConcrete, relaxed_value: Tensor) -> Tensor:
    """Mean entropy of the discrete distribution, and of relaxed samples as one."""
    probs = leaf.to_simplex(relaxed_value)
    softness = -torch.special.xlogy(probs, probs).sum(-1)
    return torch.stack([leaf.discrete.entropy().mean(), softness.mean()])
