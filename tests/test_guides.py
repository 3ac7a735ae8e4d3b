"""AutoConcrete, and its ELBO together with enumerated sites."""

import warnings

import numpy as np
import pytest
from asserts import assert_exact
from scipy import special, stats

T = 0.5
RNG = np.random.default_rng(12)
DATA = RNG.normal(size=8)
WEIGHTS = np.array([0.2, 0.35, 0.45])
LOCS = np.array([-2.0, 0.5, 3.0])


def mixed(backend):
    """Sites of every kind: in plates, in events, of counts, one-hot and continuous."""
    dist = backend.dist

    def model(data):
        loc = backend.site("loc", dist.Normal(backend.array(0.0), 2.0))
        n = backend.site("n", dist.Binomial(4, backend.array(0.3)))
        bits = dist.Bernoulli(backend.array([0.3, 0.6])).to_event(1)
        total = backend.site("b", bits).sum(-1)
        label = backend.one_hot(backend.array(np.log([0.6, 0.4])))
        label = backend.site("label", label)[..., 0]
        with backend.plate("rows", len(DATA)):
            z = backend.site("z", dist.Categorical(backend.array(WEIGHTS)))
            at = loc + backend.array(LOCS)[z] + 0.1 * total + label
            backend.site("x", dist.Normal(at + 0.1 * n, 1.0), obs=data)

    return model


def guide_of(backend, model=None, temperature=None, **options):
    """A guide that has seen the data, and the model that it is for."""
    relaxed = backend.package.relax(model or mixed(backend), T)
    guide = backend.package.AutoConcrete(relaxed, temperature, **options)
    params = backend.initial_params(guide, backend.array(DATA))
    return relaxed, guide, params


@pytest.mark.slow_on("numpyro")
def test_logits_start_at_the_prior_s(backend):
    _, guide, params = guide_of(backend)
    probs = backend.probabilities(guide, params)
    assert sorted(probs) == ["b", "label", "n", "z"]
    assert_exact(probs["z"], np.tile(WEIGHTS, (8, 1)))
    assert_exact(probs["b"], np.array([[0.7, 0.3], [0.4, 0.6]]))
    assert_exact(probs["n"], stats.binom.pmf(np.arange(5), 4, 0.3))
    assert_exact(probs["label"], [0.6, 0.4])


@pytest.mark.slow_on("numpyro")
def test_logits_start_where_they_are_told_to(backend):
    given = RNG.normal(size=(8, 3))
    _, guide, params = guide_of(backend, init_logits={"z": backend.array(given)})
    probs = backend.probabilities(guide, params)
    assert_exact(probs["z"], special.softmax(given, -1))
    assert_exact(probs["label"], [0.6, 0.4])


@pytest.mark.slow_on("numpyro")
def test_logits_start_at_what_init_loc_fn_gives(backend):
    def init(site=None):
        if site is None:
            return init
        if site["name"] == "z_relaxed":
            return backend.log_softmax(backend.array(np.tile(LOCS, (8, 1))))
        return backend.init_to_median(site)

    options = {"init_logits": "init_loc_fn", "init_loc_fn": init}
    _, guide, params = guide_of(backend, **options)
    found = backend.probabilities(guide, params)["z"]
    assert_exact(found, np.tile(special.softmax(LOCS), (8, 1)))


def test_a_chain_starts_at_its_marginals(backend):
    first, step = np.array([0.9, 0.1]), np.array([[0.8, 0.2], [0.3, 0.7]])

    def model(data):
        fn = backend.dist.Categorical(backend.array(first))
        for i in range(3):
            z = backend.site(f"z_{i}", fn)
            fn = backend.dist.Categorical(backend.array(step)[z])

    _, guide, params = guide_of(backend, model)
    probs = backend.probabilities(guide, params)
    for i in range(3):
        assert_exact(probs[f"z_{i}"], first @ np.linalg.matrix_power(step, i))


def test_the_temperature_is_the_given_one_or_the_model_s(backend):
    dist, data = backend.dist, backend.array(DATA)

    def model(data):
        backend.site("b", dist.Bernoulli(backend.array(0.3)))
        with backend.plate("rows", len(DATA)):
            backend.site("z", dist.Categorical(backend.array(WEIGHTS)))

    for given, expected in ((None, T), (0.9, 0.9), ({"z": 0.3}, 0.3)):
        _, guide, params = guide_of(backend, model, given)
        sites = backend.trace(backend.with_params(guide, params), data)
        for name in ("z", "b"):
            fn = backend.leaf_of(sites[f"{name}_relaxed"]["fn"])
            own = T if isinstance(given, dict) and name != "z" else expected
            found = backend.numpy(fn.temperature)
            np.testing.assert_allclose(found, own, rtol=1e-6)


