"""Discrete scoring: log-masses at soft points (eq. 21), and discrete KLs (eq. 22)."""

import numpy as np
import pytest
from asserts import assert_exact
from scipy import special, stats

T = 0.5
_RNG = np.random.default_rng(4)
P, Q = _RNG.normal(size=(2, 5, 3))
POINT = special.log_softmax(_RNG.normal(size=(5, 3)), -1)


def masses(backend, name, *logits):
    family = getattr(backend.distributions, name)
    return [family(T, logits=backend.array(x)) for x in logits]


def test_a_soft_point_of_n_values_has_the_mean_log_mass(backend):
    (p,) = masses(backend, "ExpConcreteMass", P)
    log_probs = special.log_softmax(P, -1)
    expected = (np.exp(POINT) * log_probs).sum(-1)
    assert_exact(backend.numpy(p.log_prob(backend.array(POINT))), expected)
    for k in range(3):
        vertex = np.where(np.arange(3) == k, 0.0, -1e4) + np.zeros((5, 3))
        found = backend.numpy(p.log_prob(backend.array(vertex)))
        assert_exact(found, log_probs[:, k])


def test_a_soft_bit_has_the_mean_log_mass(backend):
    p, y = masses(backend, "LogitBinaryConcreteMass", P)[0], POINT
    share, prob = special.expit(y), special.expit(P)
    expected = share * np.log(prob) + (1 - share) * np.log1p(-prob)
    assert_exact(backend.numpy(p.log_prob(backend.array(y))), expected)
    for bit in (0, 1):
        vertex = backend.array(np.full((5, 3), 2e4 * bit - 1e4))
        expected = stats.bernoulli.logpmf(bit, prob)
        assert_exact(backend.numpy(p.log_prob(vertex)), expected)


def test_the_kl_is_the_discrete_one_at_any_temperatures(backend):
    p, q = masses(backend, "ExpConcreteMass", P, Q)
    expected = stats.entropy(special.softmax(P, -1), special.softmax(Q, -1), axis=-1)
    assert_exact(backend.numpy(backend.kl(p, q)), expected)
    p, q = masses(backend, "LogitBinaryConcreteMass", P, Q)
    a, b = special.expit(P), special.expit(Q)
    expected = special.rel_entr(a, b) + special.rel_entr(1 - a, 1 - b)
    assert_exact(backend.numpy(backend.kl(p, q)), expected)


def test_relax_scores_sites_by_their_discrete_mass(backend):
    def program(logits):
        def run():
            backend.site("b", backend.dist.Bernoulli(logits=backend.array(logits[0])))
            fn = backend.dist.Categorical(logits=backend.array(logits))
            backend.site("z", fn)

        return run

    relax = backend.package.relax
    model, guide = (relax(program(x[0]), T, scoring="discrete") for x in (Q, P))
    loss = backend.loss("TraceMeanField", model, guide)
    expected = stats.entropy(special.softmax(P[0]), special.softmax(Q[0]))
    a, b = special.expit(P[0, 0]), special.expit(Q[0, 0])
    expected += special.rel_entr(a, b) + special.rel_entr(1 - a, 1 - b)
    assert_exact(loss, expected)


def test_an_unknown_scoring_is_an_error(backend):
    with pytest.raises(ValueError, match=r"scoring is one of .*'discrete'.*'density'"):
        backend.call(backend.package.relax(lambda: None, T, scoring="density"))
