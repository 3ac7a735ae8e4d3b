"""The multi-sample bound of a discrete model, in bounded memory.

What the paper evaluates models by: the bound of Burda et al. on the log-evidence, with
tens of thousands of samples of the discrete variables for each datum.

Twin: ``pyro_concrete.objectives.iwae``.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jax import Array

from numpyro_concrete.particles import Particles, summary


def iwae_bound(
    rng_key: Array,
    params: Mapping[str, Any],
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
) -> Array:
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
        result: (), or with `per_element` (size of the plate or its subsample,).

    Args:
        rng_key: Random key. Each particle has a key of its own, so that chunks of
            another size give the same bound to rounding.
        params: Parameters of both programs, constrained, as ``svi.get_params(state)``
            and ``svi.run(...).params`` are.
        model: Discrete model, as it was before `relax`. A relaxed model goes with a
            relaxed guide; their bound is one on the relaxed model's evidence.
        guide: Its guide: of a relaxed one, ``harden(guide)``.
        *args: Arguments of the model and the guide.
        num_particles: Number m of particles, >= 1.
        chunk_size: Number of particles to run at a time, >= 1; chunks are made even.
            It bounds the memory. The program is compiled for one chunk.
        plate: Name of the plate whose elements have a bound of their own. Its latent
            sites are all inside, but for those that the guide fixes by a Delta. What
            is known outside of it, and no draw has an influence on, is added once.
        per_element: Return the bounds of the elements of `plate`, not their scaled sum.
        vectorize_particles: Run a chunk at once, by `vmap`, as NumPyro's ELBOs do.
            Otherwise one by one, by `lax.map`.
        progress_bar: Show the progress over particles, but not inside of jit.
        **kwargs: Keyword arguments of the model and the guide.

    Returns:
        The bound, in nats.

    Raises:
        ValueError: If the guide is relaxed and the model is not, or the other way
            round; if a latent site of one is not in the other, as enumerated ones; if a
            latent site is outside of `plate`; if another plate takes a subsample. By
            the site or plate, with the way out.

    Under jit, sites outside of the plate that depend on draws make the bound NaN. To
    evaluate it often, jit a function of the key and the parameters.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> probs, likelihood = jnp.array([0.5, 0.5]), jnp.array([0.2, 0.6])
        >>> def model():
        ...     z = numpyro.sample("z", dist.Categorical(probs))
        ...     numpyro.sample("x", dist.Bernoulli(likelihood[z]), obs=1)
        >>> def posterior():
        ...     numpyro.sample("z", dist.Categorical(probs * likelihood / 0.4))
        >>> key = jax.random.key(0)
        >>> bound = iwae_bound(key, {}, model, posterior, num_particles=10)
        >>> round(float(jnp.exp(bound)), 4)  # the evidence, 0.5 * 0.2 + 0.5 * 0.6
        0.4

    References:
        Burda, Grosse, Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8.
        https://arxiv.org/abs/1509.00519
        Maddison, Mnih, Teh (2017), The Concrete Distribution, section 5.
        https://arxiv.org/abs/1611.00712

    Twin: :func:`pyro_concrete.iwae_bound`.
    """
    if per_element and plate is None:
        raise ValueError("per_element gives the bounds of a plate's elements: name it")
    settings: Any = {"plate": plate, "vectorize": vectorize_particles}
    particles = Particles(rng_key, params, model, guide, args, kwargs, **settings)
    found = summary(particles, num_particles, chunk_size, progress_bar)
    return found.bounds if per_element else found.bound
