"""Local expectations: their cost, what is drawn anew, and where they are exact."""

import numpy as np
import pytest
from asserts import assert_derivative, assert_exact, assert_mean
from backends import get_backend
from discrete import CASES, LOCS, X, bit_mass, bits_of
from reference.enumerated import enumerated_elbo, gradient
from scipy.special import log_softmax
from scipy.stats import norm

VECTORIZED = pytest.mark.parametrize("vectorize", [False, True])


def objective(backend, **settings):
    return backend.package.LocalExpectations(**settings)


def gradients(backend, elbo, programs, params, seed=0):
    """Gradients of the ELBO by name."""
    _, grads = backend.evaluated(elbo, *programs)(params, seed)
    return {name: -grad for name, grad in grads.items()}


# Where one draw is enough.


@VECTORIZED
@pytest.mark.parametrize("name", ["one bit", "one integer", "one vertex"])
def test_one_element_has_the_exact_gradient(backend, name, vectorize):
    case = CASES[name]
    copies = 3
    params = {k: np.array([x] * copies) for k, x in case.params.items()}
    elbo = objective(backend, vectorize_particles=vectorize)
    grads = gradients(backend, elbo, case.programs(backend, copies), params)
    for param, expected in gradient(case.elbo, case.params).items():
        assert_derivative(grads[param], np.array([expected] * copies))


@VECTORIZED
def test_what_depends_on_the_element_is_drawn_anew(backend, vectorize):
    """A copy of the first value, which would be impossible if it kept its value."""
    dist = backend.dist
    locs = backend.array(LOCS[:2])

    def certain(z):
        return 20.0 * (2 * z[..., None] - 1) * backend.array([-1.0, 1.0])

    def model():
        z = backend.site("z", dist.Bernoulli(logits=backend.array(0.2)))
        y = backend.site("y", dist.Categorical(logits=certain(z)))
        backend.site(
            "x", dist.Normal(locs[y], backend.array(0.8)), obs=backend.array(X)
        )

    def guide():
        z = backend.site("z", dist.Bernoulli(logits=backend.param("a")))
        backend.site("y", dist.Categorical(logits=certain(z)))

    def exact_elbo(params):
        def log_p(z):
            return bit_mass(z, 0.2) + norm.logpdf(X, LOCS[z], 0.8)

        return enumerated_elbo((0, 1), lambda z: bit_mass(z, params["a"]), log_p)

    params = {"a": np.array(0.7)}
    elbo = objective(backend, vectorize_particles=vectorize)
    grads = gradients(backend, elbo, (model, guide), params)
    assert_derivative(grads["a"], gradient(exact_elbo, params)["a"])


def test_a_value_that_python_reads_influences_what_comes_after():
    backend = get_backend("pyro")
    dist = backend.dist

    def model():
        z = backend.site("z", dist.Bernoulli(logits=backend.array(0.2)))
        y = backend.site("y", dist.Bernoulli(backend.array(0.5)))
        x = dist.Normal(y + 0.3 * z, backend.array(0.8))
        backend.site("x", x, obs=backend.array(X))

    def guide():
        z = backend.site("z", dist.Bernoulli(logits=backend.param("a")))
        backend.site("y", dist.Bernoulli(backend.array(1.0 if z else 0.0)))

    def exact_elbo(params):
        def log_p(z):
            return bit_mass(z, 0.2) + np.log(0.5) + norm.logpdf(X, 1.3 * z, 0.8)

        return enumerated_elbo((0, 1), lambda z: bit_mass(z, params["a"]), log_p)

    params = {"a": np.array(0.7)}
    for seed in range(3):
        grads = gradients(backend, objective(backend), (model, guide), params, seed)
        assert_derivative(grads["a"], gradient(exact_elbo, params)["a"])


