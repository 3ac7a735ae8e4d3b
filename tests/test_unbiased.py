"""The unbiased objectives against exact gradients of the discrete ELBO."""

import warnings

import numpy as np
import pytest
from asserts import assert_derivative, assert_exact, assert_mean
from discrete import CASES, LOCS, PRIOR, X
from reference.enumerated import gradient
from reference.gradients import central_difference, conditional_scores
from scipy.special import expit, log_softmax, logsumexp, softmax
from scipy.stats import norm

OBJECTIVES = {
    "REBAR": ("REBAR", {}),
    "REBAR of other settings": ("REBAR", {"temperature": 1.3, "scale": 0.4}),
    "REBAR of two particles": (
        "REBAR",
        {"num_particles": 2, "scale": 0.8, "baseline": 0.7},
    ),
    "RLOO": ("RLOO", {}),
    "RLOO of three particles": ("RLOO", {"num_particles": 3}),
    "DisARM": ("DisARM", {}),
    "LocalExpectations": ("LocalExpectations", {}),
    "LocalExpectations of two particles": ("LocalExpectations", {"num_particles": 2}),
}
# Of a central difference in float64, for the estimates that have no variance.
ROUNDING = 1e-8
ROUTES = ("arguments", "closure", "module")
FAST = {
    ("REBAR", "dependent"),
    ("REBAR", "data"),
    ("RLOO", "dependent"),
    ("DisARM", "two layers"),
    ("LocalExpectations", "dependent"),
    ("LocalExpectations", "data"),
}


def rows(fast):
    for objective, (family, _) in OBJECTIVES.items():
        for name, case in CASES.items():
            if family == "DisARM" and not case.bits:
                continue
            if ((objective, name) in FAST) == fast:
                yield pytest.param(objective, case, id=f"{objective}-{name}")


def estimates(backend, objective, case, copies, seeds=1):
    """Gradients of many copies, in rows."""
    family, settings = OBJECTIVES[objective]
    elbo = getattr(backend.package, family)(**settings)
    evaluate = backend.evaluated(elbo, *case.programs(backend, copies))
    params = {
        name: np.broadcast_to(x, (copies, *np.shape(x))).copy()
        for name, x in case.params.items()
    }
    gradients = [evaluate(params, seed)[1] for seed in range(seeds)]
    return {name: np.concatenate([x[name] for x in gradients]) for name in params}


@pytest.mark.statistical
@pytest.mark.parametrize(("objective", "case"), [*rows(fast=True)])
def test_the_mean_gradient_is_the_exact_one(backend, objective, case):
    expected = gradient(case.elbo, case.params)
    gradients = estimates(backend, objective, case, 20_000)
    for name, samples in gradients.items():
        assert_mean(samples, -expected[name], rounding=ROUNDING)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize(("objective", "case"), [*rows(fast=True), *rows(fast=False)])
def test_the_mean_gradient_is_exact_to_one_per_cent(backend, objective, case):
    expected = gradient(case.elbo, case.params)
    gradients = estimates(backend, objective, case, 100_000, seeds=30)
    size = np.sqrt(sum((x**2).sum() for x in expected.values()))
    for name, samples in gradients.items():
        assert_mean(samples, -expected[name], rounding=ROUNDING)
        error = samples.std(0) / len(samples) ** 0.5
        # A bias of one hundredth of the gradient would be seen.
        assert (5 * error < 0.01 * size).all(), (error, size)


# Parameters that reach the programs in other ways than by `param`.


def by_route(backend, copies):
    """From what reads the values: a model and its guide, one of three for each copy."""

    def programs(values_of):
        def model(*args):
            t = values_of(*args)["t"]
            with backend.plate("copies", copies):
                z = backend.site("z", backend.dist.Categorical(backend.array(SHARES)))
                fn = backend.dist.Normal(backend.array(LOCS)[z] * t, backend.array(0.8))
                backend.site("x", fn, obs=backend.array(X))

        def guide(*args):
            logits = values_of(*args)["a"]
            with backend.plate("copies", copies):
                backend.site("z", backend.dist.Categorical(logits=logits))

        return model, guide

    return programs


