"""What only NumPyro and JAX have: pytrees, jit, vmap, scan, batching, MCMC."""

import copy
import pickle

import numpy as np
import pytest
from asserts import assert_exact, assert_finite
from backends import get_backend
from cases import all_cases
from programs import DATA, two_layers
from scipy import special, stats

T = 0.5


@pytest.fixture
def backend():
    return get_backend("numpyro")


def build(backend, case, temperature=T):
    family = getattr(backend.distributions, case.name)
    return family(temperature, logits=backend.array(case.array))


@all_cases
def test_has_rsample(backend, case):
    d = build(backend, case)
    assert d.has_rsample
    assert d.to_event(1).has_rsample
    assert d.expand((3, 2)).has_rsample


@all_cases
def test_pytree_and_pickle_round_trips(backend, case):
    d, tree = build(backend, case), backend.jax.tree
    leaves, structure = tree.flatten(d)
    value = backend.array(case.interior())
    expected = backend.numpy(d.log_prob(value))
    again = [tree.unflatten(structure, leaves), copy.deepcopy(d)]
    again.append(pickle.loads(pickle.dumps(d)))
    for other in again:
        assert (other.batch_shape, other.event_shape) == (d.batch_shape, d.event_shape)
        assert_exact(backend.numpy(other.log_prob(value)), expected)


@all_cases
def test_jit_equals_eager_and_compiles_once(backend, case):
    traced = []

    @backend.jax.jit
    def score(d, value):
        traced.append(1)
        return d.log_prob(value)

    value = backend.array(case.interior())
    for temperature in (0.5, 0.7, 1.3):
        d = build(backend, case, temperature)
        assert_exact(backend.numpy(score(d, value)), backend.numpy(d.log_prob(value)))
    assert len(traced) == 1


@all_cases
@pytest.mark.parametrize("mapped", ["temperature", "logits", "both"])
def test_vmap_over_parameters(backend, case, mapped):
    jnp = backend.jnp
    t, logits = (
        jnp.array([0.3, 0.7, 1.1]),
        jnp.stack([case.array + i for i in range(3)]),
    )
    axes = {"temperature": (0, None), "logits": (None, 0), "both": (0, 0)}[mapped]
    pairs = zip((t, logits), axes, strict=True)
    args = [x if axis == 0 else x[0] for x, axis in pairs]
    value = backend.array(case.interior())
    family = getattr(backend.distributions, case.name)

    def score(t, logits):
        return family(t, logits=logits).log_prob(value)

    actual = backend.jax.vmap(score, in_axes=axes)(*args)
    for i in range(3):
        row = [x[i] if axis == 0 else x for x, axis in zip(args, axes, strict=True)]
        assert_exact(backend.numpy(actual[i]), backend.numpy(score(*row)))


@all_cases
def test_vmap_over_the_distribution_itself(backend, case):
    from numpyro.distributions.batch_util import promote_batch_shape, vmap_over

    jax, jnp = backend.jax, backend.jnp
    family = getattr(backend.distributions, case.name)
    logits = jnp.stack([case.array + i for i in range(3)])
    axes = vmap_over(family(T, logits=logits[0]), temperature=None, logits=0)
    make = jax.vmap(lambda x: family(jnp.array(T), logits=x), out_axes=axes)
    d = promote_batch_shape(make(logits))
    assert d.batch_shape == (3, 2)
    value = backend.array(case.interior())
    expected = family(T, logits=logits).log_prob(value[:, None])
    assert_exact(backend.numpy(d.log_prob(value[:, None])), backend.numpy(expected))


@all_cases
def test_scan_over_samples(backend, case):
    jax = backend.jax

    def step(key, _):
        key, subkey = jax.random.split(key)
        value, intermediates = build(backend, case).sample_with_intermediates(subkey)
        return key, build(backend, case).log_prob(value, intermediates)

    _, scores = jax.lax.scan(step, jax.random.key(0), length=4)
    assert scores.shape == (4, 2)
    assert_finite(scores)


