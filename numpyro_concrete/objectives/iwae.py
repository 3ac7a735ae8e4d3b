"""The multi-sample bound: `IWAE` to train by, and `iwae_bound` to evaluate by.

The bound of Burda et al. on the log-evidence, for each data point. The paper trains
with up to 50 samples per data point, and evaluates with tens of thousands.

Counterpart: ``pyro_concrete.objectives.iwae``.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.nn import logsumexp
from numpyro.infer.elbo import ELBO

from numpyro_concrete.objectives.gradients import compared
from numpyro_concrete.objectives.particles import (
    Particles,
    chunks,
    common_value,
    summary,
)
from numpyro_concrete.objectives.passes import score_of
from numpyro_concrete.objectives.vimco import vimco_signals


class _Particle(NamedTuple):
    """What the loss needs of a particle, or with a leading axis of all.

    Attributes:
        log_weights: Log-weights of the elements: (elements,).
        outside: Log-probability of the sites outside of the plate: ().
        scores: Log-probability that the guide drew the values without a path with,
            for each element, or None if all values have a path: (elements,).
        predictions: What the guide predicts the log-weights to be, or None.
        state: Mutable state after the run, by site.
    """

    log_weights: Array
    outside: Array
    scores: Array | None
    predictions: Array | None
    state: dict[str, Any]


class IWAE(ELBO):
    r"""The multi-sample bound as a loss for `SVI`, with a bound for each data point.

    .. math:: \frac{N}{B} \sum_{n \in \text{batch}} \log \frac1m \sum_{i=1}^m
        \frac{p(x_n, z_{ni})}{q(z_{ni})}, \quad z_{ni} \sim q

    Give it the programs that you train: relaxed, discrete, or with sites of both kinds.
    Reparameterized sites, relaxed ones among them, pass the gradient of their paths.
    Other sites get the VIMCO gradient, a score function whose baseline is the bound
    with the geometric mean of the other weights in the place of the particle's own.
    Both are unbiased for the bound of the programs that are given, but hard estimators
    keep their bias. With relaxed programs it is a bound for the relaxed model.

    Name the plate of the data. Without it there is one weight for all data, and the
    bound hardly gains from more particles. The plate may take a subsample, which is
    drawn once for all particles, and the sum is scaled to the whole plate *outside* of
    the logarithm. All latent sites are inside of the plate, but for those that the
    guide fixes by a Delta; what is outside is added once.

    More particles make a tighter bound and, per particle, a weaker signal for the
    guide. 5 to 50 are usual. With one particle the bound is the ELBO, and there are no
    other weights to compare with. Then the values without a path are compared with the
    other elements of the plate, and with the predictions of `baseline`; `RLOO` with two
    particles is a good alternative.

    Mutable state is the mean over particles of the state after each.

    Args:
        num_particles: Number m of particles, >= 1.
        plate: Name of the plate whose elements have a bound of their own.
        chunk_size: Number of particles to run at a time, >= 1; chunks are made even.
            The backward pass runs each chunk again, so that the memory is that of one
            chunk, at the price of a further forward pass. By default all at once.
        baseline: Name of a deterministic site of the guide, which predicts the
            log-weight of each element from the data alone. It is trained by squared
            error, and gradients of the bound do not reach it: stop the gradient of what
            it shares with the rest of the guide. For one particle.
        vectorize_particles: As in NumPyro's ELBOs.

    Raises:
        ValueError: If a number is not positive; if there is a `baseline` and more than
            one particle; and in the programs, where `iwae_bound` raises one.

    Under jit, sites outside of the plate that depend on draws make the loss NaN.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> data = jnp.array([0.3, -1.2, 0.8])
        >>> def model(data):
        ...     with numpyro.plate("data", 3):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Normal(z, 1.0), obs=data)
        >>> def guide(data):
        ...     logits = numpyro.param("logits", jnp.zeros(3))
        ...     with numpyro.plate("data", 3):
        ...         numpyro.sample("z", dist.Bernoulli(logits=logits))
        >>> loss = IWAE(5, plate="data")
        >>> svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(0.01), loss)
        >>> result = svi.run(jax.random.key(0), 2, data, progress_bar=False)
        >>> bool(result.losses[0] > 0)
        True

    References:
        Burda, Grosse, Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8.
        https://arxiv.org/abs/1509.00519
        Mnih, Rezende (2016), Variational Inference for Monte Carlo Objectives, eq. 9
        and 10. https://arxiv.org/abs/1602.06725
        Mnih, Gregor (2014), Neural Variational Inference and Learning in Belief
        Networks, section 2.3. https://arxiv.org/abs/1402.0030

    Counterpart: :class:`pyro_concrete.IWAE`.
    """

    can_infer_discrete = True

    def __init__(
        self,
        num_particles: int,
        *,
        plate: str | None = None,
        chunk_size: int | None = None,
        baseline: str | None = None,
        vectorize_particles: bool | Callable = True,
    ) -> None:
        # Refuses numbers that are not positive.
        chunks(num_particles, num_particles if chunk_size is None else chunk_size)
        if baseline is not None and num_particles > 1:
            raise ValueError(
                f"baseline={baseline!r} is for one particle, and there are "
                f"{num_particles}, which are compared with each other. Leave it out"
            )
        super().__init__(num_particles, vectorize_particles)
        self.plate = plate
        self.chunk_size = chunk_size
        self.baseline = baseline

    def loss_with_mutable_state(
        self,
        rng_key: Array,
        param_map: dict[str, Any],
        model: Callable,
        guide: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the loss, and the mutable state after the run."""
        programs = param_map, model, guide, args, kwargs
        # Each particle is validated as it is traced, and runs no further time for it.
        particles = Particles(rng_key, *programs, plate=self.plate, validate=False)
        keys = random.split(particles.key, self.num_particles)
        try:
            drawn = self._map(partial(self._particle, particles), keys)
        except Exception:
            # To look at the structure alone may tell better what is wrong.
            Particles(rng_key, *programs, plate=self.plate)
            raise
        outside = common_value(drawn.outside, self.plate)
        bounds = logsumexp(drawn.log_weights, 0) - math.log(self.num_particles)
        bound = particles.scale * bounds.sum() + outside
        if drawn.scores is not None:
            signals = lax.stop_gradient(self._signals(drawn))
            surrogate = particles.scale * (signals * drawn.scores).sum()
            bound += surrogate - lax.stop_gradient(surrogate)
        if drawn.predictions is not None:
            errors = lax.stop_gradient(drawn.log_weights) - drawn.predictions
            squares = particles.scale * (errors**2).sum()
            bound -= squares - lax.stop_gradient(squares)
        state = jax.tree.map(_mean_state, drawn.state)
        return {"loss": -bound, "mutable_state": state or None}

    def _particle(self, particles: Particles, key: Array) -> _Particle:
        model_trace, guide_trace = particles.run(key)
        particles.learn(model_trace, guide_trace)
        log_weights, outside = particles.weights(model_trace, guide_trace)
        scores = [
            particles.by_element(score_of(site["fn"], site["value"]), site)
            for site in guide_trace.values()
            if site["type"] == "sample"
            and not site["is_observed"]
            and not site["fn"].has_rsample
        ]
        predictions = None
        if self.baseline is not None:
            predictions = self._predictions(guide_trace, log_weights.shape)
        state = {
            name: site["value"]
            for trace in (guide_trace, model_trace)
            for name, site in trace.items()
            if site["type"] == "mutable"
        }
        total = sum(scores[1:], scores[0]) if scores else None
        return _Particle(log_weights, outside, total, predictions, state)

    def _predictions(self, guide_trace: dict[str, Any], shape: tuple) -> Array:
        """What the guide predicts the log-weights to be."""
        site = guide_trace.get(self.baseline)
        if site is None or site["type"] != "deterministic":
            raise ValueError(
                f"the guide has no deterministic site {self.baseline!r}, which "
                "baseline names. Add one that predicts the log-weight of each element"
            )
        if jnp.shape(site["value"]) not in ((), shape):
            raise ValueError(
                f"site {self.baseline!r}, the baseline, has shape "
                f"{jnp.shape(site['value'])}, and there are {shape[0]} log-weights"
            )
        return jnp.broadcast_to(site["value"], shape)

    def _map(self, particle: Callable, keys: Array) -> _Particle:
        """Run all particles, in chunks that are rematerialized in the backward pass."""
        if self.num_particles == 1:
            return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], particle(keys[0]))
        if self.chunk_size is None or self.chunk_size >= self.num_particles:
            return self.vectorize_particles_fn(particle, keys)
        number, size = chunks(self.num_particles, self.chunk_size)
        # The last chunk is filled up with particles that do not count.
        place = jnp.arange(number * size).reshape(number, size)
        chunked = keys[jnp.minimum(place, self.num_particles - 1)]
        # Inside of a loop nothing is merged with the first run that should be kept.
        chunk = jax.checkpoint(
            lambda keys: self.vectorize_particles_fn(particle, keys), prevent_cse=False
        )
        drawn = lax.map(chunk, chunked)
        return jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: self.num_particles], drawn
        )

    def _signals(self, drawn: _Particle) -> Array:
        """How much better than expected the values of each particle are."""
        if self.num_particles > 1:
            return vimco_signals(drawn.log_weights)
        [signals] = drawn.log_weights
        if drawn.predictions is not None:
            signals = signals - drawn.predictions[0]
        if len(signals) > 1:
            # The elements of the plate are independent of each other.
            signals = compared(signals, 0)
        # One more: it takes away the gradient of - log q in the log-weight, whose mean
        # is zero if its weight in the bound is always one.
        return signals[None] + 1


