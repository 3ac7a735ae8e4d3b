"""Soft integers: what a program may do with them, exactly, and what is refused by name.

The expected value is always the discrete program's: at one-hot weights its result, and
between them the mean of its results over the values of the sites.
"""

import itertools

import numpy as np
import pytest
from asserts import assert_exact

T = 0.5
_TABLE = np.random.default_rng(1).normal(size=(4, 3, 2))
_GRID = np.random.default_rng(2).normal(size=(3, 4))
_COUNTS = np.array([[5, 1, 4], [2, 0, 3], [7, 6, 9], [8, 11, 10]])

# Functions of a site z with four values, a site u with three, and a bit b, all scalars;
# the values are integers, of the type that the host gives to them. `xp` is torch or
# jax.numpy, t a table of shape (4, 3, 2), n one of integers (4, 3).
OPERATIONS = {
    "lookup": lambda xp, z, u, b, t, n: t[z],
    "lookup in a tuple": lambda xp, z, u, b, t, n: t[z, 1],
    "lookup of a column": lambda xp, z, u, b, t, n: t[:, u],
    "lookup after an ellipsis": lambda xp, z, u, b, t, n: t[..., u, :],
    "lookup with a slice": lambda xp, z, u, b, t, n: t[z, 1:],
    "lookup with a new axis": lambda xp, z, u, b, t, n: t[None, z],
    "joint lookup": lambda xp, z, u, b, t, n: t[z, u],
    "joint lookup with itself": lambda xp, z, u, b, t, n: t[z, z - 1],
    "joint lookup with an arange": lambda xp, z, u, b, t, n: t[z, xp.arange(3)],
    "joint lookup across a slice": lambda xp, z, u, b, t, n: t[z, :, u - 1],
    "lookup of what was looked up": lambda xp, z, u, b, t, n: t[z][u],
    "negative lookup": lambda xp, z, u, b, t, n: t[z - 2],
    "lookup of integers": lambda xp, z, u, b, t, n: 1.0 * n[z],
    "lookup at a lookup": lambda xp, z, u, b, t, n: 0.9 ** n[z, u],
    "lookup by a difference": lambda xp, z, u, b, t, n: t[abs(z - u)],
    "mean": lambda xp, z, u, b, t, n: 1.0 * z,
    "arithmetic": lambda xp, z, u, b, t, n: 0.5 * (2 * z + u - 1),
    "product with itself": lambda xp, z, u, b, t, n: 1.0 * (z * (z - 1)),
    "product of sites": lambda xp, z, u, b, t, n: 1.0 * (z * u),
    "remainder": lambda xp, z, u, b, t, n: 1.0 * ((z + u) % 2),
    "quotient": lambda xp, z, u, b, t, n: 1.0 * (z // 2),
    "power": lambda xp, z, u, b, t, n: 0.7**z,
    "logarithm": lambda xp, z, u, b, t, n: xp.log(1 + n[z, 0]),
    "division": lambda xp, z, u, b, t, n: z / 3.0,
    "equal": lambda xp, z, u, b, t, n: 1.0 * (z == 1),
    "equal to itself": lambda xp, z, u, b, t, n: 1.0 * (z == z),
    "equal sites": lambda xp, z, u, b, t, n: 1.0 * (z == u),
    "unequal": lambda xp, z, u, b, t, n: 1.0 * (z != 1),
    "compared with an arange": lambda xp, z, u, b, t, n: 1.0 * (z == xp.arange(4)),
    "one of two": lambda xp, z, u, b, t, n: 1.0 * ((z == 0) | (z == 3)),
    "both": lambda xp, z, u, b, t, n: 1.0 * ((z > 1) & (u < 2)),
    "neither": lambda xp, z, u, b, t, n: 1.0 * ~((z > 1) | (u < 2)),
    "where": lambda xp, z, u, b, t, n: xp.where(z == 2, t[0], t[1]),
    "where of integers": lambda xp, z, u, b, t, n: t[xp.where(z > 2, u, 0)],
    "where of itself": lambda xp, z, u, b, t, n: 1.0 * xp.where(z > 1, z, z + 4),
    "where by data": lambda xp, z, u, b, t, n: xp.where(n[:, 0] > 4, z, u) * 1.0,
    "masked step": lambda xp, z, u, b, t, n: t[xp.where(n[:3, 0] > 4, z, u)],
    "a bit's mean by its method": lambda xp, z, u, b, t, n: b.mean(),
    "a bit as a number": lambda xp, z, u, b, t, n: b * t[0],
    "a bit's complement": lambda xp, z, u, b, t, n: (1 - b) * t[0],
    "a bit equals": lambda xp, z, u, b, t, n: xp.where(b == 1, t[0], t[1]),
    "a bit and its complement": lambda xp, z, u, b, t, n: 1.0 * (b * (1 - b)),
    "stacked": lambda xp, z, u, b, t, n: t[xp.stack([z, u])],
    "a sum of them": lambda xp, z, u, b, t, n: 1.0 * xp.stack([z, u]).sum(),
    "spread": lambda xp, z, u, b, t, n: t[z.reshape((1, 1))],
    "out of order": lambda xp, z, u, b, t, n: n[z, u] * t[0, 0],
}


@pytest.fixture(autouse=True)
def _double_precision(backend):
    with backend.double_precision():
        yield


def sites(backend):
    """The three sites, as a program that gives its values to a function."""
    dist = backend.dist
    logits = [backend.array(np.linspace(-0.5, 0.7, k)) for k in (4, 3)]

    def program(use):
        z = backend.site("z", dist.Categorical(logits=logits[0]))
        u = backend.site("u", dist.Categorical(logits=logits[1]))
        b = backend.site("b", dist.Bernoulli(logits=backend.array(0.3)))
        table, counts = backend.array(_TABLE), backend.array(_COUNTS, "int64")
        return use(backend.xp, z, u, b, table, counts)

    return program


def hard(backend, z, u, b):
    """Integers as the relaxed sites' points in log space."""

    def one_hot(k, size):
        return backend.array(np.where(np.arange(size) == k, 0.0, -1e4))

    bit = backend.array(1e4 if b else -1e4)
    return {"z_relaxed": one_hot(z, 4), "u_relaxed": one_hot(u, 3), "b_relaxed": bit}


VALUES = [*itertools.product(range(4), range(3), range(2))]


def discrete(backend, use):
    """The discrete program's results for all values of the sites."""
    results = []
    for z, u, b in VALUES:
        values = {
            "z": backend.array(z, "int64"),
            "u": backend.array(u, "int64"),
            "b": backend.bit(b),
        }
        fixed = backend.condition(sites(backend), values)
        results.append(backend.numpy(backend.call(fixed, use)).astype(float))
    return np.array(results)


@pytest.mark.parametrize("use", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_every_result_is_the_discrete_program_s(backend, use):
    relaxed = backend.package.relax(sites(backend), T)
    expected = discrete(backend, use)
    # At the vertices, of which a few will do: the mean below sees every one.
    for i in (0, 9, 23):
        fixed = backend.condition(relaxed, hard(backend, *VALUES[i]))
        result = backend.numpy(backend.call(fixed, use))
        assert result.shape == expected[i].shape
        assert_exact(result, expected[i])
    # In between, the mean over the sites' values.
    p, q, r = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.5, 0.3, 0.2]), 0.35
    point = {
        "z_relaxed": backend.array(np.log(p)),
        "u_relaxed": backend.array(np.log(q)),
        "b_relaxed": backend.array(np.log(r / (1 - r))),
    }
    weights = [p[z] * q[u] * (r if b else 1 - r) for z, u, b in VALUES]
    result = backend.numpy(backend.call(backend.condition(relaxed, point), use))
    assert_exact(result, np.tensordot(weights, expected, 1))


