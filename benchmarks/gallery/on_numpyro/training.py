"""How a model of the gallery is trained and evaluated in NumPyro.

All seeds train at once, by `vmap` over the state of `SVI`, and the steps are a `scan`.

Counterpart: ``benchmarks.gallery.on_pyro.training``.
"""

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
from benchmarks.gallery.methods import Method, Objective, Temperature
from benchmarks.gallery.on_numpyro import models
from benchmarks.gallery.outcome import Outcome
from numpyro_concrete.schedules import Exponential, count_steps

NUM_DRAWS = 2000
NUM_PARTICLES = 1000
TIMED_STEPS = 50


@dataclass(frozen=True)
class Phase:
    """A part of training: what is minimized, of which programs, for how many steps."""

    objective: Objective
    model: Callable
    guide: Callable
    num_steps: int


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
    model = getattr(models, entry.name)
    phases = _phases(entry, method, model, num_evaluations)
    keys = jnp.stack([random.key(seed) for seed in seeds])
    params, milliseconds = _train(phases, entry, data, keys)
    guide = phases[-1].guide
    if method.objective.name != "TraceEnum_ELBO":
        guide = package.harden(phases[0].guide)
    evaluations = sum(p.num_steps * p.objective.evaluations_of(entry) for p in phases)
    results = []
    for i, seed in enumerate(seeds):
        own = jax.tree.map(lambda x, i=i: x[i], params)
        key = random.key(1000 + seed)
        elbo, stderr = _elbo(key, own, method, phases[-1], model, guide, data)
        evidence = _log_evidence(key, own, entry, model, guide, data)
        results.append(Outcome(seed, elbo, stderr, evidence, evaluations, milliseconds))
    return results


def _phases(
    entry: Entry, method: Method, model: Callable, num_evaluations: int
) -> list[Phase]:
    """The programs and the number of steps of each phase of training."""
    finishing = round(num_evaluations * method.finish_share) if method.finish else 0
    first = (num_evaluations - finishing) // method.objective.evaluations_of(entry)
    relaxed, guide = _relaxed_programs(entry, method, model, first)
    if method.objective.name == "TraceEnum_ELBO":
        enumerated = config_enumerate(model)
        continuous = package.AutoConcrete(enumerated)
        return [Phase(method.objective, enumerated, continuous, first)]
    if not method.objective.is_relaxed:
        discrete = package.harden(guide)
        return [Phase(method.objective, model, discrete, first)]
    phases = [Phase(method.objective, relaxed, guide, first)]
    if method.finish is not None:
        steps = finishing // method.finish.evaluations_of(entry)
        phases.append(Phase(method.finish, model, package.harden(guide), steps))
    return phases


def _relaxed_programs(
    entry: Entry, method: Method, model: Callable, num_steps: int
) -> tuple[Callable, Callable]:
    """The relaxed model and guide of a method."""
    estimator = None
    if method.estimator is not None:
        name, *arguments = method.estimator
        estimator = getattr(package, name)(*arguments)
    options: Any = {"scoring": method.scoring, "estimator": estimator, **entry.options}
    temperature = _schedule(method.temperature, num_steps)
    of_guide = method.guide_temperature or method.temperature
    guide_temperature = _schedule(of_guide, num_steps)
    relaxed = package.relax(model, temperature, **options)
    if not entry.has_guide:
        return relaxed, package.AutoConcrete(relaxed, guide_temperature)
    guide = getattr(models, f"{entry.name}_guide")
    return relaxed, package.relax(guide, guide_temperature, **options)


def _schedule(temperature: Temperature, num_steps: int) -> Any:
    if temperature.end is None:
        return temperature.start
    return Exponential(temperature.start, temperature.end, max(num_steps, 1))


def _train(
    phases: Sequence[Phase], entry: Entry, data: dict[str, Any], keys: Any
) -> tuple[Any, float]:
    """Train from each key; the parameters, and milliseconds of a step of one seed."""
    params, milliseconds, total = None, 0.0, sum(p.num_steps for p in phases)
    call = {**data, **entry.batch}
    for number, phase in enumerate(phases):
        if phase.num_steps == 0:
            continue
        # The second phase goes on at half of the rate.
        rate = entry.learning_rate / (number + 1)
        rates = optax.cosine_decay_schedule(rate, phase.num_steps, 0.05)
        optimizer = count_steps(optax.adam(rates))
        svi = infer.SVI(phase.model, phase.guide, optimizer, _loss(phase))
        states = []
        for i, key in enumerate(keys):
            start = None if params is None else _of_seed(params, i)
            key = random.fold_in(key, number)
            states.append(svi.init(key, init_params=start, **call))
        step = _step_of(svi, call)
        milliseconds += _time_of_step(step, states[0]) * phase.num_steps / total
        states = jax.tree.map(lambda *x: jnp.stack(x), *states)
        params = jax.vmap(svi.get_params)(_run(step, states, phase.num_steps))
    return params, milliseconds


def _step_of(svi: infer.SVI, call: dict[str, Any]) -> Callable:
    return lambda state, _: (svi.update(state, **call)[0], None)


def _run(step: Callable, states: Any, num_steps: int) -> Any:
    """The states of all seeds after that many steps."""
    return jax.jit(jax.vmap(lambda s: lax.scan(step, s, length=num_steps)[0]))(states)


def _time_of_step(step: Callable, state: Any) -> float:
    """Milliseconds of a step, once it is compiled."""
    run = jax.jit(lambda state: lax.scan(step, state, length=TIMED_STEPS)[0])
    jax.block_until_ready(run(state))
    start = time.perf_counter()
    jax.block_until_ready(run(state))
    return 1000 * (time.perf_counter() - start) / TIMED_STEPS


def _of_seed(params: Any, i: int) -> Any:
    return {k: x[i] for k, x in params.items() if k != "temperature_step"}


def _loss(phase: Phase) -> Any:
    name, num_particles = phase.objective.name, phase.objective.num_particles
    if hasattr(package, name):
        return getattr(package, name)(num_particles)
    return getattr(infer, name)(num_particles=num_particles)


def _elbo(
    key: Any,
    params: Any,
    method: Method,
    phase: Phase,
    model: Callable,
    guide: Callable,
    data: dict[str, Any],
) -> tuple[float, float]:
    """The discrete ELBO and its standard error."""
    loss = infer.Trace_ELBO()
    if method.objective.name == "TraceEnum_ELBO":
        loss, model = infer.TraceEnum_ELBO(), phase.model

    def elbo(key):
        return -loss.loss(key, params, model, guide, **data)

    keys = random.split(key, NUM_DRAWS)
    values = jax.jit(lambda keys: lax.map(elbo, keys, batch_size=50))(keys)
    return float(values.mean()), float(values.std() / NUM_DRAWS**0.5)


def _log_evidence(
    key: Any,
    params: Any,
    entry: Entry,
    model: Callable,
    guide: Callable,
    data: dict[str, Any],
) -> float:
    """The log-evidence of the learned model: exact if its sites can be enumerated."""
    if not entry.learns:
        return float("nan")
    if entry.can_enumerate:
        # All latent sites of these models are discrete.
        nothing = lambda *_, **__: None  # noqa: E731
        loss = infer.TraceEnum_ELBO().loss
        return -float(loss(key, params, config_enumerate(model), nothing, **data))
    bound = package.iwae_bound(
        key,
        params,
        model,
        guide,
        num_particles=NUM_PARTICLES,
        chunk_size=50,
        plate=entry.plate,
        **data,
    )
    return float(bound)
