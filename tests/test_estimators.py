"""Estimators: hard draws, their Jacobians, and programs that are relaxed by them.

Whether their gradients have the right mean is tested in test_estimators_exact.py.
"""

import numpy as np
import pytest
from asserts import assert_derivative, assert_exact, assert_pvalue
from reference import estimates
from reference.gradients import central_difference
from scipy import special, stats

N, POINTS = 4, 3
_RNG = np.random.default_rng(7)
LOGITS = _RNG.normal(size=N)
NOISE = _RNG.gumbel(size=(6, 1 + POINTS, N))
BIT_NOISE = _RNG.logistic(size=(6, 1 + POINTS))
TEMPERATURES = (0.3, 1.0, 1.7)
DATA = np.array([-2.1, -1.8, 1.9, 2.2, 2.0])
HARD = ("StraightThrough", "GumbelRao", "ReinMax", "ZGR")


def jacobian(backend, draw):
    """The derivative of every component of a draw in the logits."""
    eye = np.eye(N)
    rows = [
        backend.grad(
            lambda a, k=k: (draw(a) * backend.array(k)).sum(), backend.array(LOGITS)
        )
        for k in eye
    ]
    return np.array([backend.numpy(row[0]) for row in rows])


def slope(backend, draw, logit):
    (found,) = backend.grad(lambda a: draw(a).sum(), backend.array(logit))
    return float(backend.numpy(found))


# --- ops, on injected noise


@pytest.mark.parametrize("t", TEMPERATURES)
def test_straight_through_has_the_jacobian_of_its_point(backend, t):
    ops = backend.ops
    for noise in NOISE[:, 0]:
        g = backend.array(noise)

        def draw(a, g=g):
            return ops.straight_through(backend.exp(ops.exp_concrete(g, t, a)))

        hard = backend.numpy(draw(backend.array(LOGITS)))
        np.testing.assert_array_equal(hard, estimates.vertex(LOGITS + noise))
        expected = estimates.straight_through_jacobian(noise, t, LOGITS)
        assert_exact(jacobian(backend, draw), expected)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_gumbel_rao_averages_the_jacobians_of_conditional_points(backend, t):
    for noise in NOISE:
        g = backend.array(noise)

        def draw(a, g=g):
            return backend.ops.gumbel_rao(g, t, a)

        hard = backend.numpy(draw(backend.array(LOGITS)))
        np.testing.assert_array_equal(hard, estimates.vertex(LOGITS + noise[0]))
        expected = estimates.gumbel_rao_jacobian(noise, t, LOGITS)
        assert_exact(jacobian(backend, draw), expected)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_reinmax_has_heuns_jacobian(backend, t):
    for noise in NOISE[:, 0]:
        g = backend.array(noise)

        def draw(a, g=g):
            return backend.ops.reinmax(g, t, a)

        hard = backend.numpy(draw(backend.array(LOGITS)))
        np.testing.assert_array_equal(hard, estimates.vertex(LOGITS + noise))
        expected = estimates.reinmax_jacobian(int(hard.argmax()), t, LOGITS)
        assert_exact(jacobian(backend, draw), expected)


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("logit", [-1.3, 0.4])
def test_bits_are_the_second_of_two_classes(backend, t, logit):
    ops, two = backend.ops, estimates.two_classes(logit)
    for noise in BIT_NOISE:
        draws, one = backend.array(noise), backend.array(noise[0])
        # As Gumbels of two classes: only their difference matters.
        pairs = np.stack([np.zeros_like(noise), noise], -1)
        bit = float(logit + noise[0] > 0)

        def through(a, one=one):
            point = ops.logit_binary_concrete(one, t, a)
            return ops.straight_through_binary(1 / (1 + backend.exp(-point)))

        def rao(a, draws=draws):
            return ops.gumbel_rao_binary(draws, t, a)

        def reinmax(a, one=one):
            return ops.reinmax_binary(one, t, a)

        for draw in (through, rao, reinmax):
            assert float(backend.numpy(draw(backend.array(logit)))) == bit
        expected = estimates.straight_through_jacobian(pairs[0], t, two)
        assert_exact(slope(backend, through, logit), estimates.of_bit(expected))
        expected = estimates.reinmax_jacobian(int(bit), t, two)
        assert_exact(slope(backend, reinmax, logit), estimates.of_bit(expected))
        points = [estimates.conditional_logistic(x, bit, logit) for x in noise[1:]]
        soft = special.expit(np.array(points) / t)
        assert_exact(slope(backend, rao, logit), (soft * (1 - soft) / t).mean())


