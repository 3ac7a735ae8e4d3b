"""Relaxed bits: what a program may do with them, and what is refused by name."""

import numpy as np
import pytest
from asserts import assert_exact

T = 0.5


def bits(backend):
    """A program with one two-valued site, which gives its value to a function."""

    def program(use=lambda z: z):
        fn = backend.dist.Bernoulli(logits=backend.array(np.full(6, 0.3)))
        return use(backend.site("z", fn.to_event(1)))

    return program


REFUSED = {
    "equal": lambda z, _: z == 1,
    "unequal": lambda z, _: z != 1,
    "reflected equal": lambda z, _: 1 == z,  # noqa: SIM300
    "greater": lambda z, _: z > 0,
    "complement equal": lambda z, _: (1 - z) == 0,
    "element equal": lambda z, _: z[0] == 1,
    "index": lambda z, table: table[z],
    "index in a tuple": lambda z, table: table[z, 0],
    "truth": lambda z, _: bool(z[0]),
    "if": lambda z, _: 1 if z[0] else 0,
    "python integer": lambda z, _: int(z[0]),
    "python number": lambda z, _: float(z[0]),
    "range": lambda z, _: range(z[0]),
    "item": lambda z, _: z[0].item(),
}


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED.keys())
def test_rounding_a_relaxed_bit_is_a_type_error(backend, use):
    table = backend.array(np.zeros((2, 2)))
    relaxed = backend.package.relax(bits(backend), T)
    with pytest.raises(TypeError) as error:
        backend.call(relaxed, lambda z: use(z, table))
    assert "'z'" in str(error.value)
    assert "infer={'relax': False}" in str(error.value)
    assert "infer={'enumerate': 'parallel'}" in str(error.value)


def test_observing_a_relaxed_bit_is_a_type_error(backend):
    def program():
        fn = backend.dist.Bernoulli(logits=backend.array(0.0))
        z = backend.site("z", fn)
        backend.site("x", fn, obs=z)

    with pytest.raises(TypeError, match=r"'z' is relaxed.*observing it at site 'x'"):
        backend.call(backend.package.relax(program, T))


def test_deterministic_sites_may_read_a_relaxed_bit(backend):
    def use(z):
        backend.deterministic("copy", z)

    sites = backend.trace(backend.package.relax(bits(backend), T), lambda z: use(z))
    assert_exact(
        backend.numpy(sites["copy"]["value"]), backend.numpy(sites["z"]["value"])
    )


_MATRIX = np.random.default_rng(3).normal(size=(6, 2))

# Functions of a vector of six bits: their value at hard bits is the discrete program's.
ALLOWED = {
    "itself": lambda z, m: 1.0 * z,
    "complement": lambda z, m: 1.0 * (1 - z),
    "product with a matrix": lambda z, m: z @ m,
    "tanh of a product": lambda z, m: (z @ m) ** 2,
    "sum": lambda z, m: 1.0 * z.sum(-1),
    "mean": lambda z, m: z.mean(-1) if hasattr(z, "mean") else z,
    "element": lambda z, m: 2.5 * z[..., 1],
    "slice and negative": lambda z, m: 0.5 * -z[..., 2:],
    "product of complements": lambda z, m: (1 - z) * z * 1.0,
    "reshape": lambda z, m: z.reshape((*z.shape[:-1], 3, 2)) * 1.0,
    "division": lambda z, m: z / 3.0,
}


@pytest.mark.parametrize("use", ALLOWED.values(), ids=ALLOWED.keys())
def test_at_hard_bits_a_function_is_the_discrete_one(backend, use):
    matrix = backend.array(_MATRIX)
    hard = np.array([1.0, 0, 0, 1, 1, 0])

    def program():
        fn = backend.dist.Bernoulli(logits=backend.array(np.zeros(6)))
        return use(backend.site("z", fn.to_event(1)), matrix)

    vertex = {"z_relaxed": backend.array((2 * hard - 1) * 1e3)}
    relaxed = backend.condition(backend.package.relax(program, T), vertex)
    discrete = backend.condition(program, {"z": backend.array(hard)})
    result = backend.numpy(backend.call(relaxed))
    assert_exact(result, backend.numpy(backend.call(discrete)))


def test_a_relaxed_bit_may_be_a_parameter(backend):
    def program():
        fn = backend.dist.Bernoulli(logits=backend.array(0.0))
        z = backend.site("z", fn)
        backend.site("x", backend.dist.Normal(z, backend.array(1.0)))

    sites = backend.trace(backend.package.relax(program, T))
    loc = backend.numpy(sites["x"]["fn"].loc)
    assert_exact(loc, backend.numpy(sites["z"]["value"]))
