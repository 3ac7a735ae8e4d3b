"""The command that trains the paper's networks, on images of random bits."""

import csv
import importlib

import numpy as np
import pytest

pytest.importorskip("numpyro")
pytest.importorskip("pyro")

from benchmarks.paper.__main__ import main
from benchmarks.paper.cells import Network
from benchmarks.paper.datasets import load
from benchmarks.paper.published import PUBLISHED
from benchmarks.paper.training import Evaluation, Training

BACKENDS = ("pyro", "numpyro")


def test_names_are_read_as_the_paper_writes_them():
    net = Network.parse("200H~200H~784V")
    assert net.units == (200, 200)
    assert (net.num_inputs, net.num_outputs) == (0, 784)
    assert not net.is_linear
    assert net.temperatures == (1 / 2, 2 / 3)
    conditional = Network.parse("392V-240H-240H-392V")
    assert conditional.units == (240, 240)
    assert (conditional.num_inputs, conditional.num_outputs) == (392, 392)
    assert conditional.is_linear
    assert conditional.temperatures == (2 / 3, 2 / 3)
    for cell in PUBLISHED:
        assert Network.parse(cell.network, cell.arity).name == cell.network


@pytest.mark.parametrize("name", ["784V", "200H", "200H~200H-784V", "200-784V", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="is not a network"):
        Network.parse(name)


def test_bits_are_unpacked(tmp_path):
    bits = np.random.default_rng(0).integers(2, size=(4, 784)).astype(np.uint8)
    packed = np.packbits(bits, axis=-1)
    file = tmp_path / "static_binarized_mnist.npz"
    np.savez(file, x_train=packed[:3], x_test=packed[3:])
    images = load("mnist", tmp_path)
    np.testing.assert_array_equal(images.train, bits[:3])
    np.testing.assert_array_equal(images.test, bits[3:])


def test_omniglot_is_split_and_sampled_once(tmp_path):
    gray = np.zeros((2, 20, 28, 28), np.uint8)
    gray[:, :10] = 255
    gray[0, 0] = 51
    split = np.zeros((2, 20), int)
    split[1, 5:] = 1
    split[0, 19] = 2
    np.savez(tmp_path / "omniglot28.npz", x=gray, iwae_like_split=split)
    images = load("omniglot", tmp_path)
    assert images.train.shape == (24, 784)
    assert images.test.shape == (15, 784)
    # A pixel is on with the probability of its ink.
    np.testing.assert_array_equal(images.train[1:10], 1)
    np.testing.assert_array_equal(images.test[5:], 0)
    assert abs(images.train[0].mean() - 0.2) < 5 * (0.2 * 0.8 / 784) ** 0.5
    np.testing.assert_array_equal(load("omniglot", tmp_path).train, images.train)


@pytest.mark.parametrize(("name", "folder"), [("digits", "."), ("mnist", None)])
def test_data_that_are_not_there_are_an_error(name, folder):
    with pytest.raises(ValueError, match=r"no data set 'digits'|mnist needs --data"):
        load(name, folder)


# The bound of independent bits with the training images' means is what a network
# without latent variables reaches; steps this few only have to come close to it.
def _run(folder, backend_name, *options, network="12H-784V"):
    arguments = [network, "--backend", backend_name, "--dataset", "random"]
    arguments += ["--steps-at-once", "20", "--images", "60", "--out", str(folder)]
    main([*arguments, *options])
    with (folder / f"cells_{backend_name}.csv").open() as file:
        return list(csv.DictReader(file))


def _stop_after_first_progress(backend_name):
    """Let a run stop after its first checkpoint."""
    module = importlib.import_module(f"benchmarks.paper.on_{backend_name}")
    train = module.train

    def cut(*args):
        yield next(train(*args))
        raise KeyboardInterrupt

    patch = pytest.MonkeyPatch()
    patch.setattr(module, "train", cut)
    return patch


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize("name", BACKENDS)
def test_a_run_that_was_cut_off_goes_on(tmp_path, name):
    options = ("--steps", "40", "--particles", "2", "--evaluate", "5")
    [whole] = _run(tmp_path / "whole", name, *options)
    resumable = (*options, "--checkpoints", str(tmp_path / "states"))
    patch = _stop_after_first_progress(name)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "cut", name, *resumable)
    patch.undo()
    [resumed] = _run(tmp_path / "cut", name, *resumable)
    assert resumed["steps"] == whole["steps"] == "40"
    assert resumed["nats"] == whole["nats"]
    # What is complete has one row, however often the command runs.
    assert _run(tmp_path / "cut", name, *resumable) == [resumed]


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
def test_steps_do_not_depend_on_the_checkpoints_between_them(tmp_path, name):
    options = ("--steps", "30", "--evaluate", "5")
    [one] = _run(tmp_path / "one", name, *options, "--steps-at-once", "30")
    [several] = _run(tmp_path / "several", name, *options, "--steps-at-once", "7")
    assert one["nats"] == several["nats"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("estimator", ["concrete", "discrete", "score"])
@pytest.mark.parametrize("particles", ["1", "3"])
def test_every_estimator_learns(tmp_path, name, estimator, particles):
    images = load("random", None)
    means = images.train.mean(0).clip(1e-3, 1 - 1e-3)
    scores = images.test * np.log(means) + (1 - images.test) * np.log1p(-means)
    independent = scores.sum(-1).mean()
    rows = _run(
        tmp_path,
        name,
        *("--estimator", estimator, "--particles", particles, "--steps", "400"),
        *("--rate", "0.01", "--seeds", "0", "1", "--evaluate", "5"),
    )
    assert [row["seed"] for row in rows] == ["0", "1"]
    for row in rows:
        assert abs(float(row["nats"]) - independent) < 0.05 * abs(independent)


# Two or three units stand for a node of four or eight values.
NETWORKS = ("12H~6H~784V", "392V-12H-6H-12H-392V", "12H-12H-784V")


@pytest.mark.slow
@pytest.mark.parametrize("arity", [2, 4, 8])
@pytest.mark.parametrize("network", NETWORKS)
def test_both_backends_have_the_same_networks(tmp_path, network, arity):
    numpyro, pyro = map(_backend, ("numpyro", "pyro"))
    images = load("random", None)
    net = Network.parse(network, arity)
    training = Training("score", 1, steps=30, seeds=(0,), rate=0.01, weight_decay=1e-3)
    means = []
    [*_, progress] = numpyro.train(
        numpyro.programs_of(net, images.train), training, images, None
    )
    params = {k: np.array(x[0]) for k, x in progress.params.items()}
    [*_, other] = pyro.train(
        pyro.programs_of(net, images.train), training, images, None
    )
    shapes = {name: x[0].shape for name, x in other.params.items()}
    assert shapes == {name: x.shape for name, x in params.items()}
    # The parameters of one are parameters of the other.
    for module in (numpyro, pyro):
        programs = module.programs_of(net, images.train)
        evaluation = Evaluation(20, chunk_size=20, images_at_once=64)
        means.append(module.evaluate(programs, params, images.test, evaluation, None))
    gaps = means[0].bounds - means[1].bounds
    assert abs(gaps.mean()) < 5 * gaps.std() / len(gaps) ** 0.5


def _backend(name):
    return importlib.import_module(f"benchmarks.paper.on_{name}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ["concrete", "score"])
def test_the_formulas_of_the_benchmark_train_the_same_network(backend, estimator):
    module = importlib.import_module(f"benchmarks.on_{backend}.cost_of_iwae")
    steps = module.steps(estimator, 5)
    losses = {name: [steps[name]() for _ in range(12)] for name in ("IWAE", "plain")}
    # Of 64 images; it starts at some 38,000 and falls by a few hundred each step.
    np.testing.assert_allclose(losses["IWAE"], losses["plain"], rtol=0.01)
    assert losses["plain"][-1] < 0.96 * losses["plain"][0]