@pytest.mark.slow_on("numpyro")
def test_it_trains_and_hardens_to_the_discrete_guide(backend):
    relaxed, guide, _ = guide_of(backend, temperature=2 / 3)
    model, data = mixed(backend), backend.array(DATA)
    losses, params = backend.train("Trace", relaxed, guide, data, steps=10)
    assert np.isfinite(losses).all()
    hard = backend.package.harden(guide)
    sites = backend.trace(backend.with_params(hard, params), data)
    latent = {k: s for k, s in sites.items() if backend.is_latent(s)}
    assert {"z", "n", "b", "label", "loc"} <= set(latent)
    assert not any(name.endswith("_relaxed") for name in latent)
    assert set(np.unique(backend.numpy(latent["z"]["value"]))) <= {0, 1, 2}
    assert np.isfinite(backend.loss("Trace", model, hard, data, params=params))


@pytest.mark.statistical
def test_hard_draws_have_the_probabilities_of_the_guide(backend):
    _, guide, params = guide_of(backend)
    hard, data = backend.package.harden(guide), backend.array(DATA)
    draws = backend.draws_of(hard, params, data, name="z", draws=100)
    found = (draws[..., None] == np.arange(3)).mean((0, 1))
    error = np.sqrt(WEIGHTS * (1 - WEIGHTS) / draws.size)
    assert (np.abs(found - WEIGHTS) < 5 * error).all()


@pytest.mark.slow_on("numpyro")
def test_medians_and_quantiles_are_those_of_the_values(backend):
    _, guide, params = guide_of(backend)
    median = backend.median(guide, params, backend.array(DATA))
    assert sorted(median) == ["b", "label", "loc", "n", "z"]
    assert_exact(median["n"], stats.binom.ppf(0.5, 4, 0.3))
    assert_exact(median["b"], [0, 1])
    assert_exact(median["z"], np.full(8, 1))  # 0.2 + 0.35 reaches one half
    assert_exact(median["label"], [1, 0])
    levels = [0.1, 0.45, 0.95]
    found = backend.quantiles(guide, params, levels, backend.array(DATA))
    assert_exact(found["n"], stats.binom.ppf(levels, 4, 0.3))
    assert_exact(found["z"], np.tile([[0], [1], [2]], (1, 8)))


@pytest.mark.slow_on("numpyro")
def test_a_subsampled_plate_has_parameters_of_its_full_size(backend):
    dist, chosen = backend.dist, []

    def model(data):
        with backend.plate("rows", len(DATA), subsample_size=3) as rows:
            chosen.append(backend.numpy(rows))
            z = backend.site("z", dist.Categorical(backend.array(WEIGHTS)))
            loc = backend.array(LOCS)[z]
            backend.site("x", dist.Normal(loc, 1.0), obs=data[rows])

    relaxed, guide, params = guide_of(backend, model)
    assert backend.probabilities(guide, params)["z"].shape == (8, 3)
    grads = backend.loss_grad(
        "Trace", relaxed, guide, backend.array(DATA), params=params
    )
    (name,) = (k for k in grads if "logits" in k)
    moved = np.flatnonzero(np.abs(grads[name]).max(-1) > 0)
    np.testing.assert_array_equal(moved, np.sort(chosen[-1]))


@pytest.mark.slow_on("numpyro")
def test_rows_are_those_of_create_plates(backend):
    dist, made, seen = backend.dist, [], []

    def plates(data):
        made.append(backend.plate("rows", len(DATA), subsample_size=3))
        return made[-1]

    def model(data):
        with backend.plate("rows", len(DATA), subsample_size=3) as rows:
            seen.append(backend.numpy(rows))
            z = backend.site("z", dist.Categorical(backend.array(WEIGHTS)))
            loc = backend.array(LOCS)[z]
            backend.site("x", dist.Normal(loc, 1.0), obs=data[rows])

    relaxed, guide, params = guide_of(backend, model, create_plates=plates)
    before = len(made)
    grads = backend.loss_grad(
        "Trace", relaxed, guide, backend.array(DATA), params=params
    )
    assert len(made) > before
    (grad,) = (v for k, v in grads.items() if "logits" in k)
    moved = np.flatnonzero(np.abs(grad).max(-1))
    np.testing.assert_array_equal(moved, np.sort(seen[-1]))


