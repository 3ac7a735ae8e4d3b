"""Values that are known are checked, under jit as well; traced ones are not read."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_concrete

BAD = [[-1.0, -2.0], -1.0, float("inf"), float("nan"), [0.5, 0.0]]


@pytest.mark.parametrize("validate_args", [True, False])
@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize("make", [np.float32, np.array, jnp.array])
def test_a_known_temperature_is_checked_under_jit(bad, make, validate_args):
    temperature = make(bad)

    def draw(key, logits):
        settings = {"logits": logits, "validate_args": validate_args}
        return numpyro_concrete.LogitBinaryConcrete(temperature, **settings).sample(key)

    arguments = jax.random.key(0), jnp.zeros(2)
    for function in (draw, jax.jit(draw)):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            function(*arguments)


def test_a_traced_temperature_is_not_read():
    def draw(temperature):
        d = numpyro_concrete.LogitBinaryConcrete(temperature, logits=jnp.zeros(2))
        return d.sample(jax.random.key(0))

    assert jnp.isfinite(jax.jit(draw)(0.5)).all()


@pytest.mark.parametrize("parameter", ["logits", "probs"])
def test_known_parameters_are_checked_under_jit(parameter):
    bad = jnp.array([0.5, jnp.nan])

    def draw(key):
        settings = {parameter: bad, "validate_args": True}
        return numpyro_concrete.LogitBinaryConcrete(0.5, **settings).sample(key)

    with pytest.raises(ValueError, match=f"got {parameter}"):
        jax.jit(draw)(jax.random.key(0))


@pytest.mark.parametrize("make", [np.float32, jnp.array])
def test_a_mark_s_temperature_is_checked_under_jit(make):
    temperature = make(-1.0)

    def model():
        infer = {"relax": {"temperature": temperature}}
        return numpyro.sample("z", dist.Bernoulli(0.5), infer=infer)

    run = numpyro.handlers.seed(numpyro_concrete.relax(model, 0.5), 0)
    with pytest.raises(ValueError, match="temperature at site 'z' must be positive"):
        jax.jit(run)()