def _mean_state(leaf: Array) -> Array:
    """The mean over particles of a number, and the first of what cannot be averaged."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf[0]
    # Without rounding where all are equal.
    return leaf[0] + (leaf - leaf[0]).mean(0)


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

    It has no gradient, and to ask for one is an error. `IWAE` is the bound to train by:
    ``jax.grad`` of its ``loss`` has no bias, at discrete sites either.

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
            latent site is outside of `plate`; if another plate takes a subsample; if
            the parameters lack mutable state. By the site or plate, with the way out.
        TypeError: If it is differentiated.

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

    Counterpart: :func:`pyro_concrete.iwae_bound`.
    """
    if per_element and plate is None:
        raise ValueError("per_element gives the bounds of a plate's elements: name it")
    settings: Any = {"plate": plate, "vectorize": vectorize_particles}
    particles = Particles(rng_key, params, model, guide, args, kwargs, **settings)
    found = summary(particles, num_particles, chunk_size, progress_bar)
    return _without_gradient(found.bounds if per_element else found.bound)


@jax.custom_jvp
def _without_gradient(bound: Array) -> Array:
    """Return the bound; its paths alone would be a wrong gradient at discrete sites."""
    return bound


@_without_gradient.defjvp
def _refuse_gradient(_primals: tuple, _tangents: tuple) -> tuple:
    raise TypeError(
        "iwae_bound has no gradient: it is the bound to evaluate by. Differentiate the "
        "loss of IWAE(num_particles, plate=..., chunk_size=...) instead"
    )
