"""IWAE: the multi-sample bound as a loss, against enumeration and quadrature."""

import itertools
import math

import numpy as np
import pytest
from asserts import assert_derivative, assert_exact, assert_mean
from discrete import CASES
from reference.concrete import binary_concrete_log_density
from reference.enumerated import gradient, multi_sample_bound
from reference.gradients import central_difference
from scipy.special import expit, log_expit, log_softmax, logsumexp, softmax
from scipy.stats import chisquare, norm

X = -2.1
PRIOR = np.array([0.2, 0.5, 0.3])
LOCS = np.array([-1.0, 0.4, 1.5])
SCALE = 0.9
A = np.array([0.3, -0.2, 0.5])
T = 1.1


# The learning signals.


def signals_of(log_weights):
    """The definition, one particle after the other, at double precision."""
    m = len(log_weights)
    signals = np.empty_like(log_weights)
    for i in range(m):
        other_log_weights = np.delete(log_weights, i, 0)
        replaced = np.concatenate(
            [other_log_weights, other_log_weights.mean(0, keepdims=True)]
        )
        signals[i] = logsumexp(log_weights, 0) - logsumexp(replaced, 0)
    return signals


@pytest.mark.parametrize("m", [2, 3, 7])
def test_signals_are_those_of_the_definition(backend, rng, m):
    log_weights = rng.normal(size=(m, 40)) * np.geomspace(0.1, 300, 40) - 700
    signals = backend.package.objectives.learning_signals.vimco_signals(
        backend.array(log_weights)
    )
    assert_exact(signals, signals_of(log_weights))


def test_a_weight_of_zero_has_a_signal(backend):
    log_weights = backend.array([[1.0, -np.inf], [2.0, 0.5], [-np.inf, -np.inf]])
    signals = backend.package.objectives.learning_signals.vimco_signals(log_weights)
    total = logsumexp([1.0, 2.0])
    # Where all other weights are zero, there is no baseline.
    expected = [
        [total - 2.0, 0.0],
        [total - 1.0, 0.5],
        [total - logsumexp([1.0, 2.0, 1.5]), 0.0],
    ]
    assert_exact(signals, expected)


# The mean gradient.


def estimates(backend, loss, case, copies):
    """The loss of a copy, and the gradients of all of them in rows."""
    evaluate = backend.evaluated(loss, *case.programs(backend, copies))
    params = {
        name: np.broadcast_to(x, (copies, *np.shape(x))).copy()
        for name, x in case.params.items()
    }
    value, grads = evaluate(params)
    return value / copies, grads


def rows():
    slow = pytest.mark.slow
    fast = {("continuous", 2)}
    for name, m in itertools.product(CASES, (1, 2, 3, 5)):
        outcomes = {"two layers": 64, "dependent": 12, "continuous": 512}.get(name, 3)
        if name != "data" and outcomes**m < 300_000:
            marks = () if (name, m) in fast else slow
            yield pytest.param(CASES[name], m, id=f"{name}-{m}", marks=marks)


@pytest.mark.statistical
@pytest.mark.parametrize(("case", "m"), [*rows()])
def test_the_mean_gradient_is_that_of_the_bound(backend, case, m):
    loss = backend.package.IWAE(m, plate="copies")
    _, gradients = estimates(backend, loss, case, 20_000)
    expected = gradient(lambda params: case.elbo(params, m), case.params)
    for name, samples in gradients.items():
        assert_mean(samples, -expected[name])


# Each single gradient: a mixture of three, with parameters in model and guide.


def mixture(backend, rows, **plate):
    """A mixture, of which each row has logits and a factor of its own."""
    prior = backend.array(PRIOR)
    locs = backend.array(LOCS)

    def model():
        t = backend.param("t")
        with backend.plate("data", rows, **plate) as indices:
            z = backend.site("z", backend.dist.Categorical(prior))
            fn = backend.dist.Normal(locs[z] * t[indices], backend.array(SCALE))
            backend.site("x", fn, obs=backend.array(X))

    def guide():
        a = backend.param("a")
        with backend.plate("data", rows, **plate) as indices:
            backend.site("z", backend.dist.Categorical(logits=a[indices]))

    return model, guide


