"""The multi-sample bound where torch and Pyro have ways of their own."""

import math

import numpy as np
import pytest
from asserts import assert_exact
from backends import get_backend
from scipy import special, stats

PROBS = np.array([0.2, 0.5, 0.8])


@pytest.fixture
def backend():
    return get_backend("pyro")


def bits(backend, likelihood):
    """Three bits, and an observation whose mean is a function of them."""
    probs = backend.array(PROBS)
    unit = backend.array(1.0)

    def model():
        z = backend.site("z", backend.dist.Bernoulli(probs).to_event(1))
        backend.site("x", backend.dist.Normal(unit * likelihood(z), unit), obs=unit)

    def guide():
        backend.site("z", backend.dist.Bernoulli(1 - probs).to_event(1))

    return model, guide


def evidence(likelihood):
    grid = np.array(np.meshgrid(*[[0, 1]] * 3)).reshape(3, -1).T
    prior = stats.bernoulli.logpmf(grid, PROBS).sum(-1)
    scores = [stats.norm.logpdf(1.0, likelihood(z)) for z in grid]
    return special.logsumexp(prior + scores)


# Programs for one particle, which a plate around them would break.
SHAPES = {
    "sums over all axes": lambda z: z.sum(),
    "reshapes": lambda z: z.reshape(3)[:2].sum(),
    "counts axes": lambda z: z.ndim * z.sum(-1),
}
READS = {
    "chooses in Python": lambda z: 2.0 if z[0] else 0.3,
    "makes a number": lambda z: float(z.sum()),
}


@pytest.mark.statistical
@pytest.mark.parametrize("name", SHAPES)
def test_a_program_need_not_broadcast_over_particles(backend, name):
    m = 20_000
    programs = bits(backend, SHAPES[name])
    settings = {"num_particles": m, "chunk_size": 2000}
    estimate = backend.evaluate(backend.package.iwae_bound, *programs, **settings)
    assert_near(estimate, SHAPES[name], m)


def test_normal_sites_are_vectorized(backend):
    # torch.vmap cannot draw them.
    unit = backend.array(1.0)
    data = backend.array([0.5, -1.0])

    def model():
        with backend.plate("data", 2):
            w = backend.site("w", backend.dist.Normal(0 * unit, unit))
            backend.site("x", backend.dist.Normal(w, unit), obs=data)

    def posterior():
        with backend.plate("data", 2):
            scale = backend.array(math.sqrt(0.5))
            backend.site("w", backend.dist.Normal(data / 2, scale))

    iwae_bound = backend.package.iwae_bound
    estimate = backend.evaluate(iwae_bound, model, posterior, plate="data")
    assert_exact(estimate, stats.norm.logpdf([0.5, -1.0], 0, math.sqrt(2)).sum())


@pytest.mark.parametrize("name", READS)
def test_a_program_that_reads_a_draw_is_refused_together(backend, name):
    programs = bits(backend, READS[name])
    with pytest.raises(ValueError, match=r"vectorize_particles=False"):
        backend.evaluate(backend.package.iwae_bound, *programs)


@pytest.mark.statistical
@pytest.mark.parametrize("name", READS)
def test_a_program_that_reads_a_draw_runs_one_by_one(backend, name):
    m = 300
    programs = bits(backend, READS[name])
    settings = {"num_particles": m, "vectorize_particles": False}
    estimate = backend.evaluate(backend.package.iwae_bound, *programs, **settings)
    assert_near(estimate, READS[name], m)


def assert_near(found, likelihood, m):
    # The weights over the evidence are at most this.
    ratios = [max(p / (1 - p), (1 - p) / p) for p in PROBS]
    largest = np.prod(ratios) * stats.norm.pdf(0) / np.exp(evidence(likelihood))
    assert abs(found - evidence(likelihood)) < 5 * math.sqrt(largest / m)


def test_chunks_of_single_runs_give_the_same_bound(backend):
    def layers():
        z = backend.site("z", backend.dist.Bernoulli(backend.array(0.3)))
        backend.site("y", backend.dist.Bernoulli(backend.array(0.2) + 0.5 * z))

    def guide():
        backend.site("z", backend.dist.Bernoulli(backend.array(0.6)))
        backend.site("y", backend.dist.Bernoulli(backend.array(0.5)))

    single_chunk, several_chunks = (
        backend.evaluate(
            backend.package.iwae_bound,
            *(layers, guide),
            num_particles=60,
            chunk_size=size,
            vectorize_particles=False,
        )
        for size in (60, 7)
    )
    assert_exact(several_chunks, single_chunk)


