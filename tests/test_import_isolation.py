"""Importing one package never imports the other's framework, nor changes its own.

Nor do modules import each other in a cycle.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("concrete_core", "pyro_concrete", "numpyro_concrete")


def run(code):
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("package", "foreign"),
    [
        ("pyro_concrete", ["jax", "jaxlib", "numpyro", "quax", "numpyro_concrete"]),
        ("numpyro_concrete", ["torch", "pyro", "pyro_concrete"]),
    ],
)
def test_the_other_framework_is_not_imported(package, foreign):
    names = run(f"import sys, {package}; print(*sys.modules)").split()
    assert package in names
    assert not {name.partition(".")[0] for name in names} & set(foreign)


def test_pyro_is_not_reconfigured():
    look = (
        "import torch, pyro; d = torch.distributions.Distribution; "
        "state = lambda: (d._Distribution__default_validate_args "
        "if hasattr(d, '_Distribution__default_validate_args') else d._validate_args, "
        "torch.get_default_dtype(), pyro.poutine.runtime._PYRO_STACK == []); "
        "before = state(); import pyro_concrete; print(state() == before)"
    )
    assert run(look) == "True"


def test_numpyro_is_not_reconfigured():
    look = (
        "import jax, numpyro; d = numpyro.distributions.Distribution; "
        "state = lambda: (d._validate_args, jax.config.jax_enable_x64, "
        "jax.config.jax_numpy_rank_promotion, numpyro.primitives._PYRO_STACK == []); "
        "before = state(); import numpyro_concrete; print(state() == before)"
    )
    assert run(look) == "True"


def module_paths():
    """Paths of all modules of the three packages, by their dotted names."""
    paths = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            paths[dotted.removesuffix(".__init__")] = path
    return paths


def imported_modules(path, modules):
    """Those of the modules that a file imports, at its top or in a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                names.add(submodule if submodule in modules else node.module)
    return names & modules


def find_cycle(graph):
    """A list of modules of which each imports the next, and the last the first."""
    finished = set()

    def visit(module, path):
        if module in path:
            return path[path.index(module) :]
        if module in finished:
            return None
        for imported in sorted(graph[module]):
            cycle = visit(imported, [*path, module])
            if cycle:
                return cycle
        finished.add(module)
        return None

    return next((c for c in (visit(m, []) for m in sorted(graph)) if c), None)


def test_a_cycle_is_found():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_modules_do_not_import_each_other_in_a_cycle():
    paths = module_paths()
    graph = {m: imported_modules(p, paths.keys()) - {m} for m, p in paths.items()}
    assert find_cycle(graph) is None