def by_route_elbo(params):
    log_p = np.log(SHARES) + norm.logpdf(X, LOCS * params["t"], 0.8)
    log_q = log_softmax(params["a"])
    return float(np.exp(log_q) @ (log_p - log_q))


SHARES = np.array([0.2, 0.3, 0.5])


@pytest.mark.statistical
@pytest.mark.parametrize(
    "route",
    ["arguments", *(pytest.param(x, marks=pytest.mark.slow) for x in ROUTES[1:])],
)
@pytest.mark.parametrize(
    ("objective", "is_tuned"),
    [
        ("REBAR", True),
        ("REBAR", False),
        ("RLOO", False),
        ("LocalExpectations", False),
    ],
)
def test_gradients_are_right_however_parameters_reach_the_programs(
    backend, objective, route, is_tuned
):
    copies = 20_000
    params = {"a": np.array([0.4, -0.3, 0.1]), "t": np.array(1.1)}
    elbo = getattr(backend.package, objective)(num_particles=2)
    programs = by_route(backend, copies)

    def model_and_guide(values_of):
        model, guide = programs(values_of)
        return model, elbo.with_learned_settings(guide) if is_tuned else guide

    values = {
        name: np.broadcast_to(x, (copies, *x.shape)).copy()
        for name, x in params.items()
    }
    gradients = backend.gradient_by_route(route, elbo, model_and_guide, values)
    for name, expected in gradient(by_route_elbo, params).items():
        assert_mean(gradients[name], -expected, rounding=ROUNDING)


# Their parts.


def test_conditional_scores_are_the_draws_that_have_the_argmax(rng):
    logits = np.array([0.4, -0.3, 0.8])
    num_draws = 4000
    draws = logits + rng.gumbel(size=(num_draws, 3))
    for k in range(3):
        accepted = draws[draws.argmax(-1) == k]
        noise = rng.exponential(size=(len(accepted), 3))
        conditional = np.array([conditional_scores(logits, e, k) for e in noise])
        assert (conditional.argmax(-1) == k).all()
        for moment in (1, 2):
            gap = conditional**moment - (accepted**moment).mean(0)
            error = (accepted**moment).std(0) / len(accepted) ** 0.5
            gap_error = gap.std(0) / len(gap) ** 0.5
            assert (np.abs(gap.mean(0)) < 5 * np.hypot(error, gap_error)).all()


def test_categorical_rebar_is_the_score_and_two_paths(backend, rng):
    logits, slope, scores = rng.normal(size=(3, 4))
    k = scores.argmax()
    largest_exponential = np.exp(-scores[k])
    # The exponentials that make these scores the conditional ones.
    exponentials = (np.exp(-scores) - largest_exponential) * np.exp(logits)
    exponentials[k] = np.exp(logsumexp(logits)) * largest_exponential
    assert_exact(conditional_scores(logits, exponentials, k), scores)
    paths = central_difference(
        lambda a: slope @ (a - conditional_scores(a, exponentials, k)), logits
    )
    score = np.eye(4)[k] - softmax(logits)
    estimate = rebar_of(backend, "categorical", 0.7, slope, scores, logits)
    assert_derivative(estimate, 0.7 * score + paths)


def test_binary_rebar_is_the_categorical_one_of_two(backend, rng):
    logits, slope, scores = rng.normal(size=(3, 6))
    logits[0] = 30.0
    scores[0] = 31.0
    logits[1] = 30.0
    scores[1] = -5.0
    estimates = rebar_of(backend, "binary", 0.7, slope, scores, logits)
    for i in range(6):
        two = [np.array([-x, x]) / 2 for x in (2 * slope[i], scores[i], logits[i])]
        expected = rebar_of(backend, "categorical", 0.7, *two)
        assert_exact(estimates[i], expected[1])


def rebar_of(backend, kind, signal, *arrays):
    module = backend.package.objectives.logit_gradients
    arrays = [backend.array(x) for x in (signal, *arrays)]
    return backend.numpy(getattr(module, f"{kind}_rebar_gradient")(*arrays))


