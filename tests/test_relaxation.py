"""relax, ConcreteReparam and harden: what they do to a program, on both backends."""

import numpy as np
import pytest
from asserts import assert_exact, assert_finite, assert_mean
from programs import DATA, one_bit, one_bit_guide, one_enumerated_bit, two_layers
from reference import concrete
from scipy.special import expit

T = 0.5


def data(backend):
    return backend.array(DATA)


def bits(backend, logits=0.3, shape=(6,)):
    """A program with one two-valued site, which gives its value to a function."""

    def program(use=lambda z: z):
        fn = backend.dist.Bernoulli(logits=backend.array(np.full(shape, logits)))
        return use(backend.site("z", fn.to_event(len(shape))))

    return program


def classes(backend, logits=(0.3, 0.0, -1.0)):
    def program(use=lambda z: z):
        return use(backend.site("z", backend.one_hot(backend.array(logits))))

    return program


programs = pytest.mark.parametrize("program", [bits, classes])


# --- what becomes of a site ---------------------------------------------------------


def test_a_site_becomes_two(backend, device):
    model, _ = two_layers(backend)
    sites = backend.trace(backend.package.relax(model, T), data(backend))
    assert [name for name in sites if name != "rows"] == [
        "b_relaxed",
        "b",
        "c_relaxed",
        "c",
        "x",
    ]
    assert isinstance(
        backend.relaxation.wrappers.leaf_of(sites["b_relaxed"]["fn"]),
        backend.package.LogitBinaryConcrete,
    )
    assert isinstance(sites["c_relaxed"]["fn"], backend.package.ExpConcrete)
    b, c = backend.numpy(sites["b"]["value"]), backend.numpy(sites["c"]["value"])
    assert_exact(b, expit(backend.numpy(sites["b_relaxed"]["value"])))
    assert_exact(c, np.exp(backend.numpy(sites["c_relaxed"]["value"])))
    assert ((b > 0) & (b < 1)).all()
    assert b.shape == (8, 4)
    assert c.shape == (8, 3)


def test_the_program_itself_is_not_touched(backend):
    model, _ = two_layers(backend)
    before = backend.trace(model, data(backend), seed=3)
    backend.trace(backend.package.relax(model, T), data(backend))
    after = backend.trace(model, data(backend), seed=3)
    assert before.keys() == after.keys()
    assert_exact(
        backend.numpy(after["b"]["value"]), backend.numpy(before["b"]["value"])
    )


@programs
def test_the_program_receives_the_relaxed_value(backend, program):
    relaxed = backend.package.relax(program(backend), T)
    value = backend.numpy(backend.call(relaxed))
    assert ((value > 0) & (value < 1)).all()


@programs
def test_works_as_a_decorator(backend, program):
    relaxed = backend.package.relax(temperature=T)(program(backend))
    assert "z_relaxed" in backend.trace(relaxed)


@pytest.mark.parametrize("t", [0.3, 1.5])
def test_temperature_reaches_the_site(backend, t):
    relaxed = backend.package.relax(classes(backend), t, scoring="concrete")
    sites = backend.trace(relaxed)
    fn = sites["z_relaxed"]["fn"]
    assert_exact(backend.numpy(fn.temperature), t)
    value = backend.numpy(sites["z_relaxed"]["value"])
    expected = concrete.exp_concrete_log_density(value, t, np.array([0.3, 0.0, -1.0]))
    log_prob = fn.log_prob(backend.rebuilt(sites["z_relaxed"]["value"]))
    assert_exact(backend.numpy(log_prob), expected, scale=10)


def test_temperature_may_be_one_for_each_row(backend):
    model, _ = two_layers(backend)
    temperature = backend.array(np.linspace(0.2, 2, 8))
    sites = backend.trace(backend.package.relax(model, temperature), data(backend))
    b = backend.relaxation.wrappers.leaf_of(sites["b_relaxed"]["fn"])
    assert_exact(backend.numpy(b.temperature)[:, 0], np.linspace(0.2, 2, 8))
    assert tuple(sites["b_relaxed"]["fn"].batch_shape) == (8,)