@pytest.mark.slow_on("numpyro")
def test_sites_in_nested_plates_have_parameters_for_each_element(backend):
    dist = backend.dist

    def model(data):
        with backend.plate("columns", 2, dim=-2):
            w = backend.site("w", dist.Categorical(backend.array([0.7, 0.3])))
            with backend.plate("rows", len(DATA), dim=-1):
                z = backend.site("z", dist.Categorical(backend.array(WEIGHTS)))
                loc = backend.array(LOCS)[z] + w
                backend.site("x", dist.Normal(loc, 1.0), obs=data)

    relaxed, guide, params = guide_of(backend, model)
    probs = backend.probabilities(guide, params)
    assert_exact(probs["w"], np.tile([0.7, 0.3], (2, 1, 1)))
    assert_exact(probs["z"], np.tile(WEIGHTS, (2, 8, 1)))
    # A datum that both columns see moves every element, towards its own class.
    data = backend.array(np.tile(LOCS[[0, 1, 2, 2]], 2))
    _, params = backend.train("Trace", relaxed, guide, data, steps=60, lr=0.1)
    found = backend.probabilities(guide, params)["z"]
    np.testing.assert_array_equal(found.argmax(-1), np.tile([0, 1, 2, 2], (2, 2)))


@pytest.mark.slow_on("numpyro")
def test_a_global_site_over_a_subsampled_plate_trains(backend):
    """Enumeration is refused here, since the scales of parent and children differ."""
    dist = backend.dist

    def model(data):
        k = backend.site("k", dist.Categorical(backend.array(WEIGHTS)))
        with backend.plate("rows", len(DATA), subsample_size=4) as rows:
            loc = backend.array(LOCS)[k]
            backend.site("x", dist.Normal(loc, 1.0), obs=data[rows])

    near = backend.array(3.0 + 0.3 * DATA)
    relaxed = backend.package.relax(model, T)
    guide = backend.package.AutoConcrete(relaxed, 2 / 3)
    _, params = backend.train("Trace", relaxed, guide, near, steps=80, lr=0.2)
    assert backend.probabilities(guide, params)["k"][2] > 0.95


@pytest.mark.slow_on("numpyro")
def test_it_is_a_part_of_a_list_of_guides(backend):
    relaxed = backend.package.relax(mixed(backend), T)
    names = ["z", "n", "b", "label"]
    sites = [f"{x}_relaxed" for x in names]
    hidden = backend.block(relaxed, hide=[*sites, *names])
    guide = backend.guide_list(
        relaxed,
        backend.auto_normal(hidden),
        backend.package.AutoConcrete(backend.block(relaxed, hide=["loc"])),
    )
    losses, _ = backend.train("Trace", relaxed, guide, backend.array(DATA), steps=5)
    assert np.isfinite(losses).all()


# --- beside enumerated sites ----------------------------------------------------------

TOP = np.array([0.5, 0.3, 0.2])
GIVEN_TOP = np.array([-0.7, 0.4, 1.2])  # log-odds of r1
GIVEN_R1 = np.array([[0.8, 0.2], [0.35, 0.65]])
GIVEN_E2 = np.array([0.3, -0.9])  # log-odds of r2
MEANS = np.array([[-1.0, 0.5], [0.8, 2.0], [-0.4, 1.1]])
EFFECT, WIDTH = np.array([0.6, -1.2]), np.array([0.5, 1.5])
SEEN = 0.7
START = {"r1": 0.3, "r2": -0.4}
GUIDE_T = 2 / 3


def two_and_two(backend):
    """Enumerated e1 above relaxed r1, above enumerated e2, above relaxed r2."""
    dist, array = backend.dist, backend.array

    def parallel():
        return {"enumerate": "parallel"}  # hosts write to it

    def model():
        e1 = backend.site("e1", dist.Categorical(array(TOP)), infer=parallel())
        r1 = backend.site("r1", dist.Bernoulli(logits=array(GIVEN_TOP)[e1]))
        index = r1 if backend.name == "numpyro" else r1.long()
        e2 = backend.site(
            "e2", dist.Categorical(array(GIVEN_R1)[index]), infer=parallel()
        )
        r2 = backend.site("r2", dist.Bernoulli(logits=array(GIVEN_E2)[e2]))
        mean = array(MEANS)[e1, index] + array(EFFECT)[e2] * r2
        backend.site("x", dist.Normal(mean, 1.0), obs=array(SEEN))

    return model


def log_density(y, temperature, logits):
    """The logistic density of the logit of a binary Concrete variable."""
    return stats.logistic.logpdf(y, logits / temperature, 1 / temperature)