# The loss.


@pytest.mark.parametrize("objective", ["REBAR", "RLOO", "LocalExpectations"])
def test_the_posterior_as_guide_has_the_evidence_as_loss(backend, objective):
    joint = log_softmax(PRIOR) + norm.logpdf(X, LOCS, 0.8)
    elbo = getattr(backend.package, objective)()
    programs = CASES["one integer"].programs(backend, 7)
    loss, grads = backend.evaluated(elbo, *programs)({"a": np.tile(joint, (7, 1))})
    assert_exact(loss, -7 * logsumexp(joint))
    if objective != "REBAR":
        assert_exact(grads["a"], np.zeros((7, 3)))


def test_opposite_draws_of_fair_bits_are_exact(backend):
    case = CASES["one bit"]
    evaluate = backend.evaluated(backend.package.DisARM(), *case.programs(backend, 5))
    loss, grads = evaluate({"a": np.zeros(5)})
    params = {"a": np.array(0.0)}
    assert_exact(loss, -5 * case.elbo(params))
    assert_derivative(grads["a"], -np.tile(gradient(case.elbo, params)["a"], 5))


# Tuning.

_NAMES = ("z_rebar_temperature", "z_rebar_scale", "z_rebar_baseline")


def settings_of(*values):
    return dict(zip(_NAMES, np.array(values), strict=True))


@pytest.mark.parametrize(
    "name", ["one integer", pytest.param("one bit", marks=pytest.mark.slow)]
)
def test_tuning_follows_the_squares_and_changes_no_other_gradient(backend, name):
    case = CASES[name]
    copies = 9
    programs = case.programs(backend, copies)
    a = np.array([case.params["a"]] * copies)
    setting_values = (0.7, 0.6, 0.3)
    options = {"num_particles": 2}
    rebar = backend.package.REBAR(**options)
    tuned = backend.evaluated(
        rebar, programs[0], rebar.with_learned_settings(programs[1])
    )
    settings = dict(
        zip(("temperature", "scale", "baseline"), setting_values, strict=True)
    )
    fixed = backend.evaluated(backend.package.REBAR(**settings, **options), *programs)
    _, expected = fixed({"a": a})
    _, grads = tuned({"a": a, **settings_of(*setting_values)})
    assert_exact(grads["a"], expected["a"])

    # The logits are those of each copy, but that they have the mean of two particles.
    single = backend.package.REBAR()
    tuned = backend.evaluated(
        single, programs[0], single.with_learned_settings(programs[1])
    )

    def squares(settings):
        return (tuned({"a": a, **settings_of(*settings)})[1]["a"] ** 2).sum()

    _, grads = tuned({"a": a, **settings_of(*setting_values)})
    slopes = central_difference(squares, np.array(setting_values))
    assert_derivative([grads[k] for k in _NAMES], slopes)


@pytest.mark.slow
def test_training_a_tuned_guide_lowers_the_variance(backend):
    case = CASES["one vertex"]
    copies = 500
    model, guide = case.programs(backend, copies)
    rebar = backend.package.REBAR(temperature=4.0, scale=0.2)
    a = np.tile(case.params["a"], (copies, 1))

    def frozen():
        # The guide's own logits stay: the settings are all there is to train.
        with backend.plate("copies", copies):
            backend.site("z", backend.one_hot(backend.array(a)))

    _, params = backend.train(
        rebar, model, rebar.with_learned_settings(frozen), steps=400, lr=0.02
    )
    settings = {k: backend.numpy(v) for k, v in params.items()}
    assert settings.keys() == set(_NAMES)
    tuned = backend.evaluated(rebar, model, rebar.with_learned_settings(guide))
    initial_variance, learned_variance = (
        np.mean([tuned({"a": a, **x}, seed)[1]["a"].var(0).sum() for seed in range(5)])
        for x in (settings_of(4.0, 0.2, 1.0), settings)
    )
    assert learned_variance < 0.8 * initial_variance, (
        initial_variance,
        learned_variance,
        settings,
    )


# Use.