@pytest.mark.parametrize("family", ["Bernoulli", "Categorical", "OneHotCategorical"])
@pytest.mark.parametrize("certain", [0, 1])
def test_probabilities_of_zero_and_one_stay_finite(backend, family, certain):
    """A dead animal, a masked step."""
    probs = {
        "Bernoulli": [0.3, float(certain)],
        "Categorical": [[0.3, 0.7], [1.0 - certain, float(certain)]],
    }
    probs["OneHotCategorical"] = probs["Categorical"]
    own = family == "OneHotCategorical" and backend.name == "numpyro"
    make = getattr(backend.package if own else backend.dist, family)

    def score(probs):
        def program():
            fn = make(probs=probs)
            backend.site("z", fn.to_event(1))

        sites = backend.trace(backend.package.relax(program, T))
        value = sites["z_relaxed"]["value"]
        return value.sum() + sites["z_relaxed"]["fn"].log_prob(value)

    probs = backend.array(probs[family])
    assert_finite(backend.numpy(score(probs)))
    (gradient,) = backend.grad(score, probs)
    assert_finite(backend.numpy(gradient))


def test_value_and_gradient_equal_the_model_relaxed_by_hand(backend, device):
    model, guide = two_layers(backend)
    params = {
        "slope": backend.array(np.random.default_rng(5).normal(size=(4, 4))),
        "rows_logits": backend.array(np.random.default_rng(6).normal(size=(8, 3))),
    }

    def by_hand(program, t):
        """The same program with its two sample statements written for the family."""

        def site(name, fn, infer=None, **kwargs):
            if name == "b":
                point = backend.package.LogitBinaryConcrete(
                    t, logits=fn.base_dist.logits
                )
                y = real_site("b_relaxed", point.to_event(1))
                return 1 / (1 + backend.exp(-y))
            if name == "c":
                y = real_site(
                    "c_relaxed", backend.package.ExpConcrete(t, logits=fn.logits)
                )
                return backend.exp(y)
            return real_site(name, fn, **kwargs)

        def run(*args):
            backend.site = site
            try:
                return program(*args)
            finally:
                del backend.site

        real_site = backend.site
        return run

    relax = backend.package.relax
    results = [
        backend.loss_grad("Trace", m, g, data(backend), params=params, seed=7)
        for m, g in [
            (
                relax(model, 0.5, scoring="concrete"),
                relax(guide, 0.7, scoring="concrete"),
            ),
            (by_hand(model, 0.5), by_hand(guide, 0.7)),
        ]
    ]
    for name in params:
        assert_exact(results[0][name], results[1][name], scale=100)


# --- which sites --------------------------------------------------------------------


def test_observed_sites_stay(backend):
    def program():
        fn = backend.dist.Bernoulli(logits=backend.array(0.0))
        backend.site("z", fn, obs=backend.array(1.0))

    assert list(backend.trace(backend.package.relax(program, T))) == ["z"]


@pytest.mark.parametrize(
    "infer",
    [{"relax": False}, {"enumerate": "parallel"}],
    ids=["opted out", "enumerated"],
)
def test_marked_sites_stay(backend, infer):
    model, _ = two_layers(backend, **infer)
    sites = backend.trace(backend.package.relax(model, T), data(backend))
    assert "b_relaxed" not in sites
    assert set(np.unique(backend.numpy(sites["b"]["value"]))) <= {0, 1}
    assert "c_relaxed" in sites


@pytest.mark.parametrize(
    "sites", [["c"], lambda msg: msg["name"] == "c"], ids=["names", "predicate"]
)
def test_sites_are_chosen(backend, sites):
    model, _ = two_layers(backend)
    relaxed = backend.package.relax(model, T, sites=sites)
    names = backend.trace(relaxed, data(backend))
    assert "c_relaxed" in names
    assert "b_relaxed" not in names


