"""What JAX programs compute with soft integers, against all of their values.

The expected value is the mean of the discrete results over every joint value of the
elements, which are independent; at one-hot probabilities it is the discrete result.
"""

import functools
import itertools

import numpy as np
import pytest
from asserts import assert_exact
from backends import get_backend

K, N = 3, 2
_WEIGHTS = np.random.default_rng(0).dirichlet(np.ones(K), N).T
_TABLE = np.array([0.5, -1.0, 2.5])
_VALUES = [*itertools.product(range(K), repeat=N)]
inf = np.inf


@pytest.fixture
def backend():
    return get_backend("numpyro")


@pytest.fixture
def jnp(backend):
    with backend.double_precision():
        yield backend.jnp


def run(function, weights, values=None, site="z"):
    from numpyro_concrete.soft_index import interpreter, soft_index

    values = np.arange(len(weights)) if values is None else values
    return interpreter.evaluate(function, soft_index(site, values, weights))


def poisson_binomial(probs):
    pmf = np.ones(1)
    for p in probs:
        pmf = np.convolve(pmf, [1 - p, p])
    return pmf


# Functions of a vector of two integers below three, j is jax, n its NumPy, t a table.
WHOLE = {
    "float minus integer": lambda j, n, t, z: t[(2.0 - z).astype(int)],
    "ones minus integer": lambda j, n, t, z: t[(2 * n.ones(()) - z).astype(int)],
    "times a float": lambda j, n, t, z: t[(z * 1.0).astype(int)],
    "half of it": lambda j, n, t, z: n.where(z / 2 == 1, 3.0, 1.0),
    "double of it": lambda j, n, t, z: n.where(2.0 * z == 4, 3.0, 1.0),
    "a float condition": lambda j, n, t, z: n.where(
        (1.0 - (z == 1)).astype(bool), 3.0, 1.0
    ),
    "rounded": lambda j, n, t, z: t[n.round(0.6 * z).astype(int)],
    "floored": lambda j, n, t, z: n.floor(0.7 * z),
    "remainder": lambda j, n, t, z: t[(2 * (z / 2 % 1)).astype(int)],
    "compared after a function": lambda j, n, t, z: 1.0 * (n.exp(0.5 * z) > 1.5),
    "compared after a lookup": lambda j, n, t, z: n.where(t[z] > 0, 1.0, t[z]),
    "cast of a lookup": lambda j, n, t, z: t[z].astype(int) * 1.0,
    "sum as a float": lambda j, n, t, z: 1.0 * (z.sum().astype(float) == 2),
    "sum of floats": lambda j, n, t, z: 1.0 * ((1.0 * z).sum() == 2),
    "digitize": lambda j, n, t, z: t[n.digitize(z, n.array([0.5, 1.5]))],
    "searchsorted": lambda j, n, t, z: t[n.searchsorted(n.array([0.5, 1.5]), z)],
    "quantized": lambda j, n, t, z: 1.0 * n.digitize(t[z], n.array([0.0, 1.0])),
    "softplus": lambda j, n, t, z: j.nn.softplus(z),
    "square of a float": lambda j, n, t, z: (0.5 * z) ** 2,
    "leaky": lambda j, n, t, z: j.nn.leaky_relu(t[z]),
    "interp": lambda j, n, t, z: n.interp(z, n.array([0.0, 1.0, 2.0]), t),
    "branch": lambda j, n, t, z: j.lax.cond(
        z[0] > 0, lambda z: 1 / z[0], lambda z: 0.5, z
    ),
    "isin": lambda j, n, t, z: 1.0 * n.isin(z, n.array([0, 2])),
    "compared twice": lambda j, n, t, z: (
        1.0 * (z[:, None] == n.array([0, 2])).any(-1)
    ),
    "expansion": lambda j, n, t, z: 1.0 * (z * n.broadcast_to(z, (3, N))),
    "stack": lambda j, n, t, z: 1.0 * (n.stack([z, 2 - z]).sum(0) == 2),
    "concatenated": lambda j, n, t, z: 1.0 * (n.concatenate([z, z])[N:] == z),
    "meshgrid": lambda j, n, t, z: 1.0 * n.equal(*n.meshgrid(z, z)),
    "largest": lambda j, n, t, z: t[z.max()],
    "smallest": lambda j, n, t, z: t[z.min()],
    "count_nonzero": lambda j, n, t, z: t[n.count_nonzero(z)],
    "associative_scan": lambda j, n, t, z: (
        1.0 * (j.lax.associative_scan(n.add, z) == 2)
    ),
    "loop": lambda j, n, t, z: 1.0 * (
        j.lax.scan(lambda c, a: (c + a, c), 0, z)[0] == 2
    ),
    "bits of a sum": lambda j, n, t, z: 1.0 * j.lax.population_count(z.sum()),
    "stop_gradient": lambda j, n, t, z: t[1 + j.lax.stop_gradient(2 * z - 1) // 2],
    "sort of one draw": lambda j, n, t, z: t[n.argsort(n.stack([z[0], 1 + 0 * z[0]]))],
    "variance": lambda j, n, t, z: z.var(),
    "duplicates": lambda j, n, t, z: 1.0 * ((z[:, None] == z).sum(-1) > 1),
    "sums above one": lambda j, n, t, z: 1.0 * ((z.cumsum() > 1).sum() == 1),
    "scalar product": lambda j, n, t, z: (1.0 * z) @ (z + 1.0),
    "softmax": lambda j, n, t, z: j.nn.softmax(z),
    "polyval": lambda j, n, t, z: 1.0 * n.polyval(z, z[::-1]),
    "sorted table": lambda j, n, t, z: 1.0 * n.searchsorted(z, z[::-1]),
    "where not a number": lambda j, n, t, z: 1.0 * n.isnan(n.arccosh(z)),
    "read in itself": lambda j, n, t, z: t[z[z[::-1]]],
    "out of range": lambda j, n, t, z: 1.0 * (n.take(z, n.array([1, 2])) == z),
    "softly out of range": lambda j, n, t, z: 1.0 * (n.take(z, z) == z),
    "padded": lambda j, n, t, z: 1.0 * (n.pad(z, 1, constant_values=2)[1:3] == z),
    "truths by truths": lambda j, n, t, z: n.where(z > 1, z > 0, z < 1).astype(float),
    "rolled": lambda j, n, t, z: t[n.roll(z, 1, 0)[n.array([0, 0])]],
    "written twice": lambda j, n, t, z: n.zeros(3).at[z].set(t[:N]),
    "counts": lambda j, n, t, z: 1.0 * (n.bincount(z, length=K) > 1),
    "scaled entries": lambda j, n, t, z: t.at[z].multiply(3.0),
    "least entries": lambda j, n, t, z: t.at[z].min(0.0),
    "segments": lambda j, n, t, z: t[j.ops.segment_max(z, n.zeros(2, int), 1)],
    "compared carry": lambda j, n, t, z: j.lax.scan(
        lambda c, a: (c + a, n.where(c > 0.5, 1.0, 0.0)), 0.0, 1.0 * z
    )[1],
    "rounded carry": lambda j, n, t, z: n.round(
        j.lax.fori_loop(0, N, lambda i, c: c + 0.6 * z[i], 0.0)
    ),
}  # fmt: skip
# Each of these takes seconds to compile; what they use is tested by others, too.
DEAR = {
    "covariance": lambda j, n, t, z: n.cov(z),
    "median": lambda j, n, t, z: n.median(z),
    "quantile": lambda j, n, t, z: n.quantile(z, n.array([0.2, 0.7])),
    "standardized": lambda j, n, t, z: j.nn.standardize(z),
    "singular values": lambda j, n, t, z: n.linalg.svd(n.outer(z, 1 + z) + 1.0)[1],
    "least squares": lambda j, n, t, z: n.linalg.lstsq(
        n.outer(1 + z, t[:N]) + n.eye(N), t[:N]
    )[0],
    "unwrapped": lambda j, n, t, z: n.unwrap(z, z),
    "special function": lambda j, n, t, z: j.scipy.special.expn(2, z + 1),
}  # fmt: skip
CASES = [
    *(pytest.param(f, id=k) for k, f in WHOLE.items()),
    *(pytest.param(f, id=k, marks=pytest.mark.slow) for k, f in DEAR.items()),
]


@pytest.mark.parametrize("function", CASES)
def test_a_result_is_the_mean_of_the_discrete_results(backend, jnp, function):
    table = jnp.asarray(_TABLE)

    def use(z):
        return function(backend.jax, jnp, table, z)

    results = [np.asarray(use(jnp.asarray(v))) for v in _VALUES]
    for i in (2, 7):
        corner = run(use, np.eye(K)[:, list(_VALUES[i])])
        assert corner.dtype == results[i].dtype
        assert corner.shape == results[i].shape
        assert_exact(np.asarray(corner), results[i])
    probs = [np.prod([_WEIGHTS[k, i] for i, k in enumerate(v)]) for v in _VALUES]
    mean = np.tensordot(probs, np.array(results, float), 1)
    assert_exact(np.asarray(run(use, _WEIGHTS)), mean)


def test_a_choice_between_truths_is_a_truth(jnp):
    def use(z):
        chosen = jnp.where(z > 1, jnp.array([True, False]), z < 1)
        assert chosen.dtype == bool
        return 1.0 * chosen

    assert_exact(np.asarray(run(use, np.eye(K)[:, [2, 0]])), [1.0, 1.0])


def test_values_of_probability_zero_do_not_matter(backend, jnp):
    functions = [
        lambda z, a: jnp.where(z > 0, a / z, 0.0),
        lambda z, a: jnp.where(z > 0, jnp.log(a * z), 1.0),
        lambda z, a: jnp.log(a * (z - 1)),
        lambda z, a: jnp.sqrt(a * (z - 1)),
        lambda z, a: jnp.where(z != 2, -inf, a * z),
    ]
    for function in functions:

        def value(weights, a, function=function):
            return run(lambda z: function(z, a), weights)

        corner = np.eye(3)[2]
        value_and_grad = backend.jax.value_and_grad(value, (0, 1))
        result, (weights, slope) = value_and_grad(jnp.asarray(corner), 2.0)
        expected = backend.jax.value_and_grad(lambda a: function(2.0, a))(2.0)  # noqa: B023
        assert_exact(np.asarray(result), np.asarray(expected[0]))
        assert_exact(np.asarray(slope), np.asarray(expected[1]))
        assert np.isfinite(weights).all()
    inside = run(lambda z: jnp.where(z > 0, 1 / z, 0.0), np.array([0.5, 0.25, 0.25]))
    assert_exact(np.asarray(inside), 0.25 + 0.25 / 2)


@pytest.mark.parametrize("table", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("weights", ["float64", "float32"])
def test_infinities_of_every_precision(jnp, table, weights):
    table = jnp.array([-inf, 1.0], table)
    for value in range(2):
        corner = jnp.asarray(np.eye(2)[value], weights)
        for use in (
            lambda z: table[z],
            lambda z: jnp.where(z == 0, table[0], table[1]),
        ):
            result = run(use, corner)
            assert result.dtype == table.dtype
            assert float(result) == float(table[value])
    assert np.isfinite(float(run(lambda z: table[z], jnp.array([0.5, 0.5], weights))))


def test_a_sum_of_bits_has_the_poisson_binomial_distribution(backend, jnp):
    probs = np.random.default_rng(1).uniform(0.02, 0.98, 20)
    pmf = poisson_binomial(probs)
    bits = np.stack([1 - probs, probs])
    assert_exact(np.asarray(run(lambda z: 1.0 * (z.sum(-1) > 1), bits)), pmf[2:].sum())
    powers = 0.9 ** np.arange(21)
    assert_exact(np.asarray(run(lambda z: 0.9 ** z.sum(-1), bits)), pmf @ powers)
    running = run(lambda z: 1.0 * (z.cumsum() == 1), bits)
    expected = [poisson_binomial(probs[: i + 1])[1] for i in range(20)]
    assert_exact(np.asarray(running), expected)
    jaxpr = backend.jax.make_jaxpr(lambda w: run(lambda z: 1.0 * (z.sum() > 1), w))
    assert len(jaxpr(bits).jaxpr.eqns) < 200


def test_a_sum_of_too_many_values_is_guarded(jnp):
    from numpyro_concrete.soft_index import plain

    weights = np.random.default_rng(4).dirichlet(np.ones(K), 400).T
    mean = (weights * np.arange(K)[:, None]).sum()
    assert_exact(
        np.asarray(run(lambda z: 0.5 * (2 * z.sum() - 1), weights)), mean - 0.5
    )
    assert_exact(np.asarray(run(lambda z: jnp.exp(0.01 * z.sum()), weights)),
                 np.exp(0.01 * mean))  # fmt: skip
    assert_exact(np.asarray(run(lambda z: plain(z.sum()) > 3, weights)), 1)
    for use in (
        lambda s: s == 3,
        lambda s: s // 2,
        lambda s: (0.5 * s).astype(int),
        lambda s: jnp.where(0.5 * s > 1, 1.0, 0.0),
        bool,
    ):
        with pytest.raises(TypeError, match="'z' is relaxed"):
            run(lambda z, use=use: use(z.sum()), weights)


def test_a_carried_mean_is_guarded(backend, jnp):
    weights = np.random.default_rng(5).dirichlet(np.ones(K), 9).T
    mean = (weights * np.arange(K)[:, None]).sum()
    scan = backend.jax.lax.scan

    def carried(z):
        return scan(lambda c, a: (c + a, c), 0.0, 1.0 * z)[0]

    assert_exact(np.asarray(run(carried, weights)), mean)
    above = (weights * (np.arange(K) > 1)[:, None]).sum()
    counted = run(
        lambda z: scan(lambda c, a: (c + (a > 1), c), 0.0, 1.0 * z)[0], weights
    )
    assert_exact(np.asarray(counted), above)
    for use in (
        lambda z: jnp.where(carried(z) > 2, 1.0, 0.0),
        lambda z: jnp.round(carried(z)),
        lambda z: carried(z).astype(int),
        lambda z: scan(lambda c, a: (jnp.where(c > 1, c, a), c), 0.0, 1.0 * z)[0],
        lambda z: backend.jax.lax.while_loop(
            lambda c: c[1] < 2, lambda c: (c[0] + 1, c[1] + z[c[0]]), (0, 0.0)
        )[1],
    ):
        with pytest.raises(TypeError, match="'z' is relaxed"):
            run(use, weights)


@pytest.mark.parametrize(
    "length", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 5, 8, 9))]
)
def test_associative_scans_of_any_length_run(backend, jnp, length):
    values = np.arange(length) % K
    corner = np.eye(K)[:, values]
    scanned = run(lambda z: 1.0 * backend.jax.lax.associative_scan(jnp.add, z), corner)
    assert_exact(np.asarray(scanned), values.cumsum())