SLOW_TO_TRAIN = ("RLOO", "DisARM", "LocalExpectations")


@pytest.mark.parametrize(
    "objective",
    ["REBAR", *(pytest.param(x, marks=pytest.mark.slow) for x in SLOW_TO_TRAIN)],
)
def test_svi_comes_close_to_the_best_guide(backend, objective):
    dist = backend.dist

    def model():
        z = backend.site("z", dist.Bernoulli(logits=backend.array(-0.6)))
        backend.site(
            "x", dist.Normal(1.3 * z, backend.array(0.8)), obs=backend.array(1.0)
        )

    def guide():
        a = backend.param("a", backend.array(-1.0))
        backend.site("z", dist.Bernoulli(logits=a))

    elbo = getattr(backend.package, objective)(num_particles=2)
    guide = elbo.with_learned_settings(guide) if objective == "REBAR" else guide
    _, params = backend.train(elbo, model, guide, steps=200, lr=0.05)
    best = -0.6 + norm.logpdf(1.0, 1.3, 0.8) - norm.logpdf(1.0, 0.0, 0.8)
    assert abs(expit(backend.numpy(params["a"])) - expit(best)) < 0.1


# Errors.


def sites(backend, *names, **infer):
    """A program of these sites, which runs as its own guide."""
    dist = backend.dist
    half = backend.array(0.5)
    families = {
        "bit": lambda: dist.Bernoulli(half),
        "class": lambda: dist.Categorical(logits=backend.array(np.zeros(3))),
        "count": lambda: dist.Poisson(half),
    }

    def program():
        for name in names:
            backend.site(name, families[name](), infer=infer)

    return program


@pytest.mark.parametrize(
    ("objective", "names", "infer", "message"),
    [
        ("DisARM", ["bit", "class"], {}, "'class' is not a Bernoulli"),
        ("DisARM", ["count"], {}, "'count' ~ Poisson has no finite support.*RLOO"),
        ("REBAR", ["count"], {}, "'count' ~ Poisson has no finite support.*RLOO"),
        ("REBAR", ["bit"], {"relax": False}, "'bit' is hardened or marked.*relaxes it"),
        ("REBAR", ["bit"], {"enumerate": "parallel"}, "'bit' is marked for enum"),
        ("RLOO", ["bit"], {"enumerate": "parallel"}, "'bit' is marked for enum"),
        ("LocalExpectations", ["count"], {}, "'count' ~ Poisson has no finite.*RLOO"),
        ("LocalExpectations", ["bit"], {"enumerate": "parallel"}, "'bit' is marked"),
    ],
)
def test_sites_that_an_objective_cannot_take_are_named(
    backend, objective, names, infer, message
):
    program = sites(backend, *names, **infer)
    elbo = getattr(backend.package, objective)()
    with pytest.raises((NotImplementedError, ValueError), match=message):
        backend.evaluated(elbo, program, program)({})


@pytest.mark.parametrize("objective", ["REBAR", "RLOO", "DisARM", "LocalExpectations"])
def test_sites_of_one_program_alone_are_named(backend, objective):
    programs = sites(backend, "bit", "class"), sites(backend, "bit")
    elbo = getattr(backend.package, objective)()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the backend has one, too
        with pytest.raises(ValueError, match="'class' of the model is latent"):
            backend.evaluated(elbo, *programs)({})


@pytest.mark.parametrize(
    "name", ["REBAR", "RLOO", "DisARM", "LocalExpectations", "IWAE"]
)
def test_the_number_of_particles_comes_first(backend, name):
    assert getattr(backend.package, name)(8).num_particles == 8


def test_settings_are_checked(backend):
    package = backend.package
    with pytest.raises(ValueError, match="num_particles >= 2, not 1"):
        package.RLOO(num_particles=1)
    with pytest.raises(ValueError, match="temperature"):
        package.REBAR(temperature=-1.0)
    program = sites(backend, "bit", "class")
    elbo = package.REBAR(temperature={"bit": 1.0})
    with pytest.raises(ValueError, match=r"names no value for site 'class'"):
        backend.evaluated(elbo, program, program)({})
