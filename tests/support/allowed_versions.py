"""Constraints for pip: the oldest or newest versions of a backend that are allowed.

`make test-oldest` and `make test-newest` install by them. The other backend and the
tools keep the versions of constraints.txt, whatever comes with the backend is free, and
"oldest" adds the lower bounds of pyproject.toml:

    python tests/support/allowed_versions.py oldest numpyro
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What make installs before anything else.
BUILD_TOOLS = ("pip", "hatchling", "editables")


def lower_bounds(requirements):
    """The requirements that have a lower bound, each at that version."""
    bounds = (re.match(r"([\w-]+)>=([\w.]+)", line) for line in requirements)
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound]


def package_name(requirement):
    """The name of a package, which may be written in several ways."""
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def constraints(age, backend, project, pins):
    """Return the lines of a constraints file.

    Args:
        age: "oldest" or "newest".
        backend: "pyro" or "numpyro".
        project: The content of pyproject.toml.
        pins: The lines of constraints.txt.
    """
    if age not in ("oldest", "newest"):
        raise ValueError(f"versions are oldest or newest, not {age!r}")
    extras = project["project"]["optional-dependencies"]
    moved = [*project["project"]["dependencies"], *extras[backend]]
    groups = [*extras.values(), *project["dependency-groups"].values(), BUILD_TOOLS]
    pinned = {package_name(line) for group in groups for line in group}
    pinned -= {package_name(line) for line in moved}
    lines = [x for x in pins if x[:1].isalnum() and package_name(x) in pinned]
    return lines + lower_bounds(moved) if age == "oldest" else lines


def main(age, backend):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    print("\n".join(constraints(age, backend, project, pins)))


if __name__ == "__main__":
    main(*sys.argv[1:])
