"""How a model of the gallery is trained and evaluated in NumPyro.

All seeds train at once, by `vmap` over the state of `SVI`, and the steps are a `scan`.

Counterpart: ``benchmarks.gallery.on_pyro.training``.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax, random
from numpyro import infer
from numpyro.contrib.funsor import config_enumerate
from numpyro.distributions.distribution import validation_enabled

import numpyro_concrete as package
from benchmarks.gallery.entries import Entry
from benchmarks.gallery.methods import Method
from benchmarks.gallery.on_numpyro import models
from benchmarks.gallery.outcome import Outcome
from benchmarks.gallery.phases import (
    Backend,
    Phase,
    TrainingPlan,
    empty_guide,
    plan_training,
)
from numpyro_concrete.schedules import STEP_PARAM, count_steps

NUM_DRAWS = 2000
NUM_PARTICLES = 1000
TIMED_STEPS = 200
FINAL_RATE = 0.05
BACKEND = Backend(package, infer, models, config_enumerate)


@dataclass(frozen=True)
class Run:
    """What a trained model is evaluated with, of one seed."""

    key: Any
    params: dict[str, Any]
    plan: TrainingPlan
    data: dict[str, Any]


@validation_enabled(False)
def outcomes(
    entry: Entry,
    method: Method,
    data: dict[str, Any],
    seeds: Sequence[int],
    num_evaluations: int,
) -> list[Outcome]:
    """Train a model in one way from several seeds, and evaluate what came of it."""
    data = {name: jnp.asarray(x) for name, x in data.items()}
    plan = plan_training(BACKEND, entry, method, num_evaluations)
    keys = jnp.stack([random.key(seed) for seed in seeds])
    params, total = train(plan.phases, entry, data, keys)
    results = []
    for i, seed in enumerate(seeds):
        run = Run(random.key(1000 + seed), _of_seed(params, i), plan, data)
        elbo, stderr = _elbo(run)
        results.append(
            Outcome(
                seed=seed,
                elbo=elbo,
                elbo_stderr=stderr,
                log_evidence=_log_evidence(entry, run),
                evaluations=plan.num_evaluations,
                milliseconds=total / plan.num_evaluations,
            )
        )
    return results


def timer(
    entry: Entry, method: Method, data: dict[str, Any], num_evaluations: int
) -> Callable[[], float]:
    """Return a measurement: the processor's milliseconds of a model evaluation.

    It is the mean over the phases of a training.
    """
    data = {name: jnp.asarray(x) for name, x in data.items()}
    plan = plan_training(BACKEND, entry, method, num_evaluations)
    call = {**data, **entry.batch}
    timers = []
    with validation_enabled(False):
        for number, phase in enumerate(plan.phases):
            svi, step = _steps_of(phase, entry, call, number)
            state = svi.init(random.key(0), **call)
            timers.append((phase.num_steps, _timer_of_step(step, state)))

    def measure() -> float:
        total = sum(num_steps * time_of_step() for num_steps, time_of_step in timers)
        return total / plan.num_evaluations

    return measure


def train(
    phases: Sequence[Phase], entry: Entry, data: dict[str, Any], keys: Any
) -> tuple[Any, float]:
    """Train from each key; the parameters, and milliseconds of training one seed."""
    params, total = None, 0.0
    call = {**data, **entry.batch}
    for number, phase in enumerate(phases):
        svi, step = _steps_of(phase, entry, call, number)
        states = []
        for i, key in enumerate(keys):
            start = None if params is None else _of_seed(params, i)
            key = random.fold_in(key, number)
            states.append(svi.init(key, init_params=start, **call))
        total += _timer_of_step(step, states[0])() * phase.num_steps
        states = jax.tree.map(lambda *x: jnp.stack(x), *states)
        params = jax.vmap(svi.get_params)(_run(step, states, phase.num_steps))
    return params, total


def _steps_of(
    phase: Phase, entry: Entry, call: dict[str, Any], number: int
) -> tuple[infer.SVI, Callable]:
    """The inference of a phase, and a function from its state to the next."""
    # The second phase goes on at half of the rate.
    rate = entry.learning_rate / (number + 1)
    rates = optax.cosine_decay_schedule(rate, phase.num_steps, FINAL_RATE)
    optimizer = count_steps(optax.adam(rates))
    loss = BACKEND.loss(phase.objective)
    svi = infer.SVI(phase.model, phase.guide, optimizer, loss)
    return svi, lambda state, _: (svi.update(state, **call)[0], None)


def _run(step: Callable, states: Any, num_steps: int) -> Any:
    """The states of all seeds after that many steps."""
    return jax.jit(jax.vmap(lambda s: lax.scan(step, s, length=num_steps)[0]))(states)


def _timer_of_step(step: Callable, state: Any) -> Callable[[], float]:
    """Return a measurement: the processor's milliseconds of a compiled step."""
    run = jax.jit(lambda state: lax.scan(step, state, length=TIMED_STEPS)[0])
    jax.block_until_ready(run(state))

    def measure() -> float:
        start = time.process_time()
        jax.block_until_ready(run(state))
        return 1000 * (time.process_time() - start) / TIMED_STEPS

    return measure


def _of_seed(params: Any, i: int) -> Any:
    """The parameters of one seed, without the count of steps."""
    return {name: x[i] for name, x in params.items() if name != STEP_PARAM}


def _elbo(run: Run) -> tuple[float, float]:
    """The discrete ELBO and its standard error."""
    plan = run.plan
    elbo = infer.TraceEnum_ELBO() if plan.is_enumerated else infer.Trace_ELBO()

    def estimate(key):
        return -elbo.loss(key, run.params, plan.model, plan.guide, **run.data)

    keys = random.split(run.key, NUM_DRAWS)
    values = jax.jit(lambda keys: lax.map(estimate, keys, batch_size=50))(keys)
    return float(values.mean()), float(values.std() / NUM_DRAWS**0.5)


def _log_evidence(entry: Entry, run: Run) -> float:
    """The log-evidence of the learned model: exact if its sites can be enumerated."""
    if not entry.learns:
        return math.nan
    model = run.plan.model
    if entry.can_enumerate:
        # All latent sites of these models are discrete, and need no guide.
        model = config_enumerate(model)
        loss = infer.TraceEnum_ELBO().loss
        return -float(loss(run.key, run.params, model, empty_guide, **run.data))
    bound = package.iwae_bound(
        run.key,
        run.params,
        model,
        run.plan.guide,
        num_particles=NUM_PARTICLES,
        chunk_size=50,
        plate=entry.plate,
        **run.data,
    )
    return float(bound)