def test_conditional_gumbels_match_their_formula_and_its_derivative(backend):
    for noise in NOISE[:, 1]:
        for chosen in range(N):
            hard = backend.array(np.eye(N)[chosen])

            def score(a, g=noise, hard=hard):
                return backend.ops.conditional_gumbel(backend.array(g), hard, a)

            def oracle(a, g=noise, chosen=chosen):
                return estimates.conditional_gumbel(g, chosen, a)

            assert_exact(backend.numpy(score(backend.array(LOGITS))), oracle(LOGITS))
            expected = central_difference(oracle, LOGITS)
            assert_derivative(jacobian(backend, score), expected)


@pytest.mark.parametrize("bit", [0, 1])
def test_conditional_logistics_match_their_formula_and_its_derivative(backend, bit):
    for noise in BIT_NOISE[:, 1]:

        def score(a, noise=noise):
            args = backend.array(noise), backend.array(float(bit)), a
            return backend.ops.conditional_logistic(*args)

        def oracle(a, noise=noise):
            return estimates.conditional_logistic(noise, bit, a)

        assert_exact(backend.numpy(score(backend.array(0.7))), oracle(0.7))
        expected = (oracle(0.7 + 1e-5) - oracle(0.7 - 1e-5)) / 2e-5
        assert_derivative(slope(backend, score, 0.7), expected)


@pytest.mark.parametrize("logit", [-700.0, 700.0])
def test_conditional_noise_and_its_gradient_are_finite_far_out(backend, logit):
    ops, array = backend.ops, backend.array
    for bit in (0.0, 1.0):
        found = slope(
            backend,
            lambda a, bit=bit: ops.conditional_logistic(array(0.3), array(bit), a),
            logit,
        )
        assert np.isfinite(found)
    hard = array([0.0, 1.0])
    (found,) = backend.grad(
        lambda a: ops.conditional_gumbel(array([0.1, 0.2]), hard, a).sum(),
        array([0.0, logit]),
    )
    assert np.isfinite(backend.numpy(found)).all()


@pytest.mark.statistical
def test_noise_given_a_class_that_is_drawn_is_gumbel_noise(backend):
    rng = np.random.default_rng(11)
    first, second = rng.gumbel(size=(2, 20_000, N))
    hard = np.eye(N)[(LOGITS + first).argmax(-1)]
    args = backend.array(second), backend.array(hard), backend.array(LOGITS)
    scores = backend.numpy(backend.ops.conditional_gumbel(*args))
    np.testing.assert_array_equal(scores.argmax(-1), hard.argmax(-1))
    for k in range(N):
        assert_pvalue(stats.kstest(scores[:, k] - LOGITS[k], "gumbel_r").pvalue)


def test_reinmax_at_temperature_one_is_zgr():
    for chosen in range(N):
        expected = estimates.zgr_jacobian(chosen, LOGITS)
        assert_exact(estimates.reinmax_jacobian(chosen, 1.0, LOGITS), expected)


@pytest.mark.statistical
def test_gumbel_rao_ends_at_zgr_as_the_temperature_falls(backend):
    """The mean over many points of cold Jacobians, class by class."""
    rng, points, t = np.random.default_rng(5), 400_000, 0.01
    for chosen in range(3):
        first = np.where(np.arange(3) == chosen, 20.0, 0.0)[None]
        noise = backend.array(np.concatenate([first, rng.gumbel(size=(points, 3))]))
        logits = backend.array(LOGITS[:3])
        for k in range(3):
            (row,) = backend.grad(
                lambda a, k=k, noise=noise: backend.ops.gumbel_rao(noise, t, a)[k],
                logits,
            )
            expected = estimates.zgr_jacobian(chosen, LOGITS[:3])[k]
            # A Jacobian of order 1/t is seen with a chance of order t.
            error = np.sqrt(1 / (t * points))
            assert np.abs(backend.numpy(row) - expected).max() < 5 * error


# --- programs


def estimator(backend, name):
    arguments = {"GumbelRao": (POINTS,)}
    return getattr(backend.package, name)(*arguments.get(name, ()))


