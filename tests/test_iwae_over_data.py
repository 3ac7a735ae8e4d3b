"""The multi-sample bound of each data point, against evidences by enumeration."""

import math

import numpy as np
import pytest
from asserts import assert_exact, assert_mean
from reference.enumerated import multi_sample_bound
from scipy import stats
from scipy.special import log_softmax, logsumexp

X = np.array([-2.1, -1.8, 1.9, 0.3, 2.2, -0.4, 0.9])
PRIOR = np.array([0.2, 0.5, 0.3])
LOCS = np.array([-1.0, 0.4, 1.5])
SCALE = 0.9
JOINT = np.log(PRIOR) + stats.norm.logpdf(X[:, None], LOCS, SCALE)
EVIDENCE = logsumexp(JOINT, -1)
# A guide that is not the posterior.
LOGITS = np.array([0.3, -0.2, 0.5])
SETTINGS = {"plate": "data", "num_particles": 6, "chunk_size": 4, "data_chunk_size": 3}


def mixture(backend, **plate):
    """A mixture of three, and the posterior of its components given the data."""
    prior, locs, scale = map(backend.array, (PRIOR, LOCS, SCALE))

    def model(data):
        with backend.plate("data", len(data), **plate):
            z = backend.site("z", backend.dist.Categorical(prior))
            backend.site("x", backend.dist.Normal(locs[z], scale), obs=data)

    def posterior(data):
        squares = ((data[..., None] - locs) / scale) ** 2
        logits = backend.array(np.log(PRIOR)) - squares / 2
        with backend.plate("data", len(data), **plate):
            backend.site("z", backend.dist.Categorical(logits=logits))

    return model, posterior


def flat_guide(backend):
    """A guide with one parameter, the same for each data point."""

    def guide(data):
        logits = backend.param("logits")
        with backend.plate("data", len(data)):
            backend.site("z", backend.dist.Categorical(logits=logits))

    return guide


def evaluate(backend, model, guide, *data, **settings):
    arrays = map(backend.array, data or (X,))
    function = backend.package.iwae_bound_over_data
    return backend.evaluate(function, model, guide, *arrays, **SETTINGS | settings)


def test_the_posterior_as_guide_gives_the_evidence_of_each_data_point(backend):
    lengths = []
    model, posterior = mixture(backend)

    def counted(data):
        lengths.append(len(data))
        model(data)

    estimate = evaluate(backend, counted, posterior)
    assert isinstance(estimate, backend.package.DataBounds)
    assert estimate.bounds.dtype == np.float64
    assert_exact(estimate.bounds, EVIDENCE)
    assert_exact(estimate.mean, EVIDENCE.mean())
    assert_exact(estimate.stderr, stats.sem(EVIDENCE))
    assert max(lengths) == SETTINGS["data_chunk_size"]


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("vectorize", [True, False])
def test_the_expectation_is_that_over_all_draws(backend, vectorize):
    m = 3
    rows = 2000 if vectorize else 300
    model, _ = mixture(backend)
    estimate = evaluate(
        backend,
        model,
        flat_guide(backend),
        np.full(rows, X[0]),
        params={"logits": backend.array(LOGITS)},
        num_particles=m,
        chunk_size=2,
        data_chunk_size=rows // 3,
        vectorize_particles=vectorize,
    )
    log_q = log_softmax(LOGITS)
    expected = multi_sample_bound(log_q, JOINT[0] - log_q, m)
    assert_mean(estimate.bounds, expected)
    assert abs(estimate.mean - expected) < 5 * estimate.stderr
    # Each chunk has draws of its own.
    assert len({tuple(x) for x in np.array_split(estimate.bounds[: 3 * 50], 3)}) == 3


def interrupted_after(num_chunks):
    """Let an evaluation stop when so many chunks are saved."""
    from concrete_core.objectives.data_bounds import Checkpoint

    save = Checkpoint.save
    saved = []

    def save_and_stop(*args):
        save(*args)
        saved.append(args)
        if len(saved) == num_chunks:
            raise KeyboardInterrupt

    patch = pytest.MonkeyPatch()
    patch.setattr(Checkpoint, "save", save_and_stop)
    return patch


