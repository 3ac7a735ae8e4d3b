"""Several processes or devices end where one ends, on the same data and noise."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = [str(ROOT / "tests" / "support"), str(ROOT / "tutorials"), str(ROOT)]


def start(module, *args, **env):
    """Start a process that runs a module of `parts`."""
    path = os.pathsep.join([*FOLDERS, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning", "-m", f"parts.{module}", *args],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes):
    """Wait for all, and stop the others when one fails: they would wait for it."""
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            break
        time.sleep(0.05)
    for process in processes:
        process.kill()
    codes_and_errors = [(p.wait(), p.communicate()[1][-3000:]) for p in processes]
    assert all(code == 0 for code, _ in codes_and_errors), codes_and_errors


def assert_equal(case, name, found, expected):
    message = f"{name} of {case}"
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=message)


@pytest.mark.parametrize(
    "cases",
    [
        ("auto", "amortised"),
        pytest.param(
            (
                "auto",
                "auto_in_minibatches",
                "straight_through",
                "amortised_in_minibatches",
                "particles",
                "ddp",
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["few", "others"],
)
def test_two_processes_of_pyro_end_where_one_ends(cases, tmp_path):
    processes = [
        start("on_pyro", str(tmp_path), *cases, RANK=rank, WORLD_SIZE="2")
        for rank in "01"
    ]
    finish(*processes)
    names = "whole", "0", "1"
    whole, first, second = (dict(np.load(tmp_path / f"{n}.npz")) for n in names)
    for key, expected in whole.items():
        case, _, name = key.partition("/")
        halves = first[key], second[key]
        if halves[0].shape == expected.shape:
            for half in halves:
                assert_equal(case, name, half, expected)
        else:  # a local parameter
            assert [len(half) for half in halves] == [len(expected) / 2] * 2
            assert_equal(case, name, np.concatenate(halves), expected)
    assert {key.partition("/")[0] for key in whole} == set(cases)
    for case in ("auto", "amortised"):
        if f"{case}/losses" in whole and f"{case}_in_minibatches/losses" in whole:
            losses = whole[f"{case}/losses"], whole[f"{case}_in_minibatches/losses"]
            assert not np.allclose(*losses)


@pytest.mark.parametrize(
    "cases",
    [
        ("small",),
        pytest.param(
            ("auto", "auto_in_minibatches", "straight_through", "amortised"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["small", "others"],
)
def test_two_devices_of_jax_end_where_one_ends(cases, tmp_path):
    finish(start("on_numpyro", str(tmp_path), *cases))
    whole, parts = (dict(np.load(tmp_path / f"{n}.npz")) for n in ("whole", "parts"))
    assert set(whole) == set(parts)
    for key, expected in whole.items():
        case, _, name = key.partition("/")
        assert_equal(case, name, parts[key], expected)
    assert {key.partition("/")[0] for key in whole} == set(cases)