def test_scanned_sites_of_the_family_have_time_first(backend):
    from numpyro.contrib.control_flow import scan

    def program():
        def step(carry, _):
            family = backend.package.ExpConcrete
            with backend.plate("rows", 5, dim=-1):
                y = backend.site("y", family(T, logits=backend.array(np.zeros(3))))
            return carry, y

        scan(step, 0.0, None, length=4)

    site = backend.trace(program)["y"]
    assert site["value"].shape == (4, 5, 3)
    assert site["fn"].batch_shape == (4, 5)
    assert site["fn"].log_prob(site["value"]).shape == (4, 5)


def test_svi_does_not_compile_twice(backend):
    model, guide = two_layers(backend)
    calls = []

    def counted(data):
        calls.append(1)
        model(data)

    relax, numpyro = backend.package.relax, backend.numpyro
    svi = numpyro.infer.SVI(
        relax(counted, T),
        relax(guide, T),
        numpyro.optim.Adam(0.1),
        backend.elbo("Trace"),
    )
    data = backend.array(DATA)
    state = svi.init(backend.jax.random.key(0), data)
    update = backend.jax.jit(svi.update)
    state, _ = update(state, data)
    before = len(calls)
    for _ in range(3):
        state, _ = update(state, data)
    assert len(calls) == before


@pytest.mark.parametrize(
    "name",
    [
        "AutoDelta",
        # These compile for long.
        pytest.param("AutoNormal", marks=pytest.mark.slow),
        pytest.param("AutoLowRankMultivariateNormal", marks=pytest.mark.slow),
        pytest.param("AutoIAFNormal", marks=pytest.mark.slow),
        pytest.param("AutoBNAFNormal", marks=pytest.mark.slow),
    ],
)
def test_autoguides_accept_relaxed_sites(backend, name):
    model, _ = two_layers(backend)
    relaxed = backend.package.relax(model, T, scoring="concrete")
    guide = getattr(backend.numpyro.infer.autoguide, name)(relaxed)
    losses, _ = backend.train("Trace", relaxed, guide, backend.array(DATA), steps=5)
    assert_finite(losses)


@pytest.mark.statistical
def test_draws_of_the_posterior_are_of_the_discrete_model(backend):
    dist, weights = backend.dist, np.array([0.2, 0.3, 0.5])

    def model():
        backend.site("n", dist.Binomial(2, backend.array(0.3)))
        with backend.plate("rows", 4):
            backend.site("z", dist.Categorical(backend.array(weights)))

    guide = backend.package.AutoConcrete(backend.package.relax(model, T))
    params = backend.initial_params(guide)
    draws = guide.sample_posterior(
        backend.jax.random.key(0), params, sample_shape=(2000,)
    )
    assert {k: v.shape for k, v in draws.items()} == {"n": (2000,), "z": (2000, 4)}
    for name, expected in (("n", [0.49, 0.42, 0.09]), ("z", weights)):
        values = np.asarray(draws[name]).reshape(-1, 1)
        found, expected = (values == np.arange(3)).mean(0), np.array(expected)
        error = np.sqrt(expected * (1 - expected) / len(values))
        assert (np.abs(found - expected) < 5 * error).all()