# Functions of so many draws that their joint values are not kept: those that need none
# of them, and those that would have to know more than is left.
_MANY = np.random.default_rng(6).dirichlet(np.ones(K), 6).T
APART = {
    "disjoint counts": lambda j, n, z: z[:4].sum() == z[4:].sum(),
    "count by another draw": lambda j, n, z: z[:5].sum() * z[5],
    "mean of a sum": lambda j, n, z: z.sum() + z.max() - z[0],
    "earlier sums": lambda j, n, z: z.cumsum()[2] * z[5],
    "scan by associative_scan": lambda j, n, z: (
        j.lax.associative_scan(n.add, z) == n.arange(6)
    ),
    "elements of a scan": lambda j, n, z: (
        j.lax.scan(lambda c, a: (c + a, 1 + a), 0, z)[1] == z
    ),
    "carried sum": lambda j, n, z: j.lax.fori_loop(0, 6, lambda i, c: c + z[i], 0) == 4,
    "one draw in all steps": lambda j, n, z: (
        j.lax.fori_loop(0, 3, lambda i, c: c + z, 0 * z) == 3
    ),
    "one draw carried twice": lambda j, n, z: j.lax.scan(
        lambda c, a: ((a, a, c[2] + (c[0] == c[1])), None), (0, 0, 0), z
    )[0][2],
}  # fmt: skip
SHARED = {
    "count by its term": lambda j, n, z: z.sum() * z[0],
    "count and its term": lambda j, n, z: z.sum() == z[0],
    "sum of a count and its term": lambda j, n, z: z.max() + z[0] == 3,
    "running sums": lambda j, n, z: z.cumsum() * z,
    "all running sums": lambda j, n, z: (z.cumsum() > 2).sum() == 3,
    "largest": lambda j, n, z: z.max() > z[0],
    "concatenated": lambda j, n, z: n.concatenate([z * z[::-1], z])[:6] == z,
    "product of copies": lambda j, n, z: n.stack([z, z[::-1]]).prod(),
    "associative_scan": lambda j, n, z: j.lax.associative_scan(n.add, z) * z,
    "after a scan": lambda j, n, z: (
        j.lax.scan(lambda c, a: (c + a, None), 0, z)[0] * z[0]
    ),
    "after a scan of floats": lambda j, n, z: (
        j.lax.scan(lambda c, a: (c + a, None), 0.0, 1.0 * z)[0] * z[0]
    ),
    "after a loop": lambda j, n, z: (
        j.lax.fori_loop(0, 6, lambda i, c: c + z[i], 0) * z[0]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_draws_that_are_apart_stay_exact(backend, jnp, name):
    def use(z):
        return 1.0 * APART[name](backend.jax, jnp, z)

    values = jnp.array([*itertools.product(range(K), repeat=6)])
    results = np.asarray(backend.jax.vmap(use)(values))
    probs = np.take_along_axis(_MANY[None], np.asarray(values)[:, None], 1).prod((1, 2))
    assert_exact(np.asarray(run(use, _MANY)), np.tensordot(probs, results, 1))


@pytest.mark.parametrize("name", SHARED)
def test_merged_values_remember_their_draws(backend, jnp, name):
    with pytest.raises(TypeError, match="'z' is relaxed"):
        run(lambda z: 1.0 * SHARED[name](backend.jax, jnp, z), _MANY)


def test_a_sum_too_large_for_its_values_remembers_its_draws(jnp):
    weights = np.random.default_rng(7).dirichlet(np.ones(K), 400).T
    means = (weights * np.arange(K)[:, None]).sum(0)
    product = run(lambda z: 1.0 * z[:399].sum() * z[399], weights)
    assert_exact(np.asarray(product), means[:399].sum() * means[399])
    for use in (lambda z: z.sum() * z[0], lambda z: 1.0 * z.sum() * z[0]):
        with pytest.raises(TypeError, match=r"'z' is relaxed.*the same draw"):
            run(use, weights)


def test_printing_never_fails(jnp):
    texts = []
    run(lambda z: texts.append(f"{z} {z!r} {z:.2f} {1.0 * z} {z.sum()}"), _WEIGHTS)
    assert "SoftIndex(site='z', shape=(2,)" in texts[0]


# --- in models ------------------------------------------------------------------------


def test_soft_values_are_observed_and_scored_by_every_value(backend, jnp):
    dist, numpyro = backend.dist, backend.numpyro
    data = jnp.array([0, 1])

    def model():
        z = backend.site("z", dist.Bernoulli(logits=jnp.zeros(2)))
        backend.site("x", dist.Bernoulli(logits=0.7), obs=z)
        scores = dist.Bernoulli(logits=0.3).log_prob(z)
        numpyro.factor("factor", scores.sum())
        numpyro.factor("imputed", jnp.where(data != z, -jnp.inf, scores).sum())

    def log_prob(value, logit):
        return -np.log1p(np.exp(-logit if value else logit))

    relaxed = backend.package.relax(model, 0.5)
    p = np.array([0.3, 0.9])
    logits = {"z_relaxed": jnp.log(p / (1 - p))}
    with numpyro.validation_enabled():
        scores = backend.log_prob(relaxed, values=logits)
        corner = backend.log_prob(relaxed, values={"z_relaxed": jnp.array([-1e4, 1e4])})
    expected = p * log_prob(1, 0.7) + (1 - p) * log_prob(0, 0.7)
    assert_exact(np.asarray(scores["x"]).sum(), expected.sum())
    expected = p * log_prob(1, 0.3) + (1 - p) * log_prob(0, 0.3)
    assert_exact(np.asarray(scores["factor"]), expected.sum())
    assert np.isfinite(scores["imputed"])
    assert_exact(np.asarray(corner["imputed"]), log_prob(0, 0.3) + log_prob(1, 0.3))


def epidemic(backend, length, as_scan, susceptible=10):
    """A chain of susceptible and infected people, with latent Binomial counts."""
    from numpyro.contrib.control_flow import scan

    dist, param = backend.dist, backend.numpyro.param
    people = susceptible + 1
    data = backend.jnp.asarray(np.random.default_rng(0).normal(size=length) + 3)
    first = susceptible, 1

    def step(contacts, state, t, y):
        susceptible, infected = state
        rate = 1 - backend.jnp.exp(-contacts * infected / people)
        new = backend.site(f"new{t}", dist.Binomial(susceptible, rate))
        recovered = backend.site(f"recovered{t}", dist.Binomial(infected, 0.4))
        infected = infected + new - recovered
        backend.site(f"y{t}", dist.Normal(1.0 * infected, 1.0), obs=y)
        return susceptible - new, infected

    def model():
        contacts = param("contacts", 0.8, constraint=dist.constraints.positive)
        if as_scan:
            return scan(lambda s, y: (step(contacts, s, "", y), None), first, data)[0]
        state = first
        for t in range(length):
            state = step(contacts, state, f"_{t}", data[t])
        return state

    return model


@pytest.mark.parametrize(
    ("as_scan", "length", "susceptible"),
    [
        (False, 2, 3),
        pytest.param(False, 10, 10, marks=pytest.mark.slow),
        pytest.param(True, 10, 10, marks=pytest.mark.slow),
    ],
)
def test_an_epidemic_is_exact_at_a_corner(backend, jnp, as_scan, length, susceptible):
    jax, handlers = backend.jax, backend.numpyro.handlers
    model = epidemic(backend, length, as_scan, susceptible)
    relaxed = backend.package.relax(model, 0.5)
    discrete = backend.trace(model)
    sites = [k for k in discrete if k.startswith(("new", "recovered"))]
    shapes = {}

    def traced(values):
        program = handlers.condition(handlers.seed(relaxed, 0), values)
        trace = handlers.trace(program).get_trace()
        shapes.update({k: trace[k + "_relaxed"]["value"].shape for k in sites})
        scores = {
            k: v["fn"].log_prob(v["value"])
            for k, v in trace.items()
            if k.startswith("y")
        }
        logits = {k: trace[k + "_relaxed"]["fn"].logits for k in sites}
        return scores, logits

    jax.eval_shape(lambda: traced({}))
    drawn = {k: np.asarray(discrete[k]["value"]) for k in sites}
    one_hot = {k: drawn[k][..., None] == np.arange(shapes[k][-1]) for k in sites}
    values = {f"{k}_relaxed": jnp.where(x, 0.0, -1e4) for k, x in one_hot.items()}
    scores, logits = jax.jit(traced)(values)
    for k, score in scores.items():
        site = discrete[k]
        assert_exact(np.asarray(score), np.asarray(site["fn"].log_prob(site["value"])))
    for k in sites:
        site = discrete[k]
        expected = np.asarray(site["fn"].log_prob(site["value"]))
        found = np.asarray(jax.nn.log_softmax(logits[k]))[one_hot[k]]
        assert_exact(found, expected.reshape(-1))


@pytest.mark.slow
def test_an_epidemic_trains(backend, jnp):
    model = epidemic(backend, 10, True)
    relaxed = backend.package.relax(model, 0.5)
    guide = backend.package.AutoConcrete(relaxed)
    numpyro = backend.numpyro
    svi = numpyro.infer.SVI(
        relaxed, guide, numpyro.optim.Adam(0.02), numpyro.infer.Trace_ELBO()
    )
    key = backend.jax.random.key(0)
    start = svi.get_params(svi.init(key))
    result = svi.run(key, 200, progress_bar=False)
    assert np.isfinite(result.losses).all()
    # On the same draws: a loss of one draw is too noisy to compare.
    elbo = numpyro.infer.Trace_ELBO(num_particles=200)
    before, after = (
        elbo.loss(key, params, relaxed, guide) for params in (start, result.params)
    )
    assert after < before


@pytest.mark.parametrize(
    "function",
    [
        lambda j, n, z: z * 1.0,
        lambda j, n, z: n.where(z == 1, 1.0, 2.0),
        lambda j, n, z: n.maximum(-(z / 2.0), -0.75),
        lambda j, n, z: j.jit(lambda a: a * 2.0)(z),
        lambda j, n, z: n.sqrt(z),
    ],
)
def test_what_other_operands_decide_the_type_of_stays_so(backend, jnp, function):
    def of_a_half(z):
        return function(backend.jax, jnp, z) * jnp.ones(N, "bfloat16")

    result = run(of_a_half, np.eye(K)[[1, 2]].T)
    expected = of_a_half(jnp.array([1, 2]))
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(
        np.asarray(result, "float32"), np.asarray(expected, "float32")
    )


# Products of matrices of truths are truths: whether any term is true.
OF_TRUTHS = {
    "inner": lambda n, z: z @ (z == 0),
    "with data": lambda n, z: z @ n.array([True, True]),
    "data with it": lambda n, z: n.array([[True, False], [True, True]]) @ z,
    "outer": lambda n, z: n.outer(z, ~z),
    "batched": lambda n, z: n.einsum("ni,ni->n", n.stack([z, ~z]), n.stack([z, z])),
    "counted": lambda n, z: n.dot(z, n.ones(N, int)),
}


@pytest.mark.parametrize("function", OF_TRUTHS.values(), ids=OF_TRUTHS)
def test_products_of_truths_are_truths(jnp, function):
    def of_sites(z):
        return 1.0 * function(jnp, z > 0)

    expected = sum(
        np.prod([_WEIGHTS[value, i] for i, value in enumerate(values)])
        * np.asarray(of_sites(jnp.array(values)))
        for values in _VALUES
    )
    assert_exact(run(of_sites, _WEIGHTS), expected)


def _with_a_slope(j, z):
    @j.custom_jvp
    def scaled(x):
        return x * z

    scaled.defjvp(lambda primals, tangents: (scaled(*primals), 2 * tangents[0]))
    return scaled


def _with_a_gradient(j, z):
    @j.custom_vjp
    def selected(x):
        return j.numpy.where(z == 1, x, -x)

    selected.defvjp(lambda x: (selected(x), None), lambda _, slope: (slope,))
    return selected


def _with_an_index(j, z):
    @functools.partial(j.custom_jvp, nondiff_argnums=(0,))
    def power(n, x):
        return x**n

    power.defjvp(lambda n, primals, tangents: (power(n, *primals), tangents[0]))
    return functools.partial(power, z)


@pytest.mark.parametrize("make", [_with_a_slope, _with_a_gradient, _with_an_index])
@pytest.mark.parametrize("jit", [False, True])
def test_functions_with_derivatives_close_over_soft_values(backend, jnp, make, jit):
    def of_sites(z):
        return make(backend.jax, z)(jnp.array([2.0, 3.0]))

    expected = sum(
        np.prod([_WEIGHTS[value, i] for i, value in enumerate(values)])
        * np.asarray(of_sites(jnp.array(values)))
        for values in _VALUES
    )

    def at(weights):
        return run(of_sites, weights)

    assert_exact((backend.jax.jit(at) if jit else at)(jnp.array(_WEIGHTS)), expected)