def mixture(backend, seen=None):
    """An integer, a bit and a one-hot site in a plate; two bits that are one event."""
    dist, array, xp = backend.dist, backend.array, backend.xp

    def program(data=None):
        odds = array([0.3, -0.4])
        pair = backend.site("pair", dist.Bernoulli(logits=odds).to_event(1))
        with backend.plate("data", len(DATA), dim=-1):
            z = backend.site("z", dist.Categorical(logits=array([0.2, -0.1, 0.4])))
            b = backend.site("b", dist.Bernoulli(array(0.3)))
            c = backend.site("c", backend.one_hot(array([0.1, 0.5])))
            loc = array([-2.0, 0.0, 2.0])[z] + xp.where(b == 1, 0.5, 0.0)
            loc = loc + c @ array([0.1, -0.2]) + pair.sum()
            if seen is not None:
                seen.update(z=loc, table=array([1.0, 2.0, 4.0])[z], c=c)
            backend.site("x", dist.Normal(loc, array(0.5)), obs=data)

    return program


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("name", HARD)
def test_the_program_sees_hard_values(backend, name):
    seen = {}
    relax, how = backend.package.relax, estimator(backend, name)
    fn = relax(mixture(backend, seen), 0.7, estimator=how)
    with backend.double_precision():
        sites = backend.trace(fn)
    assert np.isin(backend.numpy(seen["table"]), [1.0, 2.0, 4.0]).all()
    hot = backend.numpy(seen["c"])
    np.testing.assert_array_equal(np.sort(hot, -1)[:, -1], 1.0)
    np.testing.assert_array_equal(hot.sum(-1), 1.0)
    assert set(np.unique(backend.numpy(sites["b_relaxed"]["value"]))) <= {0.0, 1.0} or (
        name == "StraightThrough"
    )


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("name", HARD)
def test_the_elbo_of_hard_draws_is_the_discrete_one(backend, name):
    """The log-probability of each relaxed site is that of its discrete site."""
    how = estimator(backend, name)
    options = {"estimator": how, "scoring": "discrete"}
    fn = backend.package.relax(mixture(backend), 0.7, **options)
    data = backend.array(DATA)
    with backend.double_precision():
        sites = backend.trace(fn, data)
        points = {k: s["value"] for k, s in sites.items() if k.endswith("_relaxed")}
        found = backend.log_prob(fn, data, values=points)
    hard = {k.removesuffix("_relaxed"): backend.numpy(x) for k, x in points.items()}
    odds = np.array([0.3, -0.4])
    expected = {
        "pair": stats.bernoulli.logpmf(hard["pair"], special.expit(odds)).sum(),
        "b": stats.bernoulli.logpmf(hard["b"], 0.3).sum(),
        "z": (hard["z"] * special.log_softmax([0.2, -0.1, 0.4])).sum(),
        "c": (hard["c"] * special.log_softmax([0.1, 0.5])).sum(),
    }
    for site, value in expected.items():
        assert_exact(backend.numpy(found[f"{site}_relaxed"]), value)
    loc = hard["z"] @ [-2.0, 0.0, 2.0] + 0.5 * hard["b"]
    loc = loc + hard["c"] @ [0.1, -0.2] + hard["pair"].sum()
    likelihood = stats.norm.logpdf(DATA, loc, 0.5).sum()
    assert_exact(backend.numpy(found["x"]), likelihood)


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("name", HARD)
def test_training_warns_of_nothing_and_moves_every_site(backend, name):
    data, how = backend.array(DATA), estimator(backend, name)
    relaxed = backend.package.relax(mixture(backend), 1.0, estimator=how)
    guide = backend.package.AutoConcrete(relaxed)
    with backend.double_precision():
        start = backend.initial_params(guide, data)
        losses, params = backend.train("Trace", relaxed, guide, data, particles=3)
    assert np.isfinite(losses).all()
    assert len(params) == 4
    for key, value in params.items():
        moved = backend.numpy(value) != backend.numpy(start[key])
        assert moved.any(), key


def test_the_kl_of_hard_sites_is_the_discrete_one_without_noise(backend):
    def program(shift):
        def run():
            array, dist = backend.array, backend.dist
            bit = dist.Bernoulli(logits=array([0.3 + shift, -1.0])).to_event(1)
            backend.site("b", bit)
            backend.site("z", dist.Categorical(logits=array([0.2, shift, -0.4])))

        return run

    options = {"estimator": backend.package.ReinMax()}
    model, guide = (backend.package.relax(program(x), 1.0, **options) for x in (0.0, 1))
    p, q = (special.softmax([0.2, shift, -0.4]) for shift in (1, 0))
    a, b = (special.expit(0.3 + shift) for shift in (1, 0))
    expected = special.rel_entr(p, q).sum()
    expected += special.rel_entr(a, b) + special.rel_entr(1 - a, 1 - b)
    for seed in range(3):
        found = backend.loss("TraceMeanField", model, guide, seed=seed)
        assert_exact(found, expected)