def test_nuts_runs_on_a_relaxed_model(backend):
    model, _ = two_layers(backend)
    infer = backend.numpyro.infer
    kernel = infer.NUTS(backend.package.relax(model, T, scoring="concrete"))
    mcmc = infer.MCMC(kernel, num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.run(backend.jax.random.key(0), backend.array(DATA))
    samples = mcmc.get_samples()["c_relaxed"]
    assert samples.shape == (5, 8, 3)
    assert_exact(np.exp(samples).sum(-1), np.ones((5, 8)))


def gaussian_and_bits(backend):
    """A model with a continuous site beside relaxed ones, scored by masses."""
    numpyro, dist = backend.numpyro, backend.dist

    def model():
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        c = numpyro.sample("c", dist.Categorical(backend.array([0.2, 0.3, 0.5])))
        numpyro.sample("x", dist.Normal(loc + z + c, 1.0), obs=1.5)

    return backend.package.relax(model)


def test_a_sampler_that_needs_a_density_says_so(backend):
    kernel = backend.numpyro.infer.NUTS(gaussian_and_bits(backend))
    mcmc = backend.numpyro.infer.MCMC(
        kernel, num_warmup=2, num_samples=2, progress_bar=False
    )
    with pytest.raises(ValueError, match=r"'z_relaxed' has no density.*concrete"):
        mcmc.run(backend.jax.random.key(0))


@pytest.mark.parametrize("name", ["AutoNormal", "AutoDelta", "AutoMultivariateNormal"])
def test_guides_that_need_a_density_say_so(backend, name):
    handlers, auto = backend.numpyro.handlers, backend.numpyro.infer.autoguide
    relaxed = gaussian_and_bits(backend)
    guide = getattr(auto, name)(relaxed)
    with pytest.raises(ValueError, match=r"'z_relaxed' has no density.*AutoConcrete"):
        handlers.seed(guide, 0)()
    # A guide of the other sites alone does not move the relaxed ones.
    hidden = ["z", "z_relaxed", "c", "c_relaxed"]
    guide = getattr(auto, name)(handlers.block(relaxed, hide=hidden))
    assert "loc" in handlers.trace(handlers.seed(guide, 0)).get_trace()


def test_one_hot_categorical_against_categorical(backend):
    logits = backend.array(np.random.default_rng(0).normal(size=(4, 3)))
    d, host = backend.one_hot(logits), backend.dist.Categorical(logits=logits)
    index = host.enumerate_support()
    values = d.enumerate_support()
    assert values.shape == (3, 4, 3)
    assert (values.argmax(-1) == index).all()
    assert_exact(backend.numpy(d.log_prob(values)), backend.numpy(host.log_prob(index)))
    assert_exact(backend.numpy(d.entropy()), backend.numpy(host.entropy()))
    assert_exact(backend.numpy(d.mean), backend.numpy(host.probs))
    assert d.expand((2, 4)).enumerate_support(False).shape == (3, 1, 1, 3)
    sample = d.sample(backend.jax.random.key(0), (100,))
    assert (sample.sum(-1) == 1).all()
    assert set(np.unique(sample)) == {0, 1}
    other = backend.one_hot(0 * logits)
    p = np.asarray(host.probs)
    expected = (p * np.log(p * 3)).sum(-1)
    assert_exact(backend.numpy(backend.kl(d, other)), expected)


def test_continuous_sites_inside_of_scan_run(backend):
    from numpyro.contrib.control_flow import scan

    def program():
        slope = backend.site("slope", backend.dist.Normal(0.0, 1.0))
        backend.site("z", backend.one_hot(backend.array(np.zeros(3))))

        def step(x, _):
            x = backend.site("x", backend.dist.Normal(slope * x, 1.0))
            return x, x

        return scan(step, 0.0, None, length=4)[1]

    assert backend.call(backend.package.relax(program, T)).shape == (4,)


def test_functions_of_jax_refuse_a_reparameterized_bit(backend):
    # handlers.reparam runs no interpreter: operators work, functions refuse.
    config = {"z": backend.package.ConcreteReparam(T)}
    jnp = backend.jnp

    def run(use):
        def program():
            fn = backend.dist.Bernoulli(logits=jnp.zeros(3)).to_event(1)
            return use(backend.site("z", fn))

        return backend.call(backend.reparam(program, config))

    for use in (lambda z: jnp.where(z, 1.0, 2.0), jnp.exp, lambda z: jnp.ones(2)[z]):
        with pytest.raises((TypeError, IndexError), match="SoftIndex"):
            run(use)
    number = run(lambda z: 1.0 * z)
    assert ((number > 0) & (number < 1)).all()
    shaped = run(lambda z: (z.reshape((3, 1)).sum(0) - z[1] * z[2]) / 2)
    expected = (number.sum() - number[1] * number[2]) / 2
    assert_exact(backend.numpy(shaped), backend.numpy(expected)[None])


def test_errors_leave_the_trace_as_it_was(backend):
    def program():
        z = backend.site("z", backend.dist.Bernoulli(0.5))
        return 1 if z == 1 else 0

    with pytest.raises(TypeError, match="'z' is relaxed"):
        backend.call(backend.package.relax(program, T))
    assert float(backend.jnp.ones(()) + 1) == 2.0


def test_a_value_of_numpy_is_looked_up_like_one_of_jax(backend):
    def program():
        locs = backend.site("locs", backend.dist.Normal(0.0, 1.0).expand([2]))
        z = backend.site("z", backend.dist.Bernoulli(0.5))
        return z, locs[z]

    given = {"locs": np.array([1.0, 3.0])}
    program = backend.condition(program, given)
    z, loc = backend.call(backend.package.relax(program, T))
    assert_exact(backend.numpy(loc), 1 + 2 * backend.numpy(1.0 * z))


def test_jitted_functions_see_the_number(backend):
    jax, jnp = backend.jax, backend.jnp

    def program():
        fn = backend.dist.Bernoulli(logits=jnp.zeros(3)).to_event(1)
        z = backend.site("z", fn)
        picked = jnp.where(jnp.arange(3) > 0, z, 0)
        both = jnp.concatenate([picked, 1 - z])
        return z, jax.jit(jnp.tanh)(both @ jnp.ones(6)), jax.nn.softplus(both.sum())

    z, tanh, softplus = backend.call(backend.package.relax(program, T))
    total = z[1:].sum() + (1 - z).sum()
    assert_exact(backend.numpy(tanh), np.tanh(total))
    # The sum is 3 - z[0], and the mean is that of the function.
    first = float(z[0])
    exact = first * np.log1p(np.exp(2)) + (1 - first) * np.log1p(np.exp(3))
    assert_exact(backend.numpy(softplus), exact)


def test_known_probabilities_are_checked_in_a_relaxed_program_under_jit(backend):
    """There they are constants that JAX's functions would trace."""

    def score(first):
        def program():
            probs = backend.jnp.array([first, 0.8])
            fn = backend.package.OneHotCategorical(probs=probs, validate_args=True)
            return backend.site("z", fn)

        return lambda: backend.call(backend.package.relax(program, T)).sum()

    assert_exact(backend.numpy(backend.jax.jit(score(0.2))()), 1.0)
    with pytest.raises(ValueError, match="outside"):
        backend.jax.jit(score(-0.2))()


def test_a_subsampled_plate_that_is_hidden_from_the_guide_is_an_error(backend):
    def model():
        with backend.plate("rows", 8, subsample_size=3):
            backend.site("z", backend.dist.Bernoulli(0.5))

    relaxed = backend.package.relax(model, T)
    shown = backend.numpyro.handlers.block(relaxed, expose=["z_relaxed"])
    guide = backend.package.AutoConcrete(shown)
    with pytest.raises(ValueError, match="plate 'rows' is hidden"):
        backend.initial_params(guide)


def test_a_reference_at_log_odds_of_zero_is_refused(backend):
    # NumPyro's gradient is wrong there: see test_host_defects.py.
    start = backend.array([0.5, 0.0])

    def guide():
        fn = backend.dist.Bernoulli(logits=backend.param("a", start)).to_event(1)
        backend.site("z", fn)

    with pytest.raises(ValueError, match="'z' has log-odds of exactly zero"):
        backend.evaluate(backend.package.gradient_report, guide, guide)


def test_curvature_of_a_logit_density_at_zero(backend):
    jax, at = backend.jax, np.array([-1.3, 0.0, 0.7])
    density = backend.ops.logit_binary_concrete_log_density
    zero = backend.array(0.0)
    curvature = jax.vmap(jax.grad(jax.grad(lambda a: density(zero, 0.5, a))))
    # Of s - 2 log(1 + exp s): -2 sigmoid(s) sigmoid(-s)
    expected = -2 / (1 + np.exp(-at)) / (1 + np.exp(at))
    assert_exact(backend.numpy(curvature(backend.array(at))), expected)


# --- AutoConcrete ---------------------------------------------------------------------


@pytest.mark.slow
def test_sample_posterior_has_the_deterministic_sites(backend):
    numpyro, dist = backend.numpyro, backend.dist

    def model(data):
        m = numpyro.sample("m", dist.LogNormal(0.0, backend.array(1.0)))
        n = numpyro.sample("n", dist.Binomial(2, backend.array(0.3)))
        numpyro.sample("one", dist.Categorical(backend.array([1.0])))
        table = numpyro.param("table", backend.array([0.0, 3.0, 7.0]))
        with numpyro.plate("rows", 4):
            probs = backend.array([0.2, 0.3, 0.5])
            z = numpyro.sample("z", dist.Categorical(probs))
            numpyro.deterministic("d", m * table[z] + n)
            numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=data)

    guide = backend.package.AutoConcrete(backend.package.relax(model, T))
    data = backend.array(np.zeros(4))
    params = backend.initial_params(guide, data)
    params["table"] = table = backend.array([1.0, -2.0, 5.0])
    key = backend.jax.random.key(0)
    for shape in ((), (5,), (2, 3)):
        draws = guide.sample_posterior(key, params, sample_shape=shape)
        assert sorted(draws) == ["d", "m", "n", "one", "z"]
        assert draws["one"].shape == shape
        assert draws["d"].shape == (*shape, 4)
        m, n = draws["m"][..., None], draws["n"][..., None]
        assert_exact(draws["d"], m * table[draws["z"]] + n)


