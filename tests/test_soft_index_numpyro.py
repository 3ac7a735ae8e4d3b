"""Soft integers under JAX: each primitive's rule, and what is refused.

The expected value is always the discrete program's, or the mean by hand.
"""

import itertools

import numpy as np
import pytest
from asserts import assert_exact, assert_finite
from backends import get_backend

T = 0.5
_RNG = np.random.default_rng(0)
_TABLE = _RNG.normal(size=(3, 3))
_BLOCK = _RNG.normal(size=(4, 3, 5))
_ROW = _RNG.normal(size=4)
_INTEGERS = _RNG.integers(0, 3, size=(3, 3))


@pytest.fixture
def backend():
    return get_backend("numpyro")


@pytest.fixture
def soft(backend):
    """Make soft integers, and run functions of them."""
    from numpyro_concrete.soft_index import interpreter, soft_index

    class Soft:
        run = staticmethod(interpreter.evaluate)

        @staticmethod
        def at(site, values, size=3):
            return soft_index(site, np.arange(size), np.eye(size)[:, values])

        @staticmethod
        def inside(site, weights):
            return soft_index(site, np.arange(len(weights)), weights)

    return Soft


# Functions of two vectors of four integers below three; h holds the host and data.
OPERATIONS = {
    "lookup": lambda h, z, u: h.t[z],
    "joint lookup": lambda h, z, u: h.t[z, u],
    "lookup with a constant": lambda h, z, u: h.t[z, 0],
    "lookup of a column": lambda h, z, u: h.t[:, z],
    "lookup with an arange": lambda h, z, u: h.vindex(h.b)[h.rows, z],
    "lookup under vindex": lambda h, z, u: h.vindex(h.b[..., 0])[..., z[:, None]],
    "negative lookup": lambda h, z, u: h.t[z, u - 1],
    "lookup at a looked-up index": lambda h, z, u: h.t[h.n[z, u]],
    "lookup in soft integers": lambda h, z, u: h.t[z[u]],
    "scalar lookups": lambda h, z, u: h.t[z[0], u[0]],
    "take": lambda h, z, u: h.jnp.take(h.t, z, axis=0),
    "take along an axis": lambda h, z, u: h.jnp.take_along_axis(h.t[z], u[:, None], 1),
    "choose": lambda h, z, u: h.jnp.choose(z, [h.x, -h.x, 2 * h.x], mode="clip"),
    "vmapped lookup": lambda h, z, u: h.jax.vmap(lambda a, b: h.t[a, b])(z, u),
    "where": lambda h, z, u: h.jnp.where(z == 1, 2.0, h.x),
    "where by data": lambda h, z, u: h.t[h.jnp.where(h.x > 0, z, u)],
    "where by data with a constant": lambda h, z, u: h.t[h.jnp.where(h.x > 0, z, 0)],
    "select": lambda h, z, u: 1.0 * h.jnp.select([z == 0, z == 1], [u, z], 0),
    "one-hot": lambda h, z, u: h.jax.nn.one_hot(z, 3) @ h.t,
    "one-hot and back": lambda h, z, u: 1.0 * h.jax.nn.one_hot(z, 3).argmax(-1),
    "one-hot by writing": lambda h, z, u: h.jnp.zeros((4, 3)).at[h.rows, z].set(1.0),
    "integer one-hot by writing": (
        lambda h, z, u: 1.0 * h.jnp.zeros((4, 3), int).at[h.rows, z].set(1)
    ),
    "count by adding": lambda h, z, u: h.jnp.zeros(3).at[z].add(h.x),
    "write a row": lambda h, z, u: h.t.at[z[0]].set(1.0),
    "write an integer": lambda h, z, u: h.t[z.at[0].set(2)],
    "write soft integers": lambda h, z, u: h.t[h.jnp.zeros(4, int).at[1:].set(z[1:])],
    "stack": lambda h, z, u: 1.0 * h.jnp.stack([z, u], -1),
    "array of elements": lambda h, z, u: 1.0 * h.jnp.array([z[0], u[1], 1]),
    "concatenate": lambda h, z, u: 1.0 * h.jnp.concatenate([h.jnp.zeros(1, int), z]),
    "roll": lambda h, z, u: 1.0 * h.jnp.roll(z, 1) * z,
    "tile": lambda h, z, u: 1.0 * h.jnp.tile(z, 2),
    "repeat": lambda h, z, u: 1.0 * h.jnp.repeat(z, 2),
    "reverse and transpose": lambda h, z, u: 1.0 * z[::-1].reshape(2, 2).T,
    "integer arithmetic": lambda h, z, u: 1.0 * (z // 2 + (z - u) % 2),
    "minimum": lambda h, z, u: h.t[h.jnp.minimum(z + u, 2)],
    "clip": lambda h, z, u: 1.0 * h.jnp.clip(z, 0, 1),
    "bits": lambda h, z, u: 1.0 * (z ^ u),
    "logarithm": lambda h, z, u: h.jnp.log(z),
    "binary logarithm": lambda h, z, u: h.jnp.log2(z + 1),
    "special function": lambda h, z, u: h.jax.scipy.special.gammaln(z + 1),
    "activation": lambda h, z, u: h.jax.nn.softplus(z * h.x),
    "division": lambda h, z, u: z / 2,
    "product with floats": lambda h, z, u: h.jnp.einsum("i,ij->j", z, h.b[..., 0]),
    "sum": lambda h, z, u: 1.0 * z.sum(),
    "mean": lambda h, z, u: h.jnp.mean(z),
    "running sum": lambda h, z, u: 1.0 * h.jnp.cumsum(z),
    "sum of one draw": lambda h, z, u: h.t[(z[:, None] > h.jnp.arange(2)).sum(-1)],
    "product": lambda h, z, u: 1.0 * (z + 1).prod(),
    "running product": lambda h, z, u: 1.0 * h.jnp.cumprod(z + 1),
    "all": lambda h, z, u: 1.0 * (z == u).all(),
    "any of one draw": lambda h, z, u: 1.0 * (z[:, None] == h.jnp.arange(2)).any(-1),
    "cond": lambda h, z, u: h.jax.lax.cond(
        z[0] == 0, lambda x: 2 * x, lambda x: x + 1, h.x
    ),
    "switch": lambda h, z, u: h.jax.lax.switch(
        z[1], [h.jnp.exp, lambda x: 3 * x, h.jnp.sin], h.x
    ),
    "checkpoint": lambda h, z, u: h.jax.checkpoint(lambda z: h.t[z] * z[0])(z),
    "sort of one draw": lambda h, z, u: h.t[
        h.jnp.sort(h.jnp.stack([1 + z // 2, z]), 0)
    ],
    "sort of one draw, joined": lambda h, z, u: h.t[
        h.jnp.sort(h.jnp.concatenate([(1 + z // 2)[None], z[None]]), 0)
    ],
    "largest of one draw, joined": lambda h, z, u: h.t[
        h.jnp.concatenate([(2 - z)[:, None], z[:, None]], -1).argmax(-1)
    ],
    "scan with a soft carry": (
        lambda h, z, u: h.jax.lax.scan(lambda c, a: ((c + a) % 3, h.t[c]), 0, z)[1]
    ),
    "scan over integers": (
        lambda h, z, u: (
            1.0
            * h.jax.lax.scan(
                lambda c, a: (h.jnp.where(h.t[c, a] > 0, c, a), c == a), z[0], u
            )[1]
        )
    ),
    "loop": (
        lambda h, z, u: (
            1.0 * h.jax.lax.fori_loop(0, 2, lambda i, c: (c + z[0]) % 3, u[0])
        )
    ),
}


VECTORS = [np.array(v) for v in ([0, 1, 2, 1], [2, 0, 1, 0], [1, 1, 0, 2])]


@pytest.fixture
def host(backend):
    from numpyro.ops.indexing import Vindex

    class Host:
        jax, jnp, vindex = backend.jax, backend.jnp, Vindex
        t, b, x, n = map(backend.jnp.asarray, (_TABLE, _BLOCK, _ROW, _INTEGERS))
        rows = backend.jnp.arange(4)

    return Host


operations = pytest.mark.parametrize("use", OPERATIONS.values(), ids=OPERATIONS.keys())


@operations
def test_a_vertex_gives_the_discrete_result(soft, host, use):
    # Not jitted: small operations are compiled once for all of these tests.
    for z, u in itertools.product(VECTORS[:2], VECTORS[1:]):
        expected = use(host, host.jnp.asarray(z), host.jnp.asarray(u))
        values = soft.at("z", z), soft.at("u", u)
        result = soft.run(lambda z, u: use(host, z, u), *values)
        assert result.dtype == expected.dtype
        assert_exact(np.asarray(result), np.asarray(expected))


@operations
def test_inside_it_is_finite_with_a_gradient(soft, host, use):
    jax, jnp = host.jax, host.jnp

    def total(a, b):
        values = soft.inside("z", a), soft.inside("u", b)
        out = soft.run(lambda z, u: use(host, z, u), *values)
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum()

    value, gradient = jax.value_and_grad(total)(_interior(1), _interior(2))
    assert_finite(value)
    assert_finite(gradient)
    assert np.abs(gradient).max() > 0


def _interior(seed, size=4):
    return np.random.default_rng(seed).dirichlet([1.0, 2.0, 0.5], size).T


# The same by hand, from weights p of z and q of u, of shape (3, 4).
BY_HAND = {
    "lookup": lambda p, q: np.einsum("kn,kd->nd", p, _TABLE),
    "joint lookup": lambda p, q: np.einsum("kn,jn,kj->n", p, q, _TABLE),
    "where": lambda p, q: p[1] * 2 + (1 - p[1]) * _ROW,
    "where by data": lambda p, q: np.where(_ROW > 0, p, q).T @ _TABLE,
    "lookup with an arange": lambda p, q: np.einsum("kn,nkd->nd", p, _BLOCK),
    "one-hot by writing": lambda p, q: p.T,
    "integer one-hot by writing": lambda p, q: p.T,
    "count by adding": lambda p, q: p @ _ROW,
    "sum": lambda p, q: (p * np.arange(3)[:, None]).sum(),
    "all": lambda p, q: (p * q).sum(0).prod(),
    "sum of one draw": lambda p, q: p.T @ _TABLE,
    "product": lambda p, q: (np.arange(3) @ p + 1).prod(),
    "running product": lambda p, q: (np.arange(3) @ p + 1).cumprod(),
    "stack": lambda p, q: np.stack([np.arange(3) @ p, np.arange(3) @ q], -1),
    "minimum": lambda p, q: sum(
        np.outer(p[i] * q[j], _TABLE[min(i + j, 2)]) for i in range(3) for j in range(3)
    ),
    "scalar lookups": lambda p, q: p[:, 0] @ _TABLE @ q[:, 0],
    "cond": lambda p, q: p[0, 0] * 2 * _ROW + (1 - p[0, 0]) * (_ROW + 1),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_inside_it_is_the_mean_by_hand(soft, host, name):
    p, q = _interior(3), _interior(4)
    use = OPERATIONS[name]

    def run(p, q):
        values = soft.inside("z", p), soft.inside("u", q)
        return soft.run(lambda z, u: use(host, z, u), *values)

    for function in (run, host.jax.jit(run)):
        assert_exact(np.asarray(function(p, q)), BY_HAND[name](p, q), scale=10)


# --- which draws are the same ---------------------------------------------------------


def _mean(soft, p, use):
    return np.asarray(soft.run(lambda z: 1.0 * use(z), soft.inside("z", p)))


def test_functions_of_one_draw_combine_along_it(soft, host):
    p = _interior(5)
    assert_exact(_mean(soft, p, lambda z: z * (z - 1)), np.arange(3) * 0 @ p + 2 * p[2])
    assert_exact(_mean(soft, p, lambda z: (z == 0) | (z == 2)), p[0] + p[2])
    assert_exact(_mean(soft, p, lambda z: z[::-1][::-1] == z), np.ones(4))
    both = host.jnp.stack
    assert_exact(_mean(soft, p, lambda z: both([z, z * z])[1]), np.arange(3) ** 2 @ p)


def test_draws_at_different_places_are_independent(soft, host):
    p = _interior(6)
    expected = (p[:, 1:] * p[:, :-1]).sum(0)
    assert_exact(_mean(soft, p, lambda z: z[1:] == z[:-1]), expected)
    pairs = np.einsum("kn,km->nm", p, p)
    np.fill_diagonal(pairs, 1)
    assert_exact(_mean(soft, p, lambda z: z[:, None] == z), pairs)


def test_elements_known_only_at_run_time_may_be_the_same_draw(soft, host):
    p = _interior(7)

    def element(i):
        return soft.run(lambda z: 1.0 * (z[i] == 2), soft.inside("z", p))

    def product(i, j):
        return soft.run(lambda z: 1.0 * (z[i] == z[j]), soft.inside("z", p))

    assert_exact(np.asarray(host.jax.jit(element)(1)), p[2, 1])
    assert_exact(np.asarray(product(1, 2)), (p[:, 1] * p[:, 2]).sum())
    with pytest.raises(TypeError, match="the same draw"):
        host.jax.jit(product)(1, 2)


@pytest.mark.parametrize("offset", [0, 2, 5])
def test_what_is_out_of_range_only_at_run_time_is_the_fill_value(soft, host, offset):
    p, q = _interior(7), _interior(8)
    extended = [*(np.arange(3) @ p), *[7.0] * (offset + 3)]

    def softly(n):
        def read(z, u):
            return 1.0 * z.at[u[0] + n].get(mode="fill", fill_value=7)

        return soft.run(read, soft.inside("z", p), soft.inside("u", q))

    def plainly(n):
        def read(z):
            return 1.0 * z.at[n].get(mode="fill", fill_value=7)

        return soft.run(read, soft.inside("z", p))

    mean = q[:, 0] @ extended[offset : offset + 3]
    assert_exact(np.asarray(host.jax.jit(softly)(offset)), mean)
    assert_exact(np.asarray(host.jax.jit(plainly)(offset)), extended[offset])


def test_a_jitted_function_keeps_draws_apart(soft, host):
    # Two calls of one function give two values that are not the same draw.
    p = _interior(8)

    def use(z):
        masked = host.jax.jit(lambda mask: host.jnp.where(mask, z, z[::-1]))
        left = masked(host.x > 0)
        return 1.0 * (left == masked(host.x <= 0))

    result = soft.run(use, soft.inside("z", p))
    assert_exact(np.asarray(result), (p * p[:, ::-1]).sum(0))


# --- refusals -------------------------------------------------------------------------

REFUSED = {
    "sort": lambda h, z: h.jnp.sort(z),
    "comparison of a product": lambda h, z: (z + 1).prod() == 2,
    "index by a large sum": lambda h, z: h.t[(200 * z).sum() + (77 * z).sum()],
    "while": lambda h, z: h.jax.lax.while_loop(lambda c: c < z[0], lambda c: c + 1, 0),
    "truth": lambda h, z: bool(z[0] == 1),
    "hash": lambda h, z: hash(z[0]),
    "NumPy": lambda h, z: np.asarray(z),
    "shape": lambda h, z: h.jnp.zeros(z[0]),
    "size": lambda h, z: h.jnp.nonzero(z),
    "writing at places that may coincide": lambda h, z: h.t.at[z].set(1.0),
}
_MANY = 6  # with fewer elements, all joint values are listed


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_relaxation_is_refused_by_name(soft, host, use):
    with pytest.raises(TypeError, match=r"(?s)site 'z' is relaxed.*'relax': False"):
        soft.run(lambda z: use(host, z), soft.inside("z", _interior(9, _MANY)))


def test_a_carry_whose_values_grow_is_a_mean_with_a_guard(soft, host):
    p = _interior(9, _MANY)

    def use(z):
        return host.jax.lax.scan(lambda c, a: (3 * c + a, c), 1, z)[0]

    mean = 3.0**_MANY + 3.0 ** np.arange(_MANY)[::-1] @ (np.arange(3) @ p)
    value = soft.inside("z", p)
    assert_exact(np.asarray(soft.run(lambda z: 1.0 * use(z), value)), mean)
    with pytest.raises(TypeError, match="'z' is relaxed"):
        soft.run(lambda z: use(z) == 3, value)


def test_what_is_certain_may_be_read(soft, host):
    def use(z):
        return bool((z >= 0).all()) and int((0 * z).max()) == 0

    assert soft.run(use, soft.inside("z", _interior(9))) is True


def test_a_primitive_has_one_rule(backend):
    from numpyro_concrete.soft_index.registry import RULES, Callback, rule

    add = RULES["add"]
    with pytest.raises(ValueError, match="'add' already has a rule"):
        rule("add")(lambda primitive, operands, params: operands[0])
    assert RULES["add"] is add
    with pytest.raises(RuntimeError, match="import numpyro_concrete"):
        Callback()()
