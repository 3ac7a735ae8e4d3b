"""IWAE where torch and Pyro have ways of their own."""

import math

import numpy as np
import pytest
from asserts import assert_exact
from backends import get_backend
from scipy.special import logsumexp
from test_objectives_pyro import READS, SHAPES, bits, evidence


@pytest.fixture
def backend():
    return get_backend("pyro")


@pytest.mark.statistical
@pytest.mark.parametrize("name", SHAPES)
def test_a_program_need_not_broadcast_over_particles(backend, name):
    m = 3  # as many as there are bits: no shape is wrong
    loss = backend.package.IWAE(m)
    model, guide = bits(backend, SHAPES[name])
    backend.torch.manual_seed(0)
    values = np.array([loss.loss(model, guide) for _ in range(400)])
    # Each is the bound of three outcomes of the single program.
    grid = np.array(np.meshgrid(*[[0, 1]] * 3)).reshape(3, -1).T
    log_weights = np.array([weight_of(z, SHAPES[name]) for z in grid])
    sums = np.logaddexp.outer(np.logaddexp.outer(log_weights, log_weights), log_weights)
    gaps = np.abs(values[:, None] + (sums.ravel() - math.log(m))).min(-1)
    assert_exact(gaps, 0)
    assert np.exp(-values).mean() > 0.5 * np.exp(evidence(SHAPES[name]))


def weight_of(z, likelihood):
    from scipy import stats
    from test_objectives_pyro import PROBS

    prior = stats.bernoulli.logpmf(z, PROBS) - stats.bernoulli.logpmf(z, 1 - PROBS)
    return prior.sum() + stats.norm.logpdf(1.0, likelihood(z))


@pytest.mark.parametrize("name", READS)
def test_a_program_that_reads_a_draw_is_refused_together(backend, name):
    programs = bits(backend, READS[name])
    with pytest.raises(ValueError, match=r"vectorize_particles=False"):
        backend.package.IWAE(4).loss(*programs)
    loss = backend.package.IWAE(4, vectorize_particles=False)
    assert math.isfinite(loss.loss(*programs))


def gaussian(backend):
    """A location for all of the data, whose shape may change from step to step."""
    unit = backend.array(1.0)

    def model(data):
        with backend.plate("data", len(data)):
            w = backend.site("w", backend.dist.Normal(0 * unit, unit))
            backend.site("x", backend.dist.Normal(w, unit), obs=data)

    def guide(data):
        scale = backend.param("scale", unit)
        with backend.plate("data", len(data)):
            backend.site("w", backend.dist.Normal(data / 2, scale * 0.5**0.5))

    return model, guide


def test_batches_may_have_any_size(backend):
    backend.pyro.clear_param_store()
    loss = backend.package.IWAE(3, plate="data")
    programs = gaussian(backend)
    for size in (4, 2, 4, 1):
        data = np.linspace(-1, 1, size)
        loss_value = loss.loss_and_grads(*programs, backend.array(data))
        # The guide is the posterior.
        expected = -0.25 * data**2 - 0.5 * math.log(4 * math.pi)
        assert_exact(loss_value, -expected.sum())


def test_cleared_parameters_are_initialized_again(backend):
    loss = backend.package.IWAE(3, plate="data")
    programs = gaussian(backend)
    data = backend.array([0.3, -0.1])
    for _ in range(2):
        backend.pyro.clear_param_store()
        loss.loss_and_grads(*programs, data)
        scale = backend.pyro.get_param_store()["scale"]
        assert scale.shape == ()
        assert not scale.is_leaf or scale.requires_grad


def test_validation_runs_once_and_changes_no_draw(backend):
    runs = []
    model, guide = gaussian(backend)

    def counted(data):
        runs.append(1)
        model(data)

    loss = backend.package.IWAE(3, plate="data")
    data = backend.array([0.3, -0.1])
    losses = []
    for _ in range(2):
        backend.torch.manual_seed(3)
        losses.append(loss.loss(counted, guide, data))
        runs.append(0)
    assert_exact(losses[0], losses[1])
    first = runs.index(0)
    assert runs[first + 1 :] == [1, 0]