def mixed_elbo(y1, y2, logits1, logits2):
    """The ELBO at points of r1 and r2, with e1 and e2 summed out: brute force."""
    w1, w2 = special.expit(y1), special.expit(y2)
    terms = []
    for e1 in range(3):
        mean1 = (1 - w1) * MEANS[e1, 0] + w1 * MEANS[e1, 1]
        for e2 in range(2):
            prob = (1 - w1) * GIVEN_R1[0, e2] + w1 * GIVEN_R1[1, e2]
            term = np.log(TOP[e1]) + log_density(y1, T, GIVEN_TOP[e1]) + np.log(prob)
            term = term + log_density(y2, T, GIVEN_E2[e2])
            terms.append(term + stats.norm.logpdf(SEEN, mean1 + EFFECT[e2] * w2))
    own = log_density(y1, GUIDE_T, logits1) + log_density(y2, GUIDE_T, logits2)
    return special.logsumexp(terms, 0) - own


def at_noise(noise1, noise2, logits1, logits2):
    points = (logits1 + noise1) / GUIDE_T, (logits2 + noise2) / GUIDE_T
    return mixed_elbo(*points, logits1, logits2)


def slopes(function, *at):
    """Gradient by differences of the fourth order."""

    def slope(i):
        def value(step):
            moved = list(at)
            moved[i] = moved[i] + step
            return function(*moved)

        h = 1e-3
        near, far = value(h) - value(-h), value(2 * h) - value(-2 * h)
        return (8 * near - far) / (12 * h)

    return np.array([slope(i) for i in range(len(at))])


def two_and_two_guide(backend):
    relaxed = backend.package.relax(two_and_two(backend), T, scoring="concrete")
    logits = {name: backend.array(x) for name, x in START.items()}
    guide = backend.package.AutoConcrete(relaxed, GUIDE_T, init_logits=logits)
    return relaxed, guide, backend.initial_params(guide)


@pytest.mark.slow_on("numpyro")
def test_at_a_point_the_mixed_elbo_and_its_gradient_are_exact(backend):
    relaxed, guide, params = two_and_two_guide(backend)
    loss, grads, drawn = backend.loss_grad_and_draws(
        "TraceEnum", relaxed, guide, params=params, max_plate_nesting=1
    )
    assert sorted(drawn) == ["r1_relaxed", "r2_relaxed"]
    names, logits = sorted(START), [START[k] for k in sorted(START)]
    noise = [GUIDE_T * drawn[f"{k}_relaxed"] - START[k] for k in names]
    np.testing.assert_allclose(loss, -at_noise(*noise, *logits), rtol=1e-9)
    expected = slopes(lambda *a: at_noise(*noise, *a), *logits)
    for name, slope in zip(names, expected, strict=True):
        (found,) = (v for k, v in grads.items() if name in k)
        np.testing.assert_allclose(found, -slope, rtol=1e-6)


@pytest.mark.statistical
def test_the_gradient_of_the_mixed_elbo_is_unbiased(backend):
    relaxed, guide, params = two_and_two_guide(backend)
    # Each of the draws is the mean gradient of a hundred particles, at once.
    settings = {"draws": 20, "particles": 100, "max_plate_nesting": 1}
    found = backend.sampled_gradients(
        "TraceEnum", relaxed, guide, params=params, **settings
    )
    # The trapezoid rule on the line is exact to rounding for such integrands.
    grid = np.linspace(-36, 36, 601)
    weight = stats.logistic.pdf(grid) * (grid[1] - grid[0])

    def expected(*logits):
        values = at_noise(grid[:, None], grid[None, :], *logits)
        return weight @ values @ weight

    names = sorted(START)
    exact = -slopes(expected, *(START[k] for k in names))
    for name, slope in zip(names, exact, strict=True):
        (draws,) = (v for k, v in found.items() if name in k)
        error = draws.std(ddof=1) / np.sqrt(len(draws))
        assert abs(draws.mean() - slope) < 5 * error


@pytest.mark.slow_on("numpyro")
def test_enumerated_sites_are_inferred_after_training(backend):
    dist = backend.dist

    def model(data):
        k = backend.site("k", dist.Categorical(backend.array([0.5, 0.5])))
        with backend.plate("rows", len(DATA)):
            parallel = {"enumerate": "parallel"}
            fn = dist.Categorical(backend.array(WEIGHTS))
            z = backend.site("z", fn, infer=parallel)
            loc = backend.array(np.stack([LOCS, -LOCS - 9.0]))[k, z]
            backend.site("x", dist.Normal(loc, 0.3), obs=data)

    truth = np.array([0, 1, 2, 2, 1, 0, 2, 1])
    data = backend.array(LOCS[truth] + 0.05 * DATA)
    relaxed = backend.package.relax(model, T)
    guide = backend.package.AutoConcrete(relaxed, 2 / 3)
    nesting = {"max_plate_nesting": 1}
    _, params = backend.train(
        "TraceEnum", relaxed, guide, data, steps=30, lr=0.2, **nesting
    )
    assert list(backend.probabilities(guide, params)) == ["k"]
    assert backend.probabilities(guide, params)["k"][0] > 0.9
    inferred = backend.infer_discrete(model, guide, data, params=params)
    np.testing.assert_array_equal(inferred["z"], truth)