def test_axes_that_no_plate_declares_are_summed_over(backend):
    probs = backend.array(PROBS)
    unit = backend.array(1.0)

    def model():
        z = backend.site("z", backend.dist.Bernoulli(probs))
        backend.site("x", backend.dist.Normal(unit * z, unit), obs=unit)

    def posterior():
        odds = PROBS / (1 - PROBS) * np.exp(0.5)
        backend.site("z", backend.dist.Bernoulli(backend.array(odds / (1 + odds))))

    estimate = backend.evaluate(backend.package.iwae_bound, model, posterior)
    scores = stats.norm.logpdf(1.0, np.arange(2))
    log_prior = np.log(np.stack([1 - PROBS, PROBS], -1))
    assert_exact(estimate, special.logsumexp(log_prior + scores, -1).sum())


def test_a_plate_that_is_a_loop_is_refused_for_its_elements(backend):
    bit = backend.dist.Bernoulli(backend.array(0.5))

    def program():
        for i in backend.plate("data", 3):
            backend.site(f"z_{i}", bit)

    iwae_bound = backend.package.iwae_bound
    assert_exact(backend.evaluate(iwae_bound, program, program), 0.0)
    with pytest.raises(ValueError, match=r"plate 'data' is a loop.*with pyro.plate"):
        backend.evaluate(iwae_bound, program, program, plate="data")


def test_the_gradients_and_the_generator_are_left_alone(backend):
    logits = backend.array(PROBS).requires_grad_()

    def program():
        backend.site("z", backend.dist.Categorical(logits=logits))

    estimate = backend.evaluate(
        backend.package.iwae_bound, program, program, num_particles=1
    )
    next_draw = backend.torch.rand(())
    backend.torch.manual_seed(0)
    backend.dist.Categorical(logits=logits).sample()
    assert isinstance(estimate, float)
    assert next_draw == backend.torch.rand(())


def test_a_step_after_the_warmup_runs_the_model_once_by_particle(backend):
    """A hardened `AutoConcrete` does not run it again, to look for masks."""
    pyro, dist, package = backend.pyro, backend.dist, backend.package
    runs = []

    def model():
        runs.append(0)
        z = backend.site("z", dist.Bernoulli(logits=backend.array(0.0)))
        backend.site("x", dist.Normal(z, backend.array(1.0)), obs=backend.array(0.7))

    model = package.relax(model, 0.5)
    optimizer = package.schedules.count_steps(pyro.optim.Adam({"lr": 0.01}))
    elbo = package.RelaxedWarmup(1, package.RLOO(3))
    svi = pyro.infer.SVI(model, package.AutoConcrete(model), optimizer, elbo)
    pyro.clear_param_store()
    for _ in range(2):
        svi.step()
    runs.clear()
    svi.step()
    assert len(runs) == 3


def test_a_compiled_warmup_is_annealed(backend):
    """At each step by its own temperature, as without compilation."""
    pyro, dist, package = backend.pyro, backend.dist, backend.package

    def model():
        z = backend.site("z", dist.Categorical(logits=backend.array([0.0, 0.3])))
        backend.site("x", dist.Normal(z, backend.array(1.0)), obs=backend.array(0.7))

    relaxed = package.relax(model)
    guide = package.AutoConcrete(relaxed)
    optimizer = package.schedules.count_steps(pyro.optim.Adam({"lr": 0.01}))
    compiled = backend.elbo("JitTrace", 1, ignore_jit_warnings=True)
    losses = {}
    for name, elbo in {"compiled": compiled, "plain": backend.elbo("Trace", 1)}.items():
        pyro.clear_param_store()
        guide()
        warmup = package.RelaxedWarmup(10, relaxed=elbo)
        optimizer([])
        warmup.loss_and_grads(relaxed, guide)  # the call that compiles draws more
        losses[name] = []
        for _ in range(8):
            pyro.set_rng_seed(3)
            losses[name].append(warmup.loss_and_grads(relaxed, guide))
            optimizer([])
    assert_exact(losses["compiled"], losses["plain"])
    assert len(set(losses["plain"])) == 8
