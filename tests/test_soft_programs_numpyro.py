"""Relaxed programs of NumPyro as a whole: loops, branches, jit, counts and masks.

The expected value is always the discrete program's, or the mean by hand.
"""

import numpy as np
import pytest
from asserts import assert_exact, assert_finite
from backends import get_backend

T = 0.5
_TABLE = np.random.default_rng(0).normal(size=(3, 3))
_SHARES = np.random.default_rng(1).dirichlet([1, 2, 3], 3)


@pytest.fixture
def backend():
    return get_backend("numpyro")


def _chain(backend, length=5):
    """A chain by scan, its table of moves, and what is seen of each state."""
    from numpyro.contrib.control_flow import scan

    rng = np.random.default_rng(2)
    moves = backend.array(rng.dirichlet([1, 2, 1], 3))
    locs = backend.array([-1.0, 0.5, 2.0])
    data = backend.array(rng.normal(size=length))

    def model():
        def step(z, y):
            z = backend.site("z", backend.dist.Categorical(moves[z]))
            backend.site("y", backend.dist.Normal(locs[z], 1.0), obs=y)
            return z, z

        last, states = scan(step, 0, data)
        backend.deterministic("seen", locs[states])
        return locs[last]

    return model, locs


def test_a_scan_carries_soft_integers_and_returns_them(backend):
    model, locs = _chain(backend)
    relaxed = backend.package.relax(model, T)
    sites = backend.trace(relaxed)
    point = np.exp(backend.numpy(sites["z_relaxed"]["value"]))
    assert point.shape == (5, 3)
    assert_exact(backend.numpy(sites["seen"]["value"]), point @ backend.numpy(locs))
    last = backend.numpy(backend.call(relaxed))
    assert_exact(last, point[-1] @ backend.numpy(locs))
    probs = backend.numpy(sites["z_relaxed"]["fn"].probs)
    assert probs.shape == (5, 3)


def test_a_relaxed_scan_has_a_gradient(backend):
    model, _ = _chain(backend)

    def guide():
        logits = backend.param("logits", backend.array(np.zeros((5, 3))))

        def step(carry, a):
            backend.site("z", backend.dist.Categorical(logits=a))
            return carry, None

        from numpyro.contrib.control_flow import scan

        scan(step, 0.0, logits)

    start = {"logits": backend.array(np.random.default_rng(3).normal(size=(5, 3)))}
    relax = backend.package.relax
    programs = relax(model, T), relax(guide, T)
    gradient = backend.loss_grad("TraceMeanField", *programs, params=start)["logits"]
    assert_finite(gradient)
    assert (np.abs(gradient).max(-1) > 1e-6).all()
    hard = backend.package.harden(programs[1])
    assert set(np.unique(backend.trace(hard)["z"]["value"])) <= {0, 1, 2}
    assert_finite(backend.loss("Trace", model, hard, params=start))


def test_a_hardened_scan_is_the_discrete_program(backend):
    model, _ = _chain(backend)
    hard = backend.trace(backend.package.harden(backend.package.relax(model, T)))
    assert "z_relaxed" not in hard
    z = backend.numpy(hard["z"]["value"])
    assert z.shape == (5,)
    assert_exact(backend.numpy(hard["seen"]["value"]), np.array([-1, 0.5, 2])[z])


def test_branches_of_cond_take_soft_operands(backend):
    from numpyro.contrib.control_flow import cond

    def program(flag):
        z = backend.site("z", backend.dist.Categorical(probs=backend.array([0.2, 0.8])))
        z = cond(flag, lambda z: 1 - z, lambda z: z, z)
        return backend.array([3.0, 5.0])[z]

    relaxed = backend.package.relax(program, T)
    up, down = (backend.numpy(backend.call(relaxed, flag)) for flag in (True, False))
    assert_exact(up + down, 8.0)


def test_a_program_scores_a_distribution_itself_under_jit(backend):
    # The host validates what it knows, and reads the verdict as a truth value.
    data = backend.array([0.5, 1.0, 2.0])

    def program():
        z = backend.site("z", backend.dist.Bernoulli(0.4))
        likelihood = backend.dist.Exponential(1.0 + z)
        backend.numpyro.factor("seen", likelihood.log_prob(data).sum())

    relaxed = backend.package.relax(program, T)
    score = backend.jax.jit(lambda y: backend.log_prob(relaxed, values=y)["seen"])
    p = 1 / (1 + np.exp(-0.3))
    expected = p * (3 * np.log(2) - 2 * 3.5) - (1 - p) * 3.5
    found = score({"z_relaxed": backend.array(0.3)})
    assert_exact(backend.numpy(found), expected)


