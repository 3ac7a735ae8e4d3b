"""The multi-sample bound where Pyro's way to run particles together matters."""

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
    probs, one = backend.array(PROBS), backend.array(1.0)

    def model():
        z = backend.site("z", backend.dist.Bernoulli(probs).to_event(1))
        backend.site("x", backend.dist.Normal(one * likelihood(z), one), obs=one)

    def guide():
        backend.site("z", backend.dist.Bernoulli(1 - probs).to_event(1))

    return model, guide


def evidence(likelihood):
    grid = np.array(np.meshgrid(*[[0, 1]] * 3)).reshape(3, -1).T
    prior = stats.bernoulli.logpmf(grid, PROBS).sum(-1)
    scores = [stats.norm.logpdf(1.0, likelihood(z)) for z in grid]
    return special.logsumexp(prior + scores)


# Programs that are right for one particle, and mix or do not broadcast over several.
ALONE = {
    "sums over particles": lambda z: z.sum(),
    "takes the first particle": lambda z: z.reshape(-1)[:3].sum(),
    "reads a value": lambda z: 2.0 if z[0] else 0.3,
    "makes a number": lambda z: float(z.sum()),
    "counts axes": lambda z: z.dim() * z.sum(-1),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_program_for_one_particle_is_refused_together(backend, name):
    programs = bits(backend, ALONE[name])
    with pytest.raises(ValueError, match=r"vectorize_particles=False"):
        backend.evaluate(backend.package.iwae_bound, *programs)


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["sums over particles", "reads a value"])
def test_a_program_for_one_particle_runs_one_by_one(backend, name):
    settings = {"num_particles": 300, "vectorize_particles": False}
    programs = bits(backend, ALONE[name])
    found = backend.evaluate(backend.package.iwae_bound, *programs, **settings)
    # Weights are at most this much of the evidence.
    ratios = [max(p / (1 - p), (1 - p) / p) for p in PROBS]
    largest = np.prod(ratios) * stats.norm.pdf(0) / np.exp(evidence(ALONE[name]))
    assert abs(found - evidence(ALONE[name])) < 5 * math.sqrt(largest / 300)


def test_chunks_of_single_runs_give_the_same_bound(backend):
    def layers():
        z = backend.site("z", backend.dist.Bernoulli(backend.array(0.3)))
        backend.site("y", backend.dist.Bernoulli(backend.array(0.2) + 0.5 * z))

    def guide():
        backend.site("z", backend.dist.Bernoulli(backend.array(0.6)))
        backend.site("y", backend.dist.Bernoulli(backend.array(0.5)))

    whole, parts = (
        backend.evaluate(
            backend.package.iwae_bound,
            *(layers, guide),
            num_particles=60,
            chunk_size=size,
            vectorize_particles=False,
        )
        for size in (60, 7)
    )
    assert_exact(parts, whole)


def test_axes_that_no_plate_declares_are_summed_over(backend):
    probs, one = backend.array(PROBS), backend.array(1.0)

    def model():
        z = backend.site("z", backend.dist.Bernoulli(probs))
        backend.site("x", backend.dist.Normal(one * z, one), obs=one)

    def posterior():
        odds = PROBS / (1 - PROBS) * np.exp(0.5)
        backend.site("z", backend.dist.Bernoulli(backend.array(odds / (1 + odds))))

    found = backend.evaluate(backend.package.iwae_bound, model, posterior)
    scores = stats.norm.logpdf(1.0, np.arange(2))
    log_prior = np.log(np.stack([1 - PROBS, PROBS], -1))
    assert_exact(found, special.logsumexp(log_prior + scores, -1).sum())


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

    found = backend.evaluate(
        backend.package.iwae_bound, program, program, num_particles=1
    )
    after = backend.torch.rand(())
    backend.torch.manual_seed(0)
    # One draw for the particle, and one where it is run again.
    backend.dist.Categorical(logits=logits).sample((1,))
    assert isinstance(found, float)
    assert after == backend.torch.rand(())
