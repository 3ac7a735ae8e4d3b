"""The directive `counterparts`: one name in both packages, a tab for each backend.

    ```{counterparts} relax
    ```

With `:backend: numpyro` there is one tab, for what the other backend has itself. What
both packages import from concrete_core is indexed once, in the first tab.
"""

import inspect
import re
from typing import ClassVar

from docutils.parsers.rst import directives
from located import located
from sphinx.util.docutils import SphinxDirective

BACKENDS = {"pyro": "Pyro", "numpyro": "NumPyro"}
_TAB = """\
:::{{tab-item}} {title}
:sync: {backend}
```{{eval-rst}}
.. {kind}:: {path}{options}
```
:::
"""


class Counterparts(SphinxDirective):
    """See the module."""

    required_arguments = 1
    option_spec: ClassVar = {"backend": directives.unchanged}
    has_content = False

    def run(self):
        only = self.options.get("backend")
        backends = [only] if only else [*BACKENDS]
        tabs = [self._tab(backend) for backend in backends]
        text = "::::{tab-set}\n" + "".join(tabs) + "::::\n"
        return self.parse_text_to_nodes(text)

    def _tab(self, backend):
        path = f"{backend}_concrete.{self.arguments[0]}"
        documented = located(path)
        return _TAB.format(
            title=BACKENDS[backend],
            backend=backend,
            kind="autoclass" if inspect.isclass(documented) else "autofunction",
            path=path,
            options="\n   :no-index:" if _is_shared(path) and backend != "pyro" else "",
        )


def _is_shared(path):
    """Tell whether both packages import what has this path from concrete_core."""
    try:
        return located(path).__module__.startswith("concrete_core")
    except (AttributeError, ImportError, ValueError):
        return False


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
    """Link a name to where users import it, in the package that has its entry."""
    target = node["reftarget"]
    package, _, rest = target.partition(".")
    if node["refdomain"] != "py" or package not in (
        "pyro_concrete",
        "numpyro_concrete",
    ):
        return None
    domain = env.domains.python_domain
    parts = rest.split(".")
    shorter_paths = [parts[i:] for i in range(1, len(parts))]
    candidates = [".".join([package, *path]) for path in shorter_paths]
    if _is_shared(target):
        candidates += [x.replace("numpyro_", "pyro_") for x in [target, *candidates]]
    for name in candidates:
        if name in domain.objects:
            return domain.resolve_xref(
                env, node["refdoc"], app.builder, "obj", name, node, contnode
            )
    return None
