"""Enumerated models in minibatches: NumPyro's ELBO gives them rows of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.funsor import config_enumerate
from numpyro.infer import SVI, TraceEnum_ELBO

SIZE, BATCH = 20, 5
X = jnp.arange(float(SIZE))
ENUMERATED = {"enumerate": "parallel"}


@pytest.fixture
def package():
    from backends import get_backend

    return get_backend("numpyro").package


class Programs:
    """A model with an enumerated and another site in a plate, and a guide of that."""

    def __init__(self):
        self.rows_of_model, self.rows_of_guide = [], []

    def model(self, x):
        with numpyro.plate("data", SIZE, subsample_size=BATCH) as rows:
            self.rows_of_model.append(rows)
            k = numpyro.sample("k", dist.Categorical(jnp.ones(2) / 2), infer=ENUMERATED)
            z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
            loc = jnp.array([0.0, 10.0])[k] + jnp.arange(3.0)[z]
            numpyro.sample("x", dist.Normal(loc, 1.0), obs=x[rows])

    def guide(self, x):
        logits = numpyro.param("logits", jnp.zeros((SIZE, 3)))
        with numpyro.plate("data", SIZE, subsample_size=BATCH) as rows:
            self.rows_of_guide.append(rows)
            numpyro.sample("z", dist.Categorical(logits=logits[rows]))


def loss(model, guide, seed=0):
    params = {name: jnp.zeros((SIZE, 3)) for name in ("logits", "z_auto_logits")}
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    with jax.disable_jit():
        return elbo.loss(jax.random.key(seed), params, model, guide, X)


@pytest.mark.parametrize("is_hardened", [False, True])
def test_an_enumerated_model_has_the_rows_of_its_guide(package, is_hardened):
    programs = Programs()
    pair = package.relax(programs.model), package.relax(programs.guide)
    loss(*map(package.harden, pair) if is_hardened else pair)
    # Earlier runs are abstract.
    rows = programs.rows_of_model[-1]
    np.testing.assert_array_equal(rows, programs.rows_of_guide[-1])


def test_an_enumerated_model_has_the_rows_of_an_automatic_guide(package):
    programs = Programs()
    relaxed = package.relax(programs.model)
    guide = package.AutoConcrete(relaxed)
    loss(relaxed, guide)
    rows = guide.plates["data"]._indices.data
    np.testing.assert_array_equal(programs.rows_of_model[-1], rows)


def test_a_plate_that_is_opened_again_has_the_same_rows(package):
    rows_of_plates = []

    def guide():
        for _ in range(2):
            with numpyro.plate("data", SIZE, subsample_size=BATCH) as rows:
                rows_of_plates.append(rows)

    for program in (package.relax(guide), package.harden(package.relax(guide))):
        numpyro.handlers.seed(program, 0)()
        first, second = rows_of_plates[-2:]
        np.testing.assert_array_equal(first, second)


def test_rows_that_a_plain_guide_draws_are_an_error(package):
    programs = Programs()
    relaxed = package.relax(programs.model, sites=lambda msg: False)
    with pytest.raises(NotImplementedError, match=r"plate 'data'.*relax\(guide\)"):
        loss(relaxed, programs.guide)


def test_a_guide_without_the_plate_needs_no_rows(package):
    def model(x):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", SIZE, subsample_size=BATCH) as rows:
            k = numpyro.sample("k", dist.Categorical(jnp.ones(2) / 2), infer=ENUMERATED)
            fn = dist.Normal(loc + jnp.array([0.0, 10.0])[k], 1.0)
            numpyro.sample("x", fn, obs=x[rows])

    def guide(x):
        numpyro.sample("loc", dist.Normal(0.0, 1.0))

    assert np.isfinite(loss(package.relax(model), guide))


def test_minibatches_train_logits_of_their_own_rows(package):
    """Each point is next to one of three values, with a known class of its own."""
    truth = np.arange(SIZE) % 3
    data = jnp.asarray(4.0 * truth)

    def model(x):
        with numpyro.plate("data", SIZE, subsample_size=BATCH) as rows:
            k = numpyro.sample("k", dist.Categorical(jnp.ones(2) / 2), infer=ENUMERATED)
            z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
            loc = jnp.array([-0.1, 0.1])[k] + 4.0 * jnp.arange(3.0)[z]
            numpyro.sample("x", dist.Normal(loc, 1.0), obs=x[rows])

    relaxed = package.relax(model)
    guide = package.AutoConcrete(relaxed)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    svi = SVI(relaxed, guide, numpyro.optim.Adam(0.1), elbo)
    params = svi.run(jax.random.key(0), 300, data, progress_bar=False).params
    found = guide.probabilities(params)["z"].argmax(-1)
    np.testing.assert_array_equal(found, truth)


def test_numpyro_still_draws_other_rows_for_plain_programs():
    """When this fails, NumPyro is repaired: require it, and leave ours out."""
    programs = Programs()
    loss(config_enumerate(programs.model), config_enumerate(programs.guide))
    rows = programs.rows_of_model[-1]
    assert (np.asarray(rows) != np.asarray(programs.rows_of_guide[-1])).any()