REFUSED = {
    "truth": lambda z: bool(z == 1),
    "if": lambda z: 1 if z else 0,
    "and": lambda z: (z == 1) and (z == 2),
    "python integer": lambda z: int(z),
    "python number": lambda z: float(z),
    "item": lambda z: z.item(),
    "range": lambda z: range(z),
    "list index": lambda z: [1, 2, 3, 4][z],
    "dictionary": lambda z: {0: 1, 1: 2}[z],
    "sort": lambda z: z.reshape((1,)).argsort(),
    "condition of a loop": lambda z: [i for i in iter(int, z > 1)],
}


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED.keys())
def test_what_needs_a_drawn_value_is_refused_by_name(backend, use):
    relaxed = backend.package.relax(sites(backend), T)
    with pytest.raises(TypeError) as error:
        backend.call(relaxed, lambda xp, z, *_: use(z))
    assert "'z'" in str(error.value)
    assert "infer={'relax': False}" in str(error.value)
    assert "infer={'enumerate': 'parallel'}" in str(error.value)


def test_deterministic_sites_record_the_mean_and_pass_the_value_on(backend):
    def use(xp, z, u, b, table, counts):
        return table[backend.deterministic("copy", z)]

    program = backend.condition(
        backend.package.relax(sites(backend), T), hard(backend, 2, 0, 0)
    )
    traced = backend.trace(program, use)
    assert_exact(backend.numpy(traced["copy"]["value"]), 2.0)
    assert_exact(backend.numpy(backend.call(program, use)), _TABLE[2])


