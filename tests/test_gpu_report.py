"""The report on a run on a GPU says what was shown, and no more."""

import subprocess
import sys
from pathlib import Path

import pytest
from gpu_report import Outcome, facts, render, verdict

ROOT = Path(__file__).parent.parent
PYRO = [
    Outcome("tests/a.py::one", "pyro", "passed", 1.25),
    Outcome("tests/a.py::two", "pyro", "skipped", 0.0, "too small a GPU"),
]
NUMPYRO = [
    Outcome("tests/a.py::one", "numpyro", "passed", 2.0),
    Outcome("tests/a.py::two", "numpyro", "xfailed", 0.5),
]


def skipped(host):
    return [Outcome("tests/a.py::one", host, "skipped", 0.0, f"{host} sees no GPU")]


def test_what_ran_on_both_hosts_has_passed():
    assert verdict(PYRO + NUMPYRO) == "PASSED on both hosts."


def test_one_failure_is_a_failure():
    failure = Outcome("tests/a.py::three", "numpyro", "failed", 0.1, "E 1 != 2")
    assert verdict([*PYRO, *NUMPYRO, failure]) == "FAILED: 1 of 5 tests."
    text = render([*PYRO, failure], {}, "cuda")
    assert "| tests/a.py::three | E 1 != 2 |" in text


@pytest.mark.parametrize(
    "outcomes", [[], skipped("pyro"), skipped("pyro") + skipped("numpyro")]
)
def test_nothing_that_ran_is_no_success(outcomes):
    words = verdict(outcomes)
    assert words.startswith("NOTHING RAN, so that nothing is shown.")
    assert "passed" not in words.lower()


def test_half_of_it_is_said_to_be_half():
    words = verdict(PYRO + skipped("numpyro"))
    expected = "PASSED IN PART. Nothing ran on numpyro: numpyro sees no GPU."
    assert words == expected
    assert "no test of it was selected" in verdict(PYRO)


def test_an_expected_failure_alone_shows_nothing():
    assert "Nothing ran on numpyro" in verdict([*PYRO, NUMPYRO[1]])


def test_the_page_has_facts_and_counts():
    text = render(PYRO + NUMPYRO, {"python": "3.11", "odd": "a|b"}, "cuda")
    lines = text.splitlines()
    assert lines[0] == "# Tests on device=cuda"
    assert lines[2] == verdict(PYRO + NUMPYRO)
    assert "| python | 3.11 |" in lines
    assert r"| odd | a\|b |" in lines
    assert "| host | passed | failed | skipped | xfailed | seconds |" in lines
    assert "| pyro | 1 | 0 | 1 | 0 | 1.2 |" in lines
    assert "| numpyro | 1 | 0 | 0 | 1 | 2.5 |" in lines
    assert "| 1 | too small a GPU |" in lines


def test_the_facts_name_the_versions_and_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setattr("shutil.which", lambda command: None)
    known = facts("cuda")
    assert known["GPU and driver"] == "no nvidia-smi on this machine"
    assert known["JAX sees"] == "jax is not installed"
    assert known["torch"][0].isdigit()
    assert known["python"].startswith(f"{sys.version_info[0]}.")


TESTS = """
import pytest

@pytest.fixture(params=["pyro", "numpyro"])
def host(request):
    request.node.user_properties.append(("backend", request.param))
    if request.param == "numpyro":
        pytest.skip("numpyro sees no GPU")

def test_it(host):
    pass

def test_badly(host):
    assert 1 == 2

@pytest.mark.xfail(strict=True)
def test_as_expected(host):
    assert 1 == 2
"""
CONFTEST = """
import gpu_report

def pytest_configure(config):
    gpu_report.facts = lambda device: {}  # which imports both hosts
    config.pluginmanager.register(gpu_report.Recorder("out/report.md", "cuda"))
"""


def reported(folder, chosen, tests=TESTS):
    """Run tests with the plugin; return what pytest prints, and the report."""
    (folder / "test_some.py").write_text(tests)
    (folder / "conftest.py").write_text(CONFTEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "no:jaxtyping", "-k", chosen]
    command += ["-o", f"pythonpath={ROOT}/tests/support"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout, (folder / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("it", "PASSED IN PART. Nothing ran on numpyro: numpyro sees no GPU."),
        ("badly", "FAILED: 1 of 2 tests."),
        ("it or expected", "PASSED IN PART."),
    ],
)
def test_the_plugin_counts_what_pytest_runs(tmp_path, chosen, expected):
    printed, text = reported(tmp_path, chosen)
    assert text.splitlines()[2].startswith(expected), printed
    assert expected in printed
    if chosen == "it or expected":
        assert "| pyro | 1 | 0 | 0 | 1 |" in text
        assert "| numpyro | 0 | 0 | 2 | 0 |" in text
    if chosen == "badly":
        assert "assert 1 == 2" in text


CUT_OFF = """
import os

def test_badly():
    assert 1 == 2

def test_that_ends_the_process():
    os._exit(3)
"""


def test_a_run_that_is_cut_off_leaves_its_failures(tmp_path):
    (tmp_path / "test_some.py").write_text(CUT_OFF)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "no:jaxtyping", "-o", f"pythonpath={ROOT}/tests/support"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 3
    text = (tmp_path / "out" / "report.md").read_text()
    assert "The run was not over" in text
    assert "assert 1 == 2" in text


def test_a_run_that_is_cut_off_says_so(tmp_path):
    stopped = TESTS + "\ndef test_then():\n    raise KeyboardInterrupt\n"
    _, text = reported(tmp_path, "it or then", stopped)
    assert "The run was cut off" in text
    assert "The run was cut off" not in reported(tmp_path, "it", stopped)[1]