def test_a_mark_and_a_mapping_choose_by_site(backend):
    package, array = backend.package, backend.array

    def program():
        mark = {"relax": {"estimator": package.ReinMax()}}
        fn = backend.dist.Categorical(logits=array([0.2, 0.1, 0.4]))
        backend.site("a", fn, infer=mark)
        backend.site("b", fn)
        backend.site("c", fn)

    chosen = {"b": package.GumbelRao(2)}
    sites = backend.trace(package.relax(program, 0.5, estimator=chosen))
    leaf = backend.relaxation.wrappers.leaf_of
    found = {k: leaf(sites[f"{k}_relaxed"]["fn"]) for k in "abc"}
    assert found["a"].estimator == package.ReinMax()
    assert found["b"].estimator == package.GumbelRao(2)
    assert type(found["c"]).__name__ == "ExpConcreteMass"
    marked = package.config_relax(program, estimator=package.ZGR())
    sites = backend.trace(package.relax(marked, 0.5))
    assert leaf(sites["c_relaxed"]["fn"]).estimator == package.ZGR()
    assert leaf(sites["a_relaxed"]["fn"]).estimator == package.ReinMax()


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("name", HARD)
def test_harden_and_autoconcrete_draw_the_discrete_sites(backend, name):
    data, how = backend.array(DATA), estimator(backend, name)
    relaxed = backend.package.relax(mixture(backend), 0.8, estimator=how)
    guide = backend.package.AutoConcrete(relaxed)
    with backend.double_precision():
        params = backend.initial_params(guide, data)
        hard = backend.package.harden(guide)
        found = backend.loss("Trace", mixture(backend), hard, data, params=params)
        assert np.isfinite(found)
        probs = backend.probabilities(guide, params)
        median = backend.median(guide, params, data)
    assert_exact(probs["b"][..., 1], np.full(len(DATA), 0.3))
    assert set(median) == {"pair", "z", "b", "c"}


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("name", HARD)
def test_straight_through_values_outlive_operations(backend, name):
    """A value that is copied, cut and shifted is scored by the same distribution."""
    family = backend.distributions.HardOneHot
    how = estimator(backend, name)
    d = family(0.7, logits=backend.array(LOGITS), estimator=how)
    value = backend.sample(d, 3, (5,))
    expected = (backend.numpy(value) * special.log_softmax(LOGITS)).sum(-1)
    for same in (value, value + 0, value[:], 1 * value, backend.rebuilt(value)):
        assert_exact(backend.numpy(d.log_prob(same)), expected)
    wider = d.expand((2,))
    assert wider.estimator == how
    assert backend.sample(wider, 0).shape == (2, N)


# --- errors


def test_what_is_no_estimator_is_an_error(backend):
    package = backend.package
    check = package.estimators.validate_estimator
    with pytest.raises(TypeError, match=r"an instance such as Relaxed\(\)"):
        check(package.ReinMax, None)
    with pytest.raises(TypeError, match=r"site 'z': an estimator is an instance"):
        check({"z": "reinmax"}, None)
    with pytest.raises(ValueError, match="GumbelRao must be at least 1"):
        package.GumbelRao(0)

    def program():
        fn = backend.dist.Categorical(logits=backend.array([0.2, 0.1]))
        backend.site("z", fn, infer={"relax": {"estimator": package.ReinMax}})

    with pytest.raises(TypeError, match=r"site 'z': an estimator is an instance"):
        backend.trace(package.relax(program, 0.5))


@pytest.mark.parametrize("name", ["GumbelRao", "ReinMax", "ZGR"])
def test_hard_draws_have_no_density(backend, name):
    how = estimator(backend, name)
    with pytest.raises(ValueError, match="have a mass and no density"):
        backend.package.relax(lambda: None, 0.5, estimator=how, scoring="concrete")


def test_model_and_guide_relaxed_in_different_ways_are_an_error(backend):
    package = backend.package

    def program():
        backend.site("z", backend.dist.Categorical(logits=backend.array([0.2, 0.1])))

    guide = package.relax(program, 0.5, estimator=package.ReinMax())
    model = package.relax(program, 0.5)
    match = r"'z_relaxed' is ExpConcreteMass in the model and HardOneHot in the guide"
    with pytest.raises(ValueError, match=match):
        backend.loss("Trace", model, guide)
    guide = package.relax(program, 0.5, scoring="concrete")
    with pytest.raises(ValueError, match="ExpConcrete in the guide"):
        backend.loss("Trace", model, guide)


@pytest.mark.slow_on("numpyro")
def test_starting_at_init_loc_fn_needs_soft_points(backend):
    how = backend.package.ReinMax()
    relaxed = backend.package.relax(mixture(backend), 0.8, estimator=how)
    options = {"init_logits": "init_loc_fn", "init_loc_fn": backend.init_to_median}
    guide = backend.package.AutoConcrete(relaxed, **options)
    with pytest.raises(ValueError, match=r"ReinMax\(\) draws discrete ones at site"):
        backend.initial_params(guide, backend.array(DATA))


def test_continuous_guides_refuse_hard_sites(backend):
    how = backend.package.ReinMax()
    relaxed = backend.package.relax(mixture(backend), 0.8, estimator=how)
    with pytest.raises((NotImplementedError, ValueError)):
        backend.initial_params(backend.auto_normal(relaxed), backend.array(DATA))