@VECTORIZED
def test_impossible_values_are_left_out(backend, vectorize):
    """Two values in one row and three in the other, and no likelihood beyond."""
    dist = backend.dist
    largest = np.array([1, 2])
    is_possible = np.arange(3) <= largest[:, None]

    def categorical(logits):
        possible = backend.array(is_possible, "bool")
        return dist.Categorical(logits=backend.xp.where(possible, logits, -np.inf))

    def model():
        with backend.plate("rows", 2):
            n = backend.site("n", categorical(backend.array(np.zeros(3))))
            rate = 1 / (1.5 - n / backend.array(largest))
            backend.site("x", dist.Exponential(rate), obs=backend.array(0.7))

    def guide():
        with backend.plate("rows", 2):
            backend.site("n", categorical(backend.param("a")))

    def exact_elbo(params):
        elbo = 0.0
        for logits, top in zip(params["a"], largest, strict=True):
            log_q = log_softmax(logits[: top + 1])

            def log_p(n, top=top):
                rate = 1 / (1.5 - n / top)
                return -np.log(top + 1) + np.log(rate) - rate * 0.7

            elbo += enumerated_elbo(range(top + 1), log_q.__getitem__, log_p)
        return elbo

    params = {"a": np.array([[0.6, -0.4, 0.3], [0.1, 0.5, -0.2]])}
    elbo = objective(backend, vectorize_particles=vectorize)
    grads = gradients(backend, elbo, (model, guide), params)
    assert_derivative(grads["a"], gradient(exact_elbo, params)["a"])


# What is set at once, and how many runs it takes.


def count_run(backend, runs, value):
    """Record that a model runs, once for each of the runs that are vectorized."""
    if backend.name == "numpyro":
        backend.jax.debug.callback(lambda _: runs.append(1), value)
    else:
        runs.append(1)


def number_of_runs(backend, programs, params):
    """Number of runs that one gradient takes, which `count_runs` knows in advance."""
    runs = []
    model, guide = programs(lambda value: count_run(backend, runs, value))
    gradients(backend, objective(backend), (model, guide), params)
    if backend.name == "numpyro":
        backend.jax.effects_barrier()
    values = {name: backend.array(x) for name, x in params.items()}
    discrete = [backend.with_params(x, values) for x in programs(lambda _: None)]
    first = (backend.jax.random.key(0), {}) if backend.name == "numpyro" else ()
    assert objective(backend).count_runs(*first, *discrete) == len(runs)
    return len(runs)


def plate_of_bits(backend, *, shape=(), shares_likelihood=False):
    """Four elements of a plate, each of bits that have a likelihood together."""
    dist = backend.dist
    one = backend.array(1.0)

    def programs(count):
        def model():
            prior = dist.Bernoulli(logits=backend.array(np.zeros((4, *shape))))
            with backend.plate("rows", 4):
                z = backend.site("z", prior.to_event(len(shape)))
                count(z)
                if not shares_likelihood:
                    loc = z.reshape((*z.shape[: z.ndim - len(shape)], -1)).sum(-1)
                    backend.site("x", dist.Normal(loc * one, one), obs=one)
            if shares_likelihood:
                backend.site("x", dist.Normal(z.sum() * one, one), obs=one)

        def guide():
            with backend.plate("rows", 4):
                fn = dist.Bernoulli(logits=backend.param("a"))
                backend.site("z", fn.to_event(len(shape)))

        return model, guide

    return programs, {"a": np.zeros((4, *shape))}


@pytest.mark.parametrize(
    ("shape", "shares_likelihood", "runs"),
    [((), False, 2), ((3,), False, 4), ((2, 2), False, 5), ((), True, 5)],
)
def test_independent_elements_share_their_runs(backend, shape, shares_likelihood, runs):
    programs, params = plate_of_bits(
        backend, shape=shape, shares_likelihood=shares_likelihood
    )
    assert number_of_runs(backend, programs, params) == runs


def test_a_run_is_for_one_value_of_one_element_of_one_site(backend):
    dist = backend.dist
    one = backend.array(1.0)

    def programs(count):
        def model():
            gates = backend.site(
                "gates", dist.Bernoulli(probs=0.5 * one).expand([5]).to_event(1)
            )
            k = backend.site("k", dist.Categorical(logits=backend.array(np.zeros(3))))
            loc = gates.sum(-1) + k
            count(loc)
            backend.site("x", dist.Normal(loc * one, one), obs=one)

        def guide():
            gates = dist.Bernoulli(logits=backend.param("a"))
            backend.site("gates", gates.to_event(1))
            backend.site("k", dist.Categorical(logits=backend.param("b")))

        return model, guide

    params = {"a": np.zeros(5), "b": np.zeros(3)}
    assert number_of_runs(backend, programs, params) == 1 + 5 + 2