# Functions of a vector of six bits, which have no small joint support.
OF_BITS = {
    "product with a matrix": lambda xp, z, m: (1.0 * z) @ m,
    "tanh of a product": lambda xp, z, m: xp.tanh((1.0 * z) @ m),
    "sum": lambda xp, z, m: 1.0 * z.sum(-1),
    "element": lambda xp, z, m: 2.5 * z[..., 1],
    "slice and negative": lambda xp, z, m: 0.5 * -z[..., 2:],
    "neighbours": lambda xp, z, m: 1.0 * (z[1:] == z[:-1]),
    "pairs": lambda xp, z, m: 1.0 * (z[:, None] * z),
    "reshaped": lambda xp, z, m: z.reshape((3, 2)) * 1.0,
    "all": lambda xp, z, m: xp.where((z == 1).all(), 2.0, 3.0),
    "any": lambda xp, z, m: xp.where((z == 1).any(), 2.0, 3.0),
    "always": lambda xp, z, m: 1.0 * (z >= 0).all(),
    "joined": lambda xp, z, m: 1.0 * xp.concatenate([z, 1 - z]),
    "running count": lambda xp, z, m: 0.5 * z.cumsum(0),
}


@pytest.mark.parametrize("use", OF_BITS.values(), ids=OF_BITS.keys())
def test_at_hard_bits_a_function_is_the_discrete_one(backend, use):
    matrix = backend.array(np.random.default_rng(3).normal(size=(6, 2)))

    def program():
        fn = backend.dist.Bernoulli(logits=backend.array(np.zeros(6)))
        return use(backend.xp, backend.site("z", fn.to_event(1)), matrix)

    for bits in ([1, 0, 0, 1, 1, 0], [1] * 6, [0] * 6):
        point = {"z_relaxed": backend.array((2.0 * np.array(bits) - 1) * 1e4)}
        relaxed = backend.condition(backend.package.relax(program, T), point)
        fixed = backend.condition(program, {"z": backend.bit(bits)})
        result = backend.numpy(backend.call(relaxed))
        assert_exact(result, backend.numpy(backend.call(fixed)))


def test_infinite_entries_are_exact_at_a_vertex_and_finite_inside(backend):
    inf = np.inf
    table = np.array([[0.0, -inf], [-1.0, inf], [2.0, 3.0], [-inf, 1.0]])

    def use(xp, z, *_):
        return backend.array(table)[z]

    relaxed = backend.package.relax(sites(backend), T)
    for z in range(4):
        fixed = backend.condition(relaxed, hard(backend, z, 0, 0))
        assert_exact(backend.numpy(backend.call(fixed, use)), table[z])
    assert np.isfinite(backend.numpy(backend.call(relaxed, use))).all()


def test_joint_values_are_merged_where_they_are_equal(backend):
    """Ten sites of three values have 59,049 joint values, and 21 sums."""
    probs = np.array([0.2, 0.5, 0.3])

    def program():
        fn = backend.dist.Categorical(backend.array(probs))
        count = sum(backend.site(f"z_{i}", fn) for i in range(10))
        return backend.xp.where(count == 12, 1.0, 0.0)

    point = {f"z_{i}_relaxed": backend.array(np.log(probs)) for i in range(10)}
    relaxed = backend.condition(backend.package.relax(program, T), point)
    expected = np.array([1.0])
    for _ in range(10):
        expected = np.convolve(expected, probs)
    assert_exact(backend.numpy(backend.call(relaxed)), expected[12])


def test_a_finite_value_beside_an_infinite_one_stays_finite(backend):
    """Whatever stands for infinity inside is none of the numbers that tables hold."""
    for value in (-87.0, -708.0, 87.0, 708.0):
        table = backend.array([-np.inf, value])

        def program(table=table):
            z = backend.site("z", backend.dist.Bernoulli(backend.array(0.5)))
            index = z.long() if backend.name == "pyro" else z
            return table[index], 1.0 * backend.xp.where(z == 1, table[1], table[0])

        relaxed = backend.package.relax(program, 0.5)
        for point, expected in ((1e4, value), (-1e4, -np.inf)):
            at = {"z_relaxed": backend.array(point)}
            found = backend.call(backend.condition(relaxed, at))
            for x in found:
                np.testing.assert_array_equal(backend.numpy(x), expected)
