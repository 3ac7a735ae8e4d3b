"""The grid: everything finite, at every temperature and scale, in every precision.

280 cells a backend: 210 of classes and 70 of two values. One test covers a number of
classes and a precision; it gathers the cells that fail.
"""

import itertools

import numpy as np
import pytest

TEMPERATURES = (1e-3, 1e-2, 0.1, 0.5, 1.0, 10.0, 100.0)
SCALES = (0.0, 1.0, 10.0, 100.0, 1000.0)
BATCH = 16

classes = pytest.mark.parametrize("k", [None, 2, 10, 1000], ids=str)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def family_of(backend, k):
    name = "LogitBinaryConcrete" if k is None else "ExpConcrete"
    return getattr(backend.package, name)


def logits_of(k, scale):
    shape = (BATCH,) if k is None else (BATCH, k)
    return scale * np.random.default_rng(0).normal(size=shape)


def failures(backend, k, dtype, fn, temperatures=TEMPERATURES, scales=SCALES):
    """The cells in which a function of two logits and t, or its gradient, fails."""
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype
    value_and_grad = backend.value_and_grad(fn)
    for t, scale in itertools.product(temperatures, scales):
        logits = logits_of(k, scale)
        arrays = [backend.array(x, dtype) for x in (logits, np.roll(logits, 1, 0))]
        args = *arrays, backend.array(t, wide)
        value, gradients = value_and_grad(*args)
        if not all(np.isfinite(backend.numpy(x)).all() for x in (value, *gradients)):
            yield t, scale


def sample_and_scores(backend, k):
    """A bounded function of a sample and its densities, own and in full."""

    def total(logits, other, t):
        d = family_of(backend, k)(t, logits=logits)
        value, own_log_prob = backend.sample_own(d, 0)
        full = d.log_prob(backend.rebuilt(value))
        bounded = value / (1 + abs(value))
        return own_log_prob.sum() + full.sum() + bounded.sum() + 0 * other.sum()

    return total


def relaxed_elbo(backend, k):
    """One ELBO of a relaxed model and guide whose program observes the site's value."""
    relax = backend.package.relax

    def total(posterior, prior, t):
        def program(logits, observe):
            def run():
                bits = backend.dist.Bernoulli
                fn = bits(logits=logits) if k is None else backend.one_hot(logits)
                with backend.plate("rows", BATCH, dim=-1):
                    z = backend.site("z", fn)
                    if observe:
                        x = backend.dist.Normal(1.0 * z, 1.0)
                        x = x.to_event(1) if k else x
                        data = backend.array(np.zeros(logits.shape), "float32")
                        backend.site("x", x, obs=data)

            return run

        model = relax(program(prior, observe=True), t)
        guide = relax(program(posterior, observe=False), t)
        return backend.differentiable_loss("Trace", model, guide)

    return total


ways = pytest.mark.parametrize(
    "way", [sample_and_scores, relaxed_elbo], ids=["directly", "through relax"]
)


@pytest.mark.slow_on("numpyro")
@classes
@dtypes
@ways
def test_the_family_is_finite(backend, device, k, dtype, way):
    assert list(failures(backend, k, dtype, way(backend, k))) == []


@classes
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@ways
def test_half_precision_is_finite_from_a_tenth(backend, device, k, dtype, way):
    if backend.name == "pyro" and way is relaxed_elbo:
        # Pyro's own OneHotCategorical refuses half precision: its probabilities do not
        # sum to one within 1e-6.
        backend.pyro.enable_validation(False)
    try:
        grid = TEMPERATURES[2:], SCALES[:4]
        assert list(failures(backend, k, dtype, way(backend, k), *grid)) == []
    finally:
        if backend.name == "pyro":
            backend.pyro.enable_validation(True)