def test_continuous_sites_stay(backend):
    def program():
        fn = backend.dist.Normal(backend.array(0.0), backend.array(1.0))
        return backend.site("x", fn)

    assert list(backend.trace(backend.package.relax(program, T))) == ["x"]


# --- handlers -----------------------------------------------------------------------


def test_plate_and_mask_and_scale_reach_the_relaxed_site(backend):
    observed = backend.array([True] * 5 + [False] * 3, "bool")

    def program():
        with (
            backend.plate("rows", 8, dim=-1),
            backend.mask(observed),
            backend.scale(3.0),
        ):
            backend.site("c", backend.one_hot(backend.array(np.zeros(3))))

    relaxed = backend.package.relax(program, T, scoring="concrete")
    value = backend.trace(relaxed)["c_relaxed"]["value"]
    log_prob = backend.log_prob(relaxed, values={"c_relaxed": value})["c_relaxed"]
    density = concrete.exp_concrete_log_density(backend.numpy(value), T, np.zeros(3))
    assert_exact(backend.numpy(log_prob), 3 * density[:5].sum(), scale=10)


def test_subsampling_scales_the_relaxed_site(backend):
    def program():
        with backend.plate("rows", 8, subsample_size=2, dim=-1):
            backend.site("c", backend.one_hot(backend.array(np.zeros(3))))

    relaxed = backend.package.relax(program, T)
    sites = backend.trace(relaxed)
    assert tuple(sites["c"]["value"].shape) == (2, 3)
    assert float(sites["c_relaxed"]["scale"]) == 4


def test_masked_distribution_is_relaxed_under_its_mask(backend):
    def program():
        fn = backend.one_hot(backend.array(np.zeros((2, 3))))
        backend.site("c", fn.mask(backend.array([True, False], "bool")))

    site = backend.trace(backend.package.relax(program, T))["c_relaxed"]
    log_prob = backend.numpy(site["fn"].log_prob(backend.rebuilt(site["value"])))
    assert log_prob[0] != 0 == log_prob[1]


def test_condition_inside_leaves_nothing_to_relax(backend):
    program = backend.condition(classes(backend), {"z": backend.array([0.0, 1.0, 0.0])})
    assert list(backend.trace(backend.package.relax(program, T))) == ["z"]


@programs
def test_condition_outside_is_an_error_that_names_the_site(backend, program):
    relaxed = backend.package.relax(program(backend), T)
    value = [0.0, 1.0, 0.0] if program is classes else [1.0] * 6
    with pytest.raises(ValueError, match=r"'z' is relaxed.*inside"):
        backend.call(backend.condition(relaxed, {"z": backend.array(value)}))


def test_condition_on_the_relaxed_site(backend):
    point = np.log([0.2, 0.5, 0.3])
    relaxed = backend.package.relax(classes(backend), T)
    program = backend.condition(relaxed, {"z_relaxed": backend.array(point)})
    assert_exact(backend.numpy(backend.call(program)), np.exp(point))


def test_blocked_sites_stay(backend):
    program = backend.block(classes(backend), hide=["z"])
    value = backend.numpy(backend.call(backend.package.relax(program, T)))
    assert sorted(value) == [0, 0, 1]


def test_relax_twice_is_relax_once(backend):
    relax = backend.package.relax
    once = backend.trace(relax(classes(backend), T), seed=4)
    twice = backend.trace(relax(relax(classes(backend), T), 3.0), seed=4)
    assert once.keys() == twice.keys()
    assert_exact(backend.numpy(twice["z"]["value"]), backend.numpy(once["z"]["value"]))
    assert_exact(backend.numpy(twice["z_relaxed"]["fn"].temperature), T)


