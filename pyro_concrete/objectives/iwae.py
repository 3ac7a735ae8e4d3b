"""The multi-sample bound: `IWAE` to train by, and `iwae_bound` to evaluate by.

The bound of Burda et al. on the log-evidence, for each data point. The paper trains
with up to 50 samples per data point, and evaluates with tens of thousands.

Counterpart: ``numpyro_concrete.objectives.iwae``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions.torch_distribution import (
    ExpandedDistribution,
    MaskedDistribution,
)
from pyro.infer.elbo import ELBO
from pyro.infer.util import torch_backward
from pyro.poutine import Trace
from pyro.util import get_rng_state, set_rng_state, warn_if_nan
from torch import Tensor
from torch.distributions import Independent
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from pyro_concrete.objectives.gradients import compared
from pyro_concrete.objectives.particles import Particles, chunks, common_value, summary
from pyro_concrete.objectives.passes import score_of
from pyro_concrete.objectives.vimco import vimco_signals


@dataclass(frozen=True)
class _Validated:
    """What was run and validated, and how its particles run.

    Attributes:
        model: The model.
        guide: Its guide.
        shapes: Shapes of the tensors among the arguments.
        param_names: Names of the parameters in Pyro's store after the run.
        nesting: Number of dims that plates take.
        device: Where the log-weights are.
        broadcasts: Whether the programs broadcast over a plate of particles.
    """

    model: Callable
    guide: Callable
    shapes: tuple[torch.Size, ...]
    param_names: frozenset[str]
    nesting: int
    device: torch.device
    broadcasts: bool

    def covers(self, model: Callable, guide: Callable, shapes: tuple) -> bool:
        """Whether it is about these programs, and parameters that are still there."""
        is_same = (self.model, self.guide, self.shapes) == (model, guide, shapes)
        return is_same and self.param_names <= pyro.get_param_store().keys()


class _Particle(NamedTuple):
    """What the loss needs of a particle, or with a leading dim of all.

    Attributes:
        log_weights: Log-weights of the elements: (elements,).
        outside: Log-probability of the sites outside of the plate: ().
        scores: Log-probability that the guide drew the values without a path with,
            for each element: (elements,).
        predictions: What the guide predicts the log-weights to be: (elements,).
    """

    log_weights: Tensor
    outside: Tensor
    scores: Tensor
    predictions: Tensor


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
        vectorize_particles: Run the particles at once: in a plate around the programs
            if these broadcast over it, which is checked once against single runs, and
            by `torch.vmap` if not. They cannot read drawn values, as in ``if z:``.
            Otherwise one by one.
        retain_graph: As in Pyro's ELBOs.

    The programs are run once more at the first step, to validate them.

    Raises:
        ValueError: If a number is not positive; if there is a `baseline` and more than
            one particle; and in the programs, where `iwae_bound` raises one.

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
        # Refuses numbers that are not positive.
        chunks(num_particles, num_particles if chunk_size is None else chunk_size)
        if baseline is not None and num_particles > 1:
            raise ValueError(
                f"baseline={baseline!r} is for one particle, and there are "
                f"{num_particles}, which are compared with each other. Leave it out"
            )
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=vectorize_particles,
            retain_graph=retain_graph,
        )
        self.plate = plate
        self.chunk_size = chunk_size
        self.baseline = baseline
        self._validated: _Validated | None = None

    def loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> float:
        """Return the loss as a number."""
        with torch.no_grad():
            loss = self.differentiable_loss(model, guide, *args, **kwargs)
        return loss.item()

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss with a graph whose gradient is the estimate."""
        validated = self._validate(model, guide, args, kwargs)
        # Each particle is validated for its structure, and runs no further time for it.
        options: Any = {"plate": self.plate, "vectorize": self.vectorize_particles}
        particles = Particles(model, guide, args, kwargs, validate=False, **options)
        particles.nesting = validated.nesting
        drawn = self._map(particles, validated)
        outside = common_value(drawn.outside, self.plate)
        bounds = drawn.log_weights.logsumexp(0) - math.log(self.num_particles)
        bound = particles.scale * bounds.sum() + outside
        if drawn.scores.requires_grad:
            surrogate = (self._signals(drawn).detach() * drawn.scores).sum()
            bound = bound + particles.scale * (surrogate - surrogate.detach())
        if drawn.predictions.requires_grad:
            squares = (drawn.log_weights.detach() - drawn.predictions).square().sum()
            bound = bound - particles.scale * (squares - squares.detach())
        warn_if_nan(bound, "loss")
        return -bound

    def loss_and_grads(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> float:
        """Return the loss, and add the gradients to those of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            torch_backward(loss, retain_graph=self.retain_graph)
        return loss.item()

    def _get_trace(
        self, model: Callable, guide: Callable, args: Any, kwargs: Any
    ) -> Any:
        raise NotImplementedError("IWAE runs its particles together")

    def _validate(
        self, model: Callable, guide: Callable, args: Any, kwargs: Any
    ) -> _Validated:
        """Run one particle at the first step, and for new shapes and parameters.

        Particles at once can neither validate values nor initialize parameters.
        """
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        shapes = tuple(x.shape for x in tensors)
        validated = self._validated
        if validated is not None and validated.covers(model, guide, shapes):
            return validated
        size, broadcasts = self._chunk_size(), False
        state = get_rng_state()
        with torch.no_grad():
            particles = Particles(model, guide, args, kwargs, plate=self.plate)
            device = particles.weigh()[0].device
            names = frozenset(pyro.get_param_store().keys())
            if self.vectorize_particles and size > 1:
                broadcasts = particles.broadcasts(size)
        set_rng_state(state)  # to validate changes no draw
        self._validated = _Validated(
            model=model,
            guide=guide,
            shapes=shapes,
            param_names=names,
            nesting=particles.nesting,
            device=device,
            broadcasts=broadcasts,
        )
        return self._validated

    def _particle(self, particles: Particles, size: int | None = None) -> _Particle:
        """Run one particle, or a plate of them."""
        model_trace, guide_trace = particles.run(size)
        particles.learn(model_trace, guide_trace)
        log_weights, outside = particles.weights(model_trace, guide_trace)
        scores = torch.zeros_like(log_weights)
        nodes: Any = guide_trace.nodes
        for site in nodes.values():
            is_latent = site["type"] == "sample" and not site["is_observed"]
            if is_latent and not site["fn"].has_rsample:
                scores = scores + particles.by_element(_score(site), site)
        predictions = torch.zeros_like(log_weights)
        if self.baseline is not None:
            predictions = self._predictions(guide_trace, log_weights.shape)
        return _Particle(log_weights, outside, scores, predictions)

    def _predictions(self, guide_trace: Trace, shape: torch.Size) -> Tensor:
        """What the guide predicts the log-weights to be."""
        nodes: Any = guide_trace.nodes
        site = nodes.get(self.baseline)
        if site is None or not site["infer"].get("_deterministic"):
            raise ValueError(
                f"the guide has no deterministic site {self.baseline!r}, which "
                "baseline names. Add one that predicts the log-weight of each element"
            )
        if site["value"].shape not in ((), shape):
            raise ValueError(
                f"site {self.baseline!r}, the baseline, has shape "
                f"{tuple(site['value'].shape)}, and there are {shape[0]} log-weights"
            )
        return site["value"].expand(shape)

    def _chunk_size(self) -> int:
        """Number of particles that run at a time."""
        if self.chunk_size is None:
            return self.num_particles
        return chunks(self.num_particles, self.chunk_size)[1]

    def _map(self, particles: Particles, validated: _Validated) -> _Particle:
        """Run all particles, in chunks that are rematerialized in the backward pass."""

        def chunk(size: int, _: Tensor | None = None) -> tuple[Tensor, ...]:
            if size == 1:
                return tuple(x[None] for x in self._particle(particles))
            if validated.broadcasts:
                drawn = self._particle(particles, size)
                return drawn._replace(outside=drawn.outside.expand(size))
            return particles.map(lambda: self._particle(particles), size)

        size = self._chunk_size()
        if size == self.num_particles:
            return _Particle(*chunk(size))
        # From a tensor among the arguments it knows whose random state to restore.
        here = torch.empty(0, device=validated.device)
        drawn = []
        # To stop early is an exception from inside of `torch.vmap`.
        with set_checkpoint_early_stop(False):
            for start in range(0, self.num_particles, size):
                length = min(size, self.num_particles - start)
                drawn.append(checkpoint(chunk, length, here, use_reentrant=False))
        return _Particle(*(torch.cat(x) for x in zip(*drawn, strict=True)))

    def _signals(self, drawn: _Particle) -> Tensor:
        """How much better than expected the values of each particle are."""
        if self.num_particles > 1:
            return vimco_signals(drawn.log_weights.detach())
        signals = drawn.log_weights[0] - drawn.predictions[0]
        if len(signals) > 1:
            # The elements of the plate are independent of each other.
            signals = compared(signals, 0)
        # One more: it takes away the gradient of - log q in the log-weight, whose mean
        # is zero if its weight in the bound is always one.
        return signals[None] + 1


def _score(site: dict[str, Any]) -> Tensor:
    """The log-probability that a value was drawn with, whatever its mask and scale."""
    fn = site["fn"]
    while isinstance(fn, Independent | ExpandedDistribution):
        fn = fn.base_dist
    if isinstance(fn, MaskedDistribution):
        return score_of(site["fn"], site["value"])
    return site["unscaled_log_prob"]


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

    It has no gradient, as only its value is kept. `IWAE` is the bound to train by: the
    gradient of its loss has no bias, at discrete sites either.

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
        vectorize_particles: Run a chunk at once: in a plate around the programs
            if these broadcast over it, which is checked once against single runs, and
            by `torch.vmap` if not. They cannot read drawn values, as in ``if z:``.
            Otherwise one by one.
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

    Counterpart: :func:`numpyro_concrete.iwae_bound`.
    """
    if per_element and plate is None:
        raise ValueError("per_element gives the bounds of a plate's elements: name it")
    with torch.no_grad():
        settings: Any = {"plate": plate, "vectorize": vectorize_particles}
        particles = Particles(model, guide, args, kwargs, **settings)
        found = summary(particles, num_particles, chunk_size, progress_bar)
    return found.bounds if per_element else float(found.bound)
