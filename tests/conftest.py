"""Fixtures of the one suite: the backend, the device, a fresh seed for each test."""

import random
import re
import sys

import numpy as np
import pytest

BACKENDS = ("pyro", "numpyro")
DEVICES = ("cpu", "cuda")


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        choices=(*DEVICES, "all"),
        default="all",
        help="run the tests that take a device on this one only",
    )
    parser.addoption(
        "--backend",
        choices=(*BACKENDS, "all"),
        default="all",
        help="leave out the tests that are about the other backend alone",
    )
    parser.addoption(
        "--report",
        metavar="FILE",
        help="write what came of the tests, on what machine, to this file",
    )


def pytest_configure(config):
    path = config.getoption("--report")
    # A worker of xdist sends its outcomes to the process that distributes the tests.
    if path and not hasattr(config, "workerinput"):
        from gpu_report import Recorder

        recorder = Recorder(path, config.getoption("--device"))
        config.pluginmanager.register(recorder, "gpu_report")


def pytest_ignore_collect(collection_path, config):
    """Leave out the modules about the other backend, which may not be installed."""
    chosen = config.getoption("--backend")
    if chosen != "all" and not _concerns(collection_path.name, chosen):
        return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        case = item.nodeid.partition("[")[2]
        for mark in item.iter_markers("slow_on"):
            # The backend is the first word of the case.
            if case.startswith(mark.args):
                item.add_marker(pytest.mark.slow)
    chosen = config.getoption("--backend")
    if chosen != "all":
        others = [item for item in items if not _concerns(item.nodeid, chosen)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _concerns(item.nodeid, chosen)]


def _concerns(nodeid, backend):
    """Whether the name of a test, or of its module, names this backend or none."""
    named = set(re.findall(r"(?:num)?pyro", nodeid))
    return not named or backend in named


def pytest_generate_tests(metafunc):
    if "device" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("--device")
    devices = DEVICES if chosen == "all" else (chosen,)
    marks = {"cpu": (), "cuda": (pytest.mark.gpu,)}
    params = [pytest.param(device, marks=marks[device]) for device in devices]
    metafunc.parametrize("device", params, indirect=True)


@pytest.fixture
def device(request):
    """A device on which the test runs, or a skip that says what is missing."""
    return request.param


@pytest.fixture(params=BACKENDS)
def backend(request):
    """One host with our package for it: see backends.py."""
    request.node.user_properties.append(("backend", request.param))
    chosen = _backend_or_skip(request)
    if "device" in request.fixturenames:
        device = request.getfixturevalue("device")
        if not chosen.has_device(device):
            pytest.skip(f"{request.param} sees no {device} device on this machine")
        with chosen.on(device):
            yield chosen
    else:
        yield chosen


def _backend_or_skip(request):
    """The backend; on a GPU the tests of a host that is not installed are skipped."""
    # The packages are imported here and not above, or the type checks of the
    # jaxtyping hook would miss them.
    from backends import get_backend

    try:
        return get_backend(request.param)
    except ModuleNotFoundError as error:
        if request.config.getoption("--device") != "cuda":
            raise
        return pytest.skip(f"{request.param} is not installed: {error}")


@pytest.fixture(autouse=True)
def funsor_computes_with_jax():
    """Undo what an import of pyro.contrib does to NumPyro's enumeration."""
    if "numpyro.contrib.funsor" in sys.modules:
        sys.modules["funsor"].set_backend("jax")


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (backends and scipy read the global state)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def validation_is_on():
    """Undo what torch.compile does: it switches validation off for the process."""
    if "pyro" in sys.modules:
        sys.modules["pyro"].enable_validation(__debug__)


@pytest.fixture
def rng():
    """A seeded generator for tests without a backend."""
    return np.random.default_rng(20161102)