def test_it_is_a_loss_of_modules(backend):
    torch = backend.torch
    pyro = backend.pyro
    model, _ = gaussian(backend)

    class Guide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.log_scale = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, data):
            pyro.module("guide", self)
            with pyro.plate("data", len(data)):
                fn = pyro.distributions.Normal(data / 2, self.log_scale.exp())
                pyro.sample("w", fn)

    guide = Guide()
    loss = backend.package.IWAE(2, plate="data")(lambda data: model(data), guide)
    value = loss(backend.array([0.3, -0.1]))
    value.backward()
    assert guide.log_scale.grad.shape == ()
    assert guide.log_scale.grad != 0


@pytest.mark.parametrize("broadcasts", [True, False])
def test_the_backward_pass_keeps_one_chunk(backend, broadcasts):
    torch = backend.torch
    particles = 60
    rows = 5
    width = 30
    weights = torch.ones(width, width, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(width, dtype=torch.float64)
    # Of a distribution that torch.vmap can draw from, unlike a normal one.
    prior = backend.distributions.LogitBinaryConcrete(0.5, logits=zeros).to_event(1)

    def model():
        with backend.plate("data", rows):
            w = backend.site("w", prior)
            w = w if broadcasts else w.reshape(rows, width)
            fn = backend.dist.Normal((w @ weights).tanh(), 1.0)
            backend.site("x", fn.to_event(1), obs=zeros)

    def guide():
        with backend.plate("data", rows):
            backend.site("w", prior)

    def kept(chunk_size):
        sizes = []
        loss = backend.package.IWAE(particles, plate="data", chunk_size=chunk_size)
        loss.loss(model, guide)
        pack = lambda x: sizes.append(x.numel()) or x  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            value = loss.differentiable_loss(model, guide)
        (gradient,) = torch.autograd.grad(value, weights)
        assert gradient.abs().sum() > 0
        return max(sizes)

    assert kept(None) >= particles * rows * width
    assert kept(10) <= max(particles * rows, width**2)


def test_the_loss_of_the_evidence(backend):
    # The guide is the posterior of a mixture: there is no noise.
    prior = np.array([0.2, 0.8])
    joint = np.log(prior) + np.array([-1.0, 0.5])

    def model():
        with backend.plate("data", 3):
            z = backend.site("z", backend.dist.Categorical(backend.array(prior)))
            backend.factor("x", backend.array([-1.0, 0.5])[z])

    def guide():
        with backend.plate("data", 3):
            logits = backend.array(joint)
            backend.site("z", backend.dist.Categorical(logits=logits))

    svi = backend.pyro.infer.SVI(
        model, guide, backend.pyro.optim.Adam({}), backend.package.IWAE(4, plate="data")
    )
    assert_exact(svi.evaluate_loss(), -3 * logsumexp(joint))


def test_over_data_a_module_keeps_its_buffers_and_the_generator_its_state(backend):
    torch = backend.torch
    pyro = backend.pyro
    model, _ = gaussian(backend)

    class Guide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(1, dtype=torch.float64)

        def forward(self, data):
            pyro.module("guide", self)
            with pyro.plate("data", len(data)):
                loc = self.norm(data[:, None])[:, 0] / 2
                scale = backend.array(0.5**0.5)
                pyro.sample("w", pyro.distributions.Normal(loc, scale))

    guide = Guide()
    # Its running averages make it the identity, and the guide the posterior.
    guide.norm.eps = 0.0
    guide.eval()
    data = np.linspace(-1, 1, 5)
    torch.manual_seed(0)
    estimate = backend.package.iwae_bound_over_data(
        model, guide, backend.array(data), plate="data", data_chunk_size=2
    )
    assert_exact(estimate.bounds, -0.25 * data**2 - 0.5 * math.log(4 * math.pi))
    assert guide.norm.num_batches_tracked == 0
    draw_after = torch.rand(())
    torch.manual_seed(0)
    torch.randint(2**62, ())  # the seed of all chunks
    assert draw_after == torch.rand(())
    assert guide.norm.weight.grad is None