def log_weights_of(a, t):
    log_p = np.log(PRIOR) + norm.logpdf(X, LOCS * t, SCALE)
    return log_p - log_softmax(a)


def gradients_of_draws(draws):
    """The gradient of the loss in the logits and the factor, written out."""
    z = np.array(draws)
    log_weights = log_weights_of(A, T)[z]
    score = np.eye(3)[z] - softmax(A)
    weights = softmax(log_weights)
    slope = (X - LOCS[z] * T) / SCALE**2 * LOCS[z]
    if len(z) == 1:
        # As the rows are compared with each other, it is tested below.
        return -(weights @ slope)
    signals = signals_of(log_weights[:, None])[:, 0]
    return -np.array([*((signals - weights) @ score), weights @ slope])


@pytest.mark.parametrize(
    ("m", "chunk_size"),
    [
        (3, 2),
        *(
            pytest.param(*x, marks=pytest.mark.slow)
            for x in ((2, None), (3, None), (3, 1), (4, 2))
        ),
    ],
)
def test_each_gradient_is_that_of_its_draws(backend, m, chunk_size):
    copies = 3000
    loss = backend.package.IWAE(m, plate="data", chunk_size=chunk_size)
    evaluate = backend.evaluated(loss, *mixture(backend, copies))
    value, grads = evaluate({"a": np.tile(A, (copies, 1)), "t": np.full(copies, T)})
    gradients = np.column_stack([grads["a"], grads["t"]])
    tuples = [*itertools.combinations_with_replacement(range(3), m)]
    expected = np.array([gradients_of_draws(z) for z in tuples])
    gaps = np.abs(gradients[:, None] - expected).max(-1)
    assert gaps.min(-1).max() < 1e-10
    which = gaps.argmin(-1)
    bounds = [logsumexp(log_weights_of(A, T)[[*z]]) - math.log(m) for z in tuples]
    assert_exact(value, -np.array(bounds)[which].sum())
    # They are drawn as often as the guide says.
    q = softmax(A)
    orders = [len(set(itertools.permutations(z))) for z in tuples]
    probs = np.array([q[[*z]].prod() for z in tuples]) * orders
    counts = np.bincount(which, minlength=len(tuples))
    assert chisquare(counts, probs * copies).pvalue > 1e-5


# Relaxed programs.


def relaxed_bound(a, t, m):
    """The mean bound of a relaxed bit with log-odds a, by quadrature."""
    steps = np.arange(-24.0, 24.0, 0.2)
    noise = expit(steps) * expit(-steps) * 0.2
    point = expit((a + steps) / (2 / 3))
    is_interior = (point > 0) & (point < 1)
    steps = steps[is_interior]
    noise = noise[is_interior]
    point = point[is_interior]
    # The map to log-odds has one Jacobian in model and guide.
    log_q = binary_concrete_log_density(point, 2 / 3, a)
    log_p = binary_concrete_log_density(point, 1 / 2, 0.4)
    log_p = log_p + norm.logpdf(X, t * point, SCALE)
    return multi_sample_bound(np.log(noise), log_p - log_q, m)


def relaxed_bit(backend, rows):
    def model():
        t = backend.param("t")
        with backend.plate("data", rows):
            z = backend.site("z", backend.dist.Bernoulli(logits=backend.array(0.4)))
            fn = backend.dist.Normal(t * z, backend.array(SCALE))
            backend.site("x", fn, obs=backend.array(X))

    def guide():
        a = backend.param("a")
        with backend.plate("data", rows):
            backend.site("z", backend.dist.Bernoulli(logits=a))

    relax = backend.package.relax
    return (
        relax(model, 1 / 2, scoring="concrete"),
        relax(guide, 2 / 3, scoring="concrete"),
    )


