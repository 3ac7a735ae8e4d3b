"""The multi-sample bound under JAX's transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from asserts import assert_exact
from backends import get_backend

LOGITS = np.array([0.3, -0.2, 0.9])


@pytest.fixture
def backend():
    return get_backend("numpyro")


def one_site(backend, calls):
    """A site of three values, and its guide with a parameter."""

    def model(table):
        z = backend.site("z", backend.dist.Categorical(logits=backend.array(LOGITS)))
        calls.append(z)
        fn = backend.dist.Normal(table[z], 1.0)
        backend.site("x", fn, obs=0.5)

    def guide(table):
        logits = backend.param("logits", jnp.zeros_like(table))
        backend.site("z", backend.dist.Categorical(logits=logits))

    return model, guide


@pytest.mark.parametrize("progress_bar", [False, True])
def test_under_jit_it_is_compiled_once(backend, progress_bar):
    calls = []
    model, guide = one_site(backend, calls)
    table = backend.array([0.1, -1.0, 2.0])
    iwae_bound = backend.package.iwae_bound
    settings = {"num_particles": 40, "chunk_size": 7, "progress_bar": progress_bar}

    def bound(key, params):
        return iwae_bound(key, params, model, guide, table, **settings)

    jitted = jax.jit(bound)
    params = {"logits": backend.array(LOGITS)}
    bounds = [jitted(jax.random.key(i), params) for i in range(3)]
    traced = len(calls)
    bounds.append(jitted(jax.random.key(3), params))
    assert len(calls) == traced
    for i, x in enumerate(bounds):
        assert_exact(x, bound(jax.random.key(i), params))


def test_it_has_no_gradient(backend):
    model, guide = one_site(backend, [])
    table = backend.array([0.1, -1.0, 2.0])
    iwae_bound = backend.package.iwae_bound
    key = jax.random.key(0)

    def bound(params, table, **settings):
        return iwae_bound(key, params, model, guide, table, **settings).sum()

    params = {"logits": backend.array(LOGITS)}
    for argnums in (0, 1):
        with pytest.raises(TypeError, match=r"no gradient.*loss of IWAE"):
            jax.grad(bound, argnums)(params, table)
    with pytest.raises(TypeError, match=r"no gradient.*loss of IWAE"):
        jax.jvp(lambda table: bound(params, table), (table,), (table,))


def test_under_jit_what_depends_outside_of_the_plate_gives_nan(backend):
    prior = backend.dist.Bernoulli(backend.array(0.5))

    def model():
        with backend.plate("data", 4):
            z = backend.site("z", prior)
        backend.site("x", backend.dist.Normal(z.sum(), 1.0), obs=1.0)

    def guide():
        with backend.plate("data", 4):
            backend.site("z", prior)

    def bound(key):
        return backend.package.iwae_bound(key, {}, model, guide, plate="data")

    assert np.isnan(jax.jit(bound)(jax.random.key(0)))
    with pytest.raises(ValueError, match="depend on draws"):
        bound(jax.random.key(0))


def test_unbiased_objectives_are_compiled_once(backend):
    import numpyro

    runs = []

    def guide():
        a = backend.param("a", backend.array(0.0))
        backend.site("z", backend.dist.Bernoulli(logits=a))

    def model():
        runs.append(1)
        backend.site("z", backend.dist.Bernoulli(logits=backend.array(0.4)))

    rebar = backend.package.REBAR(num_particles=2)
    optimizer = numpyro.optim.Adam(0.01)
    svi = numpyro.infer.SVI(model, rebar.with_learned_settings(guide), optimizer, rebar)
    svi.run(jax.random.key(0), 30, progress_bar=False)
    assert len(runs) == 3  # to set up, discrete, relaxed


WEIGHTS = np.array([0.4, -0.7, 1.1])
ROW_WEIGHTS = np.array([[0.5, -0.3], [0.9, 0.2]])


def without_plates(backend):
    """Bits of a batch without a plate, and others of which one axis has a plate."""
    dist = backend.dist

    def model():
        z = backend.site("z", dist.Bernoulli(logits=jnp.zeros(3)))
        with backend.plate("rows", 2):
            w = backend.site("w", dist.Bernoulli(logits=jnp.zeros((2, 2))))
            loc = (w * ROW_WEIGHTS).sum(0) + (z * WEIGHTS).sum()
            backend.site("x", dist.Normal(loc, 1.0), obs=jnp.array([1.0, -0.5]))

    def guide():
        logits = backend.param("a", jnp.zeros(3))
        backend.site("z", dist.Bernoulli(logits=logits))
        with backend.plate("rows", 2):
            logits = backend.param("b", jnp.zeros((2, 2)))
            backend.site("w", dist.Bernoulli(logits=logits))

    return model, guide


def enumerated_elbo(params):
    """The ELBO of `without_plates`, a sum over the values of all bits."""
    logits = jnp.concatenate([params["a"], params["b"].ravel()])
    bits = jnp.array([*np.ndindex(*[2] * 7)], float)
    log_q = (bits * logits - jnp.logaddexp(0, logits)).sum(-1)
    w = bits[:, 3:].reshape(-1, 2, 2)
    loc = (w * ROW_WEIGHTS).sum(1) + (bits[:, :3] @ WEIGHTS)[:, None]
    residuals = jnp.array([1.0, -0.5]) - loc
    log_p = (-0.5 * residuals**2 - 0.5 * np.log(2 * np.pi)).sum(-1) - 7 * np.log(2)
    return (jnp.exp(log_q) * (log_p - log_q)).sum()


# Two and three particles have the sizes of the axes, with which they could be mixed up.
@pytest.mark.parametrize(
    ("name", "args"),
    [
        *(("RLOO", (2,)), ("RLOO", (3,)), ("REBAR", (3,))),
        *(("DisARM", ()), ("LocalExpectations", ())),
    ],
)
def test_elements_need_no_plate(backend, name, args):
    model, guide = without_plates(backend)
    elbo = getattr(backend.package, name)(*args)
    params = {"a": jnp.array([0.4, -0.8, 0.2]), "b": jnp.full((2, 2), 0.3)}
    with backend.double_precision():
        params = {k: jnp.asarray(v, float) for k, v in params.items()}
        gradient = jax.grad(lambda p, key: elbo.loss(key, p, model, guide))
        keys = jax.random.split(jax.random.key(0), 20_000)
        found = jax.jit(jax.vmap(gradient, (None, 0)))(params, keys)
        exact = jax.grad(enumerated_elbo)(params)
        for param, draws in found.items():
            stderr = draws.std(0) / len(keys) ** 0.5
            error = np.abs(draws.mean(0) + exact[param])
            assert (error < 4.5 * stderr + 1e-9).all(), (param, error / stderr)
            assert stderr.max() < 0.05