def test_soft_counts_and_masks_score_by_every_value(backend):
    dist, log = backend.dist, np.log

    def program():
        n = backend.site("n", dist.Categorical(probs=backend.array([0.2, 0.3, 0.5])))
        backend.site("k", dist.Binomial(n + 1, 0.4), obs=backend.array(1, "int64"))
        with backend.mask(n == 2):
            backend.site("y", dist.Normal(0.0, 1.0), obs=backend.array(0.0))

    p = np.array([0.2, 0.7, 0.1])
    relaxed = backend.package.relax(program, T)
    scores = backend.log_prob(relaxed, values={"n_relaxed": backend.array(log(p))})
    terms = [0.4, 2 * 0.4 * 0.6, 3 * 0.4 * 0.6**2]
    assert_exact(backend.numpy(scores["k"]), (p * log(terms)).sum())
    assert_exact(backend.numpy(scores["y"]), -0.5 * p[2] * log(2 * np.pi))


def test_an_integer_without_a_constraint_is_scored_by_every_value(backend):
    table = backend.array([-1.0, 0.5, 2.0])

    class Indexed(backend.dist.Distribution):
        support = backend.dist.constraints.real

        def __init__(self, index):
            self.index = index
            super().__init__(index.shape)

        def sample(self, key, sample_shape=()):
            return backend.jax.random.normal(key, sample_shape + self.batch_shape)

        def log_prob(self, value):
            return -((value - table[self.index]) ** 2)

    def program():
        z = backend.site("z", backend.dist.Categorical(backend.array([0.2, 0.3, 0.5])))
        backend.site("y", Indexed(z), obs=backend.array(1.0))

    p = np.array([0.2, 0.7, 0.1])
    relaxed = backend.package.relax(program, T)
    scores = backend.log_prob(relaxed, values={"z_relaxed": backend.array(np.log(p))})
    assert_exact(backend.numpy(scores["y"]), -p @ np.array([4.0, 0.25, 1.0]))


def test_a_count_of_a_relaxed_count_is_relaxed_too(backend):
    dist = backend.dist

    def program():
        n = backend.site("n", dist.Binomial(3, backend.array(0.6)))
        m = backend.site("m", dist.Binomial(n, backend.array(0.5)))
        backend.site("y", dist.Normal(m, 1.0), obs=backend.array(1.0))

    relaxed = backend.package.relax(program, T)
    hard = {"n_relaxed": backend.array([-1e4, -1e4, 0.0, -1e4])}
    program = backend.condition(relaxed, hard)

    def probs():
        return backend.trace(program)["m_relaxed"]["fn"].probs

    for function in (probs, backend.jax.jit(probs)):
        assert_exact(backend.numpy(function()), np.array([0.25, 0.5, 0.25, 0.0]))


def test_constants_are_truncated_by_mass_under_jit(backend):
    def program(rate):
        with backend.plate("rows", 2):
            backend.site("n", backend.dist.Geometric(rate))

    relaxed = backend.package.relax(program, T, truncate=0.01)
    sites = backend.inspect(relaxed, 0.5)
    assert sites["n_relaxed"]["value"].shape == (2, 7)  # 0.5 ** 7 < 0.01
    with pytest.raises(ValueError, match=r"'n'.*only at run time"):
        backend.jax.jit(lambda rate: backend.trace(relaxed, rate)["n"]["value"])(0.5)


def test_empty_plates_run(backend):
    def program(n):
        with backend.plate("rows", n, dim=-1):
            z = backend.site("z", backend.dist.Categorical(backend.array([0.2, 0.8])))
            loc = backend.array([1.0, 2.0])[z] + (z == 1)
            return backend.site("y", backend.dist.Normal(loc, 1.0))

    def empty():
        z = backend.site("z", backend.dist.Categorical(backend.array(np.ones((0, 2)))))
        return backend.array([1.0, 2.0])[z]

    assert backend.call(backend.package.relax(empty, T)).shape == (0,)
    assert backend.call(backend.package.relax(lambda: program(3), T)).shape == (3,)


def test_a_second_run_without_jit_compiles_nothing(backend):
    from jax import monitoring

    def program():
        with backend.plate("rows", 6, dim=-1):
            z = backend.site("z", backend.dist.Categorical(backend.array(_SHARES[0])))
            u = backend.site("u", backend.dist.Categorical(backend.array(_SHARES)[z]))
            loc = backend.array(_TABLE)[z, u] + backend.jnp.where(z == 1, 1.0, 2.0)
            return backend.site("y", backend.dist.Normal(loc, 1.0 + z * u))

    relaxed = backend.package.relax(program, T)
    backend.call(relaxed)
    compiled = []

    def count(event, duration, **_):
        if "backend_compile" in event:
            compiled.append(event)

    monitoring.register_event_duration_secs_listener(count)
    try:
        backend.call(relaxed)
    finally:
        monitoring.clear_event_listeners()
    assert not compiled


