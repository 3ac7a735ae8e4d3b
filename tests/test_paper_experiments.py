"""The command that trains the paper's networks, on images of random bits."""

import csv

import numpy as np
import pytest

pytest.importorskip("numpyro")

from benchmarks.paper.__main__ import main
from benchmarks.paper.cells import Network
from benchmarks.paper.datasets import load
from benchmarks.paper.published import PUBLISHED


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


# The bound of independent bits with the training images' means is what a network
# without latent variables reaches; steps this few only have to come close to it.
def _run(tmp_path, *options):
    arguments = ["12H-784V", "--dataset", "random", "--steps-at-once", "20"]
    arguments += ["--images", "60", "--evaluate", "5", "--out", str(tmp_path)]
    main([*arguments, *options])
    with (tmp_path / "cells_numpyro.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_that_was_cut_off_goes_on(tmp_path):
    checkpoints = ("--checkpoints", str(tmp_path / "states"), "--particles", "2")
    [whole] = _run(tmp_path / "whole", "--steps", "40", "--particles", "2")
    with pytest.raises(KeyboardInterrupt):
        _cut_off(tmp_path, checkpoints)
    [resumed] = _run(tmp_path / "cut", "--steps", "40", *checkpoints)
    assert resumed["steps"] == whole["steps"] == "40"
    assert resumed["nats"] == whole["nats"]


def _cut_off(tmp_path, options):
    """Stop a run after its first scan, when the state was saved."""
    from benchmarks.paper import on_numpyro

    train = on_numpyro.train

    def cut(*args):
        yield next(train(*args))
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_numpyro, "train", cut)
        _run(tmp_path / "cut", "--steps", "40", *options)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["concrete", "discrete", "score"])
@pytest.mark.parametrize("particles", ["1", "3"])
def test_every_estimator_learns(tmp_path, estimator, particles):
    images = load("random", None)
    means = images.train.mean(0).clip(1e-3, 1 - 1e-3)
    scores = images.test * np.log(means) + (1 - images.test) * np.log1p(-means)
    independent = scores.sum(-1).mean()
    rows = _run(
        tmp_path,
        *("--estimator", estimator, "--particles", particles, "--steps", "400"),
        *("--rate", "0.01", "--seeds", "0", "1"),
    )
    assert [row["seed"] for row in rows] == ["0", "1"]
    for row in rows:
        assert abs(float(row["nats"]) - independent) < 0.05 * abs(independent)
