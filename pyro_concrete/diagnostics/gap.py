"""relaxation_gap: the relaxed program beside the discrete one, after training.

Counterpart: ``numpyro_concrete.diagnostics.gap``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from concrete_core.diagnostics.tables import table
from pyro_concrete.distributions import AbstractConcrete
from pyro_concrete.objectives.particles import Particles, Summary, chunks, summary
from pyro_concrete.relaxation import harden
from pyro_concrete.relaxation.site import SUFFIX, leaf_of

_WORDS = """\
Do not compare the first two: the relaxed ELBO is that of another model, the relaxed
one, and where temperatures differ each site keeps a KL above zero. To report are the
discrete ELBO and the multi-sample bound, which are below the evidence on average."""


@dataclass(frozen=True)
class SiteEntropy:
    """How sure a relaxed guide is at one site, and how soft its draws are there.

    Attributes:
        name: Name of the discrete site.
        num_values: Number of its values, >= 2.
        entropy: Entropy of its discrete distribution in the guide, in nats: zero where
            the guide is sure of a value, and log(num_values) where it knows nothing.
        softness: Entropy of the weights of the relaxed points that it draws, in
            nats: zero for hard ones.

    Example:
        >>> SiteEntropy("z", 4, entropy=math.log(2), softness=0.0).share
        0.5

    Counterpart: :class:`numpyro_concrete.diagnostics.SiteEntropy`.
    """

    name: str
    num_values: int
    entropy: float
    softness: float

    @property
    def share(self) -> float:
        """The entropy over the largest that there is, from 0 to 1."""
        return self.entropy / math.log(self.num_values)

    @property
    def softness_share(self) -> float:
        """The softness over the largest that there is, from 0 to 1."""
        return self.softness / math.log(self.num_values)


@dataclass(frozen=True)
class RelaxationGap:
    r"""What `relaxation_gap` found; as a string, a table.

    Attributes:
        relaxed_elbo: ELBO of the relaxed model and guide, in nats: what is trained.
        relaxed_error: Its standard error.
        discrete_elbo: ELBO of the model and the hardened guide, in nats.
        discrete_error: Its standard error.
        bound: Multi-sample bound of the same, of `num_particles`, in nats.
        num_particles: Number of particles behind each number.
        sites: Entropies of the relaxed sites, in the order of the guide.

    Example:
        >>> report = RelaxationGap(-3.0, 0.1, -4.0, 0.1, -3.5, 100, ())
        >>> print(str(report).partition("\n\n")[0])
        objective                        nats  standard error
        relaxed ELBO                  -3.0000          0.1000
        discrete ELBO                 -4.0000          0.1000
        multi-sample bound, m = 100   -3.5000

    Counterpart: :class:`numpyro_concrete.diagnostics.RelaxationGap`.
    """

    relaxed_elbo: float
    relaxed_error: float
    discrete_elbo: float
    discrete_error: float
    bound: float
    num_particles: int
    sites: tuple[SiteEntropy, ...]

    def __str__(self) -> str:
        bound = f"multi-sample bound, m = {self.num_particles}"
        objectives = [
            ("objective", "nats", "standard error"),
            ("relaxed ELBO", *_digits(self.relaxed_elbo, self.relaxed_error)),
            ("discrete ELBO", *_digits(self.discrete_elbo, self.discrete_error)),
            (bound, *_digits(self.bound), ""),
        ]
        header = ("relaxed site", "values", "entropy", "share", "softness", "share")
        sites = [
            (
                *(x.name, str(x.num_values)),
                *_digits(x.entropy, x.share, x.softness, x.softness_share),
            )
            for x in self.sites
        ]
        return "\n\n".join([table(objectives), _WORDS, table([header, *sites])])


def relaxation_gap(
    relaxed_model: Callable,
    relaxed_guide: Callable,
    model: Callable,
    *args: Any,
    num_particles: int = 1000,
    chunk_size: int = 100,
    plate: str | None = None,
    vectorize_particles: bool = True,
    progress_bar: bool = False,
    **kwargs: Any,
) -> RelaxationGap:
    """Compare a relaxed program with the discrete one that it stands for.

    The relaxed ELBO is what training raises, and is no bound on the evidence of the
    model. The report sets beside it the numbers that are, and for each relaxed site two
    entropies. A guide that is unsure (`entropy`) may be right, as the posterior may be.
    Soft draws (`softness`) mean that the relaxed program works with values that the
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
        >>> report.discrete_elbo, report.discrete_error, report.bound
        (0.0, 0.0, 0.0)
        >>> [site] = report.sites
        >>> site.name, site.num_values, round(site.share, 4)
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
    settings: Any = {"plate": plate, "vectorize": vectorize_particles}
    options = num_particles, chunk_size, progress_bar
    with torch.no_grad():
        relaxed = Particles(relaxed_model, relaxed_guide, args, kwargs, **settings)
        sites = _sites(relaxed, chunks(num_particles, chunk_size)[1])
        settings["like"] = relaxed
        discrete = Particles(model, harden(relaxed_guide), args, kwargs, **settings)
        soft, hard = summary(relaxed, *options), summary(discrete, *options)
    return RelaxationGap(
        *_elbo(soft), *_elbo(hard), float(hard.bound), num_particles, sites
    )


def _elbo(found: Summary) -> tuple[float, float]:
    """The ELBO and its standard error."""
    totals = found.totals
    return float(totals.mean()), float(totals.std()) / math.sqrt(len(totals))


def _sites(relaxed: Particles, size: int) -> tuple[SiteEntropy, ...]:
    """Entropies of the relaxed sites, over a chunk of particles."""
    counts = {}

    def entropies() -> tuple[Tensor, ...]:
        nodes: Any = relaxed.run()[1].nodes
        found = {}
        for name, site in nodes.items():
            leaf = leaf_of(site.get("fn"))
            if isinstance(leaf, AbstractConcrete):
                name = name.removesuffix(SUFFIX)
                counts[name] = (*leaf.event_shape, 2)[0]
                found[name] = _entropies(leaf, site["value"])
        return tuple(found.values())

    if not entropies():
        raise ValueError(
            "no site of the guide is relaxed: pass relax(guide, temperature)"
        )
    means = [x.mean(0).tolist() for x in relaxed.map(entropies, size)]
    sites = zip(counts.items(), means, strict=True)
    return tuple(SiteEntropy(name, number, *x) for (name, number), x in sites)


def _entropies(leaf: AbstractConcrete, point: Tensor) -> Tensor:
    """Mean entropy of a discrete distribution, and that of the weights of points."""
    weights = leaf.to_simplex(point)
    softness = -torch.special.xlogy(weights, weights).sum(-1)
    return torch.stack([leaf.discrete.entropy().mean(), softness.mean()])


def _digits(*numbers: float) -> list[str]:
    return [f"{x:.4f}" for x in numbers]
