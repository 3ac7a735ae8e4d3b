"""The multi-sample bound: `IWAE` is the loss for training, `iwae_bound` the estimate.

The bound of Burda et al. on the log-evidence, for each data point. The paper trains
with up to 50 samples per data point, and evaluates with tens of thousands.

Counterpart: ``pyro_concrete.objectives.iwae``.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.nn import logsumexp
from numpyro.infer.elbo import ELBO

from concrete_core.objectives.checks import validate_one_particle_baseline
from concrete_core.objectives.chunks import Chunks, even_chunks, validate_chunks
from concrete_core.objectives.programs import Programs
from concrete_core.types import Messages, Params, Program
from numpyro_concrete.objectives.learning_signals import (
    leave_one_out_signals,
    vimco_signals,
)
from numpyro_concrete.objectives.particles import (
    Particles,
    common_value,
    summarize_particles,
)
from numpyro_concrete.objectives.traces import (
    needs_score_function,
    scored_sites,
    unmasked_log_prob,
)


class _WeightedDraws(NamedTuple):
    """What the loss needs of one particle, or with a leading axis of all particles.

    Attributes:
        log_weights: Log-weights of the elements: (elements,).
        outside_plate: Log-probability of the sites outside of the plate: ().
        draw_log_probs: Log-probability that the guide drew the values without a path,
            for each element, or None if all values have a path: (elements,).
        predictions: Predictions of the log-weights by the guide, or None: (elements,).
        state: Mutable state after the run, by site.
    """

    log_weights: Array
    outside_plate: Array
    draw_log_probs: Array | None
    predictions: Array | None
    state: Params


class IWAE(ELBO):
    r"""The multi-sample bound as a loss for `SVI`, with a bound for each data point.

    .. math:: \frac{N}{B} \sum_{n \in \text{batch}} \log \frac1m \sum_{i=1}^m
        \frac{p(x_n, z_{ni})}{q(z_{ni})}, \quad z_{ni} \sim q

    Give it the model and the guide that you train: relaxed, discrete, or with sites of
    both types. Reparameterized sites, relaxed ones among them, pass the gradient of
    their paths. Other sites get the VIMCO gradient: a score function whose baseline is
    the bound with the geometric mean of the other weights in place of the particle's
    own. Both are unbiased for the bound of the given model and guide, but
    straight-through estimators keep their bias. With a relaxed model it is a bound on
    the evidence of the relaxed model.

    Name the plate of the data. Without it there is one weight for all data, and the
    bound hardly gains from more particles. The plate may take a subsample, which is
    drawn once for all particles, and the sum is scaled to the whole plate *outside* of
    the logarithm. All latent sites are inside of the plate, except for those that the
    guide fixes by a Delta; terms outside of the plate are added once.

    More particles make a tighter bound and, per particle, a weaker learning signal for
    the guide; 5 to 50 are usual. With one particle the bound is the ELBO, and there are
    no other particles to take a baseline from. The baseline of values without a path is
    then the mean over the other elements of the plate, and the predictions of
    `baseline`. `RLOO` with two particles is a good alternative.

    Mutable state is the mean over particles of the state after each.

    Args:
        num_particles: Number m of particles, >= 1.
        plate: Name of the plate whose elements have a bound of their own.
        chunk_size: Largest number of particles to run at a time, >= 1; chunks are made
            even. The backward pass runs each chunk again, so that the memory is that of
            one chunk, at the price of a further forward pass. By default all particles
            run at once.
        baseline: Name of a deterministic site of the guide, which predicts the
            log-weight of each element from the data alone. It is trained by squared
            error, and gradients of the bound do not reach it: stop the gradient of what
            it shares with the rest of the guide. For one particle.
        vectorize_particles: As in NumPyro's ELBOs.

    Raises:
        ValueError: If a number is less than one, if there is a `baseline` and more than
            one particle, and during a step where `iwae_bound` raises one.

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
        validate_chunks(num_particles, chunk_size)
        validate_one_particle_baseline(baseline, num_particles)
        super().__init__(num_particles, vectorize_particles)
        self.plate = plate
        self.chunk_size = chunk_size
        self.baseline = baseline

    @property
    def _chunks(self) -> Chunks:
        """The chunks of particles that run at a time."""
        return even_chunks(self.num_particles, self.chunk_size)

    def loss_with_mutable_state(
        self,
        rng_key: Array,
        param_map: Params,
        model: Program,
        guide: Program,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the loss, and the mutable state after the run."""
        programs = Programs(model, guide, args, kwargs)
        # Each particle is validated as it is traced, without a run of its own.
        particles = Particles(
            rng_key, param_map, programs, plate=self.plate, validate=False
        )
        keys = random.split(particles.key, self.num_particles)
        try:
            draws = self._draw_all_particles(partial(self._draw, particles), keys)
        except Exception:
            # The validation may have a clearer message.
            Particles(rng_key, param_map, programs, plate=self.plate)
            raise
        outside_plate = common_value(draws.outside_plate, self.plate)
        log_means = logsumexp(draws.log_weights, 0) - math.log(self.num_particles)
        bound = particles.scale * log_means.sum() + outside_plate
        # Each x - stop_gradient(x) is zero, and adds the gradient of x to the bound's.
        if draws.draw_log_probs is not None:
            signals = lax.stop_gradient(self._learning_signals(draws))
            surrogate = particles.scale * (signals * draws.draw_log_probs).sum()
            bound += surrogate - lax.stop_gradient(surrogate)
        if draws.predictions is not None:
            errors = lax.stop_gradient(draws.log_weights) - draws.predictions
            squares = particles.scale * (errors**2).sum()
            bound -= squares - lax.stop_gradient(squares)
        state = jax.tree.map(_mean_state, draws.state)
        return {"loss": -bound, "mutable_state": state or None}

    def _draw(self, particles: Particles, key: Array) -> _WeightedDraws:
        """Draw one particle."""
        model_trace, guide_trace = particles.run(key)
        particles.record_structure(model_trace, guide_trace)
        log_weights, outside_plate = particles.log_weights(model_trace, guide_trace)
        draw_log_probs = None
        for site in scored_sites(guide_trace).values():
            if needs_score_function(site):
                log_prob = unmasked_log_prob(site["fn"], site["value"])
                term = particles.sum_by_element(log_prob, site)
                draw_log_probs = (
                    term if draw_log_probs is None else draw_log_probs + term
                )
        predictions = None
        if self.baseline is not None:
            predictions = _predictions(self.baseline, guide_trace, log_weights.shape)
        return _WeightedDraws(
            log_weights=log_weights,
            outside_plate=outside_plate,
            draw_log_probs=draw_log_probs,
            predictions=predictions,
            state={**_mutable_state(guide_trace), **_mutable_state(model_trace)},
        )

    def _draw_all_particles(
        self, draw: Callable[[Array], _WeightedDraws], keys: Array
    ) -> _WeightedDraws:
        """Draw all particles, in chunks that the backward pass runs again."""
        if self.num_particles == 1:
            return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], draw(keys[0]))
        if self._chunks.count == 1:
            return self.vectorize_particles_fn(draw, keys)
        # The last chunk is filled up with particles that do not count.
        indices = jnp.arange(self._chunks.count * self._chunks.size)
        indices = jnp.minimum(indices, self.num_particles - 1)
        chunked_keys = keys[indices.reshape(self._chunks.count, self._chunks.size)]
        # Inside of a loop XLA cannot merge the second run with the first one.
        draw_chunk = jax.checkpoint(
            lambda keys: self.vectorize_particles_fn(draw, keys), prevent_cse=False
        )
        draws = lax.map(draw_chunk, chunked_keys)
        return jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: self.num_particles], draws
        )

    def _learning_signals(self, draws: _WeightedDraws) -> Array:
        """Return what multiplies the score function: (particles, elements)."""
        if self.num_particles > 1:
            return vimco_signals(draws.log_weights)
        [signals] = draws.log_weights
        if draws.predictions is not None:
            signals = signals - draws.predictions[0]
        if len(signals) > 1:
            # Elements of the plate are independent, and baselines of each other.
            signals = leave_one_out_signals(signals, 0)
        # With one particle the bound is log p - log q, whose second term has the
        # gradient - grad log q. Its mean is zero, and adding 1 cancels it.
        return signals[None] + 1


def _predictions(name: str, guide_trace: Messages, shape: tuple[int, ...]) -> Array:
    """Return the predictions of the log-weights by a deterministic site."""
    site = guide_trace.get(name)
    if site is None or site["type"] != "deterministic":
        raise ValueError(
            f"the guide has no deterministic site {name!r}, which is the baseline. "
            "Add one that predicts the log-weight of each element"
        )
    if jnp.shape(site["value"]) not in ((), shape):
        raise ValueError(
            f"site {name!r}, the baseline, has shape {jnp.shape(site['value'])}, "
            f"and there are {shape[0]} log-weights"
        )
    return jnp.broadcast_to(site["value"], shape)


def _mutable_state(program_trace: Messages) -> Params:
    """Return the mutable state in a trace, by site."""
    return {
        name: site["value"]
        for name, site in program_trace.items()
        if site["type"] == "mutable"
    }


def _mean_state(leaf: Array) -> Array:
    """Return the mean over particles, or the first where numbers are not floats."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf[0]
    # The mean of deviations has no rounding error where all particles are equal.
    return leaf[0] + (leaf - leaf[0]).mean(0)


def iwae_bound(
    rng_key: Array,
    params: Params,
    model: Program,
    guide: Program,
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

    Its expectation is a lower bound on :math:`\log p(x)`. It is the ELBO for m = 1, and
    rises with m to the log-evidence. Give it the discrete model and ``harden(guide)``:
    the paper reports this bound with m = 50,000. Only the running sums and one chunk of
    particles are in memory at a time.

    For independent data, name their plate: the bound is then taken for each data point
    and summed, which is what papers report. With ``plate=None`` a particle is a draw
    for all data at once, and the bound is loose unless the data are few. If the plate
    takes a subsample, one is drawn for all particles, and the sum is scaled to the
    whole plate.

    It has no gradient, and asking for one is an error. Train with `IWAE`: ``jax.grad``
    of its ``loss`` is unbiased at discrete sites, too.

    Shapes:
        result: (), or with `per_element` (size of the plate or its subsample,).

    Args:
        rng_key: Random key. Each particle has a key of its own, so that chunks of
            another size give the same bound up to rounding.
        params: Parameters of the model and the guide, constrained, as
            ``svi.get_params(state)`` and ``svi.run(...).params`` are.
        model: Discrete model, as it was before `relax`. A relaxed model goes with a
            relaxed guide; their bound is one on the relaxed model's evidence.
        guide: Guide of the model: ``harden(guide)`` if it is relaxed.
        *args: Arguments of the model and the guide.
        num_particles: Number m of particles, >= 1.
        chunk_size: Largest number of particles to run at a time, >= 1; chunks are made
            even. It bounds the memory. The model is compiled for one chunk.
        plate: Name of the plate whose elements have a bound of their own. All latent
            sites are inside of it, except for those that the guide fixes by a Delta.
            Terms outside of it, which no draw may influence, are added once.
        per_element: Return the bounds of the elements of `plate`, not their scaled sum.
        vectorize_particles: Run a chunk at once, by `vmap`, as NumPyro's ELBOs do. If
            False, run the particles one by one, by `lax.map`.
        progress_bar: Show the progress over particles, but not inside of jit.
        **kwargs: Keyword arguments of the model and the guide.

    Returns:
        The bound, in nats.

    Raises:
        ValueError: If only one of the model and the guide is relaxed, if a latent site
            is in one of them only, if a latent site is outside of `plate`, if another
            plate takes a subsample, or if `params` lack mutable state. The message
            names the site or plate.
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
    programs = Programs(model, guide, args, kwargs)
    particles = Particles(
        rng_key, params, programs, plate=plate, vectorize=vectorize_particles
    )
    summary = summarize_particles(particles, num_particles, chunk_size, progress_bar)
    if per_element:
        return _without_gradient(summary.bounds)
    return _without_gradient(summary.bound)


@jax.custom_jvp
def _without_gradient(bound: Array) -> Array:
    """Return the bound; its paths alone would be a wrong gradient at discrete sites."""
    return bound


@_without_gradient.defjvp
def _raise_no_gradient(_primals: tuple, _tangents: tuple) -> tuple:
    raise TypeError(
        "iwae_bound has no gradient, as it is for evaluation. Differentiate the loss "
        "of IWAE(num_particles, plate=..., chunk_size=...) instead"
    )
