"""The report on a run of the tests on a GPU: where, with what, and what came of it.

`--report FILE` writes one, whatever was run. Its verdict is "passed" for no host whose
tests were all skipped: nothing has been shown of it.
"""

import platform
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

BACKENDS = ("pyro", "numpyro")
PACKAGES = ("torch", "pyro-ppl", "jax", "jaxlib", "numpyro", "numpy")
COLUMNS = ("passed", "failed", "skipped", "xfailed")


@dataclass(frozen=True)
class Outcome:
    """What came of one test.

    Attributes:
        test: Name of the test.
        backend: Name of its host; "none" if it takes no backend.
        outcome: One of `COLUMNS`.
        seconds: How long it took.
        reason: Why it was skipped, or the first line of its failure.
    """

    test: str
    backend: str
    outcome: str
    seconds: float = 0.0
    reason: str = ""


# The report is written after so many outcomes, and after each failure.
OUTCOMES_BETWEEN_REPORTS = 50
CUT_OFF = "The run was cut off: tests that are not counted below did not run."


class Recorder:
    """A plugin of pytest that notes outcomes, and writes them as they come.

    A run on a borrowed GPU may be cut off: what came of the tests until then is in the
    report.
    """

    def __init__(self, path, device):
        self.path, self.device = Path(path), device
        self.outcomes = {}
        self.facts = None

    def pytest_runtest_logreport(self, report):
        seen = self.outcomes.get(report.nodeid)
        seconds = report.duration + (seen.seconds if seen else 0.0)
        found = _outcome(report)
        if found == "passed" and seen is not None and seen.outcome != "passed":
            found, reason = seen.outcome, seen.reason
        else:
            reason = _reason(report)
        backend = dict(report.user_properties).get("backend", "none")
        self.outcomes[report.nodeid] = Outcome(
            report.nodeid, backend, found, seconds, reason
        )
        is_due = len(self.outcomes) % OUTCOMES_BETWEEN_REPORTS == 0
        if report.failed or (is_due and report.when == "teardown"):
            self.write("The run was not over when this was written.")

    def pytest_collectreport(self, report):
        if report.failed:
            self.outcomes[report.nodeid] = Outcome(
                report.nodeid, "none", "failed", 0.0, _reason(report)
            )

    def pytest_sessionfinish(self, exitstatus):
        self.write(CUT_OFF if exitstatus == pytest.ExitCode.INTERRUPTED else "")

    def write(self, remark=""):
        """Write the report, with a remark after its verdict."""
        if self.facts is None:
            self.facts = facts(self.device)
        text = render([*self.outcomes.values()], self.facts, self.device, remark)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(text, encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.write_line(f"report: {self.path}")
        terminalreporter.write_line(verdict([*self.outcomes.values()]))


def _outcome(report):
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "failed"
    return report.outcome


def _reason(report):
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    if not report.failed:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    words = str(report.longrepr if crash is None else crash.message)
    return next(iter(words.strip().splitlines()), "")


def verdict(outcomes):
    """Say in a sentence or two what a run has shown."""
    failed = sum(x.outcome == "failed" for x in outcomes)
    if failed:
        return f"FAILED: {failed} of {len(outcomes)} tests."
    idle = {host: _why_idle(host, outcomes) for host in BACKENDS}
    idle = {host: why for host, why in idle.items() if why is not None}
    words = " ".join(f"Nothing ran on {host}: {why}." for host, why in idle.items())
    if len(idle) == len(BACKENDS):
        return f"NOTHING RAN, so that nothing is shown. {words}"
    if idle:
        return f"PASSED IN PART. {words}"
    return "PASSED on both hosts."


def _why_idle(host, outcomes):
    """Why no test of a host was run to its end; None if one was."""
    own = [x for x in outcomes if x.backend == host]
    if any(x.outcome in ("passed", "failed") for x in own):
        return None
    reasons = Counter(x.reason for x in own if x.outcome == "skipped")
    return reasons.most_common(1)[0][0] if reasons else "no test of it was selected"


def render(outcomes, known, device, remark=""):
    """Return the report as a page.

    Args:
        outcomes: What came of the tests.
        known: Facts on the machine and versions, by name.
        device: What the tests were asked to run on.
        remark: A sentence after the verdict.
    """
    lines = [f"# Tests on device={device}", "", verdict(outcomes), ""]
    lines += [remark, ""] if remark else []
    lines += _table(("fact", "value"), known.items())
    lines += _table(("host", *COLUMNS, "seconds"), _counts(outcomes))
    skips = Counter(x.reason for x in outcomes if x.outcome == "skipped")
    if skips:
        lines += _table(("skipped", "because"), ((n, r) for r, n in skips.items()))
    failures = [(x.test, x.reason) for x in outcomes if x.outcome == "failed"]
    if failures:
        lines += _table(("failed", "with"), failures)
    return "\n".join(lines)


def _counts(outcomes):
    hosts = [*BACKENDS, *sorted({x.backend for x in outcomes} - {*BACKENDS})]
    for host in hosts:
        own = [x for x in outcomes if x.backend == host]
        counts = Counter(x.outcome for x in own)
        seconds = f"{sum(x.seconds for x in own):.1f}"
        yield host, *(counts[column] for column in COLUMNS), seconds


def _table(header, rows):
    cells = [[str(x).replace("|", "\\|") for x in row] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]


# --- the machine


def facts(device):
    """Return what is known of the machine and the versions, by name."""
    known = {"GPU and driver": _driver()}
    known["torch sees"] = _seen("torch", _of_torch)
    known["JAX sees"] = _seen("jax", _of_jax)
    known["processor"] = platform.machine()
    known["python"] = platform.python_version()
    return known | {name: _version(name) for name in PACKAGES}


def _driver():
    """What the driver says of the devices."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return "no nvidia-smi on this machine"
    query = "--query-gpu=name,driver_version,memory.total"
    arguments = [command, query, "--format=csv,noheader"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    found = done.stdout if done.returncode == 0 else done.stderr or done.stdout
    return "; ".join(found.split("\n")).strip("; ") or "nvidia-smi says nothing"


def _seen(module, look):
    """What a host sees of the GPU; that it is not installed is an answer, too."""
    try:
        return look(import_module(module))
    except ModuleNotFoundError:
        return f"{module} is not installed"


def _of_torch(torch):
    if torch.version.cuda is None:
        return "no GPU: this torch is built without CUDA"
    if not torch.cuda.is_available():
        return f"no GPU, with CUDA {torch.version.cuda}"
    return f"{torch.cuda.get_device_name(0)}, with CUDA {torch.version.cuda}"


def _of_jax(jax):
    try:
        device = jax.devices("gpu")[0]
    except RuntimeError as error:
        return f"no GPU: {str(error).splitlines()[0]}"
    platform_version = " ".join(device.client.platform_version.split())
    return f"{device.device_kind}, with {platform_version}"


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
