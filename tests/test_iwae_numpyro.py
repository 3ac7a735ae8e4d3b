"""IWAE with NumPyro's mutable state, and under JAX's transformations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from asserts import assert_exact
from backends import get_backend
from numpyro.primitives import mutable

DATA = np.array([0.5, -1.0, 2.0, 0.3])


@pytest.fixture
def backend():
    return get_backend("numpyro")


def bits(backend, runs=None):
    """A bit for each of four data points."""
    dist = backend.dist

    def model(data):
        if runs is not None:
            runs.append(data)
        t = backend.param("t", backend.array(1.0))
        with backend.plate("data", 4):
            z = backend.site("z", dist.Bernoulli(backend.array(0.4)))
            backend.site("x", dist.Normal(t * z, 1.0), obs=data)

    def guide(data):
        logits = backend.param("logits", backend.array(np.zeros(4)))
        with backend.plate("data", 4):
            backend.site("z", dist.Bernoulli(logits=logits))

    return model, guide


def with_state(backend, programs):
    """The same with a guide that counts, and a model that averages what it draws."""
    model, guide = programs

    def counting(data):
        state = mutable("steps", {"count": 0, "mean": backend.array(0.0)})
        state["count"] += 1
        state["mean"] = 0.9 * state["mean"] + 0.1 * data.mean()
        guide(data - state["mean"])

    def averaging(data):
        model(data)
        state = mutable("draws", {"mean": backend.array(0.0)})
        with numpyro.handlers.block():
            draw = numpyro.sample("draw", backend.dist.Bernoulli(backend.array(0.5)))
        state["mean"] = 1.0 * draw

    return averaging, counting


@pytest.mark.parametrize(
    "settings",
    [
        {"num_particles": 4, "chunk_size": 3},
        pytest.param({"num_particles": 1}, marks=pytest.mark.slow),
        pytest.param({"num_particles": 4}, marks=pytest.mark.slow),
        pytest.param(
            {"num_particles": 2, "vectorize_particles": False}, marks=pytest.mark.slow
        ),
    ],
)
def test_mutable_state_passes_through(backend, settings):
    loss = backend.package.IWAE(plate="data", **settings)
    svi = numpyro.infer.SVI(
        *with_state(backend, bits(backend)), numpyro.optim.Adam(0.01), loss
    )
    data = backend.array(DATA)
    state = svi.init(jax.random.key(0), data)
    means = []
    state_before = state.mutable_state["steps"]
    update = jax.jit(svi.update)
    for _ in range(5):
        state, _ = update(state, data)
        means.append(float(state.mutable_state["draws"]["mean"]))
    steps = state.mutable_state["steps"]
    expected = state_before["mean"]
    for _ in range(5):
        expected = 0.9 * expected + 0.1 * DATA.mean()
    assert steps["count"] == state_before["count"] + 5
    assert_exact(steps["mean"], expected)
    # A mean over particles.
    parts = np.array(means) * settings["num_particles"]
    assert_exact(parts, parts.round())
    if settings["num_particles"] > 1:
        assert ((parts > 0) & (parts < settings["num_particles"])).any()
    result = svi.run(jax.random.key(1), 3, data, progress_bar=False, init_state=state)
    assert result.state.mutable_state["steps"]["count"] == state_before["count"] + 8


def test_missing_mutable_state_is_refused_by_name(backend):
    loss = backend.package.IWAE(2, plate="data")
    model, guide = with_state(backend, bits(backend))
    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(0.01), loss)
    data = backend.array(DATA)
    key = jax.random.key(0)
    state = svi.init(key, data)
    params = svi.get_params(state)
    iwae_bound = backend.package.iwae_bound
    with pytest.raises(
        ValueError, match=r"lack the mutable state '(steps|draws)'.*mutable_sta"
    ):
        iwae_bound(key, params, model, guide, data, num_particles=3)
    with pytest.raises(ValueError, match=r"lack the mutable state '(steps|draws)'"):
        loss.loss(key, params, model, guide, data)
    over_data = partial(
        backend.package.iwae_bound_over_data, plate="data", num_particles=3
    )
    with pytest.raises(ValueError, match=r"lack the mutable state '(steps|draws)'"):
        over_data(key, params, model, guide, data)
    complete = {**params, **state.mutable_state}
    assert np.isfinite(over_data(key, complete, model, guide, data).bounds).all()
    estimate = iwae_bound(key, complete, model, guide, data, num_particles=3)
    assert np.isfinite(estimate)
    assert state.mutable_state["steps"]["count"] == complete["steps"]["count"]


@pytest.mark.parametrize("transform", [jax.jit, jax.grad])
def test_over_data_it_has_no_gradient_and_is_not_traced(backend, transform):
    model, guide = bits(backend)
    data = backend.array(DATA)

    def mean(logits):
        params = {"t": backend.array(1.0), "logits": logits}
        estimate = backend.package.iwae_bound_over_data(
            jax.random.key(0), params, model, guide, data, plate="data"
        )
        return estimate.mean

    with pytest.raises(TypeError, match=r"outside of jax\.jit, and has no gradient"):
        transform(mean)(backend.array(np.zeros(4)))


def test_the_guide_s_state_is_that_of_the_model(backend):
    # Both read one state, and the model reads it after the guide has written.
    def guide():
        state = mutable("shared", {"count": 0})
        state["count"] += 1
        backend.site("z", backend.dist.Bernoulli(backend.array(0.5)))

    def model():
        state = mutable("shared", {"count": 0})
        state["count"] *= 10
        backend.site("z", backend.dist.Bernoulli(backend.array(0.5)))

    params = {"shared": {"count": jnp.asarray(3)}}
    loss = backend.package.IWAE(3)
    output = loss.loss_with_mutable_state(jax.random.key(0), params, model, guide)
    assert output["mutable_state"]["shared"]["count"] == 40
    assert params["shared"]["count"] == 3


def test_many_seeds_train_in_one_compiled_scan(backend):
    runs = []
    model, guide = bits(backend, runs)
    loss = backend.package.IWAE(3, plate="data", chunk_size=2)
    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(0.05), loss)
    data = backend.array(DATA)

    @jax.jit
    def train(key):
        state = svi.init(key, data)
        step = lambda state, _: svi.update(state, data)  # noqa: E731
        state, losses = jax.lax.scan(step, state, length=30)
        return svi.get_params(state), losses

    keys = jax.random.split(jax.random.key(0), 3)
    params, losses = jax.jit(jax.vmap(train))(keys)
    assert losses.shape == (3, 30)
    # To set up, and one particle; scan traces its body at most twice.
    assert len(runs) <= 4
    alone, _ = train(keys[1])
    for name, value in alone.items():
        assert_exact(params[name][1], value, scale=10)


def test_a_step_traces_each_program_once(backend):
    runs = []
    model, guide = bits(backend, runs)
    loss = backend.package.IWAE(3, plate="data")
    params = {"logits": jnp.zeros(4), "t": jnp.ones(())}
    gradient = jax.grad(loss.loss, argnums=1)
    gradient(jax.random.key(0), params, model, guide, backend.array(DATA))
    assert len(runs) == 1


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_the_backward_pass_keeps_one_chunk(backend, chunk_size):
    particles = 100
    rows = 7
    width = 50
    weights = backend.array(np.ones((width, width)))

    def model():
        with backend.plate("data", rows):
            w = backend.site(
                "w", backend.dist.Normal(jnp.zeros(width), 1.0).to_event(1)
            )
            loc = jnp.tanh(w @ weights)
            backend.site("x", backend.dist.Normal(loc, 1.0).to_event(1), obs=0.5)

    def guide():
        loc = backend.param("loc")
        with backend.plate("data", rows):
            backend.site("w", backend.dist.Normal(loc, 1.0).to_event(1))

    loss = backend.package.IWAE(particles, plate="data", chunk_size=chunk_size)
    params = {"loc": jnp.zeros(width)}

    def gradient():
        key = jax.random.key(0)
        return jax.grad(lambda params: loss.loss(key, params, model, guide))(params)

    largest = backend.largest_array(gradient)
    if chunk_size is None:
        assert largest >= particles * rows * width
    else:
        # A number for each particle and row is all that is kept.
        assert largest <= max(chunk_size * rows * width, particles * rows, width**2)


def test_under_jit_what_depends_outside_of_the_plate_gives_nan(backend):
    prior = backend.dist.Bernoulli(backend.array(0.5))

    def model():
        with backend.plate("data", 4):
            z = backend.site("z", prior)
        backend.site("x", backend.dist.Normal(z.sum(), 1.0), obs=1.0)

    def guide():
        with backend.plate("data", 4):
            backend.site("z", prior)

    loss = backend.package.IWAE(20, plate="data")
    assert np.isnan(
        jax.jit(lambda key: loss.loss(key, {}, model, guide))(jax.random.key(0))
    )


def test_svi_does_not_warn_of_discrete_sites(backend):
    model, guide = bits(backend)
    loss = backend.package.IWAE(2, plate="data")
    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(0.01), loss)
    svi.init(jax.random.key(0), backend.array(DATA))  # warnings are errors
