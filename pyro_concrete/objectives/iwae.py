"""The multi-sample bound: `IWAE` is the loss for training, `iwae_bound` the estimate.

The bound of Burda et al. on the log-evidence, for each data point. The paper trains
with up to 50 samples per data point, and evaluates with tens of thousands.

Counterpart: ``numpyro_concrete.objectives.iwae``.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer.elbo import ELBO
from pyro.infer.util import torch_backward
from pyro.poutine import Trace
from pyro.util import get_rng_state, set_rng_state, warn_if_nan
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from concrete_core.objectives.checks import validate_one_particle_baseline
from concrete_core.objectives.chunks import even_chunks, validate_chunks
from concrete_core.objectives.programs import Programs
from concrete_core.types import Message, Program
from pyro_concrete.internals import is_deterministic
from pyro_concrete.objectives.learning_signals import (
    leave_one_out_signals,
    vimco_signals,
)
from pyro_concrete.objectives.particles import (
    Particles,
    common_value,
    summarize_particles,
)
from pyro_concrete.objectives.traces import (
    all_sites,
    needs_score_function,
    scored_sites,
    unmasked_log_prob,
)
from pyro_concrete.relaxation.wrappers import has_masks


@dataclass(frozen=True)
class _FirstRun:
    """What the first run of a model and a guide has shown.

    Attributes:
        model: Model.
        guide: Guide.
        shapes: Shapes of the tensors among the arguments.
        param_names: Names of the parameters in Pyro's store after the run.
        max_plate_nesting: Number of dims that plates take.
        device: Device of the log-weights.
        broadcasts: Whether the model and the guide broadcast over a plate of particles.
    """

    model: Program
    guide: Program
    shapes: tuple[torch.Size, ...]
    param_names: frozenset[str]
    max_plate_nesting: int
    device: torch.device
    broadcasts: bool

    def applies_to(self, programs: Programs) -> bool:
        """Tell whether these programs have run, and their parameters still exist."""
        return (
            self.model == programs.model
            and self.guide == programs.guide
            and self.shapes == _shapes_of_arguments(programs)
            and self.param_names <= pyro.get_param_store().keys()
        )


class _WeightedDraws(NamedTuple):
    """What the loss needs of one particle, or with a leading dim of all particles.

    Attributes:
        log_weights: Log-weights of the elements: (elements,).
        outside_plate: Log-probability of the sites outside of the plate: ().
        draw_log_probs: Log-probability that the guide drew the values without a path,
            for each element: (elements,).
        predictions: Predictions of the log-weights by the guide: (elements,).
    """

    log_weights: Tensor
    outside_plate: Tensor
    draw_log_probs: Tensor
    predictions: Tensor


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
        vectorize_particles: Run the particles at once: in a plate around the model and
            the guide if they broadcast over it, which is checked once against single
            runs, and otherwise by `torch.vmap`. They cannot read drawn values, as in
            ``if z:``. If False, run them one by one.
        retain_graph: As in Pyro's ELBOs.

    The model and the guide run once more at the first step, which validates them.

    Raises:
        ValueError: If a number is less than one, if there is a `baseline` and more than
            one particle, and during a step where `iwae_bound` raises one.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> data = torch.tensor([0.3, -1.2, 0.8])
        >>> def model(data):
        ...     with pyro.plate("data", 3):
        ...         z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=data)
        >>> def guide(data):
        ...     logits = pyro.param("logits", torch.zeros(3))
        ...     with pyro.plate("data", 3):
        ...         pyro.sample("z", dist.Bernoulli(logits=logits))
        >>> loss = IWAE(5, plate="data")
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss)
        >>> svi.step(data) > 0
        True

    References:
        Burda, Grosse, Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8.
        https://arxiv.org/abs/1509.00519
        Mnih, Rezende (2016), Variational Inference for Monte Carlo Objectives, eq. 9
        and 10. https://arxiv.org/abs/1602.06725
        Mnih, Gregor (2014), Neural Variational Inference and Learning in Belief
        Networks, section 2.3. https://arxiv.org/abs/1402.0030

    Counterpart: :class:`numpyro_concrete.IWAE`.
    """

    def __init__(
        self,
        num_particles: int,
        *,
        plate: str | None = None,
        chunk_size: int | None = None,
        baseline: str | None = None,
        vectorize_particles: bool = True,
        retain_graph: bool | None = None,
    ) -> None:
        validate_chunks(num_particles, chunk_size)
        validate_one_particle_baseline(baseline, num_particles)
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=vectorize_particles,
            retain_graph=retain_graph,
        )
        self.plate = plate
        self.chunk_size = chunk_size
        self.baseline = baseline
        self._first_run: _FirstRun | None = None

    @property
    def _chunk_size(self) -> int:
        """Number of particles that run at a time."""
        return even_chunks(self.num_particles, self.chunk_size).size

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number."""
        with torch.no_grad():
            loss = self.differentiable_loss(model, guide, *args, **kwargs)
        return loss.item()

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss with a graph whose gradient is the estimate."""
        programs = Programs(model, guide, args, kwargs)
        first_run = self._validate_once(programs)
        # Each particle is validated as it is drawn, without a run of its own.
        particles = Particles(
            programs,
            plate=self.plate,
            vectorize=self.vectorize_particles,
            validate=False,
        )
        particles.max_plate_nesting = first_run.max_plate_nesting
        draws = self._draw_all_particles(particles, first_run)
        outside_plate = common_value(draws.outside_plate, self.plate)
        log_means = draws.log_weights.logsumexp(0) - math.log(self.num_particles)
        bound = particles.scale * log_means.sum() + outside_plate
        # Each x - x.detach() is zero, and adds the gradient of x to that of the bound.
        if draws.draw_log_probs.requires_grad:
            signals = self._learning_signals(draws).detach()
            surrogate = (signals * draws.draw_log_probs).sum()
            bound = bound + particles.scale * (surrogate - surrogate.detach())
        if draws.predictions.requires_grad:
            errors = draws.log_weights.detach() - draws.predictions
            squares = errors.square().sum()
            bound = bound - particles.scale * (squares - squares.detach())
        warn_if_nan(bound, "loss")
        return -bound

    def loss_and_grads(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> float:
        """Return the loss, and add the gradients to those of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            torch_backward(loss, retain_graph=self.retain_graph)
        return loss.item()

    def _get_trace(
        self, model: Program, guide: Program, args: tuple, kwargs: dict
    ) -> tuple[Trace, Trace]:
        raise NotImplementedError("IWAE runs its particles together")

    def _validate_once(self, programs: Programs) -> _FirstRun:
        """Run one particle at the first step, and for new shapes and parameters.

        Vectorized particles can neither validate values nor initialize parameters.
        """
        if self._first_run is not None and self._first_run.applies_to(programs):
            return self._first_run
        broadcasts = False
        rng_state = get_rng_state()
        with torch.no_grad():
            particles = Particles(programs, plate=self.plate)
            log_weights = particles.log_weights(*particles.run())
            param_names = frozenset(pyro.get_param_store().keys())
            if self.vectorize_particles and self._chunk_size > 1:
                broadcasts = particles.broadcasts(self._chunk_size)
        set_rng_state(rng_state)  # validation changes no draw
        self._first_run = _FirstRun(
            model=programs.model,
            guide=programs.guide,
            shapes=_shapes_of_arguments(programs),
            param_names=param_names,
            max_plate_nesting=particles.max_plate_nesting,
            device=log_weights.elements.device,
            broadcasts=broadcasts,
        )
        return self._first_run

    def _draw(
        self, particles: Particles, num_particles: int | None = None
    ) -> _WeightedDraws:
        """Draw one particle, or a plate of them."""
        model_trace, guide_trace = particles.run(num_particles)
        particles.record_structure(model_trace, guide_trace)
        log_weights, outside_plate = particles.log_weights(model_trace, guide_trace)
        draw_log_probs = torch.zeros_like(log_weights)
        for site in scored_sites(guide_trace).values():
            if needs_score_function(site):
                term = particles.sum_by_element(_draw_log_prob(site), site)
                draw_log_probs = draw_log_probs + term
        predictions = torch.zeros_like(log_weights)
        if self.baseline is not None:
            predictions = _predictions(self.baseline, guide_trace, log_weights.shape)
        return _WeightedDraws(log_weights, outside_plate, draw_log_probs, predictions)

    def _draw_chunk(
        self, particles: Particles, first_run: _FirstRun, num_particles: int
    ) -> _WeightedDraws:
        """Draw particles at once, or one by one if they are not vectorized."""
        if num_particles == 1:
            return _WeightedDraws(*(term[None] for term in self._draw(particles)))
        if first_run.broadcasts:
            draws = self._draw(particles, num_particles)
            outside_plate = draws.outside_plate.expand(num_particles)
            return draws._replace(outside_plate=outside_plate)
        return _WeightedDraws(
            *particles.map(lambda: self._draw(particles), num_particles)
        )

    def _draw_all_particles(
        self, particles: Particles, first_run: _FirstRun
    ) -> _WeightedDraws:
        """Draw all particles, in chunks that the backward pass runs again."""
        if self._chunk_size == self.num_particles:
            return self._draw_chunk(particles, first_run, self.num_particles)

        def rematerialized(num_particles: int, _: Tensor) -> _WeightedDraws:
            return self._draw_chunk(particles, first_run, num_particles)

        # checkpoint restores the random state of the devices of its arguments.
        device_marker = torch.empty(0, device=first_run.device)
        chunks = []
        # Early stopping raises an exception, which cannot cross `torch.vmap`.
        with set_checkpoint_early_stop(False):
            for start in range(0, self.num_particles, self._chunk_size):
                size = min(self._chunk_size, self.num_particles - start)
                chunks.append(
                    checkpoint(rematerialized, size, device_marker, use_reentrant=False)
                )
        return _WeightedDraws(
            *(torch.cat(terms) for terms in zip(*chunks, strict=True))
        )

    def _learning_signals(self, draws: _WeightedDraws) -> Tensor:
        """Return what multiplies the score function: (particles, elements)."""
        if self.num_particles > 1:
            return vimco_signals(draws.log_weights.detach())
        [signals] = draws.log_weights - draws.predictions
        if len(signals) > 1:
            # Elements of the plate are independent, and baselines of each other.
            signals = leave_one_out_signals(signals, 0)
        # With one particle the bound is log p - log q, whose second term has the
        # gradient - grad log q. Its mean is zero, and adding 1 cancels it.
        return signals[None] + 1


def _shapes_of_arguments(programs: Programs) -> tuple[torch.Size, ...]:
    arguments = (*programs.args, *programs.kwargs.values())
    return tuple(
        argument.shape for argument in arguments if isinstance(argument, Tensor)
    )


def _predictions(name: str, guide_trace: Trace, shape: torch.Size) -> Tensor:
    """Return the predictions of the log-weights by a deterministic site."""
    site = all_sites(guide_trace).get(name)
    if site is None or not is_deterministic(site):
        raise ValueError(
            f"the guide has no deterministic site {name!r}, which is the baseline. "
            "Add one that predicts the log-weight of each element"
        )
    if site["value"].shape not in ((), shape):
        raise ValueError(
            f"site {name!r}, the baseline, has shape {tuple(site['value'].shape)}, "
            f"and there are {shape[0]} log-weights"
        )
    return site["value"].expand(shape)


def _draw_log_prob(site: Message) -> Tensor:
    """Return the log-probability that a value was drawn with, unmasked, unscaled."""
    fn = site["fn"]
    if has_masks(fn):
        return unmasked_log_prob(site["fn"], site["value"])
    return site["unscaled_log_prob"]


def iwae_bound(
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
) -> float | Tensor:
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

    It has no gradient, as it keeps only the value. Train with `IWAE`, whose loss has an
    unbiased gradient at discrete sites, too.

    Shapes:
        result: a number, or with `per_element` (size of the plate or its subsample,).

    Args:
        model: Discrete model, as it was before `relax`. A relaxed model goes with a
            relaxed guide; their bound is one on the relaxed model's evidence.
        guide: Guide of the model: ``harden(guide)`` if it is relaxed.
        *args: Arguments of the model and the guide.
        num_particles: Number m of particles, >= 1.
        chunk_size: Largest number of particles to run at a time, >= 1; chunks are made
            even. It bounds the memory. The distribution of the particles does not
            depend on it, but those of a given seed do, as torch draws a site for all of
            a chunk at once.
        plate: Name of the plate whose elements have a bound of their own. All latent
            sites are inside of it, except for those that the guide fixes by a Delta.
            Terms outside of it, which no draw may influence, are added once.
        per_element: Return the bounds of the elements of `plate`, not their scaled sum.
        vectorize_particles: Run a chunk at once: in a plate around the model and the
            guide if they broadcast over it, which is checked once against single runs,
            and otherwise by `torch.vmap`. They cannot read drawn values, as in
            ``if z:``. If False, run the particles one by one.
        progress_bar: Show the progress over particles.
        **kwargs: Keyword arguments of the model and the guide.

    Returns:
        The bound, in nats.

    Raises:
        ValueError: If only one of the model and the guide is relaxed, if a latent site
            is in one of them only, if a latent site is outside of `plate`, if another
            plate takes a subsample, or if they cannot be vectorized. The message
            names the site or plate.

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

    Counterpart: :func:`numpyro_concrete.iwae_bound`.
    """
    if per_element and plate is None:
        raise ValueError("per_element gives the bounds of a plate's elements: name it")
    programs = Programs(model, guide, args, kwargs)
    with torch.no_grad():
        particles = Particles(programs, plate=plate, vectorize=vectorize_particles)
        summary = summarize_particles(
            particles, num_particles, chunk_size, progress_bar
        )
    if per_element:
        return summary.bounds
    return float(summary.bound)
