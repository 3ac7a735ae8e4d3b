"""Small discrete programs with an exact ELBO, many copies of each in a plate.

A copy has parameters of its own, so that the gradient of one run is as many independent
estimates of the gradient of the ELBO, which is a sum over outcomes here.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from reference.enumerated import enumerated_elbo, multi_sample_bound
from scipy.special import log_expit, log_softmax
from scipy.stats import norm

X, LOCS, PRIOR = 0.7, np.array([-1.0, 0.5, 2.0]), np.array([0.2, -0.4, 0.5])
WEIGHTS = np.array([[0.3, -1.2, 0.8], [1.0, 0.2, -0.7]])
SIZE, SUBSAMPLE = 6, 3


@dataclass(frozen=True)
class Case:
    """Programs of `copies` copies, parameters of one, and its ELBO in NumPy.

    But for "data" the ELBO takes a number m, and then is the mean of the bound of m.
    """

    programs: Callable
    params: dict
    elbo: Callable
    bits: bool = False  # no other discrete sites


def bit_mass(b, logits):
    return np.sum(log_expit(np.where(b, logits, -np.asarray(logits))))


def bits_of(n):
    return [np.array(b) for b in itertools.product((0, 1), repeat=n)]


# One bit.


def one_bit(backend, copies):
    dist = backend.dist

    def model():
        with backend.plate("copies", copies):
            z = backend.site("z", dist.Bernoulli(logits=backend.array(-0.6)))
            fn = dist.Normal(1.3 * z - 0.4, backend.array(0.8))
            backend.site("x", fn, obs=backend.array(X))

    def guide():
        a = backend.param("a")
        with backend.plate("copies", copies):
            backend.site("z", dist.Bernoulli(logits=a))

    return model, guide


def one_bit_elbo(params, m=1):
    def log_p(b):
        return bit_mass(b, -0.6) + norm.logpdf(X, 1.3 * b - 0.4, 0.8)

    return enumerated_elbo((0, 1), lambda b: bit_mass(b, params["a"]), log_p, m)


# One of three, as an integer, and as a one-hot vector.


def one_integer(backend, copies):
    dist = backend.dist
    prior, locs = backend.array(PRIOR), backend.array(LOCS)

    def model():
        with backend.plate("copies", copies):
            z = backend.site("z", dist.Categorical(logits=prior))
            fn = dist.Normal(locs[z], backend.array(0.8))
            backend.site("x", fn, obs=backend.array(X))

    def guide():
        a = backend.param("a")
        with backend.plate("copies", copies):
            backend.site("z", dist.Categorical(logits=a))

    return model, guide


def one_vertex(backend, copies):
    dist = backend.dist
    prior, locs = backend.array(PRIOR), backend.array(LOCS)

    def model():
        with backend.plate("copies", copies):
            z = backend.site("z", backend.one_hot(prior))
            fn = dist.Normal(z @ locs, backend.array(0.8))
            backend.site("x", fn, obs=backend.array(X))

    def guide():
        a = backend.param("a")
        with backend.plate("copies", copies):
            backend.site("z", backend.one_hot(a))

    return model, guide


def one_of_three_elbo(params, m=1):
    def log_p(k):
        return log_softmax(PRIOR)[k] + norm.logpdf(X, LOCS[k], 0.8)

    return enumerated_elbo(range(3), lambda k: log_softmax(params["a"])[k], log_p, m)


# Bits, and an integer that depends on them in both programs: z comes before y.


def dependent(backend, copies):
    dist = backend.dist
    prior, locs, weights = map(backend.array, (PRIOR, LOCS, WEIGHTS))

    def model():
        with backend.plate("copies", copies):
            b = backend.site("z", dist.Bernoulli(logits=prior[:2]).to_event(1))
            c = backend.site("y", dist.Categorical(logits=(1.0 * b) @ weights))
            fn = dist.Normal(locs[c] + b[..., 0] * b[..., 1], backend.array(0.8))
            backend.site("x", fn, obs=backend.array(X))

    def guide():
        a, w = backend.param("a"), backend.param("w")
        with backend.plate("copies", copies):
            b = backend.site("z", dist.Bernoulli(logits=a).to_event(1))
            logits = (w * b[..., None]).sum(-2) + backend.array([0.1, 0.0, -0.2])
            backend.site("y", dist.Categorical(logits=logits))

    return model, guide


def dependent_elbo(params, m=1):
    a, w = params["a"], params["w"]

    def log_q(outcome):
        b, c = outcome
        return bit_mass(b, a) + log_softmax(b @ w + [0.1, 0.0, -0.2])[c]

    def log_p(outcome):
        b, c = outcome
        prior = bit_mass(b, PRIOR[:2]) + log_softmax(b @ WEIGHTS)[c]
        return prior + norm.logpdf(X, LOCS[c] + b[0] * b[1], 0.8)

    return enumerated_elbo(itertools.product(bits_of(2), range(3)), log_q, log_p, m)


# Two layers of bits, which the guide draws in the other order, and a bit beside.


def two_layers(backend, copies):
    dist = backend.dist
    prior, weights = backend.array(PRIOR), backend.array(WEIGHTS)

    def model():
        with backend.plate("copies", copies):
            e = backend.site("e", dist.Bernoulli(logits=backend.array(0.3)))
            top = backend.site("top", dist.Bernoulli(logits=prior[:2]).to_event(1))
            logits = (1.0 * top) @ weights + 0.5 * e[..., None]
            low = backend.site("low", dist.Bernoulli(logits=logits).to_event(1))
            fn = dist.Normal((low * prior).sum(-1) + 0.6 * e, backend.array(0.5))
            backend.site("x", fn, obs=backend.array(X))

    def guide():
        a, w, e = (backend.param(name) for name in ("a", "w", "beside"))
        with backend.plate("copies", copies):
            low = backend.site("low", dist.Bernoulli(logits=a).to_event(1))
            logits = (w * low[..., None]).sum(-2) - 0.1
            backend.site("top", dist.Bernoulli(logits=logits).to_event(1))
            backend.site("e", dist.Bernoulli(logits=e))

    return model, guide


def two_layers_elbo(params, m=1):
    a, w, e = params["a"], params["w"], params["beside"]

    def log_q(b):
        low, top = b[:3], b[3:5]
        return bit_mass(low, a) + bit_mass(top, low @ w - 0.1) + bit_mass(b[5], e)

    def log_p(b):
        low, top = b[:3], b[3:5]
        prior = bit_mass(b[5], 0.3) + bit_mass(top, PRIOR[:2])
        prior += bit_mass(low, top @ WEIGHTS + 0.5 * b[5])
        return prior + norm.logpdf(X, low @ PRIOR + 0.6 * b[5], 0.5)

    return enumerated_elbo(bits_of(6), log_q, log_p, m)


# A bit for all data, and one for each datum of a subsample, some of them masked.


def data(backend, copies):
    dist = backend.dist
    kept = backend.array([True, True, False], "bool")

    def model():
        with backend.plate("copies", copies, dim=-1):
            g = backend.site("g", dist.Bernoulli(logits=backend.array(0.4)))
            rows = backend.plate("data", SIZE, subsample_size=SUBSAMPLE, dim=-2)
            with rows, backend.mask(kept[:, None]):
                z = backend.site("z", dist.Bernoulli(logits=0.8 * g - 0.2))
                fn = dist.Normal(1.1 * z - 0.7 * g, backend.array(0.9))
                backend.site("x", fn, obs=backend.array(X))

    def guide():
        a, e = backend.param("a"), backend.param("e")
        with backend.plate("copies", copies, dim=-1):
            g = backend.site("g", dist.Bernoulli(logits=e))
            rows = backend.plate("data", SIZE, subsample_size=SUBSAMPLE, dim=-2)
            with rows, backend.mask(kept[:, None]):
                backend.site("z", dist.Bernoulli(logits=a - 0.5 * g))

    return model, guide


def data_elbo(params):
    shown = 2 * SIZE / SUBSAMPLE  # two of three, and each stands for two

    def given(g):
        def log_p(z):
            return bit_mass(z, 0.8 * g - 0.2) + norm.logpdf(X, 1.1 * z - 0.7 * g, 0.9)

        log_q = lambda z: bit_mass(z, params["a"] - 0.5 * g)  # noqa: E731
        return shown * enumerated_elbo((0, 1), log_q, log_p)

    log_p = lambda g: bit_mass(g, 0.4) + given(g)  # noqa: E731
    return enumerated_elbo((0, 1), lambda g: bit_mass(g, params["e"]), log_p)


# A normal variable before a bit, and one after it.


def continuous(backend, copies):
    dist = backend.dist

    def model():
        one = backend.array(1.0)
        with backend.plate("copies", copies):
            u = backend.site("u", dist.Normal(0 * one, one))
            z = backend.site("z", dist.Bernoulli(logits=u))
            v = backend.site("v", dist.Normal(1.0 * z, one))
            backend.site("x", dist.Normal(v + 0.8 * u * z, one), obs=one)

    def guide():
        m, a, c = backend.param("m"), backend.param("a"), backend.param("c")
        with backend.plate("copies", copies):
            u = backend.site("u", dist.Normal(m, backend.array(0.7)))
            z = backend.site("z", dist.Bernoulli(logits=a * u + 0.2))
            backend.site("v", dist.Normal(c * z - 0.1, backend.array(0.9)))

    return model, guide


def continuous_elbo(params, m=1):
    nodes, weights = hermegauss(40 if m == 1 else 16)
    weights = np.log(weights / weights.sum())
    u = (params["m"] + 0.7 * nodes)[:, None]
    log_draws, log_weights = [], []
    for z in (0, 1):
        v = params["c"] * z - 0.1 + 0.9 * nodes
        sign = 2 * z - 1
        log_mass = log_expit(sign * (params["a"] * u + 0.2)) + 0 * v
        log_p = norm.logpdf(u) + log_expit(sign * u) + norm.logpdf(v, z)
        log_p = log_p + norm.logpdf(1.0, v + 0.8 * u * z)
        log_q = norm.logpdf(u, params["m"], 0.7) + log_mass
        log_q = log_q + norm.logpdf(v, params["c"] * z - 0.1, 0.9)
        log_draws.append((weights[:, None] + weights + log_mass).ravel())
        log_weights.append((log_p - log_q).ravel())
    return multi_sample_bound(*map(np.concatenate, (log_draws, log_weights)), m)


_W = {"w": np.array([[0.5, 0.0, -0.4], [-1.0, 0.2, 0.3]])}
CASES = {
    "one bit": Case(one_bit, {"a": np.array(-0.5)}, one_bit_elbo, bits=True),
    "one integer": Case(
        one_integer, {"a": np.array([0.6, -0.3, 0.1])}, one_of_three_elbo
    ),
    "one vertex": Case(
        one_vertex, {"a": np.array([0.6, -0.3, 0.1])}, one_of_three_elbo
    ),
    "dependent": Case(dependent, {"a": np.array([0.9, -0.5]), **_W}, dependent_elbo),
    "two layers": Case(
        two_layers,
        {
            "a": np.array([0.3, -0.5, 0.2]),
            "beside": np.array(0.9),
            "w": np.array([[0.6, -0.4], [-0.7, 0.2], [0.3, 0.5]]),
        },
        two_layers_elbo,
        bits=True,
    ),
    "data": Case(data, {"a": np.array(-0.6), "e": np.array(0.3)}, data_elbo, bits=True),
    "continuous": Case(
        continuous,
        {"m": np.array(0.4), "a": np.array(1.2), "c": np.array(0.3)},
        continuous_elbo,
        bits=True,
    ),
}