@pytest.mark.statistical
@pytest.mark.parametrize("m", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_relaxed_bit_has_the_gradient_of_its_bound(backend, m):
    copies = 20_000
    loss = backend.package.IWAE(m, plate="data")
    evaluate = backend.evaluated(loss, *relaxed_bit(backend, copies))
    value, gradients = evaluate({"a": np.full(copies, -0.3), "t": np.full(copies, 1.2)})
    along_a = lambda a: relaxed_bound(float(a), 1.2, m)  # noqa: E731
    along_t = lambda t: relaxed_bound(-0.3, float(t), m)  # noqa: E731
    assert_mean(gradients["a"], -central_difference(along_a, np.array(-0.3)))
    assert_mean(gradients["t"], -central_difference(along_t, np.array(1.2)))
    assert abs(value / copies + relaxed_bound(-0.3, 1.2, m)) < 0.05


@pytest.mark.slow_on("numpyro")
def test_where_all_has_a_path_it_is_the_backend_s(backend):
    # No site is outside of the plate, and nothing is subsampled.
    programs = relaxed_bit(backend, 6)
    params = {"a": np.linspace(-1, 1, 6), "t": np.full(6, 1.2)}
    expected = backend.renyi_loss_and_grads(*programs, params=params, particles=4)
    loss_and_grads = backend.evaluated(
        backend.package.IWAE(4, plate="data"), *programs
    )(params)
    # Pyro's number is one of float32.
    assert_exact(loss_and_grads[0], expected[0], "float32")
    for name, value in expected[1].items():
        assert_exact(loss_and_grads[1][name], value)


# Subsamples, and what is outside of the plate.


@pytest.mark.slow
@pytest.mark.statistical
def test_a_subsample_has_the_mean_of_the_plate(backend):
    m = 2
    size = 5
    a = np.tile(A, (size, 1)) * np.linspace(0, 1, size)[:, None]
    t = np.linspace(1, 2, 5)
    loss = backend.package.IWAE(m, plate="data")
    programs = mixture(backend, size, subsample_size=2)
    params = {"a": backend.array(a), "t": backend.array(t)}
    gradients = backend.sampled_gradients(
        loss,
        *(backend.with_params(fn, params) for fn in programs),
        params=params,
        draws=800,
    )

    def bound(params):
        pairs = zip(params["a"], params["t"], strict=True)
        rows = [(log_softmax(a), log_weights_of(a, t)) for a, t in pairs]
        return sum(multi_sample_bound(*row, m) for row in rows)

    expected = gradient(bound, {"a": a, "t": t})
    for name, samples in gradients.items():
        assert_mean(samples, -expected[name])


@pytest.mark.slow_on("numpyro")
def test_a_subsample_is_one_for_all_particles(backend):
    size = 6
    subsample_size = 2
    t = np.linspace(0.5, 2, size)
    evidence = logsumexp(np.log(PRIOR) + norm.logpdf(X, LOCS * t[:, None], SCALE), -1)
    posterior = np.array([log_weights_of(A, x) + log_softmax(A) for x in t])
    programs = mixture(backend, size, subsample_size=subsample_size)
    loss = backend.package.IWAE(3, plate="data", chunk_size=2)
    evaluate = backend.evaluated(loss, *programs)
    sums = [
        -size / subsample_size * sum(x)
        for x in itertools.combinations(evidence, subsample_size)
    ]
    values = [evaluate({"a": posterior, "t": t}, seed)[0] for seed in range(12)]
    nearest = [min(sums, key=lambda s, v=v: abs(s - v)) for v in values]
    assert_exact(values, nearest)
    assert len(set(nearest)) > 3


def with_shift(backend):
    """A shift of all data that the guide fixes, and the posterior given it."""
    posterior = log_weights_of(A, T) + log_softmax(A)
    prior = backend.array(PRIOR)
    locs = backend.array(LOCS)

    def model():
        normal = backend.dist.Normal(backend.array(0.0), backend.array(1.0))
        shift = backend.site("shift", normal)
        with backend.plate("data", 5):
            z = backend.site("z", backend.dist.Categorical(prior))
            fn = backend.dist.Normal(locs[z] * T + shift, backend.array(SCALE))
            backend.site("x", fn, obs=backend.array(X + 0.7))

    def guide():
        backend.site("shift", backend.dist.Delta(backend.param("shift_loc")))
        with backend.plate("data", 5):
            logits = backend.array(posterior)
            backend.site("z", backend.dist.Categorical(logits=logits))

    return model, guide


@pytest.mark.slow
@pytest.mark.statistical
def test_what_the_guide_fixes_outside_of_the_plate_is_added_once(backend):
    def evidence(shift):
        log_likelihood = norm.logpdf(X + 0.7 - shift, LOCS * T, SCALE)
        return norm.logpdf(shift) + 5 * logsumexp(np.log(PRIOR) + log_likelihood)

    loss = backend.package.IWAE(4, plate="data")
    model, guide = with_shift(backend)
    params = {"shift_loc": backend.array(0.7)}
    value, _ = backend.evaluated(loss, model, guide)({"shift_loc": np.array(0.7)})
    assert_exact(value, -evidence(0.7))
    # At the posterior the gap of the bound has no slope.
    guide = backend.with_params(guide, params)
    gradients = backend.sampled_gradients(loss, model, guide, params=params, draws=500)
    slope = central_difference(lambda x: evidence(float(x)), np.array(0.7))
    assert_mean(gradients["shift_loc"], -slope)


@pytest.mark.slow_on("numpyro")
def test_without_a_plate_it_is_one_bound(backend):
    model, guide = mixture(backend, 2)
    t = np.array([0.8, 1.3])
    posterior = np.array([log_weights_of(A, x) + log_softmax(A) for x in t])
    evaluate = backend.evaluated(backend.package.IWAE(3), model, guide)
    value, _ = evaluate({"a": posterior, "t": t})
    evidence = logsumexp(np.log(PRIOR) + norm.logpdf(X, LOCS * t[:, None], SCALE), -1)
    assert_exact(value, -evidence.sum())


@pytest.mark.slow
@pytest.mark.statistical
def test_masks_and_scales_change_weights_and_not_how_likely_a_draw_is(backend):
    # A masked element has no gradient, and one that counts twice has that of its
    # weights squared, at the probabilities that it is drawn with.
    copies = 20_000
    m = 2
    model, guide = mixture(backend, copies)
    is_unmasked = np.arange(copies) % 2 == 0

    def changed(fn):
        def program():
            with backend.mask(backend.array(is_unmasked, "bool")), backend.scale(2.0):
                fn()

        return program

    loss = backend.package.IWAE(m, plate="data")
    evaluate = backend.evaluated(loss, changed(model), changed(guide))
    _, grads = evaluate({"a": np.tile(A, (copies, 1)), "t": np.full(copies, T)})

    def bound(a):
        return multi_sample_bound(log_softmax(a), 2 * log_weights_of(a, T), m)

    assert_exact(grads["a"][~is_unmasked], 0)
    assert_mean(grads["a"][is_unmasked], -central_difference(bound, A))


# One particle.


def bit(backend, rows, predictions=None, data=X):
    """A bit for each row; its guide, and predictions of the log-weights."""

    def model():
        with backend.plate("data", rows):
            z = backend.site("z", backend.dist.Bernoulli(logits=backend.array(0.4)))
            fn = backend.dist.Normal(2.0 * z, backend.array(SCALE))
            backend.site("x", fn, obs=backend.array(data))

    def guide():
        a = backend.param("a")
        with backend.plate("data", rows):
            if predictions is not None:
                backend.deterministic("known", predictions())
            backend.site("z", backend.dist.Bernoulli(logits=a))

    return model, guide


def bit_log_weights(a, data=X):
    """The log-weights of the two values, last."""
    values = np.arange(2)
    log_p = 0.4 * values - np.log1p(np.exp(0.4))
    log_p = log_p + norm.logpdf(np.asarray(data)[..., None], 2.0 * values, SCALE)
    return log_p - log_expit(np.stack([-a, a], -1))


@pytest.mark.slow_on("numpyro")
def test_one_particle_is_compared_with_the_other_elements(backend):
    copies = 500
    a = -0.3
    loss = backend.package.IWAE(1, plate="data")
    value, grads = backend.evaluated(loss, *bit(backend, copies))(
        {"a": np.full(copies, a)}
    )
    z = grads["a"]  # the score is of another sign for each of the two values
    log_weights = bit_log_weights(np.array(a))
    num_ones = round((-value - copies * log_weights[0]) / np.diff(log_weights)[0])
    assert 0 < num_ones < copies
    total = num_ones * log_weights[1] + (copies - num_ones) * log_weights[0]
    assert_exact(value, -total)
    expected = np.array(
        [
            -(log_weights[k] - (total - log_weights[k]) / (copies - 1)) * (k - expit(a))
            for k in range(2)
        ]
    )
    nearest = expected[np.abs(z[:, None] - expected).argmin(-1)]
    assert_exact(z, nearest)


@pytest.mark.slow
@pytest.mark.statistical
def test_predictions_learn_alone_and_lower_the_variance(backend):
    copies = 20_000
    a = np.linspace(-1, 1, copies)
    data = np.linspace(-9, 9, copies)
    log_weights = bit_log_weights(a, data)
    q = expit(np.stack([-a, a], -1))
    b = (q * log_weights).sum(-1)
    programs = bit(backend, copies, lambda: backend.param("b"), data)
    loss = backend.package.IWAE(1, plate="data", baseline="known")
    _, grads = backend.evaluated(loss, *programs)({"a": a, "b": b})
    elbo_slopes = q.prod(-1) * np.diff(log_weights)[:, 0]
    assert_mean(grads["a"] + elbo_slopes, 0)
    # The slope of the squared error is twice the error, at one of two draws.
    errors = np.abs(grads["b"][:, None] / 2 - (b[:, None] - log_weights)).min(-1)
    assert_exact(errors, 0, scale=100)
    loss = backend.package.IWAE(1, plate="data")
    _, plain = backend.evaluated(loss, *bit(backend, copies, data=data))({"a": a})
    assert grads["a"].var() < 0.3 * plain["a"].var()


# Errors.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_particles": 0}, "num_particles must be at least 1, not 0"),
        ({"num_particles": 2, "chunk_size": 0}, "chunk_size must be at least 1, not 0"),
        ({"num_particles": 2, "baseline": "b"}, "baseline='b' is for one particle"),
    ],
)
def test_wrong_settings_are_refused(backend, settings, words):
    with pytest.raises(ValueError, match=words):
        backend.package.IWAE(**settings)