def test_predictive_of_relaxed_model_and_guide(backend):
    model, guide = (backend.package.relax(p, T) for p in two_layers(backend))
    sites = ["b", "x"]
    samples = backend.predictive(model, guide, data(backend), return_sites=sites)
    assert tuple(samples["x"].shape) == (4, 8, 4)
    assert tuple(samples["b"].shape) == (4, 8, 4)
    assert set(np.unique(backend.numpy(samples["b"]))) <= {0, 1}


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_of_hardened_guide(backend, parallel):
    model, guide = two_layers(backend)
    hard = backend.package.harden(backend.package.relax(guide, T))
    sites = ["b", "c", "x"]
    samples = backend.predictive(
        model, hard, data(backend), return_sites=sites, parallel=parallel
    )
    assert tuple(samples["x"].shape) == (4, 8, 4)
    assert set(np.unique(backend.numpy(samples["b"]))) <= {0, 1}


# --- SVI ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Trace", "TraceMeanField", "TraceGraph"])
@pytest.mark.parametrize("particles", [1, 3])
def test_svi_runs_without_a_warning_and_improves(backend, kind, particles):
    # Warnings are errors in this suite.
    model, guide = two_layers(backend)
    relax = backend.package.relax
    kwargs = {"particles": particles}
    if backend.name == "pyro":
        kwargs["max_plate_nesting"] = 1
    losses, params = backend.train(
        kind, relax(model, T), relax(guide, 2 / 3), data(backend), steps=60, **kwargs
    )
    assert_finite(losses)
    assert losses[-10:].mean() < losses[:10].mean()
    for name, value in params.items():
        assert np.abs(backend.numpy(value)).max() > 0.2, name


def test_enumerated_and_relaxed_sites_in_one_elbo(backend):
    relax, data_ = backend.package.relax, data(backend)
    model, guide = (relax(p, T) for p in one_enumerated_bit(backend))
    kwargs = {"steps": 60, "max_plate_nesting": 1}
    losses, _ = backend.train("TraceEnum", model, guide, data_, **kwargs)
    assert losses[-10:].mean() < losses[:10].mean()


def test_gradient_reaches_the_guide_through_the_likelihood(backend):
    model, guide = two_layers(backend)
    start = {
        "slope": backend.array(np.full((4, 4), 0.1)),
        "rows_logits": backend.array(np.zeros((8, 3))),
    }

    def gradient(observed):
        relax = backend.package.relax
        args = relax(model, T), relax(guide, T), backend.array(observed)
        return backend.loss_grad("Trace", *args, params=start, seed=1)

    # The guide's own input is the data: rows_logits meet it in the likelihood alone.
    near, far = gradient(DATA), gradient(np.concatenate([-DATA[:4], DATA[4:]]))
    changed = np.abs(near["rows_logits"] - far["rows_logits"]).max(-1) > 1e-6
    assert changed[:4].all()


# --- harden -------------------------------------------------------------------------


@programs
def test_harden_gives_the_discrete_program(backend, program):
    hard = backend.package.harden(backend.package.relax(program(backend), T))
    sites = backend.trace(hard)
    assert list(sites) == ["z"]
    assert set(np.unique(backend.numpy(sites["z"]["value"]))) <= {0, 1}
    assert_exact(backend.numpy(backend.call(hard)), backend.numpy(sites["z"]["value"]))


@pytest.mark.statistical
def test_hardened_samples_have_the_discrete_probabilities(backend):
    def program():
        with backend.plate("rows", 20_000, dim=-1):
            return backend.site("z", backend.one_hot(backend.array([0.3, 0.0, -1.0])))

    hard = backend.package.harden(backend.package.relax(program, T))
    probs = np.exp([0.3, 0.0, -1.0]) / np.exp([0.3, 0.0, -1.0]).sum()
    assert_mean(backend.numpy(backend.call(hard)), probs)


