"""The multi-sample bound of a discrete model, in bounded memory.

What the paper evaluates models by: the bound of Burda et al. on the log-evidence, with
tens of thousands of samples of the discrete variables for each datum.

Twin: ``numpyro_concrete.objectives.iwae``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_concrete.particles import Particles, summary


def iwae_bound(
    model: Callable,
    guide: Callable,
    *args: Any,
    num_particles: int = 1000,
    chunk_size: int = 100,
    plate: str | None = None,
    per_element: bool = False,
    vectorize_particles: bool = True,
    progress_bar: bool = False,
    **kwargs: Any,
) -> float | Tensor:
    r"""Estimate the multi-sample bound on the log-evidence, particles in chunks.

    .. math:: \log \frac{1}{m} \sum_{i=1}^m \frac{p(x, z_i)}{q(z_i)}, \quad z_i \sim q

    Its expectation is a lower bound on :math:`\log p(x)`, the ELBO for m = 1, and rises
    with m to the log-evidence. Give it the discrete model and ``harden(guide)``: the
    paper reports this bound with m = 50,000. Only the running sums and one chunk of
    particles are in memory at a time.

    For independent data, name their plate: the bound is then taken for each datum and
    summed, which is what papers report. With ``plate=None`` a particle is a draw for
    all data at once, and the bound is loose unless they are few. If the plate takes a
    subsample, one is drawn for all particles, and the sum is scaled to the whole plate.

    Shapes:
        result: a number, or with `per_element` (size of the plate or its subsample,).

    Args:
        model: Discrete model, as it was before `relax`. A relaxed model goes with a
            relaxed guide; their bound is one on the relaxed model's evidence.
        guide: Its guide: of a relaxed one, ``harden(guide)``.
        *args: Arguments of the model and the guide.
        num_particles: Number m of particles, >= 1.
        chunk_size: Number of particles to run at a time, >= 1; chunks are made even.
            It bounds the memory. The particles do not depend on it in distribution,
            but do for a given seed, as torch draws a site for all of a chunk at once.
        plate: Name of the plate whose elements have a bound of their own. Its latent
            sites are all inside, but for those that the guide fixes by a Delta. What
            is known outside of it, and no draw has an influence on, is added once.
        per_element: Return the bounds of the elements of `plate`, not their scaled sum.
        vectorize_particles: Run a chunk at once, by `torch.vmap`: unlike a plate around
            the programs, as in Pyro's ELBOs, it asks nothing of their shapes, but they
            cannot read drawn values, as in ``if z:``. Otherwise one by one.
        progress_bar: Show the progress over particles.
        **kwargs: Keyword arguments of the model and the guide.

    Returns:
        The bound, in nats.

    Raises:
        ValueError: If the guide is relaxed and the model is not, or the other way
            round; if a latent site of one is not in the other, as enumerated ones; if a
            latent site is outside of `plate`; if another plate takes a subsample; if
            the programs cannot be vectorised. By the site or plate, with the way out.

    Example:
        >>> import math, pyro, pyro.distributions as dist
        >>> probs, likelihood = torch.tensor([0.5, 0.5]), torch.tensor([0.2, 0.6])
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(probs))
        ...     pyro.sample("x", dist.Bernoulli(likelihood[z]), obs=torch.tensor(1.0))
        >>> def posterior():
        ...     pyro.sample("z", dist.Categorical(probs * likelihood))
        >>> bound = iwae_bound(model, posterior, num_particles=10)
        >>> round(math.exp(bound), 4)  # the evidence, 0.5 * 0.2 + 0.5 * 0.6
        0.4

    References:
        Burda, Grosse, Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8.
        https://arxiv.org/abs/1509.00519
        Maddison, Mnih, Teh (2017), The Concrete Distribution, section 5.
        https://arxiv.org/abs/1611.00712

    Twin: :func:`numpyro_concrete.iwae_bound`.
    """
    if per_element and plate is None:
        raise ValueError("per_element gives the bounds of a plate's elements: name it")
    with torch.no_grad():
        settings: Any = {"plate": plate, "vectorize": vectorize_particles}
        particles = Particles(model, guide, args, kwargs, **settings)
        found = summary(particles, num_particles, chunk_size, progress_bar)
    return found.bounds if per_element else float(found.bound)