@pytest.mark.slow
def test_sixty_dependent_bits_train(backend):
    """Each bit depends on all bits before it: enumeration has no dims for them."""
    weights = RNG.normal(size=60) / 8

    def model():
        total, fn = 0.0, backend.dist.Bernoulli(logits=backend.array(0.0))
        for i in range(60):
            bit = backend.site(f"z_{i}", fn)
            total = total + weights[i] * bit
            fn = backend.dist.Bernoulli(logits=total)
        backend.site("x", backend.dist.Normal(total, 0.1), obs=backend.array(1.0))

    relaxed = backend.package.relax(model, T)
    guide = backend.package.AutoConcrete(relaxed, 2 / 3)
    losses, params = backend.two_steps("Trace", relaxed, guide, max_plate_nesting=0)
    assert np.isfinite(losses).all()
    assert len([k for k in params if "logits" in k]) == 60


# --- errors ---------------------------------------------------------------------------


def test_a_model_that_is_not_relaxed_is_refused(backend):
    guide = backend.package.AutoConcrete(mixed(backend), T)
    with pytest.raises(ValueError, match="neither relaxed nor enumerated"):
        backend.initial_params(guide, backend.array(DATA))


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("uniform", "init_logits must be"),
        ({"y": np.zeros(3)}, r"names no relaxed site: \['y'\]"),
        ({"z": np.zeros((5, 3))}, r"site 'z' have shape \(5, 3\)"),
    ],
)
def test_logits_that_do_not_fit_are_refused(backend, init, message):
    with pytest.raises(ValueError, match=message):
        guide_of(backend, init_logits=init)


def test_a_site_without_a_guide_stays_discrete_and_the_backend_warns(backend):
    relaxed = backend.package.relax(mixed(backend), T)
    data = backend.array(DATA)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend.train("Trace", relaxed, lambda data: None, data, steps=1)
    messages = [str(x.message) for x in caught]
    # Pyro names the sites, NumPyro says that there are some.
    assert any("'z'" in x or "discrete latent variables" in x for x in messages)
    assert not any("_relaxed" in x for x in messages)


@pytest.mark.slow_on("numpyro")
def test_a_guide_for_other_classes_is_an_error(backend):
    def model(data, classes=3):
        with backend.plate("rows", len(DATA)):
            logits = backend.array(np.zeros(classes))
            z = backend.site("z", backend.dist.Categorical(logits=logits))
            backend.site("x", backend.dist.Normal(1.0 * z, 1.0), obs=data)

    _, guide, params = guide_of(backend, model)
    more = backend.package.relax(lambda data: model(data, classes=4), T)
    with pytest.raises(ValueError, match=r"'z_relaxed' has shape \(8, 4\)"):
        backend.loss("Trace", more, guide, backend.array(DATA), params=params)


def test_a_guide_that_has_not_run_is_not_asked(backend):
    guide = backend.package.AutoConcrete(backend.package.relax(mixed(backend), T))
    with pytest.raises(RuntimeError, match="call the guide"):
        backend.probabilities(guide, {})


def test_unknown_names_of_sites_are_refused(backend):
    relaxed = backend.package.relax(mixed(backend), T, sites=["z", "w"])
    with pytest.raises(ValueError, match=r"names \['w'\]"):
        backend.call(relaxed, backend.array(DATA))
    with pytest.raises(TypeError, match=r"such as \['z'\]"):
        backend.package.relax(mixed(backend), T, sites="z")


@pytest.mark.parametrize("method", ["probabilities", "median", "quantiles"])
def test_a_guide_that_was_never_called_says_so(backend, method):
    guide = backend.package.AutoConcrete(backend.package.relax(mixed(backend), T))
    arguments = {
        "probabilities": ((), ({},)),
        "median": ((backend.array(DATA),), ({},)),
        "quantiles": (([0.5], backend.array(DATA)), ({}, [0.5])),
    }[method][backend.name == "numpyro"]
    with pytest.raises(RuntimeError, match="before its first call"):
        getattr(guide, method)(*arguments)
