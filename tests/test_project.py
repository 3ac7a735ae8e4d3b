"""The project: one version, what is built, what CI calls, and the README."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import concrete_core

ROOT = Path(__file__).parent.parent
PACKAGES = ("concrete_core", "pyro_concrete", "numpyro_concrete")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


# --- the version


def test_the_version_is_stated_once_for_the_packages(backend):
    assert backend.package.__version__ == concrete_core.__version__
    project = (ROOT / "pyproject.toml").read_text()
    assert 'path = "concrete_core/__init__.py"' in project
    assert not re.search(r'^version = "', project, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("CITATION.cff", r"^version: (.*)$"),
        ("CHANGELOG.md", r"^## \[(.*?)\]"),
        ("concrete_core/references.bib", r"^  version = \{(.*)\},$"),
    ],
)
def test_other_files_state_the_same_version(path, pattern):
    text = (ROOT / path).read_text()
    stated = re.search(pattern, text, flags=re.MULTILINE).group(1)
    assert stated == concrete_core.__version__


# --- the distributions


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with a wheel and a source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_wheel_has_the_packages_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        description = archive.read(metadata).decode()
    folders = {name.partition("/")[0] for name in names}
    assert {x for x in folders if not x.endswith(".dist-info")} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert "concrete_core/references.bib" in names
    sources = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == sources
    assert f"Version: {concrete_core.__version__}" in description
    assert (ROOT / "README.md").read_text() in description


def test_the_source_distribution_can_be_tested(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "constraints.txt", "LICENSE", "tests/conftest.py"} <= names
    assert {"docs/conf.py", "benchmarks/__init__.py", "tutorials/demo.py"} <= names
    unwanted = ("docs/_build", "docs/_made", ".venv", "out/")
    assert not [name for name in names if name.startswith(unwanted)]


# --- continuous integration


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_targets_of_the_makefile(path):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE))
    jobs = yaml.safe_load(path.read_text())["jobs"]
    commands = [x["run"] for job in jobs.values() for x in job["steps"] if "run" in x]
    called = {command.split()[1] for command in commands}
    assert all(command.startswith("make ") for command in commands)
    assert called
    assert called <= targets


def test_ci_covers_both_backends_alone_and_together():
    commands = " ".join(path.read_text() for path in WORKFLOWS)
    for target in ("lint", "types", "coverage", "docs", "test-alone", "dist"):
        assert f"make {target}" in commands
    assert commands.count("backend: [pyro, numpyro]") == 2
    assert "make test-oldest" in commands
    assert "make test-newest" in commands


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")),
    ids=lambda path: path.stem,
)
def test_issue_templates_are_forms(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    fields = [field["id"] for field in form["body"]]
    assert len(fields) == len(set(fields))


# --- the README


def test_the_readme_is_short():
    words = (ROOT / "README.md").read_text().split()
    assert 450 <= len(words) <= 650


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "RELEASING.md"])
def test_relative_links_lead_to_files(name):
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text())
    for link in links:
        if not link.startswith(("http", "#")):
            assert (ROOT / link.partition("#")[0]).exists(), link