def test_a_term_may_depend_on_a_site_through_another_one(backend):
    """The rows of z share the likelihood of y, which the guide draws given z."""
    dist = backend.dist
    one = backend.array(1.0)

    def programs(count):
        def model():
            prior = dist.Bernoulli(logits=0 * one)
            with backend.plate("rows", 4):
                backend.site("z", prior)
                y = backend.site("y", prior)
            loc = y.sum() * one
            count(loc)
            backend.site("x", dist.Normal(loc, one), obs=one)

        def guide():
            with backend.plate("rows", 4):
                z = backend.site("z", dist.Bernoulli(logits=backend.param("a")))
                backend.site("y", dist.Bernoulli(logits=one * z))

        return model, guide

    runs = number_of_runs(backend, programs, {"a": np.zeros(4)})
    assert runs == 1 + 4 + 4


def grouped(backend, copies):
    """Copies of three bits, which a plate inside of the copies couples."""
    dist = backend.dist

    def model():
        with backend.plate("copies", copies, dim=-2):
            with backend.plate("rows", 3, dim=-1):
                prior = dist.Bernoulli(logits=backend.array([0.3, -0.2, 0.1]))
                z = backend.site("z", prior)
            loc = (z * backend.array(LOCS)).sum(-1, keepdims=True)
            backend.site(
                "x", dist.Normal(loc, backend.array(0.8)), obs=backend.array(X)
            )

    def guide():
        a = backend.param("a")
        with backend.plate("copies", copies, dim=-2), backend.plate("rows", 3, dim=-1):
            backend.site("z", dist.Bernoulli(logits=a))

    return model, guide


def grouped_elbo(params):
    def log_p(b):
        return bit_mass(b, np.array([0.3, -0.2, 0.1])) + norm.logpdf(X, b @ LOCS, 0.8)

    return enumerated_elbo(bits_of(3), lambda b: bit_mass(b, params["a"]), log_p)


@pytest.mark.statistical
def test_elements_of_a_plate_that_share_a_term_are_set_in_turn(backend):
    copies = 5000
    params = {"a": np.array([0.4, -0.6, 0.2])}
    values = {"a": np.tile(params["a"], (copies, 1))}
    grads = gradients(backend, objective(backend), grouped(backend, copies), values)
    assert_mean(grads["a"], gradient(grouped_elbo, params)["a"])


# How they run.


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("name", ["dependent", "two layers", "data"])
def test_vectorized_runs_have_the_same_gradients(backend, name):
    case = CASES[name]
    copies = 4
    params = {
        k: np.broadcast_to(x, (copies, *np.shape(x))).copy()
        for k, x in case.params.items()
    }
    programs = case.programs(backend, copies)
    expected = gradients(
        backend, objective(backend, vectorize_particles=False), programs, params
    )
    for chunk_size in (None, 4):
        elbo = objective(backend, chunk_size=chunk_size, vectorize_particles=True)
        grads = gradients(backend, elbo, programs, params)
        for param, grad in grads.items():
            assert_exact(grad, expected[param])


@pytest.mark.statistical
def test_continuous_sites_are_drawn_anew_in_vectorized_runs(backend):
    case = CASES["continuous"]
    copies = 20_000
    params = {k: np.tile(x, copies) for k, x in case.params.items()}
    elbo = objective(backend, vectorize_particles=True)
    grads = gradients(backend, elbo, case.programs(backend, copies), params)
    for param, expected in gradient(case.elbo, case.params).items():
        assert_mean(grads[param], expected)


@pytest.mark.slow_on("numpyro")
def test_a_hardened_guide_is_trained(backend):
    dist = backend.dist
    logits = np.array([0.5, -0.2, 0.1])

    def model():
        with backend.plate("rows", 2):
            z = backend.site("z", dist.Categorical(logits=backend.array(logits)))
            fn = dist.Normal(backend.array(LOCS)[z], backend.array(0.8))
            backend.site("x", fn, obs=backend.array([X, -X]))

    package = backend.package
    guide = package.AutoConcrete(package.relax(model, 0.5))
    losses, _ = backend.train(
        objective(backend), model, package.harden(guide), steps=80, lr=0.3
    )
    joint = log_softmax(logits) + norm.logpdf(np.array([[X], [-X]]), LOCS, 0.8)
    evidence = np.logaddexp.reduce(joint, -1).sum()
    # The loss of a draw of the posterior is the same for all draws.
    assert abs(losses[-5:] + evidence).max() < 0.1


def test_the_size_of_a_chunk_is_positive(backend):
    with pytest.raises(ValueError, match="chunk_size must be at least 1, not 0"):
        objective(backend, chunk_size=0)