def pickled_program():
    """A relaxed model that is found by its name, as pickles need it."""
    backend = get_backend("numpyro")

    def model():
        mask = backend.array([True, False], "bool")
        backend.site("m", backend.dist.Normal(backend.array(0.0), 1.0))
        with backend.plate("rows", 2), backend.mask(mask):
            probs = backend.array([0.2, 0.3, 0.5])
            backend.site("z", backend.dist.Categorical(probs))

    return backend.package.relax(model, T)()


def test_a_guide_that_has_run_is_pickled(backend):
    guide = backend.package.AutoConcrete(pickled_program)
    params = backend.initial_params(guide)
    again = pickle.loads(pickle.dumps(guide))
    first, second = (
        backend.trace(backend.with_params(g, params)) for g in (guide, again)
    )
    assert list(first) == list(second)
    assert_exact(first["z_relaxed"]["value"], second["z_relaxed"]["value"])


@pytest.mark.slow
def test_masks_inside_of_a_scan_are_those_of_the_factors(backend):
    """The exact posterior of each step's bit and of each step's normal variable."""
    from numpyro.contrib.control_flow import scan

    numpyro, dist, array = backend.numpyro, backend.dist, backend.array
    data = np.array([0.4, -0.2, 1.1, 0.3])

    def model(lengths):
        def step(t, x):
            with numpyro.plate("rows", 2), backend.mask(t < lengths):
                z = numpyro.sample("z", dist.Bernoulli(array(0.3)))
                numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=x)
                s = numpyro.sample("s", dist.LogNormal(array(0.0), 1.0))
                numpyro.sample("w", dist.LogNormal(backend.xp.log(s), 1.0), obs=x**2)
            return t + 1, None

        scan(step, 0, array(data))

    each = np.log(0.7 * stats.norm.pdf(data) + 0.3 * stats.norm.pdf(data - 1))
    each = each + stats.lognorm.logpdf(data**2, np.sqrt(2.0))
    lengths = array([4, 1], "int64")
    posterior = special.logit(0.3) + data - 0.5
    logits = {"z": array(np.tile(posterior[:, None], (1, 2)))}
    relaxed = backend.package.relax(model, T)
    guide = backend.package.AutoConcrete(relaxed, init_logits=logits)
    params = backend.initial_params(guide, lengths)
    loc = np.tile(np.log(data**2)[:, None] / 2, (1, 2))
    params["s_auto_loc"] = array(loc)
    params["s_auto_scale"] = array(np.full((4, 2), np.sqrt(0.5)))
    hard = backend.package.harden(guide)
    for kept in ((4, 1), (2, 3), (0, 0)):
        given = array(kept, "int64")
        loss = backend.loss("Trace", model, hard, given, params=params)
        expected = sum(each[:n].sum() for n in kept)
        np.testing.assert_allclose(-loss, expected, rtol=1e-6, atol=1e-9)
    grads = backend.loss_grad("Trace", relaxed, guide, lengths, params=params)
    expected = np.arange(4)[:, None] < np.array([4, 1])
    np.testing.assert_array_equal(grads["z_auto_logits"] != 0, expected)
    np.testing.assert_array_equal(grads["s_auto_scale"] != 0, expected)