def test_an_interrupted_evaluation_goes_on(backend, tmp_path):
    model, _ = mixture(backend)
    guide = flat_guide(backend)
    params = {"logits": backend.array(LOGITS)}
    whole = evaluate(backend, model, guide, params=params)
    checkpoint = tmp_path / "bounds.npz"
    patch = interrupted_after(2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(backend, model, guide, params=params, checkpoint=checkpoint)
    patch.undo()
    with np.load(checkpoint) as file:
        assert len(file["bounds"]) == 6
    resumed = evaluate(backend, model, guide, params=params, checkpoint=checkpoint)
    np.testing.assert_array_equal(resumed.bounds, whole.bounds)
    # What is complete is read from the file.
    runs = []

    def counted(data):
        runs.append(len(data))
        model(data)

    again = evaluate(backend, counted, guide, params=params, checkpoint=str(checkpoint))
    np.testing.assert_array_equal(again.bounds, whole.bounds)
    assert len(runs) <= 1  # to read the parameters


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("changed", ["params", "data", "num_particles", "chunk"])
def test_a_checkpoint_of_another_evaluation_is_an_error(backend, tmp_path, changed):
    model, _ = mixture(backend)
    guide = flat_guide(backend)
    checkpoint = tmp_path / "bounds.npz"
    params = {"logits": backend.array(LOGITS)}
    evaluate(backend, model, guide, params=params, checkpoint=checkpoint)
    data = X.copy()
    settings = {}
    if changed == "params":
        params = {"logits": backend.array(LOGITS + 0.1)}
    elif changed == "data":
        data[-1] += 1
    elif changed == "num_particles":
        settings = {"num_particles": 7}
    else:
        settings = {"data_chunk_size": 7}
    settings |= {"params": params, "checkpoint": checkpoint}
    with pytest.raises(ValueError, match="is of an evaluation with other"):
        evaluate(backend, model, guide, data, **settings)


def test_several_arrays_are_split_and_keywords_are_not(backend):
    model, posterior = mixture(backend)
    shift = np.linspace(-1, 1, len(X))

    def shifted(fn):
        return lambda data, shift, *, factor: fn(factor * (data - shift))

    estimate = evaluate(
        backend, shifted(model), shifted(posterior), X / 2 + shift, shift, factor=2.0
    )
    assert_exact(estimate.bounds, EVIDENCE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, X[:3]), r"first axis, but have the shapes \[\(7,\), \(3,\)\]"),
        ((np.array(1.0),), "first axis, but have the shapes"),
        ((X[:0],), "there are no data points"),
    ],
    ids=["lengths", "number", "empty"],
)
def test_data_without_a_common_length_are_an_error(backend, data, message):
    with pytest.raises(ValueError, match=message):
        evaluate(backend, *mixture(backend), *data)


def test_data_are_given_by_position(backend):
    with pytest.raises(ValueError, match="positional arguments must be arrays"):
        backend.evaluate(
            backend.package.iwae_bound_over_data, *mixture(backend), plate="data"
        )


def test_elements_that_are_not_the_data_points_are_an_error(backend):
    model, posterior = mixture(backend)
    half = lambda fn: lambda data: fn(data[::3])  # noqa: E731
    with pytest.raises(ValueError, match="'data' has size 1, and 3 data points run"):
        evaluate(backend, half(model), half(posterior))


@pytest.mark.parametrize("name", ["num_particles", "chunk_size", "data_chunk_size"])
def test_numbers_below_one_are_an_error(backend, name):
    with pytest.raises(ValueError, match="must be at least 1"):
        evaluate(backend, *mixture(backend), **{name: 0})


def test_a_plate_that_is_not_there_is_an_error(backend):
    with pytest.raises(ValueError, match="no site is in a plate 'rows'"):
        evaluate(backend, *mixture(backend), plate="rows")


def test_what_depends_on_draws_outside_of_the_plate_is_an_error(backend):
    prior = backend.dist.Bernoulli(backend.array(0.5))

    def sum_of_bits(data):
        with backend.plate("data", len(data)):
            z = backend.site("z", prior)
        fn = backend.dist.Normal(1.0 * z.sum(-1), backend.array(1.0))
        backend.site("x", fn, obs=backend.array(1.0))

    def guide(data):
        with backend.plate("data", len(data)):
            backend.site("z", prior)

    with pytest.raises(ValueError, match="outside of plate 'data' depend on draws"):
        evaluate(backend, sum_of_bits, guide, num_particles=40)


def test_terms_outside_of_the_plate_are_left_out(backend):
    model, posterior = mixture(backend)

    def fixed(data):
        backend.site("shift", backend.dist.Delta(backend.array(0.7)))
        posterior(data - 0.7)

    def shifted(data):
        normal = backend.dist.Normal(backend.array(0.0), backend.array(1.0))
        model(data - backend.site("shift", normal))

    assert_exact(evaluate(backend, shifted, fixed, X + 0.7).bounds, EVIDENCE)


def test_progress_is_shown_over_data_points(backend, capsys):
    evaluate(backend, *mixture(backend))
    assert not capsys.readouterr().err
    evaluate(backend, *mixture(backend), progress_bar=True)
    assert "7/7" in capsys.readouterr().err


def test_one_data_point_has_no_standard_error(backend):
    estimate = evaluate(backend, *mixture(backend), X[:1])
    assert_exact(estimate.bounds, EVIDENCE[:1])
    assert math.isnan(estimate.stderr)