def test_hardened_guide_gives_the_elbo_of_the_discrete_guide(backend):
    model, guide = two_layers(backend)
    hard = backend.package.harden(backend.package.relax(guide, T))
    params = {
        "slope": backend.array(np.random.default_rng(5).normal(size=(4, 4))),
        "rows_logits": backend.array(np.random.default_rng(6).normal(size=(8, 3))),
    }
    draws = np.array(
        [
            [
                backend.loss("Trace", model, g, data(backend), params=params, seed=s)
                for g in (hard, guide)
            ]
            for s in range(60)
        ]
    )
    error = np.sqrt(draws.var(0, ddof=1).sum() / 60)
    gap = abs(draws[:, 0].mean() - draws[:, 1].mean())
    assert gap < 5 * error, (draws.mean(0), error)


def test_harden_takes_hand_written_guides(backend):
    def guide():
        point = backend.package.ExpConcrete(T, logits=backend.array(np.zeros((2, 3))))
        y = backend.site("c_relaxed", point.to_event(1))
        logits = backend.array(np.zeros(2)) + 0 * backend.exp(y).sum(-1)
        point = backend.package.LogitBinaryConcrete(T, logits=logits)
        backend.site("b_relaxed", point.to_event(1))

    sites = backend.trace(backend.package.harden(guide))
    assert list(sites) == ["c", "b"]
    assert (backend.numpy(sites["c"]["value"]).sum(-1) == 1).all()


def test_harden_leaves_other_sites(backend):
    def program():
        unit = backend.dist.Normal(backend.array(0.0), backend.array(1.0))
        backend.site("x_relaxed", unit)
        point = backend.package.ExpConcrete(T, logits=backend.array(np.zeros(3)))
        backend.site("y", point)

    assert list(backend.trace(backend.package.harden(program))) == ["x_relaxed", "y"]


# --- ConcreteReparam ----------------------------------------------------------------


@programs
def test_reparam_equals_relax(backend, program):
    config = {"z": backend.package.ConcreteReparam(T)}
    number = program(backend)

    def doubled():
        return number(lambda z: 1.0 - 2.0 * z)

    reparameterized = backend.reparam(doubled, config)
    by_reparam, by_relax = reparameterized, backend.package.relax(doubled, T)
    assert list(backend.trace(by_reparam)) == list(backend.trace(by_relax))
    values = (backend.numpy(backend.call(p, seed=2)) for p in (by_reparam, by_relax))
    assert_exact(*values)


def test_reparam_refuses_to_read_a_bit(backend):
    config = {"z": backend.package.ConcreteReparam(T)}
    for use in (lambda z: bool(z[0] == 1), lambda z: int(z[0]), lambda z: z[0].item()):
        with pytest.raises(TypeError, match="'z' is relaxed"):
            backend.call(backend.reparam(lambda use=use: bits(backend)(use), config))


def test_reparam_leaves_observed_sites(backend):
    config = {"z": backend.package.ConcreteReparam(T)}
    value = backend.array([0.0, 1.0, 0.0])
    program = backend.condition(classes(backend), {"z": value})
    assert list(backend.trace(backend.reparam(program, config))) == ["z"]


# --- errors -------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, -1.0, float("nan")])
def test_bad_temperature_is_an_error(backend, t):
    with pytest.raises(ValueError, match="temperature must be positive"):
        backend.package.relax(classes(backend), t)
    with pytest.raises(ValueError, match="temperature must be positive"):
        backend.package.ConcreteReparam(t)


def test_without_a_temperature_it_is_scored_by_masses_at_the_default(backend):
    fn = backend.trace(backend.package.relax(classes(backend)))["z_relaxed"]["fn"]
    assert type(fn).__name__ == "ExpConcreteMass"
    assert float(backend.numpy(fn.temperature)) == pytest.approx(0.2)


def test_one_bit_has_the_relaxed_kl_for_its_loss(backend, device):
    relax = backend.package.relax
    model = relax(one_bit(backend, 0.0), 0.1, scoring="concrete")
    guide = relax(one_bit_guide(backend), 0.1, scoring="concrete")
    params = {"a": backend.array(2.0)}
    loss = backend.loss("TraceMeanField", model, guide, params=params)
    assert_exact(loss, 2 / np.tanh(1) - 2)
