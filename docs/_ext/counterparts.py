"""The directive `counterparts`: one name in both packages, a tab for each backend.

    ```{counterparts} relax
    ```

With `:backend: numpyro` there is one tab, for what the other backend has itself.
"""

import importlib
import inspect
import re
from typing import ClassVar

from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

BACKENDS = {"pyro": "Pyro", "numpyro": "NumPyro"}
_TAB = """\
:::{{tab-item}} {title}
:sync: {backend}
```{{eval-rst}}
.. {kind}:: {path}
```
:::
"""


class Counterparts(SphinxDirective):
    """See the module."""

    required_arguments = 1
    option_spec: ClassVar = {"backend": directives.unchanged}
    has_content = False

    def run(self):
        backends = (
            [self.options["backend"]] if "backend" in self.options else [*BACKENDS]
        )
        tabs = [self._tab(backend) for backend in backends]
        text = "::::{tab-set}\n" + "".join(tabs) + "::::\n"
        return self.parse_text_to_nodes(text)

    def _tab(self, backend):
        path = f"{backend}_concrete.{self.arguments[0]}"
        kind = "autoclass" if inspect.isclass(located(path)) else "autofunction"
        return _TAB.format(
            title=BACKENDS[backend], backend=backend, kind=kind, path=path
        )


def located(path):
    """The object of a dotted path."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        return getattr(located(module), name)


def setup(app):
    app.add_directive("counterparts", Counterparts)
    app.connect("autodoc-process-docstring", _separate_references)
    app.connect("autodoc-skip-member", _skip_fields)
    app.connect("missing-reference", _public_name)
    return {"parallel_read_safe": True}


def _separate_references(app, what, name, obj, options, lines):
    """Give each of the References a paragraph: they end with an address."""
    inside, spread = False, []
    for line in lines:
        if re.match(r"\.\. rubric:: References", line):
            inside = True
        spread.append(line)
        if inside and re.search(r"https?://\S+$", line):
            spread.append("")
    lines[:] = spread


def _skip_fields(app, what, name, obj, skip, options):
    """Leave out the fields of named tuples, which their Attributes describe."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _public_name(app, env, node, contnode):
    """Lead from the module where something is defined to where users import it."""
    target = node["reftarget"]
    package, _, rest = target.partition(".")
    if node["refdomain"] != "py" or package not in (
        "pyro_concrete",
        "numpyro_concrete",
    ):
        return None
    domain = env.domains.python_domain
    parts = rest.split(".")
    for i in range(1, len(parts)):
        shorter = ".".join([package, *parts[i:]])
        if shorter in domain.objects:
            role = "obj"
            return domain.resolve_xref(
                env, node["refdoc"], app.builder, role, shorter, node, contnode
            )
    return None