def test_constants_of_a_relaxed_program_may_be_read(backend):
    def program():
        data = backend.array([0, 2, 1], "int64")
        size = int(data.max()) + 1
        z = backend.site(
            "z", backend.dist.Categorical(backend.array(np.ones(size) / 3))
        )
        return backend.jnp.zeros(size)[z] if data.sum() > 0 else z

    assert backend.call(backend.package.relax(program, T)).shape == ()


@pytest.mark.parametrize("known", [True, False], ids=["known", "traced"])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_table_is_read_once_along_axes_where_an_index_repeats(backend, known, shift):
    """Items by workers: what is read has an axis for either, not for every pair."""
    import jax

    rng = np.random.default_rng(4)
    items, workers, classes = 11, 7, 3
    table = rng.normal(size=(9, classes, 4))
    who = rng.integers(0, 9 - shift, workers)
    logits = rng.normal(size=(items, classes))

    def run(who):
        def model():
            with backend.plate("items", items, dim=-2):
                shares = backend.array(logits[:, None])
                z = backend.site("z", backend.dist.Categorical(logits=shares))
                backend.deterministic("x", backend.array(table)[who + shift, z])

        sites = backend.trace(backend.package.relax(model, T))
        return sites["x"]["value"], sites["z_relaxed"]["value"]

    given = [] if known else [jax.numpy.asarray(who)]
    function = (lambda: run(who)) if known else run
    jaxpr = jax.make_jaxpr(function)(*given)
    sizes = [x.aval.size for x in _outputs(jaxpr.jaxpr, "gather")]
    assert max(sizes) == classes * workers * 4
    value, point = map(backend.numpy, function(*given))
    weights = np.exp(point[:, 0])
    assert_exact(value, np.einsum("ik,jkc->ijc", weights, table[who + shift]))


@pytest.mark.parametrize("axis", [0, -1])
def test_soft_values_join_arrays_that_repeat_under_jit(backend, axis):
    """As they would without the knowledge of what repeats, which lookups use."""
    jnp = backend.jnp
    table, size = np.array([1.0, -2.0, 5.0]), 4

    def run(k):
        def model():
            shares = backend.array(_SHARES[0])
            with backend.plate("rows", size, dim=-1):
                z = backend.site("z", backend.dist.Categorical(shares))
            z = jnp.broadcast_to(z, (2, size))
            joined = jnp.concatenate([jnp.broadcast_to(k, (2, size)), z], axis)
            backend.deterministic("looked up", backend.array(table)[joined])
            backend.deterministic("mean", 1.0 * joined)
            backend.deterministic("sum", 1.0 * joined[:2, 0].sum())

        sites = backend.trace(backend.package.relax(model, T))
        names = ("looked up", "mean", "sum", "z_relaxed")
        return [sites[name]["value"] for name in names]

    found = map(backend.numpy, backend.jax.jit(run)(2))
    looked_up, mean, total, point = found
    probs = np.exp(point)
    for value, of in ((looked_up, table), (mean, np.arange(3.0))):
        parts = np.full((2, size), of[2]), np.broadcast_to(probs @ of, (2, size))
        assert_exact(value, np.concatenate(parts, axis))
    assert_exact(total, 4.0)


def _outputs(jaxpr, name):
    import jax

    for eqn in jaxpr.eqns:
        if eqn.primitive.name == name:
            yield from eqn.outvars
        for inner in jax.tree.leaves(list(eqn.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _outputs(inner, name)


def test_pairs_that_are_selected_by_known_indices_stay_apart_under_jit(backend):
    """As in a model of a network: thirty nodes, and all pairs of them."""
    rows, columns = np.triu_indices(30, 1)
    probs = np.random.default_rng(3).dirichlet(np.ones(3), 30)

    def model(within):
        with backend.plate("nodes", 30):
            fn = backend.dist.Categorical(backend.array(probs))
            z = backend.site("z", fn)
        same = backend.jnp.where(z[rows] == z[columns], within, 0.0)
        return backend.deterministic("same", same)

    relaxed = backend.package.relax(model)
    values = {"z_relaxed": backend.array(np.log(probs))}

    def run(within):
        conditioned = backend.numpyro.handlers.substitute(relaxed, data=values)
        return backend.trace(conditioned, within)["same"]["value"]

    found = backend.numpy(backend.jax.jit(run)(2.0))
    assert np.allclose(found, 2 * (probs[rows] * probs[columns]).sum(-1), rtol=1e-5)