def test_a_baseline_that_is_not_there_is_refused(backend):
    loss = backend.package.IWAE(1, plate="data", baseline="unknown")
    with pytest.raises(ValueError, match="no deterministic site 'unknown'"):
        backend.evaluated(loss, *bit(backend, 3))({"a": np.zeros(3)})


def test_a_baseline_of_another_shape_is_refused(backend):
    predictions = lambda: backend.array(np.zeros((3, 2)))  # noqa: E731
    loss = backend.package.IWAE(1, plate="data", baseline="known")
    with pytest.raises(ValueError, match=r"'known', the baseline, has shape \(3, 2\)"):
        backend.evaluated(loss, *bit(backend, 3, predictions))({"a": np.zeros(3)})


@pytest.mark.slow
def test_training_comes_close_to_the_best_guide(backend):
    rows = 20
    model, _ = bit(backend, rows, data=0.5)

    def guide():
        a = backend.param("a", backend.array(np.full(rows, 2.0)))
        with backend.plate("data", rows):
            backend.site("z", backend.dist.Bernoulli(logits=a))

    loss = backend.package.IWAE(2, plate="data")
    _, params = backend.train(loss, model, guide, steps=300, lr=0.05)
    best = np.diff(bit_log_weights(np.array(0.0), 0.5))[0]
    assert abs(expit(backend.numpy(params["a"])).mean() - expit(best)) < 0.1


def test_derivatives_of_the_bound_agree_with_the_loss_of_chunks(backend):
    # A guide that fixes all: there is one draw, and no noise between two calls.
    def model():
        t = backend.param("t")
        with backend.plate("data", 4):
            w = backend.site("w", backend.dist.Normal(backend.array(0.0), 1.0))
            backend.site("x", backend.dist.Normal(t * w, 1.0), obs=backend.array(X))

    def guide():
        w = backend.param("w_loc")
        with backend.plate("data", 4):
            backend.site("w", backend.dist.Delta(w))

    w = np.linspace(-1, 1, 4)
    loss = backend.package.IWAE(6, plate="data", chunk_size=4)
    value, grads = backend.evaluated(loss, model, guide)(
        {"t": np.array(0.8), "w_loc": w}
    )
    assert_exact(value, -(norm.logpdf(w) + norm.logpdf(X, 0.8 * w)).sum())
    assert_derivative(grads["t"], -((X - 0.8 * w) * w).sum())
    assert_derivative(grads["w_loc"], w - 0.8 * (X - 0.8 * w))
