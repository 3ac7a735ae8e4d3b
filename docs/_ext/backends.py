"""Links to the pages of Pyro, NumPyro, PyTorch and JAX, without a network.

backends.txt has a line for each name: project, kind, full name, page. Names in our
docstrings are short, as in code that uses them: `SVI` leads to Pyro's in the
docstrings of pyro_concrete, and to NumPyro's in those of numpyro_concrete.
"""

import zlib
from pathlib import Path

from sphinx.ext.intersphinx import missing_reference
from sphinx.util import logging

logger = logging.getLogger(__name__)

SITES = {
    "pyro": "https://docs.pyro.ai/en/stable/",
    "numpyro": "https://num.pyro.ai/en/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "jax": "https://docs.jax.dev/en/latest/",
}
_HEAD = "# Sphinx inventory version 2\n# Project: {}\n# Version: \n"
_HEAD += "# The remainder of this file is compressed using zlib.\n"


def read(path):
    """The lines of backends.txt: project, kind, name, page."""
    lines = path.read_text().splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def mapping(listed, folder, online):
    """What intersphinx maps: each project to its site, and to an inventory."""
    if online:
        return {project: (url, None) for project, url in SITES.items()}
    folder.mkdir(exist_ok=True)
    found = {}
    for project, url in SITES.items():
        rows = [row[1:] for row in read(listed) if row[0] == project]
        body = "".join(f"{name} {kind} 1 {page}#$ -\n" for kind, name, page in rows)
        path = folder / f"{project}.inv"
        head = _HEAD.format(project).encode()
        path.write_bytes(head + zlib.compress(body.encode()))
        found[project] = (url, str(path))
    return found


def setup(app):
    app.connect("builder-inited", _read_short_names)
    app.connect("missing-reference", _short_name)
    return {"parallel_read_safe": True}


def _read_short_names(app):
    app.short_names = {
        (project, name.rpartition(".")[2]): name
        for project, _, name, _ in read(Path(app.confdir) / "backends.txt")
    }


def _short_name(app, env, node, contnode):
    """Link a short name to the backend of the docstring that has it."""
    package = (node.get("py:module") or "").partition(".")[0]
    backend = package.removesuffix("_concrete")
    full = app.short_names.get((backend, node["reftarget"]))
    if package == backend or full is None:
        return None
    node["reftarget"] = full
    found = missing_reference(app, env, node, contnode)
    if found is None:
        logger.warning("the inventory of %s has no %s", backend, full, location=node)
    return found
